"""A model of one buoy's heights: how far they depart from staying as they are, with intervals that fit the sea's state.

Three parts are blended: damped persistence, a ridge regression with squares, and boosted trees. The interval is a locally
weighted conformal one (Lei et al. 2018, "Distribution-Free Predictive Inference for Regression"): errors on days held out, each
divided by the error that was to be expected in such a sea. Which of their quantiles are its ends follows the last outcomes
(`adaptive`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from modelworks.capabilities.weather.trees import Forest, grow, opened
from modelworks.capabilities.weather.wave.features import NUM_FEATURES
from modelworks.capabilities.weather.wave.records import Floats
from modelworks.contract.errors import InvalidData

CARD_FILE: Final = "wave_forecast.json"
WEIGHTS_FILE: Final = "wave_forecast.safetensors"
#: What a blend is made of, in the order of its weights.
PARTS: Final = ("damped", "regression", "trees")
#: Quantiles of errors, in units of what was expected, that a model keeps.
LEVELS: Final = np.round(np.linspace(0.01, 0.99, 99), 2)
_RIDGE: Final = 0.03
_LIMIT: Final = 4.0
#: An expected error is never below this, in m: a buoy tells heights to a centimetre or so.
_LEAST_M: Final = 0.01


class LeadCard(BaseModel):
    """What was learnt about one lead time from days held out."""

    model_config = ConfigDict(extra="forbid")

    lead_h: float
    weights: list[float] = Field(min_length=3, max_length=3)
    #: Quantiles of the errors (what came minus the forecast) over the expected error, at the levels `LEVELS`.
    quantiles: list[float] = Field(min_length=99, max_length=99)
    rmse_m: float
    persistence_m: float
    num_cases: int


class Card(BaseModel):
    """What a wave model says about itself."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    step_s: int = Field(gt=0)
    #: Times that were learnt.
    first: str
    last: str
    leads: list[LeadCard]


@dataclass(frozen=True, slots=True)
class LeadModel:
    """The parts of one lead time. `climate` is the mean height in m, `damping` how fast heights go there."""

    climate: float
    damping: float
    mean_f: Floats
    scale_f: Floats
    ridge_p: Floats
    trees: Forest

    def parts(self, rows_nf: Floats) -> Floats:
        """The change of height in m by each part, (part, row)."""
        height = rows_nf[:, 0]
        return np.stack(
            [
                self.damping * (height - self.climate),
                _squares(rows_nf, self.mean_f, self.scale_f) @ self.ridge_p,
                self.trees.predict(rows_nf) * height,
            ]
        )

    def tensors(self, name: str) -> dict[str, Any]:
        """Everything as arrays by names that begin so."""
        own = {
            "damped": np.array([self.climate, self.damping]),
            "mean": self.mean_f,
            "scale": self.scale_f,
            "ridge": self.ridge_p,
        }
        return {**{f"{name}.{key}": value for key, value in own.items()}, **self.trees.tensors(f"{name}.trees")}

    @classmethod
    def of(cls, tensors: Mapping[str, Any], name: str) -> LeadModel:
        """The model of that name; raises InvalidData where an array is missing or has another shape."""
        wanted = {"damped": (2,), "mean": (NUM_FEATURES,), "scale": (NUM_FEATURES,), "ridge": (1 + 2 * NUM_FEATURES,)}
        own = {key: tensors.get(f"{name}.{key}") for key in wanted}
        for key, shape in wanted.items():
            found = own[key]
            if found is None or found.shape != shape:
                raise InvalidData(f"The model lacks {name}.{key}, or it is damaged.", hint="Train the model again.")
        climate, damping = (float(each) for each in tensors[f"{name}.damped"])
        trees = opened(tensors, f"{name}.trees", NUM_FEATURES)
        mean_f, scale_f, ridge_p = (tensors[f"{name}.{key}"].astype(np.float64) for key in ("mean", "scale", "ridge"))
        return cls(climate, damping, mean_f, scale_f, ridge_p, trees)


