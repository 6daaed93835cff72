"""Sentences, and what of them can be looked for: words, numbers and names, in Chinese and in languages with spaces.

Nothing here needs a dictionary or a model. Chinese (and Japanese and Korean) is read as pairs of characters, as search engines
without a segmenter do (CJK bigrams, Lucene's CJKAnalyzer); words with spaces lose their commonest English endings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, Literal

Language = Literal["zh", "en"]

_CJK: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_CJK_CHAR: Final = re.compile(f"[{_CJK}]")
#: A run of one script: characters of CJK, or letters and digits held together by what stands within words and figures.
_RUN: Final = re.compile(f"[{_CJK}]+|(?:(?![{_CJK}])[^\\W_])+(?:[.,'’:/_&@+-](?:(?![{_CJK}])[^\\W_])+)*")
_NUMBER: Final = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_WITH_UNIT: Final = re.compile(r"(\d[\d.,]*)([^\W\d_]{1,4})")
#: Marks of a citation, as models write them: [1], [1, 2], 【1】.
MARKS: Final = re.compile(r"\s*[\[【［]\s*(\d{1,3}(?:\s*[,，、;]\s*\d{1,3})*)\s*[\]】］]")
_AFTER_END: Final = r"[\"'”’」』）)\]]*(?:\s*[\[【［]\s*\d{1,3}(?:\s*[,，、;]\s*\d{1,3})*\s*[\]】］])*"
_END: Final = re.compile(rf"[。！？!?；]+{_AFTER_END}|[.…]+{_AFTER_END}(?=\s|$)|\n+")
_ABBREVIATION: Final = re.compile(
    r"(?:^|[\s(\"'“])(?:[^\W\d_]|[^\W\d_](?:\.[^\W\d_])+|mr|mrs|ms|dr|prof|st|no|nos|vs|etc|approx|fig|sec|dept|inc|ltd|co|corp|"
    r"jr|sr|gen|sen|rep|gov|e\.g|i\.e|cf|al|vol|pp|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec)$",
    re.IGNORECASE,
)
_LINK: Final = re.compile(
    r"(?:https?|ftp|mailto|data|javascript):[^\s<>\"')\]，。；]+|\bwww\.[^\s<>\"')\]，。；]+", re.IGNORECASE
)

#: English words that say nothing about what a text is about; what questions ask with are among them.
_COMMON_WORDS: Final = """
a about above after again all also am an and any are as at be because been before being below between both but by can could
did do does doing down during each few for from further had has have having he her here hers him his how i if in into is it
its itself just let many may me might more most much must my now of off on once one only or other our out over own please s same
shall she should so some such t than that the their theirs them then there these they this those through to too under until
up upon us very was we were what when where which while who whom whose why will with within would you your
"""
_COMMON: Final = frozenset(_COMMON_WORDS.split())
#: Chinese characters and words of that kind, longest first.
_COMMON_CJK: Final = re.compile(
    "为什么|是不是|有没有|什么时候|什么样|什么|怎么样|怎么|怎样|如何|哪一年|哪里|哪儿|哪些|哪个|哪位|哪年|哪种|哪|谁|多少|多大|多久|多长|几个|几年|"
    "何时|何地|何处|何种|何|请问|请|是否|可以|能否|能够|以及|并且|而且|因为|所以|但是|如果|对于|关于|由于|他们|她们|它们|我们|你们|这个|那个|这些|"
    "那些|这里|那里|其中|其|的|了|和|是|在|有|也|就|都|而|及|与|着|或|被|把|对|于|之|以|吗|呢|吧|啊|这|那|它|他|她|我|你|又|则|所|等|中|从|向|到|为|由|将|会|要|个"
)
_NEGATED: Final = re.compile(
    r"\b(?:not|no|never|none|neither|nor|without|cannot|nobody|nothing|refus\w*|forbid\w*|prohibit\w*)\b|n['’]t\b|"
    r"不|没有|没|无法|无须|无需|未|非|禁止|勿|别",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text: `text[start:end]`, without the white space around it."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What a text can be recognised by. `words` holds stems and pairs of characters, `names` is a part of them."""

    words: frozenset[str]
    numbers: frozenset[str]
    #: Abbreviations, identifiers and words with a capital inside of a sentence.
    names: frozenset[str]
    links: frozenset[str]

    @property
    def are_empty(self) -> bool:
        return not (self.words or self.numbers or self.names)


