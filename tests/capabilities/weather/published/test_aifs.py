"""AIFS: a pickled checkpoint that only the confined process opens, on points of its own, through the task of all forecasts.

Where `MODELWORKS_TEST_AIFS_PYTHON` names an interpreter with anemoi-inference, its packages write a checkpoint and forecast
with it; everywhere, packages that stand in for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tests.capabilities.weather.published.environments import environment

from modelworks.capabilities.weather.grid.vocabulary import conversion, known_name
from modelworks.capabilities.weather.published import aifs_files
from modelworks.capabilities.weather.published.external import aifs
from modelworks.capabilities.weather.published.weather_worker.aifs import between, from_rows
from modelworks.capabilities.weather.schemas import ForecastInput
from modelworks.capabilities.weather.serve import STORE, forecast
from modelworks.contract.errors import InvalidData, InvalidRequest, MissingExtra, UnsafeArtifact
from modelworks.contract.run import LocalModel
from modelworks.kernel.catalog.checkpoint import check_folder
from modelworks.kernel.catalog.importing import imported
from modelworks.testing import FakeRun

PYTHON, FOLDER = "MODELWORKS_AIFS_PYTHON", "MODELWORKS_AIFS_CHECKPOINTS"
REAL = os.environ.get("MODELWORKS_TEST_AIFS_PYTHON")
GRID = (37, 72)
LATITUDES, LONGITUDES = np.linspace(90, -90, 37), np.arange(72) * 5.0
_RINGS = list(zip(np.linspace(80, -80, 9), (8, 12, 16, 20, 24, 20, 16, 12, 8), strict=True))
#: A reduced grid: rows of one latitude, with fewer points towards the poles.
LAT_P = np.concatenate([np.full(num, lat) for lat, num in _RINGS])
LON_P = np.concatenate([np.arange(num) * 360 / num for _, num in _RINGS])
VARIABLES = ["2t", "q_500", "z", "lsm", "cos_latitude", "insolation", "tp"]

STAND_IN = """
import torch
class SimpleRunner:
    def __init__(self, checkpoint, device):
        self.gain = torch.load(checkpoint, map_location=device, weights_only=False)["gain"]
    def run(self, input_states, lead_time):
        fields, hour = input_states["fields"], input_states["date"].hour
        assert fields["lsm"].shape == fields["2t"].shape and input_states["latitudes"].shape == fields["lsm"][0].shape
        found = {name: 2 * each[1] - each[0] + self.gain * (hour + fields["lsm"][0]) for name, each in fields.items()}
        yield {"fields": found}
"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(aifs_files, "GRID", GRID)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path / "checkpoints"))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = {"anemoi": "", "anemoi.models": "", "anemoi.inference": "", "anemoi.inference.runners": ""}
    return environment(tmp_path_factory.mktemp("aifs") / "env", {**packages, "anemoi.inference.runners.simple": STAND_IN})


def about() -> dict[str, Any]:
    """The metadata that ECMWF's training writes beside a network."""

    def on(param: str, kind: str, **more: Any) -> dict[str, Any]:
        return {"mars": {"param": param, "levtype": kind}, **more}

    return {
        "version": "1.0.0",
        "config": {
            "training": {"multistep_input": 2, "precision": "32"},
            "data": {"timestep": "6h", "forcing": VARIABLES[2:6], "diagnostic": ["tp"]},
            "dataloader": {},
            "model": {},
        },
        "data_indices": {
            "data": {
                "input": {"full": [0, 1, 2, 3, 4, 5], "forcing": [2, 3, 4, 5], "diagnostic": [6], "prognostic": [0, 1]},
                "output": {"full": [0, 1, 6]},
            },
            "model": {
                "input": {"full": [0, 1, 2, 3, 4, 5], "forcing": [2, 3, 4, 5], "prognostic": [0, 1]},
                "output": {"full": [0, 1, 2], "prognostic": [0, 1]},
            },
        },
        "dataset": {
            "variables": VARIABLES,
            "shape": [10, len(VARIABLES), 1, len(LAT_P)],
            "variables_metadata": {
                "2t": on("2t", "sfc"),
                "q_500": {"mars": {"param": "q", "levtype": "pl", "levelist": 500}},
                "z": on("z", "sfc", constant_in_time=True),
                "lsm": on("lsm", "sfc", constant_in_time=True),
                "cos_latitude": {"computed_forcing": True, "constant_in_time": True},
                "insolation": {"computed_forcing": True, "constant_in_time": False},
                "tp": on("tp", "sfc", accumulated=True),
            },
            "data_request": {"grid": "N3"},
        },
        "provenance_training": {},
    }


def pickled(path: Path, network: Any, metadata: dict[str, Any] | None = None) -> Path:
    """A checkpoint with its metadata, as anemoi-utils lays them into the archive."""
    torch.save(network, path)
    told, places = metadata or about(), {}
    with zipfile.ZipFile(path, "a") as archive:
        for name, each in (("latitudes", LAT_P), ("longitudes", LON_P)):
            place = f"{path.stem}/anemoi-metadata/{name}.numpy"
            places[name] = {"path": place, "shape": list(each.shape), "dtype": str(each.dtype)}
            archive.writestr(place, each.tobytes())
        archive.writestr(f"{path.stem}/anemoi-metadata/anemoi.json", json.dumps({**told, "supporting_arrays_paths": places}))
    return path


