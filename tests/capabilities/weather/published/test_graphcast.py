"""GraphCast: a checkpoint of its layout and tiny sizes, through the task of every other forecast.

Where `MODELWORKS_TEST_GRAPHCAST_PYTHON` names an interpreter with Google DeepMind's package, that makes the checkpoint and its
roll-out is held against the worker; everywhere, a package that stands in for it and has the same calls.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tests.capabilities.weather.published.environments import environment

from modelworks.capabilities.weather.grid.vocabulary import VARIABLES, known_name, parts
from modelworks.capabilities.weather.published import graphcast_files
from modelworks.capabilities.weather.published.external import graphcast
from modelworks.capabilities.weather.published.graphcast_files import FORCINGS, SURFACE, UPPER
from modelworks.capabilities.weather.schemas import ForecastInput
from modelworks.capabilities.weather.serve import STORE, forecast
from modelworks.contract.errors import InvalidData, InvalidRequest, MissingExtra, UnsafeArtifact
from modelworks.contract.run import LocalModel
from modelworks.kernel.catalog.importing import imported
from modelworks.testing import FakeRun

PYTHON = "MODELWORKS_GRAPHCAST_PYTHON"
REAL = os.environ.get("MODELWORKS_TEST_GRAPHCAST_PYTHON")
DEGREES = 30.0
ROWS, COLUMNS = 7, 12
LATITUDES, LONGITUDES = np.linspace(90, -90, ROWS), np.arange(COLUMNS) * DEGREES
LEVELS = (500, 850)
NAME = "GraphCast_small - ERA5 1979-2015 - resolution 1.0 - pressure levels 13 - mesh 2to5 - precipitation input and output"
SMALL = (*SURFACE, *UPPER)
#: Beside what is on levels: those of the statistics, which have more levels than the model.
STATISTICS_LEVELS = (100, 500, 700, 850)

#: The same calls as the package's, and arithmetic that can be followed: it depends on both states, static fields, levels,
#: the statistics, and the sun and the clock at all three times.
STAND_IN = {
    "jax": "jit = device_put = device_get = lambda each: each\nclass random:\n    PRNGKey = staticmethod(lambda seed: seed)\n",
    "haiku": """
from types import SimpleNamespace
PARAMS = {}
def transform(function):
    def apply(params, random, *given):
        PARAMS.update(params)
        return function(*given)
    return SimpleNamespace(apply=apply)
""",
    "graphcast": "",
    "graphcast.checkpoint": """
import numpy as np
from types import SimpleNamespace
def load(file, kind):
    found = np.load(file)
    return SimpleNamespace(params={"gain": float(found["params:layer:w"][0])}, model_config="model", task_config="task")
""",
    "graphcast.casting": "Bfloat16Cast = lambda predictor: predictor\n",
    "graphcast.graphcast": """
import haiku
CheckPoint = object
def GraphCast(model_config, task_config):
    def step(inputs, targets_template, forcings):
        assert (model_config, task_config) == ("model", "task")
        assert list(inputs.lat.values) == sorted(inputs.lat.values) and inputs.sizes["time"] == 2
        hours = [each / 3.6e12 for each in inputs.time.values.astype(float)]
        assert hours == [-6, 0] and forcings.time.values.astype(float)[0] == 6 * 3.6e12
        sun = inputs["toa_incident_solar_radiation"].isel(time=0, drop=True) + 3 * forcings["toa_incident_solar_radiation"]
        clock = inputs["day_progress_sin"].isel(time=1, drop=True) + 5 * forcings["year_progress_cos"]
        found = targets_template.copy()
        for name, each in targets_template.items():
            value = haiku.PARAMS["gain"] * (sun + clock + inputs["land_sea_mask"])
            if name in inputs:
                value = value + inputs[name].isel(time=1, drop=True) - inputs[name].isel(time=0, drop=True)
            if "level" in each.dims:
                value = value + each.level / 1000
            found[name] = (each.dims, value.broadcast_like(each).transpose(*each.dims).values)
        return found
    return step
""",
    "graphcast.normalization": """
