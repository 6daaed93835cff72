"""From a request to what it may cost at most, and to the budgets and limits that it meets: in memory, off the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.concurrency import run_in_threadpool

from modelworks.kernel.access.allowances import Allowance, in_force, span_of
from modelworks.kernel.access.prices import EVERYWHERE, PriceList, Rate, price_list
from modelworks.kernel.access.schemas import Claim, Reservation
from modelworks.kernel.access.usage import UsageRecorder
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events

_CACHE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is known of a request before it is answered.

    Args:
        model: as the caller wrote it.
        prompt_tokens: the most that its prompt can have.
        completion_tokens: the most that its answer can have, over all choices.
        likely_tokens: what it will probably use, for limits on tokens per minute; settled exactly afterwards.
    """

    project_id: str
    key_id: str
    model: str
    endpoint: str
    request_id: str
    prompt_tokens: int
    completion_tokens: int
    likely_tokens: int


@dataclass(frozen=True, slots=True)
class _Terms:
    prices: PriceList
    allowances: tuple[Allowance, ...]
    good_until: float


class Admission:
    """Admits requests. Terms changed here hold at once, those changed by another process within five seconds.

    How much a budget allows is read where it is claimed, and so holds at once everywhere.
    """

    def __init__(self, db: Database, recorder: UsageRecorder, clock: Clock, events: Events) -> None:
        self._db = db
        self._recorder = recorder
        self._clock = clock
        self._terms: dict[str, _Terms] = {}
        self._generation = 0
        events.subscribe("terms.changed", lambda _topic, payload: self._forget(str(payload.get("project_id"))))

    async def meet(self, demand: Demand) -> tuple[Rate | None, Reservation | None]:
        """The price that the request has, and what it must reserve; None where no budget or limit concerns it."""
        terms = self._terms.get(demand.project_id)
        if terms is None or terms.good_until <= self._clock.monotonic():
            terms = await run_in_threadpool(self._load, demand.project_id)
        model = demand.model.partition("@")[0]
        now = self._clock.now()
        rate = terms.prices.at(model, now)
        if not terms.allowances:
            return rate, None
        cost = 0 if rate is None else rate.most(demand.prompt_tokens, demand.completion_tokens)
        most = {
            "tokens": demand.prompt_tokens + demand.completion_tokens,
            "cost": cost,
            "requests": 1,
            "concurrency": 1,
        }
        claims: list[Claim] = []
        rates: list[tuple[Claim, int]] = []
        for each in terms.allowances:
            if not each.concerns(demand.key_id, model):
                continue
            if each.is_rate:
                wanted = 1 if each.metric == "requests" else demand.likely_tokens
                # A request that is larger than its limit is let through once the bucket is full: it would never be otherwise.
                claim = Claim(each.id, "", each.metric, min(wanted, each.amount), each.spacing_ns)
                rates.append((claim, each.amount))
            else:
                claim = Claim(each.id, span_of(each.period, now), each.metric, most[each.metric])
            claims.append(claim)
        if not claims:
            return rate, None
        reservation = Reservation(
            project_id=demand.project_id,
            key_id=demand.key_id,
            model=demand.model[:256],
            endpoint=demand.endpoint,
            request_id=demand.request_id,
            prompt_tokens=demand.prompt_tokens,
            completion_tokens=demand.completion_tokens,
            cost=cost,
            price_id=None if rate is None else rate.id,
            claims=tuple(claims),
            rates=tuple(rates),
        )
        return rate, reservation

    async def reserve(self, reservation: Reservation) -> None:
        """Make sure of it; see `UsageRecorder.reserve`."""
        await self._recorder.reserve(reservation)

    def _load(self, project_id: str) -> _Terms:
        generation = self._generation
        with self._db.reading() as session:
            found = _Terms(
                price_list(session, project_id), tuple(in_force(session, project_id)), self._clock.monotonic() + _CACHE_S
            )
        if generation == self._generation:
            self._terms[project_id] = found
        return found

    def _forget(self, project_id: str) -> None:
        self._generation += 1
        if project_id == EVERYWHERE:
            self._terms = {}
        else:
            self._terms.pop(project_id, None)
