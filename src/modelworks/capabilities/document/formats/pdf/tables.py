"""Rows of a page made items: lines of text, and tables where cells stand under each other."""

from __future__ import annotations

import re
from typing import Any

from modelworks.capabilities.document.formats.pdf.characters import Run
from modelworks.capabilities.document.formats.pdf.columns import Row
from modelworks.capabilities.document.language import weight

_BULLET = re.compile(r"^(?:[•·●○■□▪◦‣⁃∙➢➤✓*–—-]|[\uf0a7\uf0b7\uf0d8\uf076]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)）、])$")
#: Cells of such a column belong to the number after or before them.
_BEFORE, _AFTER = frozenset(["$", "€", "£", "¥", "￥", "(", "US$", "HK$", "RMB"]), frozenset(["%", ")", ")%", "pts", "bps"])
#: Between two rows of one table there is not more white than this many heights.
_MAX_WHITE = 2.2
#: Rows of one cell (headings of a group, labels that go on) that may stand between rows of several.
_MAX_LONE = 3
_MAX_CELL = 260

#: A line: text, box, size, bold …; or a table: rows and box. As JSON holds them.
Item = dict[str, Any]


def items_of(rows: list[Row]) -> list[Item]:
    """Lines and tables of a page, in order."""
    for row in rows:
        _join_bullet(row)
    items: list[Item] = []
    start = 0
    while start < len(rows):
        end = _table_end(rows, start)
        if end > start:
            table = _table(rows[start:end])
            if table is not None:
                items.append(table)
                start = end
                continue
        items.append(_line(rows[start]))
        start += 1
    return items


def _join_bullet(row: Row) -> None:
    first = row.runs[0]
    if len(row.runs) == 2 and _BULLET.match(first.text) and row.runs[1].x0 - first.x1 < 4 * first.size:
        second = row.runs[1]
        text = f"{first.text} {second.text}"
        row.runs = [Run(text, first.x0, second.y0, second.x1, second.y1, second.size, second.is_bold, second.is_parted)]


def _line(row: Row) -> Item:
    text = "  ".join(run.text for run in row.runs)
    item: Item = {
        "text": text,
        "box": [round(row.runs[0].x0, 1), round(row.y0, 1), round(row.runs[-1].x1, 1), round(row.y1, 1)],
        "size": round(max(row.runs, key=lambda run: len(run.text)).size, 1),
        "column": [row.column, round(row.left, 1), round(row.right, 1)],
    }
    if all(run.is_bold for run in row.runs):
        item["bold"] = True
    if row.runs[-1].is_parted:
        item["parted"] = True
    return item


def _table_end(rows: list[Row], start: int) -> int:
    """Behind the last row of the table that begins here; `start` where none does."""
    if len(rows[start].runs) < 2:
        return start
    end = start + 1
    last = start
    while end < len(rows):
        row, above = rows[end], rows[end - 1]
        white = row.y0 - above.y1
        if row.column != rows[start].column or white > _MAX_WHITE * max(row.size, above.size) or white < -above.size:
            break
        if len(row.runs) >= 2:
            last = end
        elif end - last > _MAX_LONE or weight(row.runs[0].text, 2.0) > 0.8 * _MAX_CELL:
            break
        end += 1
    return last + 1 if last > start else start


def _table(rows: list[Row]) -> Item | None:
    full = [row for row in rows if len(row.runs) >= 2]
    edges = _edges(full)
    if len(edges) < 2 or (len(full) < 3 and len(edges) < 3 and len(rows) < 3):
        return None
    cells = [_cells(row, edges) for row in rows]
    cells = _without_signs(cells)
    width = len(cells[0])
    filled = sum(sum(map(bool, row)) >= 2 for row in cells)
    if width < 2 or filled < 2 or filled < 0.4 * len(cells):
        return None
    lengths = sorted(weight(cell, 2.0) for row in cells for cell in row if cell)
    if lengths[len(lengths) // 2] > 80 and width == 2:
        return None
    box = [min(row.runs[0].x0 for row in rows), rows[0].y0, max(row.runs[-1].x1 for row in rows), rows[-1].y1]
    return {"rows": cells, "header": _num_header(cells), "box": [round(side, 1) for side in box]}


def _edges(rows: list[Row]) -> list[tuple[float, float]]:
    """From where to where each column reaches: parted by white that nearly all rows leave."""
    runs = [run for row in rows for run in row.runs]
    left, right = min(run.x0 for run in runs), max(run.x1 for run in runs)
    size = sorted(run.size for run in runs)[len(runs) // 2]
    step = max(0.5, (right - left) / 1000)
    counts = [0] * (int((right - left) / step) + 2)
    for run in runs:
        for place in range(int((run.x0 - left) / step), int((run.x1 - left) / step) + 1):
            counts[place] += 1
    allowed = 0 if len(rows) < 6 else int(0.12 * len(rows))
    edges: list[tuple[float, float]] = []
    start = 0
    place = 0
    while place < len(counts):
        if counts[place] > allowed:
            place += 1
            continue
        end = place
        while end < len(counts) and counts[end] <= allowed:
            end += 1
        if (end - place) * step > 0.35 * size or end == len(counts):
            if place > start:
                edges.append((left + start * step, left + place * step))
            start = end
        place = end
    return edges


def _cells(row: Row, edges: list[tuple[float, float]]) -> list[str]:
    cells = [""] * len(edges)
    for run in row.runs:
        shared = [min(run.x1, right) - max(run.x0, left) for left, right in edges]
        place = max(range(len(edges)), key=lambda number: shared[number])
        cells[place] = f"{cells[place]} {run.text}".strip()
    return cells


def _without_signs(cells: list[list[str]]) -> list[list[str]]:
    """Currency signs and percent signs that stand in columns of their own go to their numbers."""
    width = len(cells[0])
    kept: list[int] = []
    for column in range(width):
        said = {row[column] for row in cells if row[column]}
        if said and said <= _BEFORE and column + 1 < width:
            for row in cells:
                row[column + 1] = f"{row[column]}{row[column + 1]}"
        elif said and said <= _AFTER and kept:
            for row in cells:
                row[kept[-1]] = f"{row[kept[-1]]}{row[column]}"
        elif said:
            kept.append(column)
    return [[row[column] for column in kept] for row in cells]


def _num_header(cells: list[list[str]]) -> int:
    """Rows before the first that has a number behind its first cell."""
    for number, row in enumerate(cells[:4]):
        if any(_is_figure(cell) for cell in row[1:]):
            return max(1, min(3, number))
    return 1


def _is_figure(cell: str) -> bool:
    bare = cell.strip("$€£¥￥()%-–— ")
    return bool(bare) and bare.replace(",", "").replace(".", "").isdigit() and not re.fullmatch(r"(?:19|20)\d\d", bare)
