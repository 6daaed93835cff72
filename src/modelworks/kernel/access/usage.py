"""The record of requests and what they reserve before: many share one commit, and none continues before its row is safe."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from modelworks.contract.errors import ModelworksError, Unavailable
from modelworks.kernel.access.ledger import Ledger
from modelworks.kernel.access.schemas import Reservation, UsageRecord
from modelworks.kernel.base.batching import BatchWriter
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Database

log = structlog.get_logger(__name__)

_MAX_BATCH = 1000
#: A commit of one record costs half of what one of five does, and a quarter of twenty; other processes need the lock, too.
_BUSY_SHARE = 0.5

Done = Callable[[Exception | None], None]
Item = UsageRecord | Reservation


class UsageRecorder:
    """Group commit: a writer thread records and reserves everything that waits in one transaction.

    Args:
        db: the database.
        ledger: the account that is kept; default: one by the machine's clock.
        linger_s: how long the writer lets requests gather; 0 is best where a commit itself takes long enough to gather some.
    """

    def __init__(self, db: Database, ledger: Ledger | None = None, *, linger_s: float = 0.0) -> None:
        self._db = db
        self._ledger = ledger or Ledger(SystemClock())
        self._writer = BatchWriter[tuple[Item, Any]](
            lambda batch: _announce(self._write(batch)),
            name="usage-writer",
            most=_MAX_BATCH,
            linger_s=linger_s,
            busy_share=_BUSY_SHARE,
            tend=self._tend,
            tend_every_s=self._ledger.tend_every_s,
            leave=self._leave,
        )
        #: Reservations whose request could not be recorded: the ledger counts them as soon as it can.
        self._lost: list[str] = []

    def start(self) -> None:
        """Begin to look after reservations, those of processes that died among them, before the first request."""
        self._writer.start()

    async def reserve(self, asked: Reservation) -> None:
        """Returns when the reservation is committed; it stands until its record is (`UsageRecord.claims`, the same id).

        Raises:
            QuotaExceeded: a budget does not suffice.
            RateLimited: a limit is reached; `retry_after_s` says when there is room.
            Unavailable, StorageFull: the database cannot take it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._submit(asked, (loop, future))
        await future

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
        self._writer.flush()

    def close(self) -> None:
        """Commit what waits and end the writer; later records are refused."""
        self._writer.close()

    def _submit(self, item: Item, waiter: Any) -> None:
        if not self._writer.submit((item, waiter)):
            raise Unavailable("The server is stopping and records no more requests.", retry_after_s=5)

    def _write(self, batch: Sequence[tuple[Item, Any]]) -> list[tuple[Any, Exception | None]]:
        outcomes = self._transact([item for item, _ in batch])
        if isinstance(outcomes, Exception):
            if len(batch) > 1:
                # One row that the database refuses must not take the others with it.
                return [outcome for each in batch for outcome in self._write([each])]
            item, waiter = batch[0]
            if isinstance(item, UsageRecord) and item.claims:
                self._lost.append(item.id)
            return [(waiter, outcomes)]
        return [(waiter, outcome) for (_, waiter), outcome in zip(batch, outcomes, strict=True)]

    def _transact(self, items: list[Item]) -> list[ModelworksError | None] | Exception:
        try:
            with self._db.writing() as connection:
                return self._ledger.take(connection, items)
        except Exception as error:
            log.warning("usage could not be recorded", num_records=len(items), error=str(error)[:500])
            return error

    def _tend(self) -> None:
        try:
            with self._db.writing() as connection:
                self._ledger.tend(connection, self._lost)
            self._lost = []
        except Exception as error:
            log.warning("reservations could not be looked after", error=str(error)[:500])

    def _leave(self) -> None:
        try:
            with self._db.writing() as connection:
                self._ledger.leave(connection)
        except Exception as error:
            log.warning("reservations are left to their lease", error=str(error)[:500])


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
