"""A trained model from its folder, and the roll-out: blocks of steps, each from the last states, none kept.

Legend: S states of the history, L steps of a block, C channels, X further inputs, K patterns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from modelworks.capabilities.weather.grid.grids import Floats, Times, closes
from modelworks.capabilities.weather.model.climate import Climate, phase
from modelworks.capabilities.weather.model.network import UNet
from modelworks.capabilities.weather.model.ridge import Ridge
from modelworks.contract.errors import InvalidData

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
_FORMAT: Final = 1


class Stepper(Protocol):
    """What a roll-out asks: the states of the next steps from the last ones."""

    @property
    def history(self) -> int:
        """States that it begins from."""
        ...

    @property
    def stride(self) -> int:
        """New states that it gives at a time."""
        ...

    @property
    def step_hours(self) -> float:
        """Hours from one state to the next."""
        ...

    def advance(self, history_schw: Floats, last: np.datetime64, noise: np.random.Generator | None) -> Floats:
        """The next `stride` states, (stride, C, H, W), in the vocabulary's units; with noise those of a member."""
        ...


@runtime_checkable
class Anchored(Protocol):
    """A stepper that goes on from other states than the last ones."""

    def follow(self, history_schw: Floats, block_lchw: Floats, last: np.datetime64) -> Floats:
        """What to keep once `block_lchw` was computed from `history_schw` after the time `last`."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model was trained on, and how its networks are made."""

    channels: tuple[str, ...]
    latitude_h: NDArray[np.float64]
    longitude_w: NDArray[np.float64]
    step_hours: float
    history: int
    block: int
    width: int
    depth: int
    kinds: dict[str, str] = field(default_factory=dict)

    def network(self, extras: int, dropout: float = 0.0) -> UNet:
        """A network of this shape with fresh weights."""
        return UNet(
            channels=len(self.channels),
            history=self.history,
            block=self.block,
            extras=extras,
            width=self.width,
            depth=self.depth,
            is_global=closes(self.longitude_w),
            dropout=dropout,
        )

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format": _FORMAT,
            "channels": list(self.channels),
            "latitude": [float(each) for each in self.latitude_h],
            "longitude": [float(each) for each in self.longitude_w],
            "step_hours": self.step_hours,
            "history": self.history,
            "block": self.block,
            "width": self.width,
            "depth": self.depth,
            "kinds": self.kinds,
        }

    @classmethod
    def of(cls, record: dict[str, Any]) -> Shape:
        """From JSON; raises InvalidData where it is of another format."""
        if record.get("format") != _FORMAT:
            raise InvalidData(
                f"The model has the format {record.get('format')!r}, and {_FORMAT} is read.", hint="Train it again."
            )
        return cls(
            tuple(record["channels"]),
            np.asarray(record["latitude"], np.float64),
            np.asarray(record["longitude"], np.float64),
            float(record["step_hours"]),
            int(record["history"]),
            int(record["block"]),
            int(record["width"]),
            int(record["depth"]),
            dict(record["kinds"]),
        )


class Extras:
    """Planes beside the states: latitude, longitude, season, time of day, and the ground where it is known."""

    def __init__(self, shape: Shape, constants: dict[str, Floats]) -> None:
        latitude, longitude = np.deg2rad(shape.latitude_h), np.deg2rad(shape.longitude_w)
        size = (len(latitude), len(longitude))
        planes = [
            np.broadcast_to(np.sin(latitude)[:, None], size),
            np.broadcast_to(np.cos(longitude)[None], size),
            np.broadcast_to(np.sin(longitude)[None], size),
        ]
        for _, plane in sorted(constants.items()):
            planes.append((plane - plane.mean()) / max(float(plane.std()), 1e-6))
        self._planes_xhw = torch.from_numpy(np.stack(planes).astype(np.float32))
        self._has_hours = shape.step_hours < 24
        self.count = len(planes) + (4 if self._has_hours else 2)

    def at(self, times_t: Times) -> torch.Tensor:
        """Of states at these times, (T, X, H, W)."""
        angles = [phase(times_t)]
        if self._has_hours:
            seconds = times_t.astype("datetime64[s]")
            hours = (seconds - seconds.astype("datetime64[D]").astype("datetime64[s]")).astype(np.float64) / 3600
            angles.append(2 * np.pi * hours / 24)
        told = np.stack([wave(angle) for angle in angles for wave in (np.cos, np.sin)], axis=1).astype(np.float32)
        moving = torch.from_numpy(told)[:, :, None, None].expand(-1, -1, *self._planes_xhw.shape[1:])
        return torch.cat([self._planes_xhw.expand(len(times_t), -1, -1, -1), moving], dim=1)


