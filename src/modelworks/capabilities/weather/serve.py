"""A forecast as a run: step by step into a Zarr store, resumable at the last step that was written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from modelworks.capabilities.weather.grid.grids import Grids, Times
from modelworks.capabilities.weather.grid.reading import filled, read
from modelworks.capabilities.weather.grid.writing import ForecastStore, Layout
from modelworks.capabilities.weather.schemas import ForecastInput, ForecastOutput
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import Run

#: The store's name within the result, and within a checkpoint.
STORE = "forecast.zarr"


def forecast(run: Run, request: ForecastInput) -> ForecastOutput:
    """Forecast from the grids of role "initial", and save a folder with the store and what is exported, of kind "grid".

    Raises:
        InvalidData: the initial states cannot be read.
        Cancelled: the user has asked to stop.
    """
    initial = filled(read(run.dataset("initial").path, channels=request.channels), request.max_missing)
    last = _last(initial.times_t, request.start)
    layout = Layout(
        initial.channels, initial.times_t[last], initial.step_hours, request.steps, initial.latitude_h, initial.longitude_w
    )
    folder = run.workdir / "result"
    store = ForecastStore.create(folder / STORE, layout)
    for step in range(request.steps):
        run.raise_if_cancelled()
        store.write(step, initial.values_tchw[last])
        run.progress(step + 1, request.steps, "steps")
    run.save(folder, kind="grid", metadata={"task": "weather-forecast"})
    return _output(initial, layout, folder)


def _output(initial: Grids, layout: Layout, folder: Path) -> ForecastOutput:
    return ForecastOutput(
        start=civil(layout.start),
        step_hours=layout.step_hours,
        steps=layout.steps,
        members=layout.members,
        channels=list(layout.channels),
        times=[civil(each) for each in layout.times_t],
        files=sorted(path.name for path in folder.iterdir()),
        notes=list(initial.notes),
    )


def _last(times_t: Times, start: datetime | None) -> int:
    if start is None:
        return len(times_t) - 1
    wanted = np.datetime64(start.astimezone(UTC).replace(tzinfo=None) if start.tzinfo else start, "s")
    found = np.flatnonzero(times_t == wanted)
    if not found.size:
        raise InvalidData(
            f"The data have no state of {wanted}; they run from {times_t[0]} to {times_t[-1]}.",
            hint="Name a time that is in the data, or leave start out.",
            code="no_such_time",
            param="start",
        )
    return int(found[0])


def civil(time: np.datetime64) -> datetime:
    """The time in UTC."""
    return datetime.fromisoformat(str(time.astype("datetime64[s]"))).replace(tzinfo=UTC)
