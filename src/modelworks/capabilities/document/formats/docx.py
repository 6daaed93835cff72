"""Word documents (ECMA-376, transitional and strict): paragraphs by their styles, lists, tables, text boxes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from modelworks.capabilities.document.archive import SafeArchive, corrupt
from modelworks.capabilities.document.blocks import Block, Parsed, Source, Table
from modelworks.capabilities.document.formats.office import core_title, local, macros, relations
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES

_HEADING = re.compile(r"^(?:heading|标题|Überschrift|titre)\s*([1-9])$", re.IGNORECASE)
_CODE_STYLE = re.compile(r"code|verbatim|source|preformatted|macro", re.IGNORECASE)
_MAX_NESTING = 8


def read(source: Source, pages: Pages) -> Parsed:
    """The body in its order, then foot- and endnotes; headers and footers of pages are left out."""
    with SafeArchive(source) as archive:
        main = _main_part(archive)
        folder = posixpath.dirname(main)
        parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["docx"], title=core_title(archive), faults=macros(archive))
        styles = _Styles(archive, f"{folder}/styles.xml", f"{folder}/numbering.xml")
        body = next((child for child in archive.xml(main) if local(child) == "body"), None)
        if body is None:
            raise corrupt("it has no body")
        blocks = list(_Body(styles).blocks(body))
        for notes in ("footnotes.xml", "endnotes.xml"):
            if archive.has(f"{folder}/{notes}"):
                for note in archive.xml(f"{folder}/{notes}"):
                    if local(note) in ("footnote", "endnote") and _attribute(note, "type") is None:
                        blocks.extend(_Body(styles).blocks(note))
    parsed.blocks = blocks
    if parsed.title is None:
        parsed.title = next((block.text for block in blocks if block.kind == "heading"), None)
    return parsed


def _main_part(archive: SafeArchive) -> str:
    for kind, target in relations(archive, "_rels/.rels").values():
        if kind.endswith("/officeDocument"):
            return target.lstrip("/")
    return "word/document.xml"


def _attribute(element: Any, name: str) -> str | None:
    """The attribute of that local name, whichever of the two namespaces it is in."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return None


def _child(element: Any, *names: str) -> Any | None:
    """The element down a path of local names."""
    for name in names:
        if element is None:
            return None
        element = next((child for child in element if local(child) == name), None)
    return element


def _value(element: Any, *names: str) -> str | None:
    found = _child(element, *names)
    return None if found is None else _attribute(found, "val")


class _Styles:
    """What names of styles and numbers of lists mean."""

    def __init__(self, archive: SafeArchive, styles: str, numbering: str) -> None:
        self._styles: dict[str, Any] = {}
        self._numbers: dict[str, str] = {}
        self._formats: dict[tuple[str, str], str] = {}
        if archive.has(styles):
            for style in archive.xml(styles):
                identity = _attribute(style, "styleId")
                if local(style) == "style" and identity:
                    self._styles[identity] = style
        if archive.has(numbering):
            for element in archive.xml(numbering):
                if local(element) == "num":
                    self._numbers[_attribute(element, "numId") or ""] = _value(element, "abstractNumId") or ""
                elif local(element) == "abstractNum":
                    for level in element:
                        if local(level) == "lvl":
                            key = (_attribute(element, "abstractNumId") or "", _attribute(level, "ilvl") or "0")
                            self._formats[key] = _value(level, "numFmt") or "bullet"

    def heading(self, paragraph: Any) -> int | None:
        """The level of a heading, from 1; None: it is none."""
        properties = _child(paragraph, "pPr")
        level = _value(properties, "outlineLvl")
        if level is not None and level.isdecimal() and int(level) < 9:
            return int(level) + 1
        for style in self._chain(properties):
            name = (_value(style, "name") or "").strip()
            found = _HEADING.match(name)
            if found is not None:
                return int(found.group(1))
            if name.lower() in ("title", "标题"):
                return 1
            if name.lower() in ("subtitle", "副标题"):
                return 2
            level = _value(style, "pPr", "outlineLvl")
            if level is not None and level.isdecimal() and int(level) < 9:
                return int(level) + 1
        return None

    def is_code(self, paragraph: Any) -> bool:
        names = [_value(style, "name") or "" for style in self._chain(_child(paragraph, "pPr"))]
        return any(_CODE_STYLE.search(name) for name in names[:1])

    def is_caption(self, paragraph: Any) -> bool:
        return any(
            (_value(style, "name") or "").lower() in ("caption", "题注") for style in self._chain(_child(paragraph, "pPr"))
        )

    def item(self, paragraph: Any) -> tuple[str, int, str] | None:
        """Number of the list, depth from 0 and format of an item; None: it is none."""
        properties = _child(paragraph, "pPr")
        places = [properties, *(_child(style, "pPr") for style in self._chain(properties))]
        number = next((found for place in places if (found := _value(place, "numPr", "numId")) is not None), None)
        if number is None or number == "0":
            return None
        depth = next((found for place in places if (found := _value(place, "numPr", "ilvl")) is not None), "0")
        kind = self._formats.get((self._numbers.get(number, ""), depth), "bullet")
        return number, int(depth) if depth.isdecimal() else 0, kind

    def _chain(self, properties: Any | None) -> Iterator[Any]:
        identity = _value(properties, "pStyle")
        for _ in range(12):
            style = self._styles.get(identity or "")
            if style is None:
                return
            yield style
            identity = _value(style, "basedOn")


