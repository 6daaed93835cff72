"""GRIB 1 and 2, message by message with ecCodes: into pieces of our layout, and forecasts out of a store.

Everything is told by the message's own keys (validity date and time, level, kind of step), not by its place in the file, so
that a file may hold several variables, levels, dates and kinds of step in any order.

Source: WMO FM 92 GRIB; ecCodes' keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import eccodes
import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import Floats, in_order, shown
from modelworks.capabilities.weather.grid.vocabulary import VARIABLES, channel, known_name, parts
from modelworks.contract.errors import InvalidData

if TYPE_CHECKING:
    from modelworks.capabilities.weather.grid.reading import Choose, Piece
    from modelworks.capabilities.weather.grid.writing import ForecastStore

#: Names of parameters by ECMWF's id, which is the same in both editions.
_BY_ID: Final = {each.param_id: each.name for each in VARIABLES.values() if each.name not in ("zs", "z", "tp6h")}
#: Parameters of others by ECMWF's id: pressure of NCEP and JMA, geopotential height.
_FURTHER: Final = {260074: "msl", 3002: "msl", 156: "gh", 260121: "tcwv"}
_MISSING: Final = 9.999e20
_BITS: Final = 16


@dataclass(slots=True)
class _Series:
    """Messages of one channel; `at` are (validity time, start of the interval in hours or None, reference time, offset)."""

    name: str
    kind: str
    units: str
    is_height: bool
    grid: tuple[Any, ...]
    at: list[tuple[np.datetime64, float | None, np.datetime64, int]] = field(default_factory=list)


def read_grib(path: Path, wanted: frozenset[str] | None, choose: Choose | None) -> list[Piece]:
    """The pieces of one file.

    Raises:
        InvalidData: it is damaged or on another kind of grid, a time comes twice with different reference times, or sums of
            different intervals are mixed.
    """
    from modelworks.capabilities.weather.grid.reading import Piece, check_size, in_units

    series = _index(path, wanted)
    pieces: list[Piece] = []
    with path.open("rb") as file:
        for one in series:
            where = f"{one.name} of {path.name}"
            order = sorted(range(len(one.at)), key=lambda each: one.at[each][0])
            times = np.asarray([one.at[each][0] for each in order], "datetime64[s]")
            _refuse_mixed(where, one, [one.at[each] for each in order])
            picked = np.arange(len(times)) if choose is None else choose(times)
            columns, rows = one.grid[0], one.grid[1]
            check_size(where, len(picked) * columns * rows)
            values = np.empty((len(picked), rows, columns), np.float32)
            for place, index in enumerate(picked):
                with _message(file, one.at[order[index]][3], path.name) as handle:
                    values[place] = _field(handle, rows, columns)
            latitudes, longitudes = _coordinates(one.grid)
            by_row, by_column, longitude_w, notes = in_order(latitudes, longitudes)
            variable = parts(one.name)[0]
            values, told = in_units(where, variable, values[:, by_row][:, :, by_column], one.units, as_height=one.is_height)
            told += [f"{where}: {note}" for note in notes]
            pieces.append(Piece(one.name, times[picked], latitudes[by_row], longitude_w, values, one.kind, tuple(told)))
    return pieces


def _index(path: Path, wanted: frozenset[str] | None) -> list[_Series]:
    """What the file holds, by channel, without unpacking a value."""
    found: dict[tuple[str, str], _Series] = {}
    with path.open("rb") as file:
        while True:
            offset = file.tell()
            try:
                handle = eccodes.codes_grib_new_from_file(file, headers_only=True)
            except eccodes.CodesInternalError as error:
                raise _damaged(path.name, offset, error) from error
            if handle is None:
                break
            try:
                described = _described(handle, path.name)
            except eccodes.CodesInternalError as error:
                raise _damaged(path.name, offset, error) from error
            finally:
                eccodes.codes_release(handle)
            if described is None:
                continue
            name, kind, units, is_height, grid, when = described
            if wanted is not None and name not in wanted:
                continue
            one = found.setdefault((name, kind), _Series(name, kind, units, is_height, grid))
            if one.grid != grid:
                raise InvalidData(
                    f"{name} of {path.name} lies on two grids: {_told(one.grid)}, and {_told(grid)}.",
                    hint="Give one grid per file, or regrid (cdo remapbil).",
                    code="wrong_grid",
                    param="latitude" if one.grid[1:4] != grid[1:4] else "longitude",
                )
            # The file may begin with bytes that are no message; the handle knows where it really began.
            one.at.append((*when, offset))
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        kinds = ", ".join(kind for name, kind in found if name == twice[0])
        raise InvalidData(
            f"{path.name} mixes kinds of {twice[0]}: {kinds}.",
            hint="Give values of instants, or sums, in one file (grib_copy -w stepType=instant).",
            code="mixed_kinds",
            param=twice[0],
        )
    return list(found.values())


def _described(
    handle: Any, file: str
) -> tuple[str, str, str, bool, tuple[Any, ...], tuple[np.datetime64, float | None, np.datetime64]] | None:
    def get(key: str, kind: type | None = None) -> Any:
        return eccodes.codes_get(handle, key, kind)

    param, short = int(get("paramId", int)), str(get("shortName"))
    level_type, level = str(get("typeOfLevel")), float(get("level", float))
    on_levels = level_type in ("isobaricInhPa", "isobaricInPa")
    told = _FURTHER.get(param) or _BY_ID.get(param) or short
    name = known_name(told, None, has_levels=on_levels)
    if name is None and short != "unknown":
        name = known_name(short, None, has_levels=on_levels)
    if name is None or VARIABLES[name].on_levels != on_levels:
        # GRIB says t at two metres, and means t2m.
        at_height = {"t": "t2m", "u": "u10", "v": "v10"}.get(name or "")
        if level_type != "heightAboveGround" or at_height is None or level not in (2.0, 10.0):
            return None
        name = at_height
    if get("gridType") != "regular_ll":
        raise InvalidData(
            f"{name} of {file} lies on a grid of the type {get('gridType')}; regular_ll is read.",
            hint="Regrid it (cdo remapbil, or grib_interpolate).",
            code="wrong_grid",
            param="latitude",
        )
    grid = (
        int(get("Ni", int)),
        int(get("Nj", int)),
        *(round(float(get(f"{each}InDegrees", float)), 6) for each in (
            "latitudeOfFirstGridPoint", "latitudeOfLastGridPoint", "longitudeOfFirstGridPoint", "longitudeOfLastGridPoint",
        )),
    )  # fmt: skip
    if grid[0] * grid[1] != int(get("numberOfDataPoints", int)) or int(get("jPointsAreConsecutive", int)):
        raise InvalidData(
            f"{name} of {file}: its grid of {grid[1]} x {grid[0]} points is not laid out in rows.",
            hint="Rewrite it (cdo -f grb2 copy).",
            code="wrong_grid",
            param="longitude",
        )
    valid = _moment(int(get("validityDate", int)), int(get("validityTime", int)))
    reference = _moment(int(get("dataDate", int)), int(get("dataTime", int)))
    kind = str(get("stepType"))
    begin = None
    if kind != "instant":
        hours = {0: 1 / 60, 1: 1.0, 2: 24.0}.get(int(get("indicatorOfUnitOfTimeRange", int)), 1.0)
        begin = float(get("startStep", int)) * hours
    hpa = level / 100 if level_type == "isobaricInPa" else level
    made = channel(name, hpa) if on_levels else name
    return made, kind, str(get("units")), told in ("gh", "orog"), grid, (valid, begin, reference)


def _refuse_mixed(where: str, one: _Series, at: list[tuple[np.datetime64, float | None, np.datetime64, int]]) -> None:
    for before, after in pairwise(at):
        if before[0] == after[0]:
            raise InvalidData(
                f"{where} is given twice for {shown(before[0])}: from {shown(before[2])} and from {shown(after[2])}.",
                hint="Keep one forecast, or analyses alone (grib_copy -w dataDate=…,step=0).",
                code="mixed_times",
                param="time",
            )
    lengths = {
        (one_at[0] - one_at[2]).astype("timedelta64[s]").astype(int) / 3600 - one_at[1]
        for one_at in at
        if one_at[1] is not None
    }
    if one.kind != "instant" and len(lengths) > 1:
        raise InvalidData(
            f"{where} is {one.kind} over intervals of {min(lengths):g} to {max(lengths):g} hours: sums since a forecast began "
            "are mixed with such of other lengths.",
            hint="Make differences of neighbouring steps first, so that all intervals are alike (cdo deltat).",
            code="mixed_kinds",
            param=one.name,
        )


def _moment(date: int, time: int) -> np.datetime64:
    day = f"{date // 10_000:04d}-{date // 100 % 100:02d}-{date % 100:02d}"
    return np.datetime64(f"{day}T{time // 100:02d}:{time % 100:02d}", "s")


@contextmanager
def _message(file: Any, offset: int, name: str) -> Iterator[Any]:
    file.seek(offset)
    handle = eccodes.codes_grib_new_from_file(file)
    if handle is None:
        raise _damaged(name, offset, "it ends here")
    try:
        yield handle
    except eccodes.CodesInternalError as error:
        raise _damaged(name, offset, error) from error
    finally:
        eccodes.codes_release(handle)


def _field(handle: Any, rows: int, columns: int) -> Floats:
    eccodes.codes_set(handle, "missingValue", _MISSING)
    values = eccodes.codes_get_values(handle).reshape(rows, columns)
    return np.asarray(np.where(values >= _MISSING, np.nan, values), np.float32)


def _coordinates(grid: tuple[Any, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    columns, rows, north, south, west, east = grid
    if east < west:
        east += 360.0
    return np.linspace(north, south, rows), np.linspace(west, east, columns)


def _told(grid: tuple[Any, ...]) -> str:
    columns, rows, north, south, west, east = grid
    return f"latitude {north:g} to {south:g} ({rows}), longitude {west:g} to {east:g} ({columns})"


def _damaged(name: str, offset: int, error: object) -> InvalidData:
    return InvalidData(
        f"{name} is damaged at byte {offset}: {error}.",
        hint="Fetch the file again; grib_ls shows its messages.",
        code="unreadable_file",
    )


def write_grib(store: ForecastStore, path: Path) -> None:
    """The whole forecast as GRIB 2, one message for each channel, step and member, packed in 16 bits.

    Packing rounds a field to the 65,535th part of its range at most, by a power of two.

    Raises:
        InvalidData: a channel is not in the vocabulary, or the grid lies otherwise than GRIB can say.
    """
    layout = store.layout
    unknown = [each for each in layout.channels if parts(each)[0] not in VARIABLES]
    if unknown:
        raise InvalidData(
            f"GRIB has no name that is known here for {', '.join(unknown)}.", hint="Export NetCDF.", param="exports"
        )
    sample = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    try:
        _describe_run(sample, layout)
        with path.open("wb") as out:
            for step, member, state_chw in store.steps():
                for index, name in enumerate(layout.channels):
                    handle = eccodes.codes_clone(sample)
                    try:
                        _describe_field(handle, layout, name, step, member)
                        _pack(handle, state_chw[index])
                        eccodes.codes_write(handle, out)
                    finally:
                        eccodes.codes_release(handle)
    finally:
        eccodes.codes_release(sample)


def _describe_run(handle: Any, layout: Any) -> None:
    latitudes, longitudes = layout.latitude_h, layout.longitude_w
    start = str(layout.start.astype("datetime64[m]"))
    keys: dict[str, Any] = {
        "tablesVersion": 28,
        "dataDate": int(start[:10].replace("-", "")),
        "dataTime": int(start[11:].replace(":", "")),
        # What is forecast, by whom it does not say: 255 is a missing centre.
        "centre": 255,
        "typeOfProcessedData": "fc",
        "generatingProcessIdentifier": 255,
        "Ni": len(longitudes),
        "Nj": len(latitudes),
        "latitudeOfFirstGridPointInDegrees": float(latitudes[0]),
        "latitudeOfLastGridPointInDegrees": float(latitudes[-1]),
        "longitudeOfFirstGridPointInDegrees": float(longitudes[0]) % 360,
        "longitudeOfLastGridPointInDegrees": float(longitudes[-1]) % 360,
        "iDirectionIncrementInDegrees": float(longitudes[1] - longitudes[0]) if len(longitudes) > 1 else 0.0,
        "jDirectionIncrementInDegrees": float(latitudes[0] - latitudes[1]) if len(latitudes) > 1 else 0.0,
        "iScansNegatively": 0,
        "jScansPositively": 0,
    }
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)


def _describe_field(handle: Any, layout: Any, name: str, step: int, member: int) -> None:
    variable, level = parts(name)
    hours = layout.step_hours
    kind = (layout.kinds or {}).get(name, "instant")
    if layout.members:
        eccodes.codes_set(handle, "productDefinitionTemplateNumber", 11 if kind == "accum" else 1)
        eccodes.codes_set(handle, "numberOfForecastsInEnsemble", layout.members)
        eccodes.codes_set(handle, "perturbationNumber", member)
    elif kind == "accum":
        eccodes.codes_set(handle, "productDefinitionTemplateNumber", 8)
    eccodes.codes_set(handle, "paramId", VARIABLES[variable].param_id)
    if level is not None:
        eccodes.codes_set(handle, "typeOfLevel", "isobaricInhPa")
        eccodes.codes_set(handle, "level", round(level))
    in_minutes = not math.isclose(hours, round(hours))
    eccodes.codes_set(handle, "stepUnits", "m" if in_minutes else "h")
    unit = 60 if in_minutes else 1
    if kind == "accum":
        eccodes.codes_set(handle, "stepRange", f"{round(hours * unit * step)}-{round(hours * unit * (step + 1))}")
    else:
        eccodes.codes_set(handle, "step", round(hours * unit * (step + 1)))


def _pack(handle: Any, values_hw: Floats) -> None:
    missing = ~np.isfinite(values_hw)
    # In double precision, or the mark is not the number that ecCodes looks for and is packed as a value.
    if missing.any():
        eccodes.codes_set(handle, "bitmapPresent", 1)
        eccodes.codes_set(handle, "missingValue", _MISSING)
    eccodes.codes_set(handle, "bitsPerValue", _BITS)
    eccodes.codes_set_values(handle, np.where(missing, _MISSING, values_hw.astype(np.float64)).ravel())
