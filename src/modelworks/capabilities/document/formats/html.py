"""HTML: what a reader of the page reads, without scripts, navigation and what is hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree, html

from modelworks.capabilities.document.archive import corrupt
from modelworks.capabilities.document.blocks import Block, Parsed, Source, Table
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES, decode, read_text

_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_DROPPED = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "math",
        "iframe",
        "object",
        "embed",
        "applet",
        "canvas",
        "audio",
        "video",
        "head",
        "link",
        "meta",
        "select",
        "option",
        "button",
        "input",
        "textarea",
        "dialog",
        "nav",
    ]
)
_BOILERPLATE_ROLES = frozenset(
    {"navigation", "banner", "contentinfo", "search", "complementary", "dialog", "alert", "menu", "menubar"}
)
_BOILERPLATE = re.compile(
    r"(?:^|[\s_-])(?:cookie|consent|breadcrumbs?|navbar|nav|navigation|menu|sidebar|site-?footer|page-?footer|footer|share|social|advert|ads?|"
    r"skip-?link|pagination|toc-?sidebar|newsletter|popup|modal)(?:$|[\s_-])",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_BLOCKS = frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "main",
        "header",
        "footer",
        "aside",
        "body",
        "html",
        "figure",
        "blockquote",
        "address",
        "details",
        "summary",
        "fieldset",
        "form",
        "dl",
        "center",
        "hgroup",
        "tbody",
        "thead",
        "tfoot",
        "tr",
        "td",
        "th",
        "caption",
    ]
)
_BLANKS = re.compile(r"\s+")
_MAX_SPAN = 200
_MAX_CELLS = 2_000_000


def read(source: Source, pages: Pages) -> Parsed:
    """The blocks of a page; its title is that of its head."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["html"])
    with source.path.open("rb") as file:
        head = file.read(4096)
    named = _CHARSET.search(head)
    text = None
    if named is not None:
        try:
            data = source.path.read_bytes()[: source.request.max_document_chars * 4]
            name = named.group(1).decode("ascii").lower()
            # What calls itself GB 2312 or Latin-1 is what browsers take it for: their supersets.
            text = data.decode({"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252"}.get(name, name))
        except (LookupError, UnicodeDecodeError):
            text = None
    if text is None:
        text = read_text(source, parsed.faults)
    root = parse_html(text)
    title = root.find(".//title")
    parsed.title = _BLANKS.sub(" ", title.text_content()).strip() or None if title is not None else None
    parsed.blocks = blocks_of_html(root)
    return parsed


def parse_html(text: str | bytes) -> Any:
    """The root of a page, however broken it is.

    Raises:
        Refused: there is nothing in it.
    """
    if isinstance(text, bytes):
        text = decode(text)[0]
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=False)
    try:
        root = html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        raise corrupt(f"it holds no page ({error})") from error
    return root


def blocks_of_html(root: Any, *, whole: bool = False) -> Iterator[Block]:
    """The blocks of a page: of its main part where it names one, else of all that is not boilerplate.

    Args:
        whole: keep navigation, headers and footers.
    """
    body = root.find(".//body")
    body = root if body is None else body
    if not whole:
        for name in ("main", "article"):
            found = body.findall(f".//{name}")
            if len(found) == 1 and len(found[0].text_content()) > 0.3 * len(body.text_content()):
                body = found[0]
                break
    blocks = list(_Walk(whole).blocks(body))
    if not whole and not blocks:
        blocks = list(_Walk(True).blocks(body))
    yield from blocks


