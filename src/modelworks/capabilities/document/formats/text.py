"""Plain text and source code: places are lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelworks.capabilities.document.blocks import Block, Parsed, Source
from modelworks.capabilities.document.language import joined
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES, read_text

_ITEM = re.compile(r"\s*(?:[-*•·▪‣]|\(?(?:\d{1,3}|[a-zA-Z])[.)）、])\s+\S")
_UNDERLINE = re.compile(r"\s*([=\-~#*^])\1{2,}\s*$")
_CHAPTER = re.compile(
    r"\s*(?:第[一二三四五六七八九十百零〇\d]{1,6}[章节篇回卷部]|(?:Chapter|Part|Section)\s+[\dIVXLC]+\b|\d{1,2}(?:\.\d{1,2})+\s+\S)"
)
_DEFINITION = re.compile(
    r"\s{0,4}(?:export\s+|public\s+|private\s+|protected\s+|static\s+|async\s+|pub(?:\([a-z]+\))?\s+|final\s+|abstract\s+)*"
    r"(?:def|class|func|function|fn|struct|enum|impl|trait|interface|module|namespace|object|record|CREATE\s+\w+)\s+(\w+)",
    re.IGNORECASE,
)
_MAX_HEADING = 80


def read(source: Source, pages: Pages) -> Parsed:
    """Paragraphs are what blank lines part; hard line breaks inside them are mended where lines are of like length."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["text"])
    parsed.blocks = blocks_of_text(read_text(source, parsed.faults))
    return parsed


def read_code(source: Source, pages: Pages) -> Parsed:
    """Code in pieces that begin at functions and classes, whose names are its headings."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["code"])
    parsed.blocks = _code(read_text(source, parsed.faults))
    return parsed


def blocks_of_text(text: str, first_line: int = 1) -> Iterator[Block]:
    """The paragraphs, headings and items of a plain text."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").split("\n")
    start = 0
    for end in range(len(lines) + 1):
        if end < len(lines) and lines[end].strip():
            continue
        if end > start:
            yield from _paragraph(lines[start:end], first_line + start)
        start = end + 1


def _paragraph(lines: list[str], first: int) -> Iterator[Block]:
    if len(lines) == 2 and _UNDERLINE.match(lines[1]) and len(lines[0].strip()) <= _MAX_HEADING:
        yield Block("heading", lines[0], level=1 if "=" in lines[1] else 2, lines=(first, first + 1))
        return
    if (
        len(lines) == 1
        and len(lines[0].strip()) <= _MAX_HEADING
        and _CHAPTER.match(lines[0])
        and lines[0].strip()[-1] not in "。.；;，,"
    ):
        yield Block("heading", lines[0], level=1 + lines[0].split()[0].count("."), lines=(first, first))
        return
    longest = max(len(line) for line in lines)
    held, since, kind, indent = "", first, "text", 0
    for number, line in enumerate(lines, first):
        is_item = bool(_ITEM.match(line))
        # A line that was wrapped is about as long as the longest; one that was meant to end is not.
        before = lines[number - first - 1] if number > first else ""
        wraps = bool(held) and not is_item and longest > 40 and len(before) > 0.6 * longest
        if held and not wraps:
            yield Block("list" if kind == "list" else "text", held, level=indent, lines=(since, number - 1))
            held = ""
        if not held:
            held, since, kind = line.strip(), number, "list" if is_item else "text"
            indent = (len(line) - len(line.lstrip())) // 2 if is_item else 0
        else:
            held = joined(held, line.strip())
    yield Block("list" if kind == "list" else "text", held, level=indent, lines=(since, first + len(lines) - 1))


def _code(text: str) -> Iterator[Block]:
    lines = text.replace("\r\n", "\n").split("\n")
    start, name = 0, ""
    for number, line in enumerate([*lines, None]):
        found = None if line is None else _DEFINITION.match(line)
        is_top = found is not None and line is not None and not line[:1].isspace()
        if line is not None and not is_top:
            continue
        begin = number
        while begin > start and line is not None and lines[begin - 1].strip() and lines[begin - 1].lstrip()[:1] in "#/@*[":
            begin -= 1  # decorators and comments belong to what follows them
        if any(each.strip() for each in lines[start:begin]):
            if name:
                yield Block("heading", name, level=1, lines=(start + 1, start + 1))
            yield Block("code", "\n".join(lines[start:begin]), lines=(start + 1, begin))
        start, name = begin, found.group(1) if found is not None else ""
