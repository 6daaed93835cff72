"""Documents that come as forms: stored while they arrive, with what is known of them; JSON at the same path is as before."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from tests.kernel.gateway.conftest import Stage

from modelworks.kernel.access.routes import principal_dependency
from modelworks.kernel.dataspace import routes as dataspace_routes
from modelworks.kernel.dataspace.schemas import SpaceCreate

PATH = "/api/spaces/manual/documents"


@pytest.fixture
def key(stage: Stage) -> str:
    stage.app.include_router(
        dataspace_routes.router(stage.spaces, stage.files.blobs, stage.files.stored, principal_dependency(stage.access))
    )
    with stage.db.transaction() as session:
        stage.spaces.create(session, stage.project_id, None, SpaceCreate(name="manual"))
    return stage.key(scopes=["read", "write"])


async def send(stage: Stage, token: str, content: bytes | None, /, *, path: str = PATH, **fields: str) -> tuple[int, Any]:
    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for name, text in fields.items():
        form.add_field(name, text)
    if content is not None:
        form.add_field("file", content, filename="docs/leave.md", content_type="text/markdown")
    headers = {"authorization": f"Bearer {token}"}
    async with stage.http.post(stage.url + path, data=form, headers=headers) as response:
        return response.status, await response.json()


async def test_a_form_is_a_document_with_what_is_known_of_it(stage: Stage, key: str) -> None:
    # Larger than any other body may be.
    content = b"Thirty days a year. " * 20_000
    known = {"key": "hr/leave.md", "attributes": '{"year": 2024}', "access": '["usr_1"]', "licence": "mit"}
    status, made = await send(stage, key, content, **known)
    assert status == 201, made
    document = made["document"]
    assert (made["change"], document["name"], document["key"]) == ("added", "leave.md", "hr/leave.md")
    assert (document["attributes"], document["access"], document["licence"]) == ({"year": 2024}, ["usr_1"], "mit")
    assert document["num_bytes"] == len(content)
    assert b"".join(stage.files.blobs.iter(document["digest"])) == content
    status, again = await send(stage, key, content, key="hr/leave.md")
    assert (status, again["change"], again["document"]["id"]) == (201, "unchanged", document["id"])


async def test_json_at_the_same_path_is_as_before(stage: Stage, key: str) -> None:
    digest = stage.files.blobs.put(b"stored before").digest
    status, made, _ = await stage.post(PATH, {"digest": digest, "name": "a.md"}, authorization=f"Bearer {key}")
    assert (status, made["document"]["name"]) == (201, "a.md")
    status, refused, _ = await stage.post(PATH, {"digest": digest, "name": "a" * 300_000}, authorization=f"Bearer {key}")
    assert (status, refused["error"]["code"]) == (413, "payload_too_large")


async def test_a_wrong_field_is_named_and_nothing_is_stored(stage: Stage, key: str) -> None:
    wrong: list[tuple[str, str]] = [
        ("attributes", "{year: 2024}"),
        ("attributes", '["year"]'),
        ("digest", "sha256:" + "0" * 64),
        ("colour", "red"),
        ("expires_at", "2030-01-01T00:00:00"),
    ]
    for name, text in wrong:
        status, body = await send(stage, key, b"text", **{name: text})
        assert (status, body["error"]["param"]) == (400, name), (text, body)
    with stage.db.reading() as session:
        assert stage.spaces.documents.list(session, stage.project_id, "manual").data == []


async def test_a_form_needs_a_file_a_space_and_the_right_to_write(stage: Stage, key: str) -> None:
    status, body = await send(stage, key, None, name="a.md")
    assert (status, body["error"]["param"]) == (400, "file")
    status, body = await send(stage, key, b"text", path="/api/spaces/nothing/documents")
    assert (status, body["error"]["code"]) == (404, "space_not_found")
    reader = stage.key(scopes=["read"])
    assert (await send(stage, reader, b"text"))[0] == 403
    status, body = await send(stage, key, b"x" * 1_000_001)
    assert status == 413, "the limit of files holds"
