"""What wave forecasts are asked with and answered as, and how a model is trained and measured."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelworks.contract.run import Level


class Spectrum(BaseModel):
    """A spectrum of the sea's surface: variance density in m²/Hz at frequencies in Hz, ascending."""

    model_config = ConfigDict(extra="forbid")

    frequencies_hz: list[float] = Field(min_length=3, max_length=2000)
    density_m2_per_hz: list[float] = Field(min_length=3, max_length=2000)

    @model_validator(mode="after")
    def _sound(self) -> Spectrum:
        frequencies = self.frequencies_hz
        if len(frequencies) != len(self.density_m2_per_hz):
            raise ValueError("frequencies_hz and density_m2_per_hz have different lengths")
        if frequencies[0] <= 0 or any(not low < high for low, high in pairwise(frequencies)):
            raise ValueError("frequencies_hz: positive, each larger than the one before")
        if any(not 0 <= each < 1e6 for each in self.density_m2_per_hz):
            raise ValueError("density_m2_per_hz: not negative, and finite")
        return self


class WaveRecord(BaseModel):
    """One record of a buoy; heights in m, periods in s, the direction that waves come from in degrees, water in °C."""

    model_config = ConfigDict(extra="forbid")

    time: datetime
    hs_m: float | None = Field(None, ge=0, le=40, description="Significant wave height; of a spectrum where that is given.")
    hmax_m: float | None = Field(None, ge=0, le=80)
    tz_s: float | None = Field(None, gt=0, le=60)
    tp_s: float | None = Field(None, gt=0, le=60)
    direction_deg: float | None = Field(None, ge=0, le=360)
    sst_c: float | None = Field(None, ge=-5, le=45)
    spectrum: Spectrum | None = None


class WaveForecastInput(BaseModel):
    """The buoy's records of the last hours; the forecast starts from the last one that has a height."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "records": [
                        {"time": "2019-06-30T22:30:00Z", "hs_m": 2.01, "hmax_m": 3.2, "tz_s": 8.4, "tp_s": 11.0},
                        {"time": "2019-06-30T23:00:00Z", "hs_m": 2.09, "hmax_m": 2.84, "tz_s": 8.7, "tp_s": 10.96},
                    ]
                }
            ]
        },
    )

    records: list[WaveRecord] = Field(min_length=1, max_length=2000)
    coverage: float = Field(0.8, gt=0.05, lt=0.98, description="Part of cases that the interval is to hold.")


class SeaState(BaseModel):
    """What a record says of the sea: significant height in m, peak and energy period in s."""

    hs_m: float
    tp_s: float | None = None
    te_s: float | None = None


class WavePoint(BaseModel):
    """The significant wave height of one lead time, with the interval asked for, in m."""

    lead_h: float
    time: datetime
    hs_m: float
    low_m: float
    high_m: float


class WaveForecastOutput(BaseModel):
    """A forecast of significant wave heights."""

    object: Literal["wave_forecast"] = "wave_forecast"
    start: datetime
    now: SeaState
    coverage: float
    points: list[WavePoint]


class _Place(BaseModel):
    """Where grids of a wave model are read, when the data are such grids and no records."""

    model_config = ConfigDict(extra="forbid")

    latitude: float | None = Field(None, ge=-90, le=90, description="Of grids of a wave model: the place, degrees north.")
    longitude: float | None = Field(None, ge=-180, le=360, description="Of grids of a wave model: the place, degrees east.")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("give latitude and longitude, or neither")
        return self

    @property
    def place(self) -> tuple[float, float] | None:
        """Latitude and longitude."""
        return None if self.latitude is None or self.longitude is None else (self.latitude, self.longitude)


class WaveTrainParams(_Place):
    """How a model is made of a buoy's records, or of a wave model's grids at a place."""

    preset: Literal["tiny", "standard"] = Field("standard", description="tiny: seconds, for trying; standard: minutes.")
    leads_h: list[float] = Field(
        default_factory=lambda: [1.0, 3.0, 6.0, 12.0, 24.0], min_length=1, max_length=24, description="Hours ahead, ascending."
    )
    folds: int = Field(3, ge=2, le=10, description="Blocks of days are held out in so many turns, for weights and intervals.")
    block_days: float = Field(15.0, gt=0, le=366, description="Length of such a block.")
    num_trees: int | None = Field(None, ge=1, le=5000, description="Trees of each part; by the preset when not given.")
    name: str | None = Field(None, max_length=128, description="A name for the model's card.")
    level: Level | None = Field(None, description="Level recorded with the model; L1 when not given.")

    @model_validator(mode="after")
    def _leads(self) -> WaveTrainParams:
        if any(not 0 < lead <= 240 for lead in self.leads_h) or self.leads_h != sorted(set(self.leads_h)):
            raise ValueError("leads_h: above 0, at most 240, ascending")
        return self

    @property
    def trees(self) -> int:
        """Trees of each part."""
        return self.num_trees or (20 if self.preset == "tiny" else 200)


class WaveEvaluateParams(_Place):
    """How a model is measured."""

    coverage: float = Field(0.8, gt=0.05, lt=0.98, description="Of the interval whose coverage is counted.")
    bootstrap_samples: int = Field(1000, ge=100, le=100_000, description="Resamples of days behind each 95 % interval.")
