"""How good a ranking is, how sure that is, and one ranking made of two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What each ranking is measured by.
METRICS = ("ndcg_at_10", "recall_at_5", "mrr_at_10")
#: Constant of reciprocal rank fusion (Cormack et al. 2009).
_RRF = 60


def measure(ranking: Sequence[str], relevant: Mapping[str, float]) -> dict[str, float]:
    """Metrics of one query's ranking, as trec_eval computes them.

    nDCG@10 (Järvelin & Kekäläinen 2002) with the grades as gains, recall@5, and the reciprocal rank of the first relevant
    passage among ten.

    Args:
        ranking: passages, the best first.
        relevant: passage -> grade above 0; not empty.
    """
    gained = sum(relevant.get(passage, 0.0) / math.log2(place + 2) for place, passage in enumerate(ranking[:10]))
    best = sorted(relevant.values(), reverse=True)[:10]
    first = next((place for place, passage in enumerate(ranking[:10], start=1) if passage in relevant), None)
    return {
        "ndcg_at_10": gained / sum(grade / math.log2(place + 2) for place, grade in enumerate(best)),
        "recall_at_5": sum(passage in relevant for passage in ranking[:5]) / len(relevant),
        "mrr_at_10": 0.0 if first is None else 1.0 / first,
    }


def interval(values_n: NDArray[np.floating[Any]], num_samples: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean, by the bootstrap's percentiles (Efron 1979)."""
    chance = np.random.default_rng(seed % (1 << 63))
    means = [float(values_n[chance.integers(0, len(values_n), len(values_n))].mean()) for _ in range(num_samples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def fused_by_rank(first: Sequence[int], second: Sequence[int], weight: float) -> list[int]:
    """Reciprocal rank fusion: `weight` is the first ranking's part. Of equals the smaller index comes first."""
    scores: dict[int, float] = {}
    for ranking, part in ((first, weight), (second, 1 - weight)):
        for place, index in enumerate(ranking, start=1):
            scores[index] = scores.get(index, 0.0) + part / (_RRF + place)
    return sorted(scores, key=lambda index: (-scores[index], index))


def fused_by_score(first: Mapping[int, float], second: Mapping[int, float], weight: float) -> list[int]:
    """The weighted sum of two lists of scores, each scaled so that its best is 1 and its worst 0; what a list lacks is 0."""
    scores: dict[int, float] = {}
    for found, part in ((first, weight), (second, 1 - weight)):
        if not found:
            continue
        low, high = min(found.values()), max(found.values())
        for index, score in found.items():
            scores[index] = scores.get(index, 0.0) + part * ((score - low) / (high - low) if high > low else 1.0)
    return sorted(scores, key=lambda index: (-scores[index], index))
