"""The exact account of what is used: reserved before it is spent, settled with what the engine counted, posted twice.

Every statement here runs inside a transaction of the recorder's (`usage.py`). Amounts are whole numbers: tokens, requests, and
micro-units of the platform's currency. Several gateway processes may share one database: a claim is one conditional UPDATE
(`used + reserved + claim <= amount`), never a value that was read before; rows are locked in one order everywhere.

A rate per minute is a token bucket in the form of the generic cell rate algorithm (ITU-T I.371): one number says when the
bucket is full again, and a claim moves it on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

import structlog
from sqlalchemy import BigInteger, Connection, String, and_, bindparam, case, delete, insert, or_, select, update

from modelworks.contract.errors import ModelworksError, QuotaExceeded, RateLimited
from modelworks.kernel.access.allowances import AT_ONCE, MINUTE_NS, Allowance, bounds
from modelworks.kernel.access.schemas import Claim, Reservation, UsageRecord
from modelworks.kernel.access.store import (
    AllowanceRow,
    AllowanceStateRow,
    EntryRow,
    HolderRow,
    InvoiceRow,
    ReservationRow,
    UsageRow,
)
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import insert_into
from modelworks.kernel.base.ids import new_id

log = structlog.get_logger(__name__)

#: The error code of a record that was made because its request's process died; it counts all that was reserved.
LOST: Final = "process_lost"
LEASE_S: Final = 60.0

_COLUMNS: Final = tuple(column.name for column in UsageRow.__table__.columns)
#: Text columns with their lengths: what a client sent (`model`) may be of any length and hold any character.
_TEXTS: Final = tuple(
    (column.name, column.type.length or 0) for column in UsageRow.__table__.columns if isinstance(column.type, String)
)

_State = AllowanceStateRow
_amount = select(AllowanceRow.amount).where(AllowanceRow.id == bindparam("place_id")).scalar_subquery()
_now = bindparam("now_ns", type_=BigInteger)
_claimed = bindparam("claim", type_=BigInteger)
_claimed_ns = bindparam("claim_ns", type_=BigInteger)
_here = and_(_State.allowance_id == bindparam("place_id"), _State.span == bindparam("place_span"))
_STATE = (_State.used, _State.reserved, _State.full_at)
_CLAIM = (
    update(_State)
    .where(_here, _State.used + _State.reserved + _claimed <= _amount)
    .values(reserved=_State.reserved + _claimed)
    .returning(_State.full_at)
)
_full_from = case((_State.full_at > _now, _State.full_at), else_=_now)
_CLAIM_RATE = (
    update(_State)
    .where(_here, _full_from + _claimed_ns <= _now + MINUTE_NS)
    .values(full_at=_full_from + _claimed_ns)
    .returning(_State.full_at)
)
_SETTLE = (
    update(_State)
    .where(_here)
    .values(
        used=_State.used + bindparam("more_used", type_=BigInteger),
        reserved=_State.reserved - bindparam("released", type_=BigInteger),
        full_at=_State.full_at + bindparam("more_ns", type_=BigInteger),
    )
)
_INVOICE_SUMS: Final = ("num_requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost")
_RESERVED: Final = (
    "id",
    "project_id",
    "key_id",
    "model",
    "endpoint",
    "request_id",
    "prompt_tokens",
    "completion_tokens",
    "cost",
    "price_id",
)
_INSERT_USAGE: Final = insert(UsageRow)
_INSERT_ENTRIES: Final = insert(EntryRow)
_INSERT_RESERVATIONS: Final = insert(ReservationRow)


@cache
def _add_to_invoice(dialect: str) -> Any:
    made = insert_into(InvoiceRow, dialect)
    sums = {name: getattr(InvoiceRow, name) + made.excluded[name] for name in _INVOICE_SUMS}
    return made.on_conflict_do_update(index_elements=["project_id", "month"], set_=sums)


@cache
def _make_state(dialect: str) -> Any:
    return insert_into(AllowanceStateRow, dialect).on_conflict_do_nothing()


class _Refused(Exception):
    """A claim did not find room, or not even its row."""


class Ledger:
    """Reserves, settles and posts within a caller's transaction.

    Args:
        clock: says what day it is, and how fast buckets fill. Processes on one database need clocks that agree to the second.
        lease_s: silence after which a process is taken for dead and its reservations are counted as used.
    """

    def __init__(self, clock: Clock, *, lease_s: float = LEASE_S) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._holder = new_id("hld")
        self._beat_at: float | None = None

    @property
    def tend_every_s(self) -> float:
        """How often `tend` wants to be called."""
        return self._lease_s / 4

    def take(self, connection: Connection, items: Sequence[UsageRecord | Reservation]) -> list[ModelworksError | None]:
        """Post the records among them, then grant the reservations or say why not, in the order given; None: done."""
        records = [item for item in items if isinstance(item, UsageRecord)]
        asked = [item for item in items if isinstance(item, Reservation)]
        _lock(connection, (claim for item in items for claim in item.claims))
        if records:
            self._post(connection, records)
        if not asked:
            return [None] * len(items)
        refusals = iter(self._reserve(connection, asked))
        return [next(refusals) if isinstance(item, Reservation) else None for item in items]

    # Reserving

    def _reserve(self, connection: Connection, asked: Sequence[Reservation]) -> list[ModelworksError | None]:
        """All of them at once where there is room for all, else one by one in their order."""
        self._beat(connection)
        if len(asked) > 1:
            try:
                with connection.begin_nested():
                    self._claim_all(connection, asked)
            except _Refused:
                pass
            else:
                return [None] * len(asked)
        outcomes: list[ModelworksError | None] = []
        for each in asked:
            try:
                with connection.begin_nested():
                    self._claim_all(connection, [each], alone=True)
            except _Refused as refused:
                outcomes.append(self._reason(connection, each, refused.args[0]))
            else:
                outcomes.append(None)
        return outcomes

    def _claim_all(self, connection: Connection, asked: Sequence[Reservation], *, alone: bool = False) -> None:
        sums: dict[tuple[str, str], list[Claim]] = defaultdict(list)
        for each in asked:
            for claim in each.claims:
                sums[claim.place].append(claim)
        now_ns = self._now_ns()
        states: dict[tuple[str, str], int] = {}
        gone: set[tuple[str, str]] = set()
        for place in sorted(sums):
            state = _claim(connection, sums[place], now_ns)
            if state is None and alone:
                # The first request of a day, or one that a removed budget still concerned, makes this way round.
                if not _exists(connection, place[0]):
                    gone.add(place)
                    continue
                _ensure_state(connection, place)
                state = _claim(connection, sums[place], now_ns)
            if state is None:
                raise _Refused(place)
            states[place] = state
        for each in asked:
            each.headers = _headers(each, states, now_ns)
            if gone:
                each.claims = tuple(claim for claim in each.claims if claim.place not in gone)
        now = self._clock.now()
        rows = [
            {name: getattr(each, name) for name in _RESERVED}
            | {
                "holder": self._holder,
                "created_at": now,
                "model": _storable(each.model, 256),
                "claims": [[c.allowance_id, c.span, c.metric, c.amount, c.spacing_ns] for c in each.claims],
            }
            for each in asked
        ]
        connection.execute(_INSERT_RESERVATIONS, rows)

    def _reason(self, connection: Connection, asked: Reservation, place: tuple[str, str]) -> ModelworksError:
        row = connection.execute(select(AllowanceRow.__table__).where(AllowanceRow.id == place[0])).one()
        state = connection.execute(
            select(_State.used, _State.reserved, _State.full_at).where(_State.allowance_id == place[0], _State.span == place[1])
        ).one_or_none()
        used, reserved, full_at = (0, 0, 0) if state is None else state
        claim = next(claim for claim in asked.claims if claim.place == place)
        found = Allowance(row.id, row.scope, row.subject, row.metric, row.period, row.amount)
        now_ns = self._now_ns()
        if found.is_rate:
            asked.headers = _headers(asked, {place: full_at}, now_ns)
            wait_s = max(0, max(full_at, now_ns) + claim.amount * claim.spacing_ns - now_ns - MINUTE_NS) / 1e9
            return RateLimited(
                f"The limit of {found.amount:,} {found.metric} per minute of {found.owner} is reached: this request counts "
                f"{claim.amount:,}.",
                hint=f"Try again in {max(wait_s, 0.001):.3g} s.",
                retry_after_s=max(wait_s, 0.001),
            )
        if found.period == AT_ONCE:
            return RateLimited(
                f"{reserved:,} requests of {found.owner} are under way, the most that may be at the same time.",
                hint="Try again when one of them has been answered.",
                retry_after_s=1.0,
            )
        return _exhausted(found, claim, used, reserved, self._clock.now())

    # Settling and posting

    def _post(self, connection: Connection, records: Sequence[UsageRecord]) -> None:
        """Write records with their double entries and their invoice, and give back what they had reserved and did not use.

        A record whose reservation was counted as lost meanwhile is not written again: its counted figure stands.
        """
        held = [record for record in records if record.claims]
        if held:
            ids = [record.id for record in held]
            removed = delete(ReservationRow).where(ReservationRow.id.in_(ids)).returning(ReservationRow.id)
            live = set(connection.execute(removed).scalars())
            if len(live) < len(held):
                late = {record.id for record in held} - live
                log.warning("requests ended after their process was taken for dead", num_requests=len(late))
                records = [record for record in records if record.id not in late]
                held = [record for record in held if record.id in live]
        if records:
            rows = [_row(record) for record in records]
            connection.execute(_INSERT_USAGE, rows)
            self._enter(connection, rows)
        if held:
            self._settle(connection, held)

    def _enter(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        entries: list[dict[str, Any]] = []
        sums: dict[tuple[str, str], list[int]] = {}
        for row in rows:
            prompt, completion, cost = row["prompt_tokens"], row["completion_tokens"], row["cost"]
            project_id, month = row["project_id"], row["created_at"].isoformat()[:7]
            tokens = prompt + completion
            if tokens or cost:
                side = {"usage_id": row["id"], "project_id": project_id, "month": month}
                entries.append(side | {"account": f"project:{project_id}", "tokens": tokens, "cost": cost})
                entries.append(side | {"account": f"model:{row['model']}", "tokens": -tokens, "cost": -cost})
            total = sums.setdefault((project_id, month), [0, 0, 0, 0, 0])
            for place, value in enumerate((1, prompt, row["cached_tokens"], completion, cost)):
                total[place] += value
        if entries:
            connection.execute(_INSERT_ENTRIES, entries)
        upsert = _add_to_invoice(connection.dialect.name)
        connection.execute(
            upsert,
            [
                {"project_id": project_id, "month": month, **dict(zip(_INVOICE_SUMS, total, strict=True))}
                for (project_id, month), total in sorted(sums.items())
            ],
        )

    def _settle(self, connection: Connection, records: Iterable[UsageRecord]) -> None:
        changes: dict[tuple[str, str], list[int]] = {}
        for record in records:
            actual = {
                "tokens": record.prompt_tokens + record.completion_tokens,
                "cost": record.cost,
                "requests": 1,
                "concurrency": 0,
            }
            for claim in record.claims:
                change = changes.setdefault(claim.place, [0, 0, 0])
                if claim.spacing_ns:
                    change[2] += (actual[claim.metric] - claim.amount) * claim.spacing_ns
                else:
                    change[0] += actual[claim.metric]
                    change[1] += claim.amount
        found = [
            {"place_id": place[0], "place_span": place[1], "more_used": used, "released": released, "more_ns": more_ns}
            for place, (used, released, more_ns) in sorted(changes.items())
            if used or released or more_ns
        ]
        if found:
            connection.execute(_SETTLE, found)

    # Processes that live, and processes that died

    def tend(self, connection: Connection, lost: Sequence[str] = ()) -> int:
        """Say that this process lives, and count what dead ones had reserved as used; returns how many requests.

        Args:
            lost: reservations of this process whose requests could not be recorded.
        """
        if self._beat_at is not None:
            self._beat(connection)
        now = self._clock.now()
        silent_since = now - timedelta(seconds=self._lease_s)
        dead = list(
            connection.execute(delete(HolderRow).where(HolderRow.seen_at < silent_since).returning(HolderRow.id)).scalars()
        )
        # A holder may be missing where the transaction that named it was rolled back.
        unheld = and_(ReservationRow.created_at < silent_since, ReservationRow.holder.not_in(select(HolderRow.id)))
        rows = connection.execute(
            select(ReservationRow.__table__)
            .where(or_(ReservationRow.holder.in_(dead), ReservationRow.id.in_(list(lost)), unheld))
            .order_by(ReservationRow.id)
        ).all()
        records = [
            UsageRecord(
                **{name: getattr(row, name) for name in _RESERVED},
                status=500,
                error_code=LOST,
                aborted=True,
                created_at=now,
                claims=tuple(Claim(*claim) for claim in row.claims),
            )
            for row in rows
        ]
        if records:
            log.warning(
                "requests of a process that died are counted with all that they had reserved", num_requests=len(records)
            )
            _lock(connection, (claim for record in records for claim in record.claims))
            self._post(connection, records)
        return len(records)

    def _beat(self, connection: Connection) -> None:
        moment = self._clock.monotonic()
        if self._beat_at is not None and moment - self._beat_at < self._lease_s / 5:
            return
        now = self._clock.now()
        alive = update(HolderRow).where(HolderRow.id == self._holder).values(seen_at=now)
        if connection.execute(alive).rowcount == 0:
            connection.execute(insert(HolderRow), [{"id": self._holder, "seen_at": now}])
        self._beat_at = moment

    def leave(self, connection: Connection) -> None:
        """End in order: what this process still had reserved is counted now, and nobody waits for it."""
        if self._beat_at is None:
            return
        held = list(connection.execute(select(ReservationRow.id).where(ReservationRow.holder == self._holder)).scalars())
        self.tend(connection, held)
        connection.execute(delete(HolderRow).where(HolderRow.id == self._holder))
        self._beat_at = None

    def _now_ns(self) -> int:
        return int(self._clock.now().timestamp() * 1_000_000) * 1000


def _lock(connection: Connection, claims: Iterable[Claim]) -> None:
    """Lock the rows of claims in the one order; SQLite has one writer anyway."""
    if connection.dialect.name == "sqlite":
        return
    places = sorted({claim.place for claim in claims})
    by_id: dict[str, list[str]] = defaultdict(list)
    for allowance_id, span in places:
        by_id[allowance_id].append(span)
    if by_id:
        wanted = or_(*(and_(_State.allowance_id == each, _State.span.in_(spans)) for each, spans in by_id.items()))
        connection.execute(
            select(_State.allowance_id).where(wanted).order_by(_State.allowance_id, _State.span).with_for_update()
        )


def _claim(connection: Connection, claims: Sequence[Claim], now_ns: int) -> int | None:
    """When the bucket is full again (0 for budgets); None where there is no room, or no row."""
    place = {"place_id": claims[0].allowance_id, "place_span": claims[0].span}
    if claims[0].spacing_ns:
        taken = sum(claim.amount * claim.spacing_ns for claim in claims)
        found = connection.execute(_CLAIM_RATE, place | {"claim_ns": taken, "now_ns": now_ns})
    else:
        found = connection.execute(_CLAIM, place | {"claim": sum(claim.amount for claim in claims)})
    full_at = found.scalar_one_or_none()
    return None if full_at is None else int(full_at)


def _exists(connection: Connection, allowance_id: str) -> bool:
    return connection.execute(select(AllowanceRow.id).where(AllowanceRow.id == allowance_id)).first() is not None


def _ensure_state(connection: Connection, place: tuple[str, str]) -> None:
    empty = {"allowance_id": place[0], "span": place[1], "used": 0, "reserved": 0, "full_at": 0}
    connection.execute(_make_state(connection.dialect.name), [empty])


def _exhausted(found: Allowance, claim: Claim, used: int, reserved: int, now: datetime) -> ModelworksError:
    start_again = bounds(found.period, now)[1]
    shown = _money if found.metric == "cost" else "{:,}".format
    unit = "" if found.metric == "cost" else f" {found.metric}"
    said = (
        f"The budget per {found.period} of {found.owner} does not suffice: {shown(used)} of {shown(found.amount)}{unit} "
        f"are used, {shown(reserved)} are reserved by requests under way, and this one may need {shown(claim.amount)}. "
        f"It starts anew at {start_again:%Y-%m-%dT%H:%M:%SZ}."
    )
    if used + claim.amount <= found.amount:
        # Room enough once what is under way has been settled: not exhausted, only taken for the moment.
        return RateLimited(said, hint="Try again shortly.", retry_after_s=1.0)
    return QuotaExceeded(said, hint="Ask for less with max_tokens, wait, or have an administrator raise it.")


def _money(micro_units: int) -> str:
    return f"{micro_units / 1e6:,.6f}".rstrip("0").rstrip(".")


def _headers(asked: Reservation, states: dict[tuple[str, str], int], now_ns: int) -> list[tuple[bytes, bytes]]:
    """`x-ratelimit-…` of the tightest rate on requests and on tokens, as OpenAI writes them."""
    tightest: dict[str, tuple[int, int, int]] = {}
    for claim, limit in asked.rates:
        full_at = states.get(claim.place)
        if full_at is None:
            continue
        behind_ns = max(0, full_at - now_ns)
        left = min(limit, max(0, MINUTE_NS - behind_ns) // claim.spacing_ns)
        if claim.metric not in tightest or left < tightest[claim.metric][0]:
            tightest[claim.metric] = (left, limit, behind_ns)
    found: list[tuple[bytes, bytes]] = []
    for metric, (left, limit, behind_ns) in tightest.items():
        for name, value in (("limit", str(limit)), ("remaining", str(left)), ("reset", _span(behind_ns))):
            found.append((f"x-ratelimit-{name}-{metric}".encode(), value.encode()))
    return found


def _span(nanoseconds: int) -> str:
    """`17ms`, `1.5s`, `1m0s`: the form in which OpenAI's header gives a span of time."""
    milliseconds = -(-nanoseconds // 1_000_000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _row(record: UsageRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _COLUMNS}
    for name, length in _TEXTS:
        value = row[name]
        if value is not None and not (len(value) <= length and value.isascii() and "\x00" not in value):
            row[name] = _storable(value, length)
    return row


def _storable(text: str, length: int) -> str:
    """PostgreSQL stores neither NUL nor lone surrogates, and holds to the length."""
    return text[:length].replace("\x00", "").encode("utf-8", "replace").decode()
