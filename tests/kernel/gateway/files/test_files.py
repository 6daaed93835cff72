"""Files and uploads, through the official client."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kernel.gateway.tuning.desk import CHAT, Desk, open_desk

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.gateway.multipart import MultipartReader, PartBegin, PartData, PartEnd, boundary_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path, max_file_bytes=3 << 20) as made:
        yield made


async def test_a_file_comes_back_as_it_was_sent(desk: Desk) -> None:
    # More than the limit of a JSON body, more than one piece, with what looks like a boundary in it.
    content = b"\r\n--x\r\n" + bytes(range(256)) * 9000
    file = await desk.client.files.create(file=("中文 data.bin", content), purpose="user_data")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "中文 data.bin", "user_data")
    assert (file.status, file.expires_at) == ("processed", None)
    assert file.created_at == int(desk.clock.now().timestamp())
    assert (await desk.client.files.retrieve(file.id)).to_dict() == file.to_dict()
    assert (await desk.client.files.content(file.id)).content == content


async def test_files_are_listed_in_pages_of_either_order(desk: Desk) -> None:
    made = [await desk.file(CHAT, purpose=purpose) for purpose in ("fine-tune", "batch", "evals", "fine-tune")]
    newest = [file.id async for file in desk.client.files.list(limit=2)]
    assert sorted(newest) == sorted(made)
    first = await desk.client.files.list(limit=3, order="asc")
    assert first.has_more
    assert len(first.data) == 3
    assert [file.id async for file in desk.client.files.list(order="asc", limit=1)] == newest[::-1]
    tuned = [file.id async for file in desk.client.files.list(purpose="fine-tune")]
    assert set(tuned) == {made[0], made[3]}
    with pytest.raises(openai.BadRequestError) as refused:
        await desk.client.files.list(limit=0)
    assert refused.value.param == "limit"


async def test_a_deleted_file_has_gone(desk: Desk) -> None:
    file_id = await desk.file(CHAT)
    digest = next(iter(desk.blobs.list())).digest
    assert desk.files.referenced([digest]) == {digest}
    deleted = await desk.client.files.delete(file_id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file_id, True, "file")
    for call in (desk.client.files.retrieve, desk.client.files.content, desk.client.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            await call(file_id)
        assert refused.value.code == "file_not_found"
    assert desk.files.referenced([digest]) == set()


async def test_a_file_lives_as_long_as_it_should(desk: Desk) -> None:
    life: Any = {"anchor": "created_at", "seconds": 3600}
    short = await desk.client.files.create(file=("a.txt", b"a"), purpose="user_data", expires_after=life)
    batch = await desk.file(CHAT, purpose="batch")
    assert short.expires_at == short.created_at + 3600
    assert (await desk.client.files.retrieve(batch)).expires_at == short.created_at + 30 * 24 * 3600
    desk.clock.advance(3601)
    with pytest.raises(openai.NotFoundError):
        await desk.client.files.retrieve(short.id)
    assert [file.id async for file in desk.client.files.list()] == [batch]
    desk.files.expire()
    digest = "sha256:" + hashlib.sha256(b"a").hexdigest()
    assert desk.files.referenced([digest]) == set()
    for wrong in ({"anchor": "created_at", "seconds": 5}, {"anchor": "last_active_at", "seconds": 3600}):
        with pytest.raises(openai.BadRequestError) as refused:
            await desk.client.files.create(file=("a.txt", b"a"), purpose="user_data", expires_after=wrong)  # type: ignore[arg-type]
        assert str(refused.value.param).startswith("expires_after.")


async def test_what_is_wrong_with_a_form_is_said_and_nothing_is_stored(desk: Desk) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await desk.client.files.create(file=("a.txt", b"never stored"), purpose="fun")  # type: ignore[arg-type]
    assert refused.value.param == "purpose"
    with pytest.raises(openai.APIStatusError) as large:
        await desk.client.files.create(file=("a.txt", b"x" * (4 << 20)), purpose="user_data")
    assert large.value.status_code == 413
    headers = {"authorization": f"Bearer {desk.client.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        for data, kind, code in (
            (b"{}", "application/json", "invalid_form"),
            (b"--x\r\nnothing", "multipart/form-data; boundary=x", "invalid_form"),
            (
                b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
                "multipart/form-data; boundary=x",
                "missing_required_parameter",
            ),
            (
                b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n' + b"b" * 9999 + b"\r\n--x--\r\n",
                "multipart/form-data; boundary=x",
                "invalid_form",
            ),
        ):
            async with http.post(desk.url + "/v1/files", data=data, headers={"content-type": kind}) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (400, code)
    assert list(desk.blobs.list()) == []
    assert not list(Path(desk.blobs.url).rglob("modelworks-blob-*"))


async def test_a_file_belongs_to_its_project_and_needs_the_right_scope(desk: Desk) -> None:
    file_id = await desk.file(CHAT)
    stranger = await desk.other(project="another")
    assert [file.id async for file in stranger.files.list()] == []
    for call in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(file_id)
    reader = await desk.other(["read"])
    assert (await reader.files.retrieve(file_id)).id == file_id
    with pytest.raises(openai.PermissionDeniedError):
        await reader.files.delete(file_id)
    with pytest.raises(openai.PermissionDeniedError):
        await reader.files.create(file=("a.txt", b"a"), purpose="user_data")
    asker = await desk.other(["inference"])
    with pytest.raises(openai.PermissionDeniedError):
        await asker.files.retrieve(file_id)


async def test_an_upload_joins_its_parts_in_the_order_given(desk: Desk) -> None:
    content = b"first second"
    upload = await desk.client.uploads.create(bytes=12, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    assert (upload.status, upload.expires_at - upload.created_at) == ("pending", 3600)
    second = await desk.client.uploads.parts.create(upload.id, data=b"second")
    first = await desk.client.uploads.parts.create(upload.id, data=b"first ")
    assert (first.object, first.upload_id) == ("upload.part", upload.id)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await desk.client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5="0" * 32)
    assert refused.value.code == "digest_mismatch"
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    done = await desk.client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=md5)
    assert done.status == "completed"
    assert done.file is not None
    assert (done.file.filename, done.file.purpose, done.file.bytes) == ("a.jsonl", "fine-tune", 12)
    assert (await desk.client.files.content(done.file.id)).content == content
    with pytest.raises(openai.ConflictError):
        await desk.client.uploads.parts.create(upload.id, data=b"late")


async def test_the_client_uploads_a_large_file_in_chunks(desk: Desk) -> None:
    content = bytes(range(250)) * 1000
    done = await desk.client.uploads.upload_file_chunked(
        file=content, filename="big.bin", bytes=len(content), mime_type="x/y", purpose="user_data", part_size=100_000
    )
    assert done.file is not None
    assert (await desk.client.files.content(done.file.id)).content == content


async def test_what_does_not_fit_an_upload_is_refused(desk: Desk) -> None:
    upload = await desk.client.uploads.create(bytes=9, filename="a", mime_type="x/y", purpose="user_data")
    part = await desk.client.uploads.parts.create(upload.id, data=b"five!")
    for part_ids, param in (([part.id], "part_ids"), ([part.id, part.id], "part_ids"), (["part_no"], "part_ids.0")):
        with pytest.raises(openai.BadRequestError) as refused:
            await desk.client.uploads.complete(upload.id, part_ids=part_ids)
        assert refused.value.param == param
    with pytest.raises(openai.BadRequestError) as refused:
        await desk.client.uploads.create(bytes=4 << 20, filename="a", mime_type="x/y", purpose="user_data")
    assert refused.value.param == "bytes"
    stranger = await desk.other(project="another")
    with pytest.raises(openai.NotFoundError):
        await stranger.uploads.cancel(upload.id)
    digest = "sha256:" + hashlib.sha256(b"five!").hexdigest()
    assert desk.files.referenced([digest]) == {digest}
    assert (await desk.client.uploads.cancel(upload.id)).status == "cancelled"
    assert desk.files.referenced([digest]) == set()
    with pytest.raises(openai.ConflictError):
        await desk.client.uploads.complete(upload.id, part_ids=[part.id])


async def test_an_upload_has_an_hour(desk: Desk) -> None:
    upload = await desk.client.uploads.create(bytes=1, filename="a", mime_type="x/y", purpose="user_data")
    part = await desk.client.uploads.parts.create(upload.id, data=b"a")
    desk.clock.advance(3600)
    with pytest.raises(openai.ConflictError, match="expired"):
        await desk.client.uploads.complete(upload.id, part_ids=[part.id])


async def test_head_answers_like_get_without_a_body(desk: Desk) -> None:
    file_id = await desk.file(CHAT)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {desk.client.api_key}"}) as http:
        for path in ("", f"/{file_id}", f"/{file_id}/content"):
            async with http.head(f"{desk.url}/v1/files{path}") as response:
                assert (response.status, await response.read()) == (200, b"")


async def test_a_body_below_uploads_has_a_limit_too(desk: Desk) -> None:
    headers = {"authorization": f"Bearer {desk.client.api_key}", "content-type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(desk.url + "/v1/uploads/upload_x/complete", data=b" " * (2 << 20)) as response,
    ):
        assert response.status == 413


FIELDS = st.lists(
    st.tuples(
        st.text("abc", min_size=1, max_size=5), st.binary(max_size=40) | st.sampled_from([b"\r\n--B", b"--B--", b"\r\n"])
    ),
    max_size=4,
)


@given(FIELDS, st.integers(1, 60))
def test_a_form_reads_the_same_however_it_is_cut(fields: list[tuple[str, bytes]], size: int) -> None:
    boundary = b"Bo-un.dary"
    body = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\nContent-Type: x/y\r\n\r\n%s\r\n'
        % (boundary, name.encode(), value)
        for name, value in fields
    )
    body += b"--%s--\r\n" % boundary
    reader = MultipartReader(boundary)
    found: list[tuple[str, bytes]] = []
    for start in range(0, len(body), size):
        for piece in reader.feed(body[start : start + size]):
            if isinstance(piece, PartBegin):
                found.append((piece.name, b""))
            elif isinstance(piece, PartData):
                found[-1] = (found[-1][0], found[-1][1] + piece.data)
            else:
                assert isinstance(piece, PartEnd)
    reader.close()
    assert found == fields


@given(st.binary(max_size=200), st.integers(1, 40))
def test_what_is_no_form_is_refused_and_never_breaks_the_reader(body: bytes, size: int) -> None:
    reader = MultipartReader(b"B")
    # Any other exception would fail the test.
    with suppress(InvalidRequest):
        for start in range(0, len(body), size):
            list(reader.feed(body[start : start + size]))
        reader.close()


@pytest.mark.parametrize("kind", [None, "text/plain", "multipart/form-data", "multipart/form-data; boundary=\u00fc"])
def test_a_type_without_a_boundary_is_refused(kind: str | None) -> None:
    with pytest.raises(InvalidRequest):
        boundary_of(kind)
