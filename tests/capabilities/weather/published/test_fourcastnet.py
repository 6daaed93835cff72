"""FourCastNet: weights of its exact names and (smaller) shapes, through the task of every other forecast."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

from modelworks.capabilities.weather.grid.vocabulary import VARIABLES, parts
from modelworks.capabilities.weather.published import fourcastnet_files
from modelworks.capabilities.weather.published.fourcastnet import FourCastNet
from modelworks.capabilities.weather.published.fourcastnet_files import CHANNELS, Size, check_weights, expected
from modelworks.capabilities.weather.schemas import ForecastInput
from modelworks.capabilities.weather.serve import STORE, forecast
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import LocalModel
from modelworks.kernel.catalog.importing import imported
from modelworks.testing import FakeRun

#: 4 x 8 tokens, of whose 5 columns of frequencies 3 are kept.
SMALL = Size(rows=32, columns=64, patch=8, width=8, depth=2)
MIXERS = 2


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fourcastnet_files, "SIZE", SMALL)


def weights(channels: int) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(channels)
    return {name: torch.randn(shape, generator=chance) * 0.3 for name, shape in expected(channels, MIXERS, SMALL).items()}


def statistics(channels: int) -> tuple[np.ndarray, np.ndarray]:
    lowest = np.asarray([VARIABLES[parts(each)[0]].lowest for each in CHANNELS[channels]])
    highest = np.asarray([VARIABLES[parts(each)[0]].highest for each in CHANNELS[channels]])
    return ((lowest + highest) / 2).reshape(1, -1, 1, 1), ((highest - lowest) / 50).reshape(1, -1, 1, 1)


def ready(root: Path, channels: int = 20) -> Path:
    """What the documentation makes of the published checkpoint."""
    folder = root / "model"
    folder.mkdir(parents=True)
    save_file(weights(channels), folder / "backbone.safetensors")
    for name, each in zip(("global_means.npy", "global_stds.npy"), statistics(channels), strict=True):
        # One channel more, as those files have.
        np.save(folder / name, np.concatenate([each, np.ones((1, 1, 1, 1))], axis=1))
    return folder


def analysis(channels: int, rows: int = 33) -> xr.Dataset:
    """One state, its south pole included, as reanalyses have it."""
    rng = np.random.default_rng(3)
    mean, std = (each.ravel() for each in statistics(channels))
    spacing = 360 / SMALL.columns
    coords = {
        "time": [np.datetime64("2018-09-27T12:00", "ns")],
        "latitude": 90 - np.arange(rows) * spacing,
        "longitude": np.arange(SMALL.columns) * spacing,
    }
    fields: dict[str, Any] = {}
    for index, name in enumerate(CHANNELS[channels]):
        values = (mean[index] + std[index] * rng.standard_normal((1, rows, SMALL.columns))).astype("float32")
        variable, level = parts(name)
        if level is None:
            fields[name] = (("time", "latitude", "longitude"), values, {"units": VARIABLES[variable].units})
        else:
            fields.setdefault(variable, {})[level] = values
    for name, levels in [(name, each) for name, each in fields.items() if isinstance(each, dict)]:
        axis = f"level_{name}"
        coords[axis] = (axis, sorted(levels), {"units": "hPa", "standard_name": "air_pressure"})
        stack = np.stack([levels[level] for level in sorted(levels)], axis=1)
        fields[name] = (("time", axis, "latitude", "longitude"), stack, {"units": VARIABLES[name].units})
    return xr.Dataset(fields, coords=coords)


def made(root: Path, folder: Path, data: xr.Dataset, **request: Any) -> FakeRun:
    (root / "initial").mkdir(parents=True)
    data.to_netcdf(root / "initial" / "a.nc")
    model = LocalModel(ref="fcn", version_id="mdl_1", path=folder, digest="sha256:0", licence="BSD-3-Clause")
    run = FakeRun(root / "run", models={"model": model}, datasets={"initial": root / "initial"})
    forecast(run, ForecastInput.model_validate({"num_threads": 1, **request}))
    return run


def channel(data: xr.Dataset, name: str) -> np.ndarray:
    variable, level = parts(name)
    if level is None:
        return np.asarray(data[name].values)
    axis = next(str(dim) for dim in data[variable].dims if str(dim).startswith("level"))
    return np.asarray(data[variable].sel({axis: level}).values)


def by_hand(state_chw: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The network after the paper, in plain numbers: one token and one frequency at a time, real and imaginary apart."""
    channels, rows, columns = state_chw.shape
    high, wide, width = rows // 8, columns // 8, SMALL.width
    x = np.empty((high, wide, width))
    for row in range(high):
        for column in range(wide):
            patch = state_chw[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            x[row, column] = np.tensordot(weights["patch_embed.proj.weight"], patch, 3) + weights["patch_embed.proj.bias"]
    x += weights["pos_embed"][0].reshape(high, wide, width)

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        )

    def shrunk(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * np.maximum(np.abs(x) - 0.01, 0)

    for index in range(SMALL.depth):
        name = f"blocks.{index}"
        inner = normed(x, f"{name}.norm1")
        waves = np.fft.rfft2(inner, axes=(0, 1), norm="ortho")
        mixed = np.zeros_like(waves)
        part = width // MIXERS
        for row in range(high):
            for column in range(high // 2 + 1):
                for mixer in range(MIXERS):
                    own = slice(mixer * part, mixer * part + part)
                    real, imaginary = waves[row, column, own].real, waves[row, column, own].imag
                    for layer, bend in (("1", lambda each: np.maximum(each, 0)), ("2", shrunk)):
                        (wr, wi), (br, bi) = (
                            weights[f"{name}.filter.w{layer}"][:, mixer],
                            weights[f"{name}.filter.b{layer}"][:, mixer],
                        )
                        real, imaginary = bend(real @ wr - imaginary @ wi + br), bend(imaginary @ wr + real @ wi + bi)
                    mixed[row, column, own] = real + 1j * imaginary
        x = x + inner + np.fft.irfft2(mixed, s=(high, wide), axes=(0, 1), norm="ortho")
        hidden = normed(x, f"{name}.norm2") @ weights[f"{name}.mlp.fc1.weight"].T + weights[f"{name}.mlp.fc1.bias"]
        hidden = torch.nn.functional.gelu(torch.from_numpy(hidden)).numpy()
        x = x + hidden @ weights[f"{name}.mlp.fc2.weight"].T + weights[f"{name}.mlp.fc2.bias"]
    out = np.empty_like(state_chw)
    for row in range(high):
        for column in range(wide):
            patch = (weights["head.weight"] @ x[row, column]).reshape(8, 8, channels)
            out[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = patch.transpose(2, 0, 1)
    return out


@pytest.mark.parametrize("channels", [20, 26])
def test_a_forecast_is_what_the_paper_computes(tmp_path: Path, channels: int) -> None:
    data = analysis(channels)
    run = made(tmp_path, ready(tmp_path, channels), data, steps=2)
    mean, std = (each[0] for each in statistics(channels))
    plain = {name: each.numpy().astype("float64") for name, each in weights(channels).items()}
    state = np.stack([channel(data, name)[0, : SMALL.rows] for name in CHANNELS[channels]])
    standard = (state - mean) / std
    with xr.open_zarr(run.saved[0].path / STORE) as store:
        assert store.sizes["latitude"] == SMALL.rows
        for step in range(2):
            standard = by_hand(standard, plain)
            found = np.stack([channel(store.isel(time=step), name) for name in CHANNELS[channels]])
            np.testing.assert_allclose((found - mean) / std, standard, rtol=2e-3, atol=2e-3)


def test_the_published_shapes_are_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    size = fourcastnet_files.SIZE
    assert size == Size(720, 1440, 8, 768, 12)
    shapes = expected(20, 8, size)
    assert shapes["pos_embed"] == (1, 16200, 768)
    assert shapes["patch_embed.proj.weight"] == (768, 20, 8, 8)
    assert shapes["head.weight"] == (1280, 768)
    assert shapes["blocks.11.filter.w1"] == (2, 8, 96, 96)
    header, place = {}, 0
    for name, shape in shapes.items():
        after = place + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, after]}
        place = after
    text = json.dumps(header).encode()
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    # Of 0.3 GB nothing is written but the header.
    os.truncate(path, 8 + len(text) + place)
    for name in ("global_means.npy", "global_stds.npy"):
        np.save(tmp_path / name, np.ones((1, 21, 1, 1)))
    assert check_weights(path, size) == (20, 8)
    _, known = imported(tmp_path, tmp_path / "into")
    assert known == {"task": "weather-forecast", "licence": "BSD-3-Clause", "channels": 20}


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    folder = ready(tmp_path)
    whole = weights(20)
    for name, each in (
        ("blocks.1.filter.w2", torch.zeros(2, 4, 2, 2)),
        ("head.weight", torch.zeros(1280, 9)),
        ("patch_embed.proj.weight", torch.zeros(8, 21, 8, 8)),
        ("blocks.2.norm1.weight", torch.zeros(8)),
    ):
        save_file({**whole, name: each}, folder / "backbone.safetensors")
        with pytest.raises(InvalidData) as refused:
            FourCastNet(folder)
        assert refused.value.param == name
    save_file({name: each for name, each in whole.items() if name != "norm.bias"}, folder / "backbone.safetensors")
    with pytest.raises(InvalidData, match=r"norm.bias of .* is missing"):
        imported(folder, tmp_path / "into")
    save_file(whole, folder / "backbone.safetensors")
    np.save(folder / "global_stds.npy", np.ones((1, 19, 1, 1)))
    with pytest.raises(InvalidData) as refused:
        FourCastNet(folder)
    assert refused.value.param == "global_stds.npy"


def test_states_that_are_not_the_models_are_refused_by_coordinate(tmp_path: Path) -> None:
    folder = ready(tmp_path)
    data = analysis(20)
    for place, (bad, param) in enumerate(
        (
            (data.isel(level_r=[0]), "level"),
            (data.drop_vars("tcwv"), "channels"),
            (data.isel(latitude=slice(1, None)), "latitude"),
            (data.isel(longitude=slice(0, 40)), "longitude"),
        )
    ):
        with pytest.raises(InvalidData) as refused:
            made(tmp_path / str(place), folder, bad, steps=1)
        assert refused.value.param == param
