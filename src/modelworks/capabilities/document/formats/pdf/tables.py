"""Rows of a page made items: lines of text, and tables where cells stand under each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from modelworks.capabilities.document.formats.pdf.characters import is_from_right
from modelworks.capabilities.document.formats.pdf.columns import Row
from modelworks.capabilities.document.language import joined, weight

#: Cells of such a column belong to the number after or before them.
_BEFORE, _AFTER = frozenset(["$", "€", "£", "¥", "￥", "(", "US$", "HK$", "RMB"]), frozenset(["%", ")", ")%", "pts", "bps"])
#: Bullets out of fonts of symbols, whose characters mean nothing.
_SYMBOL = re.compile("^[\x80-\x9f\ue000-\uf8ff]\\s*(?=\\S)")
#: Between two rows of one table there is not more white than this many heights.
_MAX_WHITE = 2.2
#: Rows of one cell (headings of a group, labels that go on) that may stand between rows of several.
_MAX_LONE = 3
_MAX_CELL = 260

#: A line: text, box, size, bold …; or a table: rows and box. As JSON holds them.
Item = dict[str, Any]


def items_of(rows: list[Row], ruled: Sequence[Item] = ()) -> list[Item]:
    """Lines and tables of a page, in order.

    Args:
        ruled: tables that were found by their lines; their text is not in the rows.
    """
    waiting = list(ruled)
    items: list[Item] = []
    start = 0
    while start < len(rows):
        for drawn in [each for each in waiting if _is_before(each, rows[start])]:
            waiting.remove(drawn)
            items.append(drawn)
        end = _table_end(rows, start)
        if end > start:
            table = _table(rows[start:end])
            if table is not None:
                items.append(table)
                start = end
                continue
        items.append(_line(rows[start]))
        start += 1
    return items + waiting


def _is_before(table: Item, row: Row) -> bool:
    """Whether a row is the first one below a table in a column that they share."""
    left, top, right, _ = table["box"]
    return bool(row.y0 > top and row.left < right and row.right > left)


def _line(row: Row) -> Item:
    runs = row.runs[::-1] if _is_from_right(row) else row.runs
    text = _SYMBOL.sub("• ", "  ".join(run.text for run in runs))
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


def _is_from_right(row: Row) -> bool:
    """Whether a row is read from right to left: most of its letters are of such a script."""
    letters = [letter for run in row.runs for letter in run.text if letter.isalpha()] if len(row.runs) > 1 else []
    return 2 * sum(letter > "\u058f" and is_from_right(letter) for letter in letters) > len(letters)


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
    cells = _without_signs(_with_continuations(cells))
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


def _with_continuations(cells: list[list[str]]) -> list[list[str]]:
    """Rows with one cell alone: the rest of the cell above, the beginning of a label, or the name of a group."""
    kept: list[list[str]] = []
    begun = ""
    longest = [max(weight(row[column], 2.0) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        filled = [column for column, cell in enumerate(row) if cell]
        if begun:
            if row[0] and row[0][0].islower():
                row = [joined(begun, row[0]), *row[1:]]
            else:
                kept.append([begun, *[""] * (len(row) - 1)])
            begun = ""
        if len(filled) != 1:
            kept.append(row)
            continue
        column = filled[0]
        text = row[column]
        if column == 0 and not text.endswith((":", "：")):
            begun = text
        elif column and kept and not _is_figure(text) and _goes_on(kept[-1][column], text, longest[column]):
            kept[-1][column] = joined(kept[-1][column], text)
        elif column and not _is_figure(text):
            kept.append([text, *[""] * (len(row) - 1)])
        else:
            kept.append(row)
    if begun:
        kept.append([begun, *[""] * (len(cells[0]) - 1)])
    return kept


def _goes_on(above: str, text: str, longest: float) -> bool:
    """Whether a cell was wrapped: its first line fills the column, or the second begins in the middle of a sentence."""
    if not above or above in _BEFORE or _is_figure(above):
        return False
    return text[0].islower() or weight(above, 2.0) > 0.75 * longest


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
        if number and row[0] and not any(row[1:]):
            return min(3, number)
        if any(_is_figure(cell) for cell in row[1:]):
            return max(1, min(3, number))
    return 1


def _is_figure(cell: str) -> bool:
    bare = cell.strip("$€£¥￥()%-–— ")
    return bool(bare) and bare.replace(",", "").replace(".", "").isdigit() and not re.fullmatch(r"(?:19|20)\d\d", bare)
