"""A forecast as a run: step by step into a Zarr store, resumable at the last step that was written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modelworks.capabilities.weather.downscaling.model import Downscaler
from modelworks.capabilities.weather.downscaling.store import check, write_region
from modelworks.capabilities.weather.grid.grids import Floats, Grids, Times, shown
from modelworks.capabilities.weather.grid.handshake import agreed
from modelworks.capabilities.weather.grid.mapping import FOLDER, write_map
from modelworks.capabilities.weather.grid.points import place_of, series_of
from modelworks.capabilities.weather.grid.reading import Choose, filled, read
from modelworks.capabilities.weather.grid.vocabulary import VARIABLES, parts
from modelworks.capabilities.weather.grid.writing import ForecastStore, Layout, write_netcdf
from modelworks.capabilities.weather.model.forecaster import Forecaster, Stepper, following, later
from modelworks.capabilities.weather.published.loading import Published, published
from modelworks.capabilities.weather.schemas import ForecastInput, ForecastOutput
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.run import Run

#: The store's name within the result, and within a checkpoint.
STORE = "forecast.zarr"
_STATE, _HISTORY = "state.json", "history.npy"
_FILES = {"netcdf": "forecast.nc", "grib": "forecast.grib2"}


@dataclass(frozen=True, slots=True)
class _Persistence:
    """The last state goes on."""

    step_hours: float
    history: int = 1
    stride: int = 1

    def advance(self, history_schw: Floats, last: np.datetime64, noise: np.random.Generator | None) -> Floats:
        """The last state, once more."""
        return history_schw[-1:]


def forecast(run: Run, request: ForecastInput) -> ForecastOutput:
    """Forecast from the grids of role "initial", and save a folder with the store and what is exported, of kind "grid".

    Memory does not grow with the number of steps: a state is written as soon as it is known, and series and exports read one
    at a time. With a model of role "downscaling", the folder has the region that it knows as well, member by member, finer: see
    `downscaling`. What was written goes on after a crash; noise of a member depends on seed, member and block alone.

    Raises:
        InvalidData: the initial states cannot be read, or are not those of the model; `param` names the coordinate.
        InvalidRequest: a point lies outside the grid, or an ensemble is wanted of persistence.
        Cancelled: the user has asked to stop.
    """
    if request.num_threads is not None:
        torch.set_num_threads(request.num_threads)
    stepper, initial = _prepared(run, request)
    places = [place_of(point, initial) for point in request.points]
    written = _written_channels(request.channels, initial.channels)
    last = initial.times_t[-1]
    layout = Layout(
        tuple(initial.channels[index] for index in written),
        last,
        stepper.step_hours,
        request.steps,
        initial.latitude_h,
        initial.longitude_w,
        members=request.members,
        kinds=initial.kinds,
        title=f"Forecast by {request.method} from {shown(last)} UTC",
    )
    region = Downscaler.load(run.model("downscaling").path) if run.has_input("downscaling") else None
    if region is not None:
        # Before anything is computed.
        check(region, layout)
    folder = run.workdir / "result"
    store, done, history = _begun(run, folder, layout)
    total = request.steps * max(1, request.members)
    first = initial.values_tchw[-stepper.history :]
    while done < total:
        member, step = divmod(done, request.steps)
        block = step // stepper.stride
        # Mid-block, the block is computed once more; what it gave before is not written again.
        history = first if history is None or block == 0 else history
        begin = later(stepper, last, block * stepper.stride)
        noise = np.random.default_rng((run.seed, member, block)) if request.members else None
        states = stepper.advance(history, begin, noise)
        count = min(stepper.stride, request.steps - block * stepper.stride)
        for place in range(step % stepper.stride, count):
            store.write(block * stepper.stride + place, states[place][written], member)
            done += 1
            run.progress(done, total, "steps")
            if done % request.checkpoint_every == 0 and done < total:
                _keep(run, folder, done, history if place + 1 < count else following(stepper, history, states, begin))
            run.raise_if_cancelled()
        history = following(stepper, history, states, begin)
    for name in (_STATE, _HISTORY):
        (folder / name).unlink(missing_ok=True)
    series = [each for point, place in zip(request.points, places, strict=True) for each in series_of(store, point, place)]
    _export(store, request.exports, folder)
    lacking = write_map(store, folder / FOLDER)
    if region is not None:
        write_region(region, store, folder, run, with_netcdf="netcdf" in request.exports)
    metadata = {"task": "weather-forecast", "start": str(last), "steps": request.steps, "channels": list(layout.channels)}
    run.save(folder, kind="grid", metadata=metadata)
    return ForecastOutput(
        start=civil(last),
        step_hours=layout.step_hours,
        steps=layout.steps,
        members=layout.members,
        channels=list(layout.channels),
        times=[civil(each) for each in layout.times_t],
        files=sorted(path.name for path in folder.iterdir()),
        series=series,
        notes=[*initial.notes, *([lacking] if lacking else [])],
    )


def _prepared(run: Run, request: ForecastInput) -> tuple[Stepper, Grids]:
    """What steps, and the states that it begins from, the last one being the start."""
    path = run.dataset("initial").path
    if request.method == "persistence":
        if request.members:
            raise InvalidRequest("Persistence has no members.", hint="Leave members out, or give a model.", param="members")
        grids = filled(read(path, channels=request.channels, choose=_window(request.start, None)), request.max_missing)
        return _Persistence(grids.step_hours), _reaching(grids, request.start, 1)
    model = run.model("model")
    if (other := published(model, request.step_hours, request.num_threads, run.raise_if_cancelled)) is not None:
        return _begun_with(*other, path, request)
    forecaster = Forecaster.load(model.path)
    shape = forecaster.shape
    if request.step_hours not in (None, shape.step_hours):
        raise InvalidRequest(
            f"The model's steps are of {shape.step_hours:g} hours.", hint="Leave step_hours out.", param="step_hours"
        )
    hours = (shape.history - 1) * shape.step_hours
    grids = filled(read(path, channels=shape.channels, choose=_window(request.start, hours)), request.max_missing)
    grids = agreed(grids, shape.channels, shape.latitude_h, shape.longitude_w, shape.step_hours, shape.kinds)
    return forecaster, _reaching(grids, request.start, shape.history)


def _begun_with(stepper: Published, about: str, path: Path, request: ForecastInput) -> tuple[Stepper, Grids]:
    """A published model and the states that it begins from."""
    if request.members:
        raise InvalidRequest(f"{about} gives one forecast and no members.", hint="Leave members out.", param="members")
    hours = (stepper.history - 1) * stepper.step_hours
    grids = filled(read(path, channels=stepper.channels, choose=_window(request.start, hours)), request.max_missing)
    sums = {each: "accum" for each in stepper.channels if (own := VARIABLES.get(parts(each)[0])) and own.accumulated}
    grids = agreed(grids, stepper.channels, stepper.latitude_h, stepper.longitude_w, stepper.step_hours, sums)
    grids = _reaching(grids, request.start, stepper.history)
    stepper.begin(grids.times_t[-1])
    return stepper, replace(grids, notes=(about, *grids.notes))


def _window(start: datetime | None, hours: float | None) -> Choose:
    """Of a file's times those that a forecast needs: so many hours up to the start; without hours, two."""

    def choose(times_t: Times) -> NDArray[np.intp]:
        end = times_t[-1] if start is None else np.datetime64(_plain(start), "s")
        keep = np.flatnonzero(times_t <= end)
        if hours is None:
            return np.asarray(keep[-2:])
        return np.asarray(keep[times_t[keep] >= end - np.timedelta64(round(hours * 3600), "s")])

    return choose


