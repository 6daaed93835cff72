"""Runs made rows, and rows put in the order in which they are read, column by column."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import median, quantiles

from modelworks.capabilities.document.formats.pdf.characters import Run
from modelworks.capabilities.document.language import weight

_BULLET = re.compile(
    r"^(?:[•·●○■□▪◦‣⁃∙➢➤✓*–—-]|[\uf06e\uf0a7\uf0a8\uf0b7\uf0d8\uf076\uf071]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)）、])$"
)
_BINS = 240
#: Rows that may cross the white between two columns (titles, wide tables), as a share.
_CROSSING = 0.25
_MIN_GAP = 0.012
_MAX_DEPTH = 3
_MIN_ROWS = 4


@dataclass(slots=True)
class Row:
    """Runs side by side, from left to right, and the edges of the column that they stand in."""

    runs: list[Run]
    left: float = 0.0
    right: float = 0.0
    #: Rows of one column have the same number; it rises in the order of reading.
    column: int = 0

    @property
    def y0(self) -> float:
        return min(run.y0 for run in self.runs)

    @property
    def y1(self) -> float:
        return max(run.y1 for run in self.runs)

    @property
    def size(self) -> float:
        return max(run.size for run in self.runs)


def in_order(runs: list[Run], width: float) -> list[Row]:
    """All rows of a page in the order of reading, by cuts through white space.

    A white stripe that few rows cross parts columns where both sides hold running text; rows that cross it (titles) stand
    between what is above and what is below them. Where sides hold no running text, it may part the columns of a table, and
    rows stay whole.

    Args:
        width: of the page, in points.
    """
    ordered: list[Row] = []
    _part(_with_bullets(runs), width, ordered, 0)
    for number, row in enumerate(ordered):
        if number and row.left == ordered[number - 1].left and row.right == ordered[number - 1].right:
            row.column = ordered[number - 1].column
        elif number:
            row.column = ordered[number - 1].column + 1
    return ordered


def _with_bullets(runs: list[Run]) -> list[Run]:
    """Bullets and numbers that stand apart from their item, joined to it."""
    kept: list[Run] = []
    for row in rows_of(runs):
        bullet: Run | None = None
        for run in row.runs:
            if bullet is not None:
                is_item = run.x0 - bullet.x1 < 4 * bullet.size and len(run.text) > 2 and not _is_number(run.text)
                if is_item:
                    run.text, run.x0 = f"{bullet.text} {run.text}", bullet.x0
                else:
                    kept.append(bullet)
                bullet = None
            if _BULLET.match(run.text):
                bullet = run
            else:
                kept.append(run)
        if bullet is not None:
            kept.append(bullet)
    return kept


def rows_of(runs: list[Run]) -> list[Row]:
    """Runs that overlap in height by half are one row; rows from the top down."""
    rows: list[Row] = []
    tops: list[tuple[float, float]] = []
    for run in sorted(runs, key=lambda run: run.middle):
        if rows:
            y0, y1 = tops[-1]
            overlap = min(y1, run.y1) - max(y0, run.y0)
            if overlap > 0.5 * min(y1 - y0, run.y1 - run.y0):
                rows[-1].runs.append(run)
                # The row keeps the height of its tallest run: small marks do not stretch it downwards.
                if run.y1 - run.y0 > y1 - y0:
                    tops[-1] = (run.y0, run.y1)
                continue
        rows.append(Row([run]))
        tops.append((run.y0, run.y1))
    for row in rows:
        row.runs.sort(key=lambda run: run.x0)
    return rows


def _part(runs: list[Run], width: float, ordered: list[Row], depth: int) -> None:
    if not runs:
        return
    rows = rows_of(runs)
    left, right = min(run.x0 for run in runs), max(run.x1 for run in runs)
    gap = _gutter(rows, left, right, width) if depth < _MAX_DEPTH else None
    if gap is None:
        # A table that is wider than the text must not make all lines look short.
        starts, ends = sorted(row.runs[0].x0 for row in rows), sorted(row.runs[-1].x1 for row in rows)
        for row in rows:
            row.left, row.right = starts[len(rows) // 10], ends[-1 - len(rows) // 8]
        ordered.extend(rows)
        return
    start, end = gap
    held: list[Run] = []

    def flush() -> None:
        _part([run for run in held if (run.x0 + run.x1) / 2 < (start + end) / 2], width, ordered, depth + 1)
        _part([run for run in held if (run.x0 + run.x1) / 2 >= (start + end) / 2], width, ordered, depth + 1)
        held.clear()

    for row in rows:
        if any(run.x0 < start - 1 and run.x1 > end + 1 for run in row.runs):
            flush()
            row.left, row.right = left, right
            ordered.append(row)
        else:
            held.extend(row.runs)
    flush()


def _gutter(rows: list[Row], left: float, right: float, width: float) -> tuple[float, float] | None:
    """The white stripe that parts two columns of running text; None: there is none."""
    if len(rows) < _MIN_ROWS or right - left < 0.3 * width:
        return None
    step = (right - left) / _BINS
    counts = [0] * (_BINS + 1)
    for row in rows:
        for run in row.runs:
            first, last = int((run.x0 - left) / step), int((run.x1 - left) / step)
            for number in range(max(0, first), min(_BINS, last) + 1):
                counts[number] += 1
    best: tuple[float, float, float] | None = None
    number, low, high = 0, int(0.15 * _BINS), int(0.85 * _BINS)
    while number <= high:
        if number < low or counts[number] > _CROSSING * len(rows):
            number += 1
            continue
        # A stripe is as wide as the count stays at its least: rows that end raggedly make its edges, not its middle.
        end = number
        while end <= high and counts[end] <= _CROSSING * len(rows):
            end += 1
        least = min(counts[number:end])
        first = next(place for place in range(number, end) if counts[place] == least)
        last = first
        while last + 1 < end and counts[last + 1] == least:
            last += 1
        wide = (last - first + 1) * step
        if wide >= _MIN_GAP * width and (best is None or (least, -wide) < (best[0], -best[1])):
            best = (least, wide, left + first * step)
        number = end
    if best is None:
        return None
    start, end_x = best[2], best[2] + best[1]
    ones = [run for row in rows for run in row.runs if run.x1 <= end_x and not run.x0 > start]
    others = [run for row in rows for run in row.runs if run.x0 >= start and not run.x1 < end_x]
    if _is_running(ones) and _is_running(others) and _overlap(ones, others):
        return start, end_x
    return None


def _is_running(runs: list[Run]) -> bool:
    """Whether they are lines of text, as wide as their column for the most part, and not cells of a table."""
    if len(runs) < _MIN_ROWS:
        return False
    rows = rows_of(runs)
    if len(rows) < _MIN_ROWS or len(runs) > 1.8 * len(rows):
        return False
    left, right = min(run.x0 for run in runs), max(run.x1 for run in runs)
    widths = [(row.runs[-1].x1 - row.runs[0].x0) / max(1.0, right - left) for row in rows]
    lengths = [weight(" ".join(run.text for run in row.runs), 2.0) for row in rows]
    numbers = sum(_is_number(run.text) for run in runs)
    # Lists have many short lines, but long ones among them that end where the column does.
    is_wide = median(widths) > 0.6 or (len(rows) >= 10 and median(widths) > 0.33 and quantiles(widths)[2] > 0.7)
    return is_wide and median(lengths) >= 18 and numbers < 0.3 * len(runs)


def _is_number(text: str) -> bool:
    digits = sum(letter.isdigit() for letter in text)
    return 2 * digits >= len(text.replace(" ", ""))


def _overlap(ones: list[Run], others: list[Run]) -> bool:
    top = max(min(run.y0 for run in ones), min(run.y0 for run in others))
    bottom = min(max(run.y1 for run in ones), max(run.y1 for run in others))
    least = min(max(run.y1 for run in side) - min(run.y0 for run in side) for side in (ones, others))
    return bottom - top > 0.3 * least