def InputsAndResiduals(predictor, stddev_by_level, mean_by_level, diffs_stddev_by_level):
    def step(inputs, targets_template, forcings):
        normal = lambda data: data.map(
            lambda x: (x - mean_by_level[x.name]) / stddev_by_level[x.name] if x.name in mean_by_level else x)
        found = predictor(normal(inputs), targets_template=targets_template, forcings=normal(forcings))
        for name in found:
            if name in inputs:
                found[name] = found[name] * diffs_stddev_by_level[name] + inputs[name].isel(time=-1, drop=True)
            else:
                found[name] = found[name] * stddev_by_level[name] + mean_by_level[name]
        return found
    return step
""",
    "graphcast.data_utils": """
def add_derived_vars(data):
    hour = (data.datetime.values.astype("datetime64[h]").astype(int) % 24).astype("float32")
    for part in ("sin", "cos"):
        data["year_progress_" + part] = (("batch", "time"), hour)
        data["day_progress_" + part] = (("batch", "time", "lon"), hour[..., None] + data.lon.values)
""",
    "graphcast.solar_radiation": """
import xarray
def get_toa_incident_solar_radiation_for_xarray(data, use_jit):
    hour = (data.datetime.values.astype("datetime64[h]").astype(int) % 24).astype("float32")
    values = hour[:, None, None] + data.lat.values[:, None] + 0 * data.lon.values
    return xarray.DataArray(values, dims=("time", "lat", "lon"))
""",
}


@pytest.fixture(autouse=True)
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("graphcast") / "env", STAND_IN)


def checkpoint(**more: Any) -> dict[str, Any]:
    """Arrays as the package's own writer names them; an argument takes the place of a list or of a single value."""
    lists = {
        "input_variables": [*SMALL, *FORCINGS, "geopotential_at_surface", "land_sea_mask"],
        "target_variables": [*SMALL],
        "forcing_variables": [*FORCINGS],
        "pressure_levels": list(LEVELS),
    }
    single: dict[str, Any] = {"input_duration": "12h", "resolution": DEGREES}
    lists |= {name: each for name, each in more.items() if name in lists}
    single |= {name: each for name, each in more.items() if name not in lists}
    found = {f"task_config:{name}:{place}": np.array(one) for name, each in lists.items() for place, one in enumerate(each)}
    found |= {"task_config:input_duration": np.array(single["input_duration"])}
    found |= {"model_config:resolution": np.array(single["resolution"]), "model_config:mesh_size": np.array(1)}
    return {**found, "params:layer:w": np.full(3, 0.01, np.float32), "description": np.array("for tests")}


def statistics(seed: int, *, lowest: float = 0.5) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {name: ("level", rng.uniform(lowest, 2, len(STATISTICS_LEVELS))) for name in UPPER}
    fields |= {name: ((), rng.uniform(lowest, 2)) for name in (*SURFACE, "land_sea_mask", "toa_incident_solar_radiation")}
    return xr.Dataset(fields, coords={"level": list(STATISTICS_LEVELS)})


def static() -> xr.Dataset:
    rng = np.random.default_rng(8)
    fields = {"lsm": rng.uniform(0, 1, (1, ROWS, COLUMNS)), "z": rng.uniform(0, 9e3, (1, ROWS, COLUMNS))}
    return xr.Dataset(
        {name: (("valid_time", "latitude", "longitude"), each.astype("float32")) for name, each in fields.items()},
        coords={"latitude": LATITUDES, "longitude": LONGITUDES},
    )


def ready(folder: Path, **more: Any) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / f"{NAME}.npz", **checkpoint(**more))
    for seed, name in enumerate((graphcast_files.MEANS, graphcast_files.STDS, graphcast_files.DIFFERENCES)):
        statistics(seed).to_netcdf(folder / name)
    static().to_netcdf(folder / "static.nc")
    return folder


def analysis(times: int = 2, *, rain: str = "total_precipitation_6hr") -> xr.Dataset:
    rng = np.random.default_rng(3)
    coords: dict[str, Any] = {
        "time": np.datetime64("2023-01-01T00:00", "ns") + np.arange(times) * np.timedelta64(6, "h"),
        "latitude": LATITUDES,
        "longitude": LONGITUDES,
        "level": ("level", sorted(LEVELS, reverse=True), {"units": "hPa", "standard_name": "air_pressure"}),
    }
    fields: dict[str, Any] = {}
    for name in (*SURFACE.values(), *UPPER.values()):
        known = VARIABLES[name]
        middle, spread = (known.lowest + known.highest) / 2, (known.highest - known.lowest) / 50
        levels = (len(LEVELS),) if known.on_levels else ()
        values = middle + spread * rng.standard_normal((times, *levels, ROWS, COLUMNS))
        dims = ("time", "level", "latitude", "longitude") if known.on_levels else ("time", "latitude", "longitude")
        fields[rain if name == "tp6h" else name] = (dims, values.astype("float32"), {"units": known.units})
    return xr.Dataset(fields, coords=coords)


