"""Downscaling from pairs or from the fine grid alone, measured, applied to data and to a forecast, and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tests.capabilities.weather.downscaling.fine_grids import LATITUDES, LONGITUDES, coarse, fine, stored, write
from tests.capabilities.weather.tiny_grids import waves

from modelworks.capabilities.weather.downscaling.evaluate import REPORT, evaluate_downscaling
from modelworks.capabilities.weather.downscaling.model import Downscaler
from modelworks.capabilities.weather.downscaling.schemas import (
    DownscaleEvaluateParams,
    DownscaleInput,
    DownscaleOutput,
    DownscaleTrainParams,
)
from modelworks.capabilities.weather.downscaling.serve import STORE, downscale
from modelworks.capabilities.weather.downscaling.store import REGION_FILE, REGION_MAP, REGION_STORE
from modelworks.capabilities.weather.downscaling.train import train_downscaling
from modelworks.capabilities.weather.schemas import ForecastInput
from modelworks.capabilities.weather.serve import forecast
from modelworks.contract.errors import InvalidData, InvalidRequest, PayloadTooLarge
from modelworks.contract.run import LocalModel
from modelworks.testing import FakeRun

PARAMS = {"coarsen": 4, "block_days": 5}


def learnt(root: Path, datasets: dict[str, Path], **params: Any) -> FakeRun:
    run = FakeRun(root, datasets=datasets)
    train_downscaling(run, DownscaleTrainParams.model_validate(params))
    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    root = tmp_path_factory.mktemp("downscaling")
    return learnt(root / "run", {"train": stored(root / "fine", fine())}, **PARAMS).saved[0].model()


def made(root: Path, model: LocalModel | None, data: Path, **request: Any) -> tuple[FakeRun, DownscaleOutput]:
    run = FakeRun(root, models={} if model is None else {"model": model}, datasets={"coarse": data})
    return run, downscale(run, DownscaleInput.model_validate(request))


def report_of(run: FakeRun) -> dict[str, dict[str, Any]]:
    told = json.loads(next(each.path for each in run.saved if each.path.name == REPORT).read_text())
    return {row["method"]: row for row in told["rows"]}


def test_what_was_learnt_beats_interpolation_on_days_that_were_not(model: LocalModel, tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    run = FakeRun(tmp_path / "run", models={"model": model}, datasets={"test": data["test"]})
    metrics = evaluate_downscaling(run, DownscaleEvaluateParams(block_days=5))
    rows = report_of(run)
    assert set(rows) == {"model", "corrected", "bicubic", "bilinear", "climate"}
    # The hills' sign is in the slope: noise of 5 Pa remains, and a little of the regression's own.
    assert rows["model"]["rmse"] < 15
    # The mean of the hills is in the climates' difference, and their change is not.
    assert 150 < rows["corrected"]["rmse"] < 0.9 * rows["bicubic"]["rmse"]
    assert rows["corrected"]["gain_interval"][0] > 0.8
    assert rows["model"]["rmse_interval"][0] < rows["model"]["rmse"] < rows["model"]["rmse_interval"][1]
    assert all(0.9 < each < 1.1 for each in rows["model"]["power_ratio"])
    assert metrics["nmse"] < 0.01 * metrics["nmse_bilinear"]
    assert metrics["nmse_climate"] > 0.5


def test_pairs_from_two_data_sets_correct_what_the_coarse_one_is_wrong_by(tmp_path: Path) -> None:
    """The coarse data are of another source: 300 Pa too high, on days of which some are missing."""
    train, test = fine(), fine(60, seed=1, start="2002-01-01")
    wrong = {name: coarse(each) + 300 for name, each in (("train", train), ("test", test))}
    for each in wrong.values():
        each.msl.attrs = train.msl.attrs
    run = learnt(
        tmp_path / "run",
        {
            "train": stored(tmp_path / "fine", train),
            "coarse": stored(tmp_path / "coarse", wrong["train"].isel(time=slice(0, 100))),
        },
        block_days=5,
    )
    assert any("100 of 120 fine states" in note for note in run.saved[0].metadata["notes"])
    measured = FakeRun(
        tmp_path / "measured",
        models={"model": run.saved[0].model()},
        datasets={"test": stored(tmp_path / "test", test), "coarse": stored(tmp_path / "test-coarse", wrong["test"])},
    )
    evaluate_downscaling(measured, DownscaleEvaluateParams())
    rows = report_of(measured)
    assert rows["bicubic"]["bias"] == pytest.approx(300, abs=5)
    # The climates are those of 100 days, and the days measured have another mean by chance.
    assert abs(rows["model"]["bias"]) < 10
    assert rows["model"]["rmse"] < 20


def test_a_data_set_is_made_finer(model: LocalModel, tmp_path: Path) -> None:
    test = fine(6, seed=1, start="2002-01-01")
    point = {"name": "here", "latitude": float(LATITUDES[3]), "longitude": float(LONGITUDES[7])}
    run, output = made(tmp_path / "run", model, stored(tmp_path / "coarse", coarse(test)), points=[point], exports=["netcdf"])
    assert output.files == ["downscaled.nc", STORE, "map"]
    assert output.size == (12, 20)
    assert [str(each.date()) for each in output.times] == [f"2002-01-0{day}" for day in range(1, 7)]
    with xr.open_zarr(run.saved[0].path / STORE) as store, xr.open_dataset(run.saved[0].path / "downscaled.nc") as file:
        np.testing.assert_allclose(store.latitude, LATITUDES)
        assert float(np.sqrt(np.square(store.msl.values - test.msl.values).mean())) < 20
        np.testing.assert_array_equal(store.msl.values, file.msl.values)
        assert output.series[0].values == pytest.approx(store.msl.values[:, 3, 7].tolist(), rel=1e-6)
        assert "forecast_period" not in file.variables
        np.testing.assert_array_equal(file.time.values, test.time.values)


def test_interpolation_needs_no_model(tmp_path: Path) -> None:
    data = stored(tmp_path / "coarse", coarse(fine(1)))
    run, output = made(tmp_path / "run", None, data, method="bilinear", factor=2)
    assert (output.size, output.method) == ((5, 9), "bilinear")
    with xr.open_zarr(run.saved[0].path / STORE) as store, xr.open_dataset(data / "a.nc") as given:
        np.testing.assert_allclose(store.msl.values[:, ::2, ::2], given.msl.values, rtol=1e-6)
        between = given.msl.values[0, 0, :2].mean()
        assert float(store.msl.values[0, 0, 1]) == pytest.approx(float(between), rel=1e-6)


def region_of(waves_: xr.Dataset) -> xr.Dataset:
    """Half a degree between the coarse grid's points, with hills that follow the pressure."""
    latitudes, longitudes = np.arange(56.0, 44.0, -1.0), np.arange(-20.0, 1.0, 1.0)
    smooth = waves_.interp(latitude=latitudes, longitude=longitudes)
    hills = np.random.default_rng(5).standard_normal((len(latitudes), len(longitudes)))
    smooth["msl"] = (smooth.msl + 0.3 * (smooth.msl - 101_300) * hills).astype("float32")
    smooth.msl.attrs = waves_.msl.attrs
    return smooth


