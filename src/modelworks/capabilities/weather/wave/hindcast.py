"""The sea at a place as a gridded wave model has it (WAM, WAVEWATCH III, SWAN; ERA5's waves), as records of a buoy."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from modelworks.capabilities.weather.grid.grids import Grids
from modelworks.capabilities.weather.grid.reading import read
from modelworks.capabilities.weather.wave.records import COLUMNS, Series, gridded, read_series
from modelworks.contract.errors import InvalidData

#: Column of a series by the channel of a grid. ERA5's mwp is an energy period, and no column.
_CHANNELS: Final = {"swh": "hs_m", "mp2": "tz_s", "pp1d": "tp_s"}
#: Waves of a sea further away say little about a place.
MOST_KM: Final = 100.0
_EARTH_KM: Final = 6371.0


def series_of(folder: Path, place: tuple[float, float] | None) -> Series:
    """Records of a buoy; or, where a place (latitude, longitude) is named, of a wave model's grids there.

    Raises:
        InvalidData, PayloadTooLarge: as `read_series` and `series_at`.
    """
    return read_series(folder) if place is None else series_at(folder, *place)


def series_at(folder: Path, latitude: float, longitude: float) -> Series:
    """Heights and periods at the point of the sea nearest to a place: the one that has heights most of the time.

    Args:
        folder: grids with `swh`, and `mp2` and `pp1d` where there are any.
        latitude: degrees north.
        longitude: degrees east.

    Raises:
        InvalidData: the grids have a fault, hold no heights, or have no sea within `MOST_KM` of the place.
    """
    found = {"swh": read(folder, channels=["swh"])}
    for channel in ("mp2", "pp1d"):
        try:
            found[channel] = read(folder, channels=[channel])
        except InvalidData as error:
            if error.error_code != "missing_channel":
                raise
    heights = found["swh"]
    row, column = _nearest_sea(heights, latitude, longitude)
    stamps = {int(each): place for place, each in enumerate(heights.times_t.astype("datetime64[s]").astype(np.int64))}
    values_nc = np.full((len(stamps), len(COLUMNS)), np.nan)
    for channel, grids in found.items():
        if grids.values_tchw.shape[2:] != heights.values_tchw.shape[2:]:
            raise InvalidData(f"{channel} lies on another grid than swh.", hint="Give both on one grid.", code="wrong_grid")
        own = grids.values_tchw[:, 0, row, column]
        for stamp, value in zip(grids.times_t.astype("datetime64[s]").astype(np.int64), own, strict=True):
            if (place := stamps.get(int(stamp))) is not None:
                values_nc[place, list(COLUMNS).index(_CHANNELS[channel])] = value
    return gridded([datetime.fromtimestamp(stamp, UTC) for stamp in stamps], values_nc)


def _nearest_sea(grids: Grids, latitude: float, longitude: float) -> tuple[int, int]:
    is_sea_hw = np.isfinite(grids.values_tchw[:, 0]).mean(axis=0) > 0.5
    here, there_h1 = np.radians(latitude), np.radians(grids.latitude_h)[:, None]
    east_1w = np.radians(grids.longitude_w - longitude)[None, :]
    # The haversine of the angle between both, which is exact where they are close.
    haversine_hw = np.sin((there_h1 - here) / 2) ** 2 + np.cos(here) * np.cos(there_h1) * np.sin(east_1w / 2) ** 2
    km_hw = np.where(is_sea_hw, 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(haversine_hw, 0, 1))), np.inf)
    row, column = np.unravel_index(int(km_hw.argmin()), km_hw.shape)
    if not km_hw[row, column] <= MOST_KM:
        raise InvalidData(
            f"The grid has no heights of waves within {MOST_KM:g} km of {latitude:g}, {longitude:g}.",
            hint="Is it the place of the buoy, degrees north and east, and does the grid cover it?",
            code="no_sea",
            param="latitude",
        )
    return int(row), int(column)
