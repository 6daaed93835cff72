"""Fields that no time changes (orography, land, soil), from the NetCDF file that lies beside a model's weights."""

from __future__ import annotations

from collections.abc import Sequence
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
