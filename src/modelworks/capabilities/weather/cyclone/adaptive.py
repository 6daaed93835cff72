"""A cone that follows how the last forecasts held: adaptive conformal inference with feedback as late as the lead time.

Gibbs and Candès 2021 ("Adaptive Conformal Inference Under Distribution Shift"): each time that a forecast can be held against
where the storm was, the level of its lead time moves by a small step, down where the centre lay inside, up where it did not.
Nothing that was not known before a forecast's start is looked at.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from modelworks.capabilities.weather.cyclone.tracks import Floats

#: The levels at which a card has quantiles of the errors held out.
LEVELS: Final = np.linspace(0, 1, 101)
#: How far an outcome may move the level. This, and that a season goes on from the level of the one before, came nearest to 67 %
#: over two basins on the last five seasons that were learnt from, by cones of the seasons before these.
STEP: Final = 0.02
#: A level stays within these.
_LOWEST, _HIGHEST = 0.05, 0.99


def quantiles(errors_n: Floats) -> list[float]:
    """Errors at `LEVELS`, in metres' precision."""
    return [round(float(each), 3) for each in np.quantile(errors_n, LEVELS)]


def radius_km(level: Floats | float, quantiles_km: list[float]) -> Floats:
    """The radius that held the centre in that part of the cases held out."""
    return np.asarray(np.interp(level, LEVELS, quantiles_km))


def levels(
    errors_n: Floats, hours_n: Floats, lead_h: int, quantiles_km: list[float], start: float, coverage: float
) -> tuple[Floats, float, int]:
    """The level of the cone of each forecast, as it would have been given then.

    Args:
        errors_n: km between each forecast and the track, NaN where there is nothing (yet) to hold it against, in any order.
        hours_n: when each forecast starts; its error is known `lead_h` later.
        quantiles_km: errors held out, at `LEVELS`.
        start: the level before anything came in.
        coverage: part of cases that the cone is to hold.

    Returns:
        The levels, in the order of the forecasts; the level when all outcomes have come in; how many of them the forecast with
        the last start could use. An outcome counts for starts later than it, never for those at its own time.
    """
    given_n = np.empty(len(errors_n))
    # When an outcome comes in, and whether it lay inside.
    awaited = deque[tuple[float, bool]]()
    level, used = start, 0
    for index in np.argsort(hours_n, kind="stable"):
        while awaited and awaited[0][0] < hours_n[index]:
            level, used = _moved(level, awaited.popleft()[1], coverage), used + 1
        given_n[index] = level
        if np.isfinite(errors_n[index]):
            inside = bool(errors_n[index] <= radius_km(level, quantiles_km))
            awaited.append((float(hours_n[index]) + lead_h, inside))
    for _, inside in awaited:
        level = _moved(level, inside, coverage)
    return given_n, level, used


def _moved(level: float, inside: bool, coverage: float) -> float:
    return min(max(level + STEP * (coverage - inside), _LOWEST), _HIGHEST)
