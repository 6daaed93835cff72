"""Published models that run in environments of their own, as steppers: what each takes, and the process behind it.

Legend: S states of the history, C channels, H latitudes, W longitudes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from modelworks.capabilities.weather.grid.grids import Floats
from modelworks.capabilities.weather.published import aurora_files
from modelworks.capabilities.weather.published.confined import Confined, Limits, Program
from modelworks.capabilities.weather.published.statics import statics

#: Environment variables with interpreters.
AURORA_PYTHON = "MODELWORKS_AURORA_PYTHON"


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
