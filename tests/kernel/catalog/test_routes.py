"""The catalog over HTTP: what is answered, to whom, and that nobody sees another project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from tests.kernel.catalog.samples import ALICE, BOB, Put, write_checkpoint

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.access import Principal
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.routes import router

KEYS = {
    "alice": Principal(key_id="key_alice", project_id=ALICE, scopes=frozenset({"write"})),
    "reader": Principal(key_id="key_reader", project_id=ALICE, scopes=frozenset({"read"})),
    "root": Principal(key_id="key_root", project_id=ALICE, scopes=frozenset({"admin"}), is_platform=True),
    "owner": Principal(key_id="key_owner", project_id=ALICE, scopes=frozenset({"admin"})),
    "bob": Principal(key_id="key_bob", project_id=BOB, scopes=frozenset({"write"})),
}


class Client:
    """Calls the routes as one of `KEYS`."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app=app)

    async def __call__(self, who: str, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
            answer = await client.request(method, path, headers={"x-who": who}, **options)
        assert answer.status_code == expect, answer.text
        return answer.json() if answer.content else None


@pytest.fixture
def call(catalog: CatalogService, database: Database) -> Client:
    async def principal(request: Request) -> Principal:
        return KEYS[request.headers["x-who"]]

    app = FastAPI()
    app.include_router(router(catalog, database, principal))

    @app.exception_handler(ModelworksError)
    async def shown(_request: Request, error: ModelworksError) -> JSONResponse:
        return JSONResponse(error.envelope(), status_code=error.status)

    return Client(app)


async def test_register_list_show_and_remove(call: Client, put: Put) -> None:
    files = [file.model_dump() for file in put({"a.txt": b"text"})]
    made = await call("alice", "POST", "/api/models", 201, json={"name": "org/tiny", "files": files, "licence": "mit"})
    assert (made["number"], made["licence"]) == (1, "mit")
    child = {"name": "child", "files": files, "parents": ["org/tiny@v1"], "level": "L1"}
    await call("alice", "POST", "/api/models", 201, json=child)

    listed = await call("reader", "GET", "/api/models", params={"search": "tiny"})
    assert [each["name"] for each in listed["data"]] == ["org/tiny"]
    assert listed["last_id"] == listed["data"][0]["id"]
    shown = await call("reader", "GET", "/api/models/org%2Ftiny%40v1")
    assert shown["version"]["id"] == made["id"]
    assert shown["restrictions"]["effective"] == "mit"
    assert (await call("reader", "GET", f"/api/versions/{made['id']}"))["name"] == "org/tiny"

    graph = await call("reader", "GET", f"/api/lineage/{made['id']}", params={"direction": "down"})
    assert len(graph["nodes"]) == 2
    tree = await call("reader", "GET", "/api/tree/org/tiny")
    assert tree["children"][0]["node"]["name"] == "child"

    refused = await call("alice", "DELETE", "/api/models/org/tiny", 409)
    assert refused["error"]["code"] == "in_use"
    plan = await call("alice", "DELETE", "/api/models/org/tiny", params={"dry_run": True})
    assert plan["blocked_by"] == ["child@v1 was made from it"]
    await call("alice", "DELETE", "/api/models/org/tiny", params={"force": True})
    missing = await call("alice", "GET", "/api/models/org/tiny", 404)
    assert missing["error"]["code"] == "model_not_found"


async def test_aliases(call: Client, put: Put) -> None:
    for text in (b"one", b"two"):
        files = [file.model_dump() for file in put({"a": text})]
        await call("alice", "POST", "/api/datasets", 201, json={"name": "corpus", "files": files})
    for number in (1, 2):
        body = {"ref": f"corpus@v{number}", "alias": "golden", "kind": "dataset"}
        await call("alice", "PUT", "/api/aliases", json=body)
    back = await call("alice", "POST", "/api/aliases/rollback", json={"ref": "corpus", "alias": "golden", "kind": "dataset"})
    assert back["number"] == 1
    history = await call("reader", "GET", "/api/aliases", params={"ref": "corpus", "kind": "dataset"})
    assert [(move["to_number"], move["moved_by"]) for move in history["data"]] == [
        (1, "key_alice"),
        (2, "key_alice"),
        (1, "key_alice"),
    ]
    gone = {"ref": "corpus", "alias": "golden", "kind": "dataset"}
    await call("alice", "DELETE", "/api/aliases", 204, params=gone)
    await call("alice", "DELETE", "/api/aliases", 404, params=gone)


async def test_scopes_and_projects(call: Client, put: Put) -> None:
    files = [file.model_dump() for file in put({"a": b"x"})]
    body = {"name": "secret", "files": files}
    made = await call("alice", "POST", "/api/models", 201, json=body)
    await call("reader", "POST", "/api/models", 403, json=body)
    await call("reader", "DELETE", "/api/models/secret", 403)
    await call("reader", "PUT", "/api/aliases", 403, json={"ref": "secret", "alias": "x"})
    await call("reader", "POST", "/api/sources/describe", 403, json={"source": "file:///tmp"})
    assert (await call("bob", "GET", "/api/models"))["data"] == []
    for method, path in (
        ("GET", "/api/models/secret"),
        ("GET", f"/api/models/{made['id']}"),
        ("GET", f"/api/versions/{made['id']}"),
        ("GET", f"/api/lineage/{made['id']}"),
        ("GET", "/api/tree/secret"),
        ("GET", "/api/aliases?ref=secret"),
        ("DELETE", "/api/models/secret"),
    ):
        await call("bob", method, path, 404)


async def test_bad_requests(call: Client, put: Put) -> None:
    good = [file.model_dump() for file in put({"a": b"x"})]
    absent = [{"path": "a", "digest": "sha256:" + "0" * 64, "num_bytes": 1}]
    evil = [file.model_dump() for file in put({"weights.pt": b"x"})]
    for body, status in (
        ({"name": "x", "files": []}, 422),
        ({"name": "x", "files": absent}, 404),
        ({"name": "a b", "files": good}, 400),
        ({"name": "x", "files": evil}, 400),
        ({"name": "x", "files": good, "parents": ["nothing"]}, 404),
        ({"name": "x", "files": good, "kind": "dataset"}, 400),
        ({"name": "x", "files": good, "typo": 1}, 422),
    ):
        await call("alice", "POST", "/api/models", status, json=body)
    assert (await call("alice", "GET", "/api/models"))["data"] == []


async def test_sources_capabilities_and_presets(call: Client, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", licence="mit")
    # The server's own files are not everybody's who may write.
    refused = await call("alice", "POST", "/api/sources/describe", 403, json={"source": folder.as_uri()})
    assert "admin" in refused["error"]["message"]
    await call("alice", "POST", "/api/sources/describe", 403, json={"source": " FILE:///etc/passwd"})
    await call("owner", "POST", "/api/sources/describe", 403, json={"source": folder.as_uri()})
    info = await call("root", "POST", "/api/sources/describe", json={"source": folder.as_uri()})
    assert (info["licence"], info["task"], len(info["files"])) == ("mit", "text-generation", 4)
    await call("alice", "POST", "/api/sources/describe", 400, json={"source": "ftp://x/y"})
    listed = await call("reader", "GET", "/api/capabilities")
    text = next(each for each in listed["data"] if each["name"] == "text")
    task = text["tasks"][0]
    assert (task["name"], task["mode"]) == ("text-generation", "stream")
    assert task["input"]["type"] == "object"
    presets = await call("reader", "GET", "/api/presets", params={"capability": "text"})
    assert "tiny" in {each["name"] for each in presets["data"]}
    await call("reader", "GET", "/api/presets", 404, params={"capability": "nothing"})
