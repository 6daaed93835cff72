"""The HTTP side of deployments and of published files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from tests.kernel.serving.room import PROJECT, Room

from modelworks.contract.errors import ModelworksError
from modelworks.contract.media import File
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.database import Database
from modelworks.kernel.serving.routes import router


@pytest.fixture
def still(make_room: Callable[..., Room], database: Database) -> Room:
    return make_room(database)


@pytest.fixture
def client(still: Room) -> Iterator[TestClient]:
    """A client whose scopes stand in a header of the test."""

    def principal(request: Request) -> Principal:
        scopes = frozenset(request.headers.get("x-scopes", "admin").split(","))
        project = request.headers.get("x-project", PROJECT)
        return Principal(key_id="key_1", project_id=project, scopes=scopes, is_platform="x-platform" in request.headers)

    app = FastAPI()
    app.include_router(router(still.service, still.db, still.blobs, principal))

    @app.exception_handler(ModelworksError)
    def render(_request: Request, error: ModelworksError) -> JSONResponse:
        return JSONResponse(error.envelope(), error.status)

    with TestClient(app) as made:
        yield made


def publish(room: Room) -> None:
    files = []
    for path, data in (("scene.glb", b"0123456789"), ("deep/page.html", b"<script>alert(1)</script>")):
        info = room.blobs.put(data)
        files.append(File(path=path, digest=info.digest, num_bytes=info.num_bytes))
    with room.db.transaction() as session:
        room.catalog.register(session, PROJECT, kind="scene", name="hall", files=files, task="gallery")
    room.apply("org/hall", model="hall")


def test_deployment_is_made_listed_shown_stopped_and_removed(still: Room, client: TestClient) -> None:
    still.register("hello ")
    made = client.post("/api/deployments", json={"name": "org/toy", "model": "greeter"})
    assert made.status_code == 200
    assert made.json()["state"] == "loading"
    listed = client.get("/api/deployments").json()
    assert (listed["object"], listed["has_more"], listed["first_id"]) == ("list", False, made.json()["id"])
    assert client.get("/api/deployments/org/toy").json()["model"] == "greeter"
    assert client.post("/api/deployments/org/toy/stop").json()["desired"] == "stopped"
    assert client.delete("/api/deployments/org/toy").json()["desired"] == "removed"
    gone = client.get("/api/deployments/org/toy")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "deployment_not_found")


def test_scopes_are_asked_for(still: Room, client: TestClient) -> None:
    still.register("hello ")
    body = {"name": "toy", "model": "greeter"}
    assert client.post("/api/deployments", json=body, headers={"x-scopes": "read"}).status_code == 403
    assert client.get("/api/deployments", headers={"x-scopes": "inference"}).status_code == 403
    assert client.post("/api/deployments?dry_run=true", json=body).status_code == 200
    assert client.get("/api/deployments").json()["data"] == []


def test_published_files_are_listed_and_sent_in_parts(still: Room, client: TestClient) -> None:
    publish(still)
    listed = client.get("/api/static/org/hall").json()["data"]
    assert {file["path"] for file in listed} == {"scene.glb", "deep/page.html"}
    url = next(file["url"] for file in listed if file["path"] == "scene.glb")
    whole = client.get(url)
    assert (whole.content, whole.headers["content-type"]) == (b"0123456789", "model/gltf-binary")
    part = client.get(url, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert client.get(url, headers={"Range": "bytes=-3"}).content == b"789"
    beyond = client.get(url, headers={"Range": "bytes=10-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")


def test_published_page_cannot_run_anything(still: Room, client: TestClient) -> None:
    publish(still)
    page = client.get("/api/static/org/hall/deep/page.html")
    assert page.headers["content-type"] == "application/octet-stream"
    assert page.headers["content-disposition"].startswith("attachment")
    assert page.headers["content-security-policy"].startswith("sandbox;")
    assert page.headers["x-content-type-options"] == "nosniff"


def test_only_what_is_published_is_sent(still: Room, client: TestClient) -> None:
    publish(still)
    assert client.get("/api/static/org/hall/other.glb").status_code == 404
    assert client.get("/api/static/org").status_code == 404
    assert client.get("/api/static/org/hall/scene.glb", headers={"x-project": "prj_other"}).status_code == 404
    still.remove("org/hall")
    assert client.get("/api/static/org/hall/scene.glb").status_code == 404


def test_replica_log_of_another_project_is_not_found(still: Room, client: TestClient) -> None:
    assert client.get("/api/replicas/rep_1/logs").status_code == 404


def test_only_the_platforms_administrator_sends_keys_of_its_environment_elsewhere(client: TestClient) -> None:
    """Who names the variable names the server that gets its value, too."""
    wish = {"name": "far", "base_url": "https://8.8.8.8/v1", "api_key_env": "OPENAI_API_KEY"}
    for headers in ({}, {"x-platform": "1", "x-scopes": "write"}):
        refused = client.post("/api/deployments", json=wish, headers=headers, params={"dry_run": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "api_key_env")
    allowed = client.post("/api/deployments", json=wish, headers={"x-platform": "1"}, params={"dry_run": True})
    assert allowed.status_code == 200, allowed.text
