"""One file for each family of formats: bytes become blocks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import cast

from modelworks.capabilities.document import ocr
from modelworks.capabilities.document.blocks import Parsed, Source
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.schemas import ParsingRequest

Reader = Callable[[Source, Pages], Parsed]

#: Where a format's reader lies, the libraries whose version changes what it gives, and the version of its own rules.
_READERS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "pdf": ("pdf.reading:read", ("pypdfium2",), 3),
    "docx": ("docx:read", ("lxml",), 1),
    "pptx": ("pptx:read", ("lxml",), 1),
    "xlsx": ("xlsx:read", ("openpyxl",), 1),
    "odt": ("odf:read_text", ("lxml",), 1),
    "odp": ("odf:read_slides", ("lxml",), 1),
    "ods": ("odf:read_sheets", ("lxml",), 1),
    "epub": ("epub:read", ("lxml",), 1),
    "csv": ("delimited:read", (), 1),
    "json": ("data:read", (), 1),
    "jsonl": ("data:read_lines", (), 1),
    "table": ("data:read_table", ("markdown-it-py",), 1),
    "eml": ("mail:read", (), 1),
    "mbox": ("mail:read_box", (), 1),
    "image": ("image:read", (), 1),
    "html": ("html:read", ("lxml",), 1),
    "markdown": ("markdown:read", ("markdown-it-py",), 1),
    "code": ("text:read_code", (), 1),
    "text": ("text:read", (), 1),
}
#: Formats that may hold pictures of text.
_WITH_OCR = frozenset({"pdf", "image"})
#: Of what is done with the blocks of any format.
_PASSAGES = 2


def formats() -> tuple[str, ...]:
    """The names of all formats that have a reader."""
    return tuple(_READERS)


def reader(form: str) -> Reader:
    """What reads a format; imports its libraries.

    Raises:
        KeyError: there is no such format.
    """
    module, _, name = _READERS[form][0].partition(":")
    return cast(Reader, getattr(importlib.import_module(f"{__name__}.{module}"), name))


def fingerprint(form: str, request: ParsingRequest) -> str:
    """What would read a document of that format, by which rules: equal ones give equal passages."""
    # What nothing reads is judged by the rules of this file: a new format changes them.
    _, libraries, rules = _READERS.get(form, ("", (), len(_READERS)))
    parts = [f"{form} {rules}.{_PASSAGES}", *(f"{name} {_version(name)}" for name in libraries)]
    if form in _WITH_OCR:
        parts.append((ocr.engine_name() if request.ocr == "auto" else None) or "no ocr")
    return "; ".join([*parts, f"{request.passage_chars}/{request.passage_chars / request.chinese_ratio:g}"])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
