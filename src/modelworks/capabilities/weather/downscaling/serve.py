"""A finer grid as a run: each state of a data set made finer, into a Zarr store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np

from modelworks.capabilities.weather.downscaling.evaluate import by_interpolation
from modelworks.capabilities.weather.downscaling.interpolation import Degrees, Order
from modelworks.capabilities.weather.downscaling.model import Downscaler, Frame
from modelworks.capabilities.weather.downscaling.schemas import DownscaleInput, DownscaleOutput
from modelworks.capabilities.weather.downscaling.store import REFERENCES, SOURCE
from modelworks.capabilities.weather.grid.grids import Floats, Grids, shown
from modelworks.capabilities.weather.grid.mapping import FOLDER, write_map
from modelworks.capabilities.weather.grid.points import place_of, series_of
from modelworks.capabilities.weather.grid.reading import filled, read
from modelworks.capabilities.weather.grid.writing import ForecastStore, Layout, write_netcdf
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import Run

STORE: Final = "downscaled.zarr"
_FILE: Final = "downscaled.nc"
#: A single state says nothing of the next one: a time still needs a distance to be counted by.
_HOURS_OF_ONE: Final = 1.0


def downscale(run: Run, request: DownscaleInput) -> DownscaleOutput:
    """Make the grids of role "coarse" finer, and save a folder with the store, its map and exports, of kind "grid".

    Raises:
        InvalidData: the grids cannot be read, or are not those of the model; `param` names the coordinate.
        InvalidRequest: a point or channel is not there. Cancelled: the user has asked to stop.
    """
    path = run.dataset("coarse").path
    model = Downscaler.load(run.model("model").path) if request.method == "model" else None
    if model is None:
        coarse = filled(read(path, channels=request.channels), request.max_missing)
        frame = _finer(coarse, int(request.factor or 2))
    else:
        frame = model.frame
        coarse = model.agreed(filled(read(path, channels=frame.predictors), request.max_missing))
    written = _written(request.channels, frame.channels)
    single = len(coarse.times_t) == 1
    hours = _HOURS_OF_ONE if single else coarse.step_hours
    kinds = dict(coarse.kinds) if model is None else model.card.kinds
    layout = Layout(
        tuple(frame.channels[index] for index in written),
        coarse.times_t[0] - np.timedelta64(round(hours * 3600), "s"),
        hours,
        len(coarse.times_t),
        frame.latitude_h,
        frame.longitude_w,
        kinds=kinds,
        title=f"Downscaled by {request.method}, {shown(coarse.times_t[0])} to {shown(coarse.times_t[-1])} UTC",
        source=SOURCE if model is not None else f"{request.method} interpolation (Modelworks)",
        references=REFERENCES,
        is_forecast=False,
    )
    target = Grids(layout.channels, layout.times_t, frame.latitude_h, frame.longitude_w, np.zeros((0, 0, 0, 0), np.float32))
    places = [place_of(point, target) for point in request.points]
    folder = run.workdir / "result"
    folder.mkdir()
    store = ForecastStore.create(folder / STORE, layout)
    for step in range(layout.steps):
        run.raise_if_cancelled()
        state_tchw = _state(model, frame, coarse, step, request.method)
        store.write(step, state_tchw[0][written])
        run.progress(step + 1, layout.steps, "states")
    if "netcdf" in request.exports:
        write_netcdf(store, folder / _FILE)
    lacking = write_map(store, folder / FOLDER)
    run.save(folder, kind="grid", metadata={"task": "weather-downscaling", "channels": list(layout.channels)})
    return DownscaleOutput(
        method=request.method,
        channels=list(layout.channels),
        size=(len(frame.latitude_h), len(frame.longitude_w)),
        times=[datetime.fromisoformat(str(each.astype("datetime64[s]"))).replace(tzinfo=UTC) for each in layout.times_t],
        files=sorted(each.name for each in folder.iterdir()),
        series=[each for point, place in zip(request.points, places, strict=True) for each in series_of(store, point, place)],
        notes=[*coarse.notes, *([lacking] if lacking else [])],
    )


def _state(model: Downscaler | None, frame: Frame, coarse: Grids, step: int, method: str) -> Floats:
    values_tphw, times_t = coarse.values_tchw[step : step + 1], coarse.times_t[step : step + 1]
    if model is not None:
        return model.apply(values_tphw, times_t)
    order: Order = "bilinear" if method == "bilinear" else "bicubic"
    return by_interpolation(frame, values_tphw, order)


def _finer(coarse: Grids, factor: int) -> Frame:
    """So many points for each coarse one, from the first row and column to the last; on a globe all the way round."""
    width = len(coarse.longitude_w)
    columns = np.arange(width * factor if coarse.is_global else (width - 1) * factor + 1)
    rows = np.arange((len(coarse.latitude_h) - 1) * factor + 1)
    return Frame(
        coarse.channels,
        coarse.channels,
        coarse.latitude_h,
        coarse.longitude_w,
        _between(coarse.latitude_h, rows / factor),
        _between(coarse.longitude_w, columns / factor),
        24.0,
    )


def _between(coarse: Degrees, steps: Degrees) -> Degrees:
    return np.asarray(coarse[0] + (coarse[-1] - coarse[0]) / max(1, len(coarse) - 1) * steps)


def _written(wanted: Sequence[str] | None, known: Sequence[str]) -> list[int]:
    lacking = [each for each in wanted or () if each not in known]
    if lacking:
        raise InvalidRequest(
            f"The finer grid has no {', '.join(lacking)}.", hint=f"It has {', '.join(known)}.", param="channels"
        )
    return [known.index(each) for each in wanted or known]
