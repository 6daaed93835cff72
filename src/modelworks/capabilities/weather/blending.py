"""Forecasts of several parts made one, by what each was worth on cases held out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def blend_weights(parts_kn: Floats, target_n: Floats) -> Floats:
    """Weights of at least 0 that sum to 1, by non-negative least squares (Lawson and Hanson 1974)."""
    from scipy.optimize import nnls

    heavy = 10 * float(np.abs(parts_kn).max() or 1.0) * np.sqrt(len(target_n))
    design = np.vstack([parts_kn.T, np.full((1, len(parts_kn)), heavy)])
    weights, _ = nnls(design, np.append(target_n, heavy))
    total = float(weights.sum())
    return np.asarray(weights / total) if total > 0 else np.full(len(parts_kn), 1 / len(parts_kn))
