"""Forecasts written step by step as Zarr (2 or 3), and from there as NetCDF-4, both by the CF conventions (1.8).

One step of one member is one chunk, so that neither writing nor reading ever needs more than one step. The metadata is whole
from the beginning; steps that were not reached are missing values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import netCDF4
import numpy as np
import zarr
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import Floats, Times
from modelworks.capabilities.weather.grid.vocabulary import VARIABLES, parts

_LONG_NAMES = {
    "t2m": "2 metre temperature",
    "d2m": "2 metre dew point temperature",
    "u10": "10 metre eastward wind",
    "v10": "10 metre northward wind",
}
_METHODS = {"accum": "time: sum", "avg": "time: mean", "max": "time: maximum", "min": "time: minimum"}
_FILL = np.float32(9.969209968386869e36)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a forecast's file looks like: grid, times, channels, and what to say of each."""

    channels: tuple[str, ...]
    start: np.datetime64
    step_hours: float
    steps: int
    latitude_h: NDArray[np.float64]
    longitude_w: NDArray[np.float64]
    members: int = 0
    #: Of variables outside the vocabulary.
    units: Mapping[str, str] | None = None
    kinds: Mapping[str, str] | None = None
    title: str = "Forecast"
    source: str = "statistical forecast by a neural network (Modelworks)"
    references: str = "docs/howto/weather.md"
    #: Whether the states were forecast from `start`; else it is only where the times are counted from.
    is_forecast: bool = True

    @property
    def times_t(self) -> Times:
        """When each step is valid; the first is one step after the start."""
        seconds = np.rint(self.step_hours * 3600 * np.arange(1, self.steps + 1)).astype("timedelta64[s]")
        return np.asarray(self.start.astype("datetime64[s]") + seconds)

    def variables(self) -> dict[str, list[tuple[int, float | None]]]:
        """Variable -> (place among the channels, level in hPa), from the top of the air downwards."""
        found: dict[str, list[tuple[int, float | None]]] = {}
        for index, channel in enumerate(self.channels):
            name, level = parts(channel)
            found.setdefault(name, []).append((index, level))
        return {name: sorted(each, key=lambda pair: pair[1] or 0.0) for name, each in found.items()}

    def units_of(self, channel: str) -> str:
        """The unit of a channel's values."""
        name = parts(channel)[0]
        return VARIABLES[name].units if name in VARIABLES else (self.units or {}).get(channel, "1")

    def coordinates(self) -> dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]]:
        """Coordinate -> (dimensions, values, attributes)."""
        since = datetime.fromisoformat(str(self.start.astype("datetime64[s]"))).strftime("hours since %Y-%m-%d %H:%M:%S")
        hours = self.step_hours * np.arange(1, self.steps + 1)
        found: dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]] = {
            "time": (
                ("time",),
                hours,
                {
                    "standard_name": "time",
                    "long_name": "time that the state is valid at",
                    "units": since,
                    "calendar": "standard",
                    "axis": "T",
                },
            ),
            "latitude": (
                ("latitude",),
                self.latitude_h,
                {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
            ),
            "longitude": (
                ("longitude",),
                self.longitude_w,
                {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
            ),
            "forecast_reference_time": (
                (),
                np.float64(0.0) + np.zeros(()),
                {
                    "standard_name": "forecast_reference_time",
                    "long_name": "time of the last known state",
                    "units": since,
                    "calendar": "standard",
                },
            ),
            "forecast_period": (
                ("time",),
                hours.copy(),
                {"standard_name": "forecast_period", "long_name": "lead time", "units": "hours"},
            ),
        }
        if not self.is_forecast:
            del found["forecast_reference_time"], found["forecast_period"]
        if self.members:
            numbers = np.arange(self.members, dtype=np.int32)
            found["member"] = (
                ("member",),
                numbers,
                {"standard_name": "realization", "long_name": "ensemble member", "units": "1"},
            )
        for dim, levels in self._levels().items():
            found[dim] = (
                (dim,),
                np.asarray(levels),
                {
                    "standard_name": "air_pressure",
                    "long_name": "pressure level",
                    "units": "hPa",
                    "positive": "down",
                    "axis": "Z",
                },
            )
        return found

    def _levels(self) -> dict[str, tuple[float, ...]]:
        """Level dimensions: one for all variables where they have the same levels, else one for each."""
        own = {
            name: tuple(level for _, level in each if level is not None)
            for name, each in self.variables().items()
            if each[0][1] is not None
        }
        if len(set(own.values())) <= 1:
            return {"level": next(iter(own.values()))} if own else {}
        return {f"level_{name}": levels for name, levels in own.items()}

    def dimensions(self, variable: str) -> tuple[str, ...]:
        """The dimensions of a variable."""
        levels = self._levels()
        level = "level" if "level" in levels else f"level_{variable}"
        has_level = self.variables()[variable][0][1] is not None
        ensemble = ("member",) if self.members else ()
        return (*ensemble, "time", *((level,) if has_level else ()), "latitude", "longitude")

    def attributes(self, variable: str) -> dict[str, Any]:
        """What is said of a variable."""
        known = VARIABLES.get(variable)
        first = self.channels[self.variables()[variable][0][0]]
        found: dict[str, Any] = {"units": self.units_of(first)}
        if self.is_forecast:
            found["coordinates"] = "forecast_period forecast_reference_time"
        if known is not None:
            found["standard_name"] = known.standard_name
        found["long_name"] = _LONG_NAMES.get(variable, (known.standard_name if known else variable).replace("_", " "))
        if method := _METHODS.get((self.kinds or {}).get(first, "instant")):
            found["cell_methods"] = method
        return found

    def about(self) -> dict[str, str]:
        """What is said of the whole file."""
        return {
            "Conventions": "CF-1.8",
            "title": self.title,
            "institution": "private",
            "source": self.source,
            "history": f"forecast from {self.start.astype('datetime64[m]')}" if self.is_forecast else self.title,
            "references": self.references,
            "comment": "Made by a statistical model; no warning of a weather service.",
        }


class ForecastStore:
    """A Zarr store that a forecast is written to, step by step, and read from again."""

    def __init__(self, path: Path, layout: Layout, group: Any) -> None:
        self.path = path
        self.layout = layout
        self._arrays = {name: group[name] for name in layout.variables()}

    @classmethod
    def create(cls, path: Path, layout: Layout, zarr_format: Literal[2, 3] = 2) -> ForecastStore:
        """A store whose steps are all missing."""
        group = zarr.create_group(path, zarr_format=zarr_format, attributes=dict(layout.about()), overwrite=True)
        sizes = {
            "time": layout.steps,
            "latitude": len(layout.latitude_h),
            "longitude": len(layout.longitude_w),
            "member": layout.members,
        }
        for name, (dims, values, attrs) in layout.coordinates().items():
            _array(group, name, values.shape, values.shape, values.dtype, dims, attrs, zarr_format)[...] = values
            if name.startswith("level"):
                sizes[name] = len(values)
        for name in layout.variables():
            dims = layout.dimensions(name)
            shape = tuple(sizes[dim] for dim in dims)
            chunks = tuple(1 if dim in ("member", "time") else size for dim, size in zip(dims, shape, strict=True))
            attrs = layout.attributes(name)
            _array(group, name, shape, chunks, np.dtype("float32"), dims, attrs, zarr_format, fill_value=np.float32(np.nan))
        if zarr_format == 2:
            zarr.consolidate_metadata(path, zarr_format=2)
        return cls(path, layout, zarr.open_group(path, mode="r+"))

    @classmethod
    def open(cls, path: Path, layout: Layout) -> ForecastStore:
        """A store that was begun with the same layout."""
        return cls(path, layout, zarr.open_group(path, mode="r+", use_consolidated=False))

    def write(self, step: int, state_chw: Floats, member: int = 0) -> None:
        """The state of a step, counted from 0."""
        for name, places in self.layout.variables().items():
            values = state_chw[[index for index, _ in places]]
            where = (member, step) if self.layout.members else (step,)
            self._arrays[name][where] = values if places[0][1] is not None else values[0]

    def read(self, step: int, member: int = 0) -> Floats:
        """The state of a step; missing values are nan."""
        layout = self.layout
        state = np.empty((len(layout.channels), len(layout.latitude_h), len(layout.longitude_w)), np.float32)
        for name, places in layout.variables().items():
            values = np.asarray(self._arrays[name][(member, step) if layout.members else (step,)])
            state[[index for index, _ in places]] = values if places[0][1] is not None else values[None]
        return state

    def steps(self) -> Iterator[tuple[int, int, Floats]]:
        """(step, member, state) of all, one in memory at a time."""
        for step in range(self.layout.steps):
            for member in range(max(1, self.layout.members)):
                yield step, member, self.read(step, member)


def _array(
    group: Any,
    name: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: np.dtype[Any],
    dims: tuple[str, ...],
    attrs: Mapping[str, Any],
    zarr_format: int,
    *,
    fill_value: Any = None,
) -> Any:
    named: dict[str, Any] = {"dimension_names": list(dims)} if zarr_format == 3 else {}
    told = dict(attrs) if zarr_format == 3 else {**attrs, "_ARRAY_DIMENSIONS": list(dims)}
    # Of version 2, a fill value of 0, which is the default, would make readers take the longitude 0 for a missing one.
    kept = {"fill_value": fill_value} if fill_value is not None or zarr_format == 2 else {}
    return group.create_array(
        name, shape=tuple(shape), chunks=tuple(max(1, each) for each in chunks), dtype=dtype, attributes=told, **named, **kept
    )


def write_netcdf(store: ForecastStore, path: Path) -> None:
    """The whole forecast as one NetCDF-4 file, copied step by step."""
    layout = store.layout
    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        file.setncatts(layout.about())
        for name, (dims, values, _) in layout.coordinates().items():
            if dims == (name,):
                file.createDimension(name, len(values))
        for name, (dims, values, attrs) in layout.coordinates().items():
            made = file.createVariable(name, values.dtype, dims)
            made.setncatts(attrs)
            made[...] = values
        for name in layout.variables():
            dims = layout.dimensions(name)
            sizes = [len(file.dimensions[dim]) for dim in dims]
            chunks = [1 if dim in ("member", "time") else size for dim, size in zip(dims, sizes, strict=True)]
            made = file.createVariable(
                name, "f4", dims, zlib=True, complevel=4, shuffle=True, chunksizes=chunks, fill_value=_FILL
            )
            made.setncatts(layout.attributes(name))
        for step, member, state_chw in store.steps():
            for name, places in layout.variables().items():
                values = np.where(np.isnan(state_chw), _FILL, state_chw)[[index for index, _ in places]]
                where = (member, step) if layout.members else (step,)
                file.variables[name][where] = values if places[0][1] is not None else values[0]
