"""Markdown (CommonMark with tables): places are lines."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from modelworks.capabilities.document.blocks import Block, Parsed, Source, Table
from modelworks.capabilities.document.language import joined
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES, read_text

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


def read(source: Source, pages: Pages) -> Parsed:
    """Headings, paragraphs, items, code and tables; front matter gives the title, tags of HTML are dropped."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["markdown"])
    text = read_text(source, parsed.faults).replace("\r\n", "\n")
    front = _FRONT_MATTER.match(text)
    if front is not None:
        title = _TITLE.search(front.group(1))
        parsed.title = title.group(2) if title is not None else None
        # As many lines as before: places stay right.
        text = "\n" * front.group(0).count("\n") + text[front.end() :]
    parsed.blocks = blocks_of_markdown(text)
    return parsed


def blocks_of_markdown(text: str) -> Iterator[Block]:
    """The blocks of a piece of Markdown, each with its lines."""
    tokens = MarkdownIt("commonmark", {"maxNesting": 30}).enable("table").parse(text)
    depth, table, in_head = 0, Table([], num_header=0), False
    span: tuple[int, int] | None = None
    for index, token in enumerate(tokens):
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                depth += 1
            case "bullet_list_close" | "ordered_list_close":
                depth -= 1
            case "heading_open":
                yield Block("heading", _plain(tokens[index + 1]), level=int(token.tag[1:]), lines=_lines(token))
            case "paragraph_open":
                said = _plain(tokens[index + 1])
                if said.strip():
                    marker = _marker(tokens, index) if depth else None
                    text_of_item = f"{marker} {said}" if marker else said
                    yield Block("list" if depth else "text", text_of_item, level=max(0, depth - 1), lines=_lines(token))
            case "fence" | "code_block":
                yield Block("code", token.content, lines=_lines(token))
            case "html_block":
                said = _TAG.sub(" ", _COMMENT.sub("", token.content)).strip()
                if said:
                    yield Block("text", said, lines=_lines(token))
            case "table_open":
                table, span = Table([], num_header=0, marks=[]), _lines(token)
            case "thead_open":
                in_head = True
            case "thead_close":
                in_head = False
            case "tr_open":
                table.rows.append([])
                table.num_header += in_head
                line = _lines(token) or span or (1, 1)
                assert table.marks is not None  # noqa: S101 - made with marks above
                table.marks.append(line)
            case "inline" if tokens[index - 1].type in ("th_open", "td_open"):
                table.rows[-1].append(_plain(token))
            case "table_close":
                yield Block("table", table=table, lines=span)


def _lines(token: Token) -> tuple[int, int] | None:
    return None if token.map is None else (token.map[0] + 1, token.map[1])


def _marker(tokens: Sequence[Token], index: int) -> str | None:
    """The bullet or number, for the first paragraph of an item."""
    before = tokens[index - 1]
    if before.type != "list_item_open":
        return None
    return f"{before.info}{before.markup}" if before.info else "-"


def _plain(token: Token) -> str:
    """What a reader sees of a line: no marks, the texts of links, what pictures are said to show."""
    lines = [""]
    for child in token.children or []:
        if child.type in ("text", "code_inline", "image"):
            lines[-1] += child.content
        elif child.type == "hardbreak":
            lines[-1] += "\n"
        elif child.type == "softbreak":
            lines.append("")
    return functools.reduce(joined, lines)
