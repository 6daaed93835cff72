"""Requests that wait for a deployment that is loading or full: in memory, bounded, fair, each refused when its time is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from modelworks.contract.errors import ModelNotFound, Unavailable
from modelworks.kernel.base import telemetry
from modelworks.kernel.serving.queue import FairQueue, Turn
from modelworks.kernel.serving.schemas import Route
from modelworks.kernel.serving.target import Slot, Target, best_of, why_down

#: A replica that was passed over becomes eligible by time alone, so requests that wait for it look again.
_NAP_S: Final = 0.25
#: What a refused request is told to wait where nothing is known, at least, and at most.
_COME_BACK_S, _SOONEST_S, _LATEST_S = 5.0, 1.0, 60.0


@dataclass(slots=True, eq=False)
class Waiter:
    """A request in a queue."""

    project_id: str
    model_name: str
    split_by: str | None
    turn: Turn
    #: What serves it; a slot has counted it in already.
    found: asyncio.Future[Slot | Route]
    #: How long it may wait while nothing answers.
    load_wait_s: float
    #: When it began (event loop time), and where its time ends.
    since: float
    limit: asyncio.Timeout
    line: str
    is_loading: bool | None = None


@dataclass(slots=True, eq=False)
class _Line:
    """The queue of one deployment; it exists while requests wait."""

    queue: FairQueue[Waiter] = field(default_factory=FairQueue)
    nap: asyncio.TimerHandle | None = None
    #: Seconds between two places that became free, a moving mean.
    pace_s: float | None = None
    freed_at: float | None = None

    def note_place(self, now: float) -> None:
        """A place became free."""
        if self.freed_at is not None:
            gap = now - self.freed_at
            self.pace_s = gap if self.pace_s is None else 0.8 * self.pace_s + 0.2 * gap
        self.freed_at = now

    @property
    def come_back_s(self) -> float:
        """When a refused request should be sent again: about when those that wait now have been served."""
        if self.pace_s is None:
            return _COME_BACK_S
        return min(max(self.pace_s * len(self.queue), _SOONEST_S), _LATEST_S)


class WaitingRoom:
    """The queues of one pool. Everything happens in one event loop.

    Args:
        find: the deployment that a project means by a name.
        unknown: the error where there is none.
        max_queue: so many of a rank (people, background) may wait for one deployment.
        load_wait_s, queue_wait_s: see `ReplicaPool`.
    """

    def __init__(
        self,
        find: Callable[[str, str], Target | None],
        unknown: Callable[[str, str], ModelNotFound],
        *,
        max_queue: int,
        load_wait_s: float,
        queue_wait_s: float,
    ) -> None:
        self._find = find
        self._unknown = unknown
        self._max_queue = max_queue
        self.load_wait_s = load_wait_s
        self._queue_wait_s = queue_wait_s
        self._lines: dict[str, _Line] = {}

    def __contains__(self, line: str) -> bool:
        """Whether requests wait in a queue."""
        return line in self._lines

    def counts(self) -> dict[str, int]:
        """How many requests wait, by the name of the model that they ask."""
        found: dict[str, int] = {}
        for line in self._lines.values():
            for waiter in line.queue:
                found[waiter.model_name] = found.get(waiter.model_name, 0) + 1
        return found

    async def wait(
        self, project_id: str, model_name: str, target: Target, wait_s: float | None, split_by: str | None, turn: Turn
    ) -> Slot | Route:
        """Wait for `target`; a slot has counted the request in.

        Raises:
            ModelNotFound, Unavailable: see `ReplicaPool.acquire`.
        """
        loop = asyncio.get_running_loop()
        waiter = Waiter(
            project_id=project_id,
            model_name=model_name,
            split_by=split_by,
            turn=turn,
            found=loop.create_future(),
            load_wait_s=self.load_wait_s if wait_s is None else wait_s,
            since=loop.time(),
            limit=asyncio.timeout(None),
            line=target.line,
        )
        try:
            async with waiter.limit:
                self._line_up(waiter)
                with telemetry.WAITING.track_inprogress():
                    return await waiter.found
        except TimeoutError:
            self._take_back(waiter)
            raise self._too_late(waiter) from None
        except BaseException:
            # Whoever goes away in the moment of being served leaves the place to the next.
            self._take_back(waiter)
            raise

    def place_free(self, name: str, turn: Turn) -> None:
        """A request that a replica of this queue answered is over."""
        line = self._lines.get(name)
        if line is not None:
            line.note_place(time.monotonic())
            line.queue.charge(turn, turn.used)
            self._serve(name, line, at_most=1)

    def look_over(self) -> None:
        """The table has changed: serve, refuse, or go on keeping whoever waits."""
        for name in [*self._lines]:
            self._look_over(name)

    def close(self) -> None:
        """Refuse everyone."""
        for line in [*self._lines.values()]:
            for waiter in [*line.queue]:
                self._refuse(waiter, Unavailable("The server is stopping.", hint="Try again shortly.", retry_after_s=1))

    # --- one queue --------------------------------------------------------------------------------------------------

    def _line_up(self, waiter: Waiter) -> None:
        """Put a request into its queue, where there is room."""
        turn = waiter.turn
        chosen = self._fitting(waiter)
        if chosen is not None:
            # Those who wait already wait for something else, or they would have been served.
            self._give(waiter, chosen)
            return
        line = self._lines.get(waiter.line) or _Line()
        if not turn.beyond and line.queue.num_like(turn) >= self._max_queue:
            rival = line.queue.rival(turn)
            if rival is None:
                raise self._crowded(waiter, line)
            self._refuse(rival, self._crowded(rival, line))
        self._lines[waiter.line] = line
        line.queue.add(turn, waiter)
        self._keep(waiter, line)

    def _keep(self, waiter: Waiter, line: _Line) -> None:
        """See to it that a request in the queue is refused, or looks again, in time."""
        target = self._find(waiter.project_id, waiter.model_name)
        if target is None:
            self._refuse(waiter, self._unknown(waiter.project_id, waiter.model_name))
            return
        best = best_of(target, waiter.split_by)
        down = why_down(target.model) if best is None else None
        if down is not None:
            self._refuse(waiter, down)
            return
        self._set_limit(waiter, is_loading=best is None)
        if best is None and target.slots and line.nap is None:
            line.nap = asyncio.get_running_loop().call_later(_NAP_S, self._wake_up, waiter.line)

    def _wake_up(self, name: str) -> None:
        line = self._lines.get(name)
        if line is not None:
            line.nap = None
            self._look_over(name)

    def _look_over(self, name: str) -> None:
        line = self._lines.get(name)
        if line is None:
            return
        for waiter in [*line.queue]:
            if waiter.found.done():
                continue  # it has gone away, and takes itself out of the queue in a moment
            self._keep(waiter, line)
            target = self._find(waiter.project_id, waiter.model_name)
            if target is not None and target.line != name and line.queue.remove(waiter.turn, waiter):
                waiter.line = target.line
                other = self._lines.setdefault(target.line, _Line())
                other.queue.add(waiter.turn, waiter)
                self._serve(target.line, other)
        self._tidy(name, line)
        self._serve(name, line)

    def _set_limit(self, waiter: Waiter, *, is_loading: bool) -> None:
        if waiter.is_loading is is_loading:
            return
        waiter.is_loading = is_loading
        patient = is_loading or waiter.turn.background
        wait_s = waiter.load_wait_s if patient else min(self._queue_wait_s, waiter.load_wait_s)
        # A deployment that comes and goes does not hold a request for ever.
        latest = waiter.since + waiter.load_wait_s + self._queue_wait_s
        waiter.limit.reschedule(min(asyncio.get_running_loop().time() + wait_s, latest))

    def _fitting(self, waiter: Waiter) -> Slot | Route | None:
        target = None if waiter.found.done() else self._find(waiter.project_id, waiter.model_name)
        best = None if target is None else best_of(target, waiter.split_by)
        return None if isinstance(best, Slot) and best.is_full and not waiter.turn.beyond else best

    def _give(self, waiter: Waiter, chosen: Slot | Route) -> None:
        if isinstance(chosen, Slot):
            chosen.enter()
        waiter.found.set_result(chosen)

    def _serve(self, name: str, line: _Line, at_most: int | None = None) -> None:
        """Give free places to those who are next."""
        served = 0
        while line.queue and served != at_most:
            taken: tuple[Waiter, Slot | Route] | None = line.queue.take(self._fitting)
            if taken is None:
                break
            self._give(*taken)
            served += 1
        self._tidy(name, line)

    def _take_back(self, waiter: Waiter) -> None:
        """A request is gone: out of the queue, or out of the replica that it has just been given."""
        self._remove(waiter)
        found = waiter.found
        if found.done() and not found.cancelled() and found.exception() is None:
            chosen = found.result()
            if isinstance(chosen, Slot):
                chosen.leave()
                self.place_free(waiter.line, waiter.turn)

    def _refuse(self, waiter: Waiter, error: ModelNotFound | Unavailable) -> None:
        self._remove(waiter)
        if not waiter.found.done():
            waiter.found.set_exception(error)

    def _remove(self, waiter: Waiter) -> None:
        line = self._lines.get(waiter.line)
        if line is not None and line.queue.remove(waiter.turn, waiter):
            self._tidy(waiter.line, line)

    def _tidy(self, name: str, line: _Line) -> None:
        if not line.queue and self._lines.get(name) is line:
            del self._lines[name]
            if line.nap is not None:
                line.nap.cancel()

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _crowded(self, waiter: Waiter, line: _Line) -> Unavailable:
        telemetry.OVERLOADED.inc()
        return Unavailable(
            f"The model {waiter.model_name!r} is busy and {line.queue.num_like(waiter.turn)} requests already wait for it.",
            hint="Try again shortly.",
            code="model_overloaded",
            retry_after_s=line.come_back_s,
        )

    def _too_late(self, waiter: Waiter) -> Unavailable:
        if waiter.is_loading:
            return Unavailable(
                f"The model {waiter.model_name!r} is still loading.",
                hint="Try again shortly; GET /api/deployments shows its state.",
                code="model_loading",
                retry_after_s=5,
            )
        telemetry.OVERLOADED.inc()
        line = self._lines.get(waiter.line)
        return Unavailable(
            f"The model {waiter.model_name!r} is busy: no place became free in time.",
            hint="Try again shortly.",
            code="model_overloaded",
            retry_after_s=_COME_BACK_S if line is None else line.come_back_s,
        )