def made(root: Path, folder: Path, data: xr.Dataset, *, licence: str | None = "CC-BY-NC-SA-4.0", **request: Any) -> FakeRun:
    (root / "initial").mkdir(parents=True)
    data.to_netcdf(root / "initial" / "a.nc")
    model = LocalModel(ref="graphcast", version_id="mdl_1", path=folder, digest="sha256:0", licence=licence)
    run = FakeRun(root / "run", models={"model": model}, datasets={"initial": root / "initial"})
    forecast(run, ForecastInput.model_validate({"num_threads": 1, **request}))
    return run


def field(data: xr.Dataset, name: str) -> np.ndarray:
    variable, level = parts(name)
    if level is None:
        return np.asarray(data["total_precipitation_6hr" if name == "tp6h" and name not in data else name].values)
    axis = next(str(dim) for dim in data[variable].dims if str(dim).startswith("level"))
    return np.asarray(data[variable].sel({axis: level}).values)


def statistic(data: xr.Dataset, channel: str) -> float:
    variable, level = parts(channel)
    theirs = {ours: name for name, ours in (SURFACE | UPPER).items()}[variable]
    return float(data[theirs] if level is None else data[theirs].sel(level=level))


def test_states_statistics_sun_and_clock_reach_the_package(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON, str(stand_in))
    data = analysis()
    run = made(tmp_path, ready(tmp_path / "model"), data, steps=3)
    mean, std, difference = (statistics(seed) for seed in range(3))

    def normal(values: Any, name: str) -> Any:
        return (values - float(mean[name])) / float(std[name])

    mask = normal(static()["lsm"].values[0].astype("float64"), "land_sea_mask")
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        channels = [*SURFACE.values(), *(f"{name}{level}" for name in UPPER.values() for level in LEVELS)]
        assert sorted(channels) == sorted(graphcast_files.read(tmp_path / "model" / f"{NAME}.npz").channels)
        for name in channels:
            before, now = (field(data, name)[place].astype("float64") for place in (0, 1))
            for step in range(3):
                past, hour, ahead = ((6 * (step + each)) % 24 for each in (0, 1, 2))
                first, last = (normal(each + LATITUDES[:, None], "toa_incident_solar_radiation") for each in (past, ahead))
                forced = first + 3 * last + hour + LONGITUDES + 5 * ahead + mask
                level = parts(name)[1]
                change = (now - before) / statistic(std, name) + 0.01 * forced + (0 if level is None else level / 1000)
                before, now = now, now + statistic(difference, name) * change
                np.testing.assert_allclose(field(store.isel(time=step), name), now, rtol=2e-4, atol=1e-3, err_msg=name)


def test_precipitation_that_is_only_given_is_left_out(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, str(stand_in))
    dry = [name for name in SMALL if name != "total_precipitation_6hr"]
    folder = ready(tmp_path / "model", input_variables=[*dry, *FORCINGS, "geopotential_at_surface", "land_sea_mask"])
    run = made(tmp_path, folder, analysis().drop_vars("total_precipitation_6hr"), steps=1)
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        assert "tp6h" not in store
        assert {"t2m", "z"} <= set(store.data_vars)


def test_sums_of_other_hours_are_not_taken_for_six(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, str(stand_in))
    with pytest.raises(InvalidData, match="tp6h"):
        made(tmp_path / "hourly", ready(tmp_path / "model"), analysis(rain="tp"), steps=1)
    data = analysis()
    data["total_precipitation_6hr"].attrs["cell_methods"] = "time: mean"
    with pytest.raises(InvalidData, match="tp6h of the data is of the kind avg, and the model was trained on accum"):
        made(tmp_path / "mean", tmp_path / "model", data, steps=1)
    assert known_name("total_precipitation", None, has_levels=False) == "tp"
    assert known_name("other", "lwe_thickness_of_precipitation_amount", has_levels=False) == "tp"


