"""HTTP: blobs up and down as streams, with a key or by a signed link."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from modelworks.contract.errors import IntegrityFailed, InvalidRequest, UnprocessableContent
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.storage.blobs import CHUNK_BYTES, BlobStore, parse_digest
from modelworks.kernel.storage.links import LinkSigner
from modelworks.kernel.storage.schemas import BlobInfo, Caller, CollectedGarbage, CollectGarbage, Link, LinkCreate

_PATH = "/api/blobs/{digest}"
_CONTENT: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole content.", "content": _CONTENT},
    206: {"description": "The part that `Range` asks for.", "content": _CONTENT},
    304: {"description": "`If-None-Match` names what is there."},
}


def router(
    blobs: BlobStore,
    signer: LinkSigner,
    principal: Callable[[Request], Awaitable[Any]],
    *,
    clock: Clock,
    max_blob_bytes: int,
    referenced: Callable[[Collection[str]], set[str]],
    public_url: str | None = None,
) -> APIRouter:
    """Routes under `/api/blobs`.

    Whoever knows the digest of a blob and holds any key with the scope "read" may fetch it: a digest cannot be guessed, and
    only a project that has the content, or a manifest of it, knows it.

    Args:
        principal: the dependency that names the caller (`Caller`), called with the request.
        max_blob_bytes: the largest upload.
        referenced: given digests, those that some version or run of any project needs.
        public_url: where clients reach the server, for links; by default the address that the request came to.
    """
    routes = APIRouter(tags=["storage"])

    async def caller_of(request: Request) -> Caller:
        found = principal(request)
        caller: Caller = await found if inspect.isawaitable(found) else found
        return caller

    async def reader(request: Request) -> None:
        query = request.query_params
        if "signature" in query:
            signer.verify(request.method, request.url.path, query.get("expires"), query["signature"], clock.now())
        else:
            (await caller_of(request)).require("read")

    async def writer(request: Request) -> None:
        (await caller_of(request)).require("write")

    @routes.put("/api/blobs", status_code=201, dependencies=[Depends(writer)])
    async def put_blob(request: Request) -> BlobInfo:
        """Store the request's body. The header `X-Content-SHA256` (64 hexadecimal digits) has it checked on arrival."""
        announced = request.headers.get("x-content-sha256")
        expected = None if announced is None else f"sha256:{announced.lower().removeprefix('sha256:')}"
        into = await run_in_threadpool(blobs.writer, expected=expected, max_bytes=max_blob_bytes)
        try:
            waiting = bytearray()
            async for chunk in request.stream():
                waiting += chunk
                if len(waiting) >= CHUNK_BYTES:
                    await run_in_threadpool(into.write, bytes(waiting))
                    waiting.clear()
            await run_in_threadpool(into.write, bytes(waiting))
            return await run_in_threadpool(into.commit)
        except IntegrityFailed as error:
            # Here the sender's bytes are at fault, not ours.
            raise UnprocessableContent(error.message, hint="Send it again.", code="digest_mismatch") from error
        finally:
            # Also when the sender hangs up in the middle: nothing stays behind.
            await asyncio.shield(run_in_threadpool(into.abort))

    @routes.head(_PATH, dependencies=[Depends(reader)], response_class=Response)
    def head_blob(digest: str) -> Response:
        """Size of a blob, in `Content-Length`."""
        return Response(headers={**_headers(digest), "content-length": str(blobs.stat(digest).num_bytes)})

    @routes.get(_PATH, dependencies=[Depends(reader)], response_class=StreamingResponse, responses=_BYTES)
    def get_blob(digest: str, request: Request) -> Response:
        """The content, or the part that `Range: bytes=…` asks for (one range). A whole blob is verified while it is sent."""
        num_bytes = blobs.stat(digest).num_bytes
        headers = _headers(digest)
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        asked = request.headers.get("range")
        if asked is None or request.headers.get("if-range", headers["etag"]) != headers["etag"]:
            headers["content-length"] = str(num_bytes)
            return StreamingResponse(blobs.iter(digest), headers=headers, media_type="application/octet-stream")
        span = parse_range(asked, num_bytes)
        if span is None:
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{num_bytes}"})
        start, stop = span
        headers |= {"content-range": f"bytes {start}-{stop - 1}/{num_bytes}", "content-length": str(stop - start)}
        chunks = blobs.iter(digest, CHUNK_BYTES, start, stop)
        return StreamingResponse(chunks, status_code=206, headers=headers, media_type="application/octet-stream")

    async def administrator(request: Request) -> None:
        (await caller_of(request)).require("admin")

    @routes.post("/api/blobs/collect", dependencies=[Depends(administrator)])
    def collect_garbage(body: CollectGarbage) -> CollectedGarbage:
        """Delete blobs that no version and no run of any project refers to; with `dry_run` only count them."""
        report = blobs.collect(referenced, body.grace_s, dry_run=body.dry_run)
        return CollectedGarbage(
            dry_run=body.dry_run, num_deleted=report.deleted, num_kept=report.kept, bytes_freed=report.bytes_freed
        )

    @routes.post("/api/blobs/{digest}/link", dependencies=[Depends(writer)])
    def link_blob(digest: str, body: LinkCreate, request: Request) -> Link:
        """A link by which anybody can fetch the blob until it expires."""
        blobs.stat(digest)
        expires_at = clock.now() + timedelta(seconds=body.expires_s)
        path = signer.sign("GET", f"/api/blobs/{digest}", expires_at)
        return Link(url=(public_url or str(request.base_url)).rstrip("/") + path, expires_at=expires_at)

    return routes


def parse_range(header: str, num_bytes: int) -> tuple[int, int] | None:
    """Start and stop (exclusive) of a single byte range; None when it lies outside.

    Raises:
        InvalidRequest: it is not of the form `bytes=first-last`, `bytes=first-` or `bytes=-count`.
    """
    unit, _, spec = header.partition("=")
    first, dash, last = spec.strip().partition("-")
    if (
        unit.strip() != "bytes"
        or not dash
        or not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last))
    ):
        raise InvalidRequest(
            f"The Range {header[:100]!r} is not understood.", hint="One range: bytes=first-last, bytes=first- or bytes=-count."
        )
    if first:
        start, stop = int(first), min(int(last) + 1, num_bytes) if last else num_bytes
    elif last:
        start, stop = max(num_bytes - int(last), 0), num_bytes
    else:
        raise InvalidRequest("The Range has neither start nor end.", hint="Example: bytes=0-1023.")
    return (start, stop) if start < stop else None


def _headers(digest: str) -> dict[str, str]:
    # Stored bytes are anybody's: a browser must neither guess their type nor run them on our origin.
    return {
        "etag": f'"{parse_digest(digest)}"',
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=31536000, immutable",
        "content-disposition": "attachment",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
    }
