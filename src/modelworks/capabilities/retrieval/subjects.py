"""What documents are about: terms that much of a document has, which tell it from the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.retrieval.layout import Passages
from modelworks.capabilities.retrieval.terms import COMMON_WEIGHT, weighed
from modelworks.capabilities.retrieval.words import WordIndex

#: A document is about a term that at least this share of its passages has; so many passages without it are added to each
#: document, so that two or three that agree by chance prove nothing.
_LEAST_SHARE, _ADDED = 0.3, 5
#: Added to what a query's terms tell, so that a term which nearly all documents are about moves little.
_DOUBT = 0.5
#: A passage of the document that a query names counts as if it were asked for so many times more.
_GAIN = 2.0


class Subjects:
    """Prefers passages of the documents that a query is about.

    The words of a question are in the reports of every quarter; which one is meant, a few terms say that stand in the name of
    a document, in its title or throughout it. A document is about a term as far as its passages have it (their share, see
    `_LEAST_SHARE`), and a term counts by how few documents are about it. Documents of one or two passages are about nothing
    that the passages themselves do not say.

    Args:
        passages, words: of one index.
    """

    def __init__(self, passages: Passages, words: WordIndex) -> None:
        self._words = words
        sizes = np.diff(passages.firsts)
        large = sizes / (sizes + _ADDED) >= _LEAST_SHARE
        self._sizes: NDArray[np.float64] = sizes[large] + float(_ADDED)
        # Rows of all the other documents belong to one that is left out of the counts.
        number = np.where(large, np.cumsum(large) - 1, len(self._sizes)).astype(np.int32)
        self._number_of: NDArray[np.int32] = np.repeat(number, sizes)

    def lifted(self, query: str, scores_n: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [n] by words, from 0 to 1, with those raised whose document the query is about; none passes 1."""
        about = self._about(query)
        if about is None:
            return scores_n
        found: NDArray[np.float32] = 1 - (1 - scores_n) ** (1 + np.float32(_GAIN) * about[self._number_of])
        return found

    def _about(self, query: str) -> NDArray[np.float32] | None:
        """How far each large document, and last all others (0), is what the query is about; None where it names none."""
        count = len(self._sizes)
        if count < 2:
            return None
        found = np.zeros(count + 1)
        most = 0.0
        for term, weight in weighed(query).items():
            rows = self._words.rows(term)
            if weight <= COMMON_WEIGHT or rows is None:
                continue
            shares = np.bincount(self._number_of[rows], minlength=count + 1)[:count] / self._sizes
            shares[shares < _LEAST_SHARE] = 0
            documents = float(shares.sum())
            if documents == 0:
                continue
            rarity = float(np.log1p((count - documents + 0.5) / (documents + 0.5)))
            most += rarity * float(shares.max())
            found[:count] += rarity * shares
        return (found / (most + _DOUBT)).astype(np.float32) if most > 0 else None
