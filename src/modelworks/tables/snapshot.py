"""Files made snapshots: one SQLite file with the typed tables, their card, and an index of the values that questions may name.

CSV is read as RFC 4180 writes it and as it is found: other separators, other encodings, broken quoting.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from modelworks.tables.card import CARD_TABLE, VALUES_TABLE, Card, Column, Reference, Table, key_of, plain
from modelworks.tables.cells import Guess, heading, number, stored

_ENCODINGS: Final = ("utf-8-sig", "gb18030", "latin-1")
_SEPARATORS: Final = ",;\t|"
#: A field with more line breaks than this was not closed where it ends.
_MAX_BREAKS: Final = 20
#: From this share of rows that do not fit on, a file is no table.
_MAX_ODD: Final = 0.01
_MAX_NAME_CHARS: Final = 80
#: Values that a question may name: no longer ones, and no more of them.
_MAX_VALUE_CHARS, _MAX_VALUES = 80, 200_000
_SAMPLES: Final = 5
_BATCH: Final = 2000
#: Empty rows of a sheet after which nothing more is looked for.
_MAX_EMPTY_ROWS: Final = 2000


class NoTable(Exception):
    """What was given holds no table that can be asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a file becomes a table: more is refused, as an answer from a part of it would be wrong."""

    rows: int = 2_000_000
    columns: int = 500
    tables: int = 50
    cell_chars: int = 10_000


@dataclass(slots=True)
class Raw:
    """A table as it was found. `rows` can be gone through more than once."""

    name: str
    header: list[str]
    rows: Callable[[], Iterator[Sequence[str | None]]]
    place: str | None = None
    comment: str | None = None
    #: What a database says of its columns: texts are texts, whatever stands in them.
    texts: frozenset[str] = frozenset()
    comments: Mapping[str, str] | None = None
    key: Sequence[str] = ()
    references: Sequence[Reference] = ()
    #: What references call it, where that is not its name.
    id: str | None = None
    num_left_out: int = 0
    #: None is what is not known, and nothing else: cells are what a database says they are.
    is_typed: bool = False
    origin: int = 0


def build(source: Path | Sequence[Path], kind: str, name: str, target: Path, limits: Limits | None = None) -> Card:
    """Make a snapshot of a file, or of several that hold tables which refer to each other (kind rows).

    Args:
        kind: csv, xlsx, or rows (see `read_rows`).
        name: what the document is called.
        target: appears complete or not at all.

    Raises:
        NoTable: it holds none, or too much.
    """
    limits = limits or Limits()
    read = {"csv": read_csv, "xlsx": read_xlsx, "rows": read_rows}[kind]
    raws: list[Raw] = []
    for origin, each in enumerate([source] if isinstance(source, Path) else source):
        found = read(each, name, limits)
        for raw in found:
            raw.origin = origin
        raws += found
    if len(raws) > limits.tables:
        raise NoTable("there are too many tables")
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(part)) as connection:
            connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA page_size=8192")
            card = _write(connection, raws, limits)
            connection.commit()
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return card


# -- reading -----------------------------------------------------------------------------------------------------------


def read_csv(source: Path, name: str, limits: Limits) -> list[Raw]:
    """The one table of a file with separators; raises NoTable."""
    csv.field_size_limit(1 << 20)
    encoding = _encoding(source)
    with source.open(encoding=encoding, newline="") as file:
        head = [line for line in file.read(65_536).splitlines() if line.strip()][:50]
    if not head:
        raise NoTable("the file is empty")
    separator = _separator(head)

    def rows(quoting: int) -> Iterator[list[str]]:
        with source.open(encoding=encoding, newline="") as file:
            clean: Iterable[str] = (line.replace("\0", "") for line in file)
            if quoting == csv.QUOTE_NONE:
                for row in csv.reader(clean, delimiter=separator, quoting=csv.QUOTE_NONE):
                    if row:
                        yield [cell.strip().strip('"') for cell in row]
            else:
                for row in csv.reader(clean, delimiter=separator):
                    if row:
                        yield [cell.strip() for cell in row]

    quoting = _quoting(rows)
    table = _shaped(Path(name).stem, lambda: rows(quoting), limits)
    table.place = None
    return [table]


def _encoding(source: Path) -> str:
    for encoding in _ENCODINGS[:-1]:
        try:
            with source.open(encoding=encoding) as file:
                while file.read(1 << 20):
                    pass
        except UnicodeError:
            continue
        return encoding
    return _ENCODINGS[-1]


def _separator(head: Sequence[str]) -> str:
    """The separator that parts most lines into the same number of fields, and into most."""

    def rank(separator: str) -> tuple[float, int]:
        counts = Counter(len(row) for row in csv.reader(head, delimiter=separator) if row)
        fields, lines = counts.most_common(1)[0] if counts else (1, 0)
        return (0.0, 0) if fields < 2 else (lines / sum(counts.values()), fields)

    return max(_SEPARATORS, key=rank)


def _quoting(rows: Callable[[int], Iterator[list[str]]]) -> int:
    """Whether quotes part fields here: one that is never closed swallows all that follows."""
    try:
        for row in rows(csv.QUOTE_MINIMAL):
            if any(cell.count("\n") > _MAX_BREAKS for cell in row):
                return csv.QUOTE_NONE
    except csv.Error:
        return csv.QUOTE_NONE
    return csv.QUOTE_MINIMAL


def _shaped(name: str, rows: Callable[[], Iterator[Sequence[str]]], limits: Limits) -> Raw:
    """Find the header, and have all rows as wide as it."""
    first: list[Sequence[str]] = []
    for row in rows():
        first.append(row)
        if len(first) >= 20:
            break
    width = Counter(_width(row) for row in first).most_common(1)[0][0] if first else 0
    if width < 1:
        raise NoTable("there are no cells")
    skipped = 0
    # Titles above the table.
    while skipped < len(first) - 1 and _width(first[skipped]) < min(2, width):
        skipped += 1
    has_header = _is_header(first[skipped], first[skipped + 1 :])
    header = [*first[skipped]] if has_header else []
    width = max(width, _width(header)) if has_header else width
    if width > limits.columns:
        raise NoTable(f"it has {width} columns, at most {limits.columns} are taken")
    header = (header + [""] * width)[:width]
    begin = skipped + has_header
    num_all = num_odd = 0
    for number_, row in enumerate(rows()):
        if number_ >= begin:
            num_all += 1
            num_odd += _width(row) > width
            if num_all > limits.rows:
                raise NoTable(f"it has more than {limits.rows} rows")
    if num_odd > max(1, _MAX_ODD * num_all):
        raise NoTable(f"{num_odd} of {num_all} rows do not fit its header")

    def fitting() -> Iterator[Sequence[str]]:
        for place, row in enumerate(rows()):
            if place >= begin and _width(row) <= width:
                yield [*row[:width], *[""] * (width - len(row))]

    return Raw(name, header, fitting)


def _width(row: Sequence[str]) -> int:
    """Cells up to the last one that is not empty."""
    return next((place for place in range(len(row), 0, -1) if row[place - 1]), 0)


def _is_header(row: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether a row names columns: no figure is a name, and names are short."""
    said = [cell for cell in row if cell]
    if not said or any(number(cell) is not None or len(cell) > 200 or cell.count("\n") > 2 for cell in said):
        return False
    return len(said) >= 0.5 * _width(row) and (not below or any([*row] != [*each] for each in below))


