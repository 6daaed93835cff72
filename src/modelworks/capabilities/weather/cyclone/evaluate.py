"""Measure a track model on best tracks that it did not learn: great-circle errors beside persistence, cone and wind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from modelworks.capabilities.weather.cyclone.features import COLUMN, Starts, errors_km, extrapolated, starts
from modelworks.capabilities.weather.cyclone.formats import read_storms
from modelworks.capabilities.weather.cyclone.model import LeadCard, TrackModel
from modelworks.capabilities.weather.cyclone.schemas import CycloneEvaluateParams
from modelworks.capabilities.weather.cyclone.tracks import Floats
from modelworks.contract.errors import InvalidData
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.run import Run

REPORT_FILE: Final = "cyclone_tracks.json"
METRICS: Final = ("track_error_km", "persistence_error_km", "cone_coverage")
OPTIONAL: Final = (
    "wind_error_kt",
    "wind_persistence_kt",
    "fixed_cone_coverage",
    "cone_km",
    *(f"{name}_{hours}h_km" for hours in (24, 48, 72) for name in ("track_error", "persistence_error")),
)


def evaluate_tracks(run: Run, params: CycloneEvaluateParams) -> Mapping[str, float]:
    """Measure the model of role "model" on the best tracks of role "test", by the rules that the model was made by.

    Every start has fixes over the 24 hours before it; all forecasts and persistence (the motion of the last twelve hours, gone
    on with) are held against the same cases.

    Returns:
        The means over cases and lead times. The report `cyclone_tracks.json` has each lead time by itself: cases, both errors
        with 95 % intervals over storms, the gain, the coverage of the cone (as it would have been given then, following the
        outcomes before each start), of the fixed one, and of the wind's interval.

    Raises:
        InvalidData: the model or the tracks have a fault, or no case is left.
    """
    model = TrackModel.load(run.model("model").path)
    card = model.card
    storms = [
        storm
        for storm in read_storms(run.dataset("test").path)
        if (params.first_season or 0) <= storm.season <= (params.last_season or 9999)
    ]
    cases = starts(storms, [lead.lead_h for lead in card.leads], first=card.first, verified=card.verified)
    if not np.isfinite(cases.targets_nl2).any():
        raise InvalidData(
            "No track of the data set can be verified: none has 24 hours of fixes before a start and one at a lead time after.",
            hint="Give whole best tracks of other seasons than the model learnt.",
        )
    tables = []
    for place, lead in enumerate(card.leads):
        run.raise_if_cancelled()
        tables.append(_measured(model, cases, place, lead))
        run.progress(place + 1, len(card.leads), "lead times")
    _save_samples(run, cases, card.leads, tables)
    report = {
        "object": "cyclone_track_report",
        "first": card.first,
        "verified": card.verified,
        "persistence": "motion of the last 12 hours",
        "seasons": [int(cases.seasons_n.min()), int(cases.seasons_n.max())],
        "learnt_seasons": list(card.seasons),
        "num_storms": len(set(cases.storms)),
        "leads": [
            _line(cases, lead, table, params.bootstrap_samples, run.seed)
            for lead, table in zip(card.leads, tables, strict=True)
        ],
    }
    file = run.workdir / REPORT_FILE
    file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    run.save(file, kind="report")
    return _means(card.leads, tables)


def _measured(model: TrackModel, cases: Starts, place: int, lead: LeadCard) -> dict[str, Floats]:
    """What each case gives at one lead time, NaN where it does not count."""
    moves, wind = model.forecast(cases.rows_nf, lead)
    error = errors_km(cases, place, moves)
    known = np.isfinite(error)
    cone = model.followed(cases, place, moves)
    now, later = cases.rows_nf[:, COLUMN["wind"]], cases.winds_nl[:, place]
    return {
        "track_error_km": error,
        "persistence_error_km": errors_km(cases, place, extrapolated(cases.rows_nf, lead.lead_h)),
        "cone_coverage": np.where(known, error <= cone, np.nan),
        "fixed_cone_coverage": np.where(known, error <= lead.cone_km, np.nan),
        "cone_km": np.where(known, cone, np.nan),
        "wind_error_kt": np.abs(wind - later),
        "wind_persistence_kt": np.abs(now - later),
    }


def _means(leads: Sequence[LeadCard], tables: Sequence[Mapping[str, Floats]]) -> dict[str, float]:
    found = {}
    for name in tables[0]:
        values = np.concatenate([table[name] for table in tables])
        if np.isfinite(values).any():
            found[name] = float(np.nanmean(values))
    for lead, table in zip(leads, tables, strict=True):
        for name in ("track_error", "persistence_error"):
            if (key := f"{name}_{lead.lead_h}h_km") in OPTIONAL and np.isfinite(table[f"{name}_km"]).any():
                found[key] = float(np.nanmean(table[f"{name}_km"]))
    return found


def _save_samples(run: Run, cases: Starts, leads: Sequence[LeadCard], tables: Sequence[Mapping[str, Floats]]) -> None:
    lines = []
    for index, (fix, storm) in enumerate(zip(cases.fixes, cases.storms, strict=True)):
        values: dict[str, tuple[float, float]] = {}
        for name in tables[0]:
            found = np.array([table[name][index] for table in tables])
            found = found[np.isfinite(found)]
            if len(found):
                values[name] = (float(found.mean()), float(len(found)))
        for lead, table in zip(leads, tables, strict=True):
            for name in ("track_error", "persistence_error"):
                value = float(table[f"{name}_km"][index])
                if (key := f"{name}_{lead.lead_h}h_km") in OPTIONAL and np.isfinite(value):
                    values[key] = (value, 1.0)
        if values:
            lines.append(SampleResult(sample=f"{storm}:{fix.time:%Y%m%d%H}", values=values).model_dump_json() + "\n")
    file = run.workdir / SAMPLES_FILE
    file.write_text("".join(lines), "utf-8")
    run.save(file, kind="report")


def _line(cases: Starts, lead: LeadCard, table: Mapping[str, Floats], resamples: int, seed: int) -> dict[str, Any]:
    """One lead time of the report; intervals by drawing storms, since cases of one storm are alike."""
    counts = np.isfinite(table["track_error_km"])
    error, persistence = (table[name][counts] for name in ("track_error_km", "persistence_error_km"))
    if not len(error):
        return {"lead_h": lead.lead_h, "num_cases": 0}
    _, storm_n = np.unique(np.array(cases.storms)[counts], return_inverse=True)
    sums = np.stack([np.bincount(storm_n, each) for each in (error, persistence, np.ones(len(error)))])
    chance = np.random.default_rng(seed % (1 << 63))
    drawn = np.stack([sums[:, chance.integers(0, sums.shape[1], sums.shape[1])].sum(axis=1) for _ in range(resamples)], axis=1)

    def interval(values: Floats) -> list[float]:
        return [round(float(each), 4) for each in np.percentile(values, (2.5, 97.5))]

    wind, still = (table[name][np.isfinite(table["wind_error_kt"])] for name in ("wind_error_kt", "wind_persistence_kt"))
    return {
        "lead_h": lead.lead_h,
        "num_cases": len(error),
        "num_storms": int(sums.shape[1]),
        "error_km": float(error.mean()),
        "error_interval_km": interval(drawn[0] / drawn[2]),
        "persistence_km": float(persistence.mean()),
        "gain": float(1 - error.mean() / persistence.mean()),
        "gain_interval": interval(1 - drawn[0] / drawn[1]),
        # The mean radius as given then; the fixed one is that of a forecast without outcomes.
        "cone_km": float(table["cone_km"][counts].mean()),
        "cone_coverage": float(table["cone_coverage"][counts].mean()),
        "fixed_cone_km": lead.cone_km,
        "fixed_cone_coverage": float(table["fixed_cone_coverage"][counts].mean()),
        "num_wind_cases": len(wind),
        "wind_error_kt": float(wind.mean()) if len(wind) else None,
        "wind_persistence_kt": float(still.mean()) if len(still) else None,
        "wind_coverage": float((wind <= lead.wind_kt).mean()) if len(wind) else None,
    }
