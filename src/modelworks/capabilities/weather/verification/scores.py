"""Scores of one forecast against the truth, as WeatherBench 2 defines them (Rasp et al. 2024, section 2 and appendix).

Means over an area are weighted by the cosine of the latitude. Legend: N starts, L leads, C channels, M members, H, W.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from modelworks.capabilities.weather.grid.grids import Floats
from modelworks.capabilities.weather.model.climate import area_weights

Scores = NDArray[np.float64]


def area_mean(values_hw: Floats | Scores, latitude_h: NDArray[np.float64]) -> Scores:
    """The mean over the last two axes, weighted by area."""
    weighted = np.asarray(values_hw, np.float64) * area_weights(latitude_h)[:, None]
    return np.asarray(weighted.mean(axis=(-2, -1)))


def errors(found: Floats, truth: Floats, latitude_h: NDArray[np.float64]) -> dict[str, Scores]:
    """Mean square, mean absolute and mean error of each field: `mse`, `mae`, `bias`.

    The root mean square error over many starts is the root of the mean of `mse` over them, not the mean of their roots.
    """
    apart = np.asarray(found, np.float64) - truth
    return {
        "mse": area_mean(np.square(apart), latitude_h),
        "mae": area_mean(np.abs(apart), latitude_h),
        "bias": area_mean(apart, latitude_h),
    }


def anomaly_correlation(found: Floats, truth: Floats, climate: Floats, latitude_h: NDArray[np.float64]) -> Scores:
    """ACC of each field: the area-weighted correlation, not centred, of departures from the smooth climatology.

    The climatology itself has no departures, and its ACC is nan.
    """
    ours, theirs = np.asarray(found, np.float64) - climate, np.asarray(truth, np.float64) - climate
    product = area_mean(ours * theirs, latitude_h)
    length = np.sqrt(area_mean(np.square(ours), latitude_h) * area_mean(np.square(theirs), latitude_h))
    return np.asarray(np.divide(product, length, out=np.full_like(product, np.nan), where=length > 0))


def crps(members_mhw: Floats, truth: Floats, latitude_h: NDArray[np.float64]) -> Scores:
    """The fair continuous ranked probability score of an ensemble; members are the first axis.

    `E|X - y| - E|X - X'| / 2` with the second mean over pairs of different members (Zamo and Naveau 2018).
    """
    members = np.sort(np.asarray(members_mhw, np.float64), axis=0)
    count = len(members)
    skill = np.abs(members - truth).mean(axis=0)
    # Of sorted members, the sum of distances of all pairs is a weighted sum of the members.
    ranks = (2 * np.arange(count) - count + 1).reshape(-1, *[1] * (members.ndim - 1))
    spread = (ranks * members).sum(axis=0) / (count * (count - 1)) if count > 1 else np.zeros_like(skill)
    return area_mean(skill - spread, latitude_h)


def spread_and_skill(members_mhw: Floats, truth: Floats, latitude_h: NDArray[np.float64]) -> tuple[Scores, Scores]:
    """The members' variance (over one less than their number) and the square error of their mean, of each field."""
    members = np.asarray(members_mhw, np.float64)
    variance = members.var(axis=0, ddof=1) if len(members) > 1 else np.zeros(members.shape[1:])
    return area_mean(variance, latitude_h), area_mean(np.square(members.mean(axis=0) - truth), latitude_h)


def spread_skill_ratio(variance: Scores, square_error: Scores, members: int) -> float:
    """1 where the ensemble is as uncertain as it is wrong (Fortin et al. 2014, with the factor for few members)."""
    return float(np.sqrt((members + 1) / members * variance.mean() / square_error.mean()))


def zonal_power(fields: Floats, latitude_h: NDArray[np.float64], *, is_global: bool) -> Scores:
    """The mean power of each zonal wavenumber from 0 on, over the last two axes.

    On a circle by the Fourier transform; of a region by the cosine transform, which does not see the jump between its ends
    (Denis et al. 2002): there number k is a wave of k/2 to the region's width.
    """
    values = np.asarray(fields, np.float64)
    width = values.shape[-1]
    if is_global:
        coefficients = np.abs(np.fft.rfft(values, axis=-1) / width) ** 2
        coefficients[..., 1:] *= 2
    else:
        coefficients = dct(values, axis=-1, norm="ortho") ** 2 / width
    weights = area_weights(latitude_h)
    return np.asarray((coefficients * weights[:, None]).mean(axis=-2))
