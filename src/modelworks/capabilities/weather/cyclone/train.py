"""Train a track model: each lead time on seasons held in, weights and cone from those held out, then on all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from modelworks.capabilities.weather.blending import blend_weights
from modelworks.capabilities.weather.cyclone.adaptive import levels, quantiles
from modelworks.capabilities.weather.cyclone.features import COLUMN, NAMES, Starts, around, errors_km, extrapolated, starts
from modelworks.capabilities.weather.cyclone.formats import read_storms
from modelworks.capabilities.weather.cyclone.model import Card, LeadCard, LeadModel, TrackModel, fit
from modelworks.capabilities.weather.cyclone.schemas import CycloneTrainParams
from modelworks.capabilities.weather.cyclone.tracks import Floats, wrapped
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import Run

#: Fewer cases of a lead time teach nothing that would hold.
_FEWEST = 40


def train_tracks(run: Run, params: CycloneTrainParams) -> None:
    """Train on the best tracks of role "train" and save one model of all lead times.

    Each lead time is a step that a cancelled or broken run does not repeat.

    Raises:
        InvalidData: the tracks have a fault, or are too few. Cancelled: the user stopped the run.
    """
    storms = read_storms(run.dataset("train").path)
    found = starts(storms, params.leads_h, first=params.first, verified=params.verified)
    if not len(found):
        raise InvalidData("No storm has fixes over 24 hours at 00, 06, 12 and 18 UTC.", hint="Give whole best tracks.")
    centre = _centre(found)
    rows_nf = around(found.rows_nf, centre)
    kept = run.workdir / "kept"
    if run.resume_from is not None:
        shutil.copytree(run.resume_from, kept)
    kept.mkdir(exist_ok=True)
    cards, models = dict[int, LeadCard](), dict[int, LeadModel]()
    turns = params.folds + 1
    for place, lead_h in enumerate(params.leads_h):
        stored = kept / f"{lead_h}.json"
        if stored.exists():
            cards[lead_h] = LeadCard.model_validate_json(stored.read_bytes())
            models[lead_h] = LeadModel.of(load_file(kept / f"{lead_h}.safetensors"), lead_h)
            continue
        cards[lead_h], models[lead_h] = _lead(run, params, found, rows_nf, place)
        tensors = {name: np.ascontiguousarray(each) for name, each in models[lead_h].tensors(lead_h).items()}
        save_file(tensors, kept / f"{lead_h}.safetensors")
        stored.write_text(cards[lead_h].model_dump_json(), "utf-8")
        one = cards[lead_h]
        run.log(place + 1, lead_h=lead_h, error_km=one.error_km, persistence_km=one.persistence_km, cone_km=one.cone_km)
        run.progress((place + 1) * turns, len(params.leads_h) * turns, "fits")
        run.checkpoint(kept)
        run.raise_if_cancelled()
    latitude, longitude = rows_nf[:, COLUMN["latitude"]], rows_nf[:, COLUMN["longitude"]]
    south, north, west, east = (
        round(float(each), 2) for each in (latitude.min(), latitude.max(), longitude.min(), longitude.max())
    )
    card = Card(
        features=list(NAMES),
        centre=centre,
        box=(south, north, west, east),
        first=params.first,
        verified=params.verified,
        coverage=params.coverage,
        seasons=(int(found.seasons_n.min()), int(found.seasons_n.max())),
        num_storms=len(set(found.storms)),
        leads=[cards[lead_h] for lead_h in params.leads_h],
    )
    folder = run.workdir / "model"
    TrackModel(card, models).save(folder)
    _save(run, params, folder, card)


def _lead(run: Run, params: CycloneTrainParams, found: Starts, rows_nf: Floats, place: int) -> tuple[LeadCard, LeadModel]:
    lead_h = params.leads_h[place]
    target, wind = found.targets_nl2[:, place], found.winds_nl[:, place]
    change = wind - found.rows_nf[:, COLUMN["wind"]]
    known = np.isfinite(target[:, 0])
    with_wind = known & np.isfinite(change)
    if known.sum() < _FEWEST or len(np.unique(found.seasons_n[known])) < params.folds or with_wind.sum() < _FEWEST:
        raise InvalidData(
            f"Only {int(known.sum())} cases reach {lead_h} hours ({int(with_wind.sum())} with winds), "
            f"in {len(np.unique(found.seasons_n[known]))} seasons; {_FEWEST} and {params.folds} are needed.",
            hint="Give more seasons, or shorter leads_h.",
        )
    # Whole seasons are held out: cases of one storm are no strangers to each other.
    fold_n = _folds(found.seasons_n, known, params.folds)
    moves = np.full((4, len(found), 2), np.nan)
    changes = np.full((2, len(found)), np.nan)
    total = len(params.leads_h) * (params.folds + 1)
    for fold in range(params.folds):
        run.raise_if_cancelled()
        run.progress(place * (params.folds + 1) + fold, total, "fits")
        held_in, held_out = known & (fold_n != fold), known & (fold_n == fold)
        model = fit(
            rows_nf[held_in], target[held_in], change[held_in], lead_h, num_trees=params.trees, seed=_seed(run, place, fold)
        )
        moves[:, held_out], changes[:, held_out] = model.parts(rows_nf[held_out], lead_h)
    weights = blend_weights(moves[:, known].reshape(4, -1), target[known].reshape(-1))
    wind_weights = blend_weights(np.vstack([changes[:, with_wind], np.zeros(int(with_wind.sum()))]), change[with_wind])[:2]
    errors = errors_km(found, place, np.tensordot(weights, moves, axes=1))
    last = np.unique(found.seasons_n[known])[-params.cone_seasons :][0]
    recent, recent_wind = known & (found.seasons_n >= last), with_wind & (found.seasons_n >= last)
    spread = quantiles(errors[recent])
    newest = known & (found.seasons_n == found.seasons_n[known].max())
    _, level, _ = levels(errors[newest], found.hours_n[newest], lead_h, spread, params.coverage, params.coverage)
    missed = np.abs(wind_weights @ changes - change)
    run.raise_if_cancelled()
    model = fit(
        rows_nf[known], target[known], change[known], lead_h, num_trees=params.trees, seed=_seed(run, place, params.folds)
    )
    card = LeadCard(
        lead_h=lead_h,
        weights=[float(each) for each in weights],
        wind_weights=[float(each) for each in wind_weights],
        cone_km=float(np.quantile(errors[recent], params.coverage)),
        wind_kt=float(np.quantile(missed[recent_wind if recent_wind.any() else with_wind], params.coverage)),
        error_km=float(errors[known].mean()),
        persistence_km=float(errors_km(found, place, extrapolated(found.rows_nf, lead_h))[known].mean()),
        num_cases=int(known.sum()),
        num_wind_cases=int(with_wind.sum()),
        quantiles_km=spread,
        cone_level=level,
    )
    return card, model


def _folds(seasons_n: Floats, known: Floats, count: int) -> Floats:
    """The fold of each row: seasons that have cases are dealt out in turn."""
    order = {season: index % count for index, season in enumerate(np.unique(seasons_n[known]))}
    return np.array([order.get(season, 0) for season in seasons_n])


def _seed(run: Run, place: int, fold: int) -> int:
    return (run.seed + 1000 * place + 10 * fold) % (1 << 31)


def _centre(found: Starts) -> float:
    """The mean longitude of the starts, as of points on a circle."""
    angle = np.radians(found.rows_nf[:, COLUMN["longitude"]])
    return round(float(wrapped(np.degrees(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())))), 2)


def _save(run: Run, params: CycloneTrainParams, folder: Path, card: Card) -> None:
    metrics = {f"validation_error_{lead.lead_h}h_km": lead.error_km for lead in card.leads}
    run.save(
        folder,
        kind="model",
        metadata={
            "task": "cyclone-track",
            "level": params.level or "L1",
            "name": params.name,
            "licence": run.dataset("train").licence,
            "metrics": metrics,
            "architecture": "cyclone-track",
            "seasons": list(card.seasons),
            "num_storms": card.num_storms,
            "coverage": card.coverage,
        },
    )