class _Body:
    """A walk through a body, a cell or a text box."""

    def __init__(self, styles: _Styles, nesting: int = 0) -> None:
        self._styles = styles
        self._nesting = nesting
        self._counts: dict[tuple[str, int], int] = {}

    def blocks(self, parent: Any) -> Iterator[Block]:
        """The blocks of all children, those inside content controls and accepted changes too."""
        code: list[str] = []
        for element in self._elements(parent):
            name = local(element)
            if name == "p" and self._styles.is_code(element):
                code.append(_text(element))
                continue
            if code:
                yield Block("code", "\n".join(code))
                code = []
            if name == "p":
                yield from self._paragraph(element)
            elif name == "tbl":
                yield from self._table(element)
        if code:
            yield Block("code", "\n".join(code))

    def _elements(self, parent: Any) -> Iterator[Any]:
        for child in parent:
            name = local(child)
            if name in ("p", "tbl"):
                yield child
            elif name in ("sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag", "txbxContent"):
                yield from self._elements(child)
            elif name == "AlternateContent":
                chosen = _child(child, "Choice")
                yield from self._elements(chosen if chosen is not None else child)

    def _paragraph(self, paragraph: Any) -> Iterator[Block]:
        text = _text(paragraph).strip()
        if text:
            level = self._styles.heading(paragraph)
            item = self._styles.item(paragraph)
            if level is not None:
                yield Block("heading", text, level=level)
            elif item is not None:
                yield Block("list", f"{self._marker(*item)} {text}", level=item[1])
            elif self._styles.is_caption(paragraph):
                yield Block("caption", text)
            else:
                yield Block("text", text)
        if self._nesting < _MAX_NESTING:
            for box in _boxes(paragraph):
                yield from _Body(self._styles, self._nesting + 1).blocks(box)

    def _marker(self, number: str, depth: int, kind: str) -> str:
        for key in [key for key in self._counts if key[0] == number and key[1] > depth]:
            del self._counts[key]
        count = self._counts[number, depth] = self._counts.get((number, depth), 0) + 1
        return "-" if kind in ("bullet", "none") else f"{count}."

    def _table(self, table: Any) -> Iterator[Block]:
        rows: list[list[str]] = []
        header = 0
        above: list[str] = []
        lone: list[Any] = []
        for row in self._rows(table):
            line: list[str] = []
            before = _value(row, "trPr", "gridBefore")
            line.extend([""] * min(50, int(before)) if before and before.isdecimal() else [])
            for cell in self._cells(row):
                lone.append(cell)
                merged = _child(cell, "tcPr", "vMerge")
                follows = merged is not None and _attribute(merged, "val") != "restart"
                text = above[len(line)] if follows and len(line) < len(above) else self._said(cell)
                span = _value(cell, "tcPr", "gridSpan")
                line.extend([text] * (min(200, int(span)) if span and span.isdecimal() and int(span) else 1))
            if _child(row, "trPr", "tblHeader") is not None and header == len(rows):
                header += 1
            rows.append(line)
            above = line
        if len(lone) == 1 and self._nesting < _MAX_NESTING:
            # A table of one cell is a frame around text.
            yield from _Body(self._styles, self._nesting + 1).blocks(lone[0])
        elif rows:
            width = max(map(len, rows))
            yield Block(
                "table", table=Table([row + [""] * (width - len(row)) for row in rows], num_header=max(1, min(header, 3)))
            )

    def _rows(self, table: Any) -> Iterator[Any]:
        for child in table:
            if local(child) == "tr":
                yield child
            elif local(child) in ("sdt", "sdtContent", "customXml", "ins"):
                yield from self._rows(child)

    def _cells(self, row: Any) -> Iterator[Any]:
        for child in row:
            if local(child) == "tc":
                yield child
            elif local(child) in ("sdt", "sdtContent", "customXml"):
                yield from self._cells(child)

    def _said(self, cell: Any) -> str:
        if self._nesting >= _MAX_NESTING:
            return ""
        parts: list[str] = []
        for block in _Body(self._styles, self._nesting + 1).blocks(cell):
            if block.table is not None:
                parts.extend("; ".join(filter(None, row)) for row in block.table.rows)
            else:
                parts.append(block.text)
        return "\n".join(part for part in parts if part)


def _boxes(paragraph: Any) -> Iterator[Any]:
    """Text boxes anchored in a paragraph, each once: Word writes them in two forms."""
    for element in paragraph.iter():
        if local(element) != "txbxContent":
            continue
        ancestors = []
        for ancestor in element.iterancestors():
            if ancestor is paragraph:
                break
            ancestors.append(local(ancestor))
        if "txbxContent" not in ancestors and "Fallback" not in ancestors:
            yield element


def _text(paragraph: Any) -> str:
    parts: list[str] = []
    _gather(paragraph, parts)
    return "".join(parts)


def _gather(element: Any, parts: list[str]) -> None:
    for child in element:
        name = local(child)
        if name == "t":
            parts.append(child.text or "")
        elif name in ("tab", "ptab"):
            parts.append("\t")
        elif name in ("br", "cr"):
            parts.append("\n")
        elif name == "noBreakHyphen":
            parts.append("-")
        elif (
            name == "sym"
            or name
            in ("pPr", "rPr", "del", "moveFrom", "txbxContent", "Fallback", "instrText", "delText", "drawing", "pict", "object")
            or name == "checkBox"
            or name == "checkbox"
        ):
            continue
        else:
            _gather(child, parts)
