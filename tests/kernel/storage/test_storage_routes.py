"""Blobs over HTTP: up and down as streams, by key or by signed link."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from modelworks.contract.errors import AuthenticationFailed, InvalidRequest, ModelworksError, PermissionDenied
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.storage import BlobStore, LinkSigner
from modelworks.kernel.storage.routes import parse_range, router

READER = {"x-api-key": "read"}
WRITER = {"x-api-key": "read write"}


class Caller:
    def __init__(self, scopes: str) -> None:
        self.scopes = scopes.split()

    def require(self, scope: str) -> None:
        if scope not in self.scopes:
            raise PermissionDenied(f"lacks {scope}")


async def principal(request: Request) -> Caller:
    if "x-api-key" not in request.headers:
        raise AuthenticationFailed("no key")
    return Caller(request.headers["x-api-key"])


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    """The store itself is tested on both places; here a folder is enough, but for one test."""
    return BlobStore(str(tmp_path / "blobs"))


def application(blobs: BlobStore, clock: FixedClock) -> FastAPI:
    app = FastAPI()
    app.include_router(
        router(
            blobs,
            LinkSigner(b"0" * 32),
            principal,
            clock=clock,
            max_blob_bytes=3_000_000,
            # What is kept, by content: the test's stand-in for versions and runs.
            referenced=lambda digests: {digest for digest in digests if blobs.read(digest, 100) == b"in use"},
            public_url="http://platform/",
        )
    )

    @app.exception_handler(ModelworksError)
    async def render(_: Request, error: ModelworksError) -> JSONResponse:
        return JSONResponse(error.envelope(), error.status)

    return app


@pytest.fixture
async def http(blobs: BlobStore, clock: FixedClock) -> AsyncIterator[httpx.AsyncClient]:
    app = application(blobs, clock)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://platform") as client:
        yield client


async def store(http: httpx.AsyncClient, data: bytes) -> str:
    answer = await http.put("/api/blobs", content=data, headers=WRITER)
    assert answer.status_code == 201
    return str(answer.json()["digest"])


async def test_up_and_down(http: httpx.AsyncClient, blobs: BlobStore) -> None:
    data = bytes(range(256)) * 10_000

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 99_991):
            yield data[start : start + 99_991]

    answer = await http.put("/api/blobs", content=pieces(), headers=WRITER)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert answer.json() == {"object": "blob", "digest": digest, "num_bytes": len(data)}
    down = await http.get(f"/api/blobs/{digest}", headers=READER)
    assert down.content == data
    assert down.headers["content-length"] == str(len(data))
    assert down.headers["x-content-type-options"] == "nosniff"
    head = await http.head(f"/api/blobs/{digest}", headers=READER)
    assert (head.headers["content-length"], head.content) == (str(len(data)), b"")
    again = await http.get(f"/api/blobs/{digest}", headers={**READER, "if-none-match": down.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_up_and_down_on_s3(s3_blobs: BlobStore, clock: FixedClock) -> None:
    data = bytes(range(256)) * 8000
    transport = httpx.ASGITransport(application(s3_blobs, clock))
    async with httpx.AsyncClient(transport=transport, base_url="http://platform") as client:
        digest = await store(client, data)
        assert (await client.get(f"/api/blobs/{digest}", headers=READER)).content == data
        part = await client.get(f"/api/blobs/{digest}", headers={**READER, "range": "bytes=1000001-1000007"})
        assert (part.status_code, part.content) == (206, data[1000001:1000008])


async def test_an_empty_blob(http: httpx.AsyncClient) -> None:
    digest = await store(http, b"")
    assert (await http.get(f"/api/blobs/{digest}", headers=READER)).content == b""


async def test_announced_digests_are_checked(http: httpx.AsyncClient, blobs: BlobStore) -> None:
    right = hashlib.sha256(b"data").hexdigest()
    for announced in (right, right.upper(), f"sha256:{right}"):
        assert (
            await http.put("/api/blobs", content=b"data", headers={**WRITER, "x-content-sha256": announced})
        ).status_code == 201
    answer = await http.put("/api/blobs", content=b"dato", headers={**WRITER, "x-content-sha256": right})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "digest_mismatch"
    assert (await http.put("/api/blobs", content=b"x", headers={**WRITER, "x-content-sha256": "zz"})).status_code == 400
    assert len(list(blobs.list())) == 1


async def test_too_large_uploads_are_refused(http: httpx.AsyncClient, blobs: BlobStore) -> None:
    assert (await http.put("/api/blobs", content=b"x" * 3_000_001, headers=WRITER)).status_code == 413
    assert list(blobs.list()) == []


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path, clock: FixedClock) -> None:
    folder = tmp_path / "blobs"
    app = FastAPI()
    app.include_router(
        router(BlobStore(str(folder)), LinkSigner(b"0" * 32), principal, clock=clock, max_blob_bytes=1 << 30, referenced=set)
    )
    incoming: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": b"x" * 2_000_000, "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, Any]:
        return next(incoming)

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "PUT",
        "path": "/api/blobs",
        "raw_path": b"/api/blobs",
        "query_string": b"",
        "headers": [(b"x-api-key", b"write")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("platform", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    with pytest.raises(ClientDisconnect):
        await app(scope, receive, send)  # type: ignore[arg-type]
    assert [path for path in folder.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        ("bytes=2-5", 206, slice(2, 6)),
        ("bytes=7-", 206, slice(7, None)),
        ("bytes=-3", 206, slice(-3, None)),
        ("bytes=0-999", 206, slice(0, None)),
        ("bytes=-999", 206, slice(0, None)),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=5-2", 416, None),
        ("bytes=x-2", 400, None),
        ("bytes=0-1,3-4", 400, None),
        ("bytes=-", 400, None),
        ("items=0-1", 400, None),
        ("bytes", 400, None),
    ],
)
async def test_ranges(http: httpx.AsyncClient, header: str, status: int, part: slice | None) -> None:
    digest = await store(http, b"0123456789")
    answer = await http.get(f"/api/blobs/{digest}", headers={**READER, "range": header})
    assert answer.status_code == status
    if part is not None:
        start, stop, _ = part.indices(10)
        assert answer.content == b"0123456789"[start:stop]
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/10"
    if status == 416:
        assert answer.headers["content-range"] == "bytes */10"


async def test_a_range_of_another_version_gets_the_whole(http: httpx.AsyncClient) -> None:
    digest = await store(http, b"0123456789")
    answer = await http.get(f"/api/blobs/{digest}", headers={**READER, "range": "bytes=5-", "if-range": '"other"'})
    assert (answer.status_code, answer.content) == (200, b"0123456789")


async def test_keys_and_scopes_are_asked_for(http: httpx.AsyncClient) -> None:
    digest = await store(http, b"x")
    assert (await http.get(f"/api/blobs/{digest}")).status_code == 401
    assert (await http.put("/api/blobs", content=b"x")).status_code == 401
    assert (await http.put("/api/blobs", content=b"x", headers=READER)).status_code == 403
    assert (await http.post(f"/api/blobs/{digest}/link", json={}, headers=READER)).status_code == 403


async def test_missing_and_malformed_digests(http: httpx.AsyncClient) -> None:
    absent = "sha256:" + "0" * 64
    for method in ("GET", "HEAD"):
        assert (await http.request(method, f"/api/blobs/{absent}", headers=READER)).status_code == 404
        assert (await http.request(method, "/api/blobs/sha256:xyz", headers=READER)).status_code == 400
    assert (await http.post(f"/api/blobs/{absent}/link", json={}, headers=WRITER)).status_code == 404


async def test_a_signed_link_works_without_a_key_until_it_expires(http: httpx.AsyncClient, clock: FixedClock) -> None:
    digest, other = await store(http, b"shared"), await store(http, b"private")
    link = (await http.post(f"/api/blobs/{digest}/link", json={"expires_s": 60}, headers=WRITER)).json()
    assert link["url"].startswith("http://platform/api/blobs/sha256:")
    assert (await http.get(link["url"])).content == b"shared"
    assert (await http.head(link["url"])).status_code == 200
    assert (await http.get(link["url"], headers={"range": "bytes=0-1"})).content == b"sh"
    for changed in (
        link["url"].replace(digest, other),
        link["url"].replace("expires=", "expires=9"),
        link["url"][:-1],
        link["url"] + "é",
        link["url"].partition("&")[0] + "&signature=",
        link["url"].replace("expires=", "expired="),
    ):
        answer = await http.get(changed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_link")
    clock.advance(60)
    answer = await http.get(link["url"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "expired_link")


def test_links_are_bound_to_method_and_secret(clock: FixedClock, tmp_path: Path) -> None:
    signer = LinkSigner.from_home(tmp_path)
    query = httpx.URL(signer.sign("GET", "/x", clock.now() + timedelta(seconds=5))).params
    again = LinkSigner.from_home(tmp_path)
    again.verify("GET", "/x", query["expires"], query["signature"], clock.now())
    assert (tmp_path / "link.secret").stat().st_mode & 0o777 == 0o600
    for method, verifier in (("PUT", again), ("GET", LinkSigner(b"another secret!!"))):
        with pytest.raises(PermissionDenied):
            verifier.verify(method, "/x", query["expires"], query["signature"], clock.now())
    with pytest.raises(ValueError, match="shorter"):
        LinkSigner(b"short")


def test_a_range_needs_its_form() -> None:
    assert parse_range("bytes=0-0", 1) == (0, 1)
    with pytest.raises(InvalidRequest):
        parse_range("bytes=٣-4", 10)


async def test_garbage_is_counted_then_collected_and_what_is_used_stays(http: httpx.AsyncClient, blobs: BlobStore) -> None:
    used, unused, young = [await store(http, data) for data in (b"in use", b"forgotten", b"just arrived")]
    for digest in (used, unused):
        path = next((Path(blobs.url) / "sha256").rglob(digest.removeprefix("sha256:")))
        os.utime(path, (0, 0))
    refused = await http.post("/api/blobs/collect", json={}, headers=WRITER)
    assert refused.status_code == 403
    admin = {"x-api-key": "admin"}
    counted = await http.post("/api/blobs/collect", json={"dry_run": True}, headers=admin)
    assert (counted.json()["num_deleted"], counted.json()["bytes_freed"]) == (1, 9)
    assert blobs.exists(unused)
    collected = await http.post("/api/blobs/collect", json={}, headers=admin)
    assert collected.json()["num_deleted"] == 1
    assert [blobs.exists(digest) for digest in (used, unused, young)] == [True, False, True]
    too_eager = await http.post("/api/blobs/collect", json={"grace_s": 1}, headers=admin)
    assert too_eager.status_code == 422
