"""Servers that speak OpenAI's protocol already: the request goes on with another model name, the answer comes back as bytes.

Of a streamed answer only three things are looked at, by searching the bytes: the usage chunk (recorded; hidden from a
caller that did not ask for it), an error in the middle, and the end. The `model` field of every answer is the name that the
caller used: a replacement of the quoted field, which cannot occur inside a JSON string, as quotes are escaped there.
"""

from __future__ import annotations

from typing import Any, Final

import aiohttp
import orjson

from modelworks.contract.errors import ModelworksError, UpstreamFailed
from modelworks.kernel.gateway.errors import from_upstream
from modelworks.kernel.gateway.exchange import Call
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.stream import DONE, Outlet
from modelworks.kernel.serving import Route

_EVENT: Final = b"data:"
#: The largest answer, and the largest event of a streamed one, that is held in memory: a server elsewhere may be anybody's.
MAX_ANSWER_BYTES: Final = 64 << 20


def call(route: Route, path: str, body: dict[str, Any]) -> Call:
    """The caller's body for the upstream: its own model name, and always with usage at the end of a stream."""
    sent = {**body, "model": route.upstream_model or route.name}
    if body.get("stream"):
        options = body.get("stream_options")
        sent["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return Call(path, orjson.dumps(sent))


async def failure(response: aiohttp.ClientResponse) -> ModelworksError:
    """What an upstream's refusal means to our caller."""
    return from_upstream(response.status, await _limited(response), retry_after=response.headers.get("retry-after"))


async def whole(response: aiohttp.ClientResponse, meter: Meter) -> bytes:
    """The upstream's complete answer under the caller's model name; its usage goes to the meter.

    Raises:
        UpstreamFailed: it is not a JSON object, or too large.
        ModelworksError: the upstream refused.
    """
    if response.status != 200:
        raise await failure(response)
    raw = await _limited(response)
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise UpstreamFailed("The server behind this model answered with something that is not a JSON object.")
    if isinstance(usage := answer.get("usage"), dict):
        meter.tallies[0].take_openai(usage)
    answer["model"] = meter.model
    return orjson.dumps(answer)


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, counted as it comes out of its packing."""
    raw = bytearray()
    async for data in response.content.iter_any():
        raw += data
        if len(raw) > MAX_ANSWER_BYTES:
            raise _too_large()
    return bytes(raw)


def _too_large() -> UpstreamFailed:
    return UpstreamFailed(
        f"The server behind this model sent more than {MAX_ANSWER_BYTES >> 20} MiB in one answer.", hint="Look at that server."
    )


class Relay:
    """Passes one streamed answer on.

    Args:
        meter: gets the usage; without a usage chunk (an answer given up, an old server) the number of content events
            stands in for it, a lower bound.
        upstream_model: the name to be replaced.
        include_usage: whether the caller asked for the usage chunk.
    """

    def __init__(self, meter: Meter, upstream_model: str, *, include_usage: bool) -> None:
        self._meter = meter
        self._include_usage = include_usage
        ours, theirs = orjson.dumps(meter.model), orjson.dumps(upstream_model)
        self._needles = () if ours == theirs else ((b'"model":' + theirs), (b'"model": ' + theirs))
        self._replacement = b'"model":' + ours
        self._done = False
        self._finished = False
        self._failed: UpstreamFailed | None = None

    async def run(self, response: aiohttp.ClientResponse, out: Outlet) -> bytes:
        """Relay until the upstream is done; returns the last event.

        Raises:
            UpstreamFailed: the upstream ended before the answer did.
            ModelworksError: it refused the request.
        """
        if response.status != 200:
            raise await failure(response)
        out.comment = b": keep-alive\n\n"
        rest = b""
        async for data in response.content.iter_any():
            block = rest + data if rest else data
            cut = _last_boundary(block)
            if cut < 0:
                rest = block
                if len(rest) > MAX_ANSWER_BYTES:
                    raise _too_large()
                continue
            rest = block[cut:]
            passed = self.take(block[:cut] if rest else block)
            if passed:
                self._meter.answering()
                await out.send(passed)
            if self._failed is not None:
                raise self._failed
        if rest.strip() == b"data: [DONE]":
            # Its empty line was lost with the connection; nothing else was.
            self._done = True
        # Some servers leave `[DONE]` out: an answer whose finish was seen is complete all the same.
        if not self._done and not self._finished:
            raise UpstreamFailed("The server behind this model stopped in the middle of its answer.", code="replica_lost")
        return DONE

    def take(self, block: bytes) -> bytes:
        """What goes on of some whole events."""
        for needle in self._needles:
            if needle in block:
                block = block.replace(needle, self._replacement)
        if b'"finish_reason":"' in block or b'"finish_reason": "' in block:
            self._finished = True
        tally = self._meter.tallies[0]
        if b'"usage":{' in block or b'"usage": {' in block or b'"error"' in block or b"[DONE]" in block:
            return b"".join(self._look(event) for event in _events(block))
        tally.see(block.count(_EVENT))
        return block

    def _look(self, event: bytes) -> bytes:
        """One event of a block in which there is something to see."""
        start = event.find(_EVENT)
        if start < 0:
            return event
        payload = event[start + len(_EVENT) :].strip()
        if payload == b"[DONE]":
            # Ours follows once the usage is recorded.
            self._done = True
            return b""
        if b'"usage"' in payload or b'"error"' in payload:
            try:
                body = orjson.loads(payload)
            except orjson.JSONDecodeError:
                return event
            if not isinstance(body, dict):
                return event
            if body.get("error"):
                self._failed = UpstreamFailed(_words(body["error"]), code="upstream_failed")
                return b""
            if isinstance(usage := body.get("usage"), dict):
                self._meter.tallies[0].take_openai(usage)
                if not body.get("choices"):
                    return event if self._include_usage else b""
        self._meter.tallies[0].see(1)
        return event


def _last_boundary(block: bytes) -> int:
    """Where the last whole event ends, or -1."""
    plain = block.rfind(b"\n\n")
    carriage = block.rfind(b"\r\n\r\n")
    return max(plain + 2 if plain >= 0 else -1, carriage + 4 if carriage >= 0 else -1)


def _events(block: bytes) -> list[bytes]:
    separator = b"\r\n\r\n" if b"\r\n\r\n" in block else b"\n\n"
    return [part + separator for part in block.split(separator) if part]


def _words(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return f"The server behind this model failed in the middle of its answer: {message}"
