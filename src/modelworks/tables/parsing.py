"""Questions made queries by rules, in English and Chinese: a semantic parser over the card of the tables.

It follows what is known of such parsers (Popescu, Etzioni and Kautz, "Towards a theory of natural language interfaces to
databases", IUI 2003): every word that means something must find its place in the query, or there is no query. What is left
over, denied, or can mean two things is left to the documents.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from modelworks.tables.card import Card, Column, atoms, plain
from modelworks.tables.filtering import Filters
from modelworks.tables.lexicon import MEANINGS, MEASURES
from modelworks.tables.query import LIST_ROWS, Ambiguous, Context, Query, Shown, part_column, sql_of
from modelworks.tables.reading import Item, Reader, Spot, all_forms

_AGGREGATES: Final = {"avg": "average of", "sum": "sum of", "max": "highest", "min": "lowest"}
_MAX_LABELS: Final = 3


@dataclass(frozen=True, slots=True)
class Parsed:
    """A query for a question; `score` tells better readings from worse."""

    sql: str
    query: Query
    tables: tuple[str, ...]
    score: float


def parse(connection: sqlite3.Connection, card: Card, question: str) -> list[Parsed]:
    """The readings of a question over one snapshot, best first; none where words are left over."""
    reader = Reader(connection, card)
    found = []
    for table in card.tables:
        context = Context(card, table.name)
        for within in ([table.name], context.tables):
            try:
                found.append(_Reading(context, reader.items(question, within)).parsed())
            except Ambiguous:
                continue
            break
    return sorted(found, key=lambda each: -each.score)


class _Reading:
    """One question over one table and those that it refers to."""

    def __init__(self, context: Context, items: list[Item]) -> None:
        self.context = context
        self.items = items
        self.query = Query(context.base.name)
        self.used: set[str] = set()

    def parsed(self) -> Parsed:
        """Raises Ambiguous: a word is left over, or can mean several things."""
        if any(item.sort == "unknown" or (item.says("not") is not None and item.sort == "word") for item in self.items):
            raise Ambiguous("words that mean nothing here")
        self._settle()
        named = {name for item in self.items if item.sort == "table" for name in item.tables}
        self.context.mentioned = named - {self.context.base.name}
        filters = Filters(self.context, self.items)
        self.query.conditions = filters.take()
        self._head()
        left = [item.text for item in self.items if not item.is_used and not self._is_light(item)]
        if left:
            raise Ambiguous(f"left over: {left}")
        query, context = self.query, self.context
        spots = [each.column for each in query.conditions if each.column is not None]
        query.joined = sorted({spot.table for spot in spots} | self.used)
        sql = sql_of(query, context)
        mentions = [item for item in self.items if item.sort == "table" and context.base.name in item.tables]
        exact = sum(2.0 if item.is_exact else 1.0 for item in self.items if item.sort in ("column", "value"))
        if not mentions and not exact and not query.conditions:
            raise Ambiguous("it names nothing of the table")
        score = 10.0 * bool(mentions) + exact - 0.5 * len(set(query.joined) - {context.base.name})
        return Parsed(sql, query, tuple(dict.fromkeys([context.base.name, *query.joined])), score)

    # -- words that can be several things ------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Decide by what stands beside it what an item is that names a column and something else."""
        for at, item in enumerate(self.items):
            if item.sort == "table" and item.spots:
                # The temperatures of a table of temperatures are its figures, where one is asked for.
                beside = [each for each in (self._before(at), self._next(at)) if each is not None and each.sort == "word"]
                if any(each.says(kind) is not None for each in beside for kind in ("agg", "top", "compare")):
                    item.sort, item.tables = "column", []
            if item.sort != "column":
                continue
            following = self._next(at)
            before = self._before(at)
            if (item.words and item.says("agg") is not None and following is not None and self._is_measure(following)) or (
                item.words and item.says("count") is not None and (following is not None and following.tables)
            ):
                item.sort = "word"
            elif (
                item.tables
                and before is not None
                and before.says("count") is not None
                and self.context.base.name in item.tables
            ):
                item.sort = "table"
        for at, item in enumerate(self.items):
            # "and" and "to" part the ends of a range or say nothing.
            if item.sort == "word" and item.says("day") is not None and item.says("count") is None:
                self._calendar(at, item)

    def _calendar(self, at: int, item: Item) -> None:
        """A day is a row where each has its own, else the column of dates."""
        dates = self._dates()
        if len(dates) != 1:
            return
        before = self._before(at)
        column = self.context.column(dates[0])
        is_count = before is not None and (before.says("count") is not None or before.number is not None)
        if is_count and column.num_distinct == self.context.base.num_rows and len(str(column.greatest)) == 10:
            item.sort, item.tables, item.words = "table", [self.context.base.name], []
        elif not is_count:
            item.sort, item.spots, item.words = "column", [dates[0]], []

    # -- what is asked -------------------------------------------------------------------------------------------------

    def _head(self) -> None:
        query = self.query
        share = self._word("share")
        if share is not None:
            return self._share(share)
        self._groups()
        top = self._word("top")
        first = self._first()
        distinct = self._word("distinct")
        if distinct is not None:
            return self._distinct(distinct)
        which = self._word("which") or self._word("when")
        if top is not None or (
            first is not None and (query.order is not None or self._word("count") is not None or self._measures())
        ):
            return self._ranked(top, first, which)
        if query.order is not None:
            return self._ranked(None, first, which)
        if (agg := self._word("agg")) is not None:
            return self._aggregates(agg)
        if (count := self._word("count")) is not None or self._asks_count():
            return self._count(count)
        return self._list(which)

    def _groups(self) -> None:
        """`by`, `per`, `each`: what rows are put together by, or what they are put in order by."""
        for at, item in enumerate(self.items):
            if item.is_used or item.sort != "word" or (item.says("group") is None and item.says("order") is None):
                continue
            following = self._next(at)
            if following is None:
                raise Ambiguous("nothing to group by")
            is_ranked = self._has_first() or item.says("order") is not None
            if following.says("agg") is not None and following.sort == "word" and is_ranked:
                item.is_used = following.is_used = True
                spot = self._measure_near(self.items.index(following))
                self.query.order = self._aggregate(str(following.says("agg")), spot)[0].sql
            elif is_ranked and following.sort == "word" and following.says("count") is not None:
                item.is_used = following.is_used = True
                self.query.order = "count(*)"
            elif is_ranked and self._is_measure(following) and following.sort == "column":
                item.is_used = following.is_used = True
                self.query.order = self._sql(self._best_measure(following))
            else:
                shown = self._group_of(following)
                item.is_used = following.is_used = True
                self.query.groups.append(shown)

    def _group_of(self, item: Item) -> Shown:
        """A column, or a part of the only column of dates."""
        if item.sort == "column":
            spot = self.context.best(item.spots)
            return self._shown(spot)
        for part, form in (("year", "%Y"), ("month", "%m"), ("day", "%Y-%m-%d")):
            if item.says(part) is not None:
                spot = part_column(self.context, self._columns(), part)  # type: ignore[assignment]
                if spot is not None:
                    return self._shown(spot)
                dates = self._dates()
                if len(dates) == 1:
                    name = self._sql(dates[0])
                    return Shown(f"strftime('{form}', {name})", part)
        raise Ambiguous("nothing to group by")

    def _share(self, share: Item) -> None:
        share.is_used = True
        query = self.query
        dated = [
            each for each in query.conditions if each.column is not None and self.context.column(each.column).kind == "date"
        ]
        tested = [each for each in query.conditions if each not in dated]
        if len(tested) != 1:
            raise Ambiguous("a share of what?")
        if not self._take_rows() and self._unused("column"):
            raise Ambiguous("a share of what?")
        query.conditions = dated
        if tested[0].column is not None:
            self.used.add(tested[0].column.table)
        test = tested[0].sql
        query.shown = [
            Shown(f"round(100.0 * sum({test}) / count(*), 4)", f"share where {tested[0].told}", "%"),
            Shown(f"sum({test})", "rows"),
            Shown("count(*)", "of rows"),
        ]
        query.kind = "share"

    def _distinct(self, distinct: Item) -> None:
        distinct.is_used = True
        column = self._near(self.items.index(distinct), "column")
        if column is None or self.query.groups:
            raise Ambiguous("different what?")
        column.is_used = True
        spot = self.context.best(column.spots)
        count = self._word("count")
        if count is not None or self._asks_count():
            if count is not None:
                count.is_used = True
            self.query.shown = [Shown(f"count(DISTINCT {self._sql(spot)})", f"number of different {spot.column}")]
            self.query.kind = "count"
        else:
            self.query.shown, self.query.distinct, self.query.limit = [self._shown(spot)], True, LIST_ROWS
        self._take_rows()

    def _count(self, count: Item | None) -> None:
        query = self.query
        head = self._next(self.items.index(count)) if count is not None else None
        if count is not None:
            count.is_used = True
        if head is not None and head.sort == "column" and not head.is_used and not query.conditions and not query.groups:
            spot = self.context.best(head.spots)
            if self.context.column(spot).kind != "text":
                raise Ambiguous("a count of figures")
            head.is_used = True
            query.shown = [Shown(f"count(DISTINCT {self._sql(spot)})", f"number of different {spot.column}")]
            query.kind = "count"
            self._take_rows()
            return
        if head is not None and head.sort == "table" and self.context.base.name not in head.tables:
            raise Ambiguous("it counts rows of another table")
        if head is not None and head.sort not in ("table", "word", "stop") and not head.is_used:
            raise Ambiguous("it counts something else")
        self._take_rows()
        query.shown = [Shown("count(*)", "number of rows")]
        query.kind = "groups" if query.groups else "count"

    def _aggregates(self, first: Item) -> None:
        query = self.query
        for at, item in enumerate(self.items):
            if item.sort == "word" and item.says("agg") is not None and not item.is_used:
                item.is_used = True
                query.shown += self._aggregate(str(item.says("agg")), self._measure_near(at))
        self._take_rows()
        query.kind = "groups" if query.groups else "aggregate"

    def _aggregate(self, name: str, spot: Spot) -> list[Shown]:
        column = self.context.column(spot)
        if spot.table != self.context.base.name:
            raise Ambiguous("a figure of another table would be counted several times")
        if not column.is_number and not (column.kind == "date" and name in ("max", "min")):
            raise Ambiguous("no figures")
        return [Shown(f"{name}({self._sql(spot)})", f"{_AGGREGATES[name]} {spot.column}", column.unit)]

    def _ranked(self, top: Item | None, first: int | None, which: Item | None) -> None:
        """The highest or lowest: a figure alone, rows in order, or groups in order."""
        query, base = self.query, self.context.base
        said = (str(top.says("top")) if top is not None else "desc").split()
        query.is_descending = said[0] == "desc"
        at = self.items.index(top) if top is not None else -1
        if top is not None:
            top.is_used = True
        if which is not None:
            which.is_used = True
        entity = self._entity(which)
        counted = self._word("count")
        agg = self._word("agg")
        measure: Spot | None = None
        if query.order is None and agg is not None:
            agg.is_used = True
            query.order = self._aggregate(str(agg.says("agg")), self._measure_near(self.items.index(agg)))[0].sql
        elif query.order is None and len(said) > 1:
            measure = self._meant(said[1])
        elif query.order is None and counted is None:
            item = self._near(at, "column", is_measure=True)
            if item is not None:
                item.is_used = True
                measure = self._best_measure(item)
        if measure is not None:
            if measure.table != base.name:
                raise Ambiguous("a figure of another table")
            query.order = self._sql(measure)
        entity = entity if entity is not None else self._entity_left(first)
        is_rows = self._take_rows()
        if query.order is None:
            if counted is not None:
                counted.is_used = True
            elif not is_rows:
                raise Ambiguous("the most of what?")
            query.order = "count(*)"
        is_grouped = query.order.startswith(("count(", "avg(", "sum(", "max(", "min("))
        if not is_grouped and entity is None and first is None and which is None and not query.groups:
            # The figure itself is asked for.
            query.shown = [Shown(f"{'max' if query.is_descending else 'min'}({query.order})", *self._named(measure, query))]
            query.order, query.kind = None, "aggregate"
            return
        if query.groups and not is_grouped:
            query.shown = [Shown(f"{'max' if query.is_descending else 'min'}({query.order})", *self._named(measure, query))]
            query.order, query.kind = None, "groups"
            return
        query.limit, query.has_ties, query.kind = first or 1, first is None, "top"
        if is_grouped:
            if entity is None:
                raise Ambiguous("whose?")
            query.groups = [entity] if not query.groups else query.groups
            query.shown = [Shown(query.order, "number of rows" if query.order == "count(*)" else "value")]
            return
        query.shown = [entity] if entity is not None else self._labels(measure)
        if measure is not None:
            query.shown.append(self._shown(measure))
        else:
            query.shown.append(Shown(query.order, "value"))

    def _named(self, measure: Spot | None, query: Query) -> tuple[str, str | None]:
        if measure is None:
            raise Ambiguous("the highest of what?")
        word = _AGGREGATES["max" if query.is_descending else "min"]
        return f"{word} {measure.column}", self.context.column(measure).unit

    def _entity(self, which: Item | None) -> Shown | None:
        """What `which` asks for."""
        if which is None:
            return None
        if which.says("when") is not None:
            dates = self._dates()
            if len(dates) != 1:
                raise Ambiguous("when?")
            return self._shown(dates[0])
        at = self.items.index(which)
        following = self._next(at)
        while (
            following is not None
            and following.sort == "table"
            and (after := self._next(self.items.index(following))) is not None
        ):
            if after.sort != "column" or self._is_measure(after):
                break
            following.is_used = True
            following = after
        if following is None:
            return None
        if following.sort == "table":
            if self.context.base.name not in following.tables:
                raise Ambiguous("rows of another table")
            following.is_used = True
            return None
        if following.sort == "column" or following.says("year") or following.says("month") or following.words:
            try:
                shown = self._group_of(following)
            except Ambiguous:
                return None
            following.is_used = True
            return shown
        return None

    def _entity_left(self, first: int | None) -> Shown | None:
        """A column that is named beside the figure: what is to be told of the rows."""
        for item in self._unused("column"):
            spot = self.context.best(item.spots)
            if not self._is_measure(item) or self.context.column(spot).kind == "text":
                item.is_used = True
                return self._shown(spot)
        return None

    def _list(self, which: Item | None) -> None:
        """Columns of the rows that hold the conditions."""
        query = self.query
        if which is not None:
            which.is_used = True
        if (wish := self._word("list")) is not None:
            wish.is_used = True
        if which is not None and which.says("when") is not None:
            query.shown += [shown] if (shown := self._entity(which)) is not None else []
        for item in self._unused("column"):
            item.is_used = True
            query.shown.append(self._shown(self.context.best(item.spots)))
        is_rows = self._take_rows()
        if not query.conditions or query.groups:
            if wish is None or query.groups or not query.shown:
                raise Ambiguous("nothing is asked of figures")
            query.distinct = True
        if not query.shown:
            if not is_rows:
                raise Ambiguous("what of it?")
            query.shown = self._labels(None)
        for condition in query.conditions:
            # What rows were chosen by is shown where it is not one value for all.
            spot = condition.column
            if spot is not None and " = '" not in condition.sql and all(each.label != spot.column for each in query.shown):
                query.shown.append(self._shown(spot))
        query.limit = LIST_ROWS
        query.kind = "list"

    # -- finding items -------------------------------------------------------------------------------------------------

    def _word(self, kind: str) -> Item | None:
        return next(
            (each for each in self.items if each.sort == "word" and not each.is_used and each.says(kind) is not None), None
        )

    def _unused(self, sort: str) -> list[Item]:
        return [each for each in self.items if each.sort == sort and not each.is_used]

    def _is_light(self, item: Item) -> bool:
        return (
            item.sort == "stop"
            or item.is_stop
            or item.says("range") is not None
            or (item.sort == "word" and (item.says("list") is not None or item.says("or") is not None))
        )

    def _next(self, at: int) -> Item | None:
        return next((each for each in self.items[at + 1 :] if not self._is_light(each)), None)

    def _before(self, at: int) -> Item | None:
        return next((each for each in reversed(self.items[:at]) if not self._is_light(each)), None)

    def _near(self, at: int, sort: str, *, is_measure: bool = False) -> Item | None:
        """The next unused item of a sort, else the one before."""
        fits = [
            (place, each)
            for place, each in enumerate(self.items)
            if each.sort == sort and not each.is_used and (not is_measure or self._is_measure(each))
        ]
        after = [each for place, each in fits if place > at]
        before = [each for place, each in fits if place < at]
        neighbour = self._next(at)
        if neighbour is not None and neighbour in after:
            return neighbour
        if before and self._before(at) is before[-1]:
            return before[-1]
        return after[0] if after else before[-1] if before else None

    def _measures(self) -> bool:
        return any(self._is_measure(item) for item in self._unused("column"))

    def _measure_near(self, at: int) -> Spot:
        item = self._near(at, "column", is_measure=True)
        if item is None:
            raise Ambiguous("figures of what?")
        item.is_used = True
        return self._best_measure(item)

    def _best_measure(self, item: Item) -> Spot:
        fits = [spot for spot in item.spots if self.context.column(spot).kind != "text"]
        return self.context.best(fits)

    def _is_measure(self, item: Item) -> bool:
        return item.sort == "column" and any(self.context.column(spot).kind != "text" for spot in item.spots)

    def _first(self) -> int | None:
        """How many are wanted: `top 5`, `前5名`, `the 3 most`."""
        for at, item in enumerate(self.items):
            if item.sort == "number" and not item.is_used and isinstance(item.number, int) and 0 < item.number <= 1000:
                before = self.items[at - 1] if at else None
                after = self._next(at)
                if before is not None and before.says("first") is not None:
                    before.is_used = item.is_used = True
                    return item.number
                if (after is not None and after.says("top") is not None) or (
                    before is not None and (self._word("top") is not None)
                ):
                    item.is_used = True
                    return item.number
        return None

    def _has_first(self) -> bool:
        return self._word("first") is not None

    def _asks_count(self) -> bool:
        """`多少` and `几` before what is counted."""
        words = [item.text.replace(" ", "") for item in self.items]
        for at, word in enumerate(words):
            if word not in ("多少", "几"):
                continue
            after = self.items[at + 1] if at + 1 < len(self.items) else None
            if after is None and at and words[at - 1] == "有":
                return True
            if after is not None and (after.sort == "table" or after.says("rows") is not None or self._is_counter(after)):
                return True
            if after is not None and after.sort == "column" and not self._is_measure(after):
                return True
        return False

    def _is_counter(self, item: Item) -> bool:
        return item.text in MEASURES

    def _take_rows(self) -> bool:
        """Names of the tables, and words for rows, say what is counted; whether there were any."""
        found = False
        for item in self.items:
            if item.is_used:
                continue
            if item.sort == "table":
                found = found or self.context.base.name in item.tables
                item.is_used = True
            elif item.sort == "word" and item.says("rows") is not None:
                item.is_used = found = True
        return found

    # -- columns -------------------------------------------------------------------------------------------------------

    def _columns(self) -> list[Spot]:
        return [Spot(table, each.name) for table in self.context.tables for each in self.context.table(table).columns]

    def _dates(self) -> list[Spot]:
        own = [spot for spot in self._columns() if self.context.column(spot).kind == "date"]
        return [spot for spot in own if spot.table == self.context.base.name] or own

    def _meant(self, meaning: str) -> Spot:
        """The column that an adjective means: `oldest` is one of ages."""
        forms = {tuple(atoms(plain(each))) for each in MEANINGS[meaning]}
        found = [
            spot
            for spot in self._columns()
            if spot.table == self.context.base.name and _names(self.context.column(spot)) & forms and self._fits(spot, meaning)
        ]
        if meaning == "date" and not found:
            found = self._dates()
        named = [item for item in self._unused("column") if any(spot in found for spot in item.spots)]
        for item in named[:1]:
            item.is_used = True
        return self.context.best(found)

    def _fits(self, spot: Spot, meaning: str) -> bool:
        kind = self.context.column(spot).kind
        return kind == "date" if meaning == "date" else kind in ("integer", "number")

    def _sql(self, spot: Spot) -> str:
        self.used.add(spot.table)
        return self.context.name(spot)

    def _shown(self, spot: Spot) -> Shown:
        return Shown(self._sql(spot), spot.column, self.context.column(spot).unit)

    def _labels(self, without: Spot | None) -> list[Shown]:
        """What a row is known by: its key, else its first texts."""
        base = self.context.base
        texts = [each.name for each in base.columns if each.kind in ("text", "date")]
        names = base.key or list(dict.fromkeys([*texts, *(each.name for each in base.columns)]))
        kept = [name for name in names if base.column(name) is not None and (without is None or name != without.column)]
        return [self._shown(Spot(base.name, name)) for name in kept[:_MAX_LABELS]]


def _names(column: Column) -> set[tuple[str, ...]]:
    return all_forms(column)
