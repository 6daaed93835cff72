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

from modelworks.kernel.gateway.answers.form import Page, gives, gives_events
from modelworks.kernel.gateway.answers.response_events import ResponseEvent
from modelworks.kernel.gateway.answers.responses import CountedInput, ResponseObject
from modelworks.kernel.gateway.answers.responses import Item as ItemForm
from modelworks.kernel.gateway.answers.stored import Deleted
from modelworks.kernel.gateway.files.routes import answer, parse, query_of
from modelworks.kernel.gateway.forwarding import FIRST, FromFirst
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.responses.calls import Reading, ResponseCall
from modelworks.kernel.gateway.responses.events import wire
from modelworks.kernel.gateway.responses.service import ResponseService
from modelworks.kernel.gateway.responses.steps import ResponseSteps, Tape
from modelworks.kernel.gateway.responses.wire import Includable, InputTokensCount, ResponseCreate, refuse_unsupported
from modelworks.kernel.gateway.routes import PlainRoute, described, in_path
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import DONE, EventStream, StreamedAnswer, whole_answer

_RESPONSES = "/v1/responses"
_RESPONSE = _RESPONSES + "/{response_id}"


class ItemQuery(BaseModel):
    """The query of a list of items."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    include: list[Includable] | None = Field(default=None, description="Items show what they hold with and without.")


class ResponseQuery(BaseModel):
    """The query of a response."""

    stream: bool = Field(default=False, description="Its events, where it was made with background and stream.")
    starting_after: int = Field(default=-1, ge=-1, lt=1 << 63, description="Only events with a greater number.")


def page_of_items(request: Request) -> dict[str, Any]:
    """Which items a query asks for; raises InvalidRequest."""
    query = request.query_params
    given: dict[str, Any] = {name: value for name, value in query.items() if name not in ("include", "include[]")}
    # Clients write lists in either way.
    if included := [*query.getlist("include"), *query.getlist("include[]")]:
        given["include"] = included
    return parse(ItemQuery, given).model_dump(exclude={"include"})


def router(gateway: GatewayService, responses: ResponseService, steps: ResponseSteps) -> APIRouter:
    """The routes of responses. All need the scope "inference": who may ask may see and delete what was answered."""
    found = APIRouter(route_class=PlainRoute, tags=["Responses"])
    _asking(found, gateway, responses, steps)
    _kept(found, gateway, responses, steps)
    return found


def _told(tape: Tape, after: int, meter: Meter, keep_alive_s: float) -> StreamedAnswer:
    """The events of a response in the background, for a caller who may leave and come back."""

    async def tell(out: EventStream) -> bytes:
        async for events in tape.read(after):
            await out.send(wire(events))
        return DONE

    meter.leave()
    return StreamedAnswer(tell, meter, "sse", keep_alive_s)


def _asking(found: APIRouter, gateway: GatewayService, responses: ResponseService, steps: ResponseSteps) -> None:
    @found.post(
        _RESPONSES,
        summary="Make a response",
        responses=gives_events(ResponseObject, ResponseEvent),
        openapi_extra=described(inline_schema(ResponseCreate)),
    )
    async def create_response(request: Request) -> Response:
        async with gateway.question(request, _RESPONSES) as (principal, meter, body):
            refuse_unsupported(body)
            asked = parse(ResponseCreate, body)
            call = ResponseCall(gateway, responses, principal, meter, asked)
            if asked.background:
                promised = await call.promise()
        if asked.background:
            first = request.scope.get(FIRST)
            tape = steps.expect(promised["id"]) if asked.stream and first is None else None
            responses.wake()
            if tape is not None:
                return _told(tape, -1, meter, gateway.keep_alive_s)
            if asked.stream and first is not None:
                meter.leave()
                return FromFirst(first, f"{_RESPONSES}/{promised['id']}", {"stream": "true"})
            return answer(promised)
        if asked.stream:
            return StreamedAnswer(call.stream_to, meter, "sse", gateway.keep_alive_s)
        return await whole_answer(call.whole, meter, request.receive)

    @found.post(
        _RESPONSES + "/input_tokens",
        summary="Count the tokens that a response would read",
        openapi_extra=described(inline_schema(InputTokensCount)),
        responses=gives(CountedInput),
    )
    async def count_input_tokens(request: Request) -> Response:
        async with gateway.question(request, _RESPONSES + "/input_tokens") as (principal, meter, body):
            refuse_unsupported(body)
            reading = Reading(responses, principal, parse(InputTokensCount, body))

        async def counted() -> bytes:
            await reading.gather()
            return orjson.dumps({"object": "response.input_tokens", "input_tokens": await reading.count(gateway, meter)})

        return await whole_answer(counted, meter, request.receive)


def _kept(found: APIRouter, gateway: GatewayService, responses: ResponseService, steps: ResponseSteps) -> None:
    async def look(request: Request, what: Callable[[Session, str, str], dict[str, Any]]) -> Response:
        caller = await gateway.caller(request.scope)

        def read() -> dict[str, Any]:
            with responses.db.reading() as session:
                return what(session, caller.project_id, request.path_params["response_id"])

        return answer(await run_in_threadpool(read))

    async def change(request: Request, what: Callable[[Session, str, str], dict[str, Any]]) -> Response:
        caller = await gateway.caller(request.scope)

        def write() -> dict[str, Any]:
            with responses.db.transaction() as session:
                return what(session, caller.project_id, request.path_params["response_id"])

        done = await run_in_threadpool(write)
        responses.wake()
        return answer(done)

    @found.get(
        _RESPONSE,
        summary="One response",
        responses=gives_events(ResponseObject, ResponseEvent),
        openapi_extra={"parameters": in_path("response_id")["parameters"] + query_of(ResponseQuery)["parameters"]},
    )
    async def retrieve_response(request: Request) -> Response:
        asked = parse(ResponseQuery, dict(request.query_params))
        if not asked.stream:
            return await look(request, responses.get)
        caller, response_id = await gateway.caller(request.scope), request.path_params["response_id"]

        def is_to_be_told() -> bool:
            with responses.db.reading() as session:
                return responses.is_to_be_told(session, caller.project_id, response_id)

        if await run_in_threadpool(is_to_be_told):
            # Another process may have promised it, or a server before this one.
            tape = steps.expect(response_id)
            responses.wake()
        else:
            tape = steps.tape(response_id)
        meter = gateway.meter(caller, request.scope, _RESPONSE)
        return _told(tape, asked.starting_after, meter, gateway.keep_alive_s)

    @found.delete(_RESPONSE, summary="Delete a response", openapi_extra=in_path("response_id"), responses=gives(Deleted))
    async def delete_response(request: Request) -> Response:
        return await change(request, responses.delete)

    @found.post(
        _RESPONSE + "/cancel",
        summary="Cancel a response in the background",
        openapi_extra=in_path("response_id"),
        responses=gives(ResponseObject),
    )
    async def cancel_response(request: Request) -> Response:
        return await change(request, responses.cancel)

    @found.get(
        _RESPONSE + "/input_items",
        summary="What a response was given",
        openapi_extra={"parameters": in_path("response_id")["parameters"] + query_of(ItemQuery)["parameters"]},
        responses=gives(Page[ItemForm]),
    )
    async def list_input_items(request: Request) -> Response:
        asked = page_of_items(request)
        return await look(request, lambda *who: responses.given(*who, **asked).wire())
