"""What each project's month came to, and the proof: requests, ledger and invoice are added up apart and must agree."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, String, case, cast, func, select
from sqlalchemy.orm import Session

from modelworks.kernel.access.ledger import LOST
from modelworks.kernel.access.prices import Rate
from modelworks.kernel.access.store import EntryRow, InvoiceRow, PriceRow, UsageRow

_SUMS: Final = ("num_requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost")
#: The columns of the export, in order.
EXPORTED: Final = (
    "id",
    "created_at",
    "project_id",
    "key_id",
    "endpoint",
    "model",
    "version_id",
    "request_id",
    "status",
    "error_code",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cost",
    "price_id",
    "streamed",
    "aborted",
)
_PAGE: Final = 1000


class Invoice(BaseModel):
    """What a project's month (UTC) came to; `cost` in micro-units of the platform's currency."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["invoice"] = "invoice"
    project_id: str
    month: str
    num_requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: int


class Difference(BaseModel):
    """A place where two of the three sums, or a request and its price, do not agree."""

    project_id: str
    month: str
    what: str
    expected: int
    found: int
    request: str | None = None


class Verification(BaseModel):
    """What `verify` found; `first_difference` is null where everything agrees."""

    object: Literal["invoice.verification"] = "invoice.verification"
    ok: bool
    num_invoices: int
    num_requests: int
    num_entries: int
    cost: int
    first_difference: Difference | None


def invoices(session: Session, project_id: str | None, month: str | None = None) -> list[Invoice]:
    """Of one project or of all, newest month first."""
    query = select(InvoiceRow).order_by(InvoiceRow.month.desc(), InvoiceRow.project_id)
    if project_id is not None:
        query = query.where(InvoiceRow.project_id == project_id)
    if month is not None:
        query = query.where(InvoiceRow.month == month)
    return [Invoice.model_validate(row) for row in session.scalars(query)]


def verify(session: Session, project_id: str | None = None) -> Verification:
    """Compute every invoice anew from the requests and from the ledger, and the cost of every request from its price.

    Call it with a session that sees one state of the database (`Database.reading`).
    """
    month = _month(session)
    mine: list[ColumnElement[bool]] = [] if project_id is None else [UsageRow.project_id == project_id]
    entered: list[ColumnElement[bool]] = [] if project_id is None else [EntryRow.project_id == project_id]
    requests = {
        (row.project_id, row.month): tuple(int(value) for value in row[2:])
        for row in session.execute(
            select(
                UsageRow.project_id,
                month.label("month"),
                func.count(),
                func.sum(UsageRow.prompt_tokens),
                func.sum(UsageRow.cached_tokens),
                func.sum(UsageRow.completion_tokens),
                func.sum(UsageRow.cost),
            )
            .where(*mine)
            .group_by(UsageRow.project_id, month)
        )
    }
    owed = EntryRow.account.startswith("project:")
    ledger = {
        (row.project_id, row.month): tuple(int(value) for value in row[2:])
        for row in session.execute(
            select(
                EntryRow.project_id,
                EntryRow.month,
                func.count(),
                func.sum(EntryRow.tokens),
                func.sum(EntryRow.cost),
                func.sum(case((owed, EntryRow.tokens), else_=0)),
                func.sum(case((owed, EntryRow.cost), else_=0)),
            )
            .where(*entered)
            .group_by(EntryRow.project_id, EntryRow.month)
        )
    }
    written = {
        (each.project_id, each.month): tuple(getattr(each, name) for name in _SUMS) for each in invoices(session, project_id)
    }
    first = _first_of_sums(requests, ledger, written) or _first_of_requests(session, mine)
    if first is not None and first.request is None:
        first.request = _first_request(session, first)
    return Verification(
        ok=first is None,
        num_invoices=len(written),
        num_requests=sum(sums[0] for sums in requests.values()),
        num_entries=sum(sums[0] for sums in ledger.values()),
        cost=sum(sums[4] for sums in written.values()),
        first_difference=first,
    )


_Sums = dict[tuple[str, str], tuple[int, ...]]


