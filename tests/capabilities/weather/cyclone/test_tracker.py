"""The tracker on vortices that are known by formula, alone and within a real atmosphere."""

from __future__ import annotations

import json
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from modelworks.capabilities.weather.cyclone.schemas import TrackingInput
from modelworks.capabilities.weather.cyclone.tracker import at, centres, join, vorticity
from modelworks.capabilities.weather.cyclone.tracking import TRACKS_FILE, track_cyclones
from modelworks.capabilities.weather.cyclone.tracks import DEGREE_KM, distance_km, wrapped
from modelworks.capabilities.weather.grid.grids import Grids
from modelworks.contract.errors import InvalidData
from modelworks.testing import FakeRun

SHARED = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[5] / "shared") / "data" / "11-weather"
RULES = TrackingInput()
CHANNELS = ("msl", "u10", "v10", "u850", "v850", "z300", "z500")
START = np.datetime64("2020-08-01T00:00:00", "s")


def vortex(
    latitude: float, longitude: float, lats: np.ndarray, lons: np.ndarray, *, depth: float = 3000.0, warm: float = 800.0
) -> np.ndarray:
    """A Gaussian low, its winds, which turn as they do there, and a warm or cold core, as (channel, latitude, longitude)."""
    radius = 250.0
    north = (lats[:, None] - latitude) * DEGREE_KM + 0 * lons
    east = wrapped(lons[None, :] - longitude) * DEGREE_KM * np.cos(np.radians(lats[:, None]))
    away = np.hypot(east, north)
    bell = np.exp(-((away / radius) ** 2) / 2)
    speed = 40 * (away / radius) * np.exp(0.5 - (away / radius) ** 2 / 2) * np.sign(latitude)
    u, v = -speed * north / np.maximum(away, 1e-9), speed * east / np.maximum(away, 1e-9)
    low = np.full_like(bell, 101_000.0) - depth * bell
    return np.stack([low, 0.8 * u, 0.8 * v, u, v, 93_000 + warm * bell, 56_000 + 0 * bell])


def grids(paths: list[list[tuple[float, float]]], *, region: bool = False, spacing: float = 1.0, **shape: Any) -> Grids:
    """Vortices along paths, one place for each time, on a globe or on a part of the Atlantic."""
    lats = np.arange(45, 4.9, -spacing) if region else np.arange(90, -90.1, -spacing)
    lons = np.arange(-80, -29.9, spacing) if region else np.arange(0, 359.9, spacing)
    states = []
    for places in zip(*paths, strict=True):
        calm = vortex(10.0, 0.0, lats, lons, depth=0, warm=0) * np.array([1, 0, 0, 0, 0, 1, 1])[:, None, None]
        states.append(calm + sum(vortex(*place, lats, lons, **shape) - calm for place in places))
    times = START + np.arange(len(states)) * np.timedelta64(6 * 3600, "s")
    return Grids(CHANNELS, times, lats, lons, np.array(states, np.float32))


def away(centre: Any, place: tuple[float, float]) -> float:
    return float(distance_km(centre.latitude, centre.longitude, *place))


def test_a_vortex_is_found_between_the_points_of_the_grid() -> None:
    place = (18.37, -52.71)
    [found] = centres(grids([[place]], spacing=0.5), 0, RULES)
    assert away(found, place) < 5
    assert found.pressure_hpa == pytest.approx(980, abs=1)
    assert found.wind_kt == pytest.approx(0.8 * 40 / 0.514444, rel=0.05)
    # At the centre of this vortex the vorticity is twice the slope of its wind.
    assert found.vorticity == pytest.approx(2 * 40 * np.exp(0.5) / 250e3, rel=0.06)
    assert found.warm is True


@pytest.mark.parametrize("place", [(-15.2, 179.8), (12.4, 0.3), (20.0, 359.6)])
def test_the_globe_has_no_rim(place: tuple[float, float]) -> None:
    [found] = centres(grids([[place]]), 0, RULES)
    assert away(found, place) < 5
    assert found.vorticity is not None
    assert found.vorticity > 1e-4


def test_what_is_no_tropical_cyclone_is_left_out() -> None:
    place = (18.0, -50.0)
    assert centres(grids([[place]], depth=100.0), 0, RULES) == []
    assert centres(grids([[place]], warm=-800.0), 0, RULES) == []
    assert len(centres(grids([[place]], warm=-800.0), 0, TrackingInput(warm_core=False))) == 1
    assert centres(grids([[(56.0, -50.0)]]), 0, RULES) == []
    assert centres(grids([[place]]), 0, TrackingInput(min_vorticity=1e-3)) == []
    backwards = grids([[place]])
    backwards.values_tchw[:, 1:5] *= -1
    assert centres(backwards, 0, RULES) == []


