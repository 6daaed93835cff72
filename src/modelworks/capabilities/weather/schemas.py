"""Parameters of training, evaluation and forecast of the task `weather-forecast`. Light."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelworks.contract.run import Level

Preset = Literal["tiny", "regional", "global-5.6deg", "custom"]
Export = Literal["netcdf", "grib"]

#: What a preset means, field by field; a field that is given keeps its value.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # One small network: minutes on one core for ten years of a small region.
        "tiny": {"width": 16, "depth": 2, "members": 1, "epochs": 6, "rollout_epochs": 0, "eofs": 40},
        # Three networks averaged, for a region of some hundred points: minutes on one core for seven years of days.
        "regional": {
            "width": 32,
            "depth": 2,
            "members": 3,
            "epochs": 12,
            "rollout_epochs": 0,
            "eofs": 60,
            "learning_rate": 1.2e-3,
            "precision": "bf16",
        },
        # 32 x 64 points, tens of channels: hours on an accelerator.
        "global-5.6deg": {
            "width": 128,
            "depth": 3,
            "members": 2,
            "epochs": 60,
            "rollout_epochs": 5,
            "eofs": 400,
            "batch_size": 32,
        },
        "custom": {},
    }
)


class TrainParams(BaseModel):
    """How a forecast model is trained from the grids of role "train" (and "validation", where it is given)."""

    model_config = ConfigDict(extra="forbid")

    preset: Preset = Field("tiny", description="A size that is known to work; its values can be overridden one by one.")
    channels: list[str] | None = Field(
        None, min_length=1, max_length=512, description="What is forecast: msl, t2m, z500 …; default: all that the data have."
    )
    history: int = Field(3, ge=1, le=8, description="States that a forecast begins from, the last one being now.")
    block: int = Field(3, ge=1, le=16, description="Steps that one application gives, each by a head of its own.")
    members: int = Field(3, ge=1, le=16, description="Networks that are trained apart and averaged.")
    width: int = Field(32, ge=4, le=1024, description="Channels of the widest grid of the U-Net; each coarser one has double.")
    depth: int = Field(2, ge=1, le=5, description="How often the grid is halved.")
    epochs: int = Field(12, ge=1, le=10_000, description="How often the states are read.")
    rollout_epochs: int = Field(1, ge=0, le=1000, description="Epochs at the end through two applications, one on the other.")
    batch_size: int = Field(16, ge=1, le=4096, description="Forecasts in a step.")
    learning_rate: float = Field(8e-4, gt=0, le=1, description="Highest learning rate, reached after the warm-up.")
    weight_decay: float = Field(0.05, ge=0, le=10, description="Decay of matrices.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Part of the features that is left out in training.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are scaled down to it.")
    ema: float = Field(0.995, ge=0, lt=1, description="The weights that are kept follow those that are trained this slowly.")
    eofs: int = Field(60, ge=2, le=4096, description="Patterns of the ridge regression that the networks are blended with.")
    validation_share: float = Field(
        0.125, gt=0, lt=0.9, description="Last part of the states that choices are made on; without data of role validation."
    )
    precision: Literal["f32", "bf16"] = Field(
        "f32",
        description="Numbers of the products in training; bf16 where it is multiplied, else f32. Weights stay f32.",
    )
    max_missing: float = Field(0.05, ge=0, le=0.9, description="Part of a field that may be missing and is filled.")
    level: Level = Field("L2", description="Level of the model in its family.")
    num_threads: int | None = Field(None, ge=1, le=256, description="Threads that compute; default: the run's cores.")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        if isinstance(given, dict):
            values = PRESETS.get(given.get("preset", "tiny"), {})
            return {**values, **given}
        return given


class EvaluateParams(BaseModel):
    """How a model is measured on the grids of role "test"; see `verification`."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(3, ge=3, le=400, description="Lead times, in steps of the model; metrics are those of step 1, 2 and 3.")
    every: int = Field(1, ge=1, le=10_000, description="A forecast begins at each so-many-th state.")
    starts_from: datetime | None = Field(None, description="Forecasts begin from then on.")
    members: int = Field(0, ge=0, le=200, description="Members of ensembles for CRPS and spread; 0: none.")
    bootstrap_samples: int = Field(1000, ge=100, le=100_000, description="Resamples of blocks of start dates.")
    block_starts: int = Field(20, ge=1, le=10_000, description="Start dates that are drawn together, as neighbours are alike.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Of the intervals.")
    num_threads: int | None = Field(None, ge=1, le=256, description="Threads that compute; default: the run's cores.")


class Point(BaseModel):
    """A place that a series is wanted of."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=360)


class ForecastInput(BaseModel):
    """A forecast from the states of role "initial" with the model of role "model"."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["model", "persistence"] = Field(
        "model", description="persistence: the last state goes on, without a model, for comparison."
    )
    steps: int = Field(7, ge=1, le=2000, description="Steps of the model, such as days or six hours.")
    step_hours: int | None = Field(None, ge=1, le=24, description="Of models that know several steps; default: the shortest.")
    start: datetime | None = Field(None, description="The last state that is known; default: the last one of the data.")
    members: int = Field(0, ge=0, le=200, description="Members of an ensemble; 0: the forecast alone.")
    channels: list[str] | None = Field(None, min_length=1, description="What is written; default: all of the model.")
    points: list[Point] = Field(default_factory=list, max_length=1000, description="Places whose series are answered.")
    exports: list[Export] = Field(default_factory=list, description="Further files beside the Zarr store.")
    max_missing: float = Field(0.05, ge=0, le=0.9, description="Part of a field that may be missing and is filled.")
    checkpoint_every: int = Field(1, ge=1, le=1000, description="Steps after which a forecast can go on after a crash.")
    num_threads: int | None = Field(None, ge=1, le=256, description="Threads that compute; default: the run's cores.")

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [each.name for each in self.points]
        if len(set(names)) != len(names):
            raise ValueError("each point needs a name of its own")
        return self


class Series(BaseModel):
    """A channel at a place, by lead time; bilinear between the grid's points."""

    point: str
    channel: str
    units: str
    values: list[float]
    #: Of ensembles: the tenth, fiftieth and ninetieth percentile at each time.
    p10: list[float] | None = None
    p50: list[float] | None = None
    p90: list[float] | None = None


class ForecastOutput(BaseModel):
    """What was forecast; the grid is the Zarr store that the run saved with kind "grid"."""

    start: datetime
    step_hours: float
    steps: int
    members: int
    channels: list[str]
    #: Times that the states are valid at.
    times: list[datetime]
    #: The files of the result: `forecast.zarr`, and what was exported.
    files: list[str]
    series: list[Series] = Field(default_factory=list)
    #: What was repaired in the initial states.
    notes: list[str] = Field(default_factory=list)
