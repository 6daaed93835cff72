"""A document in Markdown's manner as sections, passages and sentences, without the marks."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Part of the letters of a text in Chinese that are Chinese characters.
_FEWEST_CHINESE = 0.3
_FENCE = re.compile(r"^\s*(```|~~~)")
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
#: A prompt of the administrator in front of a command looks like a heading.
_COMMAND = re.compile(r"^[a-z./$~<][\w./+~-]*( |$)")
#: Numbers of chapters.
_NUMBER = re.compile(r"^(第 ?[\d一二三四五六七八九十]+ ?[章节部]|[A-Z]?\d*(\.\d+)+\.?|\d+\.)\s+")
#: The section of a manual page that says what it is about.
_NAMES = frozenset({"NAME", "名称", "名字"})
_LONGEST_TITLE = 160
_TITLE = re.compile(r"\A---\n(?:.*\n)*?title:\s*(.+?)\s*\n(?:.*\n)*?---\n")
_FRONT = re.compile(r"\A---\n(?:.*\n)*?---\n")
_MARKS = (
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"</?[A-Za-z][^<>]*>"), ""),
    (re.compile(r"[`*|]+|^[-=>+]+\s|^\s*\d+\.\s(?=\D)"), ""),
    (re.compile(r"https?://\S+"), ""),
)
_ENDS = re.compile(r"(?<=[。！？!?])(?=[^”’」』）)])|(?<=[.!?;:])\s+(?=[\"'(A-Z])")


@dataclass(frozen=True, slots=True)
class Section:
    """What stands between two headings, and the headings above it, the document's title first."""

    headings: tuple[str, ...]
    text: str


def is_chinese(text: str) -> bool:
    """Whether it is in Chinese: names of commands in it are not."""
    letters = sum(char.isalpha() for char in text)
    return sum("\u4e00" <= char <= "\u9fff" for char in text) > _FEWEST_CHINESE * max(1, letters)


def sections(text: str) -> Iterator[Section]:
    """The sections of a document in their order, also those without text of their own."""
    above: dict[int, str] = {}
    if (title := _TITLE.match(text)) is not None:
        above[0] = plain(title[1].strip("\"'"))
    text = _FRONT.sub("", text)
    lines: list[str] = []
    fenced = False

    def done() -> Section:
        return Section(tuple(above[level] for level in sorted(above)), _joined(lines))

    for line in text.split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
            continue
        heading = None if fenced else _HEADING.match(line)
        if heading is None or (len(heading[1]) == 1 and _COMMAND.match(heading[2])):
            lines.append(line)
            continue
        if above or any(lines):
            section = done()
            yield section
            if section.headings and section.headings[-1] in _NAMES and len(section.text) < _LONGEST_TITLE:
                above[0] = section.text
        lines = []
        level = len(heading[1])
        above = {each: said for each, said in above.items() if each < level}
        above[level] = _NUMBER.sub("", plain(heading[2]))
    yield done()


def plain(line: str) -> str:
    """A line without the marks of Markdown, links and tags."""
    for mark, instead in _MARKS:
        line = mark.sub(instead, line)
    return " ".join(line.split())


def _joined(lines: list[str]) -> str:
    """Lines as one text; between Chinese characters there are no spaces."""
    said = " ".join(filter(None, map(plain, lines)))
    return re.sub(r"(?<=[\u3000-\u9fff，。；：！？]) (?=[\u3000-\u9fff])", "", said)


def sentences(text: str) -> list[str]:
    """The sentences of a text; never empty for a text that is not."""
    return [said for said in (each.strip() for each in _ENDS.split(text)) if said]


def passages(text: str, shortest: int, longest: int, draw: random.Random) -> Iterator[str]:
    """Runs of whole sentences, each up to a length that is drawn between a third of `longest` and all of it.

    What is shorter than `shortest` goes to the passage before, or away. A sentence that is too long is cut.
    """
    found: list[str] = []
    part: list[str] = []
    size = 0
    room = draw.randint(longest // 3, longest)
    glue = "" if is_chinese(text) else " "
    for said in sentences(text):
        for start in range(0, len(said), longest):
            piece = said[start : start + longest]
            if part and size + len(piece) > room:
                found.append(glue.join(part))
                part, size, room = [], 0, draw.randint(longest // 3, longest)
            part.append(piece)
            size += len(piece)
    rest = glue.join(part)
    if rest and len(rest) < shortest and found:
        found[-1] += glue + rest
    elif len(rest) >= shortest:
        found.append(rest)
    yield from (each for each in found if len(each) >= shortest)
