"""Whether a passage says what an answer says, by its words: figures and names must all be there, and most other words."""

from __future__ import annotations

import re
from typing import Final

from modelworks.capabilities.document.language import CJK
from modelworks.capabilities.document.samples.schemas import Language

_FIGURE: Final = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_CJK_RUN: Final = re.compile(f"[{CJK}]+")
_COMMON: Final = re.compile(
    "an?|and|are|as|at|be|been|but|by|can|could|did|do|does|for|from|had|has|have|how|if|in|into|is|it|its|may|more|most|must|"
    "no|not|of|on|one|only|or|other|our|over|should|so|some|such|than|that|the|their|them|then|there|these|they|this|those|to|"
    "under|up|was|we|were|what|when|where|which|who|why|will|with|would|you|your|documents?|passages?"
)
_COMMON_CJK: Final = re.compile("[的了是在和与有为以及其这那之也都就而或于被把对从到等个们所着过吗呢]")
_LEAST_SHARE: Final = {"en": 0.6, "zh": 0.5}
_NOT: Final = re.compile(r"\b(?:not|no|never|none|cannot|without|n't)\b|n['’]t\b|不|没|未|无|非", re.IGNORECASE)


def words(text: str) -> frozenset[str]:
    """What a text is about: words in small letters without the commonest, and pairs of Chinese characters."""
    plain = (each.lower() for each in _WORD.findall(_CJK_RUN.sub(" ", text)))
    found = {_stem(word) for word in plain if not _COMMON.fullmatch(word)}
    for run in _CJK_RUN.findall(text):
        for piece in _COMMON_CJK.split(run):
            found.update(piece[at : at + 2] for at in range(max(1, len(piece) - 1)) if piece)
    return frozenset(found - {""})


def figures(text: str) -> frozenset[str]:
    """The numbers of a text, without separators of thousands."""
    return frozenset(re.sub(r",(?=\d{3})", "", each) for each in _FIGURE.findall(text))


def share(asked: str, text: str) -> float:
    """Which part of the words and figures of `asked` stand in `text`; 0 where there are none."""
    wanted = words(asked) | figures(asked)
    return len(wanted & (words(text) | figures(text))) / len(wanted) if wanted else 0.0


def stands(answer: str, passage: str, language: Language) -> bool:
    """Whether `passage` supports `answer`."""
    if not figures(answer) <= figures(passage) or share(answer, passage) < _LEAST_SHARE[language]:
        return False
    held = {word.lower() for word in _WORD.findall(passage)}
    names = [word.lower() for word in re.findall(r"(?<=\S )[A-Z][^\W\d_]+", answer)]
    if not all(name in held or _COMMON.fullmatch(name) for name in names):
        return False
    return bool(_NOT.search(answer)) <= bool(_NOT.search(passage))


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word
