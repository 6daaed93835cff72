"""What tracks are asked with and answered as, and how a track model is trained and measured."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelworks.contract.run import Level

Form = Literal["atcf", "geojson", "kml"]


class TrackFix(BaseModel):
    """Where a cyclone was: degrees north and east, wind in knots, pressure in hPa, time with its zone (UTC if none)."""

    model_config = ConfigDict(extra="forbid")

    time: datetime
    latitude: float = Field(ge=-70, le=70)
    longitude: float = Field(ge=-360, le=360)
    wind_kt: float | None = Field(None, gt=0, le=250)
    pressure_hpa: float | None = Field(None, ge=800, le=1100)
    stage: Literal["disturbance", "depression", "storm", "subtropical", "extratropical", "unknown"] = "unknown"


class CycloneTrackInput(BaseModel):
    """A cyclone's track so far, as fixes or as text of an agency; the forecast starts from the last synoptic fix."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "EXAMPLE",
                    "fixes": [
                        {"time": "2018-09-10T00:00:00Z", "latitude": 25.4, "longitude": -58.8, "wind_kt": 90},
                        {"time": "2018-09-10T06:00:00Z", "latitude": 25.4, "longitude": -59.6, "wind_kt": 100},
                        {"time": "2018-09-10T12:00:00Z", "latitude": 25.5, "longitude": -60.4, "wind_kt": 110},
                        {"time": "2018-09-10T18:00:00Z", "latitude": 25.7, "longitude": -61.3, "wind_kt": 115},
                        {"time": "2018-09-11T00:00:00Z", "latitude": 25.9, "longitude": -62.4, "wind_kt": 120},
                    ],
                    "formats": ["geojson"],
                }
            ]
        },
    )

    fixes: list[TrackFix] = Field(
        default_factory=list, max_length=400, description="At 00, 06, 12 and 18 UTC, the last 24 hours at least."
    )
    track: str | None = Field(
        None, max_length=200_000, description="The same as text: HURDAT2, RSMC Tokyo, JTWC's CSV or an ATCF deck of one storm."
    )
    past_tracks: str | None = Field(
        None,
        max_length=1_000_000,
        description="Storms of this season so far, and of the one before, as text in one of these formats: the cone follows "
        "how forecasts of them, and of this storm, held. Years that were learnt from and fixes after the start do not count.",
    )
    name: str | None = Field(None, max_length=40)
    storm_id: str | None = Field(None, pattern=r"^[A-Z]{2}\d{6}$", description="Basin, number and year, as in AL062018.")
    formats: list[Form] = Field(default_factory=list, max_length=3, description="Give the forecast as such text, too.")

    @model_validator(mode="after")
    def _one_source(self) -> CycloneTrackInput:
        if bool(self.fixes) == (self.track is not None):
            raise ValueError("give exactly one of fixes and track")
        return self


class TrackPoint(BaseModel):
    """The forecast of one lead time; wind is by the averaging time of the best tracks that were learnt from."""

    lead_h: int
    time: datetime
    latitude: float
    longitude: float
    #: Within this distance the centre was in the stated part of cases.
    cone_km: float
    wind_kt: float | None
    wind_low_kt: float | None = None
    wind_high_kt: float | None = None


class CycloneTrackOutput(BaseModel):
    """A track forecast with its cone."""

    object: Literal["cyclone_track"] = "cyclone_track"
    storm_id: str
    name: str | None
    start: TrackFix
    points: list[TrackPoint]
    #: In which part of cases the cone held the centre, and the interval the wind, on seasons held out.
    coverage: float
    #: How many outcomes the cone of the first lead time has followed.
    cone_outcomes: int = 0
    #: Who forecasts this officially is not us.
    notice: str
    atcf: str | None = None
    geojson: dict[str, Any] | None = None
    kml: str | None = None


class CycloneTrainParams(BaseModel):
    """How a track model is made of best tracks."""

    model_config = ConfigDict(extra="forbid")

    preset: Literal["tiny", "standard"] = Field("standard", description="tiny: seconds, for trying; standard: minutes.")
    leads_h: list[int] = Field(
        default_factory=lambda: [12, 24, 36, 48, 60, 72], min_length=1, max_length=20, description="Hours, multiples of six."
    )
    first: Literal["tropical", "storm"] = Field(
        "tropical", description="Start from depressions and stronger ones, or from at least tropical storms."
    )
    verified: Literal["tropical", "any"] = Field("tropical", description="Which systems a forecast is held against.")
    coverage: float = Field(0.67, gt=0.05, lt=0.99, description="Part of cases that the cone is to hold.")
    cone_seasons: int = Field(
        10,
        ge=1,
        le=200,
        description="The cone is made of the errors of so many last seasons: older tracks were seen less well.",
    )
    folds: int = Field(3, ge=2, le=10, description="Seasons are held out in so many turns, for weights and cone.")
    num_trees: int | None = Field(None, ge=1, le=5000, description="Trees of each part; by the preset when not given.")
    name: str | None = Field(None, max_length=128, description="A name for the model's card.")
    level: Level | None = Field(None, description="Level recorded with the model; L1 when not given.")

    @model_validator(mode="after")
    def _leads(self) -> CycloneTrainParams:
        if any(lead % 6 or not 6 <= lead <= 168 for lead in self.leads_h) or self.leads_h != sorted(set(self.leads_h)):
            raise ValueError("leads_h: multiples of 6 between 6 and 168, ascending")
        return self

    @property
    def trees(self) -> int:
        """Trees of each part."""
        return self.num_trees or (20 if self.preset == "tiny" else 200)


class CycloneEvaluateParams(BaseModel):
    """How a track model is measured."""

    model_config = ConfigDict(extra="forbid")

    first_season: int | None = Field(None, description="Leave out storms of earlier years.")
    last_season: int | None = Field(None, description="Leave out storms of later years.")
    bootstrap_samples: int = Field(2000, ge=100, le=100_000, description="Resamples of storms behind each 95 % interval.")


class TrackingInput(BaseModel):
    """Which minima in the grids of role "forecast" are cyclones."""

    model_config = ConfigDict(extra="forbid")

    min_depth_hpa: float = Field(2.0, gt=0, le=50, description="Pressure rises by so much all round, within 5.5 degrees.")
    min_vorticity: float = Field(
        3e-5, ge=0, le=1e-2, description="Cyclonic vorticity near the centre, in 1/s; where winds are there."
    )
    warm_core: bool = Field(True, description="Leave out cold cores; where geopotential at two upper levels is there.")
    max_latitude: float = Field(50.0, gt=0, le=90, description="Look no further from the equator, degrees.")
    min_duration_h: float = Field(24.0, ge=0, le=1000, description="Leave out what lasts less.")


class FoundTrack(BaseModel):
    """A cyclone over time."""

    fixes: list[TrackFix]
    #: Part of the times at which its core was warm; None where that could not be told.
    warm_core: float | None


class TrackingOutput(BaseModel):
    """The cyclones in a sequence of states; `tracks.geojson`, which the run saved, has the same."""

    object: Literal["cyclone_tracking"] = "cyclone_tracking"
    num_states: int
    #: Centres before they were joined, and the short-lived left out.
    num_centres: int
    tracks: list[FoundTrack]
    notes: list[str] = Field(default_factory=list)
