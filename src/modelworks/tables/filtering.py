"""What a question demands of rows: values, comparisons, ranges and dates."""

from __future__ import annotations

from typing import Final

from modelworks.tables.card import atoms, plain
from modelworks.tables.lexicon import MEANINGS
from modelworks.tables.query import Ambiguous, Condition, Context, Operator, day_conditions, literal
from modelworks.tables.reading import Item, Spot, all_forms, unit_atoms

_OPERATORS: Final[dict[str, Operator]] = {"=": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_TOLD: Final = {"=": "=", "<": "<", "<=": "≤", ">": ">", ">=": "≥"}


class Filters:
    """Takes the items that are conditions; what it uses is marked."""

    def __init__(self, context: Context, items: list[Item]) -> None:
        self._context = context
        self._items = items
        self._columns = [Spot(table, each.name) for table in context.tables for each in context.table(table).columns]

    def take(self) -> list[Condition]:
        """All conditions. Raises Ambiguous."""
        found = [*self._ranges(), *self._comparisons(), *self._values(), *self._days(), *self._equalities()]
        has_or = any(item.sort == "word" and item.says("or") is not None for item in self._items)
        if has_or and len({each.column for each in found}) > 1:
            raise Ambiguous("one or the other of different columns")
        return found

    # -- ranges and comparisons ----------------------------------------------------------------------------------------

    def _ranges(self) -> list[Condition]:
        found: list[Condition] = []
        for at, item in enumerate(self._items):
            if item.is_used or item.sort not in ("number", "date") or at + 2 >= len(self._items):
                continue
            middle, other = self._items[at + 1], self._items[at + 2]
            opening = next((each for each in reversed(self._items[:at]) if each.sort != "stop"), None)
            opens = opening is not None and opening.says("between") is not None
            joins = middle.says("range") is not None and (
                opens or middle.text.replace(" ", "").casefold() in ("to", "到", "至", "until", "through")
            )
            if not joins or other.sort != item.sort or other.is_used:
                continue
            if item.day is not None and other.day is not None:
                found += day_conditions(self._context, self._dates_for(), item.day, ">=", other.day)
            elif item.number is not None and other.number is not None:
                place = at - 1 if not opens or opening is None else self._items.index(opening)
                spot = self._figure_before(place) or self._figure_after(at + 2)
                name = self._context.name(spot)
                low, high = sorted((item.number, other.number))
                found.append(
                    Condition(f"{name} BETWEEN {literal(low)} AND {literal(high)}", f"{spot.column} {low}–{high}", spot)
                )
            for each in (item, middle, other, *((opening,) if opens and opening is not None else ())):
                each.is_used = True
            self._unit_after(at + 2, found[-1].column)
        return found

    def _comparisons(self) -> list[Condition]:
        found: list[Condition] = []
        for at, item in enumerate(self._items):
            if item.is_used or item.sort != "word":
                continue
            said, postfix = item.says("compare"), item.says("after")
            if said is not None:
                place = next((k for k in range(at + 1, len(self._items)) if self._items[k].sort != "stop"), None)
            elif postfix is not None:
                said, place = postfix, at - 1
                if place >= 0 and self._items[place].says("unit") is not None:
                    place -= 1
            else:
                continue
            value = self._items[place] if place is not None and place >= 0 else None
            if value is None or value.is_used or place is None:
                continue
            operator, _, meaning = said.partition(" ")
            if value.day is not None:
                found += day_conditions(self._context, self._dates_for(), value.day, _OPERATORS[operator])
            elif value.number is not None:
                if meaning:
                    spot = self._meant(meaning)
                else:
                    spot = self._figure_before(min(at, place)) or self._figure_after(max(at, place))
                found.append(self._compared(spot, _OPERATORS[operator], value.number))
            else:
                continue
            item.is_used = value.is_used = True
            self._unit_after(place, found[-1].column)
        return found

    def _compared(self, spot: Spot, operator: Operator, number: float | int) -> Condition:
        return Condition(
            f"{self._context.name(spot)} {operator} {literal(number)}", f"{spot.column} {_TOLD[operator]} {number:g}", spot
        )

    def _unit_after(self, at: int, spot: Spot | None) -> None:
        """The unit of a figure: one that is known, or that of its column; another column's is none."""
        if at + 1 < len(self._items):
            following = self._items[at + 1]
            named = following.says("unit") if following.sort == "word" else None
            if not named:
                following.is_used = following.is_used or named is not None
            elif spot is not None and named in unit_atoms(self._context.column(spot)):
                following.is_used = True

    def _figure_before(self, at: int) -> Spot | None:
        """The column that a comparison stands behind; the first one before it that is free and holds figures."""
        for item in reversed(self._items[: max(at, 0)]):
            if item.is_used or item.sort == "stop":
                continue
            if item.sort == "column" and (spots := self._figures(item)):
                item.is_used = True
                return self._context.best(spots)
            if item.sort not in ("word", "table"):
                return None
        return None

    def _figure_after(self, at: int) -> Spot:
        for item in self._items[at + 1 :]:
            if item.sort == "column" and not item.is_used and (spots := self._figures(item)):
                item.is_used = True
                return self._context.best(spots)
            if item.sort not in ("stop", "word"):
                break
        raise Ambiguous("a figure of what?")

    def _figures(self, item: Item) -> list[Spot]:
        return [spot for spot in item.spots if self._context.column(spot).is_number]

    def _meant(self, meaning: str) -> Spot:
        forms = {tuple(atoms(plain(each))) for each in MEANINGS[meaning]}
        found = [
            spot
            for spot in self._columns
            if self._context.column(spot).is_number and all_forms(self._context.column(spot)) & forms
        ]
        return self._context.best(found)

    # -- values and dates ----------------------------------------------------------------------------------------------

    def _values(self) -> list[Condition]:
        chosen: dict[tuple[str, str], list[str]] = {}
        for at, item in enumerate(self._items):
            if item.sort != "value" or item.is_used:
                continue
            label = self._label(at, item)
            if label is None and (item.spots[0].value or "").isdigit():
                raise Ambiguous("a bare figure")
            spots = [spot for spot in item.spots if label is None or (spot.table, spot.column) == label]
            own = [spot for spot in spots if spot.table == self._context.base.name] or spots
            columns = {(spot.table, spot.column) for spot in own}
            if len(columns) != 1:
                raise Ambiguous("a value of several columns")
            item.is_used = True
            chosen.setdefault(columns.pop(), []).extend(str(spot.value) for spot in own)
        found = []
        for (table, column), values in chosen.items():
            spot = Spot(table, column)
            name = self._context.name(spot)
            kept = list(dict.fromkeys(values))
            sql = f"{name} = {literal(kept[0])}" if len(kept) == 1 else f"{name} IN ({', '.join(map(literal, kept))})"
            found.append(Condition(sql, f"{column} = {' / '.join(kept)}", spot))
        return found

    def _label(self, at: int, value: Item) -> tuple[str, str] | None:
        """The name of its column beside a value: `category Toxicity`, `作者是苏轼`."""
        columns = {(spot.table, spot.column) for spot in value.spots}
        before = next((each for each in reversed(self._items[:at]) if each.sort != "stop"), None)
        after = next((each for each in self._items[at + 1 :] if each.sort != "stop"), None)
        for item in (before, after):
            if item is None or item.is_used or item.sort != "column":
                continue
            own = {(spot.table, spot.column) for spot in item.spots} & columns
            if len(own) == 1:
                item.is_used = True
                return own.pop()
        return None

    def _days(self) -> list[Condition]:
        found: list[Condition] = []
        for item in self._items:
            if item.sort == "date" and not item.is_used and item.day is not None:
                item.is_used = True
                found += day_conditions(self._context, self._dates_for(), item.day, "=")
        return found

    def _dates_for(self) -> list[Spot]:
        """The columns that a date may be of: a named one, else those of the base, else all."""
        for item in self._items:
            named = [spot for spot in item.spots if item.sort == "column" and self._context.column(spot).kind == "date"]
            if named and not item.is_used and any(each.sort == "word" and each.says("which") for each in self._items) is False:
                item.is_used = True
                return named
        own = [spot for spot in self._columns if spot.table == self._context.base.name]
        has_dates = any(self._context.column(spot).kind == "date" for spot in own)
        parts = any(spot.column.casefold() in ("year", "年", "年份") for spot in own)
        return own if has_dates or parts else self._columns

    def _equalities(self) -> list[Condition]:
        """`month 3`, `月为3`: a column of whole numbers right before a figure."""
        found: list[Condition] = []
        for at, item in enumerate(self._items):
            if item.sort != "number" or item.is_used or item.number is None:
                continue
            before = next((each for each in reversed(self._items[:at]) if each.sort != "stop"), None)
            if before is None or before.is_used or before.sort != "column" or not (spots := self._figures(before)):
                continue
            following = self._items[at + 1] if at + 1 < len(self._items) else None
            if following is not None and following.says("top") is not None:
                continue
            before.is_used = item.is_used = True
            found.append(self._compared(self._context.best(spots), "=", item.number))
        return found