@dataclass(slots=True)
class Forecaster:
    """The networks' mean blended with the ridge regression, as a `Stepper`."""

    shape: Shape
    climate: Climate
    ridge: Ridge
    networks: list[UNet]
    constants: dict[str, Floats]
    #: Of network and ridge, for each lead and channel.
    blend_2lc: Floats
    #: Steps that are taken of a block, 1 or all: what was better on the validation states.
    taken: int
    #: Patterns of its errors over a block in anomalies, scaled: a draw is a sum of them with normal weights.
    errors_klchw: Floats
    #: Damped persistence: what is left of an anomaly after each step of a block.
    damping_lchw: Floats
    extras: Extras = field(init=False)

    def __post_init__(self) -> None:
        self.extras = Extras(self.shape, self.constants)
        for network in self.networks:
            network.eval()

    @property
    def history(self) -> int:
        """States that a forecast begins from."""
        return self.shape.history

    @property
    def stride(self) -> int:
        """Steps that are taken of a block."""
        return self.taken

    @property
    def step_hours(self) -> float:
        """Hours of a step."""
        return self.shape.step_hours

    def times(self, last: np.datetime64, start: int, count: int) -> Times:
        """Times of `count` steps from the one numbered `start` on; step 0 is the last known state."""
        seconds = np.rint(np.arange(start, start + count) * self.step_hours * 3600).astype("timedelta64[s]")
        return np.asarray(last.astype("datetime64[s]") + seconds)

    def networks_block(self, anomaly_bschw: Floats, times_b: Times) -> Floats:
        """The networks' mean, (B, L, C, H, W) in anomalies."""
        with torch.inference_mode():
            states, extras = torch.from_numpy(np.ascontiguousarray(anomaly_bschw)), self.extras.at(times_b)
            found = torch.stack([network(states, extras) for network in self.networks]).mean(dim=0)
        return np.asarray(found.numpy())

    def block_anomalies(self, anomaly_bschw: Floats, times_b: Times) -> Floats:
        """The blended next steps, (B, L, C, H, W) in anomalies."""
        ours = self.networks_block(anomaly_bschw, times_b) if self.networks else np.float32(0)
        line = np.stack([self.ridge(each) for each in anomaly_bschw])
        net_lc, ridge_lc = self.blend_2lc
        return np.asarray(net_lc[None, :, :, None, None] * ours + ridge_lc[None, :, :, None, None] * line, np.float32)

    def advance(self, history_schw: Floats, last: np.datetime64, noise: np.random.Generator | None) -> Floats:
        """See `Stepper`."""
        count = self.history
        anomaly_schw = self.climate.anomaly(history_schw, self.times(last, 1 - count, count))
        next_lchw = self.block_anomalies(anomaly_schw[None], np.asarray([last.astype("datetime64[s]")]))[0, : self.stride]
        if noise is not None and len(self.errors_klchw):
            weights = noise.standard_normal(len(self.errors_klchw)).astype(np.float32)
            next_lchw = next_lchw + np.einsum("k,klchw->lchw", weights, self.errors_klchw[:, : self.stride])
        return self.climate.value(next_lchw, self.times(last, 1, self.stride))

    def save(self, folder: Path) -> None:
        """Write config and weights."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray[Any]] = {
            "climate.weights": self.climate.weights_schw,
            "climate.scale": self.climate.scale_c,
            "ridge.patterns": self.ridge.patterns_kd,
            "ridge.weights": self.ridge.weights_lsk,
            "ridge.roots": self.ridge.roots_d,
            "blend": self.blend_2lc,
            "errors": self.errors_klchw,
            "damping": self.damping_lchw,
            **{f"constant.{name}": plane for name, plane in self.constants.items()},
        }
        for index, network in enumerate(self.networks):
            tensors |= {f"network.{index}.{name}": each.numpy() for name, each in network.state_dict().items()}
        save_file({name: np.ascontiguousarray(each, np.float32) for name, each in tensors.items()}, folder / WEIGHTS)
        record = {**self.shape.record(), "networks": len(self.networks), "stride": self.stride}
        (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Forecaster:
        """From the folder that a training saved.

        Raises:
            InvalidData: it is no such folder, or its weights are not those of its config.
        """
        try:
            record = json.loads((folder / CONFIG).read_text("utf-8"))
            shape = Shape.of(record)
            tensors = load_file(folder / WEIGHTS)
            constants = {name[9:]: each for name, each in tensors.items() if name.startswith("constant.")}
            networks = []
            for index in range(int(record["networks"])):
                network = shape.network(Extras(shape, constants).count)
                mark = f"network.{index}."
                own = {name[len(mark) :]: torch.from_numpy(each) for name, each in tensors.items() if name.startswith(mark)}
                network.load_state_dict(own)
                networks.append(network)
            return cls(
                shape,
                Climate(tensors["climate.weights"], tensors["climate.scale"]),
                Ridge(tensors["ridge.patterns"], tensors["ridge.weights"], tensors["ridge.roots"]),
                networks,
                constants,
                tensors["blend"],
                int(record["stride"]),
                tensors["errors"],
                tensors["damping"],
            )
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise InvalidData(
                f"{folder.name} is no weather model: {str(error).splitlines()[0][:200]}",
                hint="Give a model that a training of weather-forecast saved.",
            ) from error


def roll(
    stepper: Stepper, history_schw: Floats, last: np.datetime64, steps: int, noise: np.random.Generator | None = None
) -> Iterator[Floats]:
    """The states of the next steps one by one, (C, H, W) each. Only the history and one block are in memory."""
    given = 0
    while given < steps:
        block = stepper.advance(history_schw, last, noise)
        yield from block[: steps - given]
        history_schw = following(stepper, history_schw, block, last)
        last, given = later(stepper, last, len(block)), given + len(block)


def roll_anomalies(forecaster: Forecaster, history_bschw: Floats, last_b: Times, steps: int) -> Iterator[Floats]:
    """The same for many starts at a time, in anomalies: (B, C, H, W) for each step."""
    given = 0
    while given < steps:
        block = forecaster.block_anomalies(history_bschw, last_b)[:, : forecaster.stride]
        for step in range(min(forecaster.stride, steps - given)):
            yield block[:, step]
        history_bschw = np.concatenate([history_bschw, block], axis=1)[:, -forecaster.history :]
        given += forecaster.stride
        last_b = last_b + np.timedelta64(round(forecaster.step_hours * 3600 * forecaster.stride), "s")


def following(stepper: Stepper, history_schw: Floats, block_lchw: Floats, last: np.datetime64) -> Floats:
    """The history that a forecast goes on from after a block that began after the time `last`."""
    if isinstance(stepper, Anchored):
        return stepper.follow(history_schw, block_lchw, last)
    return np.concatenate([history_schw, block_lchw])[-stepper.history :]


def later(stepper: Stepper, last: np.datetime64, steps: int) -> np.datetime64:
    """The time so many steps after another."""
    after: np.datetime64 = last.astype("datetime64[s]") + np.timedelta64(round(stepper.step_hours * 3600 * steps), "s")
    return after
