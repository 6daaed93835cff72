"""Grids of wave models as records of a place: names of several models, the nearest sea, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tests.capabilities.weather.wave.tiny_waves import heights

from modelworks.capabilities.weather.wave.hindcast import series_at, series_of
from modelworks.capabilities.weather.wave.schemas import WaveTrainParams
from modelworks.capabilities.weather.wave.train import train_waves
from modelworks.contract.errors import InvalidData
from modelworks.testing import FakeRun

LATITUDES, LONGITUDES = np.arange(-26.0, -28.1, -0.5), np.arange(152.0, 155.1, 0.5)
#: Where the names of ERA5 and WAM, and those of WAVEWATCH III, stand.
NAMES = {"era5": ("swh", "mp2", "pp1d"), "ww3": ("hs", "t02", "perpw")}


def write(folder: Path, names: tuple[str, ...], *, num_days: int = 4, seed: int = 1) -> np.ndarray:
    """Waves that grow to the east, land west of 153.5; returns the heights at 154."""
    hs, tz = heights(num_days, seed)
    times = np.datetime64("2020-01-01T00", "ns") + np.arange(len(hs)) * np.timedelta64(1, "h")
    more = 1 + 0.1 * (LONGITUDES - 154)
    fields = {
        name: values[:, None, None] * np.ones((1, len(LATITUDES), 1)) * more
        for name, values in zip(names, (hs, tz, 1.2 * tz), strict=True)
    }
    land = LONGITUDES < 153.5
    data = xr.Dataset(
        {
            name: (("time", "latitude", "longitude"), np.where(land, np.nan, values), {"units": "m" if place == 0 else "s"})
            for place, (name, values) in enumerate(fields.items())
        },
        {"time": times, "latitude": LATITUDES, "longitude": LONGITUDES},
    )
    folder.mkdir(parents=True, exist_ok=True)
    data.to_netcdf(folder / "waves.nc")
    return hs


@pytest.mark.parametrize("model", sorted(NAMES))
def test_the_nearest_sea_gives_heights_and_periods(model: str, tmp_path: Path) -> None:
    hs = write(tmp_path, NAMES[model])
    _, tz = heights(4, 1)
    series = series_of(tmp_path, (-27.1, 153.9))
    assert (series.start, series.step_s, len(series)) == (datetime(2020, 1, 1, tzinfo=UTC), 3600, 96)
    assert np.allclose(series.hs, hs, atol=1e-4)
    assert np.allclose(series.values_nc[:, 2], tz, atol=1e-4)
    assert np.allclose(series.values_nc[:, 3], 1.2 * tz, atol=1e-4)
    assert np.isnan(series.values_nc[:, [1, 4, 5]]).all()
    # On land the nearest sea is taken; degrees east may be counted below 0.
    assert np.allclose(series_at(tmp_path, -27.0, 152.9).hs, hs * 0.95, atol=1e-4)
    assert np.allclose(series_at(tmp_path, -27.0, 154.0 - 360).hs, hs, atol=1e-4)


def test_where_there_is_no_sea_nothing_is_guessed(tmp_path: Path) -> None:
    write(tmp_path, NAMES["era5"])
    with pytest.raises(InvalidData, match="no heights of waves within 100 km of -27, 150") as refused:
        series_at(tmp_path, -27, 150)
    assert refused.value.error_code == "no_sea"
    xr.open_dataset(tmp_path / "waves.nc").load().drop_vars("swh").to_netcdf(tmp_path / "others.nc")
    (tmp_path / "waves.nc").unlink()
    with pytest.raises(InvalidData, match="swh"):
        series_at(tmp_path, -27, 154)
    with pytest.raises(InvalidData, match="no records of waves") as refused:
        series_of(tmp_path, None)
    assert "latitude" in (refused.value.hint or "")


def test_a_model_is_trained_on_grids_at_a_place(tmp_path: Path) -> None:
    write(tmp_path / "train", NAMES["ww3"], num_days=60)
    run = FakeRun(tmp_path / "run", datasets={"train": tmp_path / "train"})
    train_waves(run, WaveTrainParams(preset="tiny", leads_h=[1.0, 3.0], folds=2, latitude=-27, longitude=154))
    assert [each.kind for each in run.saved] == ["model"]


@pytest.mark.parametrize("given", [{"latitude": -27}, {"longitude": 154}, {"latitude": 91, "longitude": 0}])
def test_a_place_has_both_and_lies_on_earth(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="latitude"):
        WaveTrainParams(**given)
