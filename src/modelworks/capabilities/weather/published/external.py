"""Published models that run in environments of their own, as steppers: what each takes, and the process behind it.

Legend: S states of the history, C channels, H latitudes, W longitudes.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from modelworks.capabilities.weather.grid.grids import Floats
from modelworks.capabilities.weather.published import aifs_files, aurora_files, graphcast_files
from modelworks.capabilities.weather.published.confined import Confined, Limits, Program
from modelworks.capabilities.weather.published.statics import statics, statistics
from modelworks.contract.errors import InvalidData

#: Environment variables with interpreters.
AURORA_PYTHON = "MODELWORKS_AURORA_PYTHON"
AIFS_PYTHON = "MODELWORKS_AIFS_PYTHON"
GRAPHCAST_PYTHON = "MODELWORKS_GRAPHCAST_PYTHON"
_KINDS = ("float32", "float64")


@dataclass(frozen=True, slots=True, eq=False)
class Contract:
    """What a model takes and gives, in its order, and the program that computes it."""

    channels: tuple[str, ...]
    latitude_h: NDArray[np.float64]
    longitude_w: NDArray[np.float64]
    step_hours: float
    history: int
    program: Program
    #: Fields without a time that it is given, by its own names.
    static: Mapping[str, Floats]


class External:
    """A stepper whose steps are computed in another process, which is started with the first of them.

    Args:
        watch: called several times a second while it computes; what it raises ends the process.
    """

    stride = 1

    def __init__(self, contract: Contract, watch: Callable[[], None]) -> None:
        self.contract, self._watch = contract, watch
        self.channels, self.history, self.step_hours = contract.channels, contract.history, contract.step_hours
        self.latitude_h, self.longitude_w = contract.latitude_h, contract.longitude_w
        self._start: np.datetime64 | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: Confined | None = None

    def begin(self, start: np.datetime64) -> None:
        """Tell the time of the state that the forecast begins from."""
        self._start = start

    def advance(self, history_schw: Floats, last: np.datetime64, noise: np.random.Generator | None) -> Floats:
        """The next state, (1, C, H, W); see `Confined` for what it raises."""
        if self._start is None:
            raise RuntimeError("the forecast's start is not known")
        if self._process is None:
            self._process = self._opened()
        elapsed = (last.astype("datetime64[s]") - self._start.astype("datetime64[s]")) / np.timedelta64(3600, "s")
        asked = {"time": str(last.astype("datetime64[s]")), "step": round(float(elapsed) / self.step_hours)}
        return self._process.ask(history_schw[-self.history :], asked)[None]

    def _opened(self) -> Confined:
        program = self.contract.program
        if self.contract.static:
            self._folder = tempfile.TemporaryDirectory(prefix="modelworks-static-")
            path = Path(self._folder.name, "static.safetensors")
            save_file({name: np.ascontiguousarray(each) for name, each in self.contract.static.items()}, path)
            given = {**program.given, "static": str(path)}
            program = replace(program, files=(*program.files, path), given=given)
        return Confined(program, self._watch)


def aurora(folder: Path, name: str, path: Path) -> Contract:
    """Aurora, from weights that were made safetensors.

    Raises:
        InvalidData: weights or static variables are not those of the checkpoint.
    """
    checkpoint = aurora_files.CHECKPOINTS[name]
    aurora_files.check(path, checkpoint)
    spacing = 360 / checkpoint.columns
    latitude_h = np.asarray(90.0 - np.arange(checkpoint.rows) * spacing, np.float64)
    longitude_w = np.asarray(np.arange(checkpoint.columns) * spacing, np.float64)
    given: dict[str, Any] = {
        "class": checkpoint.class_name,
        "options": dict(checkpoint.options),
        "weights": str(path.resolve()),
        "fields": [*(("surface", each) for each in aurora_files.SURFACE), *(("upper", each) for each in aurora_files.UPPER)],
        "levels": aurora_files.LEVELS,
        "latitude": latitude_h.tolist(),
        "longitude": longitude_w.tolist(),
    }
    program = Program(
        name=aurora_files.NAME,
        module="aurora",
        variable=AURORA_PYTHON,
        packages="microsoft-aurora, torch and torchvision",
        files=(path,),
        given=given,
        shape=(len(aurora_files.CHANNELS), checkpoint.rows, checkpoint.columns),
        limits=Limits.configured(),
    )
    return Contract(
        aurora_files.CHANNELS,
        latitude_h,
        longitude_w,
        checkpoint.step_hours,
        aurora_files.HISTORY,
        program,
        statics(folder / aurora_files.STATIC, aurora_files.STATIC_VARIABLES, latitude_h, longitude_w),
    )


def aifs(folder: Path) -> Contract:
    """AIFS, from the checkpoint of the operator's folder that a note names.

    Raises:
        InvalidData: the checkpoint is another, or static variables are missing.
    """
    path = aifs_files.checkpoint(folder)
    known = aifs_files.metadata(path)
    rows, columns = aifs_files.GRID
    latitude_h = np.asarray(np.linspace(90.0, -90.0, rows), np.float64)
    longitude_w = np.asarray(np.arange(columns) * (360 / columns), np.float64)
    static = statics(folder / aifs_files.STATIC, known.static, latitude_h, longitude_w) if known.static else {}
    given: dict[str, Any] = {
        "checkpoint": str(path.resolve()),
        "fields": list(known.fields),
        "fixed": list(static),
        "hours": known.step_hours,
        "latitude": latitude_h.tolist(),
        "longitude": longitude_w.tolist(),
    }
    program = Program(
        name=aifs_files.NAME,
        module="aifs",
        variable=AIFS_PYTHON,
        packages="anemoi-inference, anemoi-models and torch",
        files=(path,),
        given=given,
        shape=(len(known.fields), rows, columns),
        limits=Limits.configured(),
    )
    return Contract(
        tuple(known.fields.values()),
        latitude_h,
        longitude_w,
        known.step_hours,
        known.history,
        program,
        {**{f"field_{name}": each for name, each in static.items()}, **_points(path, known)},
    )


def graphcast(path: Path) -> Contract:
    """GraphCast, from a checkpoint with its statistics beside it.

    Raises:
        InvalidData: checkpoint, statistics or static variables are not those of GraphCast. UnsafeArtifact: it holds a pickle.
    """
    known = graphcast_files.read(path)
    rows, columns = known.grid
    latitude_h = np.asarray(np.linspace(90.0, -90.0, rows), np.float64)
    longitude_w = np.asarray(np.arange(columns) * (360 / columns), np.float64)
    names = {name: graphcast_files.STATIC_VARIABLES[name] for name in known.static}
    static = statics(path.with_name(graphcast_files.STATIC), tuple(names.values()), latitude_h, longitude_w)
    arrays = {f"static_{name}": static[theirs] for name, theirs in names.items()}
    # What it is not given it gives as it is, and not as a difference.
    whole, rest = {*known.inputs, *known.targets}, {*known.static, *known.forcings}
    for kind, file, wanted in (
        ("mean", graphcast_files.MEANS, whole),
        ("std", graphcast_files.STDS, whole),
        ("difference", graphcast_files.DIFFERENCES, set(known.inputs)),
    ):
        found = statistics(path.with_name(file), wanted, rest, known.levels, {*graphcast_files.UPPER})
        arrays |= {f"{kind}_{name}": each for name, each in found.items()}
    given: dict[str, Any] = {
        "checkpoint": str(path.resolve()),
        "inputs": known.inputs,
        "targets": known.targets,
        "static_names": known.static,
        "forcings": known.forcings,
        "upper": list(graphcast_files.UPPER),
        "levels": known.levels,
        "latitude": latitude_h.tolist(),
        "longitude": longitude_w.tolist(),
    }
    program = Program(
        name=graphcast_files.NAME,
        module="graphcast",
        variable=GRAPHCAST_PYTHON,
        packages="jax, dm-haiku and graphcast (of github.com/google-deepmind, not the package index)",
        files=(path,),
        given=given,
        shape=(len(known.channels), rows, columns),
        limits=Limits.configured(),
    )
    return Contract(
        known.channels, latitude_h, longitude_w, graphcast_files.STEP_HOURS, graphcast_files.HISTORY, program, arrays
    )


def _points(path: Path, known: aifs_files.Metadata) -> dict[str, Floats]:
    """Where the points of the model lie, from arrays beside its pickle."""
    found: dict[str, Floats] = {}
    with zipfile.ZipFile(path) as archive:
        for name in ("latitudes", "longitudes"):
            try:
                entry = known.arrays[name]
                if archive.getinfo(entry["path"]).file_size > aifs_files.MAX_ARRAY or str(entry["dtype"]) not in _KINDS:
                    raise ValueError("it is too long, or no array of numbers")
                values = np.frombuffer(archive.read(entry["path"]), dtype=str(entry["dtype"])).reshape(entry["shape"])
            except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
                raise InvalidData(
                    f"The array {name} of {path.name} cannot be read: {error}.",
                    hint="Fetch the checkpoint again.",
                    code="unexpected_model",
                    param=path.name,
                ) from error
            if values.shape != (known.points,) or not np.isfinite(values).all() or np.abs(values).max() > 360:
                raise InvalidData(
                    f"The array {name} of {path.name} holds no coordinates of {known.points} points.",
                    hint="Fetch the checkpoint again.",
                    code="unexpected_model",
                    param=path.name,
                )
            found[name] = values.astype(np.float64)
    return found
