"""Answering chat and completion requests: from replicas of ours or from a server that speaks the protocol itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError

from modelworks.contract.errors import InvalidRequest, ModelworksError
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway import proxy
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.exchange import Call, exchange, read_chunks, refusal
from modelworks.kernel.gateway.generation import chat, completions
from modelworks.kernel.gateway.metering import Meter, Tally
from modelworks.kernel.gateway.schemas import ChatRequest, CompletionRequest
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import DONE, Outlet
from modelworks.kernel.serving import Route

#: The task whose wire form is `GenerationInput`.
LANGUAGE_TASK = "text-generation"
#: Prompts of one request that are answered at the same time.
_PARALLEL_PROMPTS = 16

Chunks = list[dict[str, Any]]
_Wire = TypeVar("_Wire", bound=BaseModel)


class ChatCall:
    """One request to /v1/chat/completions.

    A request for a model of ours is validated in full, at once; one for an upstream server is the upstream's to judge.

    Raises (on construction):
        InvalidRequest: as `chat.to_generation`, with `param` naming the field.
    """

    path = "/chat/completions"

    def __init__(self, gateway: GatewayService, principal: Principal, meter: Meter, body: dict[str, Any]) -> None:
        self._gateway = gateway
        self._project_id = principal.project_id
        self._meter = meter
        self._body = body
        self._request: ChatRequest | None = None
        self._generation: dict[str, Any] = {}
        self.stream = bool(body.get("stream"))
        meter.asked_tokens, meter.answers, meter.prompts = _asked_tokens(body), _choices(body), 1
        meter.split_by = _user(body) or meter.split_by
        if _is_upstream(gateway, principal, meter.model):
            _require_list(body, "messages")
        else:
            self._understand()

    def _understand(self) -> ChatRequest:
        if self._request is None:
            request = _validated(ChatRequest, self._body)
            self._generation = chat.to_generation(request, self._body)
            self._request = request
        return self._request

    def _prepare(self, route: Route) -> Call:
        if route.kind == "openai":
            return proxy.call(route, self.path, self._body)
        _require_language(route)
        self._understand()
        return Call("/stream", orjson.dumps(self._generation, option=orjson.OPT_NON_STR_KEYS))

    def _answer(self, route: Route) -> chat.ChatAnswer:
        request = self._understand()
        return chat.ChatAnswer(
            answer_id=new_id("chatcmpl"),
            created=self._gateway.now_s(),
            model=self._meter.model,
            fingerprint=route.version_id,
            n=request.n or 1,
            logprobs=bool(request.logprobs),
            include_usage=wants_usage(self._body),
            tally=self._meter.tallies[0],
            may_call="tools" in self._generation,
            told=chat.told_again(request),
            padded=bool(request.stream_options and request.stream_options.include_obfuscation),
        )

    async def whole(self) -> bytes:
        """The answer in one piece."""
        meter = self._meter
        async with exchange(self._gateway.pool, self._project_id, meter.model, self._prepare, meter) as (route, response):
            if route.kind == "openai":
                return await proxy.whole(response, meter)
            await _require_ok(response)
            answer = self._answer(route)

            async def take(chunks: Chunks) -> None:
                meter.answering_if(chunks)
                answer.take(chunks)

            await read_chunks(response, take)
            return answer.whole()

    async def num_prompt_tokens(self) -> int:
        """How many tokens a replica of ours reads for this chat; it counts and computes nothing, and no usage is noted.

        Raises:
            ContextLengthExceeded: they are more than its context holds.
        """
        meter = self._meter
        self._understand()
        # To hand the prompt back takes no more than its tokens.
        wanted = {key: value for key, value in self._generation.items() if key in ("messages", "tools", "template_args")}
        body = orjson.dumps({**wanted, "max_tokens": 0, "echo": True})

        def prepare(route: Route) -> Call:
            _require_language(route)
            return Call("/stream", body)

        # Nothing is written: no answer needs to be reserved.
        meter.answers = meter.asked_tokens = 0
        tally = Tally()
        async with exchange(self._gateway.pool, self._project_id, meter.model, prepare, meter) as (_, response):
            await _require_ok(response)

            async def take(chunks: Chunks) -> None:
                for chunk in chunks:
                    tally.add(chunk)

            await read_chunks(response, take)
        return tally.prompt_tokens

    async def stream_to(self, out: Outlet) -> bytes:
        """The answer in pieces; returns the last event."""
        meter = self._meter

        def prepare(route: Route) -> Call:
            out.comment = b": keep-alive\n\n"
            return self._prepare(route)

        async with exchange(self._gateway.pool, self._project_id, meter.model, prepare, meter) as (route, response):
            if route.kind == "openai":
                return await _relay(self._body, route, response, meter, out)
            await _require_ok(response)
            answer = self._answer(route)

            async def take(chunks: Chunks) -> None:
                meter.answering_if(chunks)
                if events := answer.events(chunks):
                    await out.send(events)

            await read_chunks(response, take)
            return answer.last_event() + DONE


class Answering(Protocol):
    """A chat under way: a `ChatCall`, or one of what stands behind `GatewayService.spaces`."""

    stream: bool

    async def whole(self) -> bytes:
        """The answer in one piece."""
        ...

    async def stream_to(self, out: Outlet) -> bytes:
        """The answer in pieces; returns the last event."""
        ...

    async def num_prompt_tokens(self) -> int:
        """How many tokens the model reads for it."""
        ...


def chat_call(gateway: GatewayService, principal: Principal, meter: Meter, body: dict[str, Any]) -> Answering:
    """A chat with whatever the meter's model is: a deployment, or a data space.

    Raises:
        InvalidRequest: as `ChatCall`.
    """
    if gateway.spaces is not None and gateway.spaces.is_space(meter.model):
        found: Answering = gateway.spaces.call(gateway, principal, meter, body)
        return found
    return ChatCall(gateway, principal, meter, body)


class CompletionCall:
    """One request to /v1/completions, of one or several prompts; see `ChatCall`."""

    path = "/completions"

    def __init__(self, gateway: GatewayService, principal: Principal, meter: Meter, body: dict[str, Any]) -> None:
        self._gateway = gateway
        self._project_id = principal.project_id
        self._meter = meter
        self._body = body
        self._request: CompletionRequest | None = None
        self._generations: list[dict[str, Any]] = []
        self.stream = bool(body.get("stream"))
        meter.prompts = _prompts(body)
        meter.asked_tokens, meter.answers = _asked_tokens(body) * meter.prompts, _choices(body) * meter.prompts
        meter.split_by = _user(body) or meter.split_by
        if _is_upstream(gateway, principal, meter.model):
            if body.get("prompt") is None:
                _validated(CompletionRequest, body)
        else:
            self._understand()

    def _understand(self) -> CompletionRequest:
        if self._request is None:
            request = _validated(CompletionRequest, self._body)
            self._generations = completions.to_generations(request, self._body)
            self._request = request
        return self._request

    def _prepare(self, route: Route, prompt_index: int = 0) -> Call:
        if route.kind == "openai":
            return proxy.call(route, self.path, self._body)
        _require_language(route)
        self._understand()
        return Call("/stream", orjson.dumps(self._generations[prompt_index], option=orjson.OPT_NON_STR_KEYS))

    def _answer(self, route: Route) -> completions.CompletionAnswer:
        request = self._understand()
        return completions.CompletionAnswer(
            answer_id=new_id("cmpl"),
            created=self._gateway.now_s(),
            model=self._meter.model,
            fingerprint=route.version_id,
            n=request.n or 1,
            logprobs=request.logprobs is not None,
            include_usage=wants_usage(self._body),
            tallies=self._meter.tallies_of(len(self._generations)),
        )

    async def whole(self) -> bytes:
        """The answer in one piece."""
        meter = self._meter
        async with exchange(self._gateway.pool, self._project_id, meter.model, self._prepare, meter) as (route, response):
            if route.kind == "openai":
                return await proxy.whole(response, meter)
            await _require_ok(response)
            answer = self._answer(route)

            async def take(prompt_index: int, chunks: Chunks) -> None:
                meter.answering_if(chunks)
                answer.take(prompt_index, chunks)

            await self._every_prompt(response, take)
            return answer.whole()

    async def stream_to(self, out: Outlet) -> bytes:
        """The answer in pieces; returns the last event."""
        meter = self._meter

        def prepare(route: Route) -> Call:
            out.comment = b": keep-alive\n\n"
            return self._prepare(route)

        async with exchange(self._gateway.pool, self._project_id, meter.model, prepare, meter) as (route, response):
            if route.kind == "openai":
                return await _relay(self._body, route, response, meter, out)
            await _require_ok(response)
            answer = self._answer(route)

            async def take(prompt_index: int, chunks: Chunks) -> None:
                meter.answering_if(chunks)
                if events := answer.events(prompt_index, chunks):
                    await out.send(events)

            await self._every_prompt(response, take)
            return answer.last_event() + DONE

    async def _every_prompt(self, first: aiohttp.ClientResponse, take: Callable[[int, Chunks], Awaitable[None]]) -> None:
        """The first prompt is under way already; the others are asked beside it. One failure ends them all."""
        if len(self._generations) == 1:
            await read_chunks(first, partial(take, 0))
            return
        gate = asyncio.Semaphore(_PARALLEL_PROMPTS)

        async def ask(prompt_index: int) -> None:
            prepare = partial(self._prepare, prompt_index=prompt_index)
            meter, pool = self._meter, self._gateway.pool
            asked = exchange(pool, self._project_id, meter.model, prepare, None, meter.split_by)
            async with gate, asked as (_, response):
                await _require_ok(response)
                await read_chunks(response, partial(take, prompt_index))

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(read_chunks(first, partial(take, 0)))
                for prompt_index in range(1, len(self._generations)):
                    group.create_task(ask(prompt_index))
        except BaseExceptionGroup as failures:
            raise most_telling(failures) from failures


def most_telling(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """An error that the caller may see before one that is a bug."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [failures]
    while pending:
        failure = pending.pop(0)
        if isinstance(failure, BaseExceptionGroup):
            pending.extend(failure.exceptions)
        else:
            leaves.append(failure)
    return next((leaf for leaf in leaves if isinstance(leaf, ModelworksError)), leaves[0])


