"""Nobody reaches another tenant: every route of the platform is asked for the other's things, by every name that they have."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from tests.defences import tenants

from modelworks.kernel.base.settings import Settings
from modelworks.server import Platform, create_app, create_platform

#: Asked with a body that no schema describes.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": tenants.NAME, "messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"model": tenants.NAME, "prompt": "hello"},
    "/v1/embeddings": {"model": tenants.NAME, "input": "hello"},
    "/v1/responses": {"model": tenants.NAME, "input": "hello", "previous_response_id": f"responses-{tenants.MARK}"},
    "/v1/moderations": {"model": tenants.NAME, "input": "hello"},
    "/v1/rerank": {"model": tenants.NAME, "query": "a", "documents": ["b"]},
    "/v1/fine_tuning/jobs": {"model": tenants.NAME, "training_file": f"files-{tenants.MARK}"},
}

#: What queries and bodies say.
TEXTS = (tenants.NAME, tenants.VICTIM, tenants.identifier("versions"), tenants.identifier("runs"), tenants.identifier("files"))
#: Parameters that name nothing.
UNNAMED = {"limit", "order", "after", "everything", "dry_run", "follow", "tail"}


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """A platform that is open and does nothing by itself."""
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))
    platform = create_platform(Settings(home=tmp_path, log_level="error"))
    tenants.settle(platform.db)
    yield platform
    platform.close()


def key(platform: Platform, project_id: str, *scopes: str) -> dict[str, str]:
    with platform.db.transaction() as session:
        _, secret = platform.access.create_key(session, project_id, "walker", scopes=scopes)
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def intruder(platform: Platform) -> dict[str, str]:
    """A key with every right, in a project of its own."""
    with platform.db.transaction() as session:
        project = platform.access.create_project(session, "intruder")
    return key(platform, project.id, "admin", "inference", "read", "write")


@pytest.fixture
def app(platform: Platform) -> FastAPI:
    return create_app(platform)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://platform", timeout=30) as client:
        yield client


def requests(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], Any, str]]:
    """Method, path, query, body and route of every request of the walk: by the victim's own ids and names."""
    for method, path, operation in tenants.operations(document):
        parameters = operation.get("parameters", [])
        queried = {each["name"] for each in parameters if each["in"] == "query"} - UNNAMED
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        choices = [tenants.names_of(each["name"], path) for each in parameters if each["in"] == "path"]
        slots = ["{" + each["name"] + "}" for each in parameters if each["in"] == "path"]
        for chosen in itertools.product(*choices):
            asked = path
            for slot, name in zip(slots, chosen, strict=True):
                asked = asked.replace(slot, quote(name, safe="@:"))
            bodies: list[Any] = [BODIES[path]] if path in BODIES else [None]
            if schema and path not in BODIES:
                bodies = [tenants.filled(schema, document, name) for name in TEXTS]
            for body in bodies:
                yield method, asked, {}, body, path
                for name in TEXTS if queried else ():
                    yield method, asked, dict.fromkeys(queried, name), body, path


async def test_no_route_shows_or_changes_what_is_anothers(
    platform: Platform, app: FastAPI, http: httpx.AsyncClient, intruder: dict[str, str]
) -> None:
    before = tenants.belongings(platform.db)
    assert all(before.values()), "the victim has something in every table"
    document = app.openapi()
    for method, path, _ in tenants.operations(document):
        if method == "GET" and "{" not in path:
            listed = await http.get(path, headers=intruder)
            assert tenants.MARK not in listed.text, path
    asked = 0
    walked: set[tuple[str, str]] = set()
    for method, path, query, body, route in requests(document):
        options: dict[str, Any] = {} if body is None else {"json": body}
        answer = await http.request(method, path, params=query, headers=intruder, **options)
        asked += 1
        walked.add((method, route))
        what = (method, path, query, body, answer.status_code, answer.text[:500])
        assert tenants.HIDDEN not in answer.text, what
        assert answer.status_code < 500 or answer.status_code in (501, 503), what
        assert answer.status_code != 405, what
        assert "unknown_route" not in answer.text, what
    assert tenants.belongings(platform.db) == before
    assert asked > 300
    # No route is described that nothing answers, and none was passed over.
    assert walked == {(method, path) for method, path, _ in tenants.operations(document)}


async def test_the_walk_would_see_a_leak(platform: Platform, http: httpx.AsyncClient, intruder: dict[str, str]) -> None:
    """The victim's own key is shown what the intruder's is not."""
    victim = key(platform, tenants.VICTIM, "admin")
    shown = []
    for path in (
        "/api/keys",
        "/api/models",
        "/api/secrets",
        "/api/members",
        "/api/usage/requests",
        "/api/deployments",
        "/v1/files",
        f"/v1/files/files-{tenants.MARK}",
        f"/api/models/{tenants.NAME}",
    ):
        mine = await http.get(path, headers=victim)
        assert mine.status_code == 200, (path, mine.text)
        assert tenants.MARK in mine.text, path
        shown.append(tenants.HIDDEN in mine.text)
        theirs = await http.get(path, headers=intruder)
        assert tenants.MARK not in theirs.text or theirs.status_code == 404, path
    assert sum(shown) >= 4, "what is hidden from others is there to be seen"


async def test_a_session_asks_models_only_with_its_token(platform: Platform, http: httpx.AsyncClient) -> None:
    with platform.db.transaction() as session:
        platform.access.bootstrap(session, platform.settings.home)
    secret = (platform.settings.home / "admin.key").read_text().strip()
    admin = {"x-api-key": secret}
    project = (await http.get("/api/whoami", headers=admin)).json()["project_id"]
    person = {"kind": "person", "name": "Ann", "email": "ann@plant.example", "place_id": project, "role": "developer"}
    ann = (await http.post("/api/users", headers=admin, json=person)).json()
    words = {"password": "correct horse battery"}
    assert (await http.put(f"/api/users/{ann['id']}/password", headers=admin, json=words)).status_code == 204
    token = (await http.post("/api/session", json={"email": "ann@plant.example"} | words)).json()["csrf_token"]
    assert (await http.get("/v1/models")).status_code == 200
    body = {"model": "nothing", "messages": [{"role": "user", "content": "hello"}]}
    forged = await http.post("/v1/chat/completions", json=body)
    assert (forged.status_code, forged.json()["error"]["code"]) == (403, "csrf_failed")
    asked = await http.post("/v1/chat/completions", json=body, headers={"x-csrf-token": token})
    assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_not_found")