def fit(rows_nf: Floats, change_n: Floats, *, num_trees: int, seed: int) -> LeadModel:
    """Learn how heights change from rows whose height and change are known."""
    height = rows_nf[:, 0]
    climate = float(height.mean())
    apart = height - climate
    damping = float(apart @ change_n) / max(float(apart @ apart), 1e-9)
    known: NDArray[np.bool_] = np.isfinite(rows_nf)
    count = np.maximum(known.sum(axis=0), 1)
    mean_f = (np.where(known, rows_nf, 0).sum(axis=0) / count).astype(np.float64)
    scale_f = np.sqrt((np.where(known, rows_nf - mean_f, 0) ** 2).sum(axis=0) / count)
    scale_f = np.where(scale_f > 1e-9, scale_f, 1.0).astype(np.float64)
    terms = _squares(rows_nf, mean_f, scale_f)
    penalty = np.full(terms.shape[1], _RIDGE * len(terms))
    penalty[0] = 1e-9
    ridge_p = np.linalg.solve(terms.T @ terms + np.diag(penalty), terms.T @ change_n)
    # High seas change by more metres than low ones: trees learn the change as a part of the height.
    trees = grow(rows_nf, change_n / np.maximum(height, 0.1), num_trees=num_trees, smallest_leaf=100, seed=seed)
    return LeadModel(climate, damping, mean_f, scale_f, np.asarray(ridge_p, np.float64), trees)


def fit_expected(rows_nf: Floats, errors_n: Floats, *, num_trees: int, seed: int) -> Forest:
    """Learn the size of errors: the logarithm of their absolute value."""
    return grow(rows_nf, np.log(np.abs(errors_n) + _LEAST_M), num_trees=num_trees, smallest_leaf=200, leaves=8, seed=seed)


def expected(forest: Forest, rows_nf: Floats) -> Floats:
    """The expected error in m, up to a factor that the quantiles have."""
    return np.maximum(np.exp(forest.predict(rows_nf)), _LEAST_M)


def _squares(rows_nf: Floats, mean_f: Floats, scale_f: Floats) -> Floats:
    z = np.clip(np.where(np.isfinite(rows_nf), (rows_nf - mean_f) / scale_f, 0.0), -_LIMIT, _LIMIT)
    return np.column_stack([np.ones(len(z)), z, z**2])


class WaveModel:
    """A trained model of all its lead times; answers on numpy alone."""

    def __init__(self, card: Card, leads: Mapping[float, tuple[LeadModel, Forest]]) -> None:
        self.card = card
        self._leads = leads

    def forecast(self, rows_nf: Floats, lead: LeadCard) -> tuple[Floats, Floats]:
        """Heights in m and the errors in m to be expected of them, of rows whose height is known."""
        model, forest = self._leads[lead.lead_h]
        height = np.maximum(rows_nf[:, 0] + np.array(lead.weights) @ model.parts(rows_nf), 0.0)
        return height, expected(forest, rows_nf)

    @staticmethod
    def ends(height_n: Floats, size_n: Floats, lead: LeadCard, levels: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        """Both ends in m of the intervals whose tails are at these levels, one for each row."""
        low, high = (np.interp(each, LEVELS, lead.quantiles) for each in levels)
        return np.maximum(height_n + low * size_n, 0.0), np.maximum(height_n + high * size_n, 0.0)

    def damped(self, rows_nf: Floats, lead: LeadCard) -> Floats:
        """Damped persistence: the height, drawn to the mean as it was learnt."""
        found: Floats = rows_nf[:, 0] + self._leads[lead.lead_h][0].parts(rows_nf)[0]
        return found

    def save(self, folder: Path) -> None:
        """Write card and weights; the same model gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = lead_tensors(self._leads)
        save_file({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, folder / WEIGHTS_FILE)
        (folder / CARD_FILE).write_text(json.dumps(self.card.model_dump(mode="json"), indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> WaveModel:
        """Open what `save` wrote; raises InvalidData where it is none, or damaged."""
        try:
            card = Card.model_validate_json((folder / CARD_FILE).read_bytes())
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValidationError, SafetensorError) as error:
            raise InvalidData(
                f"This is no wave model: {str(error).splitlines()[0][:200]}.",
                hint="Train one: modelworks train wave-forecast --data DATASET.",
            ) from error
        if card.format != 1:
            raise InvalidData("The wave model was made by another release.", hint="Train it again.")
        return cls(card, {lead.lead_h: opened_lead(tensors, lead.lead_h) for lead in card.leads})


def lead_tensors(leads: Mapping[float, tuple[LeadModel, Forest]]) -> dict[str, Any]:
    """The arrays of these lead times."""
    found: dict[str, Any] = {}
    for lead_h, (model, forest) in leads.items():
        found |= {**model.tensors(f"{lead_h:g}"), **forest.tensors(f"{lead_h:g}.expected")}
    return found


def opened_lead(tensors: Mapping[str, Any], lead_h: float) -> tuple[LeadModel, Forest]:
    """The parts of a lead time, and its expected error; raises InvalidData."""
    return LeadModel.of(tensors, f"{lead_h:g}"), opened(tensors, f"{lead_h:g}.expected", NUM_FEATURES)