def test_a_trough_is_not_closed() -> None:
    rules = TrackingInput(warm_core=False, min_vorticity=0)
    for depth, count in ((100.0, 0), (3000.0, 1)):
        made = grids([[(18.0, -50.0)]], depth=depth)
        made.values_tchw[0, 0] -= 1000 * np.exp(-(((made.latitude_h[:, None] - 18) / 3) ** 2) / 2)
        assert len(centres(made, 0, rules)) == count


def test_a_region_has_a_rim_that_says_nothing() -> None:
    [found] = centres(grids([[(20.3, -55.2)]], region=True), 0, RULES)
    assert away(found, (20.3, -55.2)) < 5
    assert centres(grids([[(20.3, -31.5)]], region=True), 0, RULES) == []


def test_vorticity_of_a_turning_globe_is_known_by_formula() -> None:
    made = grids([[(10.0, 0.0)]])
    omega = 1e-5
    u = omega * 6_371_008.8 * np.cos(np.radians(made.latitude_h))[:, None] + 0 * made.longitude_w
    found = vorticity(made, u, np.zeros_like(u))
    expected = 2 * omega * np.sin(np.radians(made.latitude_h))
    assert np.allclose(found[2:-2], expected[2:-2, None], atol=2e-8)


def test_values_between_points_are_bilinear_and_unknown_outside() -> None:
    made = grids([[(20.0, -55.0)]], region=True)
    plane = made.latitude_h[:, None] * 2 + made.longitude_w[None, :] * 3
    assert at(made, plane, np.array([20.25, 5.0, 46.0, 20.0]), np.array([-55.6, -30.0, -50.0, -81.0])) == pytest.approx(
        [2 * 20.25 - 3 * 55.6, 10 - 90, np.nan, np.nan], nan_ok=True
    )
    whole = grids([[(20.0, -55.0)]])
    assert at(whole, np.tile(whole.latitude_h[:, None], 360), np.array([7.5]), np.array([-0.25])) == pytest.approx([7.5])


def test_two_cyclones_keep_their_own_tracks_over_the_date_line() -> None:
    one = [(12 + 0.5 * step, 178 + 1.0 * step) for step in range(9)]
    other = [(-15 - 0.4 * step, 70 - 0.8 * step) for step in range(9)]
    made = grids([one, other])
    steps = [centres(made, step, RULES) for step in range(9)]
    # Lost once, as trackers do, and seen for a moment where there is nothing.
    steps[4] = [each for each in steps[4] if each.latitude < 0]
    found = join(steps, 24)
    assert sorted(len(each.centres) for each in found) == [8, 9]
    for track, path in zip(sorted(found, key=lambda each: each.centres[0].latitude), (other, one), strict=True):
        assert all(min(away(centre, place) for place in path) < 10 for centre in track.centres)
    assert join(steps, 49) == []
    assert join(steps[:4], 24) == []


def test_no_cyclone_jumps() -> None:
    made = grids([[(15.0, -50.0)] * 4 + [(15.0, -30.0)] * 4])
    steps = [centres(made, step, RULES) for step in range(8)]
    assert [len(each.centres) for each in join(steps, 12)] == [4, 4]


def test_coarse_grids_and_those_without_pressure_are_refused() -> None:
    with pytest.raises(InvalidData, match="5 degrees apart"):
        centres(grids([[(15.0, -50.0)]], spacing=5.0), 0, RULES)
    with pytest.raises(InvalidData, match="msl, or one of z1000"):
        centres(grids([[(15.0, -50.0)]]).select(["z300", "z500"]), 0, RULES)


def write_forecast(folder: Path) -> dict[str, Path]:
    """A forecast with one cyclone as a file."""
    made = grids([[(15 + 0.5 * step, -40 - step) for step in range(6)]], region=True)
    names = {"msl": "Pa", "u10": "m s-1", "v10": "m s-1"}
    coordinates = {"time": made.times_t.astype("datetime64[ns]"), "latitude": made.latitude_h, "longitude": made.longitude_w}
    found = xr.Dataset(coords=coordinates)
    for name, units in names.items():
        values = made.values_tchw[:, CHANNELS.index(name)]
        found[name] = (("time", "latitude", "longitude"), values, {"units": units})
    (folder / "forecast").mkdir(parents=True, exist_ok=True)
    found.to_netcdf(folder / "forecast" / "forecast.nc")
    return {"forecast": folder / "forecast"}


