"""Ridge regression from patterns of the last states to each of the next: what a network has to beat, and is blended with.

States are projected on the leading empirical orthogonal functions of area-weighted anomalies of all channels together; the
coefficients of the history predict the coefficients of each lead time. The penalty is chosen on the validation states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import Floats
from modelworks.capabilities.weather.model.climate import area_weights

_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True, slots=True)
class Ridge:
    """Legend: K patterns, S states of the history, L steps; D = C H W."""

    patterns_kd: Floats
    weights_lsk: Floats
    #: Square roots of the areas' weights, by which patterns are orthogonal.
    roots_d: Floats

    @classmethod
    def fitted(
        cls,
        anomaly_tchw: Floats,
        valid_tchw: Floats,
        latitude_h: NDArray[np.float64],
        *,
        eofs: int,
        history: int,
        block: int,
    ) -> Ridge:
        """Fit on one stretch of states, choose the penalty on another."""
        num, channels, height, width = anomaly_tchw.shape
        roots = np.sqrt(np.broadcast_to(area_weights(latitude_h)[None, :, None], (channels, height, width))).ravel()
        weighted = anomaly_tchw.reshape(num, -1) * roots.astype(np.float32)
        patterns = _patterns(weighted, min(eofs, num - 1, weighted.shape[1]))
        made = cls(patterns, np.zeros((0, 0, 0), np.float32), roots.astype(np.float32))
        train_tk, valid_tk = made.coefficients(anomaly_tchw), made.coefficients(valid_tchw)
        design, valid_design = _lagged(train_tk, history, block), _lagged(valid_tk, history, block)
        gram = design.T @ design / len(design)
        scale = np.trace(gram) / len(gram)
        weights = []
        for lead in range(1, block + 1):
            target = train_tk[history - 1 + lead : history - 1 + lead + len(design)]
            truth = valid_tk[history - 1 + lead : history - 1 + lead + len(valid_design)]
            moment = design.T @ target / len(design)
            fits = [np.linalg.solve(gram + penalty * scale * np.eye(len(gram)), moment) for penalty in _PENALTIES]
            errors = [float(np.square(valid_design @ fit - truth).mean()) for fit in fits]
            weights.append(fits[int(np.argmin(errors))])
        return cls(patterns, np.stack(weights).astype(np.float32), made.roots_d)

    def coefficients(self, anomaly_tchw: Floats) -> NDArray[np.float64]:
        """Of each state, (T, K)."""
        flat = anomaly_tchw.reshape(len(anomaly_tchw), -1) * self.roots_d
        return np.asarray(flat @ self.patterns_kd.T, np.float64)

    def __call__(self, history_schw: Floats) -> Floats:
        """The next steps' anomalies of one history, (L, C, H, W)."""
        row = self.coefficients(history_schw).ravel()
        found = np.einsum("s,lsk->lk", row.astype(np.float32), self.weights_lsk) @ self.patterns_kd
        return np.asarray(found / self.roots_d, np.float32).reshape(-1, *history_schw.shape[1:])


def _lagged(coefficients_tk: NDArray[np.float64], history: int, block: int) -> NDArray[np.float64]:
    """One row for each start that has a whole history before it and a whole block after it; the oldest state first."""
    num = len(coefficients_tk) - history - block + 1
    return np.concatenate([coefficients_tk[lag : lag + num] for lag in range(history)], axis=1)


def _patterns(weighted_td: Floats, count: int) -> Floats:
    """The leading right singular vectors, by whichever side is smaller."""
    rows, columns = weighted_td.shape
    if columns <= rows:
        values, vectors = np.linalg.eigh(weighted_td.T @ weighted_td)
        found = vectors[:, ::-1][:, :count].T
    else:
        values, vectors = np.linalg.eigh(weighted_td @ weighted_td.T)
        left = vectors[:, ::-1][:, :count]
        found = (left / np.sqrt(np.maximum(values[::-1][:count], 1e-12))).T @ weighted_td
    # The sign of a pattern is nobody's choice; fix it so that results can be repeated.
    signs = np.sign(found[np.arange(len(found)), np.abs(found).argmax(axis=1)])
    return np.asarray(found * signs[:, None], np.float32)