def test_a_resumed_forecast_gives_the_same(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, str(stand_in))
    folder = ready(tmp_path / "model")
    whole = made(tmp_path / "whole", folder, analysis(), steps=4, checkpoint_every=2)
    model = LocalModel(ref="graphcast", version_id="mdl_1", path=folder, digest="sha256:0", licence="CC-BY-NC-SA-4.0")
    again = FakeRun(
        tmp_path / "again",
        models={"model": model},
        datasets={"initial": tmp_path / "whole" / "initial"},
        resume_from=whole.checkpoints[0].path,
    )
    forecast(again, ForecastInput.model_validate({"num_threads": 1, "steps": 4, "checkpoint_every": 2}))
    with xr.open_zarr(whole.saved[0].path / STORE) as first, xr.open_zarr(again.saved[0].path / STORE) as second:
        xr.testing.assert_equal(first.load(), second.load())


def test_the_pull_tells_licence_and_channels(tmp_path: Path) -> None:
    folder = ready(tmp_path / "model")
    told = imported(folder, tmp_path / "into")[1]
    assert told == {"task": "weather-forecast", "licence": "CC-BY-NC-SA-4.0", "checkpoint": NAME, "channels": 17}


@pytest.mark.parametrize(
    ("param", "more"),
    [
        ("sea_surface_temperature", {"input_variables": [*SMALL, "sea_surface_temperature"]}),
        ("total_precipitation_6hr", {"target_variables": [name for name in SMALL if name != "total_precipitation_6hr"]}),
        ("day_progress_cos", {"forcing_variables": FORCINGS[:-1]}),
        ("input_duration", {"input_duration": "24h"}),
        ("resolution", {"resolution": 0.7}),
        ("task_config", {"pressure_levels": [500, 500]}),
        ("task_config", {"target_variables": [*SMALL, "land_sea_mask"]}),
    ],
)
def test_other_models_are_refused_by_name(tmp_path: Path, param: str, more: dict[str, Any]) -> None:
    folder = ready(tmp_path / "model", **more)
    with pytest.raises(InvalidData) as refused:
        imported(folder, tmp_path / "into")
    assert refused.value.param == param


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = ready(tmp_path / "model")
    path = folder / f"{NAME}.npz"
    np.savez(path, **{**checkpoint(), "params:layer:w": np.array([{"a": 1}], object)})
    with pytest.raises(UnsafeArtifact, match=r"params:layer:w of .* is of type \|O"):
        imported(folder, tmp_path / "into")
    np.savez(path, **{**checkpoint(), "description": np.zeros(1, [("a", "<f4"), ("b", "O")])})
    with pytest.raises(UnsafeArtifact, match="description"):
        imported(folder, tmp_path / "into")
    for bad in (b"PK", b"", b"\x93NUMPY" + bytes(100)):
        path.write_bytes(bad)
        with pytest.raises(InvalidData, match="is no npz file"):
            imported(folder, tmp_path / "into")
    np.savez(path, **{name: each for name, each in checkpoint().items() if not name.startswith("params:")})
    with pytest.raises(InvalidData, match="holds no weights"):
        imported(folder, tmp_path / "into")
    np.savez(path, **{name: each for name, each in checkpoint().items() if "levels" not in name})
    with pytest.raises(InvalidData, match="says nothing of 'task_config:pressure_levels'"):
        imported(folder, tmp_path / "into")
    np.savez(path, **checkpoint())
    np.savez(folder / "b.npz", **checkpoint())
    with pytest.raises(InvalidData, match="holds 2 checkpoints"):
        imported(folder, tmp_path / "into")
    (folder / "b.npz").unlink()
    for name in ("static.nc", graphcast_files.STDS, graphcast_files.MEANS):
        (folder / name).unlink()
        with pytest.raises(InvalidData) as refused:
            imported(folder, tmp_path / "into")
        assert refused.value.param == name


def test_statistics_are_held_to_fields_and_levels(tmp_path: Path) -> None:
    folder = ready(tmp_path / "model")
    path = folder / f"{NAME}.npz"
    for name, param, bad in (
        (graphcast_files.MEANS, "temperature", statistics(0).drop_vars("temperature")),
        (graphcast_files.STDS, "geopotential", statistics(1).isel(level=[0, 2, 3])),
        (graphcast_files.DIFFERENCES, "2m_temperature", statistics(2).assign({"2m_temperature": np.nan})),
        (graphcast_files.DIFFERENCES, "specific_humidity", statistics(2).assign(specific_humidity=1.0)),
    ):
        good = (folder / name).read_bytes()
        (folder / name).unlink()
        bad.to_netcdf(folder / name)
        with pytest.raises(InvalidData) as refused:
            graphcast(path)
        assert refused.value.param == param
        (folder / name).write_bytes(good)
    # In the model's order of levels, whatever that of the file is.
    (folder / graphcast_files.MEANS).unlink()
    statistics(0).isel(level=slice(None, None, -1)).to_netcdf(folder / graphcast_files.MEANS)
    found = graphcast(path).static["mean_temperature"]
    np.testing.assert_allclose(found, statistics(0)["temperature"].sel(level=list(LEVELS)).values, rtol=1e-6)


