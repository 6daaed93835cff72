"""Whether a passage says what a sentence says, by what can be checked without a model.

Numbers, links, markup and names must stand in the passage exactly; most other words must; and where the passage's own nearest
sentence denies what the sentence affirms, or the other way round, it does not stand. That refuses some true paraphrases and
lets no invented figure through: what is wanted of an answer that cites.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from modelworks.kernel.gateway.spaces.wording import Language, Terms, is_negated, language_of, sentences, terms

#: The share of a sentence's words that its passage must have. Chinese in other words shares fewer pairs of characters.
LEAST_SHARE: Final[Mapping[Language, float]] = {"en": 0.6, "zh": 0.5}
#: Polarity is compared with the passage's sentence that has at least so many of the words.
_LIKE: Final = 0.6
#: What programs may act on: tags, tokens of chat templates, pictures that are fetched. Only a passage's own is told.
_MARKUP: Final = re.compile(r"</?[A-Za-z_|][^<>\n]*>|!\[")

Fault = Literal["number", "link", "markup", "name", "words", "denied"]


@dataclass(frozen=True)
class Source:
    """A passage that may be cited: its text, and what is known of where it stands (title, file, headings)."""

    text: str
    about: str = ""
    #: What it is known by itself, without what its document is called.
    headings: tuple[str, ...] = ()
    is_prose: bool = True

    @cached_property
    def heading_words(self) -> frozenset[str]:
        """Of its headings, the title of the document among them."""
        held = terms("\n".join(self.headings))
        return held.words | held.numbers

    @cached_property
    def own(self) -> Terms:
        return terms(self.text)

    @cached_property
    def known(self) -> Terms:
        """Of the text and of what it stands under: names of a heading are names of the passage."""
        about = terms(self.about)
        return Terms(
            self.own.words | about.words,
            self.own.numbers | about.numbers,
            self.own.names | about.names,
            self.own.links | about.links,
        )

    @cached_property
    def parts(self) -> list[tuple[str, Terms]]:
        return [(span.text, terms(span.text)) for span in sentences(self.text)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the sentence stands, which share of its words was found, and what it failed by."""

    share: float
    fault: Fault | None = None

    @property
    def stands(self) -> bool:
        return self.fault is None


def verdict(sentence: str, source: Source) -> Verdict:
    """Whether `source` supports `sentence`."""
    asked = terms(sentence)
    known = source.known
    share = len(asked.words & known.words) / len(asked.words) if asked.words else 1.0
    if not asked.numbers <= known.numbers:
        return Verdict(share, "number")
    if not asked.links <= known.links:
        return Verdict(share, "link")
    if any(mark not in source.text for mark in _MARKUP.findall(sentence)):
        return Verdict(share, "markup")
    if not asked.names <= known.words:
        return Verdict(share, "name")
    if share < LEAST_SHARE[language_of(sentence)]:
        return Verdict(share, "words")
    if asked.words and _is_denied(sentence, asked, source):
        return Verdict(share, "denied")
    return Verdict(share)


def _is_denied(sentence: str, asked: Terms, source: Source) -> bool:
    wanted = asked.words | asked.numbers
    best, best_text = 0.0, ""
    for text, held in source.parts:
        share = len(wanted & (held.words | held.numbers)) / len(wanted)
        if share > best:
            best, best_text = share, text
    return best >= _LIKE and is_negated(sentence) != is_negated(best_text)


def says_nothing(sentence: str) -> bool:
    """Whether there is nothing in it that could be true or false: a mark, a connective."""
    return terms(sentence).are_empty
