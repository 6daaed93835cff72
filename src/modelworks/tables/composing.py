"""Queries that a language model describes: a form that holds nothing but names of the card, and SQL made of what it wrote.

A model writes no SQL. It fills in a form, JSON of a schema made from the card: an engine that is held to it cannot name what
is not there. What it wrote is read again by rules that trust no engine, becomes one SELECT over one table and those that its
rows refer to, and runs like every other query (`modelworks.tables.running`). A value that stands neither in the question nor in
its column is invented, and refused.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from modelworks.tables.answering import Answer
from modelworks.tables.card import Card, Column, Table, atoms, plain
from modelworks.tables.lexicon import STOPS
from modelworks.tables.parsing import Parsed
from modelworks.tables.query import Ambiguous, Condition, Context, Query, Shown, literal, sql_of
from modelworks.tables.reading import MAX_QUESTION_CHARS, Spot, all_forms, figures
from modelworks.tables.running import QueryLimits, run

#: Tables that a model may choose from, columns of each, and values of each that it is shown.
_MAX_TABLES, _MAX_COLUMNS, _MAX_SAMPLES = 6, 40, 3
_SAMPLE_CHARS: Final = 40
_MAX_SHOWN, _MAX_CONDITIONS, _MAX_ROWS = 4, 4, 50
_MAX_VALUE_CHARS, _MAX_WRITTEN_CHARS = 100, 8000
_FUNCTIONS: Final = ("value", "count", "sum", "average", "highest", "lowest")
_OPERATORS: Final = ("=", "<", "<=", ">", ">=", "contains")
_SQL: Final = {"sum": "sum", "average": "avg", "highest": "max", "lowest": "min"}
_LABELS: Final = {"sum": "sum of", "average": "average of", "highest": "highest", "lowest": "lowest"}
_DAY: Final = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
#: What says that no table answers.
NOTHING: Final = {"table": None}
#: Any row of a table, for counting.
ROWS: Final = "*"


class Unwritten(Exception):
    """What a model wrote is no query of the form; the text says why."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a model may ask of: the schema of the form, and the tables in words."""

    schema: dict[str, Any]
    described: str


@dataclass(frozen=True, slots=True)
class _Choice:
    """One table that may be chosen, by the name that it has in the form."""

    name: str
    place: int
    context: Context
    columns: dict[str, Spot]


def offer(snapshots: Sequence[Path], question: str) -> Offer | None:
    """The form for a question; None where no word of it names a table, a column or a value."""
    choices = _choices(snapshots, question)
    if not choices:
        return None
    forms = [_form(each) for each in choices]
    empty = {"type": "object", "properties": {"table": {"type": "null"}}, "required": ["table"], "additionalProperties": False}
    return Offer({"anyOf": [*forms, empty]}, "\n".join(_described(each) for each in choices))


def composed(snapshots: Sequence[Path], question: str, written: str, limits: QueryLimits | None = None) -> Answer | None:
    """The answer of the query that a model wrote for a question; None where it chose none, or nothing is found.

    Raises:
        Unwritten: it is not of the form, names what is not there, or invents a value.
        QueryRefused: it takes too much.
    """
    if len(written) > _MAX_WRITTEN_CHARS:
        raise Unwritten("it is too long")
    try:
        found = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise Unwritten("it is no JSON") from error
    if found == NOTHING:
        return None
    if not isinstance(found, dict):
        raise Unwritten("it is no object")
    choice = next((each for each in _choices(snapshots, question) if each.name == found.get("table")), None)
    if choice is None:
        raise Unwritten("it names a table that was not offered")
    snapshot = snapshots[choice.place]
    with closing(_opened(snapshot)) as connection:
        query = _Written(choice, plain(question)[:MAX_QUESTION_CHARS], connection).query(found)
    try:
        sql = sql_of(query, choice.context)
    except Ambiguous as error:
        raise Unwritten(str(error)) from error
    tables = tuple(dict.fromkeys([query.base, *query.joined]))
    result = run(snapshot, sql, tables, limits)
    if not result.rows or all(cell is None for row in result.rows for cell in row):
        return None
    card = choice.context.card
    return Answer(choice.place, sql, Parsed(sql, query, tables, 0.0), [t for t in card.tables if t.name in tables], result)


# -- what is offered ---------------------------------------------------------------------------------------------------


def _opened(snapshot: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(snapshot))}?mode=ro&immutable=1", uri=True)


