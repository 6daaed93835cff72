"""Aurora: weights of its names and (smaller) shapes, through the task of every other forecast.

Where `MODELWORKS_TEST_AURORA_PYTHON` names an interpreter with microsoft-aurora, the package itself is held against the worker;
everywhere, one that stands in for it.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file, save_file
from tests.capabilities.weather.published.environments import environment

from modelworks.capabilities.weather.grid.vocabulary import VARIABLES, parts
from modelworks.capabilities.weather.published import aurora_files
from modelworks.capabilities.weather.published.aurora_files import CHANNELS, CHECKPOINTS, LEVELS
from modelworks.capabilities.weather.published.external import External, aurora
from modelworks.capabilities.weather.schemas import ForecastInput
from modelworks.capabilities.weather.serve import STORE, forecast
from modelworks.contract.errors import InvalidData, InvalidRequest, MissingExtra
from modelworks.contract.run import LocalModel
from modelworks.kernel.catalog.importing import imported
from modelworks.testing import FakeRun

VARIABLE = "MODELWORKS_AURORA_PYTHON"
REAL = os.environ.get("MODELWORKS_TEST_AURORA_PYTHON")
NAME = "aurora-0.25-pretrained"
ROWS, COLUMNS = 16, 32
TINY: dict[str, Any] = {
    "embed_dim": 16,
    "num_heads": 2,
    "encoder_depths": [1, 1, 1],
    "decoder_depths": [1, 1, 1],
    "encoder_num_heads": [1, 2, 4],
    "decoder_num_heads": [4, 2, 1],
}

#: The same calls as the package's, and arithmetic that can be followed: it depends on history, statics, time, levels and step.
STAND_IN = """
import dataclasses, datetime, torch
@dataclasses.dataclass
class Metadata:
    lat: object; lon: object; time: tuple; atmos_levels: tuple; rollout_step: int = 0
@dataclasses.dataclass
class Batch:
    surf_vars: dict; static_vars: dict; atmos_vars: dict; metadata: Metadata
class AuroraPretrained(torch.nn.Module):
    surf_vars, static_vars = ("2t", "10u", "10v", "msl"), ("lsm", "z", "slt")
    atmos_vars, max_history_size = ("z", "u", "v", "t", "q"), 2
    timestep = datetime.timedelta(hours=6)
    def __init__(self, embed_dim=512, **others):
        super().__init__()
        for kind, names in (("surf", self.surf_vars + self.static_vars), ("atmos", self.atmos_vars)):
            for name in names:
                path = f"encoder.{kind}_token_embeds.weights.{name}".replace(".", "-")
                self.register_parameter(path, torch.nn.Parameter(torch.zeros(embed_dim, 1, 2, 4, 4)))
    def state_dict(self):
        return {name.replace("-", "."): each for name, each in super().state_dict().items()}
    def load_state_dict(self, weights, strict):
        return super().load_state_dict({name.replace(".", "-"): each for name, each in weights.items()}, strict=strict)
    def _adapt_checkpoint(self, weights):
        return weights
    def forward(self, batch):
        meta = batch.metadata
        assert meta.time[0].tzinfo is not None and meta.atmos_levels[0] == 50 and meta.lat[0] == 90 and meta.lon[0] == 0
        shift = batch.static_vars["lsm"] * meta.time[0].hour + meta.rollout_step
        gain = self.state_dict()["encoder.surf_token_embeds.weights.2t"][0, 0, 0, 0, 0]
        def ahead(each, more=0):
            return (2 * each[:, -1:] - each[:, :1]) + gain * (shift + more)
        levels = torch.tensor(meta.atmos_levels, dtype=torch.float32)[:, None, None] / 1000
        return Batch({name: ahead(each) for name, each in batch.surf_vars.items()}, batch.static_vars,
                     {name: ahead(each, levels) for name, each in batch.atmos_vars.items()}, meta)
"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(CHECKPOINTS[NAME], rows=ROWS, columns=COLUMNS, width=16, options=TINY)
    monkeypatch.setitem(CHECKPOINTS, NAME, tiny)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("aurora") / "env", {"aurora": STAND_IN})


def weights() -> dict[str, np.ndarray]:
    names = [f"encoder.surf_token_embeds.weights.{name}" for name in (*aurora_files.SURFACE, *aurora_files.STATIC_VARIABLES)]
    names += [f"encoder.atmos_token_embeds.weights.{name}" for name in aurora_files.UPPER]
    return {name: np.full((16, 1, 2, 4, 4), 0.001, np.float32) for name in names}


