"""A thread that writes what others hand it: everything that waits goes into one transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_Item = TypeVar("_Item")

#: The longest that items wait for others to come.
MAX_REST_S = 0.01


class BatchWriter(Generic[_Item]):
    """Takes items from any thread and gives them to `write` in their order, as many at a time as wait.

    Args:
        write: writes some; it raises nothing, since nobody would hear it.
        name: of the thread, which begins with the first item or with `start`.
        most: items of one call.
        linger_s: how long items gather before they are taken; 0: what gathers while `write` works is enough.
        busy_share: the part of the time that `write` may take where items keep coming, several at once. Below 1 the writer
            rests after such a call, in proportion to it (`MAX_REST_S` at most), and what gathers meanwhile shares one call:
            for a `write` whose cost hardly grows with the number of items, and one that processes take turns at.
        tend: called in the same thread, at once and then every `tend_every_s` seconds.
        leave: called in the same thread at the end, after the last item.
    """

    def __init__(
        self,
        write: Callable[[Sequence[_Item]], None],
        *,
        name: str,
        most: int,
        linger_s: float = 0.0,
        busy_share: float = 1.0,
        tend: Callable[[], None] | None = None,
        tend_every_s: float = float("inf"),
        leave: Callable[[], None] | None = None,
    ) -> None:
        self._write = write
        self._name = name
        self._most = most
        self._linger_s = linger_s
        self._rest_per_s = 1 / busy_share - 1
        self._tend = tend
        self._tend_every_s = tend_every_s
        self._leave = leave
        self._waiting: list[_Item] = []
        self._changed = threading.Condition()
        self._closing = False
        self._busy = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to tend before the first item comes."""
        with self._changed:
            self._run()

    def submit(self, item: _Item, *, room: int | None = None) -> bool:
        """Have an item written soon; False where the writer is closing, or `room` items wait already."""
        with self._changed:
            if self._closing or (room is not None and len(self._waiting) >= room):
                return False
            self._run()
            self._waiting.append(item)
            if len(self._waiting) == 1:
                self._changed.notify_all()
            return True

    def flush(self) -> None:
        """Wait until everything given so far has been given to `write`, and that has returned."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy)

    def close(self) -> None:
        """Write what waits and end the thread; later items are refused."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_until_closed, name=self._name, daemon=True)
            self._thread.start()

    def _write_until_closed(self) -> None:
        tend_at = time.monotonic() if self._tend is not None else float("inf")
        rested_at = 0.0
        while True:
            with self._changed:
                while not self._waiting and not self._closing and (left_s := tend_at - time.monotonic()) > 0:
                    self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
                if not self._waiting and self._closing:
                    break
            if self._linger_s and not self._closing:
                time.sleep(self._linger_s)
            with self._changed:
                while not self._closing and (left_s := rested_at - time.monotonic()) > 0:
                    self._changed.wait(left_s)
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                self._busy = True
            try:
                if batch:
                    began = time.monotonic()
                    self._write(batch)
                    if len(batch) > 1:
                        ended = time.monotonic()
                        rested_at = ended + min(MAX_REST_S, (ended - began) * self._rest_per_s)
                if self._tend is not None and time.monotonic() >= tend_at:
                    self._tend()
                    tend_at = time.monotonic() + self._tend_every_s
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        if self._leave is not None:
            self._leave()
