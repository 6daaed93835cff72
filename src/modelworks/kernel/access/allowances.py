"""What keys, projects and models may use: budgets per day or month, limits per minute or at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.access.store import AllowanceRow, AllowanceStateRow, KeyRow, ProjectRow, UsageRow
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id

Subject = Literal["project", "key", "model"]
BudgetMetric = Literal["tokens", "cost", "requests"]
BudgetPeriod = Literal["day", "month"]
LimitMetric = Literal["requests", "tokens", "concurrency"]

MINUTE_NS: Final = 60_000_000_000
#: The period of a limit on requests at the same time.
AT_ONCE: Final = "now"
_PERIOD_OF_LIMIT: Final[Mapping[str, str]] = {"requests": "minute", "tokens": "minute", "concurrency": AT_ONCE}
_MAX_BUDGET: Final = 10**15
_MAX_LIMIT: Final = 10**9


@dataclass(frozen=True, slots=True)
class Allowance:
    """A budget or a limit as requests meet it. `period`: day, month, minute or now."""

    id: str
    scope: str
    subject: str
    metric: str
    period: str
    amount: int

    @property
    def is_rate(self) -> bool:
        return self.period == "minute"

    @property
    def spacing_ns(self) -> int:
        """Of a rate: the time in which one unit flows back into its bucket."""
        return MINUTE_NS // self.amount if self.is_rate else 0

    def concerns(self, key_id: str, model: str) -> bool:
        """Whether a request of the project with this key for this model (its name without alias) counts."""
        return self.scope == "project" or self.subject == (key_id if self.scope == "key" else model)

    @property
    def owner(self) -> str:
        """Whose it is, as told to callers."""
        return "this project" if self.scope == "project" else f"the {self.scope} {self.subject!r}"


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scope: Subject = "project"
    subject: str | None = Field(default=None, max_length=256, description="Id of the key, or name of the model.")
    project_id: str | None = Field(default=None, description="Default: the caller's project.")


class BudgetSet(_Wanted):
    """How much may be used in a day or a month (UTC)."""

    metric: BudgetMetric
    period: BudgetPeriod = "month"
    amount: int = Field(ge=0, le=_MAX_BUDGET, description="Tokens, requests, or micro-units of the currency.")


class LimitSet(_Wanted):
    """How fast, or how many at the same time: requests or tokens per minute, or requests at once."""

    metric: LimitMetric
    amount: int = Field(ge=1, le=_MAX_LIMIT)


class Shown(BaseModel):
    """A budget or a limit with what is used of it."""

    object: Literal["budget", "limit"]
    id: str
    project_id: str
    scope: Subject
    subject: str | None
    metric: str
    period: str
    amount: int
    used: int
    reserved: int
    resets_at: datetime | None
    updated_at: datetime


def span_of(period: str, moment: datetime) -> str:
    """The day or the month (UTC) as the table writes it; nothing for limits."""
    if period == "day":
        return f"{moment.astimezone(UTC):%Y-%m-%d}"
    return f"{moment.astimezone(UTC):%Y-%m}" if period == "month" else ""


def bounds(period: str, moment: datetime) -> tuple[datetime, datetime]:
    """The start and the end of the day or month (UTC) around a moment."""
    start = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return start, start + timedelta(days=1)
    start = start.replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def in_force(session: Session, project_id: str) -> list[Allowance]:
    """Everything that may concern a request of the project, in the order in which it is claimed."""
    rows = session.scalars(select(AllowanceRow).where(AllowanceRow.project_id == project_id).order_by(AllowanceRow.id))
    return [Allowance(row.id, row.scope, row.subject, row.metric, row.period, row.amount) for row in rows]


class Allowances:
    """Sets, shows and removes budgets and limits."""

    def __init__(self, clock: Clock, events: Events) -> None:
        self._clock = clock
        self._events = events

    def set(self, session: Session, project_id: str, wanted: BudgetSet | LimitSet, set_by: str | None = None) -> Shown:
        """Set or change one; there is one per project, scope, subject, metric and period.

        What its day or month has seen before counts: a budget that is set today knows what was used today.

        Raises:
            InvalidRequest: the subject is missing, or given where the project itself is meant.
            NotFound: no such project or key.
        """
        subject = self._subject(session, project_id, wanted)
        period = wanted.period if isinstance(wanted, BudgetSet) else _PERIOD_OF_LIMIT[wanted.metric]
        now = self._clock.now()
        row = session.scalar(
            select(AllowanceRow).where(
                AllowanceRow.project_id == project_id,
                AllowanceRow.scope == wanted.scope,
                AllowanceRow.subject == subject,
                AllowanceRow.metric == wanted.metric,
                AllowanceRow.period == period,
            )
        )
        if row is None:
            row = AllowanceRow(
                id=new_id("bud" if isinstance(wanted, BudgetSet) else "lim"),
                project_id=project_id,
                scope=wanted.scope,
                subject=subject,
                metric=wanted.metric,
                period=period,
                amount=wanted.amount,
                updated_at=now,
                set_by=set_by,
            )
            session.add(row)
            used = _used_so_far(session, row, now) if isinstance(wanted, BudgetSet) else 0
            span = span_of(period, now)
            session.add(AllowanceStateRow(allowance_id=row.id, span=span, used=used, reserved=0, full_at=0))
        else:
            row.amount, row.updated_at, row.set_by = wanted.amount, now, set_by
        session.flush()
        self._events.publish_after_commit(session, "terms.changed", project_id=project_id)
        return self._shown(session, row)

    def _subject(self, session: Session, project_id: str, wanted: _Wanted) -> str:
        if session.get(ProjectRow, project_id) is None:
            raise NotFound(f"There is no project {project_id!r}.", hint="GET /api/projects lists them.", param="project_id")
        subject = wanted.subject or ""
        if wanted.scope == "project":
            if subject:
                raise InvalidRequest("The project itself has no further subject.", hint="Leave subject out.", param="subject")
            return ""
        if not subject:
            raise InvalidRequest(
                f"Which {wanted.scope} is meant is missing.",
                hint="Give the key's id as subject." if wanted.scope == "key" else "Give the model's name as subject.",
                param="subject",
            )
        if wanted.scope == "key":
            key = session.get(KeyRow, subject)
            if key is None or key.project_id != project_id:
                raise NotFound(f"There is no API key {subject!r} in this project.", hint="GET /api/keys lists them.")
        elif "@" in subject:
            raise InvalidRequest(
                f"Budgets and limits are for all versions of a model: {subject!r} names one of them.",
                hint=f"Give the name {subject.partition('@')[0]!r}.",
                param="subject",
            )
        return subject

    def list(self, session: Session, project_id: str, kind: Literal["budget", "limit"]) -> list[Shown]:
        """The budgets or the limits of a project with what is used of them now, oldest first."""
        prefix = "bud_" if kind == "budget" else "lim_"
        query = (
            select(AllowanceRow)
            .where(AllowanceRow.project_id == project_id, AllowanceRow.id.startswith(prefix, autoescape=True))
            .order_by(AllowanceRow.id)
        )
        return [self._shown(session, row) for row in session.scalars(query)]

    def get(self, session: Session, project_id: str, allowance_id: str) -> Shown:
        """One of them; raises NotFound where the project has none of that id."""
        return self._shown(session, self._row(session, project_id, allowance_id))

    def remove(self, session: Session, project_id: str, allowance_id: str) -> Shown:
        """Take one away, with what is known of its use; raises as `get`."""
        row = self._row(session, project_id, allowance_id)
        shown = self._shown(session, row)
        for state in session.scalars(select(AllowanceStateRow).where(AllowanceStateRow.allowance_id == row.id)):
            session.delete(state)
        session.delete(row)
        session.flush()
        self._events.publish_after_commit(session, "terms.changed", project_id=project_id)
        return shown

    def _row(self, session: Session, project_id: str, allowance_id: str) -> AllowanceRow:
        row = session.get(AllowanceRow, allowance_id)
        if row is None or row.project_id != project_id:
            raise NotFound(
                f"There is no budget or limit {allowance_id!r} in this project.",
                hint="GET /api/budgets and GET /api/limits list them.",
            )
        return row

    def _shown(self, session: Session, row: AllowanceRow) -> Shown:
        now = self._clock.now()
        state = session.get(AllowanceStateRow, (row.id, span_of(row.period, now)))
        is_budget = row.period in ("day", "month")
        used, reserved = (state.used, state.reserved) if state is not None else (0, 0)
        if row.period == "minute" and state is not None:
            # What has not flowed back yet.
            behind_ns = max(0, state.full_at - int(now.timestamp() * 1e9))
            used = -(-behind_ns * row.amount // MINUTE_NS)
        return Shown.model_validate(
            {
                "object": "budget" if is_budget else "limit",
                "id": row.id,
                "project_id": row.project_id,
                "scope": row.scope,
                "subject": row.subject or None,
                "metric": row.metric,
                "period": row.period,
                "amount": row.amount,
                "used": used,
                "reserved": reserved,
                "resets_at": bounds(row.period, now)[1] if is_budget else None,
                "updated_at": row.updated_at,
            }
        )


def _used_so_far(session: Session, row: AllowanceRow, now: datetime) -> int:
    start, end = bounds(row.period, now)
    conditions: list[ColumnElement[bool]] = [
        UsageRow.project_id == row.project_id,
        UsageRow.created_at >= start,
        UsageRow.created_at < end,
    ]
    if row.scope == "key":
        conditions.append(UsageRow.key_id == row.subject)
    elif row.scope == "model":
        versions = func.substr(UsageRow.model, 1, len(row.subject) + 1) == row.subject + "@"
        conditions.append(or_(UsageRow.model == row.subject, versions))
    used: ColumnElement[int]
    if row.metric == "requests":
        used = func.count()
    else:
        used = func.sum(UsageRow.cost if row.metric == "cost" else UsageRow.prompt_tokens + UsageRow.completion_tokens)
    return int(session.scalar(select(used).where(and_(*conditions))) or 0)
