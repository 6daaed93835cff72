"""CSV and its kin: places are lines, and broken quoting breaks no more than its row."""

from __future__ import annotations

import csv
import io
from collections import Counter

from modelworks.capabilities.document.blocks import Block, Parsed, Source, Table
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES, read_text
from modelworks.contract.passages import Fault

_DELIMITERS = ",\t;|"
_MAX_FIELD = 1 << 20
_MAX_COLUMNS = 16_384
#: A field over so many lines is a quotation mark that was never closed.
_MAX_LINES_OF_FIELD = 60


def read(source: Source, pages: Pages) -> Parsed:
    """One table; its first row is the header."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["csv"])
    text = read_text(source, parsed.faults).lstrip("\ufeff").replace("\x00", "")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = 1
    if text[:4].lower() == "sep=":
        text, first = text.partition("\n")[2], 2
    delimiter = _delimiter(text, source.suffix)
    rows, marks, is_broken = _rows(text, delimiter, first)
    if is_broken:
        parsed.faults.append(
            Fault(
                code="broken_quoting",
                message="Quotation marks in the table are not closed; its lines were read without them.",
                hint="Write quotation marks inside a field twice, and save the table again.",
            )
        )
    kept = [(row, mark) for row, mark in zip(rows, marks, strict=True) if any(cell.strip() for cell in row)]
    if kept:
        width = max(len(row) for row, _ in kept)
        table = Table([row + [""] * (width - len(row)) for row, _ in kept], marks=[mark for _, mark in kept])
        parsed.blocks = [Block("table", table=table)]
    return parsed


def _delimiter(text: str, suffix: str) -> str:
    """What parts most lines into the same number of fields."""
    lines = [line for line in text[: 1 << 16].split("\n") if line.strip()][:50]
    best, found = (0.0, 0), "\t" if suffix in (".tsv", ".tab") else ","
    for delimiter in _DELIMITERS:
        try:
            counts = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        except csv.Error:
            continue
        number, times = max(
            ((width, times) for width, times in counts.items() if width > 1), default=(0, 0), key=lambda pair: pair[1]
        )
        score = (times / max(1, sum(counts.values())), number)
        if score > best:
            best, found = score, delimiter
    return found


def _rows(text: str, delimiter: str, first: int) -> tuple[list[list[str]], list[tuple[int, int]], bool]:
    csv.field_size_limit(_MAX_FIELD)
    rows: list[list[str]] = []
    marks: list[tuple[int, int]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    before = 0
    try:
        for row in reader:
            if reader.line_num - before > _MAX_LINES_OF_FIELD:
                return (*_plain(text, delimiter, first), True)
            rows.append(row[:_MAX_COLUMNS])
            marks.append((first + before, first + reader.line_num - 1))
            before = reader.line_num
    except csv.Error:
        return (*_plain(text, delimiter, first), True)
    return rows, marks, False


def _plain(text: str, delimiter: str, first: int) -> tuple[list[list[str]], list[tuple[int, int]]]:
    rows = [[cell.strip().strip('"') for cell in line.split(delimiter)][:_MAX_COLUMNS] for line in text.split("\n")]
    return rows, [(first + number, first + number) for number in range(len(rows))]
