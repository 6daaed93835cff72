"""One request for a response: what the model reads is gathered, a chat asked, its answer told as a response and kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import ContextLengthExceeded, InvalidRequest, ModelworksError, UnsupportedParameter
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.generation.chat_reading import Chat, Chunk, count_tokens, renamed
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.responses import file_search, remote
from modelworks.kernel.gateway.responses.agency import Agency
from modelworks.kernel.gateway.responses.events import Composer, Event, wire
from modelworks.kernel.gateway.responses.file_search import Citer, FileSearch
from modelworks.kernel.gateway.responses.items import SEARCH, Item, as_turns, checked
from modelworks.kernel.gateway.responses.remote import Toolbox
from modelworks.kernel.gateway.responses.service import ResponseService
from modelworks.kernel.gateway.responses.wire import (
    CHAT_NAMES,
    InputTokensCount,
    ResponseCreate,
    chat_fields,
    check_context,
    custom_tools,
)
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import DONE, EventStream, Outlet

Emit = Callable[[list[Event]], Awaitable[None]]
_SYSTEM = ("system", "developer")


class Reading:
    """What a model is to read for a request.

    Raises (on construction):
        InvalidRequest: an item, a tool or a combination that cannot be.
    """

    def __init__(self, responses: ResponseService, principal: Principal, asked: ResponseCreate | InputTokensCount) -> None:
        check_context(asked)
        self.asked = asked
        self._responses = responses
        self._principal = principal
        self._fields = chat_fields(asked)
        self.remotes = remote.parse(asked.tools)
        self.searching = file_search.parse(asked.tools)
        if self.searching is not None and not isinstance(asked, ResponseCreate):
            self.offer([self.searching.function()])
        if self.remotes and not isinstance(asked, ResponseCreate):
            raise UnsupportedParameter(
                f"{self.remotes[0].place}: what a server's tools take is not known before it is asked.",
                hint="Leave tools of the type mcp out to count the rest.",
                param=self.remotes[0].place,
            )
        #: The request's own items.
        self.given = checked(asked.input)
        self._turns: list[dict[str, Any]] = []
        self._places: list[str] = []
        #: What precedes the request and its own items.
        self.items: list[Item] = []

    def add(self, turns: Sequence[dict[str, Any]]) -> None:
        """Turns that the answer itself brought about."""
        self._turns.extend(turns)
        self._places.extend(["tools"] * len(turns))

    def offer(self, functions: Sequence[dict[str, Any]], choice: Any = None) -> None:
        """Let the model call these beside the request's own functions; `choice` takes the place of `tool_choice`."""
        own = chat_fields(self.asked)
        tools = [*own.get("tools", ()), *functions]
        self._fields = {name: value for name, value in own.items() if name != "tools"} | ({"tools": tools} if tools else {})
        if choice is not None:
            self._fields["tool_choice"] = choice
        if not tools:
            self._fields.pop("tool_choice", None)
            self._fields.pop("parallel_tool_calls", None)

    async def gather(self) -> None:
        """Read what precedes the request; raises as `ResponseService.context`."""
        before = await run_in_threadpool(self._history)
        self.items = [*before, *self.given]
        asked = self.asked
        history = "previous_response_id" if asked.previous_response_id is not None else "conversation"
        own = ["input"] if isinstance(asked.input, str) else [f"input.{number}" for number in range(len(self.given))]
        places = [history] * len(before) + own[: len(self.given)]
        self._turns, self._places = as_turns([*before, *self.given], places)
        if asked.instructions:
            self._turns.insert(0, {"role": "system", "content": asked.instructions})
            self._places.insert(0, "instructions")

    def _history(self) -> list[Item]:
        asked = self.asked
        with self._responses.db.reading() as session:
            before, self.given = self._responses.context(
                session,
                self._principal.project_id,
                self.given,
                previous_response_id=asked.previous_response_id,
                conversation_id=asked.conversation,
            )
        return before

    def check(self, gateway: GatewayService, meter: Meter) -> None:
        """Whether it could be asked now; raises InvalidRequest as the chat's route."""
        body = self._body(self._turns)
        if self.remotes or self.searching is not None:
            body.pop("tool_choice", None)  # it may be about tools that are not known yet
        with renamed(self._places, CHAT_NAMES):
            Chat(gateway, self._principal, meter, body)

    async def count(self, gateway: GatewayService, meter: Meter) -> int:
        """How many tokens that is; raises as the chat's route."""
        with renamed(self._places, CHAT_NAMES):
            return await count_tokens(gateway, self._principal, meter, self._body(self._turns))

    async def ask(
        self, gateway: GatewayService, meter: Meter, take: Callable[[Chunk], Awaitable[None]], out: Outlet | None
    ) -> None:
        """Put it to the model. With truncation, ever more of the oldest turns are left out until the rest fits.

        Raises:
            ModelworksError: as the chat's route.
        """
        turns, places, step = self._turns, self._places, 1
        begun = False

        async def noted(chunk: Chunk) -> None:
            nonlocal begun
            begun = True
            await take(chunk)

        while True:
            try:
                with renamed(places, CHAT_NAMES):
                    await Chat(gateway, self._principal, meter, self._body(turns)).read(noted, out)
            except ContextLengthExceeded:
                if begun or self.asked.truncation != "auto":
                    raise
                kept = _shortened(turns, step)
                if kept is None:
                    raise
                turns, places, step = [turns[at] for at in kept], [places[at] for at in kept], step * 2
            else:
                return

    def _body(self, turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"model": self.asked.model, "messages": list(turns), **self._fields}


