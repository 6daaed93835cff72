"""The files of GraphCast (WeatherNext 1 Graph): what they are called, hold and allow. Light: the server asks while it pulls.

Lam et al., "Learning skillful medium-range global weather forecasting", Science 382 (2023). Names of variables, layout of the
checkpoint and of the statistics: github.com/google-deepmind/graphcast (graphcast.py, checkpoint.py, normalization.py). The
weights were published under CC BY-NC-SA 4.0, which is held here; whoever has other terms says so when they are pulled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from modelworks.capabilities.weather.grid.vocabulary import channel
from modelworks.capabilities.weather.published.npz_header import Header, header_of
from modelworks.contract.errors import InvalidData

LICENCE: Final = "CC-BY-NC-SA-4.0"
NAME: Final = "GraphCast"
STATIC: Final = "static.nc"
MEANS: Final = "mean_by_level.nc"
STDS: Final = "stddev_by_level.nc"
DIFFERENCES: Final = "diffs_stddev_by_level.nc"
#: The package's name and ours.
SURFACE: Final = MappingProxyType(
    {
        "2m_temperature": "t2m",
        "mean_sea_level_pressure": "msl",
        "10m_v_component_of_wind": "v10",
        "10m_u_component_of_wind": "u10",
        "total_precipitation_6hr": "tp6h",
    }
)
UPPER: Final = MappingProxyType(
    {
        "temperature": "t",
        "geopotential": "z",
        "u_component_of_wind": "u",
        "v_component_of_wind": "v",
        "vertical_velocity": "w",
        "specific_humidity": "q",
    }
)
#: Fields without a time, and what ERA5's files call them.
STATIC_VARIABLES: Final = MappingProxyType({"geopotential_at_surface": "z", "land_sea_mask": "lsm"})
#: Told by the time and the sun alone; the package computes them.
FORCINGS: Final = (
    "toa_incident_solar_radiation",
    "year_progress_sin",
    "year_progress_cos",
    "day_progress_sin",
    "day_progress_cos",
)
STEP_HOURS: Final = 6.0
HISTORY: Final = 2
_DURATION: Final = "12h"
_FINEST_DEGREES: Final = 0.1


@dataclass(frozen=True, slots=True)
class Known:
    """What a checkpoint says of itself.

    Attributes:
        degrees: between points.
        levels: hPa, in its order.
        inputs: variables that it is given at both times, and gives.
        targets: variables that it gives; those that it is not given are left out of states.
    """

    degrees: float
    levels: tuple[int, ...]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    static: tuple[str, ...]
    forcings: tuple[str, ...]

    @property
    def channels(self) -> tuple[str, ...]:
        """Of a state, in the order of its inputs."""
        found: list[str] = []
        for name in self.inputs:
            found += [SURFACE[name]] if name in SURFACE else [channel(UPPER[name], level) for level in self.levels]
        return tuple(found)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows from 90 to -90, columns from 0 eastwards."""
        return round(180 / self.degrees) + 1, round(360 / self.degrees)


def found(folder: Path) -> Path | None:
    """The checkpoint of GraphCast in a folder; None where it is something else.

    Raises:
        InvalidData: there are none or several beside the statistics.
    """
    if not (folder / DIFFERENCES).is_file():
        return None
    paths = sorted(folder.glob("*.npz"))
    if len(paths) != 1:
        raise InvalidData(
            f"{folder.name} holds {len(paths)} checkpoints (.npz) beside the statistics of {NAME}, not one.",
            hint="Give each checkpoint a folder of its own, with its statistics.",
            code="unexpected_model",
            param="checkpoint",
        )
    return paths[0]


def import_graphcast(folder: Path, into: Path) -> Mapping[str, Any] | None:
    """Task and licence of fetched files of GraphCast, kept as they are; see `contract.predictor.Importer`.

    Raises:
        InvalidData: the checkpoint is another model's, or a file is missing beside it. UnsafeArtifact: it holds a pickle.
    """
    path = found(folder)
    if path is None:
        return None
    known = read(path)
    return {"task": "weather-forecast", "licence": LICENCE, "checkpoint": path.stem, "channels": len(known.channels)}


def read(path: Path) -> Known:
    """What a checkpoint says of itself; its weights are held by the worker.

    Raises:
        InvalidData: it says nothing that is known here, or a file is missing beside it; `param` names which.
        UnsafeArtifact: it holds Python objects.
    """
    for name in (MEANS, STDS, DIFFERENCES, STATIC):
        if not path.with_name(name).is_file():
            raise InvalidData(
                f"{path.parent.name} holds no {name}, which {NAME} needs beside its weights.",
                hint=f"Lay {MEANS}, {STDS} and {DIFFERENCES} there as they were published, and z and lsm of ERA5 as {STATIC}.",
                code="no_static",
                param=name,
            )
    header = header_of(path)
    told = header.values
    try:
        degrees, duration = float(told["model_config:resolution"]), str(told["task_config:input_duration"])
        inputs, targets = _listed(header, "input_variables"), _listed(header, "target_variables")
        forcings = _listed(header, "forcing_variables")
        levels = tuple(int(each) for each in _listed(header, "pressure_levels"))
    except (KeyError, ValueError) as error:
        raise _unexpected(path, f"says nothing of {error}", path.name) from error
    if not any(name.startswith("params:") for name in header.types):
        raise _unexpected(path, "holds no weights", "params")
    if duration != _DURATION:
        raise _unexpected(path, f"begins from states over {duration}, not {_DURATION}", "input_duration")
    if not degrees >= _FINEST_DEGREES or abs(180 / degrees - round(180 / degrees)) > 1e-9:
        raise _unexpected(path, f"has points {degrees:g} degrees apart, which do not divide 180", "resolution")
    fields = {*SURFACE, *UPPER}
    for name in (*inputs, *targets, *forcings):
        if name not in fields and name not in FORCINGS and name not in STATIC_VARIABLES:
            raise _unexpected(path, f"needs {name}, which is not known here", name)
    given = tuple(name for name in inputs if name in fields)
    for name in (*given, *(each for each in inputs if each in FORCINGS)):
        if name not in targets and name not in forcings:
            raise _unexpected(path, f"is given {name} in time and neither gives it nor has it from the sun", name)
    if not given or not levels or len(set(levels)) != len(levels) or any(name not in fields for name in targets):
        raise _unexpected(path, "has no fields or levels that a state is made of", "task_config")
    static = tuple(name for name in inputs if name in STATIC_VARIABLES)
    return Known(degrees, levels, given, targets, static, forcings)


def _listed(header: Header, name: str) -> tuple[str, ...]:
    start = f"task_config:{name}:"
    found: list[str] = []
    while (key := f"{start}{len(found)}") in header.values:
        found.append(str(header.values[key]))
    if not found:
        raise KeyError(f"task_config:{name}")
    return tuple(found)


def _unexpected(path: Path, what: str, param: str) -> InvalidData:
    return InvalidData(
        f"{path.name} {what}.",
        hint=f"Give one of the three checkpoints of {NAME}; those of GenCast and WeatherNext 2 are other models.",
        code="unexpected_model",
        param=param,
    )
