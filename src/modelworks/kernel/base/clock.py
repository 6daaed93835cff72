"""The one source of time, so that tests can hold it still."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for waiting."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock, in UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def is_moment(given: datetime) -> bool:
    """Whether a time that somebody gives has a zone and can be told in UTC: near both ends of the calendar some cannot."""
    try:
        return given.tzinfo is not None and given.astimezone(UTC) is not None
    except OverflowError:
        return False


class FixedClock:
    """A clock that moves only when told to."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both times forward."""
        from datetime import timedelta

        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