def static(rows: int = ROWS + 1) -> xr.Dataset:
    """As ERA5 has them: one time, the south pole included."""
    rng = np.random.default_rng(8)
    fields = {name: rng.uniform(0, 1, (1, rows, COLUMNS)) for name in ("lsm", "slt")} | {
        "z": rng.uniform(0, 9e3, (1, rows, COLUMNS))
    }
    spacing = 360 / COLUMNS
    return xr.Dataset(
        {name: (("valid_time", "latitude", "longitude"), each.astype("float32")) for name, each in fields.items()},
        coords={"latitude": 90 - np.arange(rows) * spacing, "longitude": np.arange(COLUMNS) * spacing},
    )


def ready(folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_file(weights(), folder / f"{NAME}.safetensors")
    static().to_netcdf(folder / "static.nc")
    return folder


def analysis(times: int = 2) -> xr.Dataset:
    rng = np.random.default_rng(3)
    coords: dict[str, Any] = {
        "time": np.datetime64("2023-01-01T00:00", "ns") + np.arange(times) * np.timedelta64(6, "h"),
        "latitude": 90 - np.arange(ROWS + 1) * 360 / COLUMNS,
        "longitude": np.arange(COLUMNS) * 360 / COLUMNS,
        "level": ("level", sorted(LEVELS, reverse=True), {"units": "hPa", "standard_name": "air_pressure"}),
    }
    fields: dict[str, Any] = {}
    for name in (*aurora_files.SURFACE.values(), *aurora_files.UPPER):
        known = VARIABLES[name]
        middle, spread = (known.lowest + known.highest) / 2, (known.highest - known.lowest) / 50
        levels = (len(LEVELS),) if known.on_levels else ()
        values = middle + spread * rng.standard_normal((times, *levels, ROWS + 1, COLUMNS))
        dims = ("time", "level", "latitude", "longitude") if known.on_levels else ("time", "latitude", "longitude")
        fields[name] = (dims, values.astype("float32"), {"units": known.units})
    return xr.Dataset(fields, coords=coords)


def made(root: Path, folder: Path, data: xr.Dataset, *, licence: str | None = "MIT", **request: Any) -> FakeRun:
    (root / "initial").mkdir(parents=True)
    data.to_netcdf(root / "initial" / "a.nc")
    model = LocalModel(ref="aurora", version_id="mdl_1", path=folder, digest="sha256:0", licence=licence)
    run = FakeRun(root / "run", models={"model": model}, datasets={"initial": root / "initial"})
    forecast(run, ForecastInput.model_validate({"num_threads": 1, **request}))
    return run


def field(data: xr.Dataset, name: str) -> np.ndarray:
    variable, level = parts(name)
    if level is None:
        return np.asarray(data[name].values)
    axis = next(str(dim) for dim in data[variable].dims if str(dim).startswith("level"))
    return np.asarray(data[variable].sel({axis: level}).values)


def test_two_states_of_history_and_everything_else_reach_the_package(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(stand_in))
    data = analysis()
    run = made(tmp_path, ready(tmp_path / "model"), data, steps=3)
    lsm = static()["lsm"].values[0, :ROWS]
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        assert store.sizes["latitude"] == ROWS
        for name in CHANNELS:
            level = parts(name)[1]
            before, now = (field(data, name)[place, :ROWS].astype("float64") for place in (0, 1))
            for step in range(3):
                shift = lsm * ((6 + 6 * step) % 24) + step + (0 if level is None else level / 1000)
                before, now = now, 2 * now - before + 0.001 * shift
                np.testing.assert_allclose(field(store.isel(time=step), name), now, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_resumed_forecast_gives_the_same(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(stand_in))
    folder, data = ready(tmp_path / "model"), analysis()
    whole = made(tmp_path / "whole", folder, data, steps=4, checkpoint_every=2)
    model = LocalModel(ref="aurora", version_id="mdl_1", path=folder, digest="sha256:0", licence="MIT")
    again = FakeRun(
        tmp_path / "again",
        models={"model": model},
        datasets={"initial": tmp_path / "whole" / "initial"},
        resume_from=whole.checkpoints[0].path,
    )
    forecast(again, ForecastInput.model_validate({"num_threads": 1, "steps": 4, "checkpoint_every": 2}))
    with xr.open_zarr(whole.saved[0].path / STORE) as first, xr.open_zarr(again.saved[0].path / STORE) as second:
        xr.testing.assert_equal(first.load(), second.load())


def test_other_files_are_refused_by_name(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(stand_in))
    folder = ready(tmp_path / "model")
    path = folder / f"{NAME}.safetensors"
    assert imported(folder, tmp_path / "into")[1] == {"task": "weather-forecast", "licence": "MIT", "checkpoint": NAME}
    joined = {
        "net.encoder.surf_token_embeds.weight": np.zeros((16, 7, 2, 4, 4), np.float32),
        "net.encoder.atmos_token_embeds.weight": np.zeros((16, 5, 1, 4, 4), np.float32),
    }
    save_file(joined, path)
    assert imported(folder, tmp_path / "into")[1]["checkpoint"] == NAME
    for name, shape in (
        ("encoder.surf_token_embeds.weights.slt", (16, 1, 2, 4, 5)),
        ("encoder.atmos_token_embeds.weights.q", (8, 1, 2, 4, 4)),
        ("encoder.surf_token_embeds.weights.2t", (16, 1, 3, 4, 4)),
    ):
        save_file({**weights(), name: np.zeros(shape, np.float32)}, path)
        with pytest.raises(InvalidData) as refused:
            imported(folder, tmp_path / "into")
        assert refused.value.param == name
    # What the pull does not look at, the package's own names decide.
    save_file({**weights(), "backbone.extra": np.zeros(3, np.float32)}, path)
    with pytest.raises(InvalidData, match=r"backbone.extra is \(3,\), and AuroraPretrained has none"):
        made(tmp_path / "extra", folder, analysis(), steps=1)
    save_file(weights(), path)
    (folder / "static.nc").unlink()
    with pytest.raises(InvalidData) as refused:
        imported(folder, tmp_path / "into")
    assert refused.value.param == "static.nc"
    path.rename(folder / "aurora-0.25-wave-finetuned.safetensors")
    with pytest.raises(InvalidData, match="no checkpoint of Aurora that is known here"):
        imported(folder, tmp_path / "into")


def test_static_variables_are_held_to_the_grid(tmp_path: Path) -> None:
    folder = ready(tmp_path / "model")
    path = folder / f"{NAME}.safetensors"
    for param, bad in (
        ("slt", static().drop_vars("slt")),
        ("latitude", static(rows=ROWS - 1)),
        ("longitude", static().isel(longitude=slice(1, None))),
        ("lsm", static().where(static().latitude < 80)),
        ("lsm", xr.concat([static(), static()], "valid_time")),
    ):
        (folder / "static.nc").unlink()
        bad.to_netcdf(folder / "static.nc")
        with pytest.raises(InvalidData) as refused:
            aurora(folder, NAME, path)
        assert refused.value.param == param
    # From the south, and from -180: put in the model's order.
    turned = static().assign_coords(longitude=(static().longitude + 180) % 360 - 180).sortby("longitude").sortby("latitude")
    (folder / "static.nc").unlink()
    turned.to_netcdf(folder / "static.nc")
    np.testing.assert_array_equal(aurora(folder, NAME, path).static["z"], static()["z"].values[0, :ROWS])


def test_what_it_asks_of_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ready(tmp_path / "model")
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InvalidData, match="begins from 2 states"):
        made(tmp_path / "one", folder, analysis(times=1), steps=1)
    with pytest.raises(InvalidRequest, match="states no licence; its weights are published under MIT"):
        made(tmp_path / "none", folder, analysis(), steps=1, licence=None)
    with pytest.raises(InvalidRequest, match="Aurora has steps of 6 hours"):
        made(tmp_path / "hours", folder, analysis(), steps=1, step_hours=3)
    with pytest.raises(MissingExtra, match="MODELWORKS_AURORA_PYTHON names none"):
        made(tmp_path / "python", folder, analysis(), steps=1)


def test_the_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert CHANNELS[:5] == ("t2m", "u10", "v10", "msl", "z50")
    assert len(CHANNELS) == 4 + 5 * 13
    assert {name: (each.class_name, each.step_hours, each.rows, each.patch) for name, each in CHECKPOINTS.items()} == {
        "aurora-0.25-pretrained": ("AuroraPretrained", 6.0, 720, 4),
        "aurora-0.25-finetuned": ("Aurora", 6.0, 720, 4),
        "aurora-0.25-12h-pretrained": ("Aurora12hPretrained", 12.0, 720, 4),
        "aurora-0.25-small-pretrained": ("AuroraSmallPretrained", 6.0, 720, 4),
        "aurora-0.1-finetuned": ("AuroraHighRes", 6.0, 1800, 10),
    }


#: As `docs/howto/weather-published.md` converts, after a checkpoint of random weights was written as the published ones are.
CONVERT = """
import sys, torch
from aurora import AuroraPretrained
from safetensors.torch import save_file
torch.manual_seed(1)
model = AuroraPretrained(**eval(sys.argv[1]))
torch.save(model.state_dict(), sys.argv[2] + ".ckpt")
state = torch.load(sys.argv[2] + ".ckpt", map_location="cpu", weights_only=True)
save_file({name: each.float().contiguous() for name, each in state.items()}, sys.argv[2] + ".safetensors")
"""
ROLLOUT = """
import sys, numpy as np, torch
from datetime import datetime, timezone
from aurora import AuroraPretrained, Batch, Metadata, rollout
from safetensors.numpy import load_file, save_file
given = load_file(sys.argv[2])
model = AuroraPretrained(**eval(sys.argv[1])).eval()
model.load_checkpoint_local(sys.argv[3])
tensor = lambda name: torch.from_numpy(given[name])
now, levels = datetime(2023, 1, 1, 6, tzinfo=timezone.utc), tuple(int(x) for x in given["levels"])
surface = {n: tensor(n + "_s")[None] for n in ("2t", "10u", "10v", "msl")}
static = {n: tensor(n + "_c") for n in ("lsm", "z", "slt")}
upper = {n: tensor(n + "_u")[None] for n in "zuvtq"}
batch = Batch(surface, static, upper, Metadata(tensor("lat"), tensor("lon"), (now,), levels))
with torch.inference_mode():
    found = [torch.cat([*(p.surf_vars[n][0] for n in p.surf_vars), *(p.atmos_vars[n][0, 0] for n in p.atmos_vars)])
             for p in rollout(model, batch, steps=3)]
save_file({"states": torch.stack(found).numpy()}, sys.argv[4])
"""


@pytest.mark.skipif(REAL is None, reason="MODELWORKS_TEST_AURORA_PYTHON names no interpreter with microsoft-aurora")
def test_the_package_itself_gives_the_same_roll_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REAL is not None
    monkeypatch.setenv(VARIABLE, REAL)
    folder = ready(tmp_path / "model")
    stem = folder / NAME
    subprocess.run([REAL, "-c", CONVERT, repr(TINY), str(stem)], check=True)
    checkpoint = (tmp_path / "a.ckpt").resolve()
    stem.with_suffix(stem.suffix + ".ckpt").rename(checkpoint)
    data = analysis()
    run = made(tmp_path, folder, data, steps=3)
    kept = {"lat": data.latitude.values[:ROWS], "lon": data.longitude.values}
    given = {name: each.astype("float32") for name, each in kept.items()} | {"levels": np.asarray(LEVELS, "float32")}
    for theirs, ours in aurora_files.SURFACE.items():
        given[f"{theirs}_s"] = field(data, ours)[:, :ROWS]
    for name in aurora_files.UPPER:
        given[f"{name}_u"] = np.stack([field(data, f"{name}{level}")[:, :ROWS] for level in LEVELS], axis=1)
    for name in aurora_files.STATIC_VARIABLES:
        given[f"{name}_c"] = static()[name].values[0, :ROWS]
    save_file({name: np.ascontiguousarray(each) for name, each in given.items()}, tmp_path / "given.safetensors")
    files = [str(each) for each in (tmp_path / "given.safetensors", checkpoint, tmp_path / "found.safetensors")]
    subprocess.run([REAL, "-c", ROLLOUT, repr(TINY), *files], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wanted = load_file(tmp_path / "found.safetensors")["states"]
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        found = np.stack([np.stack([field(store.isel(time=step), name) for name in CHANNELS]) for step in range(3)])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_the_stepper_says_what_it_takes(tmp_path: Path) -> None:
    stepper = External(aurora(ready(tmp_path / "model"), NAME, tmp_path / "model" / f"{NAME}.safetensors"), lambda: None)
    assert (stepper.history, stepper.stride, stepper.step_hours, stepper.channels) == (2, 1, 6.0, CHANNELS)
    assert (stepper.latitude_h[0], stepper.longitude_w[-1]) == (90.0, 360 - 360 / COLUMNS)
    with pytest.raises(RuntimeError, match="start is not known"):
        stepper.advance(np.zeros((2, len(CHANNELS), ROWS, COLUMNS), np.float32), np.datetime64("2023-01-01"), None)