def test_a_forecast_is_made_finer_where_the_region_lies(tmp_path: Path, model: LocalModel) -> None:
    days = waves(120)
    datasets = {"train": stored(tmp_path / "fine", region_of(days)), "coarse": stored(tmp_path / "coarse", days)}
    regional = learnt(tmp_path / "run", datasets, block_days=5).saved[0].model()
    initial = waves(8, seed=3, start="2004-01-01")
    run = FakeRun(
        tmp_path / "forecast",
        models={"downscaling": regional},
        datasets={"initial": stored(tmp_path / "initial", initial)},
    )
    output = forecast(run, ForecastInput(method="persistence", steps=3, exports=["netcdf"]))
    assert output.files == sorted(["forecast.nc", "forecast.zarr", "map", REGION_STORE, REGION_FILE, REGION_MAP])
    last = region_of(initial).msl.values[-1]
    assert_by_the_conventions(run.saved[0].path / REGION_FILE)
    with xr.open_dataset(run.saved[0].path / REGION_FILE) as region:
        assert region.msl.shape == (3, 12, 21)
        assert "downscaling by ridge regression" in region.attrs["source"]
        spread = float(last.std())
        for step in range(3):
            assert float(np.sqrt(np.square(region.msl.values[step] - last).mean())) < 0.1 * spread
    assert json.loads((run.saved[0].path / REGION_MAP / "map.json").read_text())["latitudes"][0] == 56.0
    other = FakeRun(tmp_path / "other", models={"downscaling": model}, datasets={"initial": tmp_path / "initial"})
    with pytest.raises(InvalidData) as caught:
        forecast(other, ForecastInput(method="persistence", steps=3))
    assert caught.value.param == "latitude"
    assert not (other.workdir / "result").exists(), "refused before anything was computed"


