"""A track model: a cubic regression, analogues and boosted trees, blended on seasons held out, with a cone from their errors.

The regression is the idea of CLIPER (Neumann 1972; Aberson 1998), the cone that of the National Hurricane Center: a circle that
held the centre in two thirds of past cases. Every part forecasts how far a storm departs from going on as it did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from modelworks.capabilities.weather.cyclone.adaptive import LEVELS, levels, radius_km
from modelworks.capabilities.weather.cyclone.features import COLUMN, NAMES, Starts, around, errors_km
from modelworks.capabilities.weather.cyclone.tracks import Floats
from modelworks.capabilities.weather.trees import Forest, grow, opened
from modelworks.contract.errors import InvalidData

CARD_FILE: Final = "cyclone_track.json"
WEIGHTS_FILE: Final = "cyclone_track.safetensors"

#: What a blend is made of, in the order of its weights.
PARTS: Final = ("regression", "analogues", "trees", "turned_trees")
WIND_PARTS: Final = ("regression", "trees")
_CUBIC: Final = [
    COLUMN[name]
    for name in (
        *("latitude", "longitude", "m12_east", "m12_north", "change_east", "change_north"),
        *("wind", "season_cos", "season_sin"),
    )
]
_LIKE: Final = [
    COLUMN[name] for name in ("latitude", "longitude", "m12_east", "m12_north", "change_east", "change_north", "wind")
]
_LIKE_WEIGHT: Final = np.array([1.5, 1.0, 2.0, 2.0, 1.0, 1.0, 0.5])
#: Days of season that count as much as one standard deviation, and how many analogues are asked.
_SEASON_DAYS, _NUM_LIKE = 45.0, 40
_RIDGE: Final = 3e-3
#: Standard deviations beyond which a cubic is not followed.
_LIMIT: Final = 3.5
_EAST, _NORTH = COLUMN["m12_east"], COLUMN["m12_north"]


class LeadCard(BaseModel):
    """What was learnt about one lead time from seasons held out."""

    model_config = ConfigDict(extra="forbid")

    lead_h: int
    weights: list[float]
    wind_weights: list[float]
    cone_km: float
    #: Half the width of the wind's interval, in knots.
    wind_kt: float
    #: Mean great-circle error on these seasons, and that of persistence, km.
    error_km: float
    persistence_km: float
    num_cases: int
    num_wind_cases: int
    #: The errors behind the cone at `LEVELS`, km; empty in models made before there were any.
    quantiles_km: list[float] = []
    #: The level of the cone after the last season, had it followed that season's outcomes.
    cone_level: float | None = None

    @property
    def follows(self) -> bool:
        """Whether the cone can follow outcomes."""
        return self.cone_level is not None


class Card(BaseModel):
    """What a track model says about itself."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    features: list[str]
    #: Longitudes are counted from here.
    centre: float
    #: The box of the starts: south, north, and west and east of `centre`, degrees.
    box: tuple[float, float, float, float]
    first: str
    verified: str
    coverage: float
    seasons: tuple[int, int]
    num_storms: int
    leads: list[LeadCard]


