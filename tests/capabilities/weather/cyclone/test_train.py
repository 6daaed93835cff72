"""Track models: better than persistence on seasons that were not learnt, with a cone that holds what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.capabilities.weather.cyclone.tiny_tracks import hurdat, storms

from modelworks.capabilities.weather.blending import blend_weights
from modelworks.capabilities.weather.cyclone.evaluate import REPORT_FILE, evaluate_tracks
from modelworks.capabilities.weather.cyclone.features import NAMES, errors_km, extrapolated, starts
from modelworks.capabilities.weather.cyclone.formats import read_storms
from modelworks.capabilities.weather.cyclone.model import CARD_FILE, WEIGHTS_FILE, TrackModel, turned
from modelworks.capabilities.weather.cyclone.schemas import CycloneEvaluateParams, CycloneTrainParams
from modelworks.capabilities.weather.cyclone.train import train_tracks
from modelworks.contract.errors import InvalidData
from modelworks.testing import FakeRun


def measured(trained: FakeRun, data: Mapping[str, Path], folder: Path, **params: int) -> tuple[Mapping[str, float], dict]:
    run = FakeRun(folder, models={"model": trained.saved[-1].model()}, datasets={"test": data["test"]})
    metrics = evaluate_tracks(run, CycloneEvaluateParams(bootstrap_samples=200, **params))
    return metrics, json.loads(next(each.path for each in run.saved if each.path.name == REPORT_FILE).read_text())


def test_a_model_beats_persistence_on_other_seasons(
    trained_tracks: FakeRun, best_tracks: Mapping[str, Path], tmp_path: Path
) -> None:
    metrics, report = measured(trained_tracks, best_tracks, tmp_path)
    assert metrics["track_error_km"] < 0.7 * metrics["persistence_error_km"]
    assert metrics["wind_error_kt"] < metrics["wind_persistence_kt"]
    assert 0.5 < metrics["cone_coverage"] < 0.85
    assert [line["lead_h"] for line in report["leads"]] == [24, 48]
    # Twelve storms of 21 fixes: the first four are history, the last four or eight are reached by no forecast.
    assert [line["num_cases"] for line in report["leads"]] == [12 * 13, 12 * 9]
    for line in report["leads"]:
        assert line["error_interval_km"][0] < line["error_km"] < line["error_interval_km"][1]
        assert line["gain"] == pytest.approx(1 - line["error_km"] / line["persistence_km"])


def test_seasons_can_be_chosen(trained_tracks: FakeRun, best_tracks: Mapping[str, Path], tmp_path: Path) -> None:
    _, report = measured(trained_tracks, best_tracks, tmp_path, first_season=2003, last_season=2003)
    assert (report["seasons"], report["num_storms"]) == ([2003, 2003], 4)
    with pytest.raises(InvalidData, match="can be verified"):
        measured(trained_tracks, best_tracks, tmp_path / "none", first_season=2010)


def test_the_part_that_is_asked_for_lies_in_the_cone_of_the_seasons_held_out(trained_tracks: FakeRun) -> None:
    card = TrackModel.load(trained_tracks.saved[-1].path).card
    assert [lead.lead_h for lead in card.leads] == [24, 48]
    assert all(sum(lead.weights) == pytest.approx(1) and min(lead.weights) >= 0 for lead in card.leads)
    # With a right tail the two-thirds quantile of distances is near and mostly above the mean.
    assert all(0.8 * lead.error_km < lead.cone_km < 2 * lead.error_km for lead in card.leads)


def test_rules_say_which_cases_count() -> None:
    made = storms(2000, 2000, per_season=1)
    fixes = made[0].fixes
    made[0].fixes = [
        fix if index < 15 else type(fix)(fix.time, fix.latitude, fix.longitude, fix.wind_kt, fix.pressure_hpa, "extratropical")
        for index, fix in enumerate(fixes)
    ]
    tropical = starts(made, [24], first="tropical", verified="tropical")
    assert len(tropical) == 11
    assert np.isfinite(tropical.targets_nl2[:, 0, 0]).sum() == 7
    anything = starts(made, [24], first="storm", verified="any")
    assert (len(anything), np.isfinite(anything.targets_nl2[:, 0, 0]).sum()) == (11, 11)


def test_persistence_goes_on_as_the_last_twelve_hours() -> None:
    made = storms(2000, 2000, per_season=1)
    first = made[0].fixes[0]
    made[0].fixes = [
        type(first)(fix.time, 15.0, -40 - 0.5 * index, 50.0, 990.0, "storm") for index, fix in enumerate(made[0].fixes)
    ]
    cases = starts(made, [24], first="tropical", verified="tropical")
    errors = errors_km(cases, 0, extrapolated(cases.rows_nf, 24))
    assert np.nanmax(errors) < 1e-6
    assert np.isnan(errors[-4:]).all()


def test_turning_twice_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    rows, vectors = rng.normal(size=(50, len(NAMES))), rng.normal(size=(50, 2))
    rows[0] = 0
    there = turned(rows, vectors)
    assert np.allclose(turned(rows, there), vectors)
    assert np.allclose(np.hypot(*there.T), np.hypot(*vectors.T))


def test_a_blend_prefers_the_better_part() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=500)
    parts = np.stack([target + rng.normal(0, 0.3, 500), target + rng.normal(0, 3, 500), rng.normal(size=500)])
    weights = blend_weights(parts, target)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.9
    assert weights.min() >= 0


def test_too_few_tracks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "best.txt").write_text(hurdat(storms(2000, 2001, per_season=1)))
    run = FakeRun(tmp_path / "run", datasets={"train": tmp_path / "data"})
    with pytest.raises(InvalidData, match="Only 26 cases reach 24 hours"):
        train_tracks(run, CycloneTrainParams(preset="tiny", leads_h=[24], folds=2))
    assert read_storms(tmp_path / "data")


def test_what_is_damaged_is_not_opened(trained_tracks: FakeRun, tmp_path: Path) -> None:
    source = trained_tracks.saved[-1].path
    for name in (CARD_FILE, WEIGHTS_FILE):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    TrackModel.load(tmp_path)
    tensors = load_file(source / WEIGHTS_FILE)
    # A walk through these trees would never end.
    looped = tensors["24.east.left"].copy()
    looped[np.flatnonzero(tensors["24.east.feature"] >= 0)[-1]] = 0
    save_file({**tensors, "24.east.left": looped}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(InvalidData, match=r"24\.east"):
        TrackModel.load(tmp_path)
    save_file({**tensors, "48.cubic": tensors["48.cubic"][:-1].copy()}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(InvalidData, match="lead 48"):
        TrackModel.load(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"\xff" * 64)
    with pytest.raises(InvalidData, match="no track model"):
        TrackModel.load(tmp_path)
