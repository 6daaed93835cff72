"""One exchange with what answers: a replica of ours (JSON lines) or a server that speaks OpenAI's protocol."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from modelworks.contract.errors import AuthenticationFailed, ModelworksError, TimedOut, UpstreamFailed, from_wire
from modelworks.kernel.base import telemetry
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.serving import ReplicaPool, Route, Turn

#: A request that never reached anything is offered again: to another replica, or to the same over a fresh connection.
_ATTEMPTS: Final = 3
#: A connection that breaks so soon was a kept one that the other side had closed. Later, the request itself may be what
#: brought the replica down, and must not be carried on to the next.
_STALE_S: Final = 0.5
_JSON: Final[Mapping[str, str]] = {"content-type": "application/json", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent to a route: the path below its base URL and the JSON body."""

    path: str
    body: bytes


@asynccontextmanager
async def exchange(
    pool: ReplicaPool,
    project_id: str,
    model: str,
    prepare: Callable[[Route], Call],
    meter: Meter | None,
    split_by: str | None = None,
) -> AsyncIterator[tuple[Route, aiohttp.ClientResponse]]:
    """Find a replica, send `prepare(route)` and hand out its response, whatever its status.

    `split_by` is the meter's where there is one; see `ReplicaPool.acquire`. Without a meter it is part of a request that has
    been let in, and does not wait for a free place.

    Leaving the block closes the connection unless the response was read to its end: that stops the work behind it.

    Raises:
        QuotaExceeded, RateLimited: a budget or a limit refuses the request.
        ModelNotFound, Unavailable: from the pool.
        UpstreamFailed: no connection, or it broke in the middle.
        TimedOut: it fell silent.
    """
    if meter is not None:
        deployed = pool.peek(project_id, model)
        await meter.admit(None if deployed is None else deployed.max_model_len)
    turn = Turn(project_id, beyond=True) if meter is None else meter.turn()
    for attempt in range(1, _ATTEMPTS + 1):
        answered = False
        sent_at = 0.0
        try:
            split = split_by if meter is None else meter.split_by
            async with pool.acquire(project_id, model, split_by=split, turn=turn) as route:
                if meter is not None:
                    meter.route = route
                call = prepare(route)
                headers = {**_JSON, **telemetry.trace_headers(), **route.headers}
                sent_at = time.monotonic()
                response = await pool.http.post(
                    route.base_url + call.path, data=call.body, headers=headers, allow_redirects=False
                )
                answered = True
                try:
                    yield route, response
                finally:
                    response.close()
                    if meter is not None:
                        turn.used = meter.num_completion_tokens
                return
        except aiohttp.ClientConnectionError as error:
            if isinstance(error, TimeoutError) and answered:
                raise TimedOut(f"The model {model!r} fell silent in the middle of its answer.") from error
            reached = not isinstance(error, aiohttp.ClientConnectorError) and time.monotonic() - sent_at > _STALE_S
            if answered or reached or attempt == _ATTEMPTS:
                raise _broken(model, answered or reached, error) from error
        except aiohttp.ClientError as error:
            raise _broken(model, answered, error) from error


def _broken(model: str, answered: bool, error: Exception) -> UpstreamFailed:
    if answered:
        return UpstreamFailed(
            f"The replica that answered for the model {model!r} stopped in the middle of its answer.",
            hint="Send the request again; GET /api/deployments shows what happened to it.",
            code="replica_lost",
        )
    return UpstreamFailed(
        f"The model {model!r} cannot be reached: {type(error).__name__}.",
        hint="It may be restarting: send the request again shortly.",
        code="replica_unreachable",
        retry_after_s=1,
    )


async def refusal(response: aiohttp.ClientResponse) -> ModelworksError:
    """The error of a replica that did not answer 200."""
    body = await response.read()
    try:
        error = from_wire(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return UpstreamFailed(f"The replica answered with status {response.status} and no reason.")
    if isinstance(error, AuthenticationFailed):
        # It is the server that it does not know; the caller's key is right.
        return UpstreamFailed(f"The replica refused this server: {error.message}")
    return error


async def read_lines(response: aiohttp.ClientResponse, take: Callable[[list[bytes]], Awaitable[None]]) -> None:
    """Hand over a replica's JSON lines, as many at a time as have arrived.

    Raises:
        ModelworksError: the replica ended with an error line, or its last line is not whole.
    """
    rest = b""
    async for data in response.content.iter_any():
        lines = (rest + data if rest else data).split(b"\n")
        rest = lines.pop()
        failed: ModelworksError | None = None
        for position, line in enumerate(lines):
            if line.startswith(b'{"error":'):
                failed = from_wire(orjson.loads(line)["error"])
                del lines[position:]
                break
        if lines:
            await take([line for line in lines if line])
        if failed is not None:
            raise failed
    if rest.strip():
        raise UpstreamFailed("The replica's answer ended in the middle of a line.", code="replica_lost")


async def read_chunks(response: aiohttp.ClientResponse, take: Callable[[list[dict[str, Any]]], Awaitable[None]]) -> None:
    """`read_lines` of a language engine: `GenerationChunk`s in their JSON form."""

    async def parse(lines: list[bytes]) -> None:
        await take([orjson.loads(line) for line in lines])

    await read_lines(response, parse)
