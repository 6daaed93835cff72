"""Tables that are drawn with lines: the lines say where the cells are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import byref, c_float, c_int
from dataclasses import dataclass
from typing import Any

import pypdfium2.raw as raw

from modelworks.capabilities.document.formats.pdf.characters import Run, placing
from modelworks.capabilities.document.formats.pdf.columns import rows_of
from modelworks.capabilities.document.formats.pdf.tables import Item
from modelworks.capabilities.document.language import joined

#: A page with more drawings than this holds a picture, and is not searched for tables.
_MAX_OBJECTS = 3_000
_MAX_LINES = 1_500
#: A drawing that is not thicker than this is a line, and lines this near to each other are one; in points.
_THICK, _NEAR, _REACH = 2.5, 2.5, 4.0
_SHORT = 6.0
_MAX_COLUMNS, _MAX_ROWS = 60, 300


@dataclass(slots=True)
class Line:
    """At `at`, from `start` to `end`: a row's line at a height, a column's at a distance from the left."""

    at: float
    start: float
    end: float


def take_ruled(level: list[Line], upright: list[Line], runs: list[Run]) -> tuple[list[Run], list[Item]]:
    """The runs that stand in no ruled table, and the tables."""
    if len(level) < 3 or len(upright) < 2:
        return runs, []
    tables: list[Item] = []
    for rows, columns in _grids(level, upright):
        top, bottom, left, right = rows[0].at, rows[-1].at, columns[0].at, columns[-1].at
        inside = [run for run in runs if left - 1 < (run.x0 + run.x1) / 2 < right + 1 and top - 1 < run.middle < bottom + 1]
        table = _table(rows, columns, inside)
        if table is None:
            continue
        taken = {id(run) for run in inside}
        runs = [run for run in runs if id(run) not in taken]
        tables.append(table)
    return runs, tables


def drawn_lines(page: Any) -> tuple[list[Line], list[Line]]:
    """The level and the upright lines of a page: thin drawings, and the edges of rectangles that are stroked."""
    place = placing(page)
    count = raw.FPDFPage_CountObjects(page.raw)
    if count > _MAX_OBJECTS:
        return [], []
    level: list[Line] = []
    upright: list[Line] = []
    sides = [c_float() for _ in range(4)]
    pointers = [byref(side) for side in sides]
    for number in range(count):
        item = raw.FPDFPage_GetObject(page.raw, number)
        if raw.FPDFPageObj_GetType(item) != raw.FPDF_PAGEOBJ_PATH or not raw.FPDFPageObj_GetBounds(item, *pointers):
            continue
        left, bottom, right, top = (side.value for side in sides)
        x0, y0, x1, y1 = place(left, top, right, bottom)
        wide, high = x1 - x0, y1 - y0
        if high <= _THICK and wide >= _SHORT:
            level.append(Line((y0 + y1) / 2, x0, x1))
        elif wide <= _THICK and high >= _SHORT:
            upright.append(Line((x0 + x1) / 2, y0, y1))
        elif wide >= _SHORT and high >= _SHORT and _is_stroked(item):
            level.extend((Line(y0, x0, x1), Line(y1, x0, x1)))
            upright.extend((Line(x0, y0, y1), Line(x1, y0, y1)))
        if len(level) + len(upright) > _MAX_LINES:
            return [], []
    return _merged(level), _merged(upright)


def _is_stroked(item: Any) -> bool:
    """Whether it is a rectangle with a line around; one that is only filled is shade under every other row."""
    fill, stroke = c_int(), c_int()
    if raw.FPDFPath_CountSegments(item) not in (4, 5) or not raw.FPDFPath_GetDrawMode(item, byref(fill), byref(stroke)):
        return False
    return bool(stroke.value)


def _merged(lines: list[Line]) -> list[Line]:
    """Pieces of one line as one: cells draw their edges each for itself."""
    merged: list[Line] = []
    for line in sorted(lines, key=lambda line: (round(line.at / _NEAR), line.start)):
        for other in reversed(merged[-40:]):
            if abs(other.at - line.at) <= _NEAR and line.start <= other.end + _REACH and line.end >= other.start - _REACH:
                other.start, other.end = min(other.start, line.start), max(other.end, line.end)
                break
        else:
            merged.append(Line(line.at, line.start, line.end))
    return merged


def _grids(level: list[Line], upright: list[Line]) -> Iterator[tuple[list[Line], list[Line]]]:
    """Level and upright lines that cross or touch each other, from the top down, group by group."""
    left = sorted(level, key=lambda line: line.at)
    while left:
        rows, columns = [left.pop(0)], []
        grown = True
        while grown:
            grown = False
            for line in upright:
                if line not in columns and any(_touch(row, line) for row in rows):
                    columns.append(line)
                    grown = True
            for line in list(left):
                if any(_touch(line, column) for column in columns):
                    rows.append(line)
                    left.remove(line)
                    grown = True
        rows, columns = _distinct(rows), _distinct(columns)
        if not (3 <= len(rows) <= _MAX_ROWS and 3 <= len(columns) <= _MAX_COLUMNS):
            continue
        # Rules under some columns of a table without a grid cross nothing: lines must part most of it in both ways.
        height, width = rows[-1].at - rows[0].at, columns[-1].at - columns[0].at
        tall = sum(line.end - line.start > 0.5 * height for line in columns)
        broad = sum(line.end - line.start > 0.5 * width for line in rows)
        if tall >= 0.6 * len(columns) and broad >= 0.5 * len(rows):
            yield rows, columns


def _touch(row: Line, column: Line) -> bool:
    return row.start - _REACH <= column.at <= row.end + _REACH and column.start - _REACH <= row.at <= column.end + _REACH


def _distinct(lines: Sequence[Line]) -> list[Line]:
    """By their place, those at the same one told once, as far as they reach together."""
    kept: list[Line] = []
    for line in sorted(lines, key=lambda line: line.at):
        if kept and line.at - kept[-1].at <= _REACH:
            kept[-1] = Line(kept[-1].at, min(kept[-1].start, line.start), max(kept[-1].end, line.end))
        else:
            kept.append(line)
    return kept


def _table(rows: list[Line], columns: list[Line], runs: list[Run]) -> Item | None:
    num_rows, num_columns = len(rows) - 1, len(columns) - 1
    cells: list[list[list[Run]]] = [[[] for _ in range(num_columns)] for _ in range(num_rows)]
    for run in runs:
        row = _between(rows, run.middle)
        # A cell over several columns is told in the one in which it begins.
        column = _between(columns, min(run.x0 + 1, (run.x0 + run.x1) / 2))
        top = row
        while top > 0 and not _reaches(rows[top], run.x0, run.x1):
            top -= 1
        cells[top][column].append(run)
    said = [[_said(cell) for cell in row] for row in cells]
    said = [row for row in said if any(row)]
    kept = [column for column in range(num_columns) if any(row[column] for row in said)]
    said = [[row[column] for column in kept] for row in said]
    full = sum(sum(map(bool, row)) >= 2 for row in said)
    if len(kept) < 2 or len(said) < 2 or full < 2:
        return None
    box = [columns[0].at, rows[0].at, columns[-1].at, rows[-1].at]
    return {"rows": said, "header": 1, "box": [round(side, 1) for side in box]}


def _between(lines: list[Line], place: float) -> int:
    for number in range(len(lines) - 1):
        if place < lines[number + 1].at:
            return number
    return len(lines) - 2


def _reaches(line: Line, x0: float, x1: float) -> bool:
    """Whether a level line passes above a text: where it does not, the cell goes on upwards."""
    return line.start - _REACH <= (x0 + x1) / 2 <= line.end + _REACH


def _said(runs: list[Run]) -> str:
    text = ""
    for row in rows_of(runs):
        for run in row.runs:
            text = joined(text, run.text)
    return text
