"""Questions that need no model: what is said under a heading, what a thing is, a gap in a sentence, a cell of a table.

Every answer is made of the words of its passage. Gaps: Taylor 1953, "Cloze procedure"; questions about gaps and definitions as
training data for reading: Lewis et al. 2019, "Unsupervised Question Answering by Cloze Translation".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelworks.capabilities.document.language import language, sentences
from modelworks.capabilities.document.samples.schemas import Language, Maker
from modelworks.contract.passages import ParsedDocument, Passage

_LENGTHS: Final[Mapping[Language, tuple[int, int]]] = {"en": (30, 300), "zh": (12, 150)}
_ENDS: Final = re.compile(r"[.!。！][\"'”’」』）)]*$")
#: A sentence that begins so says of something that stands before it.
_POINTS_BACK: Final = re.compile(
    r"(?:It|Its|This|That|These|Those|They|Their|He|She|His|Her|There|Here|Then|Such|Both|We|You|I|And|But|Or|So|However|"
    r"Otherwise|Also|If|When|Each|Every|Which|What|Who|Some|Many|Other|Others)\b|[这那它他她其该此并但而则也且或若如因所]"
)
_IS_EN: Final = re.compile(
    r"(?P<article>The |An? (?=[\w'’./-]+ ))?(?P<subject>(?(article)[\w]|[A-Z0-9])[\w'’./-]*(?: [\w'’./-]+){0,4}?) "
    r"(?P<verb>is|are) (?:an?|the|one of)\b"
)
_IS_ZH: Final = re.compile(r"(?P<subject>[^\s，。；：、！？（）“”《》()]{2,16}?)(?:是(?:一[种个款项类名座]|指)|指的是)")
#: A subject that is more than a name.
_NO_SUBJECT: Final = re.compile(r"\b(?:of|that|which|is|are|was|in|to|for|by|with|and|or)\b|[的不就也都才]|不$")
#: A figure or a longer word of Latin letters; Chinese characters beside it are none of it.
_TERM: Final = re.compile(
    r"(?<![A-Za-z0-9\u00c0-\u024f.,])(?:\d+(?:[.,:/-]\d+)*%?|[A-Za-z][A-Za-z0-9-]{5,})(?![A-Za-z0-9\u00c0-\u024f])"
)
_ENGLISH: Final = re.compile(r"\b(?:the|of|and|is|are|with|their|each|right)\b")
_GAP: Final = "____"
_NUMBERING: Final = re.compile(
    r"^(?:(?:\d+[.)、]?)+\s*|第[一二三四五六七八九十百\d]+[章节条][\s、]*|[一二三四五六七八九十]+、\s*)"
)
_RULE: Final = re.compile(r"^\|(?:\s*:?-+:?\s*\|)+\s*$")
_MAX_CELL_CHARS, _MAX_CELLS = 60, 3
_MAX_HEADING_CHARS = 80


@dataclass(frozen=True, slots=True)
class Read:
    """A document and its passages in order."""

    document: ParsedDocument
    passages: Sequence[Passage]


@dataclass(frozen=True, slots=True)
class Draft:
    """A question that one passage answers; `answer` holds whole sentences."""

    maker: Maker
    question: str
    answer: tuple[str, ...]
    passage: Passage
    language: Language
    #: Further documents that it comes from.
    documents: tuple[str, ...] = ()


def drafts(documents: Sequence[Read], makers: Iterable[Maker]) -> Iterator[Draft]:
    """Everything that can be asked without a model, document by document in order. No question is asked twice."""
    chosen = [_MAKERS[maker] for maker in makers if maker in _MAKERS]
    rarity = _rarity(documents)
    said: Counter[str] = Counter()
    found: list[Draft] = []
    for document in documents:
        for make in chosen:
            found.extend(make(document, rarity))
    for draft in found:
        said[draft.question] += 1
    # What two passages answer has no one answer.
    yield from (draft for draft in found if said[draft.question] == 1)


def usable(passage: Passage) -> list[str]:
    """The sentences of a passage that say something by themselves, word for word."""
    tongue = tongue_of(passage.text)
    if tongue is None or passage.kind not in ("text", "list"):
        return []
    least, most = _LENGTHS[tongue]
    found = (each.strip().lstrip("-*•· ").strip() for each in sentences(passage.text))
    return [each for each in found if least <= len(each) <= most and _ENDS.search(each) and "\n" not in each]


def tongue_of(text: str) -> Language | None:
    """The language whose words questions about a text are asked in; None for others, which none are asked about."""
    found = language(text)
    if found == "zh":
        return "zh"
    # A single sentence has few of the words that a language is told by.
    is_english = found in ("en", None) or (found == "und" and text.isascii() and _ENGLISH.search(text) is not None)
    return "en" if is_english else None


def _heading(read: Read, _rarity: Mapping[str, int]) -> Iterator[Draft]:
    seen: set[tuple[str, ...]] = set()
    title = (read.document.title or read.document.name).strip()
    for passage in read.passages:
        path = passage.place.headings
        if not path or path in seen:
            continue
        seen.add(path)
        heading = _NUMBERING.sub("", path[-1]).strip()
        first = [each for each in usable(passage) if not _POINTS_BACK.match(each)]
        tongue = tongue_of(passage.text)
        if not first or tongue is None or not 2 <= len(heading) <= _MAX_HEADING_CHARS or heading == title:
            continue
        if heading.endswith(("?", "？")):
            question = heading
        elif tongue == "zh":
            question = f"关于{heading}，《{title}》怎么说？"
        else:
            question = f"What does “{title}” say about {heading.rstrip('.:')}?"
        yield Draft("heading", question, (first[0],), passage, tongue)


def _definition(read: Read, _rarity: Mapping[str, int]) -> Iterator[Draft]:
    for passage in read.passages:
        tongue = tongue_of(passage.text)
        for sentence in usable(passage):
            if tongue is None or _POINTS_BACK.match(sentence):
                continue
            found = (_IS_ZH if tongue == "zh" else _IS_EN).match(sentence)
            if found is None or _NO_SUBJECT.search(found["subject"]):
                continue
            if tongue == "zh":
                question = f"{found['subject']}是什么？"
            elif found["article"] == "The " and not re.search("[A-Z0-9]", found["subject"]):
                continue  # which one is told by what stands before
            else:
                question = f"What {found['verb']} {(found['article'] or '').lower()}{found['subject']}?"
            yield Draft("definition", question, (sentence,), passage, tongue)
            break


def _cloze(read: Read, rarity: Mapping[str, int]) -> Iterator[Draft]:
    for passage in read.passages:
        tongue = tongue_of(passage.text)
        for sentence in usable(passage):
            rare = [found for found in _TERM.finditer(sentence) if rarity[found[0].lower()] == 1]
            if tongue is None or _POINTS_BACK.match(sentence) or not rare:
                continue
            # Figures and names before other words, then the longest.
            gap = max(rare, key=lambda found: (found[0][0].isdigit(), found[0][0].isupper(), len(found[0]), -found.start()))
            if sentence.count(gap[0]) > 1 or gap.start() == 0:
                continue
            holed = sentence[: gap.start()] + _GAP + sentence[gap.end() :]
            question = f"根据文档填空：{holed}" if tongue == "zh" else f"What is missing in this sentence? {holed}"
            yield Draft("cloze", question, (sentence,), passage, tongue)
            break


def _table(read: Read, _rarity: Mapping[str, int]) -> Iterator[Draft]:
    for passage in read.passages:
        if passage.kind != "table":
            continue
        lines = passage.text.splitlines()
        rule = next((at for at, line in enumerate(lines) if _RULE.match(line)), None)
        if not rule:
            continue
        head, rows = _cells(lines[rule - 1]), [_cells(line) for line in lines[rule + 1 :] if line.startswith("|")]
        names = Counter(row[0] for row in rows if row)
        made = 0
        # One cell of each row before a second one of any.
        for turn in range(1, len(head)):
            for number, row in enumerate(rows):
                column = 1 + (number + turn - 1) % (len(head) - 1)
                if made >= _MAX_CELLS or len(row) != len(head) or names[row[0]] > 1:
                    continue
                told = (row[0], head[column], row[column])
                # A cell of one letter, or of dots, says nothing alone.
                if not all(re.search(r"[^\W_]", each) and len(each) <= _MAX_CELL_CHARS for each in told) or len(told[1]) < 2:
                    continue
                made += 1
                tongue: Language = "zh" if "zh" in (language(head[column]), language(row[0])) else "en"
                if tongue == "zh":
                    question, answer = f"{told[0]}的{told[1]}是什么？", f"{told[0]}的{told[1]}是{told[2]}。"
                else:
                    question, answer = f"What is the {told[1]} of {told[0]}?", f"The {told[1]} of {told[0]} is {told[2]}."
                yield Draft("table", question, (answer,), passage, tongue)


def _cells(line: str) -> list[str]:
    return [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _rarity(documents: Sequence[Read]) -> Counter[str]:
    """In how many passages each term stands."""
    held: Counter[str] = Counter()
    for read in documents:
        for passage in read.passages:
            held.update({found.lower() for found in _TERM.findall(passage.text)})
    return held


_MAKERS: Final[Mapping[Maker, Callable[[Read, Mapping[str, int]], Iterator[Draft]]]] = {
    "heading": _heading,
    "definition": _definition,
    "cloze": _cloze,
    "table": _table,
}