def test_each_member_of_an_ensemble_is_made_finer(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    forecaster: LocalModel = request.getfixturevalue("trained").saved[0].model()
    days = waves(120)
    datasets = {"train": stored(tmp_path / "fine", region_of(days)), "coarse": stored(tmp_path / "coarse", days)}
    regional = learnt(tmp_path / "run", datasets, block_days=5).saved[0].model()
    initial = stored(tmp_path / "initial", waves(8, seed=3, start="2004-01-01"))
    run = FakeRun(tmp_path / "f", models={"model": forecaster, "downscaling": regional}, datasets={"initial": initial})
    forecast(run, ForecastInput(steps=3, members=2, num_threads=1))
    with xr.open_zarr(run.saved[0].path / REGION_STORE) as region, xr.open_zarr(run.saved[0].path / "forecast.zarr") as whole:
        assert region.msl.dims == ("member", "time", "latitude", "longitude")
        made = Downscaler.load(regional.path)
        for member in range(2):
            expected = made.apply(whole.msl.values[member][:, None], whole.time.values.astype("datetime64[s]"))
            np.testing.assert_allclose(region.msl.values[member], expected[:, 0], rtol=1e-6)


def assert_by_the_conventions(file: Path) -> None:
    checker = Path(sys.executable).parent / "compliance-checker"
    done = subprocess.run(
        [checker, "--test=cf:1.8", "--criteria=strict", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "All tests passed!" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("hours", [24, 6])
def test_files_are_by_the_conventions(tmp_path: Path, hours: int) -> None:
    data = fine(4)
    data = data.assign_coords(time=data.time.values[0] + np.arange(4) * np.timedelta64(hours, "h"))
    run, _ = made(tmp_path / "run", None, stored(tmp_path / "coarse", data), method="bicubic", factor=2, exports=["netcdf"])
    assert_by_the_conventions(run.saved[0].path / "downscaled.nc")


def test_hours_of_the_day_are_learnt_where_there_are_some(tmp_path: Path) -> None:
    """A coast whose land is warmer at noon by what the coarse grid, which is even, does not have."""
    hours = np.datetime64("2019-03-01", "ns") + np.arange(40 * 4) * np.timedelta64(6, "h")
    rng = np.random.default_rng(0)
    even = 280 + rng.standard_normal(len(hours))[:, None, None] * np.ones((len(LATITUDES), len(LONGITUDES)))
    sign = np.where(np.indices(even.shape[1:]).sum(axis=0) % 2, 1.0, -1.0)
    noon = np.cos(2 * np.pi * np.arange(len(hours)) / 4)
    data = xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), (even + 3 * noon[:, None, None] * sign).astype("float32"), {"units": "K"})},
        coords={"time": hours, "latitude": LATITUDES, "longitude": LONGITUDES},
    )
    run = learnt(tmp_path / "run", {"train": stored(tmp_path / "fine", data.isel(time=slice(0, 120)))}, coarsen=4, block_days=2)
    test = FakeRun(
        tmp_path / "test",
        models={"model": run.saved[0].model()},
        datasets={"test": stored(tmp_path / "later", data.isel(time=slice(120, None)))},
    )
    evaluate_downscaling(test, DownscaleEvaluateParams())
    rows = report_of(test)
    assert rows["corrected"]["rmse"] > 2
    assert rows["model"]["rmse"] < 0.1


