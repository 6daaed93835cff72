"""Search by meaning: every passage's vector in eight bits a number, compared with a query's by their cosine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.retrieval.words import open_array
from modelworks.contract.errors import IntegrityFailed

#: Rows that are widened to floats at a time: they stay in the processor's cache.
_ROWS_AT_A_TIME = 512
#: Pairs of passages whose cosines say what no likeness is.
_PAIRS = 4096


def quantised(vectors_nd: NDArray[np.float32]) -> NDArray[np.int8]:
    """Vectors with their largest number as 127. Their length is lost, which a cosine does not ask for."""
    largest = np.abs(vectors_nd).max(axis=1, keepdims=True)
    found: NDArray[np.int8] = np.rint(vectors_nd * (127 / np.maximum(largest, 1e-30))).astype(np.int8)
    return found


class VectorIndex:
    """Cosines by looking at every passage: exact but for the eight bits, and nothing to build.

    Args:
        file: int8 [n, d].

    Raises:
        IntegrityFailed: the file holds something else.
    """

    def __init__(self, file: Path, num_passages: int, dimensions: int) -> None:
        self.rows: NDArray[np.int8] = open_array(file, np.int8, 2)
        if self.rows.shape != (num_passages, dimensions):
            raise IntegrityFailed(f"{file.name} of the index has another shape than its card.", hint="Build the index again.")
        self._lengths = np.empty(num_passages, np.float32)
        for first in range(0, num_passages, _ROWS_AT_A_TIME):
            wide_nd = self.rows[first : first + _ROWS_AT_A_TIME].astype(np.float32)
            self._lengths[first : first + len(wide_nd)] = np.linalg.norm(wide_nd, axis=1)
        np.maximum(self._lengths, 1.0, out=self._lengths)

    def cosines(self, queries_qd: NDArray[np.float32], rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Cosines [q, n] of queries of length 1 with all passages, or with those of some rows; 0 for a passage without one."""
        count = len(self.rows) if rows is None else len(rows)
        found = np.empty((len(queries_qd), count), np.float32)
        turned_dq = np.ascontiguousarray(queries_qd.T)
        for first in range(0, count, _ROWS_AT_A_TIME):
            last = min(count, first + _ROWS_AT_A_TIME)
            chosen = slice(first, last) if rows is None else rows[first:last]
            found[:, first:last] = (self.rows[chosen].astype(np.float32) @ turned_dq).T
        found /= self._lengths if rows is None else self._lengths[rows]
        return found


def likeness(cosines: NDArray[np.float32], unlike: float) -> NDArray[np.float32]:
    """How alike texts are from 0 to 1, of their cosines: what passages drawn by chance have (see `unlikeness`) is none."""
    found: NDArray[np.float32] = np.clip((cosines - np.float32(unlike)) / np.float32(1 - unlike), 0, 1)
    return found


def unlikeness(rows_nd: NDArray[np.int8]) -> float:
    """The mean cosine of passages drawn by chance: encoders differ in where vectors lie, and so in what is no likeness."""
    count = len(rows_nd)
    if count < 2:
        return 0.0
    chance = np.random.default_rng(0)
    first = chance.integers(0, count, _PAIRS)
    second = (first + chance.integers(1, count, _PAIRS)) % count
    one, two = rows_nd[first].astype(np.float32), rows_nd[second].astype(np.float32)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    mean = float((np.einsum("nd,nd->n", one, two) / np.maximum(lengths, 1.0)).mean())
    return round(min(0.95, max(-1.0, mean)), 4)


def unit(vectors: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """Queries of length 1; a vector of zeros stays."""
    found = np.asarray(vectors, np.float32)
    lengths: NDArray[np.float32] = np.linalg.norm(found, axis=1, keepdims=True)
    found /= np.maximum(lengths, 1e-12)
    return found