def _shortened(turns: Sequence[dict[str, Any]], num: int) -> list[int] | None:
    """The places of the turns that stay when the `num` oldest go; None where only the last is left.

    Instructions stay. The output of a call goes with the call.
    """
    spoken = [at for at, turn in enumerate(turns) if turn["role"] not in _SYSTEM]
    if len(spoken) <= 1:
        return None
    first = min(num, len(spoken) - 1)
    while first < len(spoken) - 1 and turns[spoken[first]]["role"] == "tool":
        first += 1
    gone = {*spoken[:first]}
    return [at for at in range(len(turns)) if at not in gone]


class ResponseCall:
    """One response, made while its caller waits or in the background.

    Args:
        response_id: of a response that was promised before.
        created_at: Unix seconds.

    Raises (on construction):
        InvalidRequest: as `Reading`.
    """

    def __init__(
        self,
        gateway: GatewayService,
        responses: ResponseService,
        principal: Principal,
        meter: Meter,
        asked: ResponseCreate,
        *,
        response_id: str | None = None,
        created_at: int | None = None,
    ) -> None:
        self._gateway = gateway
        self._responses = responses
        self._principal = principal
        self._meter = meter
        self._asked = asked
        self.reading = Reading(responses, principal, asked)
        self.head = head(
            asked,
            response_id=response_id or new_id("resp"),
            created_at=gateway.now_s() if created_at is None else created_at,
        )
        self._search: FileSearch | None = None
        citer: Citer | None = None
        if (searching := self.reading.searching) is not None:
            citer = Citer(is_prose=asked.text is None or (asked.text.format or {"type": "text"})["type"] == "text")
            with_results = file_search.RESULTS in (asked.include or ())
            self._search = FileSearch(gateway, principal, meter, searching, citer, with_results=with_results)
        self.composer = Composer(self.head, custom=custom_tools(asked.tools), citer=citer)

    async def promise(self) -> dict[str, Any]:
        """Check all that can be checked, and keep a response that waits to be answered in the background; returns it.

        Raises:
            InvalidRequest: it is not to be stored, or the request is wrong.
            ModelNotFound: nothing is deployed under that name.
        """
        if self._asked.store is False:
            raise InvalidRequest(
                "A response in the background is fetched later, so that it has to be stored.",
                hint="Leave store out.",
                param="store",
                code="invalid_value",
            )
        for each in self.reading.remotes:
            if each.server.headers:
                raise UnsupportedParameter(
                    f"{each.place}: a response in the background would store what is sent to the server {each.label!r}.",
                    hint="Ask without background, or a server that needs no headers.",
                    param=each.place,
                )
        spaces = self._gateway.spaces
        if spaces is not None and spaces.is_space(self._asked.model):
            await spaces.model(self._gateway, self._principal, self._asked.model)
        else:
            self._gateway.model(self._principal, self._asked.model)
        if self._search is not None:
            await self._search.open()
        await self.reading.gather()
        self.reading.check(self._gateway, self._meter)
        asked = {**self._asked.model_dump(exclude_none=True), "input": self.reading.given}
        found = {**self.head, "status": "queued"}

        def keep() -> None:
            with self._responses.db.transaction() as session:
                self._responses.keep(session, self._principal, found, self.reading.given, asked=asked)

        await run_in_threadpool(keep)
        return found

    async def whole(self) -> bytes:
        """The response in one piece; raises as the chat's route."""

        async def pass_over(_events: list[Event]) -> None:
            return None

        found, _ = await self.work(pass_over, None)
        await self.keep(found)
        return orjson.dumps(found)

    async def stream_to(self, out: EventStream) -> bytes:
        """The response event by event; returns the last one."""

        async def emit(events: list[Event]) -> None:
            if events:
                await out.send(wire(events))

        try:
            found, events = await self.work(emit, out)
        except ModelworksError as error:
            if not out.started:
                raise
            # The status has left: the failure is the response's last event.
            await self._meter.record(error.status, error)
            found, events = self.composer.fail(error)
        await self.keep(found)
        return wire(events) + DONE

    async def work(self, emit: Emit, out: EventStream | None) -> tuple[dict[str, Any], list[Event]]:
        """Ask, and tell each event but the last ones; returns the response and these. Nothing is kept yet.

        Raises:
            ModelworksError: as the chat's route; the composer knows how far it came.
        """
        said: dict[str, Any] | None = None

        async def take(chunk: Chunk) -> None:
            nonlocal said
            said = chunk.get("usage") or said
            await emit([*self.composer.begin(), *self.composer.take(chunk)])

        await self.reading.gather()
        if self.reading.remotes or self._search is not None:
            known = self._responses
            box = Toolbox(known.tool_servers, self._principal.project_id, self.reading.remotes, known.register)
            agency = Agency(
                self._gateway, self._principal, self._meter, self.reading, self._asked, self.composer, box, self._search
            )
            used = await agency.work(emit, out)
        else:
            await self.reading.ask(self._gateway, self._meter, take, out)
            used = self._meter.tallies[0]
        usage = used.as_openai()
        if said is not None and self._gateway.spaces is not None and self._gateway.spaces.is_space(self._meter.model):
            # The models behind a space have records of their own.
            usage = said
        return self.composer.complete(usage, self._gateway.now_s())

    async def keep(self, response: dict[str, Any]) -> None:
        """Store the response where it shall be, and its turn in the conversation."""
        if self._asked.store is not False or response["conversation"] is not None:
            await run_in_threadpool(self._keep, response)

    def _keep(self, response: dict[str, Any]) -> None:
        with self._responses.db.transaction() as session:
            if self._asked.store is not False:
                self._responses.keep(session, self._principal, response, self.reading.given)
            self._responses.append_turn(session, self._principal.project_id, response, self.reading.given)


