"""How near one text comes to another, from 0 to 1, by the measures that OpenAI's grader names.

Words are those of `evaluation.scores`: a Chinese or Japanese character is one.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence

from modelworks.capabilities.text.evaluation.scores import rouge_l, sentence_bleu, words
from modelworks.contract.errors import MissingExtra, UnsupportedParameter
from modelworks.contract.grading import SimilarityMetric

#: Time grows with the product of the lengths.
_MAX_CHARS, _MAX_WORDS = 20_000, 2000
_GLEU_ORDER = 4


def check_metric(metric: SimilarityMetric, param: str) -> None:
    """Raise unless `similarity` can compute it.

    Raises:
        UnsupportedParameter: it needs a model of embeddings.
        MissingExtra: it needs a library that is not installed.
    """
    if metric == "cosine":
        raise UnsupportedParameter(
            f"{param}.evaluation_metric: 'cosine' compares embeddings, and no embedding model is offered.",
            hint="Use fuzzy_match, bleu, gleu, meteor or one of rouge_1 to rouge_5 and rouge_l.",
            param=f"{param}.evaluation_metric",
        )
    if metric == "bleu" and importlib.util.find_spec("sacrebleu") is None:
        raise MissingExtra.of("sacrebleu", "text")


def similarity(metric: SimilarityMetric, text: str, reference: str) -> float:
    """The measure of that name; 1 for the same text."""
    if metric == "fuzzy_match":
        return fuzzy_match(text, reference)
    if metric == "bleu":
        return sentence_bleu(text, reference)
    if metric == "rouge_l":
        return rouge_l(text, reference)
    ours, theirs = (words(each.lower())[:_MAX_WORDS] for each in (text, reference))
    if metric == "gleu":
        return gleu(ours, theirs)
    if metric == "meteor":
        return meteor(ours, theirs)
    return rouge_n(ours, theirs, int(metric.removeprefix("rouge_")))


def fuzzy_match(text: str, reference: str) -> float:
    """Twice the longest common subsequence of characters over both lengths: the normalised indel similarity."""
    ours, theirs = text[:_MAX_CHARS], reference[:_MAX_CHARS]
    if not ours and not theirs:
        return 1.0
    return 2 * _common(ours, theirs) / (len(ours) + len(theirs))


def _common(ours: str, theirs: str) -> int:
    """Length of the longest common subsequence, a row of the table per character in the bits of one number (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, character in enumerate(ours):
        places[character] = places.get(character, 0) | 1 << place
    full = (1 << len(ours)) - 1
    row = full
    for character in theirs:
        matches = row & places.get(character, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(ours) - row.bit_count()


def gleu(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """The smaller of precision and recall over all n-grams up to 4 (Wu et al. 2016)."""
    mine, other = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for length in range(1, _GLEU_ORDER + 1):
        mine += _grams(ours, length)
        other += _grams(theirs, length)
    if not mine or not other:
        return float(ours == theirs)
    return (mine & other).total() / max(mine.total(), other.total())


def rouge_n(ours: Sequence[str], theirs: Sequence[str], length: int) -> float:
    """F1 of the n-grams of that length (Lin 2004); texts that are shorter than one are compared as they are."""
    mine, other = _grams(ours, length), _grams(theirs, length)
    if not mine or not other:
        return float(ours == theirs)
    return 2 * (mine & other).total() / (mine.total() + other.total())


def meteor(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """METEOR (Banerjee & Lavie 2005) with its module of exact matches alone: stems and synonyms would need dictionaries.

    Words are matched from left to right, each where it continues the run before it, or else at its first free place.
    """
    if not ours or not theirs:
        return float(ours == theirs)
    free: dict[str, list[int]] = {}
    for place, word in enumerate(theirs):
        free.setdefault(word, []).append(place)
    matches, chunks, last = 0, 0, -2
    for word in ours:
        places = free.get(word)
        if not places:
            last = -2
            continue
        found = last + 1 if last + 1 in places else places[0]
        places.remove(found)
        matches += 1
        chunks += found != last + 1
        last = found
    if not matches:
        return 0.0
    precision, recall = matches / len(ours), matches / len(theirs)
    mean = 10 * precision * recall / (recall + 9 * precision)
    # One run over both whole texts is no break at all.
    breaks = 0.0 if chunks == 1 else chunks / matches
    return mean * (1 - 0.5 * breaks**3)


def _grams(sequence: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(sequence[start : start + length]) for start in range(len(sequence) - length + 1))
