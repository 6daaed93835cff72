"""A thread that looks again and again: soon while there is something to do, seldom otherwise, at once after a change."""

from __future__ import annotations

import threading
from collections.abc import Callable

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
