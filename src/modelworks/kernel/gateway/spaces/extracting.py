"""The sentences of passages that answer a question best, word for word."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelworks.kernel.gateway.spaces.checking import Source
from modelworks.kernel.gateway.spaces.wording import Terms, language_of, sentences, terms

#: The share of a question's words, weighted, that the best passage must have: chosen on halves of CMRC 2018 and XQuAD
#: (`benchmarks/answers.py --tune`), by language.
LEAST_COVERAGE: Final[Mapping[str, float]] = {"en": 0.5, "zh": 0.45}
#: What names and figures of a question weigh beside its other words.
_NAME_WEIGHT: Final = 1.5
#: What the sentence before and the one after add: pronouns stand for what they name.
_BEFORE, _AFTER, _PASSAGE = 0.35, 0.15, 0.5
#: What a sentence gains by holding something of the kind that is asked for.
_KIND_GAIN: Final = 0.25
#: A further sentence is quoted where it is nearly as good and says more of what was asked.
_NEARLY: Final = 0.85
#: What headings add that hold all of a question's words.
_HEADING: Final = 0.6
#: What a line counts that is no sentence: a field with its value, a few words, the rest of a sentence; and what is no prose.
_FRAGMENT, _REST, _OPEN, _NO_PROSE = 0.35, 0.5, 0.8, 0.6
_FIELD: Final = re.compile(r"^[\W_]*[\w .$/-]{1,40}[:：=]\s*\S{0,40}(?:\s\S+){0,2}$")
_LEAST_WORDS, _LEAST_CHARS_CJK = 4, 5
#: Later passages count a little less: the search had its reasons.
_FADING: Final = 0.06
_MAX_CHARS: Final = 600

_ASKS_NUMBER: Final = re.compile(
    r"\bhow (?:many|much|long|old|far|often|large|tall|big)\b|\bwhat (?:percentage|number|year|date|amount)\b|\bwhen\b|"
    r"多少|几|哪一?年|何时|什么时候|多大|多长|多久|多高|何年|日期",
    re.IGNORECASE,
)
_ASKS_NAME: Final = re.compile(
    r"\b(?:who|whom|whose|where|which|what (?:is the name|was the name|city|country|company))\b", re.IGNORECASE
)
_FIGURES_CJK: Final = re.compile("[一二三四五六七八九十百千万亿两]")


@dataclass(frozen=True, slots=True)
class Quotation:
    """`text` is a piece of the passage with that place among the passages."""

    passage: int
    text: str
    score: float


def coverage(question: Terms, source: Source) -> float:
    """The weighted share, 0 to 1, of a question's words that a passage (with its headings and title) has."""
    weights = {word: _weight(word, question) for word in question.words | question.numbers}
    total = sum(weights.values())
    if total == 0:
        return 0.0
    known = source.known.words | source.known.numbers
    return sum(weight for word, weight in weights.items() if word in known) / total


def _weight(word: str, question: Terms) -> float:
    if word in question.names or word in question.numbers:
        return _NAME_WEIGHT
    return 1.0


def is_answerable(question: str, sources: Sequence[Source], *, least: float | None = None) -> bool:
    """Whether any passage has enough of what is asked about; False is "not in the documents".

    Where a question names things, one of the passages must know one of them: reports of one company have all the other words
    of a question about another.
    """
    asked = terms(question)
    bar = LEAST_COVERAGE[language_of(question)] if least is None else least
    named = {name for name in asked.names if name.isalpha()}
    if named and not any(named & (source.known.words | source.known.names) for source in sources):
        return False
    return any(coverage(asked, source) >= bar for source in sources)


def arranged(question: str, found: Sequence[tuple[Source, float]]) -> list[int]:
    """The places of passages in the order in which they are answered from.

    A search finds words; what is written to be read, and what stands under a heading that the question names, goes before
    tables and data that hold the same words.

    Args:
        found: the passages with the scores of the search.
    """
    asked = terms(question)
    worth = [
        score * (1.0 if source.is_prose else _NO_PROSE) * (1 + _HEADING * _headed(asked, source)) for source, score in found
    ]
    return sorted(range(len(found)), key=lambda place: -worth[place])


