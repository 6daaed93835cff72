"""Pressure on a fine grid with structure that no interpolation knows: hills that follow the coarse field's slope."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

LATITUDES = np.arange(60.0, 54.0, -0.5)
LONGITUDES = np.arange(-4.0, 6.0, 0.5)


def fine(num_days: int = 120, *, seed: int = 0, start: str = "2001-01-01") -> xr.Dataset:
    """12 x 20 points: a plane that tilts from day to day, and a fixed pattern of small scale whose sign follows the tilt."""
    rng = np.random.default_rng(seed)
    level, east, north = rng.standard_normal((3, num_days))
    x, y = np.meshgrid(np.linspace(-1, 1, len(LONGITUDES)), np.linspace(1, -1, len(LATITUDES)))
    # The same in every data set: it is the ground.
    hills = np.random.default_rng(99).standard_normal(x.shape)
    days = np.datetime64(start, "ns") + np.arange(num_days) * np.timedelta64(1, "D")
    fields = 101_300 + 800 * level[:, None, None] + 500 * (east[:, None, None] * x + north[:, None, None] * y)
    fields = fields + 150 * hills + 200 * east[:, None, None] * hills + 5 * rng.standard_normal(fields.shape)
    attrs = {"standard_name": "air_pressure_at_mean_sea_level", "units": "Pa"}
    return xr.Dataset(
        {"msl": (("time", "latitude", "longitude"), fields.astype("float32"), attrs)},
        coords={"time": days, "latitude": LATITUDES, "longitude": LONGITUDES},
    )


def coarse(data: xr.Dataset, factor: int = 4) -> xr.Dataset:
    """Plain means over blocks, on a grid of their own."""
    found = data.coarsen(latitude=factor, longitude=factor).mean()
    found.msl.attrs = data.msl.attrs
    return found


def write(folder: Path) -> Mapping[str, Path]:
    """Fine grids of roles train and test, the one right after the other, and coarse ones of all their days."""
    train, test = fine(), fine(60, seed=1, start="2001-05-01")
    both = xr.concat([coarse(train), coarse(test)], "time")
    both.msl.attrs = train.msl.attrs
    return {role: stored(folder / role, data) for role, data in (("train", train), ("test", test), ("coarse", both))}


def stored(folder: Path, data: xr.Dataset) -> Path:
    """The folder with one file of it."""
    folder.mkdir(parents=True)
    data.to_netcdf(folder / "a.nc")
    return folder