def head(asked: ResponseCreate, *, response_id: str, created_at: int) -> dict[str, Any]:
    """A response object before its answer.

    Where the request leaves a sampling parameter out, the model's own default holds, and OpenAI's nominal one is shown.
    """
    text = {"format": {"type": "text"}}
    if asked.text is not None:
        text |= asked.text.model_dump(exclude_none=True)
    reasoning = {} if asked.reasoning is None else asked.reasoning.model_dump(exclude_none=True)
    options = asked.prompt_cache_options
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": bool(asked.background),
        "completed_at": None,
        "conversation": None if asked.conversation is None else {"id": asked.conversation},
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "presence_penalty": 0.0,
        "previous_response_id": asked.previous_response_id,
        "prompt_cache_diagnostics": _diagnostics(asked),
        "prompt_cache_key": asked.prompt_cache_key,
        "prompt_cache_options": None if options is None else options.model_dump(exclude_none=True),
        "prompt_cache_retention": asked.prompt_cache_retention,
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "safety_identifier": asked.safety_identifier,
        # There is one tier, and it does the work whichever was asked for.
        "service_tier": "default",
        "store": asked.store is not False,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "text": text,
        "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
        "tools": [_shown(tool) for tool in asked.tools or ()],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "truncation": asked.truncation or "disabled",
        "usage": None,
        "user": asked.user,
    }


def _diagnostics(asked: ResponseCreate) -> dict[str, str] | None:
    """What is known of the cache in comparison with another response: nothing is written down of it."""
    options = asked.prompt_cache_options
    return None if options is None or options.comparison_response_id is None else {"type": "unavailable"}


def _shown(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] == "mcp":
        return remote.shown(tool)
    if tool["type"] == SEARCH:
        return file_search.shown(tool)
    if tool["type"] == "function":
        return {"description": None, "parameters": None, "strict": None, **tool}
    return {"description": None, "format": {"type": "text"}, **tool}
