"""Is one model better than another, or is it chance? A paired bootstrap over the samples that both answered.

Method: the percentile bootstrap (Efron 1979) of the difference of two weighted means, resampling samples, so that what makes a
sample hard for both models cancels out (Koehn 2004 does the same for translations).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from modelworks.kernel.catalog.schemas import Verdict

NUM_RESAMPLES = 10_000
#: Fewer say nothing about others like them.
MIN_SAMPLES = 5
#: More are put together into so many groups at random: a byte then draws one, and the interval widens by some percent at most.
_MAX_GROUPS = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """One sample's (value, weight) under both models."""

    baseline: tuple[float, float]
    candidate: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two weighted means, candidate - baseline, and the interval of that."""

    baseline: float
    candidate: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.candidate - self.baseline

    def verdict(self, *, lower_is_better: bool) -> Verdict:
        """The words better or worse where the interval leaves out 0, else undecided."""
        low, high = (-self.high, -self.low) if lower_is_better else (self.low, self.high)
        return "better" if low > 0 else "worse" if high < 0 else "undecided"


def compare(
    pairs: Sequence[Pair], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES, confidence: float = 0.95
) -> Difference:
    """The difference of the weighted means and its interval; the same pairs and seed give the same numbers.

    Args:
        pairs: at least `MIN_SAMPLES`, with positive weights.
        confidence: how much of the resampled differences the interval holds.
    """
    chance = random.Random(seed)  # noqa: S311 - statistics, no secret
    columns = [
        [pair.baseline[0] * pair.baseline[1] for pair in pairs],
        [pair.baseline[1] for pair in pairs],
        [pair.candidate[0] * pair.candidate[1] for pair in pairs],
        [pair.candidate[1] for pair in pairs],
    ]
    means = sum(columns[0]) / sum(columns[1]), sum(columns[2]) / sum(columns[3])
    columns = _grouped(columns, chance)
    num_groups = len(columns[0])
    draw = _Draw(num_groups, chance)
    differences = []
    for _ in range(num_resamples):
        drawn = draw()
        base, base_weight, new, new_weight = (sum(map(column.__getitem__, drawn)) for column in columns)
        differences.append(new / new_weight - base / base_weight)
    differences.sort()
    tail = round(num_resamples * (1 - confidence) / 2)
    return Difference(*means, low=differences[tail], high=differences[-tail - 1])


def _grouped(columns: list[list[float]], chance: random.Random) -> list[list[float]]:
    size = len(columns[0])
    if size <= _MAX_GROUPS:
        return columns
    order = list(range(size))
    chance.shuffle(order)
    return [[sum(column[place] for place in order[group::_MAX_GROUPS]) for group in range(_MAX_GROUPS)] for column in columns]


class _Draw:
    """Draws n of n with replacement, as bytes: far faster than one random number each."""

    def __init__(self, size: int, chance: random.Random) -> None:
        self._size = size
        self._chance = chance
        # Bytes from here on would make the first numbers likelier than the last, and are thrown away.
        limit = 256 - 256 % size
        self._reject = bytes(range(limit, 256))
        self._table = bytes(value % size for value in range(256))

    def __call__(self) -> bytes:
        drawn = b""
        while len(drawn) < self._size:
            drawn += self._chance.randbytes(2 * self._size).translate(self._table, self._reject)
        return drawn[: self._size]
