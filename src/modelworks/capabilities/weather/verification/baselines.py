"""What a model has to beat, always measured on the same starts: persistence, climatology, damped persistence, ridge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import Floats, Times
from modelworks.capabilities.weather.model.forecaster import Forecaster, roll_anomalies

#: In the order in which they are told.
METHODS = ("model", "ridge", "damped_persistence", "climatology", "persistence")


def forecasts(
    forecaster: Forecaster, anomaly_tchw: Floats, values_tchw: Floats, times_t: Times, starts_n: NDArray[np.intp], steps: int
) -> Iterator[tuple[str, int, Floats]]:
    """(method, lead from 0, values of all starts), one lead of one method in memory at a time."""
    shape, climate = forecaster.shape, forecaster.climate
    histories = np.stack([anomaly_tchw[at - shape.history + 1 : at + 1] for at in starts_n])
    last_times = times_t[starts_n]
    only_ridge = np.zeros_like(forecaster.blend_2lc)
    only_ridge[1] = 1
    ridge = replace(forecaster, blend_2lc=only_ridge, networks=[], taken=shape.block)
    for name, stepper in (("model", forecaster), ("ridge", ridge)):
        for lead, anomaly in enumerate(roll_anomalies(stepper, histories, last_times, steps)):
            yield name, lead, climate.value(anomaly, _valid(forecaster, last_times, lead))
    for lead in range(steps):
        times = _valid(forecaster, last_times, lead)
        known = anomaly_tchw[starts_n]
        yield "damped_persistence", lead, climate.value(known * damping(forecaster, lead), times)
        yield "climatology", lead, climate.mean(times)
        yield "persistence", lead, values_tchw[starts_n]


def damping(forecaster: Forecaster, lead: int) -> Floats:
    """How much of an anomaly is left at each point; beyond the leads that were fitted, it goes on decaying as it did."""
    fitted = forecaster.damping_lchw
    if lead < len(fitted):
        return np.asarray(fitted[lead])
    return np.asarray(np.clip(fitted[-1], 0, 1) ** ((lead + 1) / len(fitted)), np.float32)


def _valid(forecaster: Forecaster, last_times: Times, lead: int) -> Times:
    seconds = np.timedelta64(round(forecaster.step_hours * 3600 * (lead + 1)), "s")
    return np.asarray(last_times.astype("datetime64[s]") + seconds)
