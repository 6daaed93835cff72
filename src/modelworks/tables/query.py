"""A query as it is put together, and as SQL: one SELECT over one table and those that its rows refer to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from modelworks.tables.card import Card, Column, Table
from modelworks.tables.reading import Day, Spot, column_of, table_of
from modelworks.tables.snapshot import quoted

Aggregate = Literal["avg", "sum", "max", "min"]
Operator = Literal["=", "<", "<=", ">", ">="]
#: Rows of an answer that lists.
LIST_ROWS: Final = 50


class Ambiguous(Exception):
    """The words can mean several things, or none: the question is left to the documents."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What rows must hold: `sql` tests it, `told` says it."""

    sql: str
    told: str
    column: Spot | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A column of the answer."""

    sql: str
    label: str
    unit: str | None = None


@dataclass(slots=True)
class Query:
    """See `sql`."""

    base: str
    shown: list[Shown] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    groups: list[Shown] = field(default_factory=list)
    order: str | None = None
    is_descending: bool = True
    limit: int | None = None
    distinct: bool = False
    #: Rows of equal rank are all shown.
    has_ties: bool = False
    #: count, aggregate, share, top, groups, list: what the sentence is made of.
    kind: str = "list"
    joined: list[str] = field(default_factory=list)


class Context:
    """A table with those that its rows refer to; no join can multiply its rows."""

    def __init__(self, card: Card, base: str) -> None:
        self.card = card
        self.base = table_of(card, base)
        #: Those of the others that the question names.
        self.mentioned: set[str] = set()
        #: Table, and how it is joined: (from, column, other column).
        self.ways: dict[str, tuple[str, str, str]] = {}
        waiting = [base]
        while waiting:
            table = table_of(card, waiting.pop(0))
            for reference in table.references:
                other = next((each for each in card.tables if each.name == reference.table), None)
                key = None if other is None else other.column(reference.other)
                if other is None or key is None or key.num_distinct != other.num_rows:
                    continue
                if reference.table != base and reference.table not in self.ways:
                    self.ways[reference.table] = (table.name, reference.column, reference.other)
                    waiting.append(reference.table)

    @property
    def tables(self) -> list[str]:
        """All of them, the base first."""
        return [self.base.name, *self.ways]

    def name(self, spot: Spot) -> str:
        """A column as SQL names it."""
        return f"{quoted(spot.table)}.{quoted(spot.column)}" if self.ways else quoted(spot.column)

    def column(self, spot: Spot) -> Column:
        """What is known of it."""
        return column_of(self.card, spot)

    def table(self, name: str) -> Table:
        """What is known of one of the tables."""
        return table_of(self.card, name)

    def best(self, spots: list[Spot]) -> Spot:
        """One of several columns of a name: that of the base, else the only one. Raises Ambiguous."""
        if len({spot.table for spot in spots}) > 1 and any(spot.table in self.mentioned for spot in spots):
            raise Ambiguous("a name of several tables")
        own = [spot for spot in spots if spot.table == self.base.name] or spots
        names = {(spot.table, spot.column) for spot in own}
        if len(names) != 1:
            raise Ambiguous(f"several columns: {sorted(names)}")
        return own[0]

    def sources(self, used: set[str]) -> str:
        """FROM with the joins that these tables need."""
        needed: list[str] = []

        def need(table: str) -> None:
            if table == self.base.name or table in needed:
                return
            need(self.ways[table][0])
            needed.append(table)

        for each in sorted(used):
            need(each)
        joins = ""
        for each in needed:
            before, column, other = self.ways[each]
            on = f"{quoted(before)}.{quoted(column)} = {quoted(each)}.{quoted(other)}"
            joins += f" LEFT JOIN {quoted(each)} ON {on}"
        return f"{quoted(self.base.name)}{joins}"


def literal(value: Any) -> str:
    """A value as SQL writes it."""
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"


def sql_of(query: Query, context: Context) -> str:
    """The query as SQL."""
    sources = context.sources(set(query.joined))
    where = " AND ".join(each.sql for each in query.conditions)
    tail = f" FROM {sources}" + (f" WHERE {where}" if where else "")
    group = f" GROUP BY {', '.join(each.sql for each in query.groups)}" if query.groups else ""
    labels = [*query.groups, *query.shown]
    selected = ", ".join(
        each.sql if each.sql == quoted(each.label) else f"{each.sql} AS {quoted(each.label)}" for each in labels
    )
    text = f"SELECT {'DISTINCT ' if query.distinct else ''}{selected}{tail}{group}"
    if query.order is None:
        return text + (f" LIMIT {query.limit}" if query.limit is not None else "")
    direction = "DESC" if query.is_descending else "ASC"
    if query.has_ties and query.limit == 1:
        extreme = "max" if query.is_descending else "min"
        if query.groups:
            best = f"(SELECT {query.order}{tail}{group} HAVING {query.order} IS NOT NULL ORDER BY 1 {direction} LIMIT 1)"
            return f"{text} HAVING {query.order} = {best}"
        best = f"(SELECT {extreme}({query.order}){tail})"
        return f"{text} {'AND' if where else 'WHERE'} {query.order} = {best}"
    known = (
        f" HAVING {query.order} IS NOT NULL" if query.groups else f" {'AND' if where else 'WHERE'} {query.order} IS NOT NULL"
    )
    return f"{text}{known} ORDER BY {query.order} {direction}" + (f" LIMIT {query.limit}" if query.limit is not None else "")


def day_conditions(
    context: Context, columns: list[Spot], day: Day, operator: Operator, until: Day | None = None
) -> list[Condition]:
    """What rows of a date, of a part of one, or before or after it hold.

    Args:
        columns: of kind date, or of whole numbers that are called year, month and day.

    Raises:
        Ambiguous: there is no such column, or several.
    """
    dates = [spot for spot in columns if context.column(spot).kind == "date"]
    if len(dates) == 1:
        return _of_date(context, dates[0], day, operator, until)
    if until is not None or dates:
        raise Ambiguous("no column, or several columns of dates")
    found = []
    parts = (("year", day.year), ("month", day.month), ("day", day.day))
    given = [(name, value) for name, value in parts if value is not None]
    if operator != "=" and len(given) > 1:
        raise Ambiguous("a comparison with a date whose parts are columns")
    for name, value in given:
        spot = part_column(context, columns, name)
        if spot is None:
            raise Ambiguous(f"no column for the {name}")
        found.append(Condition(f"{context.name(spot)} {operator} {value}", f"{spot.column} {operator} {value}", spot))
    return found


def part_column(context: Context, columns: list[Spot], part: str) -> Spot | None:
    """The column of whole numbers that holds years, months or days."""
    names = {"year": ("year", "年", "年份"), "month": ("month", "月", "月份"), "day": ("day", "日", "天")}[part]
    found = [spot for spot in columns if context.column(spot).kind == "integer" and spot.column.casefold().strip() in names]
    return found[0] if len(found) == 1 else None


def _of_date(context: Context, spot: Spot, day: Day, operator: Operator, until: Day | None) -> list[Condition]:
    name, column = context.name(spot), spot.column
    if day.year is None:
        if until is not None or operator != "=" or day.month is None:
            raise Ambiguous("a date without a year")
        return [Condition(f"strftime('%m', {name}) = '{day.month:02d}'", f"month of {column} = {day.month}", spot)]
    low, high = _bounds(day)
    if until is not None:
        high = _bounds(until)[1]
        return [Condition(f"{name} >= '{low}' AND {name} < '{high}'", f"{column} from {_told(day)} to {_told(until)}", spot)]
    sql = {
        "=": f"{name} >= '{low}' AND {name} < '{high}'",
        ">": f"{name} >= '{high}'",
        ">=": f"{name} >= '{low}'",
        "<": f"{name} < '{low}'",
        "<=": f"{name} < '{high}'",
    }[operator]
    if operator == "=" and day.day is not None and len(str(context.column(spot).greatest)) == 10:
        sql = f"{name} = '{low}'"
    return [Condition(sql, f"{column} {operator} {_told(day)}", spot)]


def _told(day: Day) -> str:
    return "-".join(f"{part:02d}" for part in (day.year, day.month, day.day) if part is not None)


def _bounds(day: Day) -> tuple[str, str]:
    """The first day, and the first that is not part of it any more."""
    from datetime import date, timedelta

    if day.year is None or not 1 <= day.year <= 9998:
        raise Ambiguous("a date out of the calendar")
    try:
        if day.month is None:
            return date(day.year, 1, 1).isoformat(), date(day.year + 1, 1, 1).isoformat()
        first = date(day.year, day.month, day.day or 1)
        if day.day is not None:
            return first.isoformat(), (first + timedelta(days=1)).isoformat()
        return first.isoformat(), (first.replace(day=28) + timedelta(days=4)).replace(day=1).isoformat()
    except ValueError as error:
        raise Ambiguous("no such date") from error
