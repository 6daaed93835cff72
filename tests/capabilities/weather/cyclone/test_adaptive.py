"""The cone that follows outcomes: nearer to what it is to hold when storms change, by nothing that was not known before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.capabilities.weather.cyclone.tiny_tracks import hurdat, storms

from modelworks.capabilities.weather.cyclone.adaptive import LEVELS, levels, quantiles, radius_km
from modelworks.capabilities.weather.cyclone.evaluate import REPORT_FILE, evaluate_tracks
from modelworks.capabilities.weather.cyclone.features import starts
from modelworks.capabilities.weather.cyclone.model import CARD_FILE, WEIGHTS_FILE, TrackModel
from modelworks.capabilities.weather.cyclone.schemas import CycloneEvaluateParams, CycloneTrackInput
from modelworks.capabilities.weather.cyclone.serve import TrackForecaster
from modelworks.capabilities.weather.cyclone.tracks import Storm
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import LocalModel
from modelworks.testing import FakeRun

COVERAGE = 0.67


def a_season(scale: float, count: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Errors, and when their forecasts start: two storms at a time."""
    return np.random.default_rng(seed).rayleigh(100 * scale, count), np.repeat(np.arange(count // 2) * 6.0, 2)


def copied(trained: FakeRun, folder: Path, **changes: object) -> Path:
    """The model with other values in the cards of its lead times; a field whose value is None is left out."""
    source = trained.saved[-1].path
    folder.mkdir()
    (folder / WEIGHTS_FILE).write_bytes((source / WEIGHTS_FILE).read_bytes())
    card = json.loads((source / CARD_FILE).read_text())
    for lead in card["leads"]:
        for name, value in changes.items():
            if value is None:
                del lead[name]
            else:
                lead[name] = value
    (folder / CARD_FILE).write_text(json.dumps(card))
    return folder


def given(folder: Path) -> LocalModel:
    return LocalModel(ref="model", version_id="model@1", path=folder, digest="0")


def opened(folder: Path) -> TrackForecaster:
    return TrackForecaster(given(folder))


@pytest.mark.parametrize("drift", [0.7, 1.5])
def test_coverage_comes_back_when_errors_change(drift: float) -> None:
    spread = quantiles(np.random.default_rng(9).rayleigh(100, 2000))
    errors, hours = a_season(drift)
    fixed = float((errors <= radius_km(COVERAGE, spread)).mean())
    level, last, _ = levels(errors, hours, 24, spread, COVERAGE, COVERAGE)
    followed = float((errors <= radius_km(level, spread)).mean())
    assert abs(fixed - COVERAGE) > 0.15
    assert abs(followed - COVERAGE) < 0.04
    assert (last > COVERAGE) == (drift > 1)


def test_no_outcome_counts_before_it_is_known() -> None:
    spread = quantiles(np.random.default_rng(9).rayleigh(100, 2000))
    errors, hours = a_season(1.2, 120)
    told, _, _ = levels(errors, hours, 24, spread, COVERAGE, COVERAGE)
    for index in (0, 20, 77, 119):
        later = hours + 24 >= hours[index]
        for other in (0.0, 1e5, np.nan):
            changed, _, _ = levels(np.where(later, other, errors), hours, 24, spread, COVERAGE, COVERAGE)
            assert changed[index] == told[index]
    # The last one before does count.
    last = np.flatnonzero(hours + 24 < hours[77])[-1]
    flipped = errors.copy()
    flipped[last] = 0 if errors[last] > 60 else 1e5
    assert levels(flipped, hours, 24, spread, COVERAGE, COVERAGE)[0][77] != told[77]


def test_the_level_at_which_it_starts_is_the_fixed_cone(trained_tracks: FakeRun) -> None:
    for lead in TrackModel.load(trained_tracks.saved[-1].path).card.leads:
        assert len(lead.quantiles_km) == len(LEVELS)
        assert float(radius_km(COVERAGE, lead.quantiles_km)) == pytest.approx(lead.cone_km, abs=0.01)
        assert lead.cone_level is not None
        assert abs(lead.cone_level - COVERAGE) > 1e-3


def test_a_cone_asked_for_is_that_of_the_evaluation(trained_tracks: FakeRun) -> None:
    model = TrackModel.load(trained_tracks.saved[-1].path)
    season = storms(2002, 2003, seed=2)
    cases = starts(season, [24, 48], first="tropical", verified="tropical")
    cones = [model.followed(cases, place, model.forecast(cases.rows_nf, model.card.leads[place])[0]) for place in (0, 1)]
    forecaster = opened(trained_tracks.saved[-1].path)
    # The latest start has the whole of both seasons before it; the other lies in the middle of a storm.
    for index in (int(np.argmax(cases.hours_n)), 40):
        start = cases.fixes[index]
        [storm] = [each for each in season if each.id == cases.storms[index]]
        so_far = Storm(storm.id, storm.name, [fix for fix in storm.fixes if fix.time <= start.time])
        found = forecaster.predict(CycloneTrackInput(track=hurdat([so_far]), past_tracks=hurdat(season)))
        assert [point.cone_km for point in found.points] == pytest.approx([cone[index] for cone in cones], abs=0.051)
        assert found.cone_outcomes == sum(
            bool(np.isfinite(target[0, 0])) and fix.time + timedelta(hours=24) < start.time
            for target, fix in zip(cases.targets_nl2, cases.fixes, strict=True)
        )
        fixed = forecaster.predict(CycloneTrackInput(track=hurdat([so_far])))
        assert [point.cone_km for point in fixed.points] == [round(lead.cone_km, 1) for lead in model.card.leads]
        assert [(each.latitude, each.longitude) for each in fixed.points] == [
            (each.latitude, each.longitude) for each in found.points
        ]


def test_what_comes_after_the_start_changes_no_cone(trained_tracks: FakeRun) -> None:
    forecaster = opened(trained_tracks.saved[-1].path)
    season = sorted(storms(2002, 2002, per_season=8, seed=2), key=lambda each: each.fixes[0].time)
    storm = season[4]
    start = storm.fixes[8].time
    asked = hurdat([Storm(storm.id, storm.name, storm.fixes[:9])])
    strayed = [
        Storm(
            each.id,
            each.name,
            [
                type(fix)(fix.time, fix.latitude + 3, fix.longitude, fix.wind_kt, fix.pressure_hpa, fix.stage)
                if fix.time > start
                else fix
                for fix in each.fixes
            ],
        )
        for each in season
    ]
    assert hurdat(strayed) != hurdat(season)
    told, changed = (forecaster.predict(CycloneTrackInput(track=asked, past_tracks=hurdat(each))) for each in (season, strayed))
    assert told.points == changed.points
    assert told.cone_outcomes == changed.cone_outcomes > 0
    # What comes before does count, under whichever id the storm itself is there.
    without = forecaster.predict(CycloneTrackInput(track=asked, past_tracks=""))
    assert 0 <= without.cone_outcomes < told.cone_outcomes
    again = Storm("AL992002", storm.name, storm.fixes)
    assert forecaster.predict(CycloneTrackInput(track=asked, past_tracks=hurdat([again]))).points == without.points


def test_years_that_were_learnt_from_move_no_cone(trained_tracks: FakeRun) -> None:
    forecaster = opened(trained_tracks.saved[-1].path)
    model = TrackModel.load(trained_tracks.saved[-1].path)
    [storm] = storms(2002, 2002, per_season=1, seed=2)
    asked = hurdat([Storm(storm.id, storm.name, storm.fixes[:5])])
    found = forecaster.predict(CycloneTrackInput(track=asked, past_tracks=hurdat(storms(2000, 2001, seed=1))))
    assert found.cone_outcomes == 0
    learnt = storms(2000, 2001, seed=1)
    cases = starts(learnt, [24, 48], first="tropical", verified="tropical")
    moves, _ = model.forecast(cases.rows_nf, model.card.leads[0])
    assert set(model.followed(cases, 0, moves)) == {model.card.leads[0].cone_km}


def test_models_from_before_have_the_fixed_cone(
    trained_tracks: FakeRun, best_tracks: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = copied(trained_tracks, tmp_path / "old", quantiles_km=None, cone_level=None)
    [storm, *others] = storms(2002, 2002, seed=2)
    asked = CycloneTrackInput(track=hurdat([storm]), past_tracks=hurdat(others))
    found = opened(folder).predict(asked)
    card = TrackModel.load(folder).card
    assert [point.cone_km for point in found.points] == [round(lead.cone_km, 1) for lead in card.leads]
    assert found.cone_outcomes == 0
    run = FakeRun(tmp_path / "run", models={"model": given(folder)}, datasets={"test": best_tracks["test"]})
    metrics = evaluate_tracks(run, CycloneEvaluateParams(bootstrap_samples=100))
    assert metrics["cone_coverage"] == metrics["fixed_cone_coverage"]
    report = json.loads(next(each.path for each in run.saved if each.path.name == REPORT_FILE).read_text())
    assert all(line["cone_km"] == pytest.approx(line["fixed_cone_km"]) for line in report["leads"])


def test_errors_that_do_not_fit_are_refused(trained_tracks: FakeRun, tmp_path: Path) -> None:
    for name, wrong in {"few": [1.0, 2.0], "falling": list(np.linspace(9, 1, len(LEVELS)))}.items():
        folder = copied(trained_tracks, tmp_path / name, quantiles_km=wrong)
        with pytest.raises(InvalidData, match="errors behind the cone of lead 24 h"):
            TrackModel.load(folder)
