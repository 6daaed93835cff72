"""An answer as it is told: each sentence checked against the passages that it cites, with marks and annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from modelworks.kernel.gateway.spaces.checking import Source, says_nothing, verdict
from modelworks.kernel.gateway.spaces.search import Found
from modelworks.kernel.gateway.spaces.wording import MARKS, Language, sentences, terms

Unsupported = Literal["remove", "mark"]
#: answered: by a language model, checked. quoted: word for word from a passage. computed: by a query over a table.
#: not_in_documents: none of these was possible.
Status = Literal["answered", "quoted", "computed", "not_in_documents"]

_UNSUPPORTED: Final = {"en": " [unsupported]", "zh": "[无依据]"}
_QUOTE: Final = {"en": "From the documents, word for word: “{text}” [{number}]", "zh": "文档原文：“{text}”[{number}]"}
_QUOTE_MORE: Final = {"en": " “{text}” [{number}]", "zh": "“{text}”[{number}]"}
NOTHING: Final = {
    "en": "The documents do not say anything about this.",
    "zh": "文档中没有相关内容。",
}
#: A mark that is still being written is no longer than this.
_OPEN_MARK_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class Citation:
    """One mark in the text: `index` is where it stands, `quote` the sentence of the passage that it rests on."""

    number: int
    index: int
    found: Found
    quote: str

    def annotation(self) -> dict[str, Any]:
        """OpenAI's `file_citation`, with the place in a field of our own."""
        place = self.found.passage.place.model_dump(mode="json", exclude_none=True)
        return {
            "type": "file_citation",
            "index": self.index,
            "file_id": self.found.file_id,
            "filename": self.found.filename,
            "citation": {
                "number": self.number,
                "quote": self.quote,
                "document_id": self.found.document.id,
                "passage_id": self.found.passage.id,
                "score": round(self.found.score, 6),
                **({"headings": list(self.found.passage.place.headings)} if place.pop("headings", None) else {}),
                **place,
            },
        }


@dataclass(slots=True)
class Told:
    """The text as far as it was told, its citations, and how many sentences were left out or marked."""

    passages: Sequence[Found]
    language: Language
    unsupported: Unsupported = "remove"
    text: str = ""
    citations: list[Citation] = field(default_factory=list)
    num_unsupported: int = 0
    num_supported: int = 0
    _sources: list[Source] = field(default_factory=list)
    _rest: str = ""
    _neutral: str = ""
    _numbers: dict[int, int] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._sources = [Source(each.passage.text, each.about) for each in self.passages]

    # -- what a model writes ---------------------------------------------------------------------------------------------

    def take(self, piece: str) -> str:
        """Add what a model wrote; returns what can be told now: whole sentences that stand."""
        self._rest += piece
        spans = sentences(self._rest)
        if len(spans) < 2:
            return ""
        last = spans[-1]
        is_mark = last.text[0] in "[【［" and len(last.text) <= _OPEN_MARK_CHARS
        whole = spans[: -2 if is_mark else -1]
        if not whole:
            return ""
        end = whole[-1].end
        ready, self._rest = self._rest[:end], self._rest[end:]
        return self._tell(ready)

    def end(self) -> str:
        """What is left when the model has finished. Without a whole last sentence, it was cut for its length."""
        ready, self._rest = self._rest, ""
        return self._tell(ready)

    def _tell(self, text: str) -> str:
        told = ""
        at = 0
        for span in sentences(text):
            gap = text[at : span.start] if at or self.text else ""
            at = span.end
            told += self._sentence(span.text, gap, len(self.text) + len(told))
        self.text += told
        return told

    def _sentence(self, sentence: str, gap: str, start: int) -> str:
        cited = [int(number) - 1 for marks in MARKS.findall(sentence) for number in _figures(marks)]
        plain = MARKS.sub("", sentence).strip()
        if not plain or plain in self._said:
            return ""
        if says_nothing(plain):
            # Punctuation and connectives go with what follows them, or not at all.
            self._neutral = f"{plain} " if self.language == "en" else plain
            return ""
        self._said.add(plain)
        neutral, self._neutral = self._neutral, ""
        standing = self._standing(plain, cited)
        if not standing:
            self.num_unsupported += 1
            return f"{gap}{neutral}{plain}{_UNSUPPORTED[self.language]}" if self.unsupported == "mark" else ""
        self.num_supported += 1
        told = f"{gap}{neutral}{plain}"
        if not self.text and not start:
            told = told.lstrip()
        for place in standing:
            number = self._numbers.setdefault(place, len(self._numbers) + 1)
            space = " " if self.language == "en" else ""
            index = start + len(told) + len(space)
            self.citations.append(Citation(number, index, self.passages[place], _nearest(plain, self._sources[place])))
            told += f"{space}[{number}]"
        return told

    def _standing(self, sentence: str, cited: Sequence[int]) -> list[int]:
        """The passages that support a sentence: of those that it cites, else the best of the others."""
        own = [place for place in dict.fromkeys(cited) if 0 <= place < len(self._sources)]
        good = [place for place in own if verdict(sentence, self._sources[place]).stands]
        if good:
            return good
        others = {
            place: found.share
            for place, source in enumerate(self._sources)
            if place not in own and (found := verdict(sentence, source)).stands
        }
        return [max(others, key=lambda place: others[place])] if others else []

    # -- quotations ------------------------------------------------------------------------------------------------------

    def quote(self, place: int, text: str) -> str:
        """Tell a piece of a passage, word for word; returns what is told."""
        number = self._numbers.setdefault(place, len(self._numbers) + 1)
        form = (_QUOTE if not self.citations else _QUOTE_MORE)[self.language]
        gap = "\n\n" if self.text and not self.citations else ""
        told = gap + form.format(text=text, number=number)
        index = len(self.text) + told.rindex(f"[{number}]")
        self.citations.append(Citation(number, index, self.passages[place], text))
        self.text += told
        return told

    def compute(self, sentence: str, evidence: str) -> str:
        """Tell what was computed from the passages, tables; `evidence` is the query with its rows."""
        marked = sentence
        for number, each in enumerate(self.passages, 1):
            self.citations.append(Citation(number, len(marked) + 1, each, each.passage.text))
            marked += f" [{number}]"
        told = f"{marked}\n\n{evidence}"
        self.num_supported += 1
        self.text += told
        return told

    def nothing(self) -> str:
        """Tell that the documents do not say it."""
        told = ("\n\n" if self.text else "") + NOTHING[self.language]
        self.text += told
        return told


def _figures(marks: str) -> list[str]:
    return [figure for figure in "".join(char if char.isdigit() else " " for char in marks).split() if figure]


def _nearest(sentence: str, source: Source) -> str:
    """The sentence of a passage that shares the most words with `sentence`."""
    asked = terms(sentence)
    wanted = asked.words | asked.numbers
    best = max(source.parts, key=lambda part: len(wanted & (part[1].words | part[1].numbers)))
    return best[0]