def _asked_tokens(body: dict[str, Any]) -> int:
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return limit * _choices(body) if isinstance(limit, int) else 0


def _choices(body: dict[str, Any]) -> int:
    """Answers to each prompt; `best_of` more are written than are given."""
    numbers = [body.get("n"), body.get("best_of")]
    return max(1, *(number if isinstance(number, int) else 1 for number in numbers))


def _prompts(body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def _user(body: dict[str, Any]) -> str | None:
    """Whom the caller answers, where it says so."""
    user = body.get("user") or body.get("safety_identifier")
    return user if isinstance(user, str) else None


async def _relay(body: dict[str, Any], route: Route, response: aiohttp.ClientResponse, meter: Meter, out: Outlet) -> bytes:
    relay = proxy.Relay(meter, route.upstream_model or route.name, include_usage=wants_usage(body))
    return await relay.run(response, out)


def wants_usage(body: dict[str, Any]) -> bool:
    """Whether the caller asked for the usage chunk of a stream."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _is_upstream(gateway: GatewayService, principal: Principal, model: str) -> bool:
    deployed = gateway.pool.peek(principal.project_id, model)
    return deployed is not None and deployed.kind == "openai"


def _validated(kind: type[_Wire], body: dict[str, Any]) -> _Wire:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise from_validation(error) from error


def _require_list(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if not isinstance(value, list) or not value:
        missing = value is None
        raise InvalidRequest(
            f"The parameter {name!r} is missing." if missing else f"{name}: must be a list, not empty.",
            param=name,
            code="missing_required_parameter" if missing else "invalid_type",
        )


def _require_language(route: Route) -> None:
    if route.kind != "predictor" or route.task != LANGUAGE_TASK:
        raise InvalidRequest(
            f"The model {route.name!r} does not write text: its task is {route.task}.",
            hint=f"Send the request to /v1/tasks/{route.task}.",
            param="model",
            code="model_not_supported",
        )


async def _require_ok(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise await refusal(response)
