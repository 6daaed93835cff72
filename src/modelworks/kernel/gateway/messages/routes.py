"""`/v1/messages`: Anthropic's routes over the chat path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from modelworks.contract.errors import ContextLengthExceeded, ModelworksError
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.answers.form import gives, gives_events
from modelworks.kernel.gateway.answers.messages import CountedTokens, Message, MessageEvent
from modelworks.kernel.gateway.errors import MESSAGES, bug, message_envelope
from modelworks.kernel.gateway.files.routes import parse
from modelworks.kernel.gateway.generation.chat_reading import Chat, Chunk, count_tokens, renamed
from modelworks.kernel.gateway.messages.events import PING, Event, MessageComposer, wire
from modelworks.kernel.gateway.messages.wire import (
    CHAT_NAMES,
    MessageCreate,
    TokensCount,
    as_turns,
    chat_fields,
    refuse_unsupported,
)
from modelworks.kernel.gateway.metering import Meter, Tally
from modelworks.kernel.gateway.routes import PlainRoute, described
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import EventStream, Outlet, StreamedAnswer, whole_answer

log = structlog.get_logger(__name__)

_COUNT: Final = MESSAGES + "/count_tokens"
#: The engine of servers that are nobody's of ours: their templates are not spoken to.
_FOREIGN: Final = "upstream"


class MessageCall:
    """One request for a message, or for the number of its tokens.

    Raises (on construction):
        InvalidRequest: a block, a tool or a combination that cannot be; `param` names the caller's field.
    """

    def __init__(self, gateway: GatewayService, principal: Principal, meter: Meter, asked: TokensCount) -> None:
        self._gateway = gateway
        self._principal = principal
        self._meter = meter
        deployed = gateway.pool.peek(principal.project_id, meter.model)
        turns, self._places = as_turns(asked)
        fields = chat_fields(asked, templated=deployed is None or deployed.engine != _FOREIGN)
        self._body: dict[str, Any] = {"model": asked.model, "messages": turns, **fields}
        #: The models behind a data space have records of their own; what they used together is told by its answer.
        self._said = Tally() if gateway.spaces is not None and gateway.spaces.is_space(meter.model) else None
        self._composer = MessageComposer(asked.model, self._said or meter.tallies[0])
        with renamed(self._places, CHAT_NAMES):
            self._chat = Chat(gateway, principal, meter, self._body)

    async def count(self) -> bytes:
        """How many tokens the model would read; raises as the chat's route."""
        with renamed(self._places, CHAT_NAMES):
            return orjson.dumps({"input_tokens": await count_tokens(self._gateway, self._principal, self._meter, self._body)})

    async def whole(self) -> bytes:
        """The message in one piece; raises as the chat's route."""

        async def pass_over(_events: list[Event]) -> None:
            return None

        message, _ = await self._work(pass_over, None)
        return orjson.dumps(message)

    async def stream_to(self, out: EventStream) -> bytes:
        """The message event by event; returns the last ones."""

        async def emit(events: list[Event]) -> None:
            if events:
                out.comment = PING
                await out.send(wire(events))

        try:
            _, events = await self._work(emit, out)
        except ModelworksError as error:
            if not out.started:
                raise
            return await self._failed(error)
        except Exception:
            if not out.started:
                raise
            log.exception("stream failed", request_id=self._meter.request_id)
            return await self._failed(bug(self._meter.request_id))
        return wire(events)

    async def _failed(self, error: ModelworksError) -> bytes:
        await self._meter.record(error.status, error)
        return wire([message_envelope(error, self._meter.request_id)])

    async def _work(
        self, emit: Callable[[list[Event]], Awaitable[None]], out: Outlet | None
    ) -> tuple[dict[str, Any], list[Event]]:
        composer = self._composer

        async def take(chunk: Chunk) -> None:
            if self._said is not None and chunk.get("usage"):
                self._said.take_openai(chunk["usage"])
            await emit([*composer.begin(), *composer.take(chunk)])

        with renamed(self._places, CHAT_NAMES):
            try:
                await self._chat.read(take, out)
            except ContextLengthExceeded as error:
                if composer.begun or error.param != "max_tokens":
                    raise
                # The prompt fits: clients of large models ask for more than small ones hold. Where it ends there it says so.
                composer.to_the_end = True
                body = {key: value for key, value in self._body.items() if key != "max_tokens"}
                await Chat(self._gateway, self._principal, self._meter, body).read(take, out)
        return composer.complete()


def router(gateway: GatewayService) -> APIRouter:
    """The routes of messages; their errors have Anthropic's form, whichever layer finds them."""
    found = APIRouter(route_class=PlainRoute, tags=["Anthropic"])

    async def opened(request: Request, path: str, form: type[TokensCount]) -> tuple[MessageCall, Meter, dict[str, Any]]:
        async with gateway.question(request, path) as (principal, meter, body):
            refuse_unsupported(body)
            return MessageCall(gateway, principal, meter, parse(form, body)), meter, body

    @found.post(
        MESSAGES,
        summary="Answer with a message",
        responses=gives_events(Message, MessageEvent),
        openapi_extra=described(inline_schema(MessageCreate)),
    )
    async def create_message(request: Request) -> Response:
        call, meter, body = await opened(request, MESSAGES, MessageCreate)
        if body.get("stream"):
            return StreamedAnswer(call.stream_to, meter, "sse", gateway.keep_alive_s)
        return await whole_answer(call.whole, meter, request.receive)

    @found.post(
        _COUNT,
        summary="Count the tokens that a message would read",
        openapi_extra=described(inline_schema(TokensCount)),
        responses=gives(CountedTokens),
    )
    async def count_message_tokens(request: Request) -> Response:
        call, meter, _ = await opened(request, _COUNT, TokensCount)
        return await whole_answer(call.count, meter, request.receive)

    return found
