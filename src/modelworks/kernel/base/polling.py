"""What looks again and again, in a thread or in the event loop: every so often, and at once after a change."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from modelworks.kernel.base.events import Events

log = structlog.get_logger(__name__)

#: Seconds that a look under way gets to end.
_STOP_S = 30.0


class PollingThread:
    """Calls `tick` until it is stopped; an announcement only makes the next look come earlier, so losing one loses nothing.

    Args:
        tick: one look; returns whether there is anything to come back for soon. What it raises is logged.
        name: of the thread, in logs and debuggers.
        events: where changes are announced.
        topic: the announcement that brings the next look forward.
        busy_s: seconds between looks while there is something to do.
        idle_s: seconds between looks otherwise.
        rest_s: shortest time between two looks in seconds, since announcements come in bursts.
    """

    def __init__(
        self,
        tick: Callable[[], bool],
        *,
        name: str,
        events: Events,
        topic: str,
        busy_s: float,
        idle_s: float,
        rest_s: float,
    ) -> None:
        self._tick = tick
        self._name = name
        self._events = events
        self._topic = topic
        self._busy_s = busy_s
        self._idle_s = idle_s
        self._rest_s = rest_s
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; the first look comes at once."""
        self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look again now (thread-safe)."""
        self._wake.set()

    def stop(self) -> None:
        """End after the look that is under way."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=_STOP_S)

    def _loop(self) -> None:
        unsubscribe = self._events.subscribe(self._topic, lambda _topic, _payload: self._wake.set())
        try:
            while not self._stop.is_set():
                is_busy = True
                try:
                    is_busy = self._tick()
                except Exception:
                    # The database may be away for a while.
                    log.exception("a look failed and is repeated", thread=self._name)
                self._wake.wait(self._busy_s if is_busy else self._idle_s)
                self._stop.wait(self._rest_s)
                # Cleared before the look: what changes from here on is seen by it or wakes the next one.
                self._wake.clear()
        finally:
            unsubscribe()


class Follower(ABC):
    """What looks after things under way in a thread of its own: `tick` is one look, and may be called by hand instead.

    Args:
        events: where changes are announced.
        name, topic, busy_s, idle_s, rest_s: as of `PollingThread`.
        awaited: further topics, each with the field of its payload that names what has changed: where that is one of
            `_awaited`, the next look comes at once. Others change all the time.
    """

    def __init__(
        self,
        events: Events,
        *,
        name: str,
        topic: str,
        busy_s: float,
        idle_s: float,
        rest_s: float = 0.1,
        awaited: Mapping[str, str] | None = None,
    ) -> None:
        self._events = events
        self._topics = dict(awaited or {})
        self._unsubscribe: list[Callable[[], None]] = []
        #: Ids and names of what the things under way wait for.
        self._awaited: frozenset[str] = frozenset()
        self._thread = PollingThread(
            self.tick, name=name, events=events, topic=topic, busy_s=busy_s, idle_s=idle_s, rest_s=rest_s
        )

    @abstractmethod
    def tick(self) -> bool:
        """One look; returns whether there is anything to come back for soon."""

    def start(self) -> None:
        """Begin in a thread of its own."""
        self._unsubscribe = [self._events.subscribe(topic, self._heard) for topic in self._topics]
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._thread.stop()

    def _heard(self, topic: str, payload: Mapping[str, Any]) -> None:
        if payload.get(self._topics[topic]) in self._awaited:
            self._thread.wake()


class PollingTask:
    """Awaits `look` again and again in the event loop in which it was started; a look that fails is logged and repeated.

    Args:
        look: one look.
        name: of what is looked after, for the log.
        poll_s: seconds between looks that nothing brings forward.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], *, name: str, poll_s: float) -> None:
        self._look = look
        self._name = name
        self._poll_s = poll_s
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Event, asyncio.Task[None]] | None = None

    def start(self) -> None:
        """Begin; the first look comes at once."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        self._running = loop, wake, loop.create_task(self._looking(wake))

    def wake(self) -> None:
        """Look again now (thread-safe); nothing where it does not run, since it begins with a look."""
        if self._running is not None:
            loop, wake, _ = self._running
            loop.call_soon_threadsafe(wake.set)

    async def stop(self, *begun: asyncio.Task[Any]) -> None:
        """Break off the look under way and the tasks that earlier ones began, and wait for their end."""
        running, self._running = self._running, None
        tasks = [*begun] if running is None else [running[2], *begun]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _looking(self, wake: asyncio.Event) -> None:
        while True:
            # Cleared before the look: what changes from here on is seen by it or wakes the next one.
            wake.clear()
            try:
                await self._look()
            except Exception:
                # The database may be away for a while.
                log.exception("a look failed and is repeated", task=self._name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await wake.wait()
