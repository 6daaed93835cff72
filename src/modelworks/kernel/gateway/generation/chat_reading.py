"""A chat that the gateway asks for a caller of another protocol: the same checks, replicas and records, read as events pass.

Responses and messages are other forms of a chat. They are put to the chat path as a chat and read from it in the one form that
every engine's answer has there, so that a replica of ours and a server that speaks OpenAI's protocol serve them alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import orjson

from modelworks.contract.errors import InvalidRequest, UpstreamFailed
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.generation.language import chat_call
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import Outlet

Chunk = dict[str, Any]
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"
_TOOLS: Final = "tools."
#: Ends the place of a tool's turn whose caller wrote it as the output of a call.
OUTPUT: Final = ".output"


class _Reader:
    """Takes a chat's events as objects; keep-alives stay the business of the connection behind it, where there is one."""

    def __init__(self, take: Callable[[Chunk], Awaitable[None]], out: Outlet | None) -> None:
        self._take = take
        self._out = out
        self._comment = b""

    @property
    def comment(self) -> bytes:
        return self._comment

    @comment.setter
    def comment(self, comment: bytes) -> None:
        self._comment = comment
        if self._out is not None:
            self._out.comment = comment

    async def send(self, data: bytes) -> None:
        """Read whole events."""
        for line in data.split(b"\n"):
            if not line.startswith(_DATA):
                continue
            payload = line[len(_DATA) :].strip()
            if not payload or payload == _DONE:
                continue
            try:
                chunk = orjson.loads(payload)
            except orjson.JSONDecodeError as error:
                raise UpstreamFailed("The server behind this model sent an event that is not JSON.") from error
            if isinstance(chunk, dict):
                await self._take(chunk)


class Chat:
    """One chat, checked when it is made and asked with `read`.

    Args:
        body: as of POST /v1/chat/completions; `stream` and its options are set here.

    Raises (on construction):
        InvalidRequest: as `chat_call`.
    """

    def __init__(self, gateway: GatewayService, principal: Principal, meter: Meter, body: Mapping[str, Any]) -> None:
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        # Turns that were stored before count too.
        meter.prompt_bytes = len(orjson.dumps(body.get("messages")))
        self._call = chat_call(gateway, principal, meter, asked)

    async def read(self, take: Callable[[Chunk], Awaitable[None]], out: Outlet | None = None) -> None:
        """Hand over every `chat.completion.chunk` until the answer is complete; the last one holds the usage.

        Args:
            out: the connection whose keep-alives tell how far the request is.

        Raises:
            ModelworksError: as the chat's own route.
        """
        reader = _Reader(take, out)
        await reader.send(await self._call.stream_to(reader))


async def count_tokens(gateway: GatewayService, principal: Principal, meter: Meter, body: Mapping[str, Any]) -> int:
    """How many tokens the model reads for this chat, counted by its own tokenizer and template.

    A replica of ours counts without computing anything. A server elsewhere has no such question: it is asked for an answer of
    one token and counts the prompt on the way.

    Raises:
        ModelworksError: as the chat's own route, ContextLengthExceeded included.
    """
    model = gateway.pool.peek(principal.project_id, meter.model)
    if model is None or model.kind != "openai":
        return await chat_call(gateway, principal, meter, dict(body)).num_prompt_tokens()

    async def pass_over(_chunk: Chunk) -> None:
        return None

    await Chat(gateway, principal, meter, {**body, "max_tokens": 1}).read(pass_over)
    return meter.tallies[0].prompt_tokens


@contextmanager
def renamed(places: Sequence[str], names: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the fields of the caller's own request instead of the chat's.

    Args:
        places: where each message of the chat came from.
        names: other fields of the chat, longest first where one begins another, and what the caller calls them.
    """
    try:
        yield
    except InvalidRequest as error:
        param = None if error.param is None else _renamed(error.param, places, names)
        if param == error.param:
            raise
        renamed_error = type(error)(
            error.message, hint=error.hint, param=param, code=error.error_code, retry_after_s=error.retry_after_s
        )
        raise renamed_error from error


def _renamed(param: str, places: Sequence[str], names: Mapping[str, str]) -> str:
    if param.startswith("messages."):
        number, _, rest = param.removeprefix("messages.").partition(".")
        if number.isdecimal() and int(number) < len(places):
            place = places[int(number)]
            if place.endswith(OUTPUT):
                # What a chat calls the content of a tool's turn.
                rest = rest.removeprefix("content").removeprefix(".")
            return f"{place}.{rest}" if rest and place.count(".") else place
    if param.startswith(_TOOLS):
        number, _, rest = param.removeprefix(_TOOLS).partition(".")
        # A chat wraps what the other forms say of a tool at once.
        field, _, below = rest.removeprefix("function").removeprefix(".").partition(".")
        return ".".join(part for part in ("tools", number, names.get(field, field), below) if part)
    for name, theirs in names.items():
        if param == name or param.startswith(f"{name}."):
            return theirs + param[len(name) :]
    return param
