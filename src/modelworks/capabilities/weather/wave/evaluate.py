"""Measure a wave model on records that it did not learn: beside persistence and damped persistence, with its intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from modelworks.capabilities.weather.wave.adaptive import levels
from modelworks.capabilities.weather.wave.features import after, rows
from modelworks.capabilities.weather.wave.hindcast import series_of
from modelworks.capabilities.weather.wave.model import LeadCard, WaveModel
from modelworks.capabilities.weather.wave.records import Floats, Series, gridded
from modelworks.capabilities.weather.wave.schemas import WaveEvaluateParams
from modelworks.contract.errors import InvalidData
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.run import Run

REPORT_FILE: Final = "waves.json"


def evaluate_waves(run: Run, params: WaveEvaluateParams) -> Mapping[str, float]:
    """Measure the model of role "model" on the records of role "test".

    Returns:
        Means over cases and lead times: absolute error of the forecast, of persistence (the height stays) and of damped
        persistence in m, and how often the interval held, which at each time follows what had come until then. The report
        `waves.json` has RMSE, bias and all of these for each lead time, with 95 % intervals by drawing days, and what the
        interval would have held had it stayed as it was learnt (`fixed_coverage`, `fixed_width_m`).

    Raises:
        InvalidData: the model or the records have a fault, or nothing can be verified.
    """
    model = WaveModel.load(run.model("model").path)
    found = series_of(run.dataset("test").path, params.place)
    series = on_step(found, model.card.step_s)
    rows_nf = rows(series)
    lines, samples = [], dict[int, dict[str, list[float]]]()
    for place, lead in enumerate(model.card.leads):
        run.raise_if_cancelled()
        line = _measured(model, lead, series, rows_nf, params, run.seed, samples)
        if line is not None:
            lines.append(line)
        run.progress(place + 1, len(model.card.leads), "lead times")
    if not lines:
        raise InvalidData("No record can be verified: none has a height at a lead time after it.", hint="Give more records.")
    texts, totals = [], dict[str, list[float]]()
    for at, values in sorted(samples.items()):
        time = datetime.fromtimestamp(float(series.seconds()[at]), UTC)
        told = {name: (float(np.mean(each)), float(len(each))) for name, each in values.items()}
        texts.append(SampleResult(sample=f"{time:%Y-%m-%dT%H:%M:%SZ}", values=told).model_dump_json() + "\n")
        for name, each in values.items():
            totals.setdefault(name, []).extend(each)
    file = run.workdir / SAMPLES_FILE
    file.write_text("".join(texts), "utf-8")
    run.save(file, kind="report")
    report = {
        "object": "wave_report",
        "coverage": params.coverage,
        "learnt": [model.card.first, model.card.last],
        "leads": lines,
    }
    file = run.workdir / REPORT_FILE
    file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    run.save(file, kind="report")
    return {name: float(np.mean(each)) for name, each in totals.items()}


def on_step(series: Series, step_s: int) -> Series:
    """The series on the step that a model was trained with."""
    if series.step_s == step_s:
        return series
    times = [datetime.fromtimestamp(float(each), UTC) for each in series.seconds()]
    known = np.flatnonzero(np.isfinite(series.values_nc).any(axis=1))
    return gridded([times[index] for index in known], series.values_nc[known], step_s)


def _measured(
    model: WaveModel,
    lead: LeadCard,
    series: Series,
    rows_nf: Floats,
    params: WaveEvaluateParams,
    seed: int,
    samples: dict[int, dict[str, list[float]]],
) -> dict[str, Any] | None:
    delay = max(1, round(lead.lead_h * 3600 / series.step_s))
    later = after(series.hs, delay)
    cases = np.flatnonzero(np.isfinite(later) & np.isfinite(series.hs))
    if not len(cases):
        return None
    x, true = rows_nf[cases], later[cases]
    height, size = model.forecast(x, lead)
    scores_n = np.full(len(series), np.nan)
    scores_n[cases] = (true - height) / size
    followed = tuple(each[cases] for each in levels(scores_n, lead.quantiles, delay, series.step_s, params.coverage))
    low, high = model.ends(height, size, lead, (followed[0], followed[1]))
    tail = np.full(len(cases), (1 - params.coverage) / 2)
    fixed_low, fixed_high = model.ends(height, size, lead, (tail, 1 - tail))
    errors = {"wave": height - true, "persistence": x[:, 0] - true, "damped": model.damped(x, lead) - true}
    held = ((low <= true) & (true <= high)).astype(np.float64)
    for index, at in enumerate(cases):
        values = samples.setdefault(int(at), {})
        for name, each in errors.items():
            values.setdefault(f"{name}_error_m", []).append(abs(float(each[index])))
        values.setdefault("interval_coverage", []).append(float(held[index]))
    # Records of one day are alike: days are drawn, not records.
    _, day_n = np.unique(series.seconds()[cases] // 86_400, return_inverse=True)
    sums = np.stack([np.bincount(day_n, each) for each in (*(error**2 for error in errors.values()), held, np.ones(len(held)))])
    chance = np.random.default_rng(seed % (1 << 63))
    drawn = np.stack(
        [sums[:, chance.integers(0, sums.shape[1], sums.shape[1])].sum(axis=1) for _ in range(params.bootstrap_samples)], axis=1
    )

    def interval(values: Floats) -> list[float]:
        return [round(float(each), 4) for each in np.percentile(values, (2.5, 97.5))]

    rmse = {name: float(np.sqrt((each**2).mean())) for name, each in errors.items()}
    return {
        "lead_h": lead.lead_h,
        "num_cases": len(cases),
        "rmse_m": rmse["wave"],
        "rmse_interval_m": interval(np.sqrt(drawn[0] / drawn[4])),
        "persistence_m": rmse["persistence"],
        "damped_m": rmse["damped"],
        "gain": 1 - rmse["wave"] / rmse["persistence"],
        "gain_interval": interval(1 - np.sqrt(drawn[0] / drawn[1])),
        "bias_m": float(errors["wave"].mean()),
        "coverage": float(held.mean()),
        "coverage_interval": interval(drawn[3] / drawn[4]),
        "mean_width_m": float((high - low).mean()),
        "fixed_coverage": float(((fixed_low <= true) & (true <= fixed_high)).mean()),
        "fixed_width_m": float((fixed_high - fixed_low).mean()),
    }
