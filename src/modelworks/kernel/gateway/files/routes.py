"""`/v1/files` and `/v1/uploads`: forms come in as streams and go straight into the storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from modelworks.contract.errors import InvalidRequest, PayloadTooLarge
from modelworks.kernel.gateway.answers.form import Page, gives
from modelworks.kernel.gateway.answers.stored import Deleted, FileObject, Upload, UploadPart
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.files.service import (
    MAX_FILENAME_CHARS,
    MAX_LIFE_S,
    MAX_PART_BYTES,
    MIN_LIFE_S,
    PURPOSES,
    FileService,
    file_object,
    part_object,
)
from modelworks.kernel.gateway.multipart import MultipartReader, PartBegin, PartData, boundary_of
from modelworks.kernel.gateway.routes import PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import Wire, inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object
from modelworks.kernel.gateway.stream import JsonBytes
from modelworks.kernel.storage.blobs import CHUNK_BYTES, BlobWriter
from modelworks.kernel.storage.schemas import BlobInfo

#: Path prefix of the routes whose bodies have a limit of their own.
FORM_PATHS = ("/v1/files", "/v1/uploads/")
#: A form's fields beside the file.
_MAX_FIELD_BYTES = 4 << 10
_MAX_FIELDS = 32
_MAX_JSON_BYTES = 1 << 20

Model = TypeVar("Model", bound=BaseModel)
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]


class ExpiresAfter(Wire):
    """How long a file lives."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_LIFE_S, le=MAX_LIFE_S)


class UploadCreate(Wire):
    """POST /v1/uploads."""

    bytes: int = Field(ge=0)
    filename: str = Field(min_length=1, max_length=MAX_FILENAME_CHARS)
    mime_type: str = Field(min_length=1, max_length=256)
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class UploadComplete(Wire):
    """POST /v1/uploads/{upload_id}/complete."""

    part_ids: list[str] = Field(min_length=1, max_length=10_000)
    md5: str | None = Field(default=None, pattern=r"^[0-9A-Fa-f]{32}$")


