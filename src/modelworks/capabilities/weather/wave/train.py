"""Train a wave model: each lead time on days held in, weights and intervals from those held out, then on all of them."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
from safetensors.numpy import load_file, save_file

from modelworks.capabilities.weather.blending import blend_weights
from modelworks.capabilities.weather.trees import Forest
from modelworks.capabilities.weather.wave.features import after, rows
from modelworks.capabilities.weather.wave.hindcast import series_of
from modelworks.capabilities.weather.wave.model import (
    LEVELS,
    Card,
    LeadCard,
    LeadModel,
    WaveModel,
    expected,
    fit,
    fit_expected,
    lead_tensors,
    opened_lead,
)
from modelworks.capabilities.weather.wave.records import Floats, Series
from modelworks.capabilities.weather.wave.schemas import WaveTrainParams
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import Run

#: Fewer cases of a lead time teach nothing that would hold.
_FEWEST = 500


def train_waves(run: Run, params: WaveTrainParams) -> None:
    """Train on the records of role "train" and save one model of all lead times.

    Each lead time is a step that a cancelled or broken run does not repeat.

    Raises:
        InvalidData: the records have a fault, or are too few. Cancelled: the user stopped the run.
    """
    series = series_of(run.dataset("train").path, params.place)
    rows_nf = rows(series)
    kept = run.workdir / "kept"
    if run.resume_from is not None:
        shutil.copytree(run.resume_from, kept)
    kept.mkdir(exist_ok=True)
    cards, models = list[LeadCard](), dict[float, tuple[LeadModel, Forest]]()
    for place, lead_h in enumerate(params.leads_h):
        stored = kept / f"{lead_h:g}.json"
        if stored.exists():
            cards.append(LeadCard.model_validate_json(stored.read_bytes()))
            models[lead_h] = opened_lead(load_file(kept / f"{lead_h:g}.safetensors"), lead_h)
            continue
        one, models[lead_h] = _lead(run, params, series, rows_nf, place)
        cards.append(one)
        tensors = lead_tensors({lead_h: models[lead_h]})
        save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, kept / f"{lead_h:g}.safetensors")
        stored.write_text(one.model_dump_json(), "utf-8")
        run.log(place + 1, lead_h=lead_h, rmse_m=one.rmse_m, persistence_m=one.persistence_m)
        run.progress((place + 1) * (params.folds + 1), len(params.leads_h) * (params.folds + 1), "fits")
        run.checkpoint(kept)
        run.raise_if_cancelled()
    ends = [datetime.fromtimestamp(float(each), UTC).isoformat() for each in series.seconds()[[0, -1]]]
    card = Card(step_s=series.step_s, first=ends[0], last=ends[1], leads=cards)
    folder = run.workdir / "model"
    WaveModel(card, models).save(folder)
    run.save(
        folder,
        kind="model",
        metadata={
            "task": "wave-forecast",
            "level": params.level or "L1",
            "name": params.name,
            "licence": run.dataset("train").licence,
            "metrics": {f"validation_rmse_{lead.lead_h:g}h_m": lead.rmse_m for lead in cards},
            "architecture": "wave-forecast",
            "records": [card.first, card.last],
        },
    )


def _lead(
    run: Run, params: WaveTrainParams, series: Series, rows_nf: Floats, place: int
) -> tuple[LeadCard, tuple[LeadModel, Forest]]:
    lead_h = params.leads_h[place]
    change = after(series.hs, max(1, round(lead_h * 3600 / series.step_s))) - series.hs
    known = np.flatnonzero(np.isfinite(change))
    # Neighbouring records are no strangers to each other, so whole blocks of days are held out.
    block_n = ((series.seconds()[known] - series.start.timestamp()) // (params.block_days * 86_400)).astype(int)
    fold_n = block_n % params.folds
    if len(known) < _FEWEST or len(np.unique(fold_n)) < params.folds:
        raise InvalidData(
            f"Only {len(known)} records have a height and one {lead_h:g} hours later, in {len(np.unique(block_n))} blocks of "
            f"{params.block_days:g} days; {_FEWEST} in {params.folds} are needed.",
            hint="Give more records, or shorter leads_h or block_days.",
        )
    x, y = rows_nf[known], change[known]
    moves = np.empty((3, len(y)))
    total = len(params.leads_h) * (params.folds + 1)
    seed = (run.seed + 1000 * place) % (1 << 31)
    for fold in range(params.folds):
        run.raise_if_cancelled()
        run.progress(place * (params.folds + 1) + fold, total, "fits")
        out = fold_n == fold
        moves[:, out] = fit(x[~out], y[~out], num_trees=params.trees, seed=seed + fold).parts(x[out])
    # What is left of weight 1 is persistence: no change.
    weights = blend_weights(np.vstack([moves, np.zeros(len(y))]), y)[:3]
    errors = y - weights @ moves
    # The expected error is judged on errors that it did not learn either.
    size_trees = max(5, params.trees // 4)
    size = np.empty(len(y))
    for fold in range(params.folds):
        out = fold_n == fold
        size[out] = expected(fit_expected(x[~out], errors[~out], num_trees=size_trees, seed=seed + fold), x[out])
    run.raise_if_cancelled()
    model = fit(x, y, num_trees=params.trees, seed=seed + params.folds)
    forest = fit_expected(x, errors, num_trees=size_trees, seed=seed + params.folds)
    card = LeadCard(
        lead_h=lead_h,
        weights=[float(each) for each in weights],
        quantiles=[float(each) for each in np.quantile(errors / size, LEVELS)],
        rmse_m=float(np.sqrt((errors**2).mean())),
        persistence_m=float(np.sqrt((y**2).mean())),
        num_cases=len(y),
    )
    return card, (model, forest)
