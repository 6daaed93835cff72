"""Workbooks: each block of cells that touch is a table that knows its range; formulas are given by the values last computed."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from modelworks.capabilities.document.archive import SafeArchive, corrupt
from modelworks.capabilities.document.blocks import Block, Parsed, Source, Table
from modelworks.capabilities.document.formats.office import core_title, macros
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES

#: What a sheet may claim to reach to, and what is looked at; sheets that are formatted to the end are mostly empty.
_MAX_ROWS, _MAX_COLUMNS = 200_000, 1_024
_MAX_EMPTY_ROWS = 2_000


def read(source: Source, pages: Pages) -> Parsed:
    """All visible sheets in order; pictures and charts are left out."""
    import openpyxl

    with SafeArchive(source) as archive:
        parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["xlsx"], title=core_title(archive), faults=macros(archive))
        # Every part is unpacked once within its limits: what openpyxl then reads is no bomb.
        for name in archive.names:
            if name.endswith((".xml", ".rels")):
                archive.check(name)
    # Opened here: by its path openpyxl would judge it by the ending of its name.
    file = source.path.open("rb")
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, IndexError, SyntaxError, OSError) as error:
        file.close()
        raise corrupt(f"the workbook cannot be opened ({type(error).__name__}: {error})") from error
    parsed.blocks = _blocks(book, file)
    return parsed


def _blocks(book: Any, file: IO[bytes]) -> Iterator[Block]:
    try:
        for sheet in book.worksheets:
            if sheet.sheet_state != "visible":
                continue
            blocks = list(_tables(sheet))
            if blocks:
                yield Block("heading", sheet.title, level=1)
                yield from blocks
    finally:
        book.close()
        file.close()


def _tables(sheet: Any) -> Iterator[Block]:
    """Blocks of rows parted by empty ones; columns that are empty in all of its rows part a block, too."""
    held: list[tuple[int, dict[int, str]]] = []
    empty = 0
    sheet.reset_dimensions()
    for number, row in enumerate(sheet.iter_rows(max_row=_MAX_ROWS, max_col=_MAX_COLUMNS, values_only=True), 1):
        cells = {column: said for column, value in enumerate(row, 1) if value is not None and (said := _said(value))}
        if cells:
            held.append((number, cells))
            empty = 0
            continue
        empty += 1
        if held:
            yield from _parted(sheet.title, held)
            held = []
        if empty > _MAX_EMPTY_ROWS:
            break
    if held:
        yield from _parted(sheet.title, held)


def _parted(sheet: str, rows: list[tuple[int, dict[int, str]]]) -> Iterator[Block]:
    used = sorted({column for _, cells in rows for column in cells})
    groups: list[list[int]] = []
    for column in used:
        if groups and column == groups[-1][-1] + 1:
            groups[-1].append(column)
        else:
            groups.append([column])
    for group in groups:
        kept = [(number, cells) for number, cells in rows if any(column in cells for column in group)]
        grid = [[cells.get(column, "") for column in range(group[0], group[-1] + 1)] for _, cells in kept]
        marks = [(number, number) for number, _ in kept]
        yield Block("table", table=Table(grid, marks=marks, sheet=_name(sheet), first_column=group[0]))


def _name(sheet: str) -> str:
    """As a formula writes it."""
    return sheet if sheet.isidentifier() else "'" + sheet.replace("'", "''") + "'"


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value).strip()
