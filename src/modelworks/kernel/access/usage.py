"""The record of requests: many waiting requests share one commit, and none continues before its row is safe."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import String, insert

from modelworks.contract.errors import Unavailable
from modelworks.kernel.access.schemas import UsageRecord
from modelworks.kernel.access.store import UsageRow
from modelworks.kernel.base.database import Database

log = structlog.get_logger(__name__)

_TABLE = UsageRow.__table__
_INSERT = insert(UsageRow)
_COLUMNS = tuple(column.name for column in _TABLE.columns)
#: Text columns with their lengths: what a client sent (`model`) may be of any length and hold any character.
_TEXTS = tuple((column.name, column.type.length or 0) for column in _TABLE.columns if isinstance(column.type, String))
_MAX_BATCH = 1000

Done = Callable[[Exception | None], None]


class UsageRecorder:
    """Group commit: a writer thread inserts everything that waits in one transaction.

    Args:
        db: the database.
        linger_s: how long the writer lets requests gather; 0 is best where a commit itself takes long enough to gather some.
    """

    def __init__(self, db: Database, *, linger_s: float = 0.0) -> None:
        self._db = db
        self._linger_s = linger_s
        self._waiting: list[tuple[UsageRecord, Any]] = []
        self._changed = threading.Condition()
        self._closing = False
        self._busy = False
        self._thread: threading.Thread | None = None

    async def record(self, record: UsageRecord) -> None:
        """Returns when the row is committed. Cancelling the caller does not take the record back.

        Raises:
            StorageFull, Unavailable: the database cannot take it; the caller decides what that means for the request.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._submit(record, (loop, future))
        await future

    def record_sync(self, record: UsageRecord) -> None:
        """`record` for threads."""
        done = threading.Event()
        outcome: list[Exception | None] = []

        def finished(error: Exception | None) -> None:
            outcome.append(error)
            done.set()

        self._submit(record, finished)
        done.wait()
        if outcome[0] is not None:
            raise outcome[0]

    def flush(self) -> None:
        """Wait until everything given so far is committed (or has failed)."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy)

    def close(self) -> None:
        """Commit what waits and end the writer; later records are refused."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _submit(self, record: UsageRecord, waiter: Any) -> None:
        with self._changed:
            if self._closing:
                raise Unavailable("The server is stopping and records no more requests.", retry_after_s=5)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_until_closed, name="usage-writer", daemon=True)
                self._thread.start()
            self._waiting.append((record, waiter))
            if len(self._waiting) == 1:
                self._changed.notify_all()

    def _write_until_closed(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
            if self._linger_s and not self._closing:
                time.sleep(self._linger_s)
            with self._changed:
                batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
                self._busy = True
            try:
                _announce(self._write(batch))
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _write(self, batch: list[tuple[UsageRecord, Any]]) -> list[tuple[Any, Exception | None]]:
        error = self._insert([record for record, _ in batch])
        if error is None or len(batch) == 1:
            return [(waiter, error) for _, waiter in batch]
        # One row that the database refuses must not take the others with it.
        return [(waiter, self._insert([record])) for record, waiter in batch]

    def _insert(self, records: list[UsageRecord]) -> Exception | None:
        try:
            with self._db.writing() as connection:
                connection.execute(_INSERT, [_row(record) for record in records])
        except Exception as error:
            log.warning("usage could not be recorded", num_records=len(records), error=str(error)[:500])
            return error
        return None


def _row(record: UsageRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _COLUMNS}
    for name, length in _TEXTS:
        value = row[name]
        # PostgreSQL stores neither NUL nor lone surrogates, and holds to the length.
        if value is not None and not (len(value) <= length and value.isascii() and "\x00" not in value):
            row[name] = value[:length].replace("\x00", "").encode("utf-8", "replace").decode()
    return row


def _announce(outcomes: list[tuple[Any, Exception | None]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Exception | None]]] = defaultdict(list)
    for waiter, error in outcomes:
        if isinstance(waiter, tuple):
            loop, future = waiter
            by_loop[loop].append((future, error))
        else:
            waiter(error)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, futures)  # one wake-up per loop, however many wait
        except RuntimeError:
            log.debug("an event loop ended before its usage was confirmed")


def _resolve(futures: list[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for future, error in futures:
        if future.done():
            continue  # the caller was cancelled; its row is in the database all the same
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
