"""How far an index trusts its encoder: by whether that finds passages of each kind of script by one of their sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.retrieval.layout import open_card
from modelworks.capabilities.retrieval.terms import is_unspaced
from modelworks.capabilities.retrieval.vectors import VectorIndex
from modelworks.contract.errors import IntegrityFailed, InvalidData

#: Weight of meaning against words where the encoder knows the script, and where it does not. See README.md for the figures.
KNOWN, UNKNOWN = 0.3, 0.05
#: Part of the passages that a sentence must find in the first place for its encoder to know the script.
_LEAST_FOUND = 0.35
#: Sentences of each kind of script that are tried; fewer than the least say nothing.
_MOST_SENTENCES, _LEAST_SENTENCES = 96, 16
#: Passages that are looked through for sentences, and those that a sentence is compared with.
_MOST_LOOKED_AT, _MOST_COMPARED = 4000, 20_000
#: No more than one passage in so many may be as near to a sentence as its own.
_ALIKE = 20
_SENTENCE_ENDS = re.compile(r"(?<=[.!?。！？；;])\s*")
_SENTENCE_CHARS = range(10, 161)


@dataclass(frozen=True, slots=True)
class Trust:
    """Weights of meaning against words for queries in scripts with spaces and without."""

    spaced: float = KNOWN
    unspaced: float = KNOWN


def trust(
    count: int,
    text_of: Callable[[int], str],
    vectors: VectorIndex,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
) -> Trust:
    """Try sentences of passages drawn by chance, the same for the same passages.

    An encoder that never learnt a script gives all of its texts like vectors: there the order by meaning is worse than that by
    words, and would spoil it. That is measured here without a single judgement.

    Args:
        count: of passages.
        text_of: a passage by row, without headings.
        encode: queries as vectors of length 1.
    """
    chance = np.random.default_rng(0)
    order = chance.permutation(count)
    tried: dict[bool, list[tuple[int, str]]] = {False: [], True: []}
    for row in order[:_MOST_LOOKED_AT].tolist():
        text = text_of(row)
        kind = is_unspaced(text)
        if len(tried[kind]) < _MOST_SENTENCES and (sentence := _sentence(text)) is not None:
            tried[kind].append((row, sentence))
    found = {}
    for kind, pairs in tried.items():
        if len(pairs) < _LEAST_SENTENCES:
            found[kind] = KNOWN
            continue
        own = np.array([row for row, _ in pairs])
        compared = np.union1d(own, order[:_MOST_COMPARED])
        cosines = vectors.cosines(encode([sentence for _, sentence in pairs]), compared)
        of_own = cosines[np.arange(len(own)), np.searchsorted(compared, own)]
        # Copies of a passage are as near as itself; where much is, the encoder tells nothing apart.
        as_near = (cosines >= of_own[:, None]).sum(axis=1)
        is_first = (cosines.max(axis=1) == of_own) & (as_near <= max(1, len(compared) // _ALIKE))
        found[kind] = KNOWN if is_first.mean() >= _LEAST_FOUND else UNKNOWN
    return Trust(found[False], found[True])


def taken_over(previous: Path, version_id: str | None, count: int) -> Trust | None:
    """What an earlier index found of the same encoder, unless this one is more than twice as large; else None."""
    try:
        card = open_card(previous, with_digests=False)
    except (InvalidData, IntegrityFailed):
        return None
    if version_id is None or card.facts.encoder_version != version_id or count > 2 * card.facts.num_passages:
        return None
    return Trust(card.dense_weight, card.dense_weight_unspaced)


def _sentence(text: str) -> str | None:
    """One from the middle of a text that has more to say; None where there is none."""
    fit = [
        sentence
        for each in _SENTENCE_ENDS.split(text)
        if len(sentence := each.strip()) in _SENTENCE_CHARS and 2 * len(sentence) < len(text)
    ]
    return fit[len(fit) // 2] if fit else None
