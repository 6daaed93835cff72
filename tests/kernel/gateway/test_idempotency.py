"""A POST with a key is done once: retries, races, other bodies, forms, secrets, failures, and what is left of a dead server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select
from tests.kernel.gateway.rooms import Rooms, open_rooms

from modelworks.contract.errors import Unavailable
from modelworks.kernel.base.database import Database
from modelworks.kernel.gateway import install
from modelworks.kernel.gateway.idempotency import BodyDigest, KeyStore
from modelworks.kernel.gateway.store import IdempotencyRow


@dataclass
class Site:
    """A server that makes things."""

    rooms: Rooms
    http: httpx.AsyncClient
    made: list[Any] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, path: str, key: str | None = "k1", secret: str | None = None, **sent: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {secret or self.rooms.secret}", **sent.pop("headers", {})}
        if key is not None:
            headers["idempotency-key"] = key
        return await self.http.post(path, headers=headers, **sent)

    def rows(self) -> int:
        with self.rooms.db.reading() as session:
            return session.scalar(select(func.count()).select_from(IdempotencyRow)) or 0


def add_things(app: FastAPI, site: Site) -> None:
    @app.post("/api/things")
    async def make(request: Request) -> Response:
        await site.rooms.gateway.principal(request.scope, "write")
        body = await request.json()
        site.made.append(body)
        site.begun.set()
        await site.gate.wait()
        return JSONResponse({"id": len(site.made)}, 201, headers={"location": f"/api/things/{len(site.made)}"})

    @app.post("/api/sealed")
    async def seal() -> dict[str, str]:
        site.made.append("sealed")
        return {"id": "1", "secret": "mw-once"}

    @app.post("/api/broken")
    async def fail() -> None:
        site.made.append("broken")
        if len(site.made) == 1:
            raise Unavailable("Not now.")
        if len(site.made) == 2:
            raise RuntimeError("a bug")

    @app.post("/api/spoken")
    async def speak() -> StreamingResponse:
        site.made.append("spoken")
        return StreamingResponse(iter(["data: 1\n\n"]), media_type="text/event-stream")

    @app.post("/v1/embeddings/more")
    async def ask() -> dict[str, str]:
        site.made.append("asked")
        return {}


@pytest.fixture
async def site(tmp_path: Path, database: Database) -> AsyncIterator[Site]:
    async with open_rooms(tmp_path, max_file_bytes=3 << 20, db=database) as rooms:
        app = FastAPI()
        install(app, rooms.gateway, max_body_bytes=200_000, files=rooms.files)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://platform"
        ) as http:
            made = Site(rooms, http)
            made.gate.set()
            add_things(app, made)
            yield made


async def test_the_second_caller_gets_the_first_ones_answer(site: Site) -> None:
    first = await site.post("/api/things", json={"a": 1})
    again = await site.post("/api/things", json={"a": 1})
    assert (first.status_code, again.status_code, site.made) == (201, 201, [{"a": 1}])
    assert again.content == first.content
    assert (again.headers["location"], again.headers["content-type"]) == ("/api/things/1", "application/json")
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    await site.post("/api/things", key="k2", json={"a": 1})
    await site.post("/api/things", key=None, json={"a": 1})
    assert len(site.made) == 3


@pytest.mark.parametrize(
    ("path", "body"), [("/api/things", {"a": 2}), ("/api/sealed", {"a": 1}), ("/api/things?dry_run=true", {"a": 1})]
)
async def test_a_key_of_another_request_is_refused(site: Site, path: str, body: Any) -> None:
    await site.post("/api/things", json={"a": 1})
    answer = await site.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_mismatch")
    assert answer.headers["x-should-retry"] == "false"
    assert site.made == [{"a": 1}]


async def test_while_it_is_under_way_it_is_not_done_again(site: Site) -> None:
    site.gate.clear()
    first = asyncio.create_task(site.post("/api/things", json={"a": 1}))
    await site.begun.wait()
    early = await asyncio.gather(*(site.post("/api/things", json={"a": 1}) for _ in range(5)))
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in early} == {(409, "idempotency_in_progress")}
    assert (early[0].headers["x-should-retry"], early[0].headers["retry-after"]) == ("true", "1")
    site.gate.set()
    assert (await first).status_code == 201
    assert (await site.post("/api/things", json={"a": 1})).status_code == 201
    assert len(site.made) == 1


async def test_what_failed_may_be_tried_again(site: Site) -> None:
    assert [(await site.post("/api/broken")).status_code for _ in range(4)] == [503, 500, 200, 200]
    assert len(site.made) == 3


async def test_a_form_with_another_boundary_is_the_same_form(site: Site) -> None:
    secret = site.rooms.secret
    sent: dict[str, Any] = {"files": {"file": ("a.txt", b"some --text" * 20_000)}, "data": {"purpose": "user_data"}}
    first, again = [await site.post("/v1/files", secret=secret, **sent) for _ in range(2)]
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert first.status_code == 200, first.text
    assert again.json() == first.json()
    other = {**sent, "files": {"file": ("a.txt", b"some --text" * 20_001)}}
    assert (await site.post("/v1/files", secret=secret, **other)).status_code == 409


async def test_another_project_has_keys_of_its_own_and_lesser_keys_get_nothing(site: Site) -> None:
    access, db = site.rooms.access, site.rooms.db
    with db.transaction() as session:
        elsewhere = access.create_project(session, "elsewhere").id
        theirs = access.create_key(session, elsewhere, "theirs", scopes=["write"])[1]
        lesser = access.create_key(session, site.rooms.project_id, "lesser", scopes=["read"])[1]
        twin = access.create_key(session, site.rooms.project_id, "twin", scopes=["inference", "read", "write"])[1]
    assert (await site.post("/api/things", json={"a": 1})).json() == {"id": 1}
    assert (await site.post("/api/things", secret=theirs, json={"a": 1})).json() == {"id": 2}
    assert (await site.post("/api/things", secret=twin, json={"a": 1})).json() == {"id": 1}
    assert (await site.post("/api/things", secret=lesser, json={"a": 1})).status_code == 409
    assert (await site.post("/api/things", secret="mw-unknown", json={"a": 1})).status_code == 401


async def test_a_secret_is_not_kept(site: Site) -> None:
    assert (await site.post("/api/sealed")).json()["secret"] == "mw-once"
    answer = await site.post("/api/sealed")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_secret")
    assert site.made == ["sealed"]
    with site.rooms.db.reading() as session:
        assert session.scalar(select(IdempotencyRow.body)) is None


async def test_streams_and_questions_are_passed_on(site: Site) -> None:
    for path in ("/api/spoken", "/v1/embeddings/more"):
        assert [(await site.post(path)).status_code for _ in range(2)] == [200, 200]
    assert (len(site.made), site.rows()) == (4, 0)


async def test_a_key_is_kept_for_a_day(site: Site) -> None:
    await site.post("/api/things", json={"a": 1})
    site.rooms.clock.advance(23.9 * 3600)
    assert (await site.post("/api/things", json={"a": 1})).json() == {"id": 1}
    site.rooms.clock.advance(0.2 * 3600)
    assert (await site.post("/api/things", json={"a": 1})).json() == {"id": 2}
    assert site.rows() == 1


async def test_the_key_of_a_dead_server_is_free_after_a_while(site: Site) -> None:
    keys = KeyStore(site.rooms.db, site.rooms.clock)
    assert keys.claim(site.rooms.project_id, "k1", "req_dead", "/api/things") is None
    assert (await site.post("/api/things", json={"a": 1})).json()["error"]["code"] == "idempotency_in_progress"
    site.rooms.clock.advance(601)
    assert (await site.post("/api/things", json={"a": 1})).status_code == 201
    # The dead one comes back: the key is not its own any more.
    keys.keep(site.rooms.project_id, "k1", "req_dead", digest="x", status=200, headers=[], body=b"{}")
    keys.release(site.rooms.project_id, "k1", "req_dead")
    assert (await site.post("/api/things", json={"a": 1})).json() == {"id": 1}


@pytest.mark.parametrize("key", ["", "x" * 256, "schlüssel"])
async def test_a_key_that_is_none_is_refused(site: Site, key: str) -> None:
    answer = await site.post("/api/things", key=None, headers={"idempotency-key": key.encode()}, json={"a": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert site.made == []


@given(
    pieces=st.lists(st.sampled_from([b"ab", b"a", b"b", b"--", b"aba", b"x"]), max_size=12),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_where_a_form_is_cut_changes_nothing(pieces: list[bytes], cuts: list[int]) -> None:
    def digest(body: bytes, boundary: bytes, places: list[int]) -> str:
        found = BodyDigest(b"seed", boundary)
        edges = [0, *sorted(min(place, len(body)) for place in places), len(body)]
        for start, end in itertools.pairwise(edges):
            found.update(body[start:end], last=False)
        found.update(b"", last=True)
        return found.hexdigest()

    content = b"".join(pieces)
    first = b"--XYZ1\r\n" + content + b"\r\n--XYZ1--"
    second = first.replace(b"XYZ1", b"other22")
    assert digest(first, b"XYZ1", cuts) == digest(first, b"XYZ1", []) == digest(second, b"other22", cuts)
    assert digest(first + b"!", b"XYZ1", cuts) != digest(first, b"XYZ1", cuts)
