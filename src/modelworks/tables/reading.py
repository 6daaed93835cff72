"""A question read against tables: which of its words name tables, columns and values, which are figures and dates."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from modelworks.tables.card import VALUES_TABLE, Card, Column, Table, atoms, placed_atoms, plain
from modelworks.tables.lexicon import DATES, MAX_PHRASE_ATOMS, MEASURES, MONTHS, NUMBER, PHRASES, SCALES, STOPS
from modelworks.tables.naming import alternatives, unit_written

Sort = Literal["column", "table", "value", "number", "date", "word", "stop", "unknown"]

MAX_QUESTION_CHARS: Final = 500
_MAX_ATOMS: Final = 12
#: An abbreviation and its word share at least so many letters.
_LEAST_PREFIX: Final = 3
_SYMBOLS: Final = (
    ("≥", " at least "),
    (">=", " at least "),
    ("≤", " at most "),
    ("<=", " at most "),
    (">", " above "),
    ("<", " below "),
)


@dataclass(frozen=True, slots=True)
class Spot:
    """A column of a table, or a value of it."""

    table: str
    column: str
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """A date, or a part of one."""

    year: int | None
    month: int | None = None
    day: int | None = None


@dataclass(slots=True)
class Item:
    """A piece of the question and what it can be; the first is the likeliest."""

    text: str
    sort: Sort
    #: Of a word: its kind, and what it says.
    words: list[tuple[str, str]] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    number: float | int | None = None
    day: Day | None = None
    is_exact: bool = True
    is_used: bool = False
    #: A stop may be a word of another kind where one is looked for.
    is_stop: bool = False

    def says(self, kind: str) -> str | None:
        """What it says as a word of that kind; None where it is none."""
        return next((said for each, said in self.words if each == kind), None)


@dataclass(frozen=True, slots=True)
class _Piece:
    atom: str
    text: str
    number: float | int | None = None
    day: Day | None = None


class Reader:
    """Questions against the tables of one snapshot."""

    def __init__(self, connection: sqlite3.Connection, card: Card) -> None:
        self._connection = connection
        self.card = card
        self._columns: dict[tuple[str, ...], list[Spot]] = {}
        self._tables: dict[tuple[str, ...], list[str]] = {}
        self._units = {table.name: {unit for each in table.columns for unit in unit_atoms(each)} for table in card.tables}
        for table in card.tables:
            for form in _table_forms(table.name):
                self._tables.setdefault(form, []).append(table.name)
            for column in table.columns:
                self._name(table, column, column_forms(column))
            own = [(column, form) for column in table.columns for form in column_forms(column)]
            for column in table.columns:
                # A name with which another column's begins could mean that one, too.
                others = {form[:size] for other, form in own if other is not column for size in range(1, len(form) + 1)}
                self._name(table, column, (form for form in further_forms(column) if form not in others))

    def _name(self, table: Table, column: Column, forms: Iterable[tuple[str, ...]]) -> None:
        for names in forms:
            spots = self._columns.setdefault(names, [])
            if (spot := Spot(table.name, column.name)) not in spots:
                spots.append(spot)

    def items(self, question: str, within: Sequence[str]) -> list[Item]:
        """The question's pieces, read with the names and values of these tables alone."""
        pieces = list(_pieces(question))
        values = self._values(pieces, within)
        found: list[Item] = []
        at = 0
        while at < len(pieces):
            item, length = self._longest(pieces, at, within, values)
            found.append(item)
            at += length
        return found

    def _values(self, pieces: Sequence[_Piece], within: Sequence[str]) -> dict[tuple[str, ...], list[Spot]]:
        """The values that stand in the question, by their atoms."""
        keys: dict[str, tuple[str, ...]] = {}
        for at in range(len(pieces)):
            for end in range(at + 1, min(len(pieces), at + _MAX_ATOMS) + 1):
                atoms_ = tuple(piece.atom for piece in pieces[at:end])
                keys[" ".join(atoms_)] = atoms_
        found: dict[tuple[str, ...], list[Spot]] = {}
        wanted = sorted(keys)
        for start in range(0, len(wanted), 500):
            chunk = wanted[start : start + 500]
            marks = ", ".join("?" * len(chunk))
            query = f"SELECT key, tbl, col, value FROM {VALUES_TABLE} WHERE key IN ({marks}) ORDER BY num DESC"
            for key, number, column, value in self._connection.execute(query, chunk):
                table = self.card.tables[number]
                if table.name in within:
                    found.setdefault(keys[key], []).append(Spot(table.name, table.columns[column].name, value))
        return found

    def _longest(
        self, pieces: Sequence[_Piece], at: int, within: Sequence[str], values: dict[tuple[str, ...], list[Spot]]
    ) -> tuple[Item, int]:
        for length in range(min(_MAX_ATOMS, len(pieces) - at), 0, -1):
            names = tuple(piece.atom for piece in pieces[at : at + length])
            text = " ".join(piece.text for piece in pieces[at : at + length])
            words = PHRASES.get(names, []) if length <= MAX_PHRASE_ATOMS else []
            columns = [spot for spot in self._columns.get(names, ()) if spot.table in within]
            tables = [name for name in self._tables.get(names, ()) if name in within]
            if columns:
                return Item(text, "column", list(words), columns, tables), length
            if tables:
                near = self._near(names, within) if length == 1 else []
                return Item(text, "table", list(words), near, tables), length
            spots = values.get(names, [])
            is_common = names in STOPS or bool(words)
            if spots and not is_common:
                return Item(text, "value", [], spots), length
            if words:
                return Item(text, "word", list(words), is_stop=names in STOPS), length
            if length > 1 and names in STOPS:
                return Item(text, "stop", is_stop=True), length
            if length == 1:
                return self._single(pieces[at], names, within), 1
        raise AssertionError  # a single piece is always something

    def _single(self, piece: _Piece, names: tuple[str, ...], within: Sequence[str]) -> Item:
        if piece.day is not None:
            return Item(piece.text, "date", day=piece.day)
        if piece.number is not None:
            return Item(piece.text, "number", number=piece.number)
        if names in STOPS:
            return Item(piece.text, "stop", is_stop=True)
        if near := self._near(names, within):
            return Item(piece.text, "column", [], near, is_exact=False)
        if piece.atom in MEASURES:
            return Item(piece.text, "stop", is_stop=True)
        if any(piece.atom in self._units.get(name, ()) for name in within):
            return Item(piece.text, "word", [("unit", piece.atom)])
        return Item(piece.text, "unknown")

    def _near(self, names: tuple[str, ...], within: Sequence[str]) -> list[Spot]:
        """Columns whose name abbreviates a word, or is abbreviated by it."""
        return [
            spot
            for key, spots in self._columns.items()
            if len(key) == 1 and _abbreviates(key[0], names[0])
            for spot in spots
            if spot.table in within
        ]