class FileQuery(BaseModel):
    """The query of GET /v1/files."""

    purpose: str | None = None
    after: str | None = None
    limit: int = Field(default=10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"


@dataclass(slots=True)
class Form:
    """A form whose one file is stored."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    blob: BlobInfo | None = None

    def stored(self) -> BlobInfo:
        """The file's blob, once the block of `stored_form` is left."""
        if self.blob is None:
            raise RuntimeError("the form's file is not stored yet")
        return self.blob


def parse(kind: type[Model], values: Any) -> Model:
    """`values` as `kind`; raises InvalidRequest with `param` in OpenAI's dotted form."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise from_validation(error) from error


def answer(body: dict[str, Any], status_code: int = 200) -> JsonBytes:
    """A JSON response."""
    return JsonBytes(orjson.dumps(body), status_code=status_code)


def router(gateway: GatewayService, files: FileService) -> APIRouter:
    """The routes of files and uploads; reading needs the scope "read", changing "write"."""
    found = APIRouter(route_class=PlainRoute, tags=["Files"])
    _files(found, gateway, files)
    _uploads(found, gateway, files)
    return found


def _files(found: APIRouter, gateway: GatewayService, files: FileService) -> None:
    @found.post("/v1/files", summary="Store a file", openapi_extra=_form("file", "purpose"), responses=gives(FileObject))
    async def create_file(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        async with stored_form(request, files, "file", files.max_bytes) as form:
            purpose, life_s = _purpose(form.fields), _life(form.fields)
        name, blob = form.filename, form.stored()

        def create() -> dict[str, Any]:
            with files.db.transaction() as session:
                row = files.create(
                    session, caller.project_id, filename=name, purpose=purpose, blob=blob, expires_after_s=life_s
                )
                return file_object(row)

        return answer(await run_in_threadpool(create))

    @found.get("/v1/files", summary="List files", openapi_extra=query_of(FileQuery), responses=gives(Page[FileObject]))
    async def list_files(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "read")
        asked = parse(FileQuery, dict(request.query_params))

        def listed() -> dict[str, Any]:
            with files.db.reading() as session:
                return files.list(session, caller.project_id, **asked.model_dump()).wire()

        return answer(await run_in_threadpool(listed))

    @found.get("/v1/files/{file_id}", summary="One file", openapi_extra=in_path("file_id"), responses=gives(FileObject))
    async def retrieve_file(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "read")

        def retrieved() -> dict[str, Any]:
            with files.db.reading() as session:
                return file_object(files.get(session, caller.project_id, request.path_params["file_id"]))

        return answer(await run_in_threadpool(retrieved))

    @found.delete("/v1/files/{file_id}", summary="Delete a file", openapi_extra=in_path("file_id"), responses=gives(Deleted))
    async def delete_file(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        file_id = request.path_params["file_id"]

        def deleted() -> None:
            with files.db.transaction() as session:
                files.delete(session, caller.project_id, file_id)

        await run_in_threadpool(deleted)
        return answer({"id": file_id, "object": "file", "deleted": True})

    @found.get(
        "/v1/files/{file_id}/content",
        summary="The bytes of a file",
        openapi_extra=in_path("file_id"),
        responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def file_content(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "read")

        def opened() -> tuple[str, int, Any]:
            with files.db.reading() as session:
                row = files.get(session, caller.project_id, request.path_params["file_id"])
            return row.filename, row.num_bytes, files.blobs.iter(row.digest)

        filename, num_bytes, chunks = await run_in_threadpool(opened)
        headers = {
            "content-length": str(num_bytes),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            # Stored bytes are anybody's: a browser must neither guess their type nor run them on our origin.
            "x-content-type-options": "nosniff",
            "content-security-policy": "sandbox; default-src 'none'",
        }
        return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")


def _uploads(found: APIRouter, gateway: GatewayService, files: FileService) -> None:
    @found.post(
        "/v1/uploads", summary="Begin an upload", openapi_extra=described(inline_schema(UploadCreate)), responses=gives(Upload)
    )
    async def create_upload(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        asked = parse(UploadCreate, json_object(await request.body()))

        def begun() -> dict[str, Any]:
            with files.db.transaction() as session:
                row = files.begin(
                    session,
                    caller.project_id,
                    filename=asked.filename,
                    mime_type=asked.mime_type,
                    purpose=asked.purpose,
                    num_bytes=asked.bytes,
                    expires_after_s=None if asked.expires_after is None else asked.expires_after.seconds,
                )
                return files.upload_object(row)

        return answer(await run_in_threadpool(begun))

    @found.post(
        "/v1/uploads/{upload_id}/parts",
        summary="Add a part of at most 64 MiB",
        openapi_extra={**in_path("upload_id"), **_form("data")},
        responses=gives(UploadPart),
    )
    async def add_part(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        upload_id = request.path_params["upload_id"]

        def check() -> None:
            with files.db.reading() as session:
                files.pending(session, caller.project_id, upload_id)

        await run_in_threadpool(check)
        async with stored_form(request, files, "data", MAX_PART_BYTES) as form:
            pass
        blob = form.stored()

        def added() -> dict[str, Any]:
            with files.db.transaction() as session:
                return part_object(files.add_part(session, caller.project_id, upload_id, blob))

        return answer(await run_in_threadpool(added))

    @found.post(
        "/v1/uploads/{upload_id}/complete",
        summary="Join the parts to a file",
        openapi_extra={**in_path("upload_id"), **described(inline_schema(UploadComplete))},
        responses=gives(Upload),
    )
    async def complete_upload(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        asked = parse(UploadComplete, json_object(await _small_body(request)))
        row, file = await run_in_threadpool(
            files.complete, caller.project_id, request.path_params["upload_id"], asked.part_ids, asked.md5
        )
        return answer(files.upload_object(row, file))

    @found.post(
        "/v1/uploads/{upload_id}/cancel",
        summary="Cancel an upload",
        openapi_extra=in_path("upload_id"),
        responses=gives(Upload),
    )
    async def cancel_upload(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")

        def cancelled() -> dict[str, Any]:
            with files.db.transaction() as session:
                return files.upload_object(files.cancel(session, caller.project_id, request.path_params["upload_id"]))

        return answer(await run_in_threadpool(cancelled))


@asynccontextmanager
async def stored_form(request: Request, files: FileService, name: str, max_bytes: int) -> AsyncIterator[Form]:
    """A form with one file in the field `name`, which is stored while it arrives.

    The blob is published on leaving the block, so that a form found wrong inside stores nothing.

    Raises:
        InvalidRequest: it is no such form. PayloadTooLarge: the file has more than `max_bytes`. StorageFull.
    """
    reader = MultipartReader(boundary_of(request.headers.get("content-type")))
    form = Form()
    writer: BlobWriter | None = None
    current, is_file, waiting = "", False, bytearray()
    try:
        async for data in request.stream():
            for piece in reader.feed(data):
                if isinstance(piece, PartBegin):
                    current, is_file = piece.name, piece.name == name
                    if is_file and writer is not None:
                        raise InvalidRequest(f"The form has the field {name!r} twice.", param=name, code="invalid_form")
                    if is_file:
                        writer = await run_in_threadpool(files.blobs.writer, max_bytes=max_bytes)
                        form.filename = _basename(piece.filename or name)
                    waiting = bytearray()
                    if len(form.fields) > _MAX_FIELDS:
                        raise InvalidRequest("The form has too many fields.", code="invalid_form")
                elif isinstance(piece, PartData):
                    waiting += piece.data
                    if is_file and writer is not None and len(waiting) >= CHUNK_BYTES:
                        await run_in_threadpool(writer.write, bytes(waiting))
                        waiting.clear()
                    elif not is_file and len(waiting) > _MAX_FIELD_BYTES:
                        raise InvalidRequest(
                            f"The field {current[:80]!r} is too long.", param=current[:80], code="invalid_form"
                        )
                elif is_file and writer is not None:
                    await run_in_threadpool(writer.write, bytes(waiting))
                else:
                    form.fields[current] = waiting.decode("utf-8", "replace")
        reader.close()
        if writer is None:
            raise InvalidRequest(
                f"The parameter {name!r} is missing.", hint="Add it.", param=name, code="missing_required_parameter"
            )
        yield form
        form.blob = await run_in_threadpool(writer.commit)
    finally:
        if writer is not None:
            # Also when the sender hangs up in the middle: nothing stays behind.
            await asyncio.shield(run_in_threadpool(writer.abort))


async def _small_body(request: Request) -> bytes:
    """The body of a request below `/v1/uploads/`, where the server's general limit does not hold."""
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > _MAX_JSON_BYTES:
            raise PayloadTooLarge(f"The request body is larger than {_MAX_JSON_BYTES} bytes.", hint="Use fewer, larger parts.")
    return bytes(body)


def _basename(filename: str) -> str:
    last = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(char if char.isprintable() else "_" for char in last)[-MAX_FILENAME_CHARS:] or "file"


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest(
            "The parameter 'purpose' is missing.", hint="Add it.", param="purpose", code="missing_required_parameter"
        )
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"purpose: {purpose[:80]!r} is not known.",
            hint=f"One of: {', '.join(PURPOSES)}.",
            param="purpose",
            code="invalid_value",
        )
    return purpose


def _life(fields: dict[str, str]) -> int | None:
    anchor, life = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and life is None:
        return None
    given: dict[str, Any] = {"anchor": anchor, "seconds": life}
    if life is not None and life.isdecimal():
        given["seconds"] = int(life)
    try:
        return ExpiresAfter.model_validate({key: value for key, value in given.items() if value is not None}).seconds
    except ValidationError as error:
        raise from_validation(error, prefix="expires_after.") from error


def _form(file: str, *fields: str) -> dict[str, Any]:
    properties = {file: {"type": "string", "format": "binary"}, **{name: {"type": "string"} for name in fields}}
    schema = {"type": "object", "properties": properties, "required": [file, *fields]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def query_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The query parameters of a route, for OpenAPI."""
    properties: dict[str, Any] = kind.model_json_schema()["properties"]
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": {key: each for key, each in schema.items() if key != "title"},
            }
            for name, schema in properties.items()
        ]
    }
