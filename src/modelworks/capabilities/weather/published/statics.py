"""Fields that no time changes (orography, land, soil) and statistics, from NetCDF files that lie beside a model's weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import SAME_DEGREES, Floats
from modelworks.capabilities.weather.grid.reading import told
from modelworks.contract.errors import InvalidData

_LATITUDES, _LONGITUDES = ("latitude", "lat"), ("longitude", "lon")


def statics(
    path: Path, names: Sequence[str], latitude_h: NDArray[np.float64], longitude_w: NDArray[np.float64]
) -> dict[str, Floats]:
    """The named variables at a model's points, (H, W) each, in the units of the file, which are ERA5's.

    Raises:
        InvalidData: a variable is missing, lacks points or values, or changes in time; `param` names it.
    """
    try:
        with xr.open_dataset(path, decode_times=False) as file:
            return {name: _field(file, path.name, name, latitude_h, longitude_w) for name in names}
    except (OSError, ValueError) as error:
        raise InvalidData(f"{path.name} cannot be read: {error}.", hint="Give a NetCDF file.", param=path.name) from error


def statistics(
    path: Path, wanted: Collection[str], optional: Collection[str], levels: Sequence[int], upper: Collection[str]
) -> dict[str, Floats]:
    """One number of each named variable, or one for each level (L,) of those in `upper`, in the order of `levels` (hPa).

    Args:
        optional: taken where the file has them.

    Raises:
        InvalidData: a wanted variable or a level is missing, or has no finite values; `param` names the variable.
    """
    try:
        with xr.open_dataset(path, decode_times=False, decode_timedelta=False) as file:
            names = [*sorted(wanted), *sorted(each for each in optional if each in file)]
            return {name: _statistic(file, path.name, name, levels, name in upper) for name in names}
    except (OSError, ValueError) as error:
        raise InvalidData(f"{path.name} cannot be read: {error}.", hint="Give a NetCDF file.", param=path.name) from error


def _statistic(file: xr.Dataset, where: str, name: str, levels: Sequence[int], has_levels: bool) -> Floats:
    found: Floats | None = None
    if name in file and file[name].dims == (("level",) if has_levels else ()):
        array = file[name]
        if has_levels:
            known = {float(each): place for place, each in enumerate(np.atleast_1d(array["level"].values))}
            if all(float(each) in known for each in levels):
                found = np.asarray(array.values, np.float32)[[known[float(each)] for each in levels]]
        else:
            found = np.asarray(array.values, np.float32)
    if found is None or not np.isfinite(found).all():
        axes = f"one number for each of the levels {', '.join(map(str, levels))}" if has_levels else "one number"
        raise InvalidData(
            f"{where} does not hold {axes} for {name}.",
            hint="Give the statistics that were published with these weights.",
            code="unexpected_model",
            param=name,
        )
    return found


def _field(
    file: xr.Dataset, where: str, name: str, latitude_h: NDArray[np.float64], longitude_w: NDArray[np.float64]
) -> Floats:
    if name not in file:
        raise InvalidData(
            f"{where} holds no {name}; it has {', '.join(sorted(str(each) for each in file.data_vars)) or 'nothing'}.",
            hint=f"Fetch {name} of ERA5 (single levels) as well.",
            code="no_static",
            param=name,
        )
    array = file[name]
    rows = next((dim for dim in array.dims if dim in _LATITUDES), None)
    columns = next((dim for dim in array.dims if dim in _LONGITUDES), None)
    rest = [dim for dim in array.dims if dim not in (rows, columns)]
    if rows is None or columns is None or any(array.sizes[dim] != 1 for dim in rest):
        raise InvalidData(
            f"{name} of {where} is a field over {', '.join(str(dim) for dim in array.dims)}, not over one time's latitudes and "
            "longitudes.",
            hint="Give one time of it, with the coordinates latitude and longitude.",
            code="no_static",
            param=name,
        )
    field = array.isel(dict.fromkeys(rest, 0)).transpose(rows, columns)
    kept = np.asarray(field.values, np.float32)
    for axis, (dim, wanted) in enumerate(((rows, latitude_h), (columns, longitude_w))):
        have = np.asarray(field[dim].values, np.float64)
        apart = np.abs(have[None, :] - wanted[:, None])
        if axis:
            apart = np.minimum(apart % 360, 360 - apart % 360)
        if apart.min(axis=1).max() > SAME_DEGREES:
            raise InvalidData(
                f"The coordinate {dim} of {where} is {told(have)}, and the model's is {told(wanted)}.",
                hint="Give the static variables on the model's grid.",
                code="wrong_grid",
                param=str(dim),
            )
        kept = np.take(kept, apart.argmin(axis=1), axis=axis)
    if not np.isfinite(kept).all():
        raise InvalidData(f"{name} of {where} lacks values.", hint="Fetch it again.", code="no_static", param=name)
    return kept
