"""The chat that a sample is: instructions, numbered passages and a question, as data spaces ask their language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelworks.capabilities.document.samples.schemas import Language, PromptForm
from modelworks.contract.passages import Place

_OWN_TAG: Final = re.compile(r"<(?=\s*/?\s*(?:passages?|dialogue)\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Shown:
    """A passage as it is shown: the document's name, its place, and its text with that of its neighbours."""

    name: str
    place: Place
    text: str


def asked(form: PromptForm, question: str, language: Language, passages: Sequence[Shown]) -> list[dict[str, Any]]:
    """The chat that asks `question` about `passages`, which are numbered from 1."""
    system = form.system.replace("{{language}}", form.languages[language]).replace("{{further}}", "")
    listed = "\n".join(_passage(number, each) for number, each in enumerate(passages, 1))
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"<passages>\n{listed}\n</passages>\n\nQuestion: {question}"},
    ]


def cited(sentences: Sequence[str], number: int) -> str:
    """Sentences, each with the number of the passage that it stands on."""
    return " ".join(f"{sentence} [{number}]" for sentence in sentences)


def _passage(number: int, shown: Shown) -> str:
    place = shown.place
    known = {"document": shown.name, "page": place.page, "cells": place.cells, "headings": " > ".join(place.headings)}
    told = "".join(f' {name}="{_attribute(str(value))}"' for name, value in known.items() if value)
    return f'<passage number="{number}"{told}>\n{_OWN_TAG.sub("‹", shown.text)}\n</passage>'


def _attribute(text: str) -> str:
    return re.sub(r"[\s\"<>]+", " ", text)[:200]