def _choices(snapshots: Sequence[Path], question: str) -> list[_Choice]:
    """The tables that share most words with a question, those with none left out."""
    asked = {word for word in atoms(plain(question)[:MAX_QUESTION_CHARS]) if (word,) not in STOPS}
    ranked: list[tuple[int, int, int, Context]] = []
    for place, snapshot in enumerate(snapshots):
        try:
            with closing(_opened(snapshot)) as connection:
                card = Card.of(connection)
        except (sqlite3.Error, ValueError):
            continue
        for number, table in enumerate(card.tables):
            if shared := _shared(table, asked):
                ranked.append((-shared, place, number, Context(card, table.name)))
    ranked.sort(key=lambda each: each[:3])
    found: list[_Choice] = []
    for _, place, _, context in ranked[:_MAX_TABLES]:
        own = sum(each.context.base.name == context.base.name for each in found)
        name = context.base.name if not own else f"{context.base.name} ({own + 1})"
        found.append(_Choice(name, place, context, _columns(context)))
    return found


def _shared(table: Table, asked: set[str]) -> int:
    names = [atoms(plain(table.name)), *(form for each in table.columns for form in all_forms(each))]
    values = [atoms(plain(sample)) for each in table.columns for sample in each.samples if each.kind == "text"]
    named, held = ({word for form in forms for word in form} for forms in (names, values))
    return 2 * len(asked & named) + len(asked & held)


def _columns(context: Context) -> dict[str, Spot]:
    """Those of the table by their names, and those of what its rows refer to by table and name."""
    found: dict[str, Spot] = {}
    for table in context.tables:
        for column in context.table(table).columns:
            name = column.name if table == context.base.name else f"{table}.{column.name}"
            if name != ROWS and len(found) < _MAX_COLUMNS:
                found.setdefault(name, Spot(table, column.name))
    return found


def _form(choice: _Choice) -> dict[str, Any]:
    names = [*choice.columns]
    shown = {"function": {"enum": [*_FUNCTIONS]}, "column": {"enum": [ROWS, *names]}}
    value = {"type": "string", "maxLength": _MAX_VALUE_CHARS}
    condition = {"column": {"enum": names}, "operator": {"enum": [*_OPERATORS]}, "value": value}
    return _object(
        {
            "table": {"const": choice.name},
            "show": {"type": "array", "items": _object(shown), "minItems": 1, "maxItems": _MAX_SHOWN},
            "where": {"type": "array", "items": _object(condition), "maxItems": _MAX_CONDITIONS},
            "order": {"enum": ["none", "ascending", "descending"]},
            "limit": {"type": "integer", "minimum": 1, "maximum": _MAX_ROWS},
        }
    )


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _described(choice: _Choice) -> str:
    lines = [f"table {_line(choice.name)} ({choice.context.base.num_rows} rows)"]
    for name, spot in choice.columns.items():
        column = choice.context.column(spot)
        unit = f" in {_line(column.unit)}" if column.unit else ""
        samples = ", ".join(_line(each) for each in column.samples[:_MAX_SAMPLES])
        lines.append(f"  column {_line(name)}: {column.kind}{unit}; such as {samples or 'nothing'}")
    return "\n".join(lines)


def _line(text: str) -> str:
    """A name or a cell as JSON writes it: one line, whatever it holds."""
    shown = plain(text)
    return json.dumps(shown if len(shown) <= _SAMPLE_CHARS else shown[:_SAMPLE_CHARS] + "…", ensure_ascii=False)


# -- what was written --------------------------------------------------------------------------------------------------


