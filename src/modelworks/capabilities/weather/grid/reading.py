"""Grids out of NetCDF, Zarr and GRIB, in our layout, with a note for each repair and an error that names the coordinate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import SAME_DEGREES, Floats, Grids, Times, in_order, shown
from modelworks.capabilities.weather.grid.vocabulary import GRAVITY, VARIABLES, channel, conversion, is_height, known_name
from modelworks.contract.errors import InvalidData, PayloadTooLarge

NETCDF: Final = (".nc", ".nc4", ".netcdf", ".cdf")
GRIB: Final = (".grib", ".grb", ".grib1", ".grib2", ".grb2", ".grb1")
#: A grid larger than this in memory is refused; a training reads what it is given as a whole.
MAX_BYTES: Final = 16 << 30

_LATITUDE = ("latitude", "lat", "nav_lat", "y")
_LONGITUDE = ("longitude", "lon", "nav_lon", "x")
_LEVEL = ("level", "isobaricinhpa", "pressure_level", "plev", "lev", "isobaric")
_KINDS: Final = {"point": "instant", "sum": "accum", "mean": "avg", "maximum": "max", "minimum": "min"}

#: Told the times of a file: which of them (a rising row of indices) are to be read.
Choose = Callable[[Times], NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Piece:
    """One channel out of one file, already in our layout; a constant has no times."""

    name: str
    times_t: Times | None
    latitude_h: NDArray[np.float64]
    longitude_w: NDArray[np.float64]
    values_thw: Floats
    kind: str
    notes: tuple[str, ...]


def read(folder: Path, *, channels: Sequence[str] | None = None, choose: Choose | None = None) -> Grids:
    """All grids of a file or folder as one sequence: channels of several files side by side, times one after another.

    Args:
        folder: a file, a Zarr store, or a folder with any number of them.
        channels: read these alone; None for all that the vocabulary knows.
        choose: which times of each file are read.

    Raises:
        InvalidData: nothing can be read, a channel is missing, grids or times contradict each other, or units cannot be right.
        PayloadTooLarge: more than `MAX_BYTES` would be read.
    """
    pieces: list[Piece] = []
    for path in sources(folder):
        pieces += _pieces(path, frozenset(channels) if channels is not None else None, choose)
    if not pieces:
        wanted = f" of {', '.join(channels)}" if channels else " that the vocabulary knows"
        raise InvalidData(
            f"{folder.name} holds no field{wanted}.",
            hint="Give NetCDF, Zarr or GRIB with names or standard names such as msl, t2m, geopotential.",
            code="missing_channel" if channels else "no_grid",
            param="channels",
        )
    grids = joined(pieces)
    return grids if channels is None else grids.select(channels)


def sources(folder: Path) -> list[Path]:
    """The files and Zarr stores under a folder, in the order of their names.

    Raises:
        InvalidData: there are none.
    """
    if folder.is_file() or _is_zarr(folder):
        return [folder]
    found: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir():
            found += sources(path) if _is_zarr(path) or _holds_any(path) else []
        elif path.suffix.lower() in (*NETCDF, *GRIB):
            found.append(path)
    if not found:
        raise InvalidData(
            f"{folder.name} holds no NetCDF ({', '.join(NETCDF)}), GRIB ({', '.join(GRIB)}) or Zarr.",
            hint="Give the data set files of these formats.",
            code="no_grid",
        )
    return found


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def _holds_any(path: Path) -> bool:
    return any(_is_zarr(each) or each.suffix.lower() in (*NETCDF, *GRIB) for each in path.rglob("*"))


def _pieces(path: Path, wanted: frozenset[str] | None, choose: Choose | None) -> list[Piece]:
    if path.suffix.lower() in GRIB:
        from modelworks.capabilities.weather.grid.grib import read_grib

        return read_grib(path, wanted, choose)
    with warnings.catch_warnings():
        # Oddities of attributes, such as a _FillValue of another type; the values are looked at below.
        warnings.simplefilter("ignore")
        try:
            # A chunk is decoded as it is sliced; nothing is held that was not asked for.
            opened = xr.open_dataset(path, engine="zarr" if path.is_dir() else None, decode_timedelta=True, cache=False)
        except Exception as error:
            raise InvalidData(
                f"{path.name} cannot be opened: {type(error).__name__}: {str(error).splitlines()[0][:200]}",
                hint="It must be a whole NetCDF file or Zarr store.",
                code="unreadable_file",
            ) from error
        with opened:
            found = [piece for name in opened.data_vars for piece in _of_variable(path, opened, str(name), wanted, choose)]
    return found


def _of_variable(
    path: Path, opened: xr.Dataset, name: str, wanted: frozenset[str] | None, choose: Choose | None
) -> list[Piece]:
    array = opened[name]
    axes = _axes(array)
    where = f"{name} of {path.name}"
    if axes is None or not np.issubdtype(array.dtype, np.number):
        return []
    level = axes.get("level")
    known = known_name(name, array.attrs.get("standard_name"), has_levels=level is not None or _scalar_level(array) is not None)
    if known is None:
        return []
    rest = set(array.dims) - set(axes.values())
    for dim in rest:
        if array.sizes[dim] != 1:
            raise InvalidData(
                f"{where} has a coordinate {dim} of {array.sizes[dim]} values beside time, level, latitude and longitude.",
                hint="Take one member, height or expver of it first.",
                code="wrong_grid",
                param=str(dim),
            )
        array = array.isel({dim: 0})
    array = array.transpose(*(axes[part] for part in ("time", "level", "latitude", "longitude") if part in axes))
    times_t, array = _times(where, array, axes, choose)
    rows, columns, longitude_w, notes = in_order(_degrees(array, axes["latitude"]), _degrees(array, axes["longitude"]))
    latitude_h = _degrees(array, axes["latitude"])[rows]
    levels = [None] if level is None else _hectopascals(where, array[level])
    if level is None and VARIABLES[known].on_levels:
        levels = [_scalar_level(array)]
    pieces = []
    for index, hpa in enumerate(levels):
        made = channel(known, hpa) if VARIABLES[known].on_levels else known
        if wanted is not None and made not in wanted:
            continue
        layer = array if level is None else array.isel({level: index})
        check_size(where, layer.size)
        values = np.asarray(layer.values, np.float32)[..., rows, :][..., columns]
        if times_t is None:
            values = values[None]
        values, told = in_units(
            where, known, values, array.attrs.get("units"), as_height=is_height(name, array.attrs.get("standard_name"))
        )
        told += [f"{where}: {note}" for note in notes]
        kind = _kind(array, known)
        pieces.append(Piece(made, times_t, latitude_h, longitude_w, values, kind, tuple(told)))
    return pieces


def _axes(array: xr.DataArray) -> dict[str, str] | None:
    """Which dimension is which, or None where there is no latitude or longitude."""
    found: dict[str, str] = {}
    for dim in map(str, array.dims):
        attrs = array[dim].attrs if dim in array.coords else {}
        standard, units, lowered = attrs.get("standard_name"), str(attrs.get("units", "")), dim.lower()
        if standard == "latitude" or units.startswith("degrees_n") or lowered in _LATITUDE[:2]:
            found["latitude"] = dim
        elif standard == "longitude" or units.startswith("degrees_e") or lowered in _LONGITUDE[:2]:
            found["longitude"] = dim
        elif standard == "air_pressure" or lowered in _LEVEL:
            found["level"] = dim
        elif standard == "time" or lowered in ("time", "valid_time") or _is_time(array, dim):
            found["time"] = dim
    return found if {"latitude", "longitude"} <= set(found) else None


def _is_time(array: xr.DataArray, dim: str) -> bool:
    return dim in array.coords and bool(np.issubdtype(array[dim].dtype, np.datetime64))


def _degrees(array: xr.DataArray, dim: str) -> NDArray[np.float64]:
    return np.asarray(array[dim].values, np.float64)


def _times(
    where: str, array: xr.DataArray, axes: Mapping[str, str], choose: Choose | None
) -> tuple[Times | None, xr.DataArray]:
    """The times at which states are valid, and the array of those that were chosen."""
    if "time" not in axes:
        one = next((array.coords[each] for each in ("valid_time", "time") if each in array.coords), None)
        if one is None or one.ndim or not np.issubdtype(one.dtype, np.datetime64):
            return None, array
        return np.asarray([one.values], "datetime64[s]"), array.expand_dims({"time": 1})
    dim = axes["time"]
    coordinate = array.coords.get(dim)
    valid = array.coords.get("valid_time")
    if valid is not None and valid.dims == (dim,):
        # GRIB's way in NetCDF: time is when the forecast began, valid_time what it is of.
        coordinate = valid
    if coordinate is None:
        raise InvalidData(
            f"{where}: the dimension {dim} has no times.", hint="Add a coordinate time.", code="no_times", param="time"
        )
    raw = coordinate.values
    if not np.issubdtype(raw.dtype, np.datetime64):
        raw = _civil(where, raw)
    times = raw.astype("datetime64[s]")
    if np.isnat(times).any():
        raise InvalidData(f"{where}: a time is missing.", hint="Leave such states out.", code="no_times", param="time")
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    twice = np.flatnonzero(np.diff(ordered) == np.timedelta64(0, "s"))
    if twice.size:
        raise InvalidData(
            f"{where} has the time {shown(ordered[twice[0]])} twice ({twice.size} such times).",
            hint="Keep one state for each time, such as one expver or one forecast.",
            code="repeated_times",
            param="time",
        )
    if choose is not None:
        order = order[choose(ordered)]
    return times[order], array.isel({dim: order})


def _civil(where: str, raw: NDArray[Any]) -> Times:
    """Times of another calendar: the same dates, where they exist."""
    try:
        return np.asarray([np.datetime64(each.isoformat(), "s") for each in raw.ravel()])
    except (AttributeError, ValueError) as error:
        raise InvalidData(
            f"{where}: its times cannot be read as dates of our calendar ({str(error)[:100]}).",
            hint="Convert the calendar (cdo setcalendar,standard).",
            code="no_times",
            param="time",
        ) from error


def _hectopascals(where: str, coordinate: xr.DataArray) -> list[float | None]:
    values = np.asarray(coordinate.values, np.float64)
    units = str(coordinate.attrs.get("units", "")).lower()
    if units in ("pa", "pascal", "pascals") or (not units and values.max() > 2000):
        values = values / 100
    if values.min() <= 0 or values.max() > 1100:
        raise InvalidData(
            f"{where}: its levels run from {values.min():g} to {values.max():g}, which are no pressures in hPa.",
            hint="Give pressure levels; model levels and heights are interpolated first.",
            code="wrong_level",
            param=str(coordinate.name),
        )
    return [float(each) for each in values]


def _scalar_level(array: xr.DataArray) -> float | None:
    for name in array.coords:
        if str(name).lower() in _LEVEL and array.coords[name].ndim == 0:
            [level] = _hectopascals(str(name), array.coords[name].expand_dims("level"))
            return level
    return None


def _kind(array: xr.DataArray, known: str) -> str:
    for key in ("GRIB_stepType", "stepType"):
        if key in array.attrs:
            return str(array.attrs[key])
    for method, kind in _KINDS.items():
        if f"time: {method}" in str(array.attrs.get("cell_methods", "")):
            return kind
    return "accum" if VARIABLES[known].accumulated else "instant"


def check_size(where: str, num_values: int) -> None:
    """Raise PayloadTooLarge where a field would not fit."""
    if 4 * num_values > MAX_BYTES:
        raise PayloadTooLarge(
            f"{where} has {4 * num_values / 2**30:.0f} GiB of values; at most {MAX_BYTES >> 30} GiB are read at a time.",
            hint="Name fewer channels, or give fewer times.",
        )


def in_units(where: str, known: str, values: Floats, units: Any, *, as_height: bool = False) -> tuple[Floats, list[str]]:
    """Values in the vocabulary's unit, and what was done.

    Raises:
        InvalidData: the unit is unknown, of another quantity, or cannot be that of these values; says which it may be.
    """
    variable, notes = VARIABLES[known], []
    values = np.where(np.isinf(values) | (np.abs(values) > 1e30), np.float32(np.nan), values)
    if as_height:
        text = str(units or "m").strip().lower()
        if text not in ("m", "gpm", "metre", "metres", "meter", "meters", "m2s-2", "m**2 s**-2", "m2 s-2"):
            raise _wrong_unit(where, units, variable.units)
        if not text.startswith(("m2", "m**2")):
            values = values * np.float32(GRAVITY)
            notes.append(f"{where}: height in m was multiplied by {GRAVITY} to geopotential")
    elif units is not None and str(units).strip():
        meant = conversion(str(units))
        if meant is not None and variable.name == "tp" and meant[0] == "kg m-2":
            meant = ("m", 1e-3, 0.0)
        if meant is not None and {meant[0], variable.units} == {"%", "1"}:
            meant = (variable.units, 0.01 if meant[0] == "%" else 100.0, 0.0)
        if meant is None or meant[0] != variable.units:
            raise _wrong_unit(where, units, variable.units)
        if meant[1:] != (1.0, 0.0):
            values = values * np.float32(meant[1]) + np.float32(meant[2])
            notes.append(f"{where}: {units} were converted to {variable.units}")
    if not np.isfinite(values).any():
        return values, notes
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < variable.lowest or high > variable.highest:
        # A unit is also told by where its values lie, but nothing is changed by a guess.
        candidates = [
            unit
            for unit in ("hPa", "degC", "degF", "g/kg", "mm", "kt")
            if (found := conversion(unit)) is not None
            and found[0] == variable.units
            and low * found[1] + found[2] >= variable.lowest
            and high * found[1] + found[2] <= variable.highest
        ]
        raise InvalidData(
            f"{where} is in {units or 'unknown units'}, but its values run from {low:g} to {high:g} {variable.units} where "
            f"{known} lies between {variable.lowest:g} and {variable.highest:g}"
            + (f": they look like {candidates[0]}." if candidates else "."),
            hint="Set the attribute units to what the values are in.",
            code="wrong_units",
            param=known,
        )
    return values, notes


def _wrong_unit(where: str, units: Any, expected: str) -> InvalidData:
    return InvalidData(
        f"{where} is in {units!r}, which cannot be converted to {expected}.",
        hint=f"Convert it to {expected}, or correct its attribute units.",
        code="wrong_units",
        param=where.split(" ")[0],
    )


def joined(pieces: Sequence[Piece]) -> Grids:
    """Pieces side by side and one after another; of the times those that every channel has.

    Raises:
        InvalidData: their grids differ, a time of a channel comes twice with other values, or no time is common to all.
    """
    first = pieces[0]
    notes: list[str] = []
    for each in pieces:
        for name, ours, theirs in (
            ("latitude", first.latitude_h, each.latitude_h),
            ("longitude", first.longitude_w, each.longitude_w),
        ):
            if len(ours) != len(theirs) or not np.allclose(ours, theirs, atol=SAME_DEGREES):
                raise InvalidData(
                    f"The coordinate {name} of {each.name} ({told(theirs)}) is not that of {first.name} ({told(ours)}).",
                    hint="Give all channels on one grid.",
                    code="wrong_grid",
                    param=name,
                )
        notes += each.notes
    constants = {each.name: each.values_thw[0] for each in pieces if each.times_t is None}
    by_channel: dict[str, list[Piece]] = {}
    for each in pieces:
        if each.times_t is not None:
            by_channel.setdefault(each.name, []).append(each)
    for name in ("zs", "lsm"):
        if name in by_channel and len(by_channel) > 1:
            # Files of reanalyses repeat what never changes at every time.
            constants[name] = by_channel.pop(name)[0].values_thw[0]
    if not by_channel:
        shape = (0, 0, len(first.latitude_h), len(first.longitude_w))
        nothing = np.empty(0, "datetime64[s]")
        return Grids((), nothing, first.latitude_h, first.longitude_w, np.empty(shape, np.float32), tuple(notes), constants)
    merged = {name: _one_after_another(name, own) for name, own in by_channel.items()}
    if not any(len(times_t) for times_t, _ in merged.values()):
        raise InvalidData(
            "The data have no state of the times that are asked for.",
            hint="Name times that are in the data.",
            code="no_such_time",
            param="time",
        )
    common = next(iter(merged.values()))[0]
    for times_t, _ in merged.values():
        common = np.intersect1d(common, times_t, assume_unique=True)
    spans = ", ".join(f"{name} {_span(times)}" for name, (times, _) in merged.items())
    if not len(common):
        raise InvalidData(
            f"No time is common to all channels: {spans}.",
            hint="Give all channels at the same times.",
            code="mixed_times",
            param="time",
        )
    if any(len(times) != len(common) for times, _ in merged.values()):
        notes.append(f"only the {len(common)} times that all channels have were read: {spans}")
    check_size("the data", len(common) * len(merged) * first.values_thw[0].size)
    stack = [values[np.isin(times, common, assume_unique=True)] for times, values in merged.values()]
    values_tchw = stack[0][:, None] if len(stack) == 1 else np.stack(stack, axis=1)
    kinds = {name: own[0].kind for name, own in by_channel.items()}
    unique = tuple(dict.fromkeys(notes))
    return Grids(tuple(merged), common, first.latitude_h, first.longitude_w, values_tchw, unique, constants, kinds)


def _span(times_t: Times) -> str:
    return f"{shown(times_t[0])} to {shown(times_t[-1])} ({len(times_t)})" if len(times_t) else "none"


def _one_after_another(name: str, pieces: Sequence[Piece]) -> tuple[Times, Floats]:
    times = np.concatenate([each.times_t for each in pieces if each.times_t is not None])
    values = pieces[0].values_thw if len(pieces) == 1 else np.concatenate([each.values_thw for each in pieces])
    order = np.argsort(times, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        times, values = times[order], values[order]
    again = np.flatnonzero(np.diff(times) == np.timedelta64(0, "s"))
    if again.size:
        if any(not np.array_equal(values[at], values[at + 1], equal_nan=True) for at in again):
            raise InvalidData(
                f"{name} is given twice for {shown(times[again[0]])}, with other values ({again.size} such times).",
                hint="Keep one state for each time: one analysis, or one forecast.",
                code="repeated_times",
                param="time",
            )
        keep = np.setdiff1d(np.arange(len(times)), again + 1)
        times, values = times[keep], values[keep]
    return times, values


def told(coordinate: NDArray[np.float64]) -> str:
    """A coordinate for a person: `70 to 30 by -2.5 (17)`."""
    step = f" by {coordinate[1] - coordinate[0]:g}" if len(coordinate) > 1 else ""
    return f"{coordinate[0]:g} to {coordinate[-1]:g}{step} ({len(coordinate)})"


def filled(grids: Grids, most_missing: float) -> Grids:
    """Patches of missing values filled from their neighbours, where they are small.

    Raises:
        InvalidData: a field lacks more than that part; says which, when, and where it begins.
    """
    missing_tchw = ~np.isfinite(grids.values_tchw)
    if not missing_tchw.any():
        return grids
    from scipy.ndimage import distance_transform_edt

    part_tc = missing_tchw.mean(axis=(2, 3))
    worst = np.unravel_index(int(part_tc.argmax()), part_tc.shape)
    if part_tc[worst] > most_missing:
        row, column = (int(each[0]) for each in np.nonzero(missing_tchw[worst]))
        raise InvalidData(
            f"{grids.channels[worst[1]]} lacks {100 * part_tc[worst]:.1f}% of its values at {shown(grids.times_t[worst[0]])}, "
            f"the first at latitude {grids.latitude_h[row]:g}, longitude {grids.longitude_w[column]:g} "
            f"({int((part_tc > most_missing).sum())} such fields).",
            hint=f"Fill them, or leave these times out; up to {100 * most_missing:g}% of a field is filled from neighbours.",
            code="missing_values",
            param=grids.channels[worst[1]],
        )
    values = grids.values_tchw.copy()
    for time, where in np.argwhere(missing_tchw.any(axis=(2, 3))):
        nearest = distance_transform_edt(missing_tchw[time, where], return_distances=False, return_indices=True)
        values[time, where] = values[time, where][tuple(nearest)]
    note = f"{int(missing_tchw.sum())} missing values in {int((part_tc > 0).sum())} fields were filled from their neighbours"
    return replace(grids, values_tchw=values, notes=(*grids.notes, note))