def language_of(text: str) -> Language:
    """Chinese (zh) where its characters carry the text; en stands for everything else."""
    num_cjk = len(_CJK_CHAR.findall(text))
    num_words = sum(1 for run in _RUN.findall(text) if not _CJK_CHAR.match(run))
    return "zh" if num_cjk > num_words else "en"


def normalised(text: str) -> str:
    """One form for what looks alike (NFKC): full-width letters and figures, ligatures."""
    return unicodedata.normalize("NFKC", text)


def sentences(text: str) -> list[Span]:
    """The sentences of a text in their order; a line is at least one, as rows of tables and items of lists are."""
    found: list[Span] = []
    start = 0
    for match in _END.finditer(text):
        mark = match.group()[0]
        if mark == "." and _ABBREVIATION.search(text[max(start, match.start() - 12) : match.start()]):
            continue
        if mark in "!?" and text[match.end() : match.end() + 1].isalnum() and not _CJK_CHAR.match(text[match.end()]):
            continue  # inside of an address
        _add(found, text, start, match.end())
        start = match.end()
    _add(found, text, start, len(text))
    return found


def _add(found: list[Span], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    kept = piece.strip()
    if kept:
        at = start + len(piece) - len(piece.lstrip())
        found.append(Span(at, at + len(kept), kept))


def is_negated(text: str) -> bool:
    """Whether a sentence denies something: an odd number of denials, as two take each other back."""
    return len(_NEGATED.findall(text)) % 2 == 1


def terms(text: str) -> Terms:
    """What a text can be recognised by; marks of citations say nothing about it."""
    plain = normalised(MARKS.sub(" ", text))
    links = frozenset(link.rstrip(".,;:") for link in _LINK.findall(plain))
    words: set[str] = set()
    numbers: set[str] = set()
    names: set[str] = set()
    plain = _LINK.sub(_without_link, plain)
    starts = {span.start for span in sentences(plain)}
    for match in _RUN.finditer(plain):
        run = match.group()
        if _CJK_CHAR.match(run):
            words.update(_pairs(run))
            continue
        for piece in _pieces(run):
            if (number := as_number(piece)) is not None:
                numbers.add(number)
            elif (unit := _WITH_UNIT.fullmatch(piece)) and (number := as_number(unit[1].rstrip(".,"))) is not None:
                numbers.add(number)
                if len(unit[2]) > 1:
                    words.add(stem(unit[2].casefold()))
            else:
                _take_word(piece, match.start() in starts, words, names)
    return Terms(frozenset(words), frozenset(numbers), frozenset(names), links)


def _without_link(link: re.Match[str]) -> str:
    """What ends the sentence behind a link is none of the link."""
    return f" {link.group()[-1]}" if link.group()[-1] in ".,;:" else " "


def _pieces(run: str) -> Iterator[str]:
    """The words and figures of a run: what a hyphen or a slash joins stands alone, too, where it says something alone."""
    if as_number(run) is not None or _NUMBER.fullmatch(run):
        yield run
        return
    for piece in re.split(r"[,/:&@+_'’-]", run):
        if "." not in piece or as_number(piece) is not None:
            yield piece
        elif all(len(part) == 1 for part in piece.split(".")):
            yield piece.replace(".", "")  # U.S.
        else:
            yield from piece.split(".")


def _take_word(piece: str, is_first: bool, words: set[str], names: set[str]) -> None:
    plain = piece.casefold()
    if not plain or plain in _COMMON or (len(plain) == 1 and not plain.isdigit()):
        return
    word = stem(plain)
    words.add(word)
    has_figure = any(char.isdigit() for char in piece)
    is_capital = piece[0].isupper() and (not is_first or (len(piece) > 1 and piece[1:2].isupper()))
    if has_figure or is_capital:
        names.add(word)


def _pairs(run: str) -> Iterator[str]:
    """Pairs of characters between those that are in every text; one alone where it stands alone."""
    for piece in _COMMON_CJK.split(run):
        if len(piece) == 1:
            yield piece
        for at in range(len(piece) - 1):
            yield piece[at : at + 2]


def as_number(text: str) -> str | None:
    """One form of a number: `1,234.50` is 1234.5. None where it is none."""
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return format(Decimal(text.replace(",", "")).normalize(), "f")
    except InvalidOperation:  # more digits than a number has
        return text


def stem(word: str) -> str:
    """A word without the commonest English endings; the same for what only differs in them."""
    for ending, new in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("edly", ""), ("ed", ""), ("ly", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            if ending == "s" and word.endswith(("ss", "us", "is")):
                return word
            word = word[: len(word) - len(ending)] + new
            if not new and len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word
