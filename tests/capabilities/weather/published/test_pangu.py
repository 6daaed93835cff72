"""Pangu-Weather: files of its exact names and shapes with weights of our own, through the task of every other forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tests.capabilities.weather.published.tiny_onnx import message, model, node, number, scaling, tensor, value

from modelworks.capabilities.weather.published import pangu_files
from modelworks.capabilities.weather.published.onnx_header import declared
from modelworks.capabilities.weather.published.pangu import Pangu
from modelworks.capabilities.weather.published.pangu_files import CHANNELS, LEVELS, check_file
from modelworks.capabilities.weather.schemas import ForecastInput, ForecastOutput
from modelworks.capabilities.weather.serve import STORE, forecast
from modelworks.contract.errors import InvalidData, InvalidRequest, ModelworksError, UnsafeArtifact
from modelworks.contract.run import LocalModel
from modelworks.kernel.catalog.importing import imported
from modelworks.testing import FakeRun

GRID = (9, 16)
UPPER, SURFACE = (5, 13, *GRID), (4, *GRID)
START = np.datetime64("2018-09-27T12:00", "ns")


def scales(hours: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(hours)
    return rng.uniform(0.97, 1.03, 65).astype("float32"), rng.uniform(0.97, 1.03, 4).astype("float32")


def factors(hours: int) -> np.ndarray:
    return np.concatenate(scales(hours))


def write(folder: Path, *steps: int) -> Path:
    folder.mkdir(exist_ok=True)
    for hours in steps:
        scaling(folder / f"pangu_weather_{hours}.onnx", UPPER, SURFACE, scales(hours))
    return folder


def analysis(levels: tuple[int, ...] = LEVELS, times: int = 1) -> xr.Dataset:
    """One state, its levels from the top downwards and its latitudes from the south, as some files have them."""
    rng = np.random.default_rng(7)
    latitude, longitude = np.linspace(-90, 90, GRID[0]), np.arange(GRID[1]) * (360 / GRID[1])
    around = {"z": (5e4, "m2 s-2"), "q": (0.01, "kg kg-1"), "t": (260, "K"), "u": (10, "m s-1"), "v": (3, "m s-1")}
    flat = {"msl": (1e5, "Pa"), "u10": (5, "m s-1"), "v10": (2, "m s-1"), "t2m": (280, "K")}
    fields: dict[str, Any] = {}
    for name, (mean, units) in {**around, **flat}.items():
        shape = (times, *((len(levels),) if name in around else ()), *GRID)
        dims = ("time", *(("level",) if name in around else ()), "latitude", "longitude")
        fields[name] = (dims, (mean * rng.uniform(0.98, 1.02, shape)).astype("float32"), {"units": units})
    coords = {
        "time": START + np.arange(1 - times, 1) * np.timedelta64(6, "h"),
        "level": ("level", sorted(levels), {"units": "hPa"}),
        "latitude": latitude,
        "longitude": longitude,
    }
    return xr.Dataset(fields, coords=coords)


@pytest.fixture
def initial(tmp_path: Path) -> Path:
    (tmp_path / "initial").mkdir()
    analysis().to_netcdf(tmp_path / "initial" / "era5.nc")
    return tmp_path / "initial"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pangu_files, "GRID", GRID)


def version(folder: Path, licence: str | None = pangu_files.LICENCE) -> LocalModel:
    return LocalModel(ref="pangu", version_id="mdl_1", path=folder, digest="sha256:0", licence=licence)


def made(root: Path, folder: Path, initial: Path, resume: Path | None = None, **request: Any) -> tuple[FakeRun, ForecastOutput]:
    run = FakeRun(root, models={"model": version(folder)}, datasets={"initial": initial}, resume_from=resume)
    return run, forecast(run, ForecastInput.model_validate({"num_threads": 1, **request}))


def states(run: FakeRun) -> np.ndarray:
    """(T, C, H, W) in the model's order, north first."""
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        upper = [store[name].sel(level=level).values for name in pangu_files.UPPER for level in LEVELS]
        return np.stack([*upper, *(store[name].values for name in pangu_files.SURFACE)], axis=1)


