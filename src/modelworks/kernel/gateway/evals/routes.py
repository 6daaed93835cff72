"""`/v1/evals`: OpenAI's routes over `EvalService`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.answers.evals import Eval, EvalDeleted, EvalItem, EvalRun, EvalRunDeleted
from modelworks.kernel.gateway.answers.form import Page, gives
from modelworks.kernel.gateway.evals.service import EvalService
from modelworks.kernel.gateway.evals.wire import EvalCreate, EvalRunCreate, EvalUpdate
from modelworks.kernel.gateway.files.routes import answer, parse, query_of
from modelworks.kernel.gateway.routes import PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object

_EVALS = "/v1/evals"
_EVAL = _EVALS + "/{eval_id}"
_RUNS = _EVAL + "/runs"
_RUN = _RUNS + "/{run_id}"
_ITEMS = _RUN + "/output_items"
_ITEM = _ITEMS + "/{output_item_id}"


class EvalPageQuery(BaseModel):
    """The query of a list."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "asc"


class EvalQuery(EvalPageQuery):
    """The query of the list of evals."""

    order_by: Literal["created_at", "updated_at"] = "created_at"


class EvalRunQuery(EvalPageQuery):
    """The query of the list of runs."""

    status: Literal["queued", "in_progress", "completed", "canceled", "failed"] | None = None


class OutputItemQuery(EvalPageQuery):
    """The query of the list of output items."""

    status: Literal["fail", "pass", "error"] | None = None


def router(gateway: GatewayService, evals: EvalService) -> APIRouter:
    """The routes of evals; reading needs the scope "read", changing "write", and asking a model "inference" as well."""
    found = APIRouter(route_class=PlainRoute, tags=["Evals"])
    _evals(found, _Door(gateway, evals))
    _runs(found, _Door(gateway, evals))
    _items(found, _Door(gateway, evals))
    return found


class _Door:
    """Checks the key, and opens the one transaction of a request."""

    def __init__(self, gateway: GatewayService, evals: EvalService) -> None:
        self._gateway = gateway
        self.evals = evals

    async def look(self, request: Request, what: Callable[[Session, str], dict[str, Any]]) -> Response:
        """Answer with what is read; `what` gets the session and the project."""
        caller = await self._gateway.principal(request.scope, "read")

        def read() -> dict[str, Any]:
            with self.evals.db.reading() as session:
                return what(session, caller.project_id)

        return answer(await run_in_threadpool(read))

    async def change(
        self, request: Request, what: Callable[[Session, Principal], dict[str, Any]], status_code: int = 200
    ) -> Response:
        """Answer with what was written."""
        caller = await self.writer(request)

        def write() -> dict[str, Any]:
            with self.evals.db.transaction() as session:
                return what(session, caller)

        found = await run_in_threadpool(write)
        self.evals.wake()
        return answer(found, status_code)

    async def writer(self, request: Request) -> Principal:
        """The caller, who may change something."""
        return await self._gateway.principal(request.scope, "write")


def _evals(found: APIRouter, door: _Door) -> None:
    evals = door.evals

    @found.post(
        _EVALS,
        summary="Make an eval",
        status_code=201,
        openapi_extra=described(inline_schema(EvalCreate)),
        responses=gives(Eval, 201),
    )
    async def create_eval(request: Request) -> Response:
        caller = await door.writer(request)
        asked = parse(EvalCreate, json_object(await request.body()))
        # Before the transaction: criteria are opened, which takes its time.
        config = await run_in_threadpool(evals.check, caller, asked)
        return await door.change(request, lambda session, who: evals.create(session, who, asked, config), 201)

    @found.get(_EVALS, summary="List evals", openapi_extra=query_of(EvalQuery), responses=gives(Page[Eval]))
    async def list_evals(request: Request) -> Response:
        asked = parse(EvalQuery, dict(request.query_params))
        return await door.look(
            request, lambda session, project_id: evals.list(session, project_id, **asked.model_dump()).wire()
        )

    @found.get(_EVAL, summary="One eval", openapi_extra=_in_path("eval_id"), responses=gives(Eval))
    async def retrieve_eval(request: Request) -> Response:
        return await door.look(request, lambda session, project_id: evals.get(session, project_id, *_ids(request)))

    @found.post(
        _EVAL,
        summary="Rename an eval",
        openapi_extra={**_in_path("eval_id"), **described(inline_schema(EvalUpdate))},
        responses=gives(Eval),
    )
    async def update_eval(request: Request) -> Response:
        asked = parse(EvalUpdate, json_object(await request.body()))
        return await door.change(
            request, lambda session, caller: evals.update(session, caller.project_id, asked, *_ids(request))
        )

    @found.delete(_EVAL, summary="Delete an eval", openapi_extra=_in_path("eval_id"), responses=gives(EvalDeleted))
    async def delete_eval(request: Request) -> Response:
        return await door.change(request, lambda session, caller: evals.delete(session, caller.project_id, *_ids(request)))