def _headed(asked: Terms, source: Source) -> float:
    wanted = asked.words | asked.numbers
    return len(wanted & source.heading_words) / len(wanted) if wanted else 0.0


def _is_fragment(text: str) -> bool:
    if _FIELD.match(text):
        return True
    if language_of(text) == "zh":
        return len(text) < _LEAST_CHARS_CJK
    return len(text.split()) < _LEAST_WORDS


def _form(text: str, source: Source) -> float:
    """What a line counts by its form."""
    worth = 1.0 if source.is_prose else _NO_PROSE
    if _is_fragment(text):
        return worth * _FRAGMENT
    if text[0].islower() or text[-1] in ":：":
        return worth * _REST
    return worth * _OPEN if text[-1].isalnum() and language_of(text) == "en" else worth


def quotations(question: str, sources: Sequence[Source], *, most: int = 3) -> list[Quotation]:
    """The best sentences, best first; none where no word of the question is in any passage.

    A sentence is worth the rarity-weighted share of the question's words that it holds, with a part of what its neighbours
    and its passage hold, more where it holds something of the kind asked for or stands under a heading that does, less where it
    is no whole sentence of prose, and a little less the later its passage came.
    """
    asked = terms(question)
    wanted = asked.words | asked.numbers
    parts = [[(span.text, terms(span.text)) for span in sentences(source.text)] for source in sources]
    spread: dict[str, int] = {}
    for passage in parts:
        for _, held in passage:
            for word in wanted & (held.words | held.numbers):
                spread[word] = spread.get(word, 0) + 1
    num = sum(map(len, parts))
    rarity = {word: math.log1p(num / count) * _weight(word, asked) for word, count in spread.items()}
    total = sum(rarity.values())
    if total == 0:
        return []
    found: list[Quotation] = []
    for place, passage in enumerate(parts):
        own = [sum(rarity[word] for word in wanted & (held.words | held.numbers)) / total for _, held in passage]
        whole = coverage(asked, sources[place])
        for at, (text, held) in enumerate(passage):
            before = own[at - 1] if at else 0.0
            after = own[at + 1] if at + 1 < len(own) else 0.0
            score = own[at] + _BEFORE * before + _AFTER * after + _PASSAGE * whole
            score *= 1 + _KIND_GAIN * _has_kind(question, asked, text, held)
            score *= (1 + _HEADING * _headed(asked, sources[place])) * _form(text, sources[place])
            found.append(Quotation(place, text, score / (1 + _FADING * place)))
    found.sort(key=lambda each: (-each.score, each.passage))
    return _chosen(found, wanted, most)


def _chosen(found: Sequence[Quotation], wanted: frozenset[str], most: int) -> list[Quotation]:
    best = found[0]
    held = terms(best.text)
    covered = wanted & (held.words | held.numbers)
    chosen = [_short(best)]
    for each in found[1:]:
        if len(chosen) >= most or each.score < _NEARLY * best.score:
            break
        held = terms(each.text)
        more = (wanted & (held.words | held.numbers)) - covered
        if more:
            covered |= more
            chosen.append(_short(each))
    return chosen


def _short(each: Quotation) -> Quotation:
    if len(each.text) <= _MAX_CHARS:
        return each
    cut = each.text[:_MAX_CHARS]
    return Quotation(each.passage, cut.rsplit(" ", 1)[0] if " " in cut else cut, each.score)


def _has_kind(question: str, asked: Terms, text: str, held: Terms) -> bool:
    if _ASKS_NUMBER.search(question):
        return bool(held.numbers - asked.numbers) or bool(_FIGURES_CJK.search(text))
    if _ASKS_NAME.search(question):
        return bool(held.names - asked.names)
    return False