def test_a_run_saves_the_tracks_of_a_forecast(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", datasets=write_forecast(tmp_path))
    found = track_cyclones(run, TrackingInput())
    [track] = found.tracks
    assert (found.num_states, found.num_centres, len(track.fixes)) == (6, 6, 6)
    assert track.fixes[0].time == datetime(2020, 8, 1, tzinfo=UTC)
    assert track.fixes[-1].longitude == pytest.approx(-45, abs=0.1)
    assert track.warm_core is None
    assert any("warm was not looked at" in note for note in found.notes)
    [feature] = json.loads((run.saved[0].path / TRACKS_FILE).read_text())["features"]
    assert feature["geometry"]["coordinates"][0] == [track.fixes[0].longitude, track.fixes[0].latitude]
    assert feature["properties"]["pressure_hpa"] == [fix.pressure_hpa for fix in track.fixes]


def test_a_track_that_was_found_goes_on_by_a_track_model_with_cones(tmp_path: Path, trained_tracks: FakeRun) -> None:
    model = trained_tracks.saved[-1].model()
    run = FakeRun(tmp_path / "run", datasets=write_forecast(tmp_path), models={"model": model})
    [track] = track_cyclones(run, TrackingInput()).tracks
    features = json.loads((run.saved[0].path / TRACKS_FILE).read_text())["features"]
    assert [each["geometry"]["type"] for each in features] == ["LineString", "LineString", *["Point", "Polygon"] * 2]
    ahead = features[1]
    assert (ahead["properties"]["kind"], ahead["properties"]["number"]) == ("track", 1)
    assert ahead["geometry"]["coordinates"][0] == [track.fixes[-1].longitude, track.fixes[-1].latitude]
    assert features[3]["properties"]["coverage"] == 0.67
    # Another ocean: nothing is forecast, and why is told.
    far = grids([[(15 + 0.5 * step, 140 - step) for step in range(6)]])
    folder = tmp_path / "far"
    folder.mkdir()
    axes = {"time": far.times_t.astype("datetime64[ns]"), "latitude": far.latitude_h, "longitude": far.longitude_w}
    msl = (("time", "latitude", "longitude"), far.values_tchw[:, 0], {"units": "Pa"})
    xr.Dataset({"msl": msl}, axes).to_netcdf(folder / "a.nc")
    other = FakeRun(tmp_path / "other", datasets={"forecast": folder}, models={"model": model})
    found = track_cyclones(other, TrackingInput())
    assert any(note.startswith("track 1 is not forecast: The storm is at latitude") for note in found.notes)
    [feature] = json.loads((other.saved[0].path / TRACKS_FILE).read_text())["features"]
    assert "kind" not in feature["properties"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not there: name them in MODELWORKS_SHARED")
def test_a_cyclone_is_found_in_a_real_atmosphere_and_none_where_there_is_none() -> None:
    with warnings.catch_warnings():
        # Its _FillValue is no number of its type.
        warnings.simplefilter("ignore", xr.SerializationWarning)
        opened = xr.load_dataset(SHARED / "eraint_uvz.nc", decode_times=False)
    lats, lons = opened["latitude"].values.astype(float), opened["longitude"].values.astype(float)
    chosen = (("z", 850), ("u", 850), ("v", 850), ("z", 200), ("z", 500))
    fields = [opened[name].sel(level=level).values for name, level in chosen]
    states = np.stack(fields, axis=1).astype(np.float32)
    times = START + np.arange(2) * np.timedelta64(6 * 3600, "s")
    made = Grids(("z850", "u850", "v850", "z200", "z500"), times, lats, lons, states)
    # Means of January and July: heat lows over land, but no warm core with closed isobars over the tropical ocean.
    assert all(not centres(made, step, TrackingInput(max_latitude=30, warm_core=True, min_vorticity=6e-5)) for step in (0, 1))
    place = (17.3, -54.6)
    added = vortex(*place, lats, lons)
    calm = vortex(*place, lats, lons, depth=0, warm=0)
    states[1] += np.stack([(added[0] - calm[0]) / 1.2, added[3], added[4], added[5] - calm[5], 0 * added[6]])
    [found] = centres(made, 1, TrackingInput(max_latitude=30, min_vorticity=6e-5))
    assert away(found, place) < 30
    assert found.warm is True
    assert found.pressure_hpa is None