def _abbreviates(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return (
        len(short) >= _LEAST_PREFIX
        and short.isascii()
        and short.isalpha()
        and len(long) > len(short)
        and long.startswith(short)
    )


def _table_forms(name: str) -> Iterator[tuple[str, ...]]:
    """The name, and its endings: the last word of a name says what its rows are."""
    whole = atoms(plain(name.rpartition(".")[2]))
    seen = set()
    for start in range(len(whole)):
        rest = tuple(whole[start:])
        is_letter = len(rest) == 1 and not rest[0].isascii()
        if (not is_letter or len(whole) <= 2) and not rest[0][0].isdigit() and rest not in seen:
            seen.add(rest)
            yield rest


def further_forms(column: Column) -> Iterator[tuple[str, ...]]:
    """What it may be called where no other column of its table is called so."""
    for form in alternatives(column.name, column.comment):
        names = tuple(atoms(plain(form)))
        if names and len(names) <= _MAX_ATOMS:
            yield names


def all_forms(column: Column) -> set[tuple[str, ...]]:
    """Everything that it may be called."""
    return {*column_forms(column), *further_forms(column)}


def unit_atoms(column: Column) -> set[str]:
    """What its unit is called in a question, where that is one word: as a name writes it, and as a person reads it."""
    found = {tuple(atoms(plain(each))) for each in (column.unit, unit_written(column.name)) if each is not None}
    return {each[0] for each in found if len(each) == 1}


def column_forms(column: Column) -> Iterator[tuple[str, ...]]:
    """What it is called: its name, with and without the unit in brackets, and its description."""
    bare = column.name
    if column.unit is not None and (head := re.match(r"(.+?)\s*[(\[（【,/:]", bare)) is not None:
        bare = head[1]
    seen: set[tuple[str, ...]] = set()
    for form in (bare, column.name, column.comment or ""):
        names = tuple(atoms(plain(form)))
        if names and len(names) <= _MAX_ATOMS and names not in seen:
            seen.add(names)
            yield names


def _pieces(question: str) -> Iterator[_Piece]:
    """Atoms of a question; dates and numbers are one each."""
    text = plain(question)[:MAX_QUESTION_CHARS]
    for symbol, words in _SYMBOLS:
        text = text.replace(symbol, words)
    marked: list[tuple[int, int, _Piece]] = []
    for pattern in DATES:
        for match in pattern.finditer(text):
            start = match.start("y") if match.re.groupindex.get("y") and match.start("y") >= 0 else match.start()
            start = min([match.start(name) for name in match.re.groupindex], default=start)
            if any(start < end and begin < match.end() for begin, end, _ in marked):
                continue
            if (day := _day(match.groupdict())) is not None:
                marked.append((start, match.end(), _Piece(f"@{match.group()}", match.group(), day=day)))
    for match in NUMBER.finditer(text):
        if any(match.start() < end and begin < match.end() for begin, end, _ in marked):
            continue
        # A figure that is part of a name (a model's, a column's) stays what the name is made of.
        before = text[match.start() - 1 : match.start()]
        if before and ((before.isalnum() and before.isascii()) or before in "-/+_"):
            continue
        marked.append(
            (match.start(), match.end(), _Piece(_atom_of(match.group()), match.group(), number=_number(match.group())))
        )
    marked.sort(key=lambda each: each[0])
    waiting = iter([*marked, (len(text) + 1, len(text) + 1, None)])
    begin, end, piece = next(waiting)
    for atom, start, stop in placed_atoms(text):
        while piece is not None and start >= end:
            yield piece
            begin, end, piece = next(waiting)
        if piece is not None and start >= begin and stop <= end:
            continue
        if piece is not None and start < begin < stop:
            continue
        yield _Piece(atom, text[start:stop])
    while piece is not None:
        yield piece
        begin, end, piece = next(waiting)


def figures(question: str) -> list[float | int]:
    """The numbers that a question says, those in its dates too."""
    found: list[float | int] = [piece.number for piece in _pieces(question) if piece.number is not None]
    days = [piece.day for piece in _pieces(question) if piece.day is not None]
    return found + [part for day in days for part in (day.year, day.month, day.day) if part is not None]


def _atom_of(text: str) -> str:
    found = atoms(text.replace(",", ""))
    return found[0] if len(found) == 1 else text


def _number(text: str) -> float | int:
    match = re.fullmatch(r"([+-]?[\d,]+(?:\.\d+)?)\s*(\D*)", text)
    assert match is not None  # noqa: S101 - it is what NUMBER found
    digits = match[1].replace(",", "")
    value: float | int = float(digits) if "." in digits else int(digits[:18])
    scaled = value * SCALES.get(match[2].casefold(), 1)
    return scaled


def _day(found: dict[str, Any]) -> Day | None:
    year = int(found["y"]) if found.get("y") else None
    month = int(found["m"]) if found.get("m") else None
    if name := found.get("n"):
        month = MONTHS[name.casefold().rstrip(".")[:3]]
    day = int(found["d"]) if found.get("d") else None
    if (month is not None and not 1 <= month <= 12) or (day is not None and not 1 <= day <= 31):
        return None
    return Day(year, month, day)


def column_of(card: Card, spot: Spot) -> Column:
    """The column that a spot names."""
    table = next(each for each in card.tables if each.name == spot.table)
    found = table.column(spot.column)
    assert found is not None  # noqa: S101 - spots are made from the card
    return found


def table_of(card: Card, name: str) -> Table:
    """The table of that name."""
    return next(each for each in card.tables if each.name == name)
