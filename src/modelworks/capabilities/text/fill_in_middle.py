"""Source code with its middle moved to the end, from which a model learns to fill a gap.

Method: Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle", in the order prefix, suffix,
middle, with the tokens that Qwen2.5-Coder uses. Code is cut into pieces that fit into a training block first, since a gap whose
surroundings lie in another block teaches nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelworks.capabilities.text.data import Document

FIM_PREFIX = "<|fim_prefix|>"
FIM_MIDDLE = "<|fim_middle|>"
FIM_SUFFIX = "<|fim_suffix|>"
FIM_TOKENS = (FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)

#: Stand for the two texts in `_FAMILIES`.
_BEFORE, _BEHIND = object(), object()
#: How models are asked to fill a gap, in their own tokens: Qwen2.5-Coder and CodeGemma, StarCoder and Granite, Code Llama,
#: DeepSeek-Coder, Codestral.
_FAMILIES: tuple[tuple[object, ...], ...] = (
    (FIM_PREFIX, _BEFORE, FIM_SUFFIX, _BEHIND, FIM_MIDDLE),
    ("<fim_prefix>", _BEFORE, "<fim_suffix>", _BEHIND, "<fim_middle>"),
    ("▁<PRE>", _BEFORE, "▁<SUF>", _BEHIND, "▁<MID>"),
    ("<｜fim▁begin｜>", _BEFORE, "<｜fim▁hole｜>", _BEHIND, "<｜fim▁end｜>"),
    ("[SUFFIX]", _BEHIND, "[PREFIX]", _BEFORE),
)

#: What counts as source code, by the name of the document.
_CODE_SUFFIXES = (".py",)
#: A piece of code has about three characters to a token.
_CHARS_PER_TOKEN = 3
_FEWEST_LINES = 3


@dataclass(frozen=True, slots=True)
class GapMarks:
    """How one model is asked to fill a gap."""

    #: Ids, and the two texts in their places.
    order: tuple[object, ...]

    @classmethod
    def of(cls, vocabulary: Mapping[str, int]) -> GapMarks | None:
        """Told by the tokens that a model has; None where it has none of those known."""
        for family in _FAMILIES:
            if all(not isinstance(each, str) or each in vocabulary for each in family):
                return cls(tuple(vocabulary[each] if isinstance(each, str) else each for each in family))
        return None

    @property
    def ids(self) -> frozenset[int]:
        """The tokens themselves, none of which belongs into a gap."""
        return frozenset(each for each in self.order if isinstance(each, int))

    def around(self, before: Sequence[int], behind: Sequence[int]) -> list[int]:
        """The prompt that a middle follows."""
        found: list[int] = []
        for each in self.order:
            found += [each] if isinstance(each, int) else before if each is _BEFORE else behind
        return found


@dataclass(frozen=True, slots=True)
class Gap:
    """A piece of code as three texts; put together they are the piece."""

    prefix: str
    middle: str
    suffix: str


def is_code(document: Document) -> bool:
    """Whether a document is source code, told by its name."""
    name = document.name.removesuffix(".gz")
    return name.endswith(_CODE_SUFFIXES)


def gaps(document: Document, block_length: int, chooser: random.Random) -> Iterator[Gap]:
    """A document's pieces, each with a gap: whole lines in half of them, any characters in the others.

    Args:
        block_length: tokens of a training block, into which a piece should fit.
    """
    for piece in _pieces(document.text, block_length * _CHARS_PER_TOKEN * 3 // 4):
        starts = [match.start() for match in re.finditer(r"^(?=.|\n)", piece, re.MULTILINE)]
        if len(starts) < _FEWEST_LINES:
            continue
        if chooser.random() < 0.5:
            places = [*starts, len(piece)]
            first = chooser.randrange(len(places) - 1)
            last = min(len(places) - 1, first + chooser.randint(1, 6))
            start, end = places[first], places[last]
        else:
            start, end = sorted(chooser.sample(range(len(piece) + 1), 2))
            end = min(end, start + max(1, len(piece) // 2))
        yield Gap(piece[:start], piece[start:end], piece[end:])


def _pieces(text: str, num_chars: int) -> Iterator[str]:
    """Consecutive lines, put together to at most so many characters; cut before a definition where one is near."""
    piece: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        fresh = re.match(r"(?:@|def |class |async def )", line) is not None and length > num_chars // 2
        if piece and (fresh or length + len(line) > num_chars):
            yield "".join(piece)
            piece, length = [], 0
        piece.append(line)
        length += len(line)
    if piece:
        yield "".join(piece)