def test_what_it_asks_of_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ready(tmp_path / "model")
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(InvalidData, match="begins from 2 states"):
        made(tmp_path / "one", folder, analysis(times=1), steps=1)
    with pytest.raises(InvalidRequest, match=r"states no licence; its weights are published under CC-BY-NC-SA-4\.0"):
        made(tmp_path / "none", folder, analysis(), steps=1, licence=None)
    with pytest.raises(InvalidRequest, match="GraphCast has steps of 6 hours"):
        made(tmp_path / "hours", folder, analysis(), steps=1, step_hours=12)
    with pytest.raises(InvalidRequest, match="no members"):
        made(tmp_path / "members", folder, analysis(), steps=1, members=2)
    with pytest.raises(MissingExtra, match="MODELWORKS_GRAPHCAST_PYTHON names none"):
        made(tmp_path / "python", folder, analysis(), steps=1)


def test_a_package_of_the_same_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package index has another program under the name graphcast."""
    other = {name: STAND_IN[name] for name in ("jax", "haiku")} | {"graphcast": ""}
    monkeypatch.setenv(PYTHON, str(environment(tmp_path / "env", other)))
    with pytest.raises(MissingExtra, match=r"lacks what it needs: .*graphcast\.graphcast"):
        made(tmp_path / "run", ready(tmp_path / "model"), analysis(), steps=1)


#: As the package's demonstration makes a model, its random weights and a roll-out over several steps.
MODEL = """
import sys, haiku as hk, jax, numpy as np, pandas as pd, xarray
try:
    from graphcast import autoregressive, casting, checkpoint, data_utils, graphcast, normalization, rollout
except ImportError:
    from weathernext.utils import autoregressive, casting, checkpoint, data_utils, normalization, rollout
    from weathernext.weathernext1_graph import graphcast
given, means, stds, differences, path, dry, found = sys.argv[1:]
data = xarray.open_dataset(given).load()
rain = () if dry == "dry" else ("total_precipitation_6hr",)
fields = ("2m_temperature", "mean_sea_level_pressure", "10m_v_component_of_wind", "10m_u_component_of_wind") + rain
upper = ("temperature", "geopotential", "u_component_of_wind", "v_component_of_wind", "vertical_velocity", "specific_humidity")
task = graphcast.TaskConfig(
    input_variables=fields + upper + graphcast.FORCING_VARS + ("geopotential_at_surface", "land_sea_mask"),
    target_variables=fields[:4] + ("total_precipitation_6hr",) + upper, forcing_variables=graphcast.FORCING_VARS,
    pressure_levels=tuple(int(each) for each in data.level.values), input_duration="12h")
config = graphcast.ModelConfig(resolution=30.0, mesh_size=1, latent_size=8, gnn_msg_steps=2, hidden_layers=1,
                               radius_query_fraction_edge_length=0.6, mesh2grid_edge_normalization_factor=0.7)
mean, std, difference = (xarray.load_dataset(each) for each in (means, stds, differences))
def made(config, task):
    network = casting.Bfloat16Cast(graphcast.GraphCast(config, task))
    network = normalization.InputsAndResiduals(
        network, diffs_stddev_by_level=difference, mean_by_level=mean, stddev_by_level=std)
    return autoregressive.Predictor(network)
@hk.transform_with_state
def forward(inputs, targets_template, forcings):
    return made(config, task)(inputs, targets_template=targets_template, forcings=forcings)
inputs, targets, forcings = data_utils.extract_inputs_targets_forcings(
    data, target_lead_times=slice("6h", "18h"), **{name: getattr(task, name) for name in task.keys()})
params, state = jax.jit(forward.init)(
    rng=jax.random.PRNGKey(1), inputs=inputs, targets_template=targets.isel(time=[0]), forcings=forcings.isel(time=[0]))