def read_xlsx(source: Path, name: str, limits: Limits) -> list[Raw]:
    """The tables of the visible sheets, one a sheet; raises NoTable."""
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise NoTable("workbooks need openpyxl") from error
    from openpyxl.utils import get_column_letter

    try:
        with source.open("rb") as file:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            found = []
            for sheet in book.worksheets[: limits.tables]:
                if sheet.sheet_state != "visible":
                    continue
                grid, top = _grid(sheet, limits)
                left = min((place for row in grid for place, cell in enumerate(row) if cell), default=0)
                trimmed = [row[left:] for row in grid]
                try:
                    table = _shaped(plain(sheet.title), partial(iter, trimmed), limits)
                except NoTable:
                    continue
                right = left + max(_width(row) for row in trimmed)
                ends = f"{get_column_letter(left + 1)}{top}:{get_column_letter(right)}{top + len(grid) - 1}"
                quoted = sheet.title if sheet.title.isidentifier() else "'" + sheet.title.replace("'", "''") + "'"
                table.place = f"{quoted}!{ends}"
                found.append(table)
            book.close()
    except NoTable:
        raise
    except Exception as error:  # openpyxl fails in many ways on what is no workbook
        raise NoTable(f"the workbook cannot be opened ({type(error).__name__})") from error
    if not found:
        raise NoTable("no sheet holds a table")
    return found


