"""`/v1/responses`: OpenAI's routes over `ResponseCall` and `ResponseService`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.gateway.file_routes import answer, parse, query_of
from modelworks.kernel.gateway.response_calls import Reading, ResponseCall
from modelworks.kernel.gateway.response_wire import InputTokensCount, ResponseCreate, refuse_unsupported
from modelworks.kernel.gateway.responses import ResponseService
from modelworks.kernel.gateway.routes import EVENTS, PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object, model_name
from modelworks.kernel.gateway.stream import StreamedAnswer, whole_answer

_RESPONSES = "/v1/responses"
_RESPONSE = _RESPONSES + "/{response_id}"


class ItemQuery(BaseModel):
    """The query of a list of items."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


def router(gateway: GatewayService, responses: ResponseService) -> APIRouter:
    """The routes of responses. All need the scope "inference": who may ask may see and delete what was answered."""
    found = APIRouter(route_class=PlainRoute, tags=["Responses"])
    _asking(found, gateway, responses)
    _kept(found, gateway, responses)
    return found


def _asking(found: APIRouter, gateway: GatewayService, responses: ResponseService) -> None:
    @found.post(
        _RESPONSES,
        summary="Make a response",
        responses=EVENTS,
        openapi_extra=described(inline_schema(ResponseCreate)),
    )
    async def create_response(request: Request) -> Response:
        principal = await gateway.caller(request.scope)
        meter = gateway.meter(principal, request.scope, _RESPONSES)
        try:
            body = json_object(await request.body())
            meter.model = model_name(body)
            principal.require_model(meter.model)
            refuse_unsupported(body)
            call = ResponseCall(gateway, responses, principal, meter, parse(ResponseCreate, body))
        except ModelworksError as error:
            await meter.record(error.status, error)
            raise
        if body.get("stream"):
            return StreamedAnswer(call.stream_to, meter, "sse", gateway.keep_alive_s)
        return await whole_answer(call.whole, meter, request.receive)

    @found.post(
        _RESPONSES + "/input_tokens",
        summary="Count the tokens that a response would read",
        openapi_extra=described(inline_schema(InputTokensCount)),
    )
    async def count_input_tokens(request: Request) -> Response:
        principal = await gateway.caller(request.scope)
        meter = gateway.meter(principal, request.scope, _RESPONSES + "/input_tokens")
        try:
            body = json_object(await request.body())
            meter.model = model_name(body)
            principal.require_model(meter.model)
            reading = Reading(responses, principal, parse(InputTokensCount, body))
        except ModelworksError as error:
            await meter.record(error.status, error)
            raise

        async def counted() -> bytes:
            await reading.gather()
            return orjson.dumps({"object": "response.input_tokens", "input_tokens": await reading.count(gateway, meter)})

        return await whole_answer(counted, meter, request.receive)


def _kept(found: APIRouter, gateway: GatewayService, responses: ResponseService) -> None:
    async def look(request: Request, what: Callable[[Session, str, str], dict[str, Any]]) -> Response:
        caller = await gateway.caller(request.scope)

        def read() -> dict[str, Any]:
            with responses.db.reading() as session:
                return what(session, caller.project_id, request.path_params["response_id"])

        return answer(await run_in_threadpool(read))

    @found.get(_RESPONSE, summary="One response", openapi_extra=in_path("response_id"))
    async def retrieve_response(request: Request) -> Response:
        return await look(request, responses.get)

    @found.delete(_RESPONSE, summary="Delete a response", openapi_extra=in_path("response_id"))
    async def delete_response(request: Request) -> Response:
        caller = await gateway.caller(request.scope)

        def delete() -> dict[str, Any]:
            with responses.db.transaction() as session:
                return responses.delete(session, caller.project_id, request.path_params["response_id"])

        return answer(await run_in_threadpool(delete))

    @found.get(
        _RESPONSE + "/input_items",
        summary="What a response was given",
        openapi_extra={"parameters": in_path("response_id")["parameters"] + query_of(ItemQuery)["parameters"]},
    )
    async def list_input_items(request: Request) -> Response:
        asked = parse(ItemQuery, dict(request.query_params))
        return await look(request, lambda *who: responses.given(*who, **asked.model_dump()).wire())
