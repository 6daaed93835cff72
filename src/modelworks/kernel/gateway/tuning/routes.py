"""`/v1/fine_tuning/jobs`: OpenAI's routes over `FineTuningService`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.gateway.answers.form import Page, gives
from modelworks.kernel.gateway.answers.stored import Deleted
from modelworks.kernel.gateway.answers.tuning import FineTuningCheckpoint, FineTuningEvent, FineTuningJob
from modelworks.kernel.gateway.files.routes import answer, parse, query_of
from modelworks.kernel.gateway.routes import PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object
from modelworks.kernel.gateway.tuning.service import FineTuningService
from modelworks.kernel.gateway.tuning.wire import FineTuningCreate

_JOBS = "/v1/fine_tuning/jobs"
_JOB = _JOBS + "/{fine_tuning_job_id}"
_ID = "fine_tuning_job_id"
_LABEL = re.compile(r"metadata\[([^\]]*)\]")


class PageQuery(BaseModel):
    """The query of a list."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)


class JobQuery(PageQuery):
    """The query of the list of jobs; pairs of metadata are asked for as metadata[key]=value."""

    metadata: str | None = Field(default=None, description="null: only jobs without metadata.")


def router(gateway: GatewayService, tuning: FineTuningService) -> APIRouter:
    """The routes of fine-tuning jobs; reading needs the scope "read", changing "write"."""
    found = APIRouter(route_class=PlainRoute, tags=["Fine-tuning"])

    @found.post(
        _JOBS, summary="Tune a model", openapi_extra=described(inline_schema(FineTuningCreate)), responses=gives(FineTuningJob)
    )
    async def create_job(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        asked = parse(FineTuningCreate, json_object(await request.body()))
        return await _change(tuning, lambda session: tuning.create(session, caller, asked))

    @found.get(_JOBS, summary="List fine-tuning jobs", openapi_extra=query_of(JobQuery), responses=gives(Page[FineTuningJob]))
    async def list_jobs(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "read")
        asked = parse(JobQuery, dict(request.query_params))
        labels = _labels(request)

        def read(session: Session) -> dict[str, Any]:
            found = tuning.list(session, caller.project_id, after=asked.after, limit=asked.limit, metadata=labels)
            return found.wire()

        return await _look(tuning, read)

    @found.get(_JOB, summary="One fine-tuning job", openapi_extra=in_path(_ID), responses=gives(FineTuningJob))
    async def retrieve_job(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "read")
        return await _look(tuning, lambda session: tuning.get(session, caller.project_id, request.path_params[_ID]))

    @found.delete(
        "/v1/models/{model:path}",
        summary="End a tuned model",
        openapi_extra=in_path("model"),
        tags=["Fine-tuning"],
        responses=gives(Deleted),
    )
    async def delete_model(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        name = request.path_params["model"]
        caller.require_model(name)

        def deleted(session: Session) -> dict[str, Any]:
            tuning.delete_model(session, caller.project_id, name)
            return {"id": name, "object": "model", "deleted": True}

        return await _change(tuning, deleted)

    for verb, summary in (
        ("cancel", "Stop a job for good"),
        ("pause", "Stop a job for a while"),
        ("resume", "Let a paused job go on"),
    ):
        found.add_api_route(
            f"{_JOB}/{verb}",
            _changing(gateway, tuning, getattr(tuning, verb)),
            methods=["POST"],
            summary=summary,
            name=f"{verb}_job",
            openapi_extra=in_path(_ID),
            responses=gives(FineTuningJob),
        )
    for noun, summary, shown in (
        ("events", "What happened to a job", Page[FineTuningEvent]),
        ("checkpoints", "Models that a job has left", Page[FineTuningCheckpoint]),
    ):
        found.add_api_route(
            f"{_JOB}/{noun}",
            _listing(gateway, tuning, getattr(tuning, noun)),
            methods=["GET"],
            summary=summary,
            name=f"list_{noun}",
            openapi_extra={"parameters": in_path(_ID)["parameters"] + query_of(PageQuery)["parameters"]},
            responses=gives(shown),
        )

    return found


def _changing(
    gateway: GatewayService, tuning: FineTuningService, change: Callable[[Session, str, str], dict[str, Any]]
) -> Callable[..., Any]:
    async def changed(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        return await _change(tuning, lambda session: change(session, caller.project_id, request.path_params[_ID]))

    return changed


def _listing(gateway: GatewayService, tuning: FineTuningService, listed: Callable[..., Any]) -> Callable[..., Any]:
    async def page(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "read")
        asked = parse(PageQuery, dict(request.query_params))

        def read(session: Session) -> dict[str, Any]:
            found: dict[str, Any] = listed(
                session, caller.project_id, request.path_params[_ID], after=asked.after, limit=asked.limit
            ).wire()
            return found

        return await _look(tuning, read)

    return page


async def _look(tuning: FineTuningService, what: Callable[[Session], dict[str, Any]]) -> Response:
    def read() -> dict[str, Any]:
        with tuning.db.reading() as session:
            return what(session)

    return answer(await run_in_threadpool(read))


async def _change(tuning: FineTuningService, what: Callable[[Session], dict[str, Any]]) -> Response:
    def write() -> dict[str, Any]:
        with tuning.db.transaction() as session:
            return what(session)

    found = await run_in_threadpool(write)
    tuning.wake()
    return answer(found)


def _labels(request: Request) -> dict[str, str] | None:
    """The filter on metadata; None: no filter, empty: only jobs without metadata."""
    wanted: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if match := _LABEL.fullmatch(key):
            wanted[match.group(1)] = value
    asked = request.query_params.get("metadata")
    if asked is None:
        return wanted or None
    if asked != "null" or wanted:
        raise InvalidRequest(
            "metadata: give metadata[key]=value, or metadata=null alone.", param="metadata", code="invalid_value"
        )
    return {}
