"""Wrong, odd and hostile grids: each is repaired with a note, or refused with an error that names the coordinate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import xarray as xr
from tests.capabilities.weather.tiny_grids import LATITUDES, LONGITUDES, waves

from modelworks.capabilities.weather.grid.grids import step_hours
from modelworks.capabilities.weather.grid.handshake import agreed
from modelworks.capabilities.weather.grid.reading import filled, read
from modelworks.contract.errors import InvalidData


def written(folder: Path, data: xr.Dataset, name: str = "a.nc") -> Path:
    data.to_netcdf(folder / name)
    return folder


def levels(num_days: int = 2) -> xr.Dataset:
    rng = np.random.default_rng(0)
    shape = (num_days, 2, len(LATITUDES), len(LONGITUDES))
    coords = {"time": waves(num_days).time, "level": [50000.0, 85000.0], "latitude": LATITUDES, "longitude": LONGITUDES}
    heights = np.asarray([5500.0, 1450.0])[None, :, None, None] + 50 * rng.random(shape)
    found = xr.Dataset(
        {
            "gh": (("time", "level", "latitude", "longitude"), heights, {"units": "gpm"}),
            "ta": (
                ("time", "level", "latitude", "longitude"),
                -20 + rng.random(shape),
                {"units": "degC", "standard_name": "air_temperature"},
            ),
        },
        coords=coords,
    )
    found.level.attrs.update(units="Pa", standard_name="air_pressure")
    return found


def test_rows_and_columns_are_put_in_order_and_this_is_told(tmp_path: Path) -> None:
    plain = read(written(tmp_path, waves(3)))
    assert plain.latitude_h.tolist() == [60, 55, 50, 45, 40]
    assert any("south to north" in note for note in plain.notes)
    other = tmp_path / "other"
    other.mkdir()
    turned = waves(3).isel(latitude=slice(None, None, -1))
    turned = turned.assign_coords(longitude=turned.longitude % 360).sortby("longitude")
    again = read(written(other, turned))
    assert again.longitude_w.tolist() == LONGITUDES.tolist()
    np.testing.assert_array_equal(again.values_tchw, plain.values_tchw)
    assert any("wound round" in note for note in again.notes)


def test_a_global_grid_begins_at_zero_and_names_no_meridian_twice(tmp_path: Path) -> None:
    longitudes = np.arange(-180.0, 181.0, 30.0)
    values = np.broadcast_to(101_000 + longitudes, (2, 3, 13)).copy()
    values[..., -1] = values[..., 0]
    data = xr.Dataset(
        {"psl": (("time", "lat", "lon"), values, {"units": "Pa"})},
        coords={"time": waves(2).time, "lat": [-60.0, 0.0, 60.0], "lon": longitudes},
    )
    found = read(written(tmp_path, data))
    assert found.is_global
    assert found.longitude_w.tolist() == list(range(0, 360, 30))
    assert found.values_tchw[0, 0, 0, [0, 6, 11]].tolist() == [101_000, 100_820, 100_970]


def test_names_units_and_levels_are_translated(tmp_path: Path) -> None:
    found = read(written(tmp_path, levels()))
    assert found.channels == ("z500", "z850", "t500", "t850")
    assert 5500 * 9.8 < found.values_tchw[:, 0].mean() < 5560 * 9.81
    assert 253 < found.values_tchw[:, 2].mean() < 255
    assert any("9.80665" in note for note in found.notes)
    assert any("degC were converted to K" in note for note in found.notes)


def test_zarr_of_both_versions_is_read_as_netcdf_is(tmp_path: Path) -> None:
    plain = read(written(tmp_path, waves(3)))
    for version in (2, 3):
        store = tmp_path / f"{version}.zarr"
        waves(3).to_zarr(store, zarr_format=version, consolidated=version == 2)
        np.testing.assert_array_equal(read(store).values_tchw, plain.values_tchw)


def test_files_are_joined_by_channel_and_by_time(tmp_path: Path) -> None:
    whole = waves(6)
    written(tmp_path, whole.isel(time=slice(3, 6)), "b.nc")
    written(tmp_path, whole.isel(time=slice(0, 3)), "c.nc")
    warm = whole.rename(msl="t2m").isel(time=slice(1, 6)) / 360
    warm.t2m.attrs.update(units="K", standard_name="air_temperature")
    written(tmp_path, warm, "t.nc")
    found = read(tmp_path)
    assert found.channels == ("msl", "t2m")
    assert len(found.times_t) == 5
    assert any("only the 5 times that all channels have" in note for note in found.notes)


def _units(units: str | None) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(data: xr.Dataset) -> xr.Dataset:
        data.msl.attrs["units"] = units
        return data / 100 if units is None else data

    return change


def _swapped(data: xr.Dataset) -> xr.Dataset:
    return data.assign_coords(latitude=np.arange(100.0, 121.0, 5.0))


def _crooked(data: xr.Dataset) -> xr.Dataset:
    longitudes = LONGITUDES.copy()
    longitudes[4] += 2
    return data.assign_coords(longitude=longitudes)


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        (_units("K"), "msl", "cannot be converted to Pa"),
        (_units("hPa"), "msl", "lies between"),
        (lambda data: (data / 100).assign(msl=(data.msl / 100).assign_attrs(units="Pa")), "msl", "they look like hPa"),
        (_swapped, "latitude", "may be swapped"),
        (_crooked, "longitude", "not equally spaced"),
        (lambda data: xr.concat([data, data.isel(time=[1])], "time"), "time", "twice"),
        (lambda data: data.expand_dims(member=[0, 1]), "member", "member of 2 values"),
        (lambda data: data.rename(msl="nonsense").assign_attrs(), "channels", "holds no field"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(
    tmp_path: Path, change: Callable[[xr.Dataset], xr.Dataset], param: str, words: str
) -> None:
    data = change(waves(3))
    if "nonsense" in data:
        data.nonsense.attrs.clear()
    with pytest.raises(InvalidData, match=words) as refused:
        read(written(tmp_path, data))
    assert refused.value.param == param
    assert refused.value.hint


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.nc").write_bytes(b"CDF\x01 but not really")
    (tmp_path / "b.grib").write_bytes(b"GRIB\x00\x00\x01\x02 and then nothing")
    for name in ("a.nc", "b.grib"):
        with pytest.raises(InvalidData) as refused:
            read(tmp_path / name)
        assert refused.value.error_code in ("unreadable_file", "no_grid", "missing_channel")
    with pytest.raises(InvalidData, match="holds no NetCDF"):
        read(written(tmp_path, waves(2)).parent / "nothing")


def test_small_patches_of_missing_values_are_filled_and_large_ones_named(tmp_path: Path) -> None:
    data = waves(3)
    data.msl[1, 2, 3] = np.nan
    grids = read(written(tmp_path, data))
    with pytest.raises(
        InvalidData, match=r"lacks 2.2% of its values at 2001-01-02 00:00, the first at latitude 50, longitude -15"
    ):
        filled(grids, 0.01)
    whole = filled(grids, 0.05)
    assert np.isfinite(whole.values_tchw).all()
    around = grids.values_tchw[1, 0, 1:4, 2:5]
    assert np.nanmin(around) <= whole.values_tchw[1, 0, 2, 3] <= np.nanmax(around)
    assert any("1 missing values in 1 fields" in note for note in whole.notes)


def test_a_gap_in_time_is_named() -> None:
    times = np.asarray(["2001-01-01", "2001-01-02", "2001-01-04", "2001-01-05"], "datetime64[s]")
    with pytest.raises(InvalidData, match="48 hours lie between 2001-01-02 00:00 and 2001-01-04 00:00"):
        step_hours(times)


def test_data_and_model_agree_or_the_error_names_the_coordinate(tmp_path: Path) -> None:
    grids = read(written(tmp_path, waves(4)))
    ours: dict[str, Any] = {
        "channels": ("msl",),
        "latitude_h": grids.latitude_h,
        "longitude_w": grids.longitude_w,
        "step_hours": 24.0,
        "kinds": {"msl": "instant"},
    }
    part = agreed(grids, **{**ours, "latitude_h": grids.latitude_h[1:4], "longitude_w": grids.longitude_w[::2]})
    np.testing.assert_array_equal(part.values_tchw, grids.values_tchw[:, :, 1:4, ::2])
    wound = agreed(grids, **{**ours, "longitude_w": grids.longitude_w + 360})
    np.testing.assert_array_equal(wound.values_tchw, grids.values_tchw)
    every = agreed(grids, **{**ours, "step_hours": 48.0})
    np.testing.assert_array_equal(every.times_t, grids.times_t[1::2])
    for change, param in (
        ({"latitude_h": grids.latitude_h + 1}, "latitude"),
        ({"longitude_w": grids.longitude_w + 1.25}, "longitude"),
        ({"channels": ("msl", "z500")}, "channels"),
        ({"step_hours": 6.0}, "time"),
        ({"kinds": {"msl": "avg"}}, "msl"),
    ):
        with pytest.raises(InvalidData) as refused:
            agreed(grids, **{**ours, **change})
        assert refused.value.param == param


def message(path: Path, *, lowest: float = 270.0, **keys: Any) -> None:
    """Append one message of GRIB 2 to a file; values run from the lowest on."""
    handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    grid = {"Ni": 3, "Nj": 2, "latitudeOfFirstGridPointInDegrees": 50.0, "latitudeOfLastGridPointInDegrees": 45.0}
    grid |= {"longitudeOfFirstGridPointInDegrees": 355.0, "longitudeOfLastGridPointInDegrees": 5.0}
    grid |= {"iDirectionIncrementInDegrees": 5.0, "jDirectionIncrementInDegrees": 5.0}
    defaults = {"dataDate": 20200101, "dataTime": 0, "paramId": 167, "step": 0}
    for key, value in {**grid, **defaults, **keys}.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, np.arange(6.0) + lowest)
    with path.open("ab") as out:
        eccodes.codes_write(handle, out)
    eccodes.codes_release(handle)


def test_messages_are_told_by_their_keys_whatever_their_order(tmp_path: Path) -> None:
    file = tmp_path / "a.grib2"
    message(file, dataDate=20200102)
    message(file, dataDate=20200101)
    message(file, dataDate=20200102, paramId=165, lowest=3.0)
    message(file, dataDate=20191231, step=24, paramId=165, lowest=3.0)
    found = read(file)
    assert found.channels == ("t2m", "u10")
    assert [str(each)[:10] for each in found.times_t] == ["2020-01-01", "2020-01-02"]
    assert found.longitude_w.tolist() == [-5, 0, 5]
    np.testing.assert_allclose(found.select(["t2m"]).values_tchw[0, 0], [[270, 271, 272], [273, 274, 275]], atol=1e-3)


def test_mixed_times_grids_and_damage_in_one_grib(tmp_path: Path) -> None:
    forecasts = tmp_path / "forecasts.grib2"
    message(forecasts, dataDate=20200101, step=24)
    message(forecasts, dataDate=20200102, step=0)
    with pytest.raises(InvalidData, match="given twice for 2020-01-02 00:00: from 2020-01-0") as refused:
        read(forecasts)
    assert refused.value.param == "time"
    apart = tmp_path / "apart.grib2"
    message(apart, paramId=167)
    message(apart, paramId=165, lowest=3.0, dataTime=600)
    with pytest.raises(
        InvalidData, match=r"No time is common to all channels: t2m 2020-01-01 00:00 .*, u10 2020-01-01 06:00"
    ) as refused:
        read(apart)
    assert refused.value.param == "time"
    grids = tmp_path / "grids.grib2"
    message(grids)
    message(grids, dataDate=20200102, latitudeOfFirstGridPointInDegrees=55.0, latitudeOfLastGridPointInDegrees=50.0)
    with pytest.raises(InvalidData, match="lies on two grids: latitude 50 to 45"):
        read(grids)
    whole = (tmp_path / "grids.grib2").read_bytes()
    (tmp_path / "cut.grib2").write_bytes(whole[: len(whole) - 20])
    with pytest.raises(InvalidData, match="damaged at byte"):
        read(tmp_path / "cut.grib2")
