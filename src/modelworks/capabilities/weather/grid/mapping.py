"""A forecast in the form that its page draws: fields by time and series by place, each to be read as one stretch of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from modelworks.capabilities.weather.grid.vocabulary import VARIABLES, parts
from modelworks.capabilities.weather.grid.writing import ForecastStore

#: The folder within the result.
FOLDER: Final = "map"
#: Values of one state with its members, and of the whole map: beyond these a page is no way to look at a forecast.
MAX_STATE_VALUES, MAX_VALUES = 50_000_000, 200_000_000
_QUANTILES: Final = (0.1, 0.5, 0.9)


def write_map(store: ForecastStore, folder: Path, max_values: int = MAX_VALUES) -> str | None:
    """Write `map.json`, `fields.f32` and `series.f32` into the folder; little-endian float32, missing values are nan.

    `fields.f32` is [step, channel, latitude, longitude], the mean of the members. `series.f32` is [latitude, longitude,
    channel, statistic, step]: the mean, and of ensembles the percentiles 10, 50 and 90. It holds one step of all members.

    Returns:
        Why nothing was written, where the forecast is too large; else None.
    """
    layout = store.layout
    members = max(1, layout.members)
    statistics = ["mean", "p10", "p50", "p90"] if members > 1 else ["mean"]
    size = (len(layout.channels), len(layout.latitude_h), len(layout.longitude_w))
    state = int(np.prod(size))
    if state * members > MAX_STATE_VALUES or state * layout.steps * len(statistics) > max_values:
        return "The forecast is too large for its page: no map was written; the Zarr store holds it all."
    folder.mkdir(exist_ok=True)
    shape = (*size[1:], size[0], len(statistics), layout.steps)
    series = np.memmap(folder / "series.f32", dtype="<f4", mode="w+", shape=shape)
    lowest, highest = np.full(size[0], np.inf), np.full(size[0], -np.inf)
    with (folder / "fields.f32").open("wb") as fields:
        for step in range(layout.steps):
            states_mchw = np.stack([store.read(step, member) for member in range(members)])
            mean_chw = states_mchw.mean(axis=0)
            fields.write(mean_chw.astype("<f4").tobytes())
            lowest = np.fmin(lowest, np.fmin.reduce(mean_chw, axis=(1, 2)))
            highest = np.fmax(highest, np.fmax.reduce(mean_chw, axis=(1, 2)))
            series[:, :, :, 0, step] = mean_chw.transpose(1, 2, 0)
            if members > 1:
                series[:, :, :, 1:, step] = np.quantile(states_mchw, _QUANTILES, axis=0).transpose(2, 3, 1, 0)
    series.flush()
    told = {
        "object": "weather.map",
        "version": 1,
        "title": layout.title,
        "start": f"{layout.start.astype('datetime64[s]')}Z",
        "times": [f"{each}Z" for each in layout.times_t],
        "step_hours": layout.step_hours,
        "members": layout.members,
        "statistics": statistics,
        "latitudes": layout.latitude_h.tolist(),
        "longitudes": layout.longitude_w.tolist(),
        "channels": [
            {**_about(store, channel), "min": _finite(lowest[index]), "max": _finite(highest[index])}
            for index, channel in enumerate(layout.channels)
        ],
        "notice": layout.about()["comment"],
    }
    (folder / "map.json").write_text(json.dumps(told, allow_nan=False) + "\n", "utf-8")
    return None


def _about(store: ForecastStore, channel: str) -> dict[str, Any]:
    name, level = parts(channel)
    known = VARIABLES.get(name)
    title = (known.standard_name if known else name).replace("_", " ")
    return {"name": channel, "variable": name, "level_hpa": level, "title": title, "units": store.layout.units_of(channel)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