def _grid(sheet: Any, limits: Limits) -> tuple[list[list[str]], int]:
    """The rows of a sheet that are not empty in one block, as texts, and the number of the first."""
    sheet.reset_dimensions()
    rows: list[list[str]] = []
    top, empty = 1, 0
    for place, row in enumerate(sheet.iter_rows(max_col=limits.columns + 1, values_only=True), 1):
        cells = [_said(value) for value in row]
        if any(cells):
            top = top if rows else place
            if empty and len(rows) > 1:
                raise NoTable("a sheet holds several blocks")
            rows.append(cells[: _width(cells)])
            empty = 0
        else:
            empty += 1
            if empty > _MAX_EMPTY_ROWS:
                break
        if len(rows) > limits.rows:
            raise NoTable(f"a sheet has more than {limits.rows} rows")
    return rows, top


def _said(value: Any) -> str:
    import datetime

    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(sep=" ", timespec="seconds")
    return str(value).strip()


def read_rows(source: Path, _name: str, limits: Limits) -> list[Raw]:
    """Tables of a database: lines of JSON, first those that describe tables, then rows as lists of texts under their number.

    `{"table": name, "columns": [...], "texts": [...], "comments": {...}, "comment": ..., "key": [...], "references": [[column,
    table, other], ...]}` and `[number of the table, [cell, ...]]`; null is an empty cell, `id` the name in references.
    """
    described: list[dict[str, Any]] = []
    with source.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("{"):
                break
            described.append(json.loads(line))
    if not described or len(described) > limits.tables:
        raise NoTable("there are no tables, or too many")

    def rows(wanted: int) -> Iterator[Sequence[str | None]]:
        with source.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith(f"[{wanted},"):
                    yield json.loads(line)[1]

    return [
        Raw(
            each["table"],
            each["columns"],
            partial(rows, place),
            comment=each.get("comment"),
            texts=frozenset(each.get("texts") or ()),
            comments=each.get("comments") or {},
            key=each.get("key") or (),
            references=[Reference(*reference) for reference in each.get("references") or ()],
            id=each.get("id"),
            num_left_out=each.get("num_left_out") or 0,
            is_typed=True,
        )
        for place, each in enumerate(described)
    ]


# -- writing -----------------------------------------------------------------------------------------------------------


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _unique(name: str, taken: set[str], otherwise: str) -> str:
    shown = "".join(char for char in plain(name) if char.isprintable())[:_MAX_NAME_CHARS].strip() or otherwise
    if shown.casefold().startswith(("sqlite_", "_")):
        shown = f"t{shown}"
    found, number_ = shown, 2
    while found.casefold() in taken:
        found, number_ = f"{shown} ({number_})", number_ + 1
    taken.add(found.casefold())
    return found


def _write(connection: sqlite3.Connection, raws: Sequence[Raw], limits: Limits) -> Card:
    connection.execute(f"CREATE TABLE {CARD_TABLE} (json TEXT)")
    connection.execute(f"CREATE TABLE {VALUES_TABLE} (key TEXT, tbl INTEGER, col INTEGER, value TEXT, num INTEGER)")
    taken: set[str] = set()
    written = [_write_table(connection, raw, place, taken, limits) for place, raw in enumerate(raws)]
    tables = [table for table, _ in written]
    # Names as they are here: those of a database may have been taken, or too long.
    known = {raw.id or raw.name: each for raw, each in zip(raws, written, strict=True)}
    for raw, (table, names) in zip(raws, written, strict=True):
        table.key = [names[each] for each in raw.key] if all(each in names for each in raw.key) else []
        for reference in raw.references:
            other, others = known.get(reference.table, (None, {}))
            if other is not None and reference.column in names and reference.other in others:
                table.references.append(Reference(names[reference.column], other.name, others[reference.other]))
    connection.execute(f"CREATE INDEX {VALUES_TABLE}_key ON {VALUES_TABLE} (key)")
    card = Card(tables)
    connection.execute(f"INSERT INTO {CARD_TABLE} VALUES (?)", (card.dumps(),))
    return card


