"""Measure a downscaling model on states that it did not learn, beside interpolation and the climate, with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.downscaling.interpolation import Order, interpolated, places, weights
from modelworks.capabilities.weather.downscaling.model import Downscaler, Frame, carried
from modelworks.capabilities.weather.downscaling.pairs import Pairs, read_pairs
from modelworks.capabilities.weather.downscaling.schemas import DownscaleEvaluateParams
from modelworks.capabilities.weather.grid.grids import Floats, Times, closes, shown
from modelworks.capabilities.weather.grid.handshake import agreed
from modelworks.capabilities.weather.verification.intervals import drawn, interval, relative, root_mean
from modelworks.capabilities.weather.verification.scores import errors, zonal_power
from modelworks.contract.errors import InvalidData
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.run import Run

REPORT: Final = "downscaling.json"
#: In the order in which they are told. corrected: bicubic, with the difference of the two climates added.
METHODS: Final = ("model", "corrected", "bicubic", "bilinear", "climate")
_CHUNK: Final = 128

Scores = dict[str, dict[str, NDArray[np.float64]]]


def evaluate_downscaling(run: Run, params: DownscaleEvaluateParams) -> Mapping[str, float]:
    """Measure the model of role "model" on the fine grids of role "test".

    The coarse states are those of role "coarse", or means of the fine ones where the model was learnt so.

    Returns:
        Square errors in spreads of the fine climate, means over channels and states, of the model and of what it is held
        against. The report `downscaling.json` has RMSE, MAE and bias of each channel and method, with intervals by drawing
        blocks of days, and the power by thirds of the wavenumbers over the truth's.

    Raises:
        InvalidData: the grids are not those of the model, or too few. Cancelled: the user has asked to stop.
    """
    model = Downscaler.load(run.model("model").path)
    card, frame = model.card, model.frame
    pairs = read_pairs(
        run, "test", channels=frame.channels, predictors=frame.predictors, coarsen=card.coarsen, max_missing=0.05
    )
    fine = agreed(pairs.fine, frame.channels, frame.latitude_h, frame.longitude_w, frame.step_hours, card.kinds)
    coarse = model.agreed(pairs.coarse)
    if len(fine.times_t) < 2 or not np.array_equal(fine.times_t, coarse.times_t):
        raise InvalidData(
            f"There are {len(fine.times_t)} pairs of states to measure.",
            hint="Give more states.",
            code="too_few_times",
            param="time",
        )
    pairs = Pairs(coarse, fine)
    scores, power = _measured(run, model, pairs)
    nmse_t = {method: (own["mse"] / np.square(model.fine.scale_c)).mean(axis=1) for method, own in scores.items()}
    report = _told(model, pairs, scores, power, params, run.seed)
    file = run.workdir / REPORT
    file.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    run.save(file, kind="report")
    named = {
        "nmse" if method == "model" else f"nmse_{method}": each for method, each in nmse_t.items() if np.isfinite(each).all()
    }
    lines = [
        SampleResult(
            sample=f"state:{time}", values={name: (float(each[index]), 1.0) for name, each in named.items()}
        ).model_dump_json()
        for index, time in enumerate(fine.times_t)
    ]
    file = run.workdir / SAMPLES_FILE
    file.write_text("\n".join(lines) + "\n", "utf-8")
    run.save(file, kind="report")
    return {name: float(each.mean()) for name, each in named.items()}


def _measured(run: Run, model: Downscaler, pairs: Pairs) -> tuple[Scores, dict[str, NDArray[np.float64]]]:
    """Of each method and score (state, channel), and zonal power (channel, wavenumber) by method; of the truth as "truth"."""
    fine = pairs.fine
    count = len(fine.times_t)
    scores: Scores = {
        method: {name: np.full((count, len(fine.channels)), np.nan) for name in ("mse", "mae", "bias")} for method in METHODS
    }
    power: dict[str, NDArray[np.float64]] = {}
    for start in range(0, count, _CHUNK):
        run.raise_if_cancelled()
        part = slice(start, start + _CHUNK)
        truth = fine.values_tchw[part]
        for method, found in _fields(model, pairs.coarse.values_tchw[part], fine.times_t[part]):
            for name, values in errors(found, truth, fine.latitude_h).items():
                scores[method][name][part] = values
            for kind, fields in ((method, found), *((("truth", truth),) if method == "model" else ())):
                own = zonal_power(fields, fine.latitude_h, is_global=fine.is_global).sum(axis=0)
                power[kind] = power.get(kind, np.zeros_like(own)) + own
        run.progress(min(start + _CHUNK, count), count, "states")
    return scores, power


def _fields(model: Downscaler, coarse_tphw: Floats, times_t: Times) -> Iterator[tuple[str, Floats]]:
    """The fine fields by each method; those of interpolation are nan for channels that the coarse grid does not have."""
    frame = model.frame
    yield "model", model.apply(coarse_tphw, times_t)
    left = coarse_tphw - model.coarse.mean(times_t)
    both = np.asarray([channel in frame.predictors for channel in frame.channels])[:, None, None]
    corrected = model.fine.value(carried(frame, left, model.fine.scale_c), times_t)
    yield "corrected", np.where(both, corrected, np.float32(np.nan))
    orders: tuple[Order, ...] = ("bicubic", "bilinear")
    for order in orders:
        yield order, by_interpolation(frame, coarse_tphw, order)
    yield "climate", model.fine.mean(times_t)


def by_interpolation(frame: Frame, coarse_tphw: Floats, order: Order) -> Floats:
    """The coarse values interpolated, (T, C, H, W); nan for channels that the coarse grid does not have."""
    rows = weights(
        places("latitude", frame.coarse_latitude_h, frame.latitude_h), len(frame.coarse_latitude_h), order, is_closed=False
    )
    columns = weights(
        places("longitude", frame.coarse_longitude_w, frame.longitude_w),
        len(frame.coarse_longitude_w),
        order,
        is_closed=closes(frame.coarse_longitude_w),
    )
    size = (len(coarse_tphw), len(frame.channels), len(frame.latitude_h), len(frame.longitude_w))
    found = np.full(size, np.nan, np.float32)
    for place, channel in enumerate(frame.channels):
        if channel in frame.predictors:
            found[:, place] = interpolated(coarse_tphw[:, frame.predictors.index(channel)], rows, columns)
    return found


def _told(
    model: Downscaler,
    pairs: Pairs,
    scores: Scores,
    power: dict[str, NDArray[np.float64]],
    params: DownscaleEvaluateParams,
    seed: int,
) -> dict[str, Any]:
    card, fine = model.card, pairs.fine
    count = len(fine.times_t)
    block = max(1, round(params.block_days * 24 / card.step_hours))
    draws = drawn(count, block, params.bootstrap_samples, seed)
    rows: list[dict[str, Any]] = []
    for place, channel in enumerate(fine.channels):
        ours = scores["model"]["mse"][:, place]
        for method in METHODS:
            own = {name: values[:, place] for name, values in scores[method].items()}
            if not np.isfinite(own["mse"]).all():
                continue
            row: dict[str, Any] = {
                "channel": channel,
                "method": method,
                "rmse": float(np.sqrt(own["mse"].mean())),
                "rmse_interval": interval(root_mean(own["mse"]), draws, params.confidence),
                "mae": float(own["mae"].mean()),
                "bias": float(own["bias"].mean()),
                "power_ratio": _power_ratio(power[method][place], power["truth"][place]),
            }
            if method != "model":
                row["gain"] = float(1 - np.sqrt(ours.mean() / max(float(own["mse"].mean()), 1e-30)))
                row["gain_interval"] = interval(relative(ours, np.maximum(own["mse"], 1e-30)), draws, params.confidence)
            rows.append(row)
    return {
        "object": "weather.downscaling_report",
        "definitions": "means by area; RMSE over states; gain: by how much the model's RMSE is smaller",
        "channels": list(fine.channels),
        "units": "those of the channels",
        "states": count,
        "first": shown(fine.times_t[0]),
        "last": shown(fine.times_t[-1]),
        "learnt": [card.first, card.last],
        "coarse_points": [len(card.coarse_latitude), len(card.coarse_longitude)],
        "fine_points": [len(card.latitude), len(card.longitude)],
        "confidence": params.confidence,
        "block_days": params.block_days,
        "notes": list(pairs.notes),
        "rows": rows,
    }


def _power_ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> list[float]:
    """Power of thirds of the wavenumbers over the truth's, from long to short waves: under 1 is smooth."""
    parts = zip(np.array_split(ours[1:], 3), np.array_split(theirs[1:], 3), strict=True)
    return [float(one.sum() / max(float(other.sum()), 1e-30)) for one, other in parts]