def _runs(found: APIRouter, door: _Door) -> None:
    evals = door.evals

    @found.post(
        _RUNS,
        summary="Run an eval",
        status_code=201,
        openapi_extra={**_in_path("eval_id"), **described(inline_schema(EvalRunCreate))},
        responses=gives(EvalRun, 201),
    )
    async def create_eval_run(request: Request) -> Response:
        asked = parse(EvalRunCreate, json_object(await request.body()))
        return await door.change(request, lambda session, caller: evals.create_run(session, caller, asked, *_ids(request)), 201)

    @found.get(
        _RUNS,
        summary="List runs of an eval",
        openapi_extra=_in_path("eval_id", query=EvalRunQuery),
        responses=gives(Page[EvalRun]),
    )
    async def list_eval_runs(request: Request) -> Response:
        asked = parse(EvalRunQuery, dict(request.query_params))
        return await door.look(
            request,
            lambda session, project_id: evals.list_runs(session, project_id, *_ids(request), **asked.model_dump()).wire(),
        )

    @found.get(_RUN, summary="One run of an eval", openapi_extra=_in_path("eval_id", "run_id"), responses=gives(EvalRun))
    async def retrieve_eval_run(request: Request) -> Response:
        return await door.look(request, lambda session, project_id: evals.get_run(session, project_id, *_ids(request)))

    @found.post(_RUN, summary="Cancel a run of an eval", openapi_extra=_in_path("eval_id", "run_id"), responses=gives(EvalRun))
    async def cancel_eval_run(request: Request) -> Response:
        return await door.change(request, lambda session, caller: evals.cancel_run(session, caller.project_id, *_ids(request)))

    # OpenAI's clients cancel by the path; its reference describes the run's own path.
    found.add_api_route(
        f"{_RUN}/cancel",
        cancel_eval_run,
        methods=["POST"],
        summary="Cancel a run of an eval",
        name="cancel_eval_run_by_path",
        openapi_extra=_in_path("eval_id", "run_id"),
        responses=gives(EvalRun),
    )

    @found.delete(
        _RUN, summary="Delete a run of an eval", openapi_extra=_in_path("eval_id", "run_id"), responses=gives(EvalRunDeleted)
    )
    async def delete_eval_run(request: Request) -> Response:
        return await door.change(request, lambda session, caller: evals.delete_run(session, caller.project_id, *_ids(request)))


def _items(found: APIRouter, door: _Door) -> None:
    evals = door.evals

    @found.get(
        _ITEMS,
        summary="What a run found, item by item",
        openapi_extra=_in_path("eval_id", "run_id", query=OutputItemQuery),
        responses=gives(Page[EvalItem]),
    )
    async def list_output_items(request: Request) -> Response:
        asked = parse(OutputItemQuery, dict(request.query_params))
        return await door.look(
            request, lambda session, project_id: evals.items(session, project_id, *_ids(request), **asked.model_dump()).wire()
        )

    @found.get(
        _ITEM,
        summary="One item of a run",
        openapi_extra=_in_path("eval_id", "run_id", "output_item_id"),
        responses=gives(EvalItem),
    )
    async def retrieve_output_item(request: Request) -> Response:
        return await door.look(request, lambda session, project_id: evals.item(session, project_id, *_ids(request)))


def _ids(request: Request) -> list[str]:
    """The ids in the path, from the outside in."""
    return [request.path_params[name] for name in ("eval_id", "run_id", "output_item_id") if name in request.path_params]


def _in_path(*names: str, query: type[BaseModel] | None = None) -> dict[str, Any]:
    parameters = [parameter for name in names for parameter in in_path(name)["parameters"]]
    return {"parameters": parameters + (query_of(query)["parameters"] if query is not None else [])}
