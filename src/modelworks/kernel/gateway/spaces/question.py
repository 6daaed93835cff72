"""What is looked for: the last question of a dialogue, made one that can be understood alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelworks.kernel.gateway.spaces.wording import MARKS, Language, language_of, sentences, terms

#: Longer questions are cut for the search; the model still reads all of them.
MAX_QUERY_CHARS: Final = 2000
#: A question with fewer words of its own is taken to go on from what was said before.
_FEW: Final = 3
_POINTS_BACK: Final = re.compile(
    r"\b(?:it|its|they|them|their|theirs|he|him|his|she|her|hers|this|that|these|those|there|then|one|ones|same|former|latter|"
    r"also|too|instead|more|else)\b|^(?:and|or|but|so|what about|how about)\b|"
    r"它|他|她|这|那|其|上述|前者|后者|同样|还有|呢[？?]?$|此",
    re.IGNORECASE,
)
#: What only asks, in Chinese: the rest of a question is what it asks about.
_ASKS: Final = re.compile(
    "为什么|是不是|有没有|什么时候|什么样的|什么|怎么样|怎么|怎样|如何|哪一年|哪里|哪儿|哪些|哪个|哪位|哪年|哪种|谁|多少|几个|何时|何地|请问|是否|吗|呢|"
    "请|吧|？|\\?|。|，|！"
)
_MAX_CARRIED: Final = 12


@dataclass(frozen=True, slots=True)
class Question:
    """`text` as it was asked, `query` as it is looked for."""

    text: str
    query: str
    language: Language
    goes_on: bool


def read(turns: Sequence[Mapping[str, Any]]) -> Question:
    """The question of a dialogue: turns of a chat with plain texts, the last user turn being the question.

    Where it points back, or says little by itself, what the turns before it were about is carried over: names, figures and the
    other words of the user's last question that is not itself such a one.
    """
    asked = [str(turn["content"]) for turn in turns if turn["role"] == "user"]
    text = asked[-1].strip()
    language = language_of(text)
    goes_on = len(asked) > 1 and _goes_on(text)
    query = text
    if goes_on:
        said = [str(turn["content"]) for turn in turns if turn["role"] == "assistant"]
        carried = _carried(text, asked[:-1], said[-1] if said else "", language)
        query = f"{text} {carried}" if carried else text
    return Question(text, query[:MAX_QUERY_CHARS], language, goes_on)


def _goes_on(text: str) -> bool:
    own = terms(text)
    return bool(_POINTS_BACK.search(text)) or len(own.words | own.numbers) < _FEW


def _carried(text: str, before: Sequence[str], answer: str, language: Language) -> str:
    """Words of earlier turns, in their order, that the question does not hold itself."""
    sources: list[str] = []
    for earlier in reversed(before):
        sources.insert(0, earlier)
        if not _goes_on(earlier):
            break
    held = terms(text)
    found: list[str] = []
    for source in sources:
        for piece in _contents(source, language):
            own = terms(piece)
            if not own.are_empty and not (own.words | own.numbers) <= (held.words | held.numbers) and piece not in found:
                found.append(piece)
    # What the answer's first sentence names is what "it" most often means.
    for span in sentences(MARKS.sub("", answer))[:1]:
        names = terms(span.text).names
        for piece in re.findall(r"[^\W_][\w.-]*", span.text):
            if terms(f"x {piece}").names & names and piece not in found:
                found.append(piece)
    return " ".join(found[:_MAX_CARRIED])


def _contents(text: str, language: Language) -> list[str]:
    if language == "zh" or language_of(text) == "zh":
        return [piece.strip() for piece in _ASKS.split(text) if piece.strip()]
    return [word.strip(".-") for word in re.findall(r"[^\W_][\w.-]*", text) if not terms(word).are_empty]


def is_faithful(rewritten: str, turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a question that a model wrote anew holds nothing that the dialogue does not: it may join, not invent."""
    if not rewritten or len(rewritten) > MAX_QUERY_CHARS or "\n" in rewritten:
        return False
    held = terms("\n".join(str(turn["content"]) for turn in turns))
    own = terms(rewritten)
    if own.are_empty or not own.numbers <= held.numbers or not own.names <= held.words:
        return False
    return len(own.words & held.words) >= 0.7 * len(own.words)
