"""Intervals that follow how the last ones held: adaptive conformal inference with feedback as late as the lead time.

Gibbs and Candès 2021 ("Adaptive Conformal Inference Under Distribution Shift"), one tail at a time: each time that a height
comes in, the forecast made for it a lead time ago is held against it, and the level of each tail moves by a small step, inwards
where the height lay within, outwards where it did not. Nothing later than the forecast is looked at.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from modelworks.capabilities.weather.wave.model import LEVELS
from modelworks.capabilities.weather.wave.records import Floats

#: Hours of forecasts that are made again and held against what came. This and the step are those of 14 and 30 days and of four
#: steps that came nearest to 80 % in each half-year and lead time of one buoy, 2018 by a model of 2017 and the other way round.
REPLAYED_H: Final = 720.0
#: How far a tail's level moves in an hour of outcomes, as a part of what an outcome may move it.
_STEP_PER_HOUR: Final = 0.004


def levels(scores_n: Floats, quantiles: list[float], delay: int, step_s: int, coverage: float) -> tuple[Floats, Floats]:
    """The levels of both ends of an interval for a forecast made at each time of a series.

    Args:
        scores_n: what came of the forecast made at each time, minus the forecast, over the expected error; NaN where there was
            no forecast, or nothing came of it, or not yet.
        quantiles: those of the scores on days held out, at `LEVELS`.
        delay: steps from a forecast to its outcome.
        step_s: seconds between two times.
        coverage: part of cases that the interval is to hold.

    Returns:
        The lower and the upper level, each (time,). The score of a time counts from `delay` steps later on, for as long as
        `REPLAYED_H` reach back. Without any outcome they are those of days held out.
    """
    replayed = max(1, round(REPLAYED_H * 3600 / step_s))
    # Each time has the times before it as a row of its own, as a request has that is asked then.
    padded = np.concatenate([np.full(replayed, np.nan), scores_n])
    return _followed(sliding_window_view(padded, replayed + 1), np.array(quantiles), delay, step_s, coverage)


def last_levels(scores_n: Floats, quantiles: list[float], delay: int, step_s: int, coverage: float) -> tuple[Floats, Floats]:
    """The same for the last time alone, (1,) each."""
    replayed = max(1, round(REPLAYED_H * 3600 / step_s))
    return _followed(scores_n[None, -replayed - 1 :], np.array(quantiles), delay, step_s, coverage)


def _followed(scores_bn: Floats, quantiles: Floats, delay: int, step_s: int, coverage: float) -> tuple[Floats, Floats]:
    tail = (1 - coverage) / 2
    move = _STEP_PER_HOUR * step_s / 3600
    count, length = scores_bn.shape
    # The ends that were given to forecasts whose outcome is awaited.
    low_db, high_db = np.empty((delay, count)), np.empty((delay, count))
    # Parts to be missed below and above, on days held out.
    below, above = np.full(count, tail), np.full(count, tail)
    for at in range(length):
        if at >= delay:
            score = scores_bn[:, at - delay]
            came = np.isfinite(score)
            below = np.where(came, _within(below + move * (tail - (score < low_db[at % delay]))), below)
            above = np.where(came, _within(above + move * (tail - (score > high_db[at % delay]))), above)
        low_db[at % delay] = np.interp(below, LEVELS, quantiles)
        high_db[at % delay] = np.interp(1 - above, LEVELS, quantiles)
    return below, 1 - above


def _within(tail_b: Floats) -> Floats:
    """A tail reaches neither beyond the outermost level that is known, nor over the middle."""
    return np.asarray(np.clip(tail_b, LEVELS[0], 0.5))
