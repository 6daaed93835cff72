"""How sure a score is: the bootstrap over blocks of start dates, as neighbouring forecasts are wrong alike.

Source: Künsch 1989 (moving blocks); the percentile interval.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: A score of starts that were drawn: of indices (B, N) the scores (B,).
Score = Callable[[NDArray[np.intp]], NDArray[np.float64]]


def drawn(count: int, block: int, samples: int, seed: int) -> NDArray[np.intp]:
    """Indices of starts, (samples, count): blocks of neighbours, drawn with replacement, round the end."""
    # Of few starts, blocks of their number would all be the whole.
    block = min(block, max(1, count // 4))
    rng = np.random.default_rng(seed)
    num_blocks = -(-count // block)
    begins = rng.integers(0, count, (samples, num_blocks))
    indices = (begins[:, :, None] + np.arange(block)) % count
    return np.asarray(indices.reshape(samples, -1)[:, :count])


def interval(score: Score, indices: NDArray[np.intp], confidence: float) -> tuple[float, float]:
    """The percentile interval of a score over such draws."""
    values = score(indices)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def root_mean(mse_n: NDArray[np.float64]) -> Score:
    """The root of the mean of the starts that were drawn."""
    return lambda indices: np.asarray(np.sqrt(mse_n[indices].mean(axis=1)))


def mean(values_n: NDArray[np.float64]) -> Score:
    """The mean of the starts that were drawn."""
    return lambda indices: np.asarray(values_n[indices].mean(axis=1))


def relative(ours_n: NDArray[np.float64], theirs_n: NDArray[np.float64]) -> Score:
    """By how much the root mean square error of the first is smaller, as a part of the second's, on the same starts."""
    return lambda indices: np.asarray(1 - np.sqrt(ours_n[indices].mean(axis=1) / theirs_n[indices].mean(axis=1)))
