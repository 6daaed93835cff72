"""`/v1/batches`: OpenAI's routes over `BatchService`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.answers.form import Page, gives
from modelworks.kernel.gateway.answers.stored import Batch
from modelworks.kernel.gateway.batches.service import BatchCreate, BatchService
from modelworks.kernel.gateway.files.routes import answer, parse, query_of
from modelworks.kernel.gateway.routes import PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object

_BATCHES = "/v1/batches"
_BATCH = _BATCHES + "/{batch_id}"


class BatchQuery(BaseModel):
    """The query of the list of batches."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)


def router(gateway: GatewayService, batches: BatchService) -> APIRouter:
    """The routes of batches; reading needs the scope "read", changing "write", and making one "inference" as well."""
    found = APIRouter(route_class=PlainRoute, tags=["Batches"])

    async def look(request: Request, what: Callable[[Session, str], dict[str, Any]]) -> Response:
        caller = await gateway.principal(request.scope, "read")

        def read() -> dict[str, Any]:
            with batches.db.reading() as session:
                return what(session, caller.project_id)

        return answer(await run_in_threadpool(read))

    async def change(request: Request, what: Callable[[Session, Principal], dict[str, Any]]) -> Response:
        caller = await gateway.principal(request.scope, "write")

        def write() -> dict[str, Any]:
            with batches.db.transaction() as session:
                return what(session, caller)

        done = await run_in_threadpool(write)
        batches.wake()
        return answer(done)

    @found.post(
        _BATCHES,
        summary="Ask the questions of a file",
        openapi_extra=described(inline_schema(BatchCreate)),
        responses=gives(Batch),
    )
    async def create_batch(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        caller.require("inference")
        asked = parse(BatchCreate, json_object(await request.body()))
        return await change(request, lambda session, who: batches.create(session, who, asked))

    @found.get(_BATCHES, summary="List batches", openapi_extra=query_of(BatchQuery), responses=gives(Page[Batch]))
    async def list_batches(request: Request) -> Response:
        asked = parse(BatchQuery, dict(request.query_params))
        return await look(request, lambda session, project_id: batches.list(session, project_id, **asked.model_dump()).wire())

    @found.get(_BATCH, summary="One batch", openapi_extra=in_path("batch_id"), responses=gives(Batch))
    async def retrieve_batch(request: Request) -> Response:
        return await look(request, lambda session, project_id: batches.get(session, project_id, _id(request)))

    @found.post(_BATCH + "/cancel", summary="Cancel a batch", openapi_extra=in_path("batch_id"), responses=gives(Batch))
    async def cancel_batch(request: Request) -> Response:
        return await change(request, lambda session, caller: batches.cancel(session, caller.project_id, _id(request)))

    return found


def _id(request: Request) -> str:
    found: str = request.path_params["batch_id"]
    return found
