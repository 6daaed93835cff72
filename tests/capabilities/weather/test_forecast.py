"""Forecasts as runs: written step by step, gone on with after a crash, exported, refused where data are not the model's."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tests.capabilities.weather.tiny_grids import LATITUDES, TINY, waves, write_waves

from modelworks.capabilities.weather import train as training
from modelworks.capabilities.weather.evaluate import evaluate
from modelworks.capabilities.weather.grid.reading import read
from modelworks.capabilities.weather.grid.writing import ForecastStore
from modelworks.capabilities.weather.model.forecaster import Forecaster
from modelworks.capabilities.weather.schemas import EvaluateParams, ForecastInput, ForecastOutput, Point, TrainParams
from modelworks.capabilities.weather.serve import STORE, forecast
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.run import LocalModel
from modelworks.testing import FakeRun


def made(root: Path, model: LocalModel, initial: Path, **request: Any) -> tuple[FakeRun, ForecastOutput]:
    run = FakeRun(root, models={"model": model}, datasets={"initial": initial})
    return run, forecast(run, ForecastInput.model_validate({"num_threads": 1, **request}))


def values(run: FakeRun) -> np.ndarray:
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        return store.msl.values


def test_what_was_learned_beats_what_costs_nothing(model: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    waves(150, seed=9, start="2006-01-01").to_netcdf(tmp_path / "test" / "a.nc")
    run = FakeRun(tmp_path / "run", models={"model": model}, datasets={"test": tmp_path / "test"})
    metrics = evaluate(run, EvaluateParams(steps=4, members=4, every=3, num_threads=1))
    report = json.loads(run.saved[0].path.read_text())
    rmse = {(row["method"], row["lead"]): row["rmse"] for row in report["rows"]}
    for lead in (1, 2):
        assert rmse["model", lead] < 0.7 * rmse["persistence", lead]
        assert rmse["model", lead] < 0.85 * min(rmse["climatology", lead], rmse["damped_persistence", lead])
        assert rmse["damped_persistence", lead] < rmse["persistence", lead]
    assert {method for method, _ in rmse} == {"model", "ridge", "damped_persistence", "climatology", "persistence"}
    assert metrics["acc_1"] > 0.8
    first = next(row for row in report["rows"] if row["method"] == "model")
    assert first["rmse_interval"][0] < first["rmse"] < first["rmse_interval"][1]
    assert 0.5 < first["spread_skill"] < 1.6
    assert first["crps"] < first["mae"]


def test_bf16_is_f32_where_the_processor_does_not_multiply_it(
    trained: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_multiplies_bf16", lambda device: False)
    data = write_waves(tmp_path, {"train": {}, "validation": {"num_days": 120, "seed": 1, "start": "2003-01-01"}})
    run = FakeRun(tmp_path / "run", datasets=data)
    training.train(run, TrainParams.model_validate({**TINY, "precision": "bf16"}))
    assert [each.metrics for each in run.logs] == [each.metrics for each in trained.logs]


def test_series_exports_and_members(model: LocalModel, initial: Path, tmp_path: Path) -> None:
    points = [{"name": "on", "latitude": 50, "longitude": -10}, {"name": "between", "latitude": 47.5, "longitude": 357.5}]
    run, output = made(tmp_path / "run", model, initial, steps=5, members=3, points=points, exports=["netcdf", "grib"])
    assert output.files == ["forecast.grib2", "forecast.nc", STORE, "map"]
    assert [str(each.date()) for each in output.times] == [f"2004-01-{day:02d}" for day in range(9, 14)]
    folder = run.saved[0].path
    with xr.open_zarr(folder / STORE) as store, xr.open_dataset(folder / "forecast.nc") as file:
        assert store.msl.dims == ("member", "time", "latitude", "longitude")
        np.testing.assert_array_equal(store.msl.values, file.msl.values)
        at = store.msl.sel(latitude=50, longitude=-10)
        assert output.series[0].values == pytest.approx(at.mean("member").values.tolist())
        assert output.series[0].p90 == pytest.approx(np.quantile(at.values, 0.9, axis=0).tolist())
        around = store.msl.sel(latitude=[50, 45], longitude=[-5, 0]).mean(("member", "latitude", "longitude"))
        assert output.series[1].values == pytest.approx(around.values.tolist(), rel=1e-6)
        assert float(store.msl.std("member").min()) > 0, "members are alike"
    assert run.progress_points[-1].done == run.progress_points[-1].total == 15
    with pytest.raises(InvalidData, match="given twice"):
        # Members are several states of one time, which no forecast begins from.
        read(folder / "forecast.grib2")


@pytest.mark.parametrize("members", [0, 2])
def test_a_forecast_that_died_goes_on_at_the_last_step_that_was_written(
    model: LocalModel, initial: Path, tmp_path: Path, members: int
) -> None:
    request = {"steps": 8, "members": members}
    whole, _ = made(tmp_path / "whole", model, initial, **request)
    # In the middle of a block, and of the first or second member.
    checkpoint = whole.checkpoints[4 + members * 3]
    written: list[tuple[int, int]] = []
    again = FakeRun(tmp_path / "again", models={"model": model}, datasets={"initial": initial}, resume_from=checkpoint.path)
    write = ForecastStore.write

    def watched(store: ForecastStore, step: int, state: np.ndarray, member: int = 0) -> None:
        written.append((member, step))
        write(store, step, state, member)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ForecastStore, "write", watched)
        forecast(again, ForecastInput.model_validate({**request, "num_threads": 1}))
    done = 5 + members * 3
    assert written[0] == divmod(done, 8)
    assert len(written) == 8 * max(1, members) - done
    np.testing.assert_array_equal(values(again), values(whole))


def test_memory_does_not_grow_with_the_number_of_steps(tmp_path: Path) -> None:
    """Persistence on a wide grid: the loop, the store and the series are those of every forecast."""
    latitudes, longitudes = np.arange(-80.0, 81.0), np.arange(0.0, 360.0)
    field = np.full((2, len(latitudes), len(longitudes)), 101_000, "float32")
    data = xr.Dataset(
        {"msl": (("time", "latitude", "longitude"), field, {"units": "Pa"})},
        coords={"time": waves(2).time, "latitude": latitudes, "longitude": longitudes},
    )
    (tmp_path / "initial").mkdir()
    data.to_netcdf(tmp_path / "initial" / "a.nc")

    def peak(steps: int) -> int:
        run = FakeRun(tmp_path / str(steps), datasets={"initial": tmp_path / "initial"})
        request = ForecastInput(
            method="persistence",
            steps=steps,
            checkpoint_every=1000,
            points=[Point(name="here", latitude=0, longitude=0)],
            exports=["netcdf"],
        )
        tracemalloc.start()
        try:
            forecast(run, request)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(4)
    assert abs(peak(28) - peak(4)) < field[0].nbytes


def test_files_are_by_the_conventions(model: LocalModel, initial: Path, tmp_path: Path) -> None:
    run, _ = made(tmp_path / "run", model, initial, steps=2, members=2, exports=["netcdf"])
    checker = Path(sys.executable).parent / "compliance-checker"
    done = subprocess.run(
        [checker, "--test=cf:1.8", "--criteria=strict", str(run.saved[0].path / "forecast.nc")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "All tests passed!" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]


def test_grib_in_forecast_and_grib_out_lose_no_more_than_packing(tmp_path: Path, shared_grib: Path) -> None:
    run = FakeRun(tmp_path / "run", datasets={"initial": shared_grib})
    output = forecast(run, ForecastInput(method="persistence", steps=2, exports=["grib", "netcdf"]))
    assert (output.channels, output.step_hours) == (["t2m"], 1.0)
    given = read(shared_grib, choose=lambda times_t: np.asarray([len(times_t) - 1]))
    back = read(run.saved[0].path / "forecast.grib2")
    np.testing.assert_allclose(back.latitude_h, given.latitude_h, atol=1e-6)
    np.testing.assert_allclose(back.longitude_w, given.longitude_w, atol=1e-6)
    assert back.times_t.tolist() == [given.times_t[-1] + np.timedelta64(hour, "h") for hour in (1, 2)]
    last = given.values_tchw[-1, 0]
    # 16 bits: half of a step, and steps are powers of two.
    step = 2.0 ** np.ceil(np.log2((last.max() - last.min()) / 65_535))
    for state in back.values_tchw:
        np.testing.assert_allclose(state[0], last, atol=step)
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        np.testing.assert_array_equal(store.t2m.values[0], last)


def test_what_is_not_the_models_is_refused(model: LocalModel, initial: Path, tmp_path: Path) -> None:
    def refused(change: xr.Dataset, **request: Any) -> str | None:
        folder = tmp_path / f"data-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        change.to_netcdf(folder / "a.nc")
        with pytest.raises((InvalidData, InvalidRequest)) as caught:
            made(tmp_path / f"run-{folder.name}", model, folder, **{"steps": 2, **request})
        assert caught.value.hint
        return caught.value.param

    data = waves(8, seed=3, start="2004-01-01")
    assert refused(data.assign_coords(latitude=LATITUDES + 1)) == "latitude"
    assert refused(data.isel(longitude=slice(0, 5))) == "longitude"
    assert refused(data.isel(time=slice(0, 2))) == "time"
    assert refused(data.isel(time=[0, 1, 2, 3, 4, 5, 7])) == "time"
    assert refused(data, start="2010-01-01T00:00:00Z") == "time"
    assert refused(data.rename(msl="sp").assign(sp=data.msl.assign_attrs(standard_name="surface_air_pressure"))) == "channels"
    assert refused(data, channels=["z500"]) == "channels"
    assert refused(data, points=[{"name": "far", "latitude": 10, "longitude": 0}]) == "points"
    assert refused(data, method="persistence", members=2) == "members"
    with pytest.raises(InvalidData, match="is no weather model"):
        Forecaster.load(initial)


def test_a_forecast_may_begin_at_any_state_that_has_a_history(model: LocalModel, initial: Path, tmp_path: Path) -> None:
    _, later = made(tmp_path / "late", model, initial, steps=1)
    run, output = made(tmp_path / "early", model, initial, steps=1, start="2004-01-05T01:00:00+01:00")
    assert (output.start.day, later.start.day) == (5, 8)
    folder = tmp_path / "cut"
    folder.mkdir()
    waves(8, seed=3, start="2004-01-01").isel(time=slice(0, 5)).to_netcdf(folder / "a.nc")
    cut, _ = made(tmp_path / "cut-run", model, folder, steps=1)
    np.testing.assert_array_equal(values(run), values(cut))