@dataclass(frozen=True, slots=True)
class LeadModel:
    """The parts of one lead time; longitudes are counted from the card's centre."""

    mean_c: Floats
    scale_c: Floats
    cubic_p3: Floats
    like_nf: Floats
    like_days_n: Floats
    like_mean_f: Floats
    like_scale_f: Floats
    like_target_n2: Floats
    trees: Mapping[str, Forest]

    def parts(self, rows_nf: Floats, lead_h: int) -> tuple[Floats, Floats]:
        """Km east and north by each part, (part, row, 2), and the change of wind in knots, (part, row)."""
        going_on = base(rows_nf, lead_h)
        regressed = self._terms(rows_nf) @ self.cubic_p3
        ahead = np.stack([self.trees[each].predict(rows_nf) for each in ("along", "across")], axis=1)
        moves = [
            regressed[:, :2],
            self._analogues(rows_nf),
            np.stack([self.trees[each].predict(rows_nf) for each in ("east", "north")], axis=1),
            turned(rows_nf, ahead),
        ]
        return np.stack([going_on + each for each in moves]), np.stack([regressed[:, 2], self.trees["wind"].predict(rows_nf)])

    def _terms(self, rows_nf: Floats) -> Floats:
        return cubic_terms(scaled(rows_nf[:, _CUBIC], self.mean_c, self.scale_c))

    def _analogues(self, rows_nf: Floats) -> Floats:
        """The mean departure of the storms most like this one, the nearer ones weighing more."""
        asked = scaled(rows_nf[:, _LIKE], self.like_mean_f, self.like_scale_f) * _LIKE_WEIGHT
        found = np.zeros((len(rows_nf), 2))
        for index, (each, day) in enumerate(zip(asked, rows_nf[:, COLUMN["day"]], strict=True)):
            apart = np.abs(self.like_days_n - day)
            apart = np.minimum(apart, 365.25 - apart)
            away = ((self.like_nf - each) ** 2).sum(axis=1) + (apart / _SEASON_DAYS) ** 2
            nearest = np.argpartition(away, min(_NUM_LIKE, len(away)) - 1)[:_NUM_LIKE]
            weight = np.exp(-away[nearest] / max(2 * float(np.median(away[nearest])), 1e-9))
            found[index] = weight @ self.like_target_n2[nearest] / weight.sum()
        return found

    def tensors(self, lead_h: int) -> dict[str, Any]:
        """Everything as arrays, by names that begin with the lead."""
        own = {
            "mean": self.mean_c,
            "scale": self.scale_c,
            "cubic": self.cubic_p3,
            "like": self.like_nf,
            "like_days": self.like_days_n,
            "like_mean": self.like_mean_f,
            "like_scale": self.like_scale_f,
            "like_target": self.like_target_n2,
        }
        found = {f"{lead_h}.{name}": value for name, value in own.items()}
        for name, forest in self.trees.items():
            found |= forest.tensors(f"{lead_h}.{name}")
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Any], lead_h: int) -> LeadModel:
        """The model of that lead; raises InvalidData where an array is missing or has another shape."""
        try:
            own = {
                name: tensors[f"{lead_h}.{name}"].astype(np.float64)
                for name in ("mean", "scale", "cubic", "like", "like_days", "like_mean", "like_scale", "like_target")
            }
        except KeyError as error:
            raise InvalidData(f"The model lacks {error.args[0]!r}.", hint="Train the model again.") from error
        count, width = len(own["like_days"]), len(_CUBIC)
        num_terms = cubic_terms(np.zeros((1, width))).shape[1]
        wanted = {
            "mean": (width,),
            "scale": (width,),
            "cubic": (num_terms, 3),
            "like": (count, len(_LIKE)),
            "like_days": (count,),
            "like_mean": (len(_LIKE),),
            "like_scale": (len(_LIKE),),
            "like_target": (count, 2),
        }
        if count == 0 or any(own[name].shape != shape for name, shape in wanted.items()):
            raise InvalidData(f"Arrays of lead {lead_h} h have other shapes than they should.", hint="Train the model again.")
        trees = {name: opened(tensors, f"{lead_h}.{name}", len(NAMES)) for name in TREES}
        return cls(
            own["mean"],
            own["scale"],
            own["cubic"],
            own["like"],
            own["like_days"],
            own["like_mean"],
            own["like_scale"],
            own["like_target"],
            trees,
        )


#: Names of the forests: in the Earth's directions, along and across the motion, and of the wind.
TREES: Final = ("east", "north", "along", "across", "wind")