with open(path, "wb") as file:
    checkpoint.dump(file, graphcast.CheckPoint(params=jax.device_get(params), model_config=config, task_config=task,
                                               description="for tests", license="none"))
apply = jax.jit(forward.apply)
step = lambda rng, inputs, targets_template, forcings: apply(params, state, rng, inputs, targets_template, forcings)[0]
rollout.chunked_prediction(
    step, rng=jax.random.PRNGKey(0), inputs=inputs, targets_template=targets, forcings=forcings).to_netcdf(found)
"""


def plausible() -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Means, deviations and deviations of differences, of the size that the variables have."""
    found = []
    for share in (None, 0.02, 0.002):
        fields: dict[str, Any] = {}
        for name, ours in (SURFACE | UPPER).items():
            known = VARIABLES[ours]
            value = (known.lowest + known.highest) / 2 if share is None else share * (known.highest - known.lowest)
            fields[name] = ("level", [value] * len(STATISTICS_LEVELS)) if known.on_levels else ((), value)
        fields["toa_incident_solar_radiation"] = ((), 1.1e6 if share is None else 1.5e6)
        fields["geopotential_at_surface"] = ((), 4e3 if share is None else 2e3)
        found.append(xr.Dataset(fields, coords={"level": list(STATISTICS_LEVELS)}))
    return found[0], found[1], found[2]


@pytest.mark.skipif(REAL is None, reason="MODELWORKS_TEST_GRAPHCAST_PYTHON names no interpreter with graphcast")
@pytest.mark.parametrize("rain", ["given", "dry"])
def test_the_package_itself_gives_the_same_roll_out(tmp_path: Path, rain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REAL is not None
    monkeypatch.setenv(PYTHON, REAL)
    folder, data = ready(tmp_path / "model"), analysis()
    files = [folder / name for name in (graphcast_files.MEANS, graphcast_files.STDS, graphcast_files.DIFFERENCES)]
    for path, each in zip(files, plausible(), strict=True):
        path.unlink()
        each.to_netcdf(path)
    # As the package takes it: from south to north, levels from above, times as leads, and three more of them to fill.
    theirs = {ours: name for name, ours in (SURFACE | UPPER).items()}
    batch = data.rename({ours: name for ours, name in theirs.items() if ours in data}).sortby("latitude").sortby("level")
    batch = batch.rename(latitude="lat", longitude="lon").reindex(
        time=data.time.values[0] + np.arange(5) * np.timedelta64(6, "h")
    )
    moments = batch.time.values
    batch = batch.assign_coords(time=moments - moments[0], lat=batch.lat.astype("float32"), lon=batch.lon.astype("float32"))
    batch = batch.expand_dims("batch").assign_coords(datetime=(("batch", "time"), moments[None]))
    ground = static().isel(valid_time=0).sortby("latitude")
    for name, ours in graphcast_files.STATIC_VARIABLES.items():
        batch[name] = (("lat", "lon"), ground[ours].values)
    batch.to_netcdf(tmp_path / "given.nc")
    arguments = [tmp_path / "given.nc", *files, folder / f"{NAME}.npz", rain, tmp_path / "found.nc"]
    quiet = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([REAL, "-c", MODEL, *map(str, arguments)], check=True, env=quiet)
    run = made(tmp_path / "run", folder, data if rain == "given" else data.drop_vars("total_precipitation_6hr"), steps=3)
    differences = plausible()[2]
    with xr.open_dataset(tmp_path / "found.nc") as wanted, xr.open_zarr(run.saved[0].path / STORE) as store:
        channels = graphcast_files.read(folder / f"{NAME}.npz").channels
        assert ("tp6h" in channels) == (rain == "given")
        for name in channels:
            variable, level = parts(name)
            each = wanted[theirs[variable]].isel(batch=0)
            each = (each if level is None else each.sel(level=level)).transpose("time", "lat", "lon").values[:, ::-1]
            found, unit = field(store, name), statistic(differences, name)
            moved = np.diff(np.concatenate([field(data, name)[1:], found]), axis=0) / unit
            # Weights of random values change each field by about one deviation in each step.
            assert np.abs(moved).mean(axis=(1, 2)).min() > 0.05, name
            # Numbers of 8 bits in the network: what is compiled otherwise rounds otherwise.
            np.testing.assert_allclose(found / unit, each / unit, atol=0.05, rtol=1e-6, err_msg=name)
