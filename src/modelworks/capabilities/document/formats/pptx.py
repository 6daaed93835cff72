"""Presentations (ECMA-376): slides in their order, titles as headings, tables, notes; the page is the number of the slide."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from modelworks.capabilities.document.archive import SafeArchive
from modelworks.capabilities.document.blocks import Block, Box, Parsed, Source, Table
from modelworks.capabilities.document.formats.office import core_title, local, macros, relations
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES

_TITLES = frozenset({"title", "ctrTitle"})
#: Placeholders that say the same on every slide.
_RUNNING = frozenset({"dt", "ftr", "sldNum", "hdr"})
_MAX_DEPTH = 20


def read(source: Source, pages: Pages) -> Parsed:
    """All slides that are not hidden, with the notes of their speakers."""
    with SafeArchive(source) as archive:
        parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["pptx"], title=core_title(archive), faults=macros(archive))
        main = next(
            (target for kind, target in relations(archive, "_rels/.rels").values() if kind.endswith("/officeDocument")),
            "ppt/presentation.xml",
        )
        presentation = archive.xml(main)
        slides = _slides(archive, main, presentation)
        size = next((child for child in presentation if local(child) == "sldSz"), None)
        extent = (_number(size, "cx"), _number(size, "cy")) if size is not None else (0, 0)
        blocks: list[Block] = []
        for number, slide in enumerate(slides, 1):
            root = archive.xml(slide)
            if root.get("show") in ("0", "false"):
                continue
            blocks.extend(_Slide(number, extent).blocks(root))
            for kind, target in relations(archive, _relations_of(slide)).values():
                if kind.endswith("/notesSlide") and archive.has(target):
                    for block in _Slide(number, (0, 0)).blocks(archive.xml(target)):
                        if block.kind != "heading":
                            blocks.append(block)
    parsed.blocks = blocks
    parsed.num_pages = len(slides)
    if parsed.title is None:
        parsed.title = next((block.text for block in blocks if block.kind == "heading"), None)
    return parsed


def _relations_of(part: str) -> str:
    return f"{posixpath.dirname(part)}/_rels/{posixpath.basename(part)}.rels"


def _slides(archive: SafeArchive, main: str, presentation: Any) -> list[str]:
    targets = relations(archive, _relations_of(main))
    found = []
    for element in presentation.iter():
        if local(element) == "sldId":
            identity = next((value for key, value in element.attrib.items() if key.endswith("}id")), "")
            target = targets.get(identity, ("", ""))[1]
            if target and archive.has(target):
                found.append(target)
    return found


def _number(element: Any, name: str) -> int:
    value = element.get(name) or "0"
    return int(value) if value.lstrip("-").isdecimal() else 0


class _Slide:
    """The shapes of a slide: its title first, then from the top down in rows, as they are seen."""

    def __init__(self, number: int, extent: tuple[int, int]) -> None:
        self._number = number
        self._extent = extent

    def blocks(self, root: Any) -> Iterator[Block]:
        tree = next((element for element in root.iter() if local(element) == "spTree"), None)
        if tree is None:
            return
        shapes = list(self._shapes(tree, 0))
        # Reading order is that of the file but for the title: programs write shapes in the order in which they were made.
        titles = [shape for shape in shapes if _placeholder(shape) in _TITLES]
        title = " ".join(filter(None, (" ".join(_paragraphs_of(shape)) for shape in titles)))
        yield Block("heading", title, level=1, page=self._number)
        for shape in shapes:
            if shape not in titles and _placeholder(shape) not in _RUNNING:
                yield from self._shape(shape)

    def _shapes(self, parent: Any, depth: int) -> Iterator[Any]:
        for child in parent:
            name = local(child)
            if name in ("sp", "graphicFrame", "cxnSp"):
                yield child
            elif name == "grpSp" and depth < _MAX_DEPTH:
                yield from self._shapes(child, depth + 1)
            elif name == "AlternateContent" and depth < _MAX_DEPTH:
                chosen = next((each for each in child if local(each) == "Choice"), None)
                if chosen is not None:
                    yield from self._shapes(chosen, depth + 1)

    def _shape(self, shape: Any) -> Iterator[Block]:
        box = self._box(shape)
        table = next((element for element in shape.iter() if local(element) == "tbl"), None)
        if table is not None:
            rows = [_row(row) for row in table if local(row) == "tr"]
            if rows:
                width = max(map(len, rows))
                grid = [row + [""] * (width - len(row)) for row in rows]
                yield Block("table", table=Table(grid), page=self._number, box=box)
            return
        body = next((child for child in shape if local(child) == "txBody"), None)
        if body is None:
            return
        paragraphs = [child for child in body if local(child) == "p"]
        is_list = _placeholder(shape) in ("body", "", "obj") and _placeholder(shape) is not None and len(paragraphs) > 1
        for paragraph in paragraphs:
            text = _text(paragraph).strip()
            if not text:
                continue
            properties = next((child for child in paragraph if local(child) == "pPr"), None)
            level = _number(properties, "lvl") if properties is not None else 0
            marks = {local(child) for child in properties} if properties is not None else set()
            if marks & {"buChar", "buAutoNum"} or (is_list and "buNone" not in marks):
                yield Block("list", f"- {text}", level=min(8, level), page=self._number, box=box)
            else:
                yield Block("text", text, page=self._number, box=box)

    def _box(self, shape: Any) -> Box | None:
        wide, high = self._extent
        place = next((element for element in shape.iter() if local(element) == "xfrm"), None)
        if place is None or wide <= 0 or high <= 0:
            return None
        at = next((child for child in place if local(child) == "off"), None)
        size = next((child for child in place if local(child) == "ext"), None)
        if at is None or size is None:
            return None
        x, y = _number(at, "x"), _number(at, "y")
        sides = (x / wide, y / high, (x + _number(size, "cx")) / wide, (y + _number(size, "cy")) / high)
        left, top, right, bottom = (min(1.0, max(0.0, round(side, 4))) for side in sides)
        return left, top, right, bottom


def _placeholder(shape: Any) -> str | None:
    """The kind of placeholder that a shape fills; None: it is none."""
    for element in shape.iter():
        if local(element) == "ph":
            return str(element.get("type") or "")
        if local(element) == "txBody":
            break
    return None


def _row(row: Any) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if local(cell) != "tc":
            continue
        if cell.get("hMerge") in ("1", "true") and cells:
            cells.append(cells[-1])
        else:
            cells.append("\n".join(_paragraphs_of(cell)))
    return cells


def _paragraphs_of(shape: Any) -> list[str]:
    return [text for element in shape.iter() if local(element) == "p" and (text := _text(element).strip())]


def _text(paragraph: Any) -> str:
    parts = []
    for element in paragraph.iter():
        name = local(element)
        if name == "t":
            parts.append(element.text or "")
        elif name == "br":
            parts.append("\n")
        elif name == "tab":
            parts.append("\t")
    return "".join(parts)