class _Written:
    """One filled-in form, read against the table that it names. All of its methods raise Unwritten."""

    def __init__(self, choice: _Choice, question: str, connection: sqlite3.Connection) -> None:
        self._choice = choice
        self._context = choice.context
        self._question = question.casefold()
        self._figures = {float(each) for each in figures(question)}
        self._connection = connection
        self._used: set[str] = set()

    def query(self, found: dict[str, Any]) -> Query:
        if set(found) != {"table", "show", "where", "order", "limit"}:
            raise Unwritten("it has other fields than the form")
        query = Query(self._context.base.name)
        shown = self._list(found["show"], {"function", "column"}, _MAX_SHOWN)
        if not shown:
            raise Unwritten("it shows nothing")
        told = [(each["function"], self._shown(each["function"], each["column"])) for each in shown]
        query.conditions = [self._condition(**each) for each in self._list(found["where"], {"column", "operator", "value"}, 4)]
        computed = [each for function, each in told if function != "value"]
        plain_ones = [each for function, each in told if function == "value"]
        # Values beside figures are what rows are put together by.
        query.groups, query.shown = (plain_ones, computed) if computed else ([], plain_ones)
        if len({each.label for _, each in told}) != len(told):
            raise Unwritten("it shows a column twice")
        if found["order"] not in ("none", "ascending", "descending"):
            raise Unwritten("it has an order that there is not")
        if found["order"] != "none" and (not computed or query.groups):
            query.order, query.is_descending = told[-1][1].sql, found["order"] == "descending"
        if type(found["limit"]) is not int or not 1 <= found["limit"] <= _MAX_ROWS:
            raise Unwritten("it has no limit")
        query.limit = found["limit"]
        query.joined = sorted(self._used - {query.base})
        return query

    def _list(self, found: Any, names: set[str], most: int) -> list[dict[str, str]]:
        if not isinstance(found, list) or len(found) > most:
            raise Unwritten("it has no list, or one that is too long")
        for each in found:
            if not isinstance(each, dict) or set(each) != names or not all(isinstance(value, str) for value in each.values()):
                raise Unwritten("it has other fields than the form")
        return found

    def _spot(self, name: str) -> Spot:
        spot = self._choice.columns.get(name)
        if spot is None:
            raise Unwritten("it names a column that was not offered")
        self._used.add(spot.table)
        return spot

    def _shown(self, function: str, name: str) -> Shown:
        if function not in _FUNCTIONS:
            raise Unwritten("it names a function that there is not")
        if name == ROWS:
            if function != "count":
                raise Unwritten("rows can only be counted")
            return Shown("count(*)", "number of rows")
        spot = self._spot(name)
        column = self._context.column(spot)
        if function == "value":
            return Shown(self._context.name(spot), name, column.unit)
        if spot.table != self._context.base.name and function not in ("highest", "lowest"):
            raise Unwritten("a figure of another table would be counted several times")
        if function == "count":
            return Shown(f"count(DISTINCT {self._context.name(spot)})", f"number of different {name}")
        if not column.is_number and not (column.kind == "date" and function in ("highest", "lowest")):
            raise Unwritten(f"{function} of what is no figure")
        return Shown(f"{_SQL[function]}({self._context.name(spot)})", f"{_LABELS[function]} {name}", column.unit)

    def _condition(self, column: str, operator: str, value: str) -> Condition:
        if operator not in _OPERATORS or not value.strip() or len(value) > _MAX_VALUE_CHARS or not value.isprintable():
            raise Unwritten("it has a condition that there is not")
        spot = self._spot(column)
        known = self._context.column(spot)
        name = self._context.name(spot)
        if known.is_number:
            return self._figure(spot, name, operator, value)
        if not self._is_known(spot, known, value):
            raise Unwritten("it invents a value")
        if operator == "contains":
            return Condition(f"instr(lower({name}), lower({literal(value)})) > 0", f"{column} contains {value}", spot)
        if known.kind == "date":
            if _DAY.fullmatch(value) is None:
                raise Unwritten("it has a date that is none")
            part = f"substr({name}, 1, {len(value)})"
            return Condition(f"{part} {operator} {literal(value)}", f"{column} {operator} {value}", spot)
        if operator != "=":
            raise Unwritten("it compares texts")
        return Condition(f"lower({name}) = lower({literal(value)})", f"{column} = {value}", spot)

    def _figure(self, spot: Spot, name: str, operator: str, value: str) -> Condition:
        try:
            number = float(value)
        except ValueError as error:
            raise Unwritten("it compares figures with a text") from error
        if operator == "contains" or not math.isfinite(number):
            raise Unwritten("it compares figures with what is none")
        if number not in self._figures:
            raise Unwritten("it invents a value")
        return Condition(f"{name} {operator} {literal(number)}", f"{spot.column} {operator} {number:g}", spot)

    def _is_known(self, spot: Spot, column: Column, value: str) -> bool:
        """Whether a value stands in the question, or is one of the column of which the question says a word."""
        if plain(value).casefold() in self._question:
            return True
        if column.kind != "text" or not set(atoms(plain(value))) & set(atoms(self._question)):
            return False
        table, name = spot.table.replace('"', '""'), spot.column.replace('"', '""')
        found = self._connection.execute(f'SELECT 1 FROM "{table}" WHERE lower("{name}") = lower(?) LIMIT 1', (value,))
        return found.fetchone() is not None
