"""Search by words, BM25 over English words and Chinese characters: for negatives, and as what vectors are held against."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
#: A run of a script that is written without spaces, or a word of another.
_RUNS = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_IS_CJK = re.compile(rf"[{_CJK}]")


def terms(text: str) -> list[str]:
    """What is counted: words in lower case after NFKC; of Chinese and Japanese every character and every two neighbours."""
    found: list[str] = []
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text).lower()):
        if _IS_CJK.match(run):
            found.extend(run)
            found.extend(run[place : place + 2] for place in range(len(run) - 1))
        else:
            found.append(run)
    return found


class WordIndex:
    """BM25 over passages, in the form of Lucene (k1 = 1.5, b = 0.75), computed by bm25s (Lù 2024).

    Args:
        passages: at least one.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        ids = [[numbers.setdefault(term, len(numbers)) for term in terms(text)] for text in passages]
        self._numbers = numbers
        self._size = len(passages)
        self._index: bm25s.BM25 | None = None
        if numbers:
            self._index = bm25s.BM25()
            self._index.index((ids, numbers), create_empty_token=False, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """The score of every passage; 0 where it shares no term."""
        known = [self._numbers[term] for term in terms(query) if term in self._numbers]
        if not known or self._index is None:
            return np.zeros(self._size, dtype=np.float32)
        found: NDArray[np.float32] = self._index.get_scores_from_ids(known)
        return found

    def best(self, query: str, count: int) -> list[int]:
        """The passages that share terms with the query, the best first; of equals the earlier."""
        return top(self.scores(query), count)


def top(scores_n: NDArray[np.floating], count: int) -> list[int]:
    """Indices of the highest scores above 0, at most `count`; of equals the earlier comes first."""
    count = min(count, len(scores_n))
    if count < len(scores_n):
        least = np.partition(scores_n, -count)[-count]
        candidates = np.flatnonzero(scores_n >= least)
    else:
        candidates = np.arange(len(scores_n))
    candidates = candidates[scores_n[candidates] > 0]
    ranked = candidates[np.lexsort((candidates, -scores_n[candidates]))]
    return [int(index) for index in ranked[:count]]
