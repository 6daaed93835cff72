"""Train a downscaling model: neighbourhood and penalty chosen on blocks of days held out, then learnt from all of them."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.downscaling.model import (
    MAX_WEIGHTS,
    PENALTIES,
    SEASONS_DAYS,
    Card,
    Downscaler,
    Frame,
    Lesson,
    carried,
    frame_of,
)
from modelworks.capabilities.weather.downscaling.pairs import Pairs, read_pairs
from modelworks.capabilities.weather.downscaling.schemas import DownscaleTrainParams
from modelworks.capabilities.weather.grid.grids import Times, shown
from modelworks.capabilities.weather.model.climate import Climate
from modelworks.contract.errors import InvalidData, PayloadTooLarge
from modelworks.contract.run import Run

#: Fewer states teach nothing that would hold.
_FEWEST: Final = 40
_STATE: Final = "scores.json"


def train_downscaling(run: Run, params: DownscaleTrainParams) -> None:
    """Train on the fine grids of role "train" with the coarse ones of role "coarse", or with means of the fine ones.

    Each neighbourhood that is tried is a step that a cancelled or broken run does not repeat.

    Raises:
        InvalidRequest: neither, or both, of coarse data and a factor are given.
        InvalidData: the grids cannot be read, do not lie over each other, or are too few.
        PayloadTooLarge: the weights would be too many. Cancelled: the user has asked to stop.
    """
    pairs = read_pairs(
        run,
        "train",
        channels=params.channels,
        predictors=params.predictors,
        coarsen=params.coarsen,
        max_missing=params.max_missing,
    )
    fold_t = _folds(pairs.fine.times_t, params)
    card = _card(pairs, params)
    frame = frame_of(card)
    # Means over the year and spreads are of all states, as a choice between neighbourhoods is not one between climates.
    coarse = Climate.fitted(pairs.coarse.values_tchw, pairs.coarse.times_t)
    fine = Climate.fitted(pairs.fine.values_tchw, pairs.fine.times_t)
    times_t = pairs.fine.times_t
    left = pairs.coarse.values_tchw - coarse.mean(times_t)
    lesson = Lesson(
        frame,
        times_t,
        left / coarse.scale_c[:, None, None],
        fine.anomaly(pairs.fine.values_tchw, times_t) - carried(frame, left, fine.scale_c),
    )
    candidates = _candidates(frame, times_t, params)
    scores = _scores(run, lesson, candidates, fold_t)
    best = min(range(len(candidates)), key=lambda place: float(scores[place].min(axis=0).mean()))
    window, seasonal = candidates[best]
    penalty_c = [PENALTIES[int(each)] for each in scores[best].argmin(axis=0)]
    weights = lesson.fitted(window, penalty_c, seasonal=seasonal)
    card = card.model_copy(update={"window": window, "seasonal": seasonal})
    folder = run.workdir / "model"
    Downscaler(card, frame, coarse, fine, weights).save(folder)
    run.progress(len(candidates) + 1, len(candidates) + 1, "fits")
    rmse = np.sqrt(scores[best].min(axis=0)) * fine.scale_c
    metadata: dict[str, Any] = {
        "task": "weather-downscaling",
        "level": params.level,
        "licence": run.dataset("train").licence,
        "metrics": {f"validation_rmse_{name}": float(each) for name, each in zip(card.channels, rmse, strict=True)},
        "architecture": "weather-downscaling",
        "window": window,
        "seasonal": seasonal,
        "penalties": penalty_c,
        "notes": list(pairs.notes),
    }
    run.save(folder, kind="model", metadata=metadata)


def _folds(times_t: Times, params: DownscaleTrainParams) -> NDArray[np.intp]:
    """The fold of each state: blocks of days are dealt out in turn, since neighbouring days are no strangers."""
    block_t = ((times_t - times_t[0]).astype("timedelta64[s]").astype(np.int64) // round(params.block_days * 86_400)).astype(
        int
    )
    fold_t = block_t % params.folds
    if len(times_t) < _FEWEST or len(np.unique(fold_t)) < params.folds:
        raise InvalidData(
            f"There are {len(times_t)} pairs of states in {len(np.unique(block_t))} blocks of {params.block_days:g} days; "
            f"it takes {_FEWEST} in {params.folds}.",
            hint="Give more states, or shorter block_days.",
            code="too_few_times",
            param="time",
        )
    return np.asarray(fold_t)


def _card(pairs: Pairs, params: DownscaleTrainParams) -> Card:
    fine, coarse = pairs.fine, pairs.coarse
    card = Card(
        channels=list(fine.channels),
        predictors=list(coarse.channels),
        latitude=fine.latitude_h.tolist(),
        longitude=fine.longitude_w.tolist(),
        coarse_latitude=coarse.latitude_h.tolist(),
        coarse_longitude=coarse.longitude_w.tolist(),
        # The usual distance: pairs need not lie without a gap.
        step_hours=_usual_hours(fine.times_t),
        kinds=dict(fine.kinds),
        coarse_kinds=dict(coarse.kinds),
        coarsen=params.coarsen,
        window=1,
        seasonal=False,
        first=shown(fine.times_t[0]),
        last=shown(fine.times_t[-1]),
        num_states=len(fine.times_t),
    )
    frame = frame_of(card)
    # Refuses a coarse grid that does not cover the fine one, before anything is computed.
    frame.matrices()
    count = frame.num_features(max(params.candidates), seasonal=True)
    total = count * len(card.latitude) * len(card.longitude) * len(card.channels)
    if total > MAX_WEIGHTS:
        raise PayloadTooLarge(
            f"The regression would have {total} weights, {count} for each of {len(card.latitude)} x {len(card.longitude)} "
            f"points and {len(card.channels)} channels; {MAX_WEIGHTS} are the most.",
            hint="Give a smaller region, fewer predictors, or smaller windows.",
            param="windows",
        )
    return card


def _usual_hours(times_t: Times) -> float:
    gaps = np.diff(times_t).astype("timedelta64[s]").astype(np.int64)
    lengths, counts = np.unique(gaps, return_counts=True)
    return float(lengths[counts.argmax()]) / 3600


def _candidates(frame: Frame, times_t: Times, params: DownscaleTrainParams) -> list[tuple[int, bool]]:
    """Neighbourhoods, each also with the seasons where these are known; those that are one on this grid once."""
    days = (times_t[-1] - times_t[0]).astype("timedelta64[D]").astype(int)
    sizes = {frame.corners(window)[2:]: window for window in sorted(params.candidates, reverse=True)}
    seasons = (False, True) if days >= SEASONS_DAYS and params.preset != "tiny" else (False,)
    return [(window, seasonal) for window in sorted(sizes.values()) for seasonal in seasons]


def _scores(
    run: Run, lesson: Lesson, candidates: list[tuple[int, bool]], fold_t: NDArray[np.intp]
) -> list[NDArray[np.float64]]:
    """Of each candidate, (penalty, channel); what a broken run knew is taken over."""
    found: list[NDArray[np.float64]] = []
    if run.resume_from is not None:
        found = [np.asarray(each) for each in json.loads((run.resume_from / _STATE).read_text("utf-8"))]
    folder = run.workdir / "checkpoint"
    folder.mkdir(exist_ok=True)
    for done in range(len(found), len(candidates)):
        window, seasonal = candidates[done]
        found.append(lesson.scored(window, fold_t, seasonal=seasonal))
        run.log(done + 1, window=window, seasonal=float(seasonal), validation_loss=float(found[-1].min(axis=0).mean()))
        run.progress(done + 1, len(candidates) + 1, "fits")
        (folder / _STATE).write_text(json.dumps([each.tolist() for each in found]), "utf-8")
        run.checkpoint(folder)
        run.raise_if_cancelled()
    return found