def fit(rows_nf: Floats, target_n2: Floats, wind_n: Floats, lead_h: int, *, num_trees: int, seed: int) -> LeadModel:
    """Learn one lead time from rows with a target; NaN winds are left out of the wind's part."""
    departure = target_n2 - base(rows_nf, lead_h)
    known = np.isfinite(wind_n)
    change = np.where(known, wind_n, 0.0)
    mean_c, scale_c = moments(rows_nf[:, _CUBIC])
    terms = cubic_terms(scaled(rows_nf[:, _CUBIC], mean_c, scale_c))
    cubic_p3 = np.column_stack([ridge(terms, departure), ridge(terms[known], change[known][:, None])])
    like_mean, like_scale = moments(rows_nf[:, _LIKE])
    targets = {
        **dict(zip(("east", "north"), departure.T, strict=True)),
        # A turn by the angle of the motion is its own inverse, since it also swaps a sign.
        **dict(zip(("along", "across"), turned(rows_nf, departure).T, strict=True)),
    }
    trees = {
        name: grow(rows_nf, target, num_trees=num_trees, seed=seed + place)
        for place, (name, target) in enumerate(targets.items())
    }
    trees["wind"] = grow(rows_nf[known], change[known], num_trees=num_trees, seed=seed + len(targets))
    return LeadModel(
        mean_c,
        scale_c,
        cubic_p3,
        scaled(rows_nf[:, _LIKE], like_mean, like_scale) * _LIKE_WEIGHT,
        rows_nf[:, COLUMN["day"]].copy(),
        like_mean,
        like_scale,
        departure.copy(),
        trees,
    )


def base(rows_nf: Floats, lead_h: int) -> Floats:
    """Going on by the mean of the motions of the last six and twelve hours, km east and north."""
    columns = [[COLUMN[f"m{hours}_{way}"] for way in ("east", "north")] for hours in (6, 12)]
    moved: Floats = (rows_nf[:, columns[0]] + rows_nf[:, columns[1]]) / 2 * lead_h
    return moved


def turned(rows_nf: Floats, vectors_n2: Floats) -> Floats:
    """Vectors reflected about the bisector of north-east and the motion: east/north becomes along/across, and back."""
    east, north = rows_nf[:, _EAST], rows_nf[:, _NORTH]
    speed = np.hypot(east, north)
    east, north = np.where(speed > 1e-6, east, 1.0), np.where(speed > 1e-6, north, 0.0)
    east, north = east / np.hypot(east, north), north / np.hypot(east, north)
    x, y = vectors_n2[:, 0], vectors_n2[:, 1]
    return np.stack([x * east + y * north, x * north - y * east], axis=1)


