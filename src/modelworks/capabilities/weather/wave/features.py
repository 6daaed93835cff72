"""What the last two days of a buoy say about its next heights, as one row for each time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from modelworks.capabilities.weather.wave.records import Floats, Series

#: Hours back that differences are taken over, and that means, largest and smallest heights are taken of.
_LAGS_H: Final = (0.5, 1, 1.5, 2, 3, 4, 6, 12, 18, 24, 48)
_MEANS_H: Final = (1.5, 3, 6, 12, 24, 48)
_EXTREMES_H: Final = (3, 12, 24)
#: A row looks back so far; rows of a request have at least that many hours where they are known.
HISTORY_H: Final = 48.0
_DAY_S, _YEAR_S = 86_400.0, 365.25 * 86_400.0


def rows(series: Series) -> Floats:
    """Features of each time of the series, NaN where unknown. The first column is the height itself."""
    hs, hmax, tz, tp, direction, sst = series.values_nc.T
    angle = np.radians(direction)
    north, east = np.cos(angle), np.sin(angle)

    def steps(hours: float) -> int:
        return max(1, round(hours * 3600 / series.step_s))

    def mean(column: Floats, hours: float) -> Floats:
        return _over(column, steps(hours), np.nanmean)

    means = {hours: mean(hs, hours) for hours in _MEANS_H}
    found = [hs, hmax, tz, tp, sst, east, north]
    found += [hs - _before(hs, steps(hours)) for hours in _LAGS_H]
    found += [hs - each for each in means.values()]
    found += [_over(hs, steps(hours), np.nanmax) - hs for hours in _EXTREMES_H]
    found += [hs - _over(hs, steps(hours), np.nanmin) for hours in _EXTREMES_H]
    found += [tz - _before(tz, steps(hours)) for hours in (1, 3, 12)]
    found += [mean(tz, 3), mean(tp, 3), mean(east, 3), mean(north, 3), mean(sst, 12)]
    found += [mean(tz, 3) - mean(tz, 24), mean(east, 24), mean(north, 24)]
    # How steep the sea is, and how the largest waves stand to the significant ones.
    found += [hs / np.where(tz > 0, tz, np.nan) ** 2, mean(hmax / np.where(hs > 0, hs, np.nan), 3)]
    found += [_before(means[3], steps(6)) - _before(means[3], steps(12))]
    seconds = series.seconds()
    for period in (_DAY_S, _YEAR_S):
        found += [np.sin(2 * np.pi * seconds / period), np.cos(2 * np.pi * seconds / period)]
    return np.stack(found, axis=1)


#: Columns of `rows`.
NUM_FEATURES: Final = 7 + len(_LAGS_H) + len(_MEANS_H) + 2 * len(_EXTREMES_H) + 3 + 5 + 3 + 2 + 1 + 4


def after(column: Floats, count: int) -> Floats:
    """The value so many steps later, NaN at the end."""
    found = np.full_like(column, np.nan)
    if count < len(column):
        found[: len(column) - count] = column[count:]
    return found


def _before(column: Floats, count: int) -> Floats:
    found = np.full_like(column, np.nan)
    if count < len(column):
        found[count:] = column[:-count]
    return found


def _over(column: Floats, count: int, what: Callable[..., Floats]) -> Floats:
    """Of the last `count` values at each time, those that are known."""
    padded = np.concatenate([np.full(count - 1, np.nan), column])
    with warnings.catch_warnings():
        # Where none is known the answer is NaN, as it should be.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(what(sliding_window_view(padded, count), axis=1), np.float64)