def _write_table(
    connection: sqlite3.Connection, raw: Raw, place: int, taken: set[str], limits: Limits
) -> tuple[Table, dict[str, str]]:
    """The table, and its columns' names by their headings."""
    guesses = [Guess(is_text=name in raw.texts) for name in raw.header]
    num_rows = 0
    for row in raw.rows():
        num_rows += 1
        for guess, cell in zip(guesses, row, strict=True):
            if cell is not None:
                guess.see(cell)
    names: set[str] = set()
    columns = []
    for number_, (head, guess) in enumerate(zip(raw.header, guesses, strict=True), 1):
        name, unit = heading(head)
        comment = (raw.comments or {}).get(head)
        name = _unique(name, names, f"column {number_}")
        columns.append(Column(name, guess.kind, unit or guess.mark, comment))
    table = Table(
        name=_unique(raw.name, taken, f"table {place + 1}"),
        columns=columns,
        num_rows=num_rows,
        place=raw.place,
        comment=raw.comment,
        num_left_out=raw.num_left_out,
        origin=raw.origin,
    )
    types = {"integer": "INTEGER", "number": "REAL", "date": "TEXT", "text": "TEXT"}
    declared = ", ".join(f"{quoted(each.name)} {types[each.kind]}" for each in columns)
    connection.execute(f"CREATE TABLE {quoted(table.name)} ({declared})")
    marks = ", ".join("?" * len(columns))
    kinds = [each.kind for each in columns]
    batch: list[list[Any]] = []
    insert = f"INSERT INTO {quoted(table.name)} VALUES ({marks})"
    for row in raw.rows():
        batch.append(
            [
                cell if cell is None or (raw.is_typed and kind == "text") else stored(cell[: limits.cell_chars], kind)
                for cell, kind in zip(row, kinds, strict=True)
            ]
        )
        if len(batch) >= _BATCH:
            connection.executemany(insert, batch)
            batch.clear()
    connection.executemany(insert, batch)
    for number_, column in enumerate(columns):
        _describe(connection, table, place, column, number_)
    return table, dict(zip(raw.header, (each.name for each in columns), strict=True))


def _describe(connection: sqlite3.Connection, table: Table, place: int, column: Column, number_: int) -> None:
    """Count what a column holds, and note the values that a question may name."""
    name, of = quoted(column.name), quoted(table.name)
    row = connection.execute(
        f"SELECT count(DISTINCT {name}), sum({name} IS NULL), min({name}), max({name}) FROM {of}"
    ).fetchone()
    column.num_distinct, column.num_empty = int(row[0]), int(row[1] or 0)
    if column.kind != "text":
        column.least, column.greatest = row[2], row[3]
    values = connection.execute(
        f"SELECT {name}, count(*) FROM {of} WHERE {name} IS NOT NULL AND length({name}) <= ? "
        "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
        (_MAX_VALUE_CHARS, _MAX_VALUES if column.kind == "text" else _SAMPLES),
    )
    rows = []
    for at, (value, num) in enumerate(values):
        if at < _SAMPLES:
            column.samples.append(str(value))
        if column.kind != "text":
            continue
        key = key_of(str(value))
        # Bare figures are numbers of something, unless nothing else is there.
        if key and not re.fullmatch(r"[\d. ]+", key):
            rows.append((key, place, number_, value, num))
    connection.executemany(f"INSERT INTO {VALUES_TABLE} VALUES (?, ?, ?, ?, ?)", rows)
