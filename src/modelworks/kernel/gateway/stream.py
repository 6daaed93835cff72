"""Answers that arrive in pieces: server-sent events and JSON lines, keep-alives, and callers that go away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Literal, Protocol

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.gateway.errors import bug
from modelworks.kernel.gateway.metering import CLIENT_GONE, STOPPING, Meter

log = structlog.get_logger(__name__)

Form = Literal["sse", "ndjson"]
DONE: Final = b"data: [DONE]\n\n"

_MEDIA: Final = {"sse": b"text/event-stream; charset=utf-8", "ndjson": b"application/x-ndjson"}


class ClientGone(Exception):
    """The caller closed the connection before the answer was complete."""


class UntilDisconnect:
    """`async with UntilDisconnect(receive)`: ends the block with `ClientGone` when the caller goes away.

    The block is cancelled where it waits, in prefill as in decode, so that closing what it holds stops the work behind it.
    """

    __slots__ = ("_gone", "_receive", "_task", "_watch")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("UntilDisconnect needs a running task")
        self._task: asyncio.Task[object] = task
        self._watch = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.cancel()
        if self._gone:
            self._task.uncancel()
            raise ClientGone from None


class Outlet(Protocol):
    """Where the events of an answer go: a caller's connection, or a part of the gateway that reads them."""

    #: What a keep-alive says from now on.
    comment: bytes

    async def send(self, data: bytes) -> None:
        """Take whole events."""
        ...


class EventStream:
    """The way out of one streamed answer. Its headers leave with the first event or the first keep-alive.

    Until then an error can still become a proper status; afterwards it becomes an event.
    """

    def __init__(self, send: Send, form: Form, keep_alive_s: float) -> None:
        self._send = send
        self._form = form
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None
        self.started = False
        #: What a keep-alive comment says; "loading" until a replica has taken the request.
        self.comment = b": loading\n\n"
        # JSON lines have no comments, and an empty line upsets some readers of them.
        if form == "sse":
            self._timer = self._loop.call_later(keep_alive_s, self._tick)

    async def send(self, data: bytes) -> None:
        """Send whole events."""
        if not self.started:
            await self._start()
        self._last = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _start(self) -> None:
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", _MEDIA[self._form]),
                    (b"cache-control", b"no-cache"),
                    # Asks nginx and its like not to collect the answer before passing it on.
                    (b"x-accel-buffering", b"no"),
                ],
            }
        )

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._last
        wait_s = self._keep_alive_s - silent_s
        if wait_s <= 0.001:
            self._beat = self._loop.create_task(self.send(self.comment))
            wait_s = self._keep_alive_s
        self._timer = self._loop.call_later(wait_s, self._tick)

    async def fail(self, error: ModelworksError) -> None:
        """Say what went wrong in the middle of an answer. No `[DONE]` follows: the answer is not complete."""
        body = orjson.dumps(error.envelope())
        await self.send(b"data: " + body + b"\n\n" if self._form == "sse" else body + b"\n")
        await self.finish(b"")

    async def finish(self, tail: bytes) -> None:
        """Send the last event and end the answer."""
        self.close()
        if not self.started:
            await self._start()
        await self._send({"type": "http.response.body", "body": tail, "more_body": False})

    def close(self) -> None:
        """Stop the keep-alives."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._beat is not None and not self._beat.done():
            self._beat.cancel()


class StreamedAnswer(Response):
    """A response made while it is sent.

    Args:
        produce: sends all events but the last and returns that one (`[DONE]`); what it holds is closed when it is cancelled.
        meter: recorded before the last event leaves.
        form: server-sent events or JSON lines.
        keep_alive_s: silence after which a comment is sent.
    """

    def __init__(
        self, produce: Callable[[EventStream], Awaitable[bytes]], meter: Meter, form: Form, keep_alive_s: float
    ) -> None:
        self._produce = produce
        self._meter = meter
        self._form = form
        self._keep_alive_s = keep_alive_s
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        out = EventStream(send, self._form, self._keep_alive_s)
        meter = self._meter
        meter.streamed = True
        try:
            async with UntilDisconnect(receive):
                tail = await self._produce(out)
            await meter.record(200)
        except ClientGone:
            await meter.record(CLIENT_GONE, aborted=True)
        except asyncio.CancelledError:
            await meter.record(STOPPING, aborted=True)
            raise
        except ModelworksError as error:
            await meter.record(error.status, error)
            if not out.started:
                raise
            await out.fail(error)
        except Exception as error:
            known = bug(meter.request_id)
            await meter.record(known.status, known)
            if not out.started:
                raise
            log.exception("stream failed", request_id=meter.request_id, error=str(error))
            await out.fail(known)
        else:
            await out.finish(tail)
        finally:
            out.close()


async def whole_answer(produce: Callable[[], Awaitable[bytes]], meter: Meter, receive: Receive) -> Response:
    """A JSON answer sent in one piece: the same care for disconnects and for the record as `StreamedAnswer`."""
    try:
        async with UntilDisconnect(receive):
            body = await produce()
    except ClientGone:
        await meter.record(CLIENT_GONE, aborted=True)
        # Nobody reads this.
        return Response(status_code=CLIENT_GONE)
    except asyncio.CancelledError:
        await meter.record(STOPPING, aborted=True)
        raise
    except ModelworksError as error:
        await meter.record(error.status, error)
        raise
    except Exception:
        known = bug(meter.request_id)
        await meter.record(known.status, known)
        raise
    await meter.record(200)
    return JsonBytes(body)


class JsonBytes(Response):
    """Bytes that are JSON already, with the two headers that they need and no more."""

    media_type = "application/json"

    def __init__(self, body: bytes, status_code: int = 200) -> None:
        self.body = body
        self.status_code = status_code
        self.background = None
        self.raw_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
