"""Lines of all pages made blocks: running heads left out, lines joined to paragraphs, headings told by their type."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from modelworks.capabilities.document.blocks import Block, Box, Table
from modelworks.capabilities.document.formats.pdf.tables import Item
from modelworks.capabilities.document.language import joined, weight
from modelworks.capabilities.document.pages import PageRecord
from modelworks.capabilities.document.passages import union

_ITEM = re.compile(
    r"^(?:[•·●○■□▪◦‣⁃∙➢➤✓\uf0a7\uf0b7\uf0d8]|[-–—*]\s|\(?(?:\d{1,2}|[a-z]|[ivx]{1,4})[.)）]\s|[（(]?[一二三四五六七八九十]{1,3}[)）、]|\d{1,2}[、．])\s*\S"
)
_NUMBERED = re.compile(
    r"^(\d{1,2}(?:\.\d{1,2}){0,4})\.?\s+[^\W\d_]|^第[一二三四五六七八九十百\d]{1,5}([章节条])|^(?:(?:PART|Part|ITEM|Item|Chapter|Note)\s+[\dIVX]+\b)"
)
_CAPTION = re.compile(r"^(?:Table|Figure|Fig\.|Exhibit|Chart)\s+[A-Z]?\d+|^[表图][\s\d一二三四五六七八九十]", re.IGNORECASE)
_PAGE_NUMBER = re.compile(
    r"^(?:[-–—|\s]*(?:page|p\.|第)?\s*(?:\d{1,5}|[ivxlc]{1,7})\s*(?:页|/\s*\d+|of\s+\d+|共\s*\d+\s*页)?[-–—|\s]*)$",
    re.IGNORECASE,
)
_FULL_STOP = re.compile(r"[.!?:;。！？：；…][\"'”’)\]）」』]*$")
_DIGITS = re.compile(r"\d+")
#: Parts of the page at its top and at its foot in which running heads stand.
_MARGIN = 0.13
#: On pages with fewer lines the first and the last one prove nothing.
_SOME_LINES = 8
#: A line that is the last of so many pages, but for its numbers, is their foot, whatever share of all pages they are.
_MANY_FEET = 10
_MAX_HEADING_CHARS, _MAX_HEADING_LINES = 160, 3


def assemble(records: list[PageRecord]) -> Iterator[Block]:
    """The blocks of a document in order.

    Args:
        records: of all pages, by number.
    """
    running = _running(records)
    body, leading = _body(records)
    levels = _levels(records, body)
    open_: _Paragraph | None = None
    for record in records:
        size = record.get("size") or [1.0, 1.0]
        page = int(record["page"])
        asides = [item["aside"] for item in record["items"] if "aside" in item]
        for item in record["items"]:
            if "aside" in item or (record_key(item), page) in running:
                continue
            if "rows" in item:
                if open_ is not None and not (open_.page != page and not open_.is_whole):
                    yield from open_.blocks(levels, body)
                    open_ = None
                table = Table(item["rows"], num_header=item.get("header", 1))
                yield Block("table", table=table, page=page, box=_box(item["box"], size))
                continue
            if open_ is not None and not open_.takes(item, page, leading):
                yield from open_.blocks(levels, body)
                open_ = None
            if open_ is None:
                open_ = _Paragraph(item, page, size)
            else:
                open_.add(item, page, size)
        for text in asides:
            if weight(text, 2.0) > 60:
                yield Block("text", text, page=page)
    if open_ is not None:
        yield from open_.blocks(levels, body)


def record_key(item: Item) -> str:
    """What makes two lines of different pages the same running head: their text without its numbers, and their height."""
    text = item["text"] if "text" in item else " ".join(cell for row in item["rows"] for cell in row)
    return f"{_DIGITS.sub('#', text)}@{round(item['box'][1] / 6)}"


def _box(box: list[float], size: list[float]) -> Box:
    wide, high = max(1.0, size[0]), max(1.0, size[1])
    left, top, right, bottom = (
        min(1.0, max(0.0, round(value, 4))) for value in (box[0] / wide, box[1] / high, box[2] / wide, box[3] / high)
    )
    return left, top, right, bottom


def _running(records: list[PageRecord]) -> set[tuple[str, int]]:
    """Heads, feet and page numbers, as key and page."""
    seen: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    #: Pages by whether a line is their first (0) or last (-1), and its words.
    ends: defaultdict[tuple[int, str], set[int]] = defaultdict(set)
    numbers: set[tuple[str, int]] = set()
    for record in records:
        high = (record.get("size") or [1.0, 1.0])[1]
        lines = [item for item in record["items"] if "text" in item and not item.get("plain")]
        # On pages of unlike lengths heads and feet stand at no fixed height, but first and last.
        for at in (0, -1) if len(lines) >= _SOME_LINES else ():
            ends[at, record_key(lines[at]).rpartition("@")[0]].add(int(record["page"]))
        for item in record["items"]:
            if "aside" in item or item.get("plain"):
                continue
            top, bottom = item["box"][1] / high, item["box"][3] / high
            if bottom > _MARGIN and top < 1 - _MARGIN:
                continue
            if "rows" in item and len(item["rows"]) > 2:
                continue
            key = record_key(item)
            if "text" in item and _PAGE_NUMBER.match(item["text"]) and (bottom < 0.08 or top > 0.9):
                numbers.add((key, int(record["page"])))
            # Heights vary by a point between left and right pages: neighbours are counted together.
            words, _, place = key.rpartition("@")
            for near in (-1, 0, 1):
                seen[f"{words}@{int(place) + near}"].append((key, int(record["page"])))
    least = 3 if len(records) > 3 else 2
    repeated = {
        each
        for found in seen.values()
        if len({page for _, page in found}) >= max(least, min(6, 0.3 * len(records)))
        for each in found
    }
    most = max(least, 0.4 * len(records))
    # Chapters begin alike, up to their number; what ends many pages belongs to none of them.
    proved = {end for end, pages in ends.items() if len(pages) >= (most if end[0] == 0 else min(most, _MANY_FEET))}
    for record in records:
        lines = [item for item in record["items"] if "text" in item and not item.get("plain")]
        # What is known for a head or a foot is one on short pages, too.
        for at in (0, -1) if lines else ():
            key = record_key(lines[at])
            if (at, key.rpartition("@")[0]) in proved:
                repeated.add((key, int(record["page"])))
    return numbers | repeated


def _body(records: list[PageRecord]) -> tuple[float, float]:
    """The size of most characters, and the usual distance of lines as a multiple of it."""
    sizes: Counter[float] = Counter()
    distances: Counter[float] = Counter()
    for record in records:
        above: Item | None = None
        for item in record["items"]:
            if "text" not in item:
                above = None
                continue
            sizes[round(item["size"] * 2) / 2] += len(item["text"])
            if above is not None and abs(above["size"] - item["size"]) < 0.6:
                distance = (item["box"][3] - above["box"][3]) / max(1.0, item["size"])
                if 0.6 < distance < 3:
                    distances[round(distance * 20) / 20] += 1
            above = item
    # Of distances that are nearly as common, the smallest is that of lines, the others those of paragraphs.
    common = [value for value, count in distances.items() if count >= 0.5 * max(distances.values())]
    return (sizes.most_common(1)[0][0] if sizes else 10.0), (min(common) if common else 1.2)


def _levels(records: list[PageRecord], body: float) -> dict[float, int]:
    """The level of a heading by its size: the larger, the higher."""
    sizes: Counter[float] = Counter()
    for record in records:
        for item in record["items"]:
            if (
                "text" in item
                and not item.get("plain")
                and item["size"] > 1.12 * body
                and len(item["text"]) < _MAX_HEADING_CHARS
            ):
                sizes[round(item["size"])] += 1
    ordered = sorted(sizes, reverse=True)
    return {size: min(6, number) for number, size in enumerate(ordered, 1)}


class _Paragraph:
    """Lines that belong together."""

    def __init__(self, item: Item, page: int, size: list[float]) -> None:
        self.page = page
        self._last_page = page
        self._last = item
        self._first = item
        self._box = _box(item["box"], size)
        self._is_item = bool(_ITEM.match(item["text"]))
        self._num_lines = 1
        self._text = str(item["text"])

    @property
    def is_whole(self) -> bool:
        """Whether it ends as a paragraph does."""
        return bool(_FULL_STOP.search(self._text)) or weight(self._text, 2.0) < 50

    def takes(self, item: Item, page: int, leading: float) -> bool:
        """Whether the next line goes on with this paragraph."""
        last, text = self._last, str(item["text"])
        if last.get("plain") or item.get("plain"):
            return (
                bool(last.get("plain") and item.get("plain")) and not _FULL_STOP.search(last["text"]) and not _ITEM.match(text)
            )
        if abs(item["size"] - last["size"]) > 0.12 * max(item["size"], last["size"]) and len(text) > 3:
            return False
        if bool(item.get("bold")) != bool(last.get("bold")) and (self._num_lines == 1 or item.get("bold")):
            return False
        if _ITEM.match(text) or (_CAPTION.match(text) and last.get("bold") != item.get("bold")):
            return False
        column, left, right = item["column"]
        wide = max(1.0, right - left)
        if page != self._last_page or column != last["column"][0]:
            # The next column or page goes on with a sentence that did not end.
            goes_on = not self.is_whole and not _CAPTION.match(text)
            return goes_on and (
                last.get("parted") or not text[:1].isupper() or last["box"][2] > last["column"][2] - 0.06 * wide
            )
        size = max(1.0, item["size"])
        distance = (item["box"][3] - last["box"][3]) / size
        # A line that fills its column and ends no sentence goes on, however wide the lines are set.
        fills = last["box"][2] > last["column"][2] - 2 * size and item["box"][0] < left + 1.5 * size
        limit = 2.1 if fills and not _FULL_STOP.search(last["text"]) else max(1.28 * leading, leading + 0.25)
        if distance < 0.3 or distance > limit:
            return False
        if last.get("parted"):
            return True
        ends_short = last["box"][2] < last["column"][2] - 0.22 * wide
        if ends_short and (_FULL_STOP.search(self._text) or last["box"][2] < left + 0.6 * wide):
            return False
        indent = item["box"][0] - last["box"][0]
        if not self._is_item and indent > 0.9 * size and self._num_lines > 1 and _FULL_STOP.search(self._text):
            return False
        return not (
            self._is_item and indent < -2.5 * size and item["box"][0] <= left + 0.5 * size and _FULL_STOP.search(self._text)
        )

    def add(self, item: Item, page: int, size: list[float]) -> None:
        """Take a line."""
        text = str(item["text"])
        before = self._text
        if self._last.get("parted") and text[:1].islower():
            self._text = before.rstrip("-\u2010") + text
        elif before.endswith(("-", "\u2010")) and len(before) > 2 and before[-2].islower() and text[:1].islower():
            # A compound that has a hyphen already keeps the second one too.
            is_compound = "-" in before[:-1].rpartition(" ")[2]
            self._text = (before if is_compound else before[:-1]) + text
        else:
            self._text = joined(before, text)
        if page == self.page:
            self._box = union(self._box, _box(item["box"], size))
        self._num_lines += 1
        self._last, self._last_page = item, page

    def blocks(self, levels: dict[float, int], body: float) -> Iterator[Block]:
        """The paragraph as a block."""
        text, kind, level = self._text.strip(), "text", 1
        heading = self._heading(text, levels, body)
        if heading is not None:
            kind, level = "heading", heading
        elif self._is_item:
            kind, level = "list", 0
        elif _CAPTION.match(text) and weight(text, 2.0) < 400:
            kind = "caption"
        yield Block(kind, text, level=level, page=self.page, box=self._box)  # type: ignore[arg-type]

    def _is_short(self) -> bool:
        column = self._first["column"]
        return bool(self._first["box"][2] < column[1] + 0.6 * (column[2] - column[1])) and "..." not in self._text

    def _heading(self, text: str, levels: dict[float, int], body: float) -> int | None:
        if self._num_lines > _MAX_HEADING_LINES or weight(text, 2.0) > _MAX_HEADING_CHARS or not any(map(str.isalpha, text)):
            return None
        if self._first.get("plain") or text[-1] in ",;，；、。" or _CAPTION.match(text):
            return None
        if self._is_item and not _NUMBERED.match(text):
            return None
        size = float(self._first["size"])
        numbered = _NUMBERED.match(text)
        is_large, is_bold = size > 1.12 * body, bool(self._first.get("bold"))
        is_deep = numbered is not None and "." in (numbered.group(1) or "")
        if numbered and is_deep and self._num_lines == 1 and self._is_short() and text[-1] not in ".:：":
            return min(6, 1 + numbered.group(1).count("."))
        if not is_large and not is_bold and not (numbered and numbered.group(2)):
            return None
        if not is_large and ((text[-1] in ".:：" and not numbered) or len(text) < 2):
            return None
        if numbered is not None and numbered.group(1):
            return min(
                6, 1 + numbered.group(1).count(".") + (1 if 1 in levels.values() and size < max(levels, default=0) else 0)
            )
        return levels.get(round(size), len(levels) + 1) if is_large else min(6, len(levels) + 1)
