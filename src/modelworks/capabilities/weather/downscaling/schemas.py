"""Parameters of training, evaluation and application of the task `weather-downscaling`. Light."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelworks.capabilities.weather.schemas import Point, Series
from modelworks.contract.run import Level


class DownscaleTrainParams(BaseModel):
    """How a finer grid is learnt from the pairs of roles "coarse" and "train", or from "train" alone, made coarser."""

    model_config = ConfigDict(extra="forbid")

    preset: Literal["tiny", "standard"] = Field("standard", description="tiny: one neighbourhood, for trying.")
    channels: list[str] | None = Field(
        None, min_length=1, max_length=64, description="What is wanted on the fine grid: t2m, msl …; default: all that it has."
    )
    predictors: list[str] | None = Field(
        None, min_length=1, max_length=64, description="What is looked at on the coarse grid; default: all that it has."
    )
    coarsen: int | None = Field(
        None, ge=2, le=64, description="Without data of role coarse: so many points by so many of the fine grid are averaged."
    )
    windows: list[int] | None = Field(
        None,
        min_length=1,
        max_length=6,
        description="Coarse points along each side of the neighbourhood, of which one is chosen.",
    )
    folds: int = Field(4, ge=2, le=10, description="Blocks of days are held out in so many turns, for every choice.")
    block_days: float = Field(10.0, gt=0, le=400, description="Days of a block.")
    max_missing: float = Field(0.05, ge=0, le=0.9, description="Part of a field that may be missing and is filled.")
    level: Level = Field("L2", description="Level of the model in its family.")

    @property
    def candidates(self) -> tuple[int, ...]:
        """Sizes of the neighbourhood that are tried."""
        return tuple(self.windows or ((3,) if self.preset == "tiny" else (3, 5, 7)))

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if any(each < 1 or each > 15 or each % 2 == 0 for each in self.candidates):
            raise ValueError("windows: odd numbers from 1 to 15")
        return self


class DownscaleEvaluateParams(BaseModel):
    """How a model is measured on the fine grids of role "test", with coarse ones of role "coarse" where it was learnt so."""

    model_config = ConfigDict(extra="forbid")

    block_days: float = Field(10.0, gt=0, le=400, description="Days that are drawn together, as neighbours are alike.")
    bootstrap_samples: int = Field(1000, ge=100, le=100_000, description="Resamples of these blocks.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Of the intervals.")


class DownscaleInput(BaseModel):
    """The finer grid of the states of role "coarse", by the model of role "model"."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["model", "bilinear", "bicubic"] = Field(
        "model", description="bilinear, bicubic: interpolation without a model, for comparison."
    )
    factor: int | None = Field(
        None, ge=2, le=64, description="Of interpolation: points of the finer grid for one of the coarse."
    )
    channels: list[str] | None = Field(None, min_length=1, description="What is written; default: all.")
    points: list[Point] = Field(default_factory=list, max_length=1000, description="Places whose series are answered.")
    exports: list[Literal["netcdf"]] = Field(default_factory=list, description="Further files beside the Zarr store.")
    max_missing: float = Field(0.05, ge=0, le=0.9, description="Part of a field that may be missing and is filled.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.method == "model") != (self.factor is None):
            raise ValueError("factor: give it with method bilinear or bicubic, and only then")
        names = [each.name for each in self.points]
        if len(set(names)) != len(names):
            raise ValueError("each point needs a name of its own")
        return self


class DownscaleOutput(BaseModel):
    """What was made finer; the grid is the Zarr store that the run saved with kind "grid"."""

    object: Literal["weather_downscaling"] = "weather_downscaling"
    method: str
    channels: list[str]
    #: Points of the grid: latitudes, longitudes.
    size: tuple[int, int]
    times: list[datetime]
    files: list[str]
    series: list[Series] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
