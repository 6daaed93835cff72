"""The end of a server: no new work, what is under way is finished within a limit, then it ends; told twice, it ends at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Final

import structlog
import uvicorn

log = structlog.get_logger(__name__)

_LOOK_S: Final = 0.05
#: What is broken off by a second signal gets so long to be recorded.
_LAST_WORDS_S: Final = 1.0


class Drain:
    """What is under way in one server; shared by the layer around its routes and what ends it. For the event loop."""

    __slots__ = ("in_flight", "is_stopping")

    def __init__(self) -> None:
        #: From now on new requests are refused.
        self.is_stopping = False
        #: Requests that are being answered.
        self.in_flight = 0


async def nothing() -> None:
    """For servers with no work but their requests."""


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which goes on listening while it drains, so that callers hear 503 instead of a refused connection.

    The first SIGTERM or SIGINT begins that; its process then ends with status 0. The second one breaks off what is under way,
    which is recorded, and ends the process at once, with status 128 and the number of the signal.

    Args:
        limit_s: how long answers under way may go on.
        quiesce: called when it begins; returns when work in the background has come to rest.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Drain, *, limit_s: float, quiesce: Callable[[], Awaitable[None]] = nothing
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._limit_s = limit_s
        self._quiesce = quiesce
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_breaking_off = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come, between any two instructions of the main thread."""
        if not self.should_exit:
            self.should_exit = True
        elif not self._is_breaking_off:
            self._is_breaking_off = True
            # The event loop may hang: that is why somebody presses twice.
            threading.Thread(target=self._break_off, args=(sig,), daemon=True).start()
        else:
            os._exit(128 + sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is under way, then end as uvicorn does: what is left is cancelled."""
        drain = self._drain
        drain.is_stopping = True
        log.info("the server stops", in_flight=drain.in_flight, limit_s=self._limit_s)
        resting = asyncio.ensure_future(self._quiesce())
        deadline = time.monotonic() + self._limit_s
        ticks = 0
        while (drain.in_flight or not resting.done()) and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(_LOOK_S)
            ticks += 1
            await self.on_tick(ticks)  # the header Date goes on
        if not resting.done():
            resting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await resting
        if drain.in_flight:
            log.warning("requests are broken off", num_requests=drain.in_flight)
        await super().shutdown(sockets)

    def _break_off(self, sig: int) -> None:
        def cancel() -> None:
            for task in [*self.server_state.tasks]:
                task.cancel()

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(cancel)
        deadline = time.monotonic() + _LAST_WORDS_S
        while self._drain.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        os._exit(128 + sig)
