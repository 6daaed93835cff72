"""The climate of a place and a season, and anomalies from it.

The mean is a constant and two harmonics of the year, fitted by least squares at every point (as WeatherBench 2's smooth
climatology is smoothed over the year); the spread is the root mean square of what remains, over the whole grid for networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import Floats, Times

#: Harmonics of the year.
HARMONICS = 2
_YEAR_DAYS = 365.2425


def phase(times_t: Times) -> NDArray[np.float64]:
    """How far through the year, radians."""
    seconds = times_t.astype("datetime64[s]")
    days = (seconds - seconds.astype("datetime64[Y]").astype("datetime64[s]")).astype(np.float64) / 86_400
    return np.asarray(2 * np.pi * days / _YEAR_DAYS)


def season(times_t: Times) -> NDArray[np.float64]:
    """The seasons' basis, (T, 1 + 2 HARMONICS), and of times within a day the day's first harmonic."""
    angle = phase(times_t)
    columns = [np.ones_like(angle)]
    for each in range(1, HARMONICS + 1):
        columns += [np.cos(each * angle), np.sin(each * angle)]
    return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class Climate:
    """Smooth climatology; C channels, S of the seasons' basis."""

    weights_schw: Floats
    scale_c: Floats

    @classmethod
    def fitted(cls, values_tchw: Floats, times_t: Times) -> Climate:
        """The least-squares fit; a span shorter than a year has no seasons but its mean."""
        basis = season(times_t)
        if (times_t[-1] - times_t[0]).astype("timedelta64[D]").astype(int) < 300:
            basis = np.where(np.arange(basis.shape[1]) == 0, basis, 0.0)
        flat = values_tchw.reshape(len(values_tchw), -1)
        # Normal equations: the data pass once and are never doubled.
        gram = basis.T @ basis
        weights = np.linalg.pinv(gram) @ (basis.T.astype(np.float32) @ flat)
        shape = (basis.shape[1], *values_tchw.shape[1:])
        weights_schw = weights.astype(np.float32).reshape(shape)
        total = np.zeros(values_tchw.shape[1])
        for start in range(0, len(values_tchw), 256):
            part = slice(start, start + 256)
            left = values_tchw[part] - np.einsum("ts,schw->tchw", basis[part].astype(np.float32), weights_schw)
            total += np.square(left, dtype=np.float64).sum(axis=(0, 2, 3))
        count = values_tchw[:, 0].size
        scale = np.sqrt(total / count)
        return cls(weights_schw, np.where(scale > 0, scale, 1.0).astype(np.float32))

    def mean(self, times_t: Times) -> Floats:
        """The climate of these times, (T, C, H, W)."""
        return np.asarray(np.einsum("ts,schw->tchw", season(times_t).astype(np.float32), self.weights_schw), np.float32)

    def anomaly(self, values_tchw: Floats, times_t: Times) -> Floats:
        """How far from the climate, in spreads of the channel."""
        return np.asarray((values_tchw - self.mean(times_t)) / self.scale_c[:, None, None], np.float32)

    def value(self, anomaly_tchw: Floats, times_t: Times) -> Floats:
        """The other way round."""
        return np.asarray(anomaly_tchw * self.scale_c[:, None, None] + self.mean(times_t), np.float32)


def area_weights(latitude_h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of rows by the cosine of their latitude, with mean 1 (WeatherBench 2)."""
    weights = np.cos(np.deg2rad(np.clip(latitude_h, -89.999, 89.999)))
    return np.asarray(weights / weights.mean())