def _plain(start: datetime) -> datetime:
    return start.astimezone(UTC).replace(tzinfo=None) if start.tzinfo else start


def _reaching(grids: Grids, start: datetime | None, history: int) -> Grids:
    """The last states, which must reach to the start without a gap."""
    wanted = None if start is None else np.datetime64(_plain(start), "s")
    if not len(grids.times_t) or (wanted is not None and grids.times_t[-1] != wanted):
        near = f"; the last one before it is of {shown(grids.times_t[-1])}" if len(grids.times_t) else ""
        raise InvalidData(
            f"The data have no state of {'the last time' if wanted is None else shown(wanted)}{near}.",
            hint="Name a time that is in the data, or leave start out.",
            code="no_such_time",
            param="time",
        )
    if len(grids.times_t) < history:
        raise InvalidData(
            f"The model begins from {history} states, and the data have {len(grids.times_t)} up to {shown(grids.times_t[-1])}.",
            hint="Give the states before as well, without a gap.",
            code="too_few_times",
            param="time",
        )
    if history > 1:
        # Refuses a gap among them.
        _ = grids.step_hours
    return grids.between(len(grids.times_t) - history, len(grids.times_t))


def _written_channels(wanted: Sequence[str] | None, known: Sequence[str]) -> list[int]:
    if wanted is None:
        return list(range(len(known)))
    lacking = [each for each in wanted if each not in known]
    if lacking:
        raise InvalidRequest(
            f"The model does not forecast {', '.join(lacking)}.", hint=f"It forecasts {', '.join(known)}.", param="channels"
        )
    return [known.index(each) for each in wanted]


def _begun(run: Run, folder: Path, layout: Layout) -> tuple[ForecastStore, int, Floats | None]:
    """A new store, or the one of the last checkpoint with what was written."""
    before = run.resume_from
    if before is None:
        return ForecastStore.create(folder / STORE, layout), 0, None
    shutil.copytree(before, folder)
    state = json.loads((folder / _STATE).read_text("utf-8"))
    return ForecastStore.open(folder / STORE, layout), int(state["done"]), np.load(folder / _HISTORY, allow_pickle=False)


def _keep(run: Run, folder: Path, done: int, history: Floats) -> None:
    np.save(folder / _HISTORY, history, allow_pickle=False)
    (folder / _STATE).write_text(json.dumps({"done": done}), "utf-8")
    run.checkpoint(folder)


def _export(store: ForecastStore, exports: Sequence[str], folder: Path) -> None:
    for kind in dict.fromkeys(exports):
        if kind == "netcdf":
            write_netcdf(store, folder / _FILES[kind])
        else:
            from modelworks.capabilities.weather.grid.grib import write_grib

            write_grib(store, folder / _FILES[kind])


def civil(time: np.datetime64) -> datetime:
    """The time in UTC."""
    return datetime.fromisoformat(str(time.astype("datetime64[s]"))).replace(tzinfo=UTC)
