"""What a language model is asked: passages are data between marks that their own text cannot write."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from modelworks.kernel.gateway.spaces.search import Found
from modelworks.kernel.gateway.spaces.wording import MARKS, Language

#: What a model writes where the passages do not answer.
NOT_FOUND: Final = "NOT IN THE DOCUMENTS"
_NAMES: Final[Mapping[Language, str]] = {"zh": "Chinese (中文)", "en": "the language of the question"}
#: A tag of ours, however a document writes it.
_OWN_TAG: Final = re.compile(r"<(?=\s*/?\s*(?:passages?|dialogue)\b)", re.IGNORECASE)
_TABLES_TAG: Final = re.compile(r"<(?=\s*/?\s*tables\b)", re.IGNORECASE)
#: Turns before the question that the model reads, too, and characters of each.
_MAX_TURNS, _MAX_TURN_CHARS = 6, 1500


@cache
def page(name: str) -> str:
    """A prompt beside this file, without its front matter."""
    return files(__package__).joinpath(f"prompts/{name}.md").read_text("utf-8").partition("\n---\n")[2].strip()


def form() -> dict[str, Any]:
    """The words of `answering`, for whoever makes samples that a model learns to answer so from."""
    return {"system": page("answer"), "languages": dict(_NAMES), "not_found": NOT_FOUND}


def answering(
    turns: Sequence[Mapping[str, Any]], question: str, language: Language, passages: Sequence[Found], *, further: str = ""
) -> list[dict[str, Any]]:
    """The chat that answers `question` from `passages`, which are numbered from 1.

    Args:
        turns: the dialogue before the question, without instructions.
        further: what the caller's own instructions say; the caller is trusted, documents are not.
    """
    system = page("answer").replace("{{language}}", _NAMES[language])
    system = system.replace("{{further}}", f"\n\nFurther instructions:\n{further}" if further else "")
    before = [
        {"role": turn["role"], "content": MARKS.sub("", str(turn["content"]))[:_MAX_TURN_CHARS]} for turn in turns[-_MAX_TURNS:]
    ]
    listed = "\n".join(_passage(number, each) for number, each in enumerate(passages, 1))
    asked = f"<passages>\n{listed}\n</passages>\n\nQuestion: {question}"
    return [{"role": "system", "content": system}, *before, {"role": "user", "content": asked}]


def found(passages: Sequence[tuple[int, Found]]) -> str:
    """What a model reads that has searched: passages with their numbers."""
    return page("found").replace("{{passages}}", "\n".join(_passage(number, each) for number, each in passages))


def querying(question: str, described: str) -> list[dict[str, Any]]:
    """The chat that has a model describe a query: tables are data between marks, in lines of JSON texts."""
    listed = _TABLES_TAG.sub("&lt;", described)
    asked = f"<tables>\n{listed}\n</tables>\n\nQuestion: {question}"
    return [{"role": "system", "content": page("query")}, {"role": "user", "content": asked}]


def rewriting(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The chat that makes the last question of `turns` one that stands alone."""
    said = "\n".join(f"{turn['role']}: {_plain(str(turn['content'])[:_MAX_TURN_CHARS])}" for turn in turns[-_MAX_TURNS:])
    return [
        {"role": "system", "content": page("rewrite")},
        {"role": "user", "content": f"<dialogue>\n{said}\n</dialogue>"},
    ]


def _passage(number: int, found: Found) -> str:
    place = found.passage.place
    known = {"document": found.filename, "page": place.page, "cells": place.cells, "headings": " > ".join(place.headings)}
    told = "".join(f' {name}="{_attribute(str(value))}"' for name, value in known.items() if value)
    return f'<passage number="{number}"{told}>\n{_plain(found.shown)}\n</passage>'


def _attribute(text: str) -> str:
    return re.sub(r"[\s\"<>]+", " ", text)[:200]


def _plain(text: str) -> str:
    """A text that cannot end its passage: the first character of our tags becomes one that only looks like it."""
    return _OWN_TAG.sub("‹", text)