def ready(root: Path, path: Path) -> Path:
    folder = root / "model"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "aifs.json").write_text(json.dumps({"checkpoint": path.name, "sha256": digest}))
    fields = {name: (("latitude", "longitude"), np.full(GRID, 0.5, "float32")) for name in ("z", "lsm")}
    if not (folder / "static.nc").exists():
        xr.Dataset(fields, coords={"latitude": LATITUDES, "longitude": LONGITUDES}).to_netcdf(folder / "static.nc")
    return folder


def analysis() -> xr.Dataset:
    """Two states without a gradient, so that nothing is lost on the way to other points and back."""
    times = np.datetime64("2024-01-01T00:00", "ns") + np.arange(2) * np.timedelta64(6, "h")
    warm = np.stack([np.full(GRID, 280.0), np.full(GRID, 281.0)]).astype("float32")
    moist = np.full((2, 1, *GRID), 0.002, "float32")
    level = ("level", [500.0], {"units": "hPa", "standard_name": "air_pressure"})
    return xr.Dataset(
        {
            "t2m": (("time", "latitude", "longitude"), warm, {"units": "K"}),
            "q": (("time", "level", "latitude", "longitude"), moist, {"units": "kg kg-1"}),
        },
        coords={"time": times, "level": level, "latitude": LATITUDES, "longitude": LONGITUDES},
    )


def made(root: Path, folder: Path, *, licence: str | None = "CC-BY-4.0", **request: Any) -> FakeRun:
    (root / "initial").mkdir(parents=True)
    analysis().to_netcdf(root / "initial" / "a.nc")
    model = LocalModel(ref="aifs", version_id="mdl_1", path=folder, digest="sha256:0", licence=licence)
    run = FakeRun(root / "run", models={"model": model}, datasets={"initial": root / "initial"})
    forecast(run, ForecastInput.model_validate({"num_threads": 1, **request}))
    return run


def test_a_pickle_is_forecast_with_and_never_taken_into_the_catalog(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON, str(stand_in))
    path = pickled(tmp_path / "checkpoints" / "a.ckpt", {"gain": 0.001})
    folder = ready(tmp_path, path)
    check_folder(folder)
    with pytest.raises(UnsafeArtifact):
        check_folder(path.parent)
    known = {"task": "weather-forecast", "licence": "CC-BY-4.0", "checkpoint": "a.ckpt", "channels": 2}
    assert imported(folder, tmp_path / "into")[1] == known
    run = made(tmp_path, folder, steps=2)
    before, now = 280.0, 281.0
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        for step, hour in enumerate((6, 12)):
            before, now = now, 2 * now - before + 0.001 * (hour + 0.5)
            np.testing.assert_allclose(store["t2m"].isel(time=step).values, now, rtol=1e-6)


