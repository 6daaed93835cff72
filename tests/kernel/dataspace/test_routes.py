"""`/api/spaces` over HTTP: rights, what is shown to whom, and errors with their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session
from starlette.requests import Request
from tests.kernel.dataspace.conftest import ANN, BEN, EVE, PROJECT

from modelworks.contract.errors import NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.routes import router
from modelworks.kernel.dataspace.schemas import StoredFile
from modelworks.kernel.gateway import errors
from modelworks.kernel.storage import BlobStore

CALLERS = {
    "ann": ANN,
    "ben": BEN,
    "eve": EVE,
    "reader": Principal(key_id="key_reader", project_id=PROJECT, scopes=frozenset({"read"})),
    "admin": Principal(key_id="key_admin", project_id=PROJECT, scopes=frozenset({"admin"})),
}


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


@pytest.fixture
def http(spaces: DataspaceService, blobs: BlobStore) -> TestClient:
    async def principal(request: Request) -> Principal:
        return CALLERS[request.headers.get("x-caller", "ann")]

    def file_of(_session: Session, project_id: str, file_id: str) -> StoredFile:
        if (project_id, file_id) != (PROJECT, "file_1"):
            raise NotFound("There is no such file.", code="file_not_found")
        stored = blobs.put(b"from a file")
        return StoredFile("letter.txt", stored.digest, stored.num_bytes)

    app = FastAPI()
    errors.install(app)
    app.include_router(router(spaces, blobs, file_of, principal))
    return TestClient(app, raise_server_exceptions=False)


def put(http: TestClient, blobs: BlobStore, name: str, text: str = "", **known: Any) -> dict[str, Any]:
    body = {"digest": blobs.put((text or name).encode()).digest, "name": name} | known
    answer = http.post("/api/spaces/manual/documents", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_space_over_http(http: TestClient) -> None:
    made = http.post("/api/spaces", json={"name": "handbook", "settings": {"parsing": {"passage_chars": 800}}}).json()
    assert (made["object"], made["state"]) == ("space", "empty")
    assert [each["name"] for each in http.get("/api/spaces").json()["data"]] == ["handbook", "manual"]
    changed = http.patch(f"/api/spaces/{made['id']}", json={"description": "for all", "name": "book"})
    assert (changed.json()["description"], changed.json()["settings"]["parsing"]) == ("for all", {"passage_chars": 800})
    assert http.post("/api/spaces/book/build?anew=true").json()["state"] == "pending"
    assert http.get("/api/spaces/book/builds").json()["data"] == []
    assert http.get("/api/spaces/book/events").json()["data"][0]["message"] == "The space was made."
    assert http.delete("/api/spaces/book").status_code == 200
    assert http.get("/api/spaces/book").json()["error"]["code"] == "space_not_found"


@pytest.mark.parametrize(
    ("method", "path", "caller", "status"),
    [
        ("POST", "/api/spaces", "reader", 403),
        ("DELETE", "/api/spaces/manual", "reader", 403),
        ("POST", "/api/spaces/manual/build", "reader", 403),
        ("GET", "/api/spaces/manual", "reader", 200),
        ("GET", "/api/spaces/manual", "eve", 404),
        ("DELETE", "/api/spaces/manual", "eve", 404),
        ("GET", "/api/spaces/manual/documents", "eve", 404),
        ("GET", "/api/spaces/manual/digests", "eve", 404),
    ],
)
def test_who_may_do_what(http: TestClient, method: str, path: str, caller: str, status: int) -> None:
    answer = http.request(method, path, json={} if method == "POST" else None, headers={"x-caller": caller})
    assert answer.status_code == status, answer.text


def test_documents_come_by_digest_or_as_a_file(http: TestClient, blobs: BlobStore) -> None:
    first = put(http, blobs, "a.md", "one", attributes={"year": 2024})
    assert (first["change"], first["document"]["key"]) == ("added", "a.md")
    assert put(http, blobs, "a.md", "one")["change"] == "unchanged"
    assert put(http, blobs, "a.md", "two")["change"] == "updated"
    filed = http.post("/api/spaces/manual/documents", json={"file_id": "file_1"}).json()["document"]
    assert (filed["name"], filed["file_id"]) == ("letter.txt", "file_1")
    content = http.get(f"/api/spaces/manual/documents/{filed['id']}/content")
    assert (content.content, content.headers["x-content-type-options"]) == (b"from a file", "nosniff")
    assert set(http.get("/api/spaces/manual/digests").json()["digests"]) == {"a.md", "letter.txt"}
    assert http.delete(f"/api/spaces/manual/documents/{filed['id']}").json()["state"] == "removed"
    listed = http.get("/api/spaces/manual/documents").json()["data"]
    assert [(each["name"], each["version"]) for each in listed] == [("a.md", 2)]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_request", "digest"),
        ({"digest": "sha256:" + "0" * 64}, "missing_required_parameter", "name"),
        ({"digest": "sha256:" + "0" * 64, "name": "x"}, "blob_not_found", "digest"),
        ({"file_id": "file_2"}, "file_not_found", None),
    ],
)
def test_what_is_not_stored_is_no_document(http: TestClient, body: dict[str, Any], code: str, param: str | None) -> None:
    error = http.post("/api/spaces/manual/documents", json=body).json()["error"]
    assert (error["code"], error["param"]) == (code, param)


def test_a_document_with_readers_is_shown_to_them_and_to_administrators(http: TestClient, blobs: BlobStore) -> None:
    put(http, blobs, "open.md")
    secret = put(http, blobs, "secret.md", access=["usr_ann"])["document"]
    path = f"/api/spaces/manual/documents/{secret['id']}"
    for caller, seen in (("ann", True), ("admin", True), ("ben", False), ("reader", False)):
        headers = {"x-caller": caller}
        names = [each["name"] for each in http.get("/api/spaces/manual/documents", headers=headers).json()["data"]]
        assert ("secret.md" in names) is seen, caller
        assert (http.get(path, headers=headers).status_code == 200) is seen, caller
        assert (http.get(f"{path}/content", headers=headers).status_code == 200) is seen, caller
    assert http.delete(path, headers={"x-caller": "ben"}).status_code == 404
    opened = http.patch(path, json={"access": []})
    assert opened.json()["access"] == []
    assert http.get(path, headers={"x-caller": "ben"}).status_code == 200


@pytest.mark.parametrize("beyond", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2030-01-01T00:00:00"])
def test_an_end_that_is_no_moment_is_refused(http: TestClient, blobs: BlobStore, beyond: str) -> None:
    document = put(http, blobs, "a.md")["document"]["id"]
    changed = http.patch(f"/api/spaces/manual/documents/{document}", json={"expires_at": beyond})
    body = {"digest": blobs.put(b"b").digest, "name": "b.md", "expires_at": beyond}
    for answer in (changed, http.post("/api/spaces/manual/documents", json=body)):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "expires_at")


@pytest.mark.parametrize("levels", [65, 300, 900])
@pytest.mark.parametrize("place", ["parsing", "index", "learning.training", "chunking_strategy"])
def test_parameters_that_are_nested_too_deeply_are_refused(http: TestClient, place: str, levels: int) -> None:
    first, _, second = place.partition(".")
    deep = '{"a": ' * levels + "1" + "}" * levels
    inner = f'{{"{second}": {deep}}}' if second else deep
    body = f'{{"name": "deep", "settings": {{"{first}": {inner}}}}}'
    answer = http.post("/api/spaces", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["param"] == f"settings.{place}"
    assert "64 levels" in answer.json()["error"]["message"]
    assert "deep" not in [each["name"] for each in http.get("/api/spaces").json()["data"]]
