"""Small grids with something to learn in them: waves that travel eastwards and decay, about a seasonal mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

#: A training of a second.
TINY = {"width": 4, "depth": 1, "epochs": 2, "rollout_epochs": 1, "members": 2, "eofs": 8, "batch_size": 32, "num_threads": 1}
LATITUDES = np.arange(40.0, 61.0, 5.0)
LONGITUDES = np.arange(-30.0, 11.0, 5.0)


def waves(num_days: int = 420, *, seed: int = 0, start: str = "2001-01-01") -> xr.Dataset:
    """Pressure in Pa on 5 x 9 points: two waves with red noise in their amplitudes, moving east by a sixth of a cycle a day."""
    rng = np.random.default_rng(seed)
    amplitude = rng.standard_normal(2) + 1j * rng.standard_normal(2)
    longitudes, latitudes = np.deg2rad(LONGITUDES), np.deg2rad(LATITUDES)
    days = np.datetime64(start, "ns") + np.arange(num_days) * np.timedelta64(1, "D")
    fields = np.empty((num_days, len(LATITUDES), len(LONGITUDES)))
    for day in range(num_days):
        noise = rng.standard_normal(2) + 1j * rng.standard_normal(2)
        amplitude = 0.9 * np.exp(-1j * np.pi / 3) * amplitude + 0.35 * noise
        season = 300 * np.cos(2 * np.pi * day / 365.25)
        for each, (along, across) in enumerate(((6, 0.0), (9, 2.0))):
            shape = np.cos(across * latitudes)[:, None] * np.exp(1j * along * longitudes)[None]
            fields[day] = (fields[day] if each else 101_300 + season) + 600 * (amplitude[each] * shape).real
    attrs = {"standard_name": "air_pressure_at_mean_sea_level", "units": "Pa"}
    return xr.Dataset(
        {"msl": (("time", "latitude", "longitude"), fields.astype("float32"), attrs)},
        coords={"time": days, "latitude": LATITUDES, "longitude": LONGITUDES},
    )


def write_waves(folder: Path, roles: Mapping[str, Mapping[str, Any]]) -> dict[str, Path]:
    """A NetCDF file for each role."""
    found = {}
    for role, how in roles.items():
        (folder / role).mkdir(parents=True)
        waves(**how).to_netcdf(folder / role / "waves.nc")
        found[role] = folder / role
    return found