def moments(columns_nc: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column without its missing values; 0 and 1 where all are missing."""
    known = np.isfinite(columns_nc)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, columns_nc, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(known, columns_nc - mean, 0) ** 2).sum(axis=0) / count)
    return np.asarray(mean, np.float64), np.asarray(np.where(spread > 1e-9, spread, 1.0), np.float64)


def scaled(columns_nc: Floats, mean_c: Floats, scale_c: Floats) -> Floats:
    """Standard deviations from the mean, within limits; a missing value is the mean."""
    return np.clip(np.where(np.isfinite(columns_nc), (columns_nc - mean_c) / scale_c, 0.0), -_LIMIT, _LIMIT)


def cubic_terms(columns_nc: Floats) -> Floats:
    """1 and all products of up to three columns."""
    width = columns_nc.shape[1]
    terms = [np.ones(len(columns_nc))]
    for degree in (1, 2, 3):
        for chosen in combinations_with_replacement(range(width), degree):
            terms.append(np.prod(columns_nc[:, chosen], axis=1))
    return np.stack(terms, axis=1)


def ridge(terms_np: Floats, targets_nk: Floats) -> Floats:
    """Coefficients by ridge regression, every term penalised by its own spread, the constant not at all."""
    penalty = terms_np.var(axis=0) * len(terms_np) * _RIDGE
    gram = terms_np.T @ terms_np + np.diag(penalty + 1e-9)
    return np.asarray(np.linalg.solve(gram, terms_np.T @ targets_nk), np.float64)


class TrackModel:
    """A trained model of all its lead times; answers on numpy alone."""

    def __init__(self, card: Card, leads: Mapping[int, LeadModel]) -> None:
        self.card = card
        self._leads = leads

    def forecast(self, rows_nf: Floats, lead: LeadCard) -> tuple[Floats, Floats]:
        """Km east and north, (row, 2), and wind in knots, (row,), NaN where the start's is not known."""
        rows = around(rows_nf, self.card.centre)
        moves, changes = self._leads[lead.lead_h].parts(rows, lead.lead_h)
        found: Floats = np.tensordot(np.array(lead.weights), moves, axes=1)
        wind = rows[:, COLUMN["wind"]] + np.array(lead.wind_weights) @ changes
        return found, np.maximum(wind, 10.0)

    def followed(self, cases: Starts, place: int, moves_n2: Floats) -> Floats:
        """The radius of the cone of each forecast of the lead time at that place, km, as it could have been given at its start.

        Seasons that were learnt from have the fixed cone, and their outcomes do not count: the model knows those tracks.
        """
        lead = self.card.leads[place]
        cone_n = np.full(len(cases), lead.cone_km)
        new = cases.seasons_n > self.card.seasons[1]
        if lead.cone_level is not None:
            level_n, _, _ = self._levels(errors_km(cases, place, moves_n2)[new], cases.hours_n[new], lead, lead.cone_level)
            cone_n[new] = radius_km(level_n, lead.quantiles_km)
        return cone_n

    def cone_now(self, past: Starts, place: int, moves_n2: Floats, start: datetime) -> tuple[float, int]:
        """The radius in km for a forecast that starts after those of `past`, and how many of their outcomes it has followed."""
        lead = self.card.leads[place]
        if lead.cone_level is None:
            return lead.cone_km, 0
        new = past.seasons_n > self.card.seasons[1]
        errors = np.append(errors_km(past, place, moves_n2)[new], np.nan)
        hours = np.append(past.hours_n[new], start.timestamp() / 3600)
        level_n, _, used = self._levels(errors, hours, lead, lead.cone_level)
        return float(radius_km(level_n[-1], lead.quantiles_km)), used

    def _levels(self, errors_n: Floats, hours_n: Floats, lead: LeadCard, level: float) -> tuple[Floats, float, int]:
        return levels(errors_n, hours_n, lead.lead_h, lead.quantiles_km, level, self.card.coverage)

    def save(self, folder: Path) -> None:
        """Write card and weights; the same model gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Any] = {}
        for lead_h, model in self._leads.items():
            tensors |= model.tensors(lead_h)
        save_file({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, folder / WEIGHTS_FILE)
        text = json.dumps(self.card.model_dump(mode="json"), indent=2) + "\n"
        (folder / CARD_FILE).write_text(text, "utf-8")

    @classmethod
    def load(cls, folder: Path) -> TrackModel:
        """Open what `save` wrote; raises InvalidData where it is none, or damaged."""
        try:
            card = Card.model_validate_json((folder / CARD_FILE).read_bytes())
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValidationError, SafetensorError) as error:
            raise InvalidData(
                f"This is no track model: {str(error).splitlines()[0][:200]}.",
                hint="Train one: modelworks train cyclone-track --data DATASET.",
            ) from error
        if card.features != list(NAMES) or card.format != 1:
            raise InvalidData("The track model was made by another release.", hint="Train it again.")
        for lead in card.leads:
            if len(lead.weights) != len(PARTS) or len(lead.wind_weights) != len(WIND_PARTS):
                raise InvalidData(f"The weights of lead {lead.lead_h} h do not fit.", hint="Train the model again.")
            radii = np.array(lead.quantiles_km)
            if lead.follows and (radii.shape != LEVELS.shape or not (np.diff(radii) >= 0).all()):
                raise InvalidData(
                    f"The errors behind the cone of lead {lead.lead_h} h do not fit.", hint="Train the model again."
                )
        return cls(card, {lead.lead_h: LeadModel.of(tensors, lead.lead_h) for lead in card.leads})