class _Walk:
    """One way through the elements of a page; text that stands in no element of its own becomes a paragraph."""

    def __init__(self, whole: bool) -> None:
        self._whole = whole
        self._words: list[str] = []
        self._kind = "text"
        self._depth = 0
        self._out: list[Block] = []

    def blocks(self, element: Any) -> Iterator[Block]:
        self._visit(element)
        self._flush()
        yield from self._out

    def _flush(self, kind: str | None = None, level: int = 1) -> None:
        text = "".join(self._words)
        self._words = []
        lines = [_BLANKS.sub(" ", line).strip() for line in text.split("\x00")]
        said = "\n".join(line for line in lines if line)
        if said:
            kind = kind or self._kind
            at = level if kind == "heading" else max(0, self._depth - 1)
            self._out.append(Block(kind, said, level=at))  # type: ignore[arg-type]

    def _visit(self, element: Any) -> None:
        tag = element.tag
        if not isinstance(tag, str) or self._is_dropped(element, tag):
            return
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._flush()
            self._children(element)
            self._flush("heading", int(tag[1]))
        elif tag == "pre" or tag in ("listing", "xmp"):
            self._flush()
            for line_break in element.iter("br"):
                line_break.tail = "\n" + (line_break.tail or "")
            code = element.text_content()
            if code.strip():
                self._out.append(Block("code", code))
        elif tag == "table":
            self._flush()
            self._table(element)
        elif tag in ("ul", "ol", "menu", "dir"):
            self._flush()
            self._depth += 1
            for number, item in enumerate(element, 1):
                marker = f"{number}. " if tag == "ol" else "- "
                if item.tag == "li":
                    self._item(item, marker)
                else:
                    self._visit(item)
            self._depth -= 1
            self._flush()
        elif tag in ("dt", "dd", "li"):
            self._item(element, "" if tag == "dt" else "- " if tag == "li" else "")
        elif tag in ("figcaption", "caption"):
            self._flush()
            self._children(element)
            self._flush("caption")
        elif tag in _BLOCKS:
            self._flush()
            self._children(element)
            self._flush()
        elif tag == "br":
            self._words.append("\x00")
        elif tag == "hr":
            self._flush()
        else:
            self._children(element)

    def _children(self, element: Any) -> None:
        if element.text:
            self._words.append(element.text)
        for child in element:
            self._visit(child)
            if child.tail:
                self._words.append(child.tail)

    def _item(self, item: Any, marker: str) -> None:
        if self._is_dropped(item, "li"):
            return
        self._flush()
        kind, self._kind = self._kind, "list"
        start = len(self._out)
        self._children(item)
        self._flush()
        self._kind = kind
        for block in self._out[start : start + 1]:
            if block.kind == "list" and marker:
                block.text = marker + block.text

    def _is_dropped(self, element: Any, tag: str) -> bool:
        if tag in _DROPPED and not (self._whole and tag == "nav"):
            return True
        get = element.get
        if get("hidden") is not None or get("aria-hidden") == "true" or _HIDDEN.search(get("style") or ""):
            return True
        if self._whole or tag in ("body", "html", "main", "article"):
            return False
        if get("role") in _BOILERPLATE_ROLES or (
            tag == "footer" and element.getparent() is not None and element.getparent().tag != "article"
        ):
            return True
        named = f"{get('class') or ''} {get('id') or ''}"
        if tag in ("div", "ul", "ol", "section", "aside", "header", "table", "p") and _BOILERPLATE.search(named):
            # A name alone proves little: what is dropped is mostly links, or short.
            text = element.text_content()
            linked = sum(len(link.text_content()) for link in element.iter("a"))
            return linked > 0.4 * len(text.strip()) or len(text.strip()) < 200
        return False

    def _table(self, element: Any) -> None:
        caption = element.find("caption")
        rows = [row for row in element.iter("tr") if _owner(row) is element]
        cells = [[cell for cell in row if cell.tag in ("td", "th")] for row in rows]
        is_layout = element.get("role") == "presentation" or any(
            cell.find(".//table") is not None for row in cells for cell in row
        )
        if is_layout or max((len(row) for row in cells), default=0) < 2:
            self._children(element)
            self._flush()
            return
        if caption is not None:
            self._out.append(Block("caption", _said(caption)))
        grid = _grid(cells)
        num_header = 0
        for row, parts in zip(rows, cells, strict=True):
            if not parts or not (row.getparent().tag == "thead" or all(cell.tag == "th" for cell in parts)):
                break
            num_header += 1
        self._out.append(Block("table", table=Table(grid, num_header=max(1, min(num_header, 3)))))


def _owner(row: Any) -> Any:
    return next(row.iterancestors("table"), None)


def _said(element: Any) -> str:
    parts: list[str] = []
    _gather(element, parts)
    return _BLANKS.sub(" ", "".join(parts)).strip()


def _gather(element: Any, parts: list[str]) -> None:
    if not isinstance(element.tag, str) or element.tag in _DROPPED:
        return
    if element.text:
        parts.append(element.text)
    for child in element:
        if isinstance(child.tag, str) and (child.tag in _BLOCKS or child.tag in ("br", "li")):
            parts.append(" ")
        _gather(child, parts)
        if child.tail:
            parts.append(child.tail)


def _grid(cells: list[list[Any]]) -> list[list[str]]:
    """Cells by row and column; one that spans several is said in each of them."""
    grid: list[list[str]] = []
    hanging: dict[int, tuple[int, str]] = {}
    num_cells = 0
    for row in cells:
        line: list[str] = []
        todo = list(row)
        while todo or any(column >= len(line) for column in hanging):
            column = len(line)
            if column in hanging:
                left, text = hanging.pop(column)
                line.append(text)
                if left > 1:
                    hanging[column] = (left - 1, text)
                continue
            if not todo:
                line.append("")
                continue
            cell = todo.pop(0)
            text = _said(cell)
            down = _span(cell.get("rowspan"))
            for _ in range(_span(cell.get("colspan"))):
                if down > 1:
                    hanging[len(line)] = (down - 1, text)
                line.append(text)
        num_cells += len(line)
        if num_cells > _MAX_CELLS:
            break
        grid.append(line)
    width = max(map(len, grid), default=0)
    return [line + [""] * (width - len(line)) for line in grid]


def _span(given: str | None) -> int:
    return max(1, min(_MAX_SPAN, int(given))) if given and given.isdecimal() else 1
