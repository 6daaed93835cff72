"""OpenDocument (ISO/IEC 26300): text, presentations and sheets, all of one body of XML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelworks.capabilities.document.archive import SafeArchive, corrupt
from modelworks.capabilities.document.blocks import Block, Parsed, Refused, Source, Table
from modelworks.capabilities.document.formats.office import local
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES
from modelworks.contract.passages import Fault

_MAX_REPEAT = 1_000
_MAX_ROWS = 200_000
_LEFT_OUT = frozenset(
    {"tracked-changes", "forms", "sequence-decls", "annotation", "bookmark", "notes-configuration", "table-of-content"}
)


def read_text(source: Source, pages: Pages) -> Parsed:
    """The body of a text."""
    return _read(source, "odt")


def read_slides(source: Source, pages: Pages) -> Parsed:
    """The slides of a presentation; the page is the number of the slide."""
    return _read(source, "odp")


def read_sheets(source: Source, pages: Pages) -> Parsed:
    """The sheets of a workbook, each cell with its place."""
    return _read(source, "ods")


def _read(source: Source, form: str) -> Parsed:
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES[form])
    with SafeArchive(source) as archive:
        if archive.has("META-INF/manifest.xml") and b"encryption-data" in archive.read("META-INF/manifest.xml"):
            raise Refused("encrypted", "The document is protected by a password.", "Save it without the password.")
        root = archive.xml("content.xml")
        if archive.has("meta.xml"):
            parsed.title = next(
                (str(each.text).strip() for each in archive.xml("meta.xml").iter() if local(each) == "title" and each.text),
                None,
            )
        if any(name.startswith(("Basic/", "Scripts/")) for name in archive.names):
            parsed.faults.append(
                Fault(
                    code="macros_ignored", message="The document carries macros. They were neither run nor read; its text was."
                )
            )
    body = next((element for element in root.iter() if local(element) == "body"), None)
    if body is None:
        raise corrupt("it has no body")
    blocks = list(_walk(body, None, 0))
    parsed.blocks = blocks
    if form == "odp":
        parsed.num_pages = sum(local(element) == "page" for element in body.iter())
    return parsed


def _walk(parent: Any, page: int | None, depth: int) -> Iterator[Block]:
    number = 0
    for element in parent:
        name = local(element)
        if name in _LEFT_OUT:
            continue
        if name == "h":
            text = _text(element).strip()
            level = _attribute(element, "outline-level") or "1"
            if text:
                yield Block("heading", text, level=int(level) if level.isdecimal() else 1, page=page)
        elif name == "p":
            # Frames (text boxes, pictures with words) are anchored inside of paragraphs.
            text = _text(element).strip()
            if text:
                yield Block("text", text, page=page)
            for frame in element.iter():
                if local(frame) == "text-box" and depth < 8:
                    yield from _walk(frame, page, depth + 1)
        elif name == "list":
            yield from _items(element, page, 0)
        elif name == "table":
            yield from _table(element, page)
        elif name == "page":
            number += 1
            title = next((each for each in element.iter() if _attribute(each, "class") == "title"), None)
            said = [] if title is None else [_text(each).strip() for each in title.iter() if local(each) == "p"]
            yield Block("heading", " ".join(filter(None, said)), page=number)
            for child in element:
                if child is not title and local(child) in ("frame", "notes", "g", "custom-shape"):
                    yield from _walk(child, number, depth + 1)
        elif local(element) and depth < 60:
            yield from _walk(element, page, depth + 1)


def _items(parent: Any, page: int | None, level: int) -> Iterator[Block]:
    for item in parent:
        if local(item) not in ("list-item", "list-header"):
            continue
        is_first = True
        for child in item:
            name = local(child)
            if name in ("p", "h"):
                if text := _text(child).strip():
                    yield Block("list", f"- {text}" if is_first else text, level=min(8, level), page=page)
                    is_first = False
            elif name == "list" and level < 20:
                yield from _items(child, page, level + 1)


def _table(table: Any, page: int | None) -> Iterator[Block]:
    rows: list[list[str]] = []
    numbers: list[int] = []
    number = 0
    for row in table.iter():
        if local(row) != "table-row" or next(each for each in row.iterancestors() if local(each) == "table") is not table:
            continue
        cells = _cells(row)
        repeat = _repeat(row, "number-rows-repeated")
        if any(cells):
            for _ in range(min(repeat, _MAX_REPEAT)):
                number += 1
                rows.append(cells)
                numbers.append(number)
        else:
            number += repeat
        if len(rows) > _MAX_ROWS:
            break
    if not rows:
        return
    width = max(map(len, rows))
    grid = [row + [""] * (width - len(row)) for row in rows]
    name = _attribute(table, "name")
    is_sheet = local(table.getparent()) == "spreadsheet"
    if is_sheet and name:
        yield Block("heading", name, level=1)
    marks = [(each, each) for each in numbers] if is_sheet else None
    yield Block("table", table=Table(grid, marks=marks, sheet=name if is_sheet else None), page=page)


def _cells(row: Any) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if local(cell) not in ("table-cell", "covered-table-cell"):
            continue
        text = "\n".join(filter(None, (_text(each).strip() for each in cell.iter() if local(each) in ("p", "h"))))
        cells.extend([text] * min(_repeat(cell, "number-columns-repeated"), _MAX_REPEAT if not text else 200))
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _repeat(element: Any, name: str) -> int:
    value = _attribute(element, name) or "1"
    return int(value) if value.isdecimal() else 1


def _attribute(element: Any, name: str) -> str | None:
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return None


def _text(element: Any) -> str:
    parts = [element.text or ""]
    for child in element:
        name = local(child)
        if name == "s":
            count = _attribute(child, "c") or "1"
            parts.append(" " * (min(200, int(count)) if count.isdecimal() else 1))
        elif name == "tab":
            parts.append("\t")
        elif name == "line-break":
            parts.append("\n")
        elif name == "note":
            parts.append(" (" + " ".join(_text(each).strip() for each in child.iter() if local(each) == "p") + ")")
        elif name not in ("frame", "annotation", "bookmark", "change", "text-box"):
            parts.append(_text(child))
        parts.append(child.tail or "")
    return "".join(parts)