def test_what_does_not_fit_is_refused_by_name(model: LocalModel, tmp_path: Path) -> None:
    def refused(data: xr.Dataset, kind: type[Exception] = InvalidData, **request: Any) -> str | None:
        folder = stored(tmp_path / f"data-{len(list(tmp_path.iterdir()))}", data)
        with pytest.raises(kind) as caught:
            made(tmp_path / f"run-{folder.name}", model, folder, **request)
        assert caught.value.hint  # type: ignore[attr-defined]
        return caught.value.param  # type: ignore[attr-defined, no-any-return]

    data = coarse(fine(6))
    assert refused(data.assign_coords(latitude=data.latitude + 0.5)) == "latitude"
    assert refused(data.isel(longitude=slice(0, 3))) == "longitude"
    assert refused(data.isel(time=[0, 1, 3])) == "time"
    hourly = data.assign_coords(time=data.time.values[0] + np.arange(6) * np.timedelta64(36, "h"))
    assert refused(hourly) == "time"
    assert refused(data.rename(msl="sp").assign(sp=data.msl.assign_attrs(standard_name="surface_air_pressure"))) == "channels"
    assert refused(data, InvalidRequest, channels=["t2m"]) == "channels"
    far = [{"name": "far", "latitude": 10, "longitude": 0}]
    assert refused(data, InvalidRequest, points=far) == "points"
    with pytest.raises(InvalidData, match="no downscaling model"):
        Downscaler.load(tmp_path)


def test_trainings_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    days = fine(60)
    train = stored(tmp_path / "fine", days)

    def refused(kind: type[Exception], datasets: dict[str, Path], **params: Any) -> str | None:
        with pytest.raises(kind) as caught:
            learnt(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", {"train": train, **datasets}, **params)
        assert caught.value.hint  # type: ignore[attr-defined]
        return caught.value.param  # type: ignore[attr-defined, no-any-return]

    small = coarse(days)
    assert refused(InvalidRequest, {}) == "coarsen"
    assert refused(InvalidRequest, {"coarse": stored(tmp_path / "both", small)}, coarsen=4) == "coarsen"
    assert refused(InvalidData, {}, coarsen=8) == "latitude"
    assert refused(InvalidData, {"coarse": stored(tmp_path / "part", small.isel(longitude=slice(0, 3)))}) == "longitude"
    later = small.assign_coords(time=small.time.values + np.timedelta64(400, "D"))
    assert refused(InvalidData, {"coarse": stored(tmp_path / "later", later)}) == "time"
    assert refused(InvalidData, {"coarse": stored(tmp_path / "few", small.isel(time=slice(0, 30)))}) == "time"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelworks.capabilities.weather.downscaling.train.MAX_WEIGHTS", 1000)
        assert refused(PayloadTooLarge, {}, coarsen=4) == "windows"


def test_a_data_set_of_the_whole_forecast_area_is_cut_to_the_models(model: LocalModel, tmp_path: Path) -> None:
    """The coarse grid may reach beyond that of the model, where it has its points."""
    wide = coarse(fine(3, seed=4))
    step = float(wide.longitude[1] - wide.longitude[0])
    wider = wide.pad(longitude=(0, 2), mode="edge").assign_coords(longitude=wide.longitude.values[0] + step * np.arange(7))
    wider.msl.attrs = wide.msl.attrs
    plain, _ = made(tmp_path / "plain", model, stored(tmp_path / "a", wide))
    cut, output = made(tmp_path / "cut", model, stored(tmp_path / "b", wider))
    assert any("were taken out of" in note for note in output.notes)
    with xr.open_zarr(plain.saved[0].path / STORE) as one, xr.open_zarr(cut.saved[0].path / STORE) as two:
        np.testing.assert_array_equal(one.msl.values, two.msl.values)