def before() -> np.ndarray:
    data = analysis().isel(time=0).sortby("latitude", ascending=False)
    upper = [data[name].sel(level=level).values for name in pangu_files.UPPER for level in LEVELS]
    return np.stack([*upper, *(data[name].values for name in pangu_files.SURFACE)])


def taken(hours: int, steps: tuple[int, ...]) -> np.ndarray:
    """The product of the factors of the fewest steps, the longest first."""
    product = np.ones(len(CHANNELS))
    for step in steps:
        product *= factors(step).astype("float64") ** (hours // step)
        hours %= step
    return product


@pytest.mark.parametrize(
    ("files", "step_hours", "steps"), [((24, 6), None, 9), ((6, 3, 1), None, 8), ((24, 6, 3, 1), 6, 5), ((24,), 24, 2)]
)
def test_each_step_is_reached_by_the_fewest_and_longest(
    tmp_path: Path, initial: Path, files: tuple[int, ...], step_hours: int | None, steps: int
) -> None:
    pytest.importorskip("onnxruntime", reason="extra weather-onnx")
    run, output = made(tmp_path / "run", write(tmp_path / "model", *files), initial, steps=steps, step_hours=step_hours)
    wanted = step_hours or min(files)
    assert output.step_hours == wanted
    assert any(pangu_files.LICENCE in note for note in output.notes)
    assert set(output.channels) == set(CHANNELS)
    found, start = states(run), before()
    for step in range(steps):
        expected = start * taken((step + 1) * wanted, files)[:, None, None]
        np.testing.assert_allclose(found[step], expected, rtol=2e-5)


def test_a_forecast_that_died_goes_on_with_its_anchors(tmp_path: Path, initial: Path) -> None:
    pytest.importorskip("onnxruntime", reason="extra weather-onnx")
    folder = write(tmp_path / "model", 6, 24)
    whole, _ = made(tmp_path / "whole", folder, initial, steps=11)
    # After 30 hours: hour 48 goes on from hour 24, which only the anchors remember.
    again, _ = made(tmp_path / "again", folder, initial, whole.checkpoints[4].path, steps=11)
    np.testing.assert_array_equal(states(again), states(whole))


def test_one_file_is_open_at_a_time_and_without_arenas(tmp_path: Path, initial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="extra weather-onnx")
    alive, most, options = [], [0], []

    class Watched(onnxruntime.InferenceSession):
        def __init__(self, path: str, chosen: Any, **more: Any) -> None:
            options.append(chosen)
            alive.append(path)
            most[0] = max(most[0], len(alive))
            super().__init__(path, chosen, **more)

        def __del__(self) -> None:
            alive.pop()

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    made(tmp_path / "run", write(tmp_path / "model", 6, 24), initial, steps=9)
    assert most == [1]
    # 6 6 6 24 6 6 6 24 6: opened when another is needed.
    assert len(options) == 5
    assert not any(each.enable_cpu_mem_arena or each.enable_mem_pattern or each.enable_mem_reuse for each in options)


def test_the_published_shape_is_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert pangu_files.GRID == (721, 1440)
    real = scaling(tmp_path / "pangu_weather_24.onnx", (5, 13, 721, 1440), (4, 721, 1440), scales(24))
    assert declared(real).inputs == {"input": (1, (5, 13, 721, 1440)), "input_surface": (1, (4, 721, 1440))}
    path, known = imported(tmp_path, tmp_path / "into")
    assert (path, known["task"], known["licence"]) == (tmp_path, "weather-forecast", "CC-BY-NC-SA-4.0")
    stepper = Pangu(tmp_path, START, None, 1)
    assert (stepper.latitude_h[0], stepper.latitude_h[1], stepper.latitude_h[-1]) == (90, 89.75, -90)
    assert (stepper.longitude_w[0], stepper.longitude_w[-1]) == (0, 359.75)
    scaling(tmp_path / "pangu_weather_6.onnx", (5, 13, 720, 1440), (4, 720, 1440), scales(6))
    with pytest.raises(InvalidData, match=r"input of pangu_weather_6.onnx is \[5, 13, 720, 1440\]") as refused:
        imported(tmp_path, tmp_path / "into")
    assert refused.value.param == "input"


@pytest.mark.parametrize(
    ("broken", "error", "told"),
    [
        ({"upper": (13, 5, *GRID)}, InvalidData, "input of"),
        ({"upper": (5, 12, *GRID)}, InvalidData, "input of"),
        ({"surface": (3, *GRID)}, InvalidData, "input_surface of"),
        ({"more": value(11, "other", (1,))}, InvalidData, "the inputs input, input_surface, other"),
        ({"more": message(5, tensor("far", np.ones(2), message(13, message(1, "location"), message(2, "/etc/passwd"))))},
         UnsafeArtifact, "other files"),
        ({"more": message(5, tensor("far", np.ones(2), number(14, 1)))}, UnsafeArtifact, "other files"),
        ({"more": node("If", ("c",), "o", message(5, message(6, message(5, tensor("x", np.ones(2), number(14, 1))))))},
         UnsafeArtifact, "other files"),
        ({"more": message(15, message(1, tensor("far", np.ones(2), number(14, 1))))}, UnsafeArtifact, "other files"),
        ({"more": node("Own", ("input",), "o", message(7, "com.stranger"))}, UnsafeArtifact, "com.stranger"),
    ],
)  # fmt: skip
def test_other_models_and_files_that_reach_elsewhere_are_refused(
    tmp_path: Path, broken: dict[str, Any], error: type[ModelworksError], told: str
) -> None:
    path = tmp_path / "pangu_weather_24.onnx"
    more = (broken["more"],) if "more" in broken else ()
    scaling(path, broken.get("upper", UPPER), broken.get("surface", SURFACE), scales(24), *more)
    with pytest.raises(error, match=told):
        check_file(path, GRID)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04N.", model(), model(message(11, b"\xff" * 30)), b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pangu_weather_24.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidData):
        check_file(path, GRID)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model", 24) / "pangu_weather_24.onnx"
    whole = path.read_bytes()
    for size in range(0, len(whole) - 20, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(InvalidData):
            check_file(path, GRID)


def refused(tmp_path: Path, data: xr.Dataset, *, licence: str | None = pangu_files.LICENCE, **request: Any) -> ModelworksError:
    (tmp_path / "bad").mkdir(parents=True)
    data.to_netcdf(tmp_path / "bad" / "a.nc")
    folder = write(tmp_path / "model", 6, 24)
    run = FakeRun(tmp_path / "run", models={"model": version(folder, licence)}, datasets={"initial": tmp_path / "bad"})
    with pytest.raises(ModelworksError) as error:
        forecast(run, ForecastInput.model_validate({"steps": 2, **request}))
    return error.value


def test_states_that_are_not_the_models_are_refused_by_coordinate(tmp_path: Path) -> None:
    error = refused(tmp_path / "1", analysis(tuple(each for each in LEVELS if each != 50)))
    assert (error.param, error.error_code) == ("level", "missing_channel")
    assert "z50" in error.message
    error = refused(tmp_path / "2", analysis().drop_vars("t2m"))
    assert (error.param, "t2m" in error.message) == ("channels", True)
    error = refused(tmp_path / "3", analysis().isel(longitude=slice(0, 8)))
    assert error.param == "longitude"
    error = refused(tmp_path / "4", analysis().isel(latitude=slice(1, None)))
    assert error.param == "latitude"
    error = refused(tmp_path / "5", analysis(), start="2018-09-27T06:00:00Z")
    assert error.param == "time"


def test_what_it_does_not_offer_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "1", analysis(), step_hours=3)
    assert isinstance(error, InvalidRequest)
    assert (error.param, "6, 24" in error.message) == ("step_hours", True)
    error = refused(tmp_path / "2", analysis(), members=2)
    assert error.param == "members"
    error = refused(tmp_path / "3", analysis(), licence=None)
    assert (error.error_code, "CC-BY-NC-SA-4.0" in error.message) == ("licence_unstated", True)
