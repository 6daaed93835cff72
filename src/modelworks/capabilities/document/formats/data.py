"""JSON: records as lines of names and values, lists of like records as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from modelworks.capabilities.document.blocks import Block, Parsed, Refused, Source, Table
from modelworks.capabilities.document.formats.text import blocks_of_text
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES, read_text

_MAX_DEPTH = 40
#: Of the line that describes a table: its columns, comments and card.
_MAX_CARD_BYTES = 4 << 20
#: Keys that name a record, in the order in which they are asked.
_NAMES = ("title", "name", "subject", "question", "heading", "id")
#: Values that are texts of their own, longer than this, become paragraphs.
_LONG = 200


def read(source: Source, pages: Pages) -> Parsed:
    """One value; what is cut or broken is read as text."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["json"])
    text = read_text(source, parsed.faults)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        parsed.blocks = blocks_of_text(text)
        return parsed
    if isinstance(value, dict) and isinstance(value.get("cells"), list) and "nbformat" in value:
        parsed.blocks = _notebook(value)
    else:
        parsed.blocks = _value(value, 1, None)
    return parsed


def read_lines(source: Source, pages: Pages) -> Parsed:
    """One value a line; places are lines."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["jsonl"])
    parsed.blocks = _lines(read_text(source, parsed.faults))
    return parsed


def read_table(source: Source, pages: Pages) -> Parsed:
    """The card of a database's table; its rows are asked, not searched.

    Raises:
        Refused: the first line describes no table.
    """
    from modelworks.capabilities.document.formats.markdown import blocks_of_markdown

    with source.path.open("rb") as file:
        line = file.readline(_MAX_CARD_BYTES)
    try:
        card = json.loads(line)["card"]
    except (ValueError, RecursionError, KeyError, TypeError):
        card = None
    if not isinstance(card, str):
        raise Refused("unsupported_format", "The file describes no table of a database.", "Sync its source again.")
    return Parsed(blocks=blocks_of_markdown(card[: source.request.max_document_chars]), media_type=MEDIA_TYPES["table"])


def _lines(text: str) -> Iterator[Block]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield Block("text", line, lines=(number, number))
            continue
        for block in _value(value, 1, None):
            block.lines = (number, number)
            yield block


def _notebook(value: dict[str, Any]) -> Iterator[Block]:
    from modelworks.capabilities.document.formats.markdown import blocks_of_markdown

    for cell in value["cells"]:
        if not isinstance(cell, dict):
            continue
        said = cell.get("source")
        text = "".join(map(str, said)) if isinstance(said, list) else str(said or "")
        if cell.get("cell_type") == "markdown":
            for block in blocks_of_markdown(text):
                block.lines = None
                yield block
        elif text.strip():
            yield Block("code" if cell.get("cell_type") == "code" else "text", text)


def _value(value: Any, level: int, name: str | None) -> Iterator[Block]:
    if level > _MAX_DEPTH:
        raise Refused("too_deep", "The document is nested too deeply.", "Save it in a simpler form.")
    if isinstance(value, dict):
        title = next(
            (str(value[key]) for key in _NAMES if isinstance(value.get(key), str | int) and str(value[key]).strip()), name
        )
        if title:
            yield Block("heading", title, level=min(6, level))
        short = []
        rest = []
        for key, each in value.items():
            if isinstance(each, dict | list) or (isinstance(each, str) and len(each) > _LONG):
                rest.append((key, each))
            elif each is not None and each != "":
                short.append(f"{key}: {_said(each)}")
        if short:
            yield Block("text", "\n".join(short))
        for key, each in rest:
            yield from _value(each, level + 1, key) if isinstance(each, dict | list) else _long(key, each)
    elif isinstance(value, list):
        yield from _list(value, level, name)
    elif value not in (None, ""):
        yield Block("text", f"{name}: {_said(value)}" if name else _said(value))


def _list(value: list[Any], level: int, name: str | None) -> Iterator[Block]:
    keys = list(dict.fromkeys(key for row in value if isinstance(row, dict) for key in row))
    is_table = len(value) > 1 and 1 < len(keys) <= 40 and all(isinstance(row, dict) for row in value)
    if is_table and all(
        not isinstance(each, dict | list) and len(str(each)) <= _LONG for row in value for each in row.values()
    ):
        if name:
            yield Block("heading", name, level=min(6, level))
        yield Block("table", table=Table([keys, *([_said(row.get(key)) for key in keys] for row in value)]))
    elif all(not isinstance(each, dict | list) for each in value):
        if value:
            said = ", ".join(map(_said, value))
            yield Block("text", f"{name}: {said}" if name else said)
    else:
        if name:
            yield Block("heading", name, level=min(6, level))
        for each in value:
            yield from _value(each, level + 1, None)


def _long(key: str, text: str) -> Iterator[Block]:
    blocks = list(blocks_of_text(text))
    for number, block in enumerate(blocks):
        block.lines = None
        if number == 0 and block.kind == "text":
            block.text = f"{key}: {block.text}"
        yield block


def _said(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