def _first_of_sums(requests: _Sums, ledger: _Sums, written: _Sums) -> Difference | None:
    for place in sorted(requests.keys() | ledger.keys() | written.keys(), key=lambda each: (each[1], each[0])):
        asked = requests.get(place, (0, 0, 0, 0, 0))
        _, balance_tokens, balance_cost, tokens, cost = ledger.get(place, (0, 0, 0, 0, 0))
        billed = written.get(place, (0, 0, 0, 0, 0))
        checks = [
            ("the ledger's entries add up to no tokens", 0, balance_tokens),
            ("the ledger's entries add up to no cost", 0, balance_cost),
            ("tokens of the ledger, beside those of the requests", asked[1] + asked[3], tokens),
            ("cost of the ledger, beside that of the requests", asked[4], cost),
            *(
                (f"{name} of the invoice, beside those of the requests", expected, found)
                for name, expected, found in zip(_SUMS, asked, billed, strict=True)
            ),
        ]
        for what, expected, found in checks:
            if expected != found:
                return Difference(project_id=place[0], month=place[1], what=what, expected=expected, found=found)
    return None


def _first_of_requests(session: Session, mine: list[ColumnElement[bool]]) -> Difference | None:
    """Each request's cost, from the price that it names; what a dead process had reserved counts at the most it may cost."""
    rates: dict[str | None, Rate] = {
        row.id: Rate(row.id, row.input, row.cached, row.output) for row in session.scalars(select(PriceRow))
    }
    columns = (
        UsageRow.id,
        UsageRow.project_id,
        UsageRow.created_at,
        UsageRow.price_id,
        UsageRow.prompt_tokens,
        UsageRow.cached_tokens,
        UsageRow.completion_tokens,
        UsageRow.cost,
        UsageRow.error_code,
    )
    priced = UsageRow.price_id.is_not(None) | (UsageRow.cost != 0)
    for row in session.execute(select(*columns).where(*mine, priced).order_by(UsageRow.id).execution_options(yield_per=_PAGE)):
        rate = rates.get(row.price_id)
        expected = 0
        if rate is not None:
            expected = rate.cost(row.prompt_tokens, row.cached_tokens, row.completion_tokens)
            if row.error_code == LOST:
                expected = rate.most(row.prompt_tokens, row.completion_tokens)
        if row.cost != expected:
            return Difference(
                project_id=row.project_id,
                month=f"{row.created_at:%Y-%m}",
                what="cost of a request, beside its tokens at its price",
                expected=expected,
                found=row.cost,
                request=row.id,
            )
    return None


def _first_request(session: Session, found: Difference) -> str | None:
    """The first request of the month whose own entries do not agree with it, if it is one request's fault."""
    owed: dict[str, tuple[int, int]] = {}
    balance: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    within = (EntryRow.project_id == found.project_id, EntryRow.month == found.month)
    for usage_id, account, tokens, cost in session.execute(
        select(EntryRow.usage_id, EntryRow.account, EntryRow.tokens, EntryRow.cost).where(*within)
    ):
        if account.startswith("project:"):
            owed[usage_id] = (tokens, cost)
        balance[usage_id][0] += tokens
        balance[usage_id][1] += cost
    here = (UsageRow.project_id == found.project_id, _month(session) == found.month)
    tokens_of = (UsageRow.prompt_tokens + UsageRow.completion_tokens).label("tokens")
    seen: set[str] = set()
    for usage_id, tokens, cost in session.execute(
        select(UsageRow.id, tokens_of, UsageRow.cost).where(*here).order_by(UsageRow.id)
    ):
        seen.add(usage_id)
        if owed.get(usage_id, (0, 0)) != (tokens, cost) or balance[usage_id] != [0, 0]:
            return str(usage_id)
    return next((usage_id for usage_id in sorted(owed) if usage_id not in seen), None)


def _month(session: Session) -> ColumnElement[str]:
    if session.get_bind().dialect.name == "sqlite":
        return func.substr(cast(UsageRow.created_at, String), 1, 7)
    return func.to_char(func.timezone("UTC", UsageRow.created_at), "YYYY-MM")


def export(session: Session, project_id: str, since: datetime | None = None, until: datetime | None = None) -> Iterator[str]:
    """The project's requests from `since` to `until` as CSV (RFC 4180), oldest first, some lines at a time."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(EXPORTED)
    query = select(*(getattr(UsageRow, name) for name in EXPORTED)).where(UsageRow.project_id == project_id)
    if since is not None:
        query = query.where(UsageRow.created_at >= since)
    if until is not None:
        query = query.where(UsageRow.created_at < until)
    for rows in session.execute(query.order_by(UsageRow.id).execution_options(yield_per=_PAGE)).partitions():
        writer.writerows([_cell(value) for value in row] for row in rows)
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    if rest := out.getvalue():
        yield rest


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        # A name that a caller chose must not become a formula in a spreadsheet.
        return "'" + value
    return value
