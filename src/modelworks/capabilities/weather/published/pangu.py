"""Pangu-Weather as a `Stepper`: up to four ONNX files, one for each step, chained so that as few as can be are taken.

Legend: S anchors, C channels, H latitudes, W longitudes.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import Floats
from modelworks.capabilities.weather.published import pangu_files
from modelworks.capabilities.weather.published.pangu_files import CHANNELS, LEVELS, UPPER, check_file, files_of
from modelworks.contract.errors import InvalidData, InvalidRequest, MissingExtra


class Pangu:
    """The steps of one length, each from the nearest earlier state that the longest file reaches.

    Hour 31, with all files, is 24 + 6 + 1 hours after the start. Only the states that later steps begin from are kept: the
    last ones at whole multiples of each file's hours, at most four. One file (about 1.2 GB) is open at a time.
    """

    history: Final = 1
    stride: Final = 1
    channels: Final = CHANNELS

    def __init__(self, folder: Path, start: np.datetime64 | None, step_hours: float | None, threads: int | None) -> None:
        """Open none of the files yet.

        Args:
            start: the time of the state that a forecast begins from; None where it is told later with `begin`.
            step_hours: hours of a step; None for the shortest that there is a file for.

        Raises:
            InvalidRequest: there is no file for these hours.
            InvalidData, UnsafeArtifact: see `check_file`.
        """
        files = files_of(folder)
        wanted = min(files) if step_hours is None else step_hours
        if wanted not in files:
            raise InvalidRequest(
                f"This model has no step of {wanted:g} hours; it has {', '.join(f'{each}' for each in sorted(files))}.",
                hint=f"Leave step_hours out for {min(files)} hours, or import pangu_weather_{wanted:g}.onnx as well.",
                param="step_hours",
            )
        self.step_hours = float(wanted)
        self._hours = tuple(each for each in files if each >= wanted and each % wanted == 0)
        self._files = {each: files[each] for each in self._hours}
        for path in self._files.values():
            check_file(path, pangu_files.GRID)
        self._threads = threads
        self._start = start
        self._open: tuple[int, Any] | None = None
        self.latitude_h: NDArray[np.float64] = np.asarray(np.linspace(90.0, -90.0, pangu_files.GRID[0]), np.float64)
        self.longitude_w: NDArray[np.float64] = np.asarray(
            np.arange(pangu_files.GRID[1]) * (360 / pangu_files.GRID[1]), np.float64
        )

    def begin(self, start: np.datetime64) -> None:
        """Tell the time of the state that the forecast begins from."""
        self._start = start

    def advance(self, history_schw: Floats, last: np.datetime64, noise: np.random.Generator | None) -> Floats:
        """The state after the next step, (1, C, H, W).

        Args:
            history_schw: the first state alone, or what `follow` gave: one state for each file, the longest step's first.
            last: the time of the newest of them.
        """
        anchors_schw = self._anchors(history_schw)
        ahead = self._elapsed(last) + round(self.step_hours)
        index = next(place for place, hours in enumerate(self._hours) if ahead % hours == 0)
        return self._computed(self._hours[index], anchors_schw[index])[None]

    def follow(self, history_schw: Floats, block_lchw: Floats, last: np.datetime64) -> Floats:
        """The states to keep once a step after the time `last` gave `block_lchw`: the anchor of all multiples that it is at."""
        ahead = self._elapsed(last) + round(self.step_hours)
        kept = self._anchors(history_schw)
        reached = [ahead % hours == 0 for hours in self._hours]
        return np.stack([block_lchw[-1] if is_new else kept[place] for place, is_new in enumerate(reached)])

    def _anchors(self, history_schw: Floats) -> Floats:
        return (
            history_schw
            if len(history_schw) == len(self._hours)
            else np.broadcast_to(history_schw[-1:], (len(self._hours), *history_schw.shape[1:]))
        )

    def _elapsed(self, last: np.datetime64) -> int:
        if self._start is None:
            raise RuntimeError("the forecast's start is not known")
        return int((last.astype("datetime64[s]") - self._start.astype("datetime64[s]")) // np.timedelta64(3600, "s"))

    def _computed(self, hours: int, state_chw: Floats) -> Floats:
        """One run of a file on a state."""
        session = self._session(hours)
        num_upper, (rows, columns) = len(UPPER) * len(LEVELS), pangu_files.GRID
        given = {
            "input": np.ascontiguousarray(state_chw[:num_upper], np.float32).reshape(len(UPPER), len(LEVELS), rows, columns),
            "input_surface": np.ascontiguousarray(state_chw[num_upper:], np.float32),
        }
        upper, surface = session.run(["output", "output_surface"], given)
        found = np.concatenate([np.reshape(upper, (num_upper, rows, columns)), surface])
        if not np.isfinite(found).all():
            raise InvalidData(
                f"{self._files[hours].name} gave values that are no numbers.",
                hint="Are the initial states those that it was trained on (ERA5, in the units of the documentation)?",
                code="not_finite",
            )
        return np.asarray(found, np.float32)

    def _session(self, hours: int) -> Any:
        if self._open is not None and self._open[0] == hours:
            return self._open[1]
        # Before the next one is opened, so that two are never held.
        self._open = None
        gc.collect()
        self._open = (hours, opened(self._files[hours], self._threads))
        return self._open[1]


def opened(path: Path, threads: int | None) -> Any:
    """A session of ONNX Runtime on the CPU, without the arenas and plans that would keep several gigabytes between runs.

    Raises:
        MissingExtra: ONNX Runtime is not installed. InvalidData: it refuses the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra.of("onnxruntime", "weather-onnx") from error
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.enable_mem_reuse = False
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidData(
            f"{path.name} cannot be opened: {str(error).splitlines()[0][:300]}",
            hint="Fetch the file again; it must be one that ONNX Runtime reads.",
            code="unreadable_file",
            param=path.name,
        ) from error
