"""Measure a model on grids that it has not seen, beside baselines, with intervals; a report for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import Floats, Grids, shown
from modelworks.capabilities.weather.grid.handshake import agreed
from modelworks.capabilities.weather.grid.reading import filled, read
from modelworks.capabilities.weather.model.forecaster import Forecaster, roll
from modelworks.capabilities.weather.schemas import EvaluateParams
from modelworks.capabilities.weather.verification.baselines import METHODS, forecasts
from modelworks.capabilities.weather.verification.intervals import drawn, interval, mean, relative, root_mean
from modelworks.capabilities.weather.verification.scores import (
    Scores,
    anomaly_correlation,
    crps,
    errors,
    spread_and_skill,
    spread_skill_ratio,
    zonal_power,
)
from modelworks.contract.errors import InvalidData
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.run import Run

#: What the report is saved as.
REPORT: Final = "verification.json"
_LEADS: Final = (1, 2, 3)


@dataclass(slots=True)
class Measured:
    """Scores of every start. Legend: N starts, L leads, C channels; by method where not said otherwise."""

    scores_nlc: dict[str, dict[str, Scores]] = field(default_factory=dict)
    #: Squares in spreads of the climate, mean over channels, (N, L).
    nmse_nl: dict[str, Scores] = field(default_factory=dict)
    #: Zonal power by lead and channel, (L, C, wavenumber); of the truth as "truth".
    power_lck: dict[str, Scores] = field(default_factory=dict)
    #: Of ensembles, (N, L, C).
    crps_nlc: Scores | None = None
    variance_nlc: Scores | None = None
    ensemble_mse_nlc: Scores | None = None


def evaluate(run: Run, params: EvaluateParams) -> Mapping[str, float]:
    """Forecast from every start of role "test" with the model of role "model" and every baseline; metrics are the model's.

    Raises:
        InvalidData: the grids are not those of the model, or too few.
        Cancelled: the user has asked to stop.
    """
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    forecaster = Forecaster.load(run.model("model").path)
    shape = forecaster.shape
    grids = filled(read(run.dataset("test").path, channels=shape.channels), 0.05)
    grids = agreed(grids, shape.channels, shape.latitude_h, shape.longitude_w, shape.step_hours, shape.kinds)
    starts = _starts(grids, forecaster, params)
    measured = measure(forecaster, grids, starts, params.steps, run)
    if params.members > 1:
        measure_ensemble(forecaster, grids, starts, params.steps, params.members, measured, run)
    report = told(forecaster, grids, starts, measured, params, run.seed)
    _save(run, report, REPORT)
    _save_samples(run, grids, starts, measured)
    return _metrics(measured, params)


def _starts(grids: Grids, forecaster: Forecaster, params: EvaluateParams) -> NDArray[np.intp]:
    starts = np.arange(forecaster.history - 1, len(grids.times_t) - params.steps, params.every)
    if params.starts_from is not None:
        starts = starts[grids.times_t[starts] >= np.datetime64(params.starts_from.replace(tzinfo=None), "s")]
    if len(starts) < 2:
        raise InvalidData(
            f"The data of role test have {len(grids.times_t)} states: too few for forecasts of {params.steps} steps from a "
            f"history of {forecaster.history}.",
            hint="Give more states, or measure fewer steps.",
            code="too_few_times",
            param="time",
        )
    return starts


def measure(forecaster: Forecaster, grids: Grids, starts: NDArray[np.intp], steps: int, run: Run | None = None) -> Measured:
    """Scores of the model and of every baseline."""
    anomaly = forecaster.climate.anomaly(grids.values_tchw, grids.times_t)
    climate, scale = forecaster.climate, forecaster.climate.scale_c
    size = (len(starts), steps, len(grids.channels))
    measured = Measured()
    latitude, is_global = grids.latitude_h, grids.is_global
    for done, (method, lead, found) in enumerate(
        forecasts(forecaster, anomaly, grids.values_tchw, grids.times_t, starts, steps), start=1
    ):
        if run is not None:
            run.raise_if_cancelled()
            run.progress(done, steps * len(METHODS), "leads")
        truth = grids.values_tchw[starts + 1 + lead]
        own = measured.scores_nlc.setdefault(method, {name: np.empty(size) for name in ("mse", "mae", "bias", "acc")})
        for name, values in errors(found, truth, latitude).items():
            own[name][:, lead] = values
        own["acc"][:, lead] = anomaly_correlation(found, truth, climate.mean(grids.times_t[starts + 1 + lead]), latitude)
        measured.nmse_nl.setdefault(method, np.empty(size[:2]))[:, lead] = (own["mse"][:, lead] / np.square(scale)).mean(axis=1)
        for name, fields in ((method, found), ("truth", truth)):
            power = zonal_power(fields, latitude, is_global=is_global).mean(axis=0)
            measured.power_lck.setdefault(name, np.zeros((steps, *power.shape)))[lead] = power
    return measured


def measure_ensemble(
    forecaster: Forecaster,
    grids: Grids,
    starts: NDArray[np.intp],
    steps: int,
    members: int,
    measured: Measured,
    run: Run | None = None,
) -> None:
    """CRPS, spread and the error of the mean of ensembles, added to what was measured."""
    size = (len(starts), steps, len(grids.channels))
    measured.crps_nlc, measured.variance_nlc, measured.ensemble_mse_nlc = np.empty(size), np.empty(size), np.empty(size)
    history = forecaster.history
    for index, at in enumerate(starts):
        if run is not None:
            run.raise_if_cancelled()
        states = grids.values_tchw[at - history + 1 : at + 1]
        rolled = [
            list(roll(forecaster, states, grids.times_t[at], steps, np.random.default_rng((int(at), member))))
            for member in range(members)
        ]
        for lead in range(steps):
            ensemble: Floats = np.stack([each[lead] for each in rolled])
            truth = grids.values_tchw[at + 1 + lead]
            measured.crps_nlc[index, lead] = crps(ensemble, truth, grids.latitude_h)
            found = spread_and_skill(ensemble, truth, grids.latitude_h)
            measured.variance_nlc[index, lead], measured.ensemble_mse_nlc[index, lead] = found


def told(
    forecaster: Forecaster, grids: Grids, starts: NDArray[np.intp], measured: Measured, params: EvaluateParams, seed: int
) -> dict[str, Any]:
    """The report: by channel, lead and method every score with its interval, and the gain on each baseline."""
    draws = drawn(len(starts), params.block_starts, params.bootstrap_samples, seed)
    rows: list[dict[str, Any]] = []
    for place, channel in enumerate(grids.channels):
        for lead in range(params.steps):
            ours = measured.scores_nlc["model"]["mse"][:, lead, place]
            for method in METHODS:
                own = {name: values[:, lead, place] for name, values in measured.scores_nlc[method].items()}
                row: dict[str, Any] = {
                    "channel": channel,
                    "lead": lead + 1,
                    "hours": (lead + 1) * forecaster.step_hours,
                    "method": method,
                    "rmse": float(np.sqrt(own["mse"].mean())),
                    "rmse_interval": interval(root_mean(own["mse"]), draws, params.confidence),
                    "mae": float(own["mae"].mean()),
                    "bias": float(own["bias"].mean()),
                    "acc": None if np.isnan(own["acc"]).any() else float(own["acc"].mean()),
                    "power_ratio": _power_ratio(measured, method, lead, place),
                }
                if row["acc"] is not None:
                    row["acc_interval"] = interval(mean(own["acc"]), draws, params.confidence)
                if method != "model":
                    row["gain"] = float(1 - np.sqrt(ours.mean() / own["mse"].mean()))
                    row["gain_interval"] = interval(relative(ours, own["mse"]), draws, params.confidence)
                elif measured.crps_nlc is not None:
                    row |= _of_ensemble(measured, lead, place, params, draws)
                rows.append(row)
    return {
        "object": "weather.verification",
        "definitions": "WeatherBench 2: area-weighted, RMSE over starts, ACC against smooth climatology",
        "channels": list(grids.channels),
        "units": "those of the channels",
        "starts": len(starts),
        "first_start": shown(grids.times_t[starts[0]]),
        "last_start": shown(grids.times_t[starts[-1]]),
        "step_hours": forecaster.step_hours,
        "confidence": params.confidence,
        "block_starts": params.block_starts,
        "notes": list(grids.notes),
        "rows": rows,
    }


def _power_ratio(measured: Measured, method: str, lead: int, place: int) -> list[float]:
    """Power of thirds of the wavenumbers over the truth's, from long to short waves: under 1 is smooth."""
    ours, theirs = (measured.power_lck[name][lead, place, 1:] for name in (method, "truth"))
    parts = zip(np.array_split(ours, 3), np.array_split(theirs, 3), strict=True)
    return [float(one.sum() / max(float(other.sum()), 1e-30)) for one, other in parts]