class Hostile:
    """What a pickle can hold: any call."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


def test_a_hostile_pickle_is_refused_and_told(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, str(stand_in))
    secret, mark = tmp_path / "secret", tmp_path / "mark"
    secret.write_text("of the server")
    with socket.create_server(("127.0.0.1", 0)) as server:
        for place, code in enumerate(
            (
                f"open({str(secret)!r}).read()",
                f"open({str(mark)!r}, 'w')",
                f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=5)",
                "import os; os.fork()",
                "f = open('fill', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()",
            )
        ):
            path = pickled(tmp_path / "checkpoints" / f"h{place}.ckpt", Hostile(code))
            folder = ready(tmp_path, path)
            # The pull looks at the metadata, and runs nothing.
            assert imported(folder, tmp_path / "into")[1]["checkpoint"] == path.name
            with pytest.raises(InvalidData) as refused:
                made(tmp_path / str(place), folder, steps=1)
            assert refused.value.error_code == "worker_refused", (code, refused.value.message)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert not mark.exists()


def test_what_is_not_the_operators_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pickled(tmp_path / "checkpoints" / "a.ckpt", {"gain": 0.0})
    folder = ready(tmp_path, path)
    good = (folder / "aifs.json").read_text()
    (tmp_path / "outside.ckpt").write_bytes(path.read_bytes())
    (tmp_path / "checkpoints" / "link.ckpt").symlink_to(tmp_path / "outside.ckpt")
    for name in ("../outside.ckpt", str(path), "link.ckpt", "none.ckpt", "."):
        (folder / "aifs.json").write_text(json.dumps({**json.loads(good), "checkpoint": name}))
        with pytest.raises(InvalidData) as refused:
            imported(folder, tmp_path / "into")
        assert refused.value.error_code == "no_checkpoint"
    (folder / "aifs.json").write_text(good)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidData) as refused:
        aifs(folder)
    assert refused.value.error_code == "wrong_digest"
    (folder / "aifs.json").write_text("{}")
    with pytest.raises(InvalidData, match=r"aifs\.json cannot be read"):
        imported(folder, tmp_path / "into")
    (folder / "aifs.json").write_text(good)
    monkeypatch.delenv(FOLDER)
    with pytest.raises(InvalidData, match="names no folder"):
        imported(folder, tmp_path / "into")


def test_what_a_checkpoint_asks_for_is_known_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown, dynamic = about(), about()
    unknown["dataset"]["variables"] = ["charnock", *VARIABLES[1:]]
    dynamic["dataset"]["variables_metadata"]["lsm"].pop("constant_in_time")
    for place, (bad, param) in enumerate(((unknown, "charnock"), (dynamic, "lsm"))):
        path = pickled(tmp_path / "checkpoints" / f"b{place}.ckpt", {}, bad)
        with pytest.raises(InvalidData) as refused:
            aifs_files.metadata(path)
        assert refused.value.param == param
    plain = tmp_path / "checkpoints" / "plain.ckpt"
    torch.save({}, plain)
    with pytest.raises(InvalidData, match="says nothing of itself"):
        aifs_files.metadata(plain)
    folder = ready(tmp_path, pickled(tmp_path / "checkpoints" / "a.ckpt", {}))
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(MissingExtra, match="MODELWORKS_AIFS_PYTHON names none"):
        made(tmp_path / "python", folder, steps=1)
    with pytest.raises(InvalidRequest, match="states no licence"):
        made(tmp_path / "licence", folder, steps=1, licence=None)
    (folder / "static.nc").unlink()
    with pytest.raises(InvalidData):
        aifs(folder)


def test_the_ground_is_known_by_name_alone() -> None:
    assert [aifs_files._channel(name) for name in ("stl2", "swvl1", "skt", "w_50", "10u", "q", "2t_500")] == [
        "stl2",
        "swvl1",
        "skt",
        "w50",
        "u10",
        None,
        None,
    ]
    assert known_name("stl3", "soil_temperature", has_levels=False) is None
    assert conversion("m**3 m**-3") == ("1", 1.0, 0.0)


def test_points_there_and_back() -> None:
    at, weights = between(LAT_P, LON_P, LATITUDES, LONGITUDES)
    wave = np.cos(np.radians(LATITUDES))[:, None] * np.cos(np.radians(LONGITUDES))
    exact = np.cos(np.radians(LAT_P)) * np.cos(np.radians(LON_P))
    np.testing.assert_allclose((wave.reshape(-1)[at] * weights).sum(axis=0), exact, atol=2e-3)
    back, shares = from_rows(LAT_P, LON_P, LATITUDES, LONGITUDES)
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    # Linear in latitude between the rows, the outer rows beyond them.
    found = (LAT_P[back] * shares).sum(axis=0).reshape(GRID)
    np.testing.assert_allclose(found, np.repeat(np.clip(LATITUDES, -80, 80)[:, None], 72, axis=1), atol=1e-9)
    # At its own points a value is itself, also beside the meridian 0.
    marks = np.arange(len(LAT_P), dtype=float)
    row = (marks[back] * shares).sum(axis=0).reshape(GRID)[list(LATITUDES).index(0.0)]
    equator = np.flatnonzero(np.abs(LAT_P) < 1e-9)
    np.testing.assert_allclose(row[::3], marks[equator])
    np.testing.assert_allclose(row[-1], marks[equator[-1]] * (1 / 3) + marks[equator[0]] * (2 / 3))


WRITE = """
import sys, json, numpy as np, torch
from anemoi.inference.testing.mock_model import SimpleMockModel
from anemoi.utils.checkpoints import save_metadata
about, lat, lon = json.load(open(sys.argv[2])), np.load(sys.argv[3]), np.load(sys.argv[4])
arrays = {"latitudes": lat, "longitudes": lon}
torch.save(SimpleMockModel(about, arrays), sys.argv[1])
save_metadata(sys.argv[1], about, supporting_arrays=arrays)
"""


@pytest.mark.skipif(REAL is None, reason="MODELWORKS_TEST_AIFS_PYTHON names no interpreter with anemoi-inference")
def test_the_packages_themselves_open_and_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REAL is not None
    monkeypatch.setenv(PYTHON, REAL)
    path = tmp_path / "checkpoints" / "a.ckpt"
    files = [tmp_path / name for name in ("about.json", "lat.npy", "lon.npy")]
    files[0].write_text(json.dumps(about()))
    np.save(files[1], LAT_P)
    np.save(files[2], LON_P)
    subprocess.run([REAL, "-c", WRITE, str(path), *map(str, files)], check=True)
    # Their network hands on what it was given last.
    run = made(tmp_path, ready(tmp_path, path), steps=2)
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        np.testing.assert_allclose(store["t2m"].values, 281.0, rtol=1e-5)
        np.testing.assert_allclose(store["q"].values, 0.002, rtol=1e-4)
