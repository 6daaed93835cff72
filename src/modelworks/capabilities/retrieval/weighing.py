"""How far an index trusts its encoder: by what it adds to words, in a trial on the index's own passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.retrieval.layout import Passages, open_card
from modelworks.capabilities.retrieval.subjects import Subjects
from modelworks.capabilities.retrieval.terms import is_unspaced, terms
from modelworks.capabilities.retrieval.vectors import VectorIndex, likeness
from modelworks.capabilities.retrieval.words import WordIndex
from modelworks.contract.errors import IntegrityFailed, InvalidData
from modelworks.contract.passages import Passage

#: Raised when the same passages and vectors give other weights than before: those of an earlier index are not taken over.
WEIGHING_VERSION = 2
#: Weight of meaning against words where the trial can say nothing, and where meaning adds nothing above chance: there it
#: decides among what words leave equal, and where no passage has a word of the query.
KNOWN, UNKNOWN = 0.3, 0.02
#: Weights that are tried, the heaviest first. None is heavier than `KNOWN`, because a question shares
#: more words with its passage than a sentence does with what stood around it: the trial speaks for meaning.
_TRIED = (KNOWN, 0.2, 0.1)
#: Standard errors by which a weight must find better than another, to be above chance.
_ERRORS = 2.0
#: Sentences of each kind of script that are tried; fewer than the least say nothing.
_MOST_SENTENCES, _LEAST_SENTENCES = 192, 16
#: Passages that are looked through for sentences, and those that a sentence is compared with.
_MOST_LOOKED_AT, _MOST_COMPARED = 4000, 20_000
_SENTENCE_ENDS = re.compile(r"(?<=[.!?。！？；;])\s*")
_SENTENCE_CHARS = range(10, 161)

#: Vectors of length 1 of queries or of documents.
Encode = Callable[[Sequence[str], Literal["query", "document"]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Trust:
    """Weights of meaning against words for queries in scripts with spaces and without."""

    spaced: float = KNOWN
    unspaced: float = KNOWN


@dataclass(frozen=True, slots=True)
class _Taken:
    """A sentence that is asked for, and the passage of a row with and without it."""

    row: int
    sentence: str
    whole: Passage
    rest: Passage


def trust(
    passages: Passages,
    words: WordIndex,
    vectors: VectorIndex,
    unlike: float,
    texts: Callable[[int, Passage], tuple[str, str]],
    encode: Encode,
) -> Trust:
    """Try sentences of passages drawn by chance, the same for the same passages: the inverse cloze task (Lee et al. 2019).

    A sentence is asked for, and its passage is to be found by what else stands in it: the sentence is taken out of its words
    and of its vector. Were it left in, any encoder would find it by the letters alone, and one that knows no more than these
    would seem to know the script. Passages that have the sentence, too, are left out. Each weight is tried as the search uses
    it, by the mean reciprocal rank of the passages. The heaviest is taken that is above words alone, and below no lighter one,
    by more than chance. No judgement is needed.

    Args:
        passages, words, vectors: of the index.
        unlike: cosine of passages that have nothing to do with each other.
        texts: what of a passage at a row is encoded, and what of it is counted.
    """
    order = np.random.default_rng(0).permutation(len(passages))
    tried: dict[bool, list[_Taken]] = {False: [], True: []}
    for row in order[:_MOST_LOOKED_AT].tolist():
        passage = passages.at(row)
        kind = is_unspaced(passage.text)
        if len(tried[kind]) < _MOST_SENTENCES and (taken := _taken(row, passage)) is not None:
            tried[kind].append(taken)
    subjects = Subjects(passages, words)
    found = {}
    for kind, sentences in tried.items():
        if len(sentences) < _LEAST_SENTENCES:
            found[kind] = KNOWN
            continue
        own = np.array([each.row for each in sentences])
        compared = np.union1d(own, order[:_MOST_COMPARED])
        at = np.searchsorted(compared, own)
        by_words = np.stack([_words(each, words, subjects, texts)[compared] for each in sentences])
        by_meaning = _meaning(sentences, vectors, unlike, compared, at, texts, encode)
        found[kind] = _best(by_words, by_meaning, at)
    return Trust(found[False], found[True])


def taken_over(previous: Path, version_id: str | None, count: int) -> Trust | None:
    """What an earlier index found of the same encoder, unless this one is more than twice as large; else None."""
    try:
        card = open_card(previous, with_digests=False)
    except (InvalidData, IntegrityFailed):
        return None
    if version_id is None or card.facts.encoder_version != version_id or count > 2 * card.facts.num_passages:
        return None
    if card.weighing != WEIGHING_VERSION:
        return None
    return Trust(card.dense_weight, card.dense_weight_unspaced)


def _taken(row: int, passage: Passage) -> _Taken | None:
    """A sentence from the middle of a passage that has more to say; None where there is none."""
    text = passage.text
    fit = [
        sentence
        for each in _SENTENCE_ENDS.split(text)
        if len(sentence := each.strip()) in _SENTENCE_CHARS and 2 * len(sentence) < len(text)
    ]
    if not fit:
        return None
    sentence = fit[len(fit) // 2]
    rest = text.replace(sentence, " ")
    return _Taken(row, sentence, passage, passage.model_copy(update={"text": rest})) if terms(rest) else None


def _words(
    taken: _Taken, words: WordIndex, subjects: Subjects, texts: Callable[[int, Passage], tuple[str, str]]
) -> NDArray[np.float32]:
    """Scores [n] of a sentence by words, its own passage without it; -1 for other passages that have all of it."""
    scores = words.scores(taken.sentence)
    whole, rest = (terms(texts(taken.row, each)[1]) for each in (taken.whole, taken.rest))
    scores[taken.row] = words.score_without(taken.sentence, taken.row, whole, rest)
    scores = subjects.lifted(taken.sentence, scores)
    own = scores[taken.row]
    scores[words.with_all(terms(taken.sentence))] = -1
    scores[taken.row] = own
    return scores


def _meaning(
    sentences: Sequence[_Taken],
    vectors: VectorIndex,
    unlike: float,
    compared: NDArray[np.intp],
    at: NDArray[np.intp],
    texts: Callable[[int, Passage], tuple[str, str]],
    encode: Encode,
) -> NDArray[np.float32]:
    """Likeness [q, c] of sentences with the compared passages, each with its own as it is without the sentence."""
    asked_qd = encode([each.sentence for each in sentences], "query")
    rests_qd = encode([texts(each.row, each.rest)[0] for each in sentences], "document")
    cosines = vectors.cosines(asked_qd, compared)
    cosines[np.arange(len(at)), at] = (asked_qd * rests_qd).sum(axis=1)
    return likeness(cosines, unlike)


def _best(by_words: NDArray[np.float32], by_meaning: NDArray[np.float32], at: NDArray[np.intp]) -> float:
    """The heaviest weight that is above words alone, and below no lighter one, by more than chance; else `UNKNOWN`."""
    has_it = by_words < 0

    def reciprocal(weight: float) -> NDArray[np.float64]:
        """Of the rank of each sentence's passage; of equals it has the middle."""
        total = np.where(has_it, np.float32(-1), weight * by_meaning + (1 - weight) * by_words)
        own = total[np.arange(len(at)), at][:, None]
        ranks: NDArray[np.float64] = 1 / (1 + (total > own).sum(axis=1) + ((total == own).sum(axis=1) - 1) / 2)
        return ranks

    found = {weight: reciprocal(weight) for weight in (*_TRIED, 0.0)}
    for place, weight in enumerate(_TRIED):
        is_below = any(_is_above(found[lighter], found[weight]) for lighter in _TRIED[place + 1 :])
        if _is_above(found[weight], found[0.0]) and not is_below:
            return weight
    return UNKNOWN


def _is_above(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether paired values are above others by more than chance."""
    gains = one - other
    gain = float(gains.mean())
    return gain > 0 and gain > _ERRORS * float(gains.std(ddof=1)) / len(gains) ** 0.5