def _of_ensemble(measured: Measured, lead: int, place: int, params: EvaluateParams, draws: NDArray[np.intp]) -> dict[str, Any]:
    assert measured.crps_nlc is not None and measured.variance_nlc is not None and measured.ensemble_mse_nlc is not None  # noqa: S101, PT018 - set together
    crps_n = measured.crps_nlc[:, lead, place]
    variance, square = measured.variance_nlc[:, lead, place], measured.ensemble_mse_nlc[:, lead, place]
    return {
        "members": params.members,
        "crps": float(crps_n.mean()),
        "crps_interval": interval(mean(crps_n), draws, params.confidence),
        "spread": float(np.sqrt(variance.mean())),
        "ensemble_mean_rmse": float(np.sqrt(square.mean())),
        "spread_skill": spread_skill_ratio(variance, square, params.members),
    }


def _metrics(measured: Measured, params: EvaluateParams) -> dict[str, float]:
    found = {f"nmse_{lead}": float(measured.nmse_nl["model"][:, lead - 1].mean()) for lead in _LEADS}
    acc = measured.scores_nlc["model"]["acc"]
    if not np.isnan(acc).any():
        found |= {f"acc_{lead}": float(acc[:, lead - 1].mean()) for lead in _LEADS}
    return found


def _save_samples(run: Run, grids: Grids, starts: NDArray[np.intp], measured: Measured) -> None:
    acc = measured.scores_nlc["model"]["acc"]
    lines = []
    for index, at in enumerate(starts):
        values = {f"nmse_{lead}": (float(measured.nmse_nl["model"][index, lead - 1]), 1.0) for lead in _LEADS}
        if not np.isnan(acc).any():
            values |= {f"acc_{lead}": (float(acc[index, lead - 1].mean()), 1.0) for lead in _LEADS}
        lines.append(SampleResult(sample=f"start:{grids.times_t[at]}", values=values).model_dump_json())
    file = run.workdir / SAMPLES_FILE
    file.write_text("\n".join(lines) + "\n", "utf-8")
    run.save(file, kind="report")


def _save(run: Run, report: Mapping[str, Any], name: str) -> None:
    file: Path = run.workdir / name
    file.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    run.save(file, kind="report")
