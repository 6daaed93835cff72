"""Wave models: better than persistence on days that were not learnt, with intervals that hold what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.capabilities.weather.wave.tiny_waves import START, heights

from modelworks.capabilities.weather.wave.adaptive import REPLAYED_H, last_levels, levels
from modelworks.capabilities.weather.wave.evaluate import REPORT_FILE, evaluate_waves
from modelworks.capabilities.weather.wave.features import NUM_FEATURES, after, rows
from modelworks.capabilities.weather.wave.model import CARD_FILE, LEVELS, WEIGHTS_FILE, WaveModel
from modelworks.capabilities.weather.wave.records import Series, read_series
from modelworks.capabilities.weather.wave.schemas import WaveEvaluateParams, WaveForecastInput, WaveTrainParams
from modelworks.capabilities.weather.wave.serve import WaveForecaster
from modelworks.capabilities.weather.wave.train import train_waves
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.evaluation import SAMPLES_FILE
from modelworks.testing import FakeRun


@pytest.fixture
def forecaster(trained_waves: FakeRun) -> WaveForecaster:
    return WaveForecaster(trained_waves.saved[-1].model())


def asked(count: int = 60, **changes: Any) -> dict[str, Any]:
    hs, tz = heights(10, 7)
    records = [
        {
            "time": (START + timedelta(days=400, hours=index)).isoformat(),
            "hs_m": round(float(hs[index]), 3),
            "hmax_m": round(1.7 * float(hs[index]), 2),
            "tz_s": round(float(tz[index]), 3),
            "direction_deg": 90,
        }
        for index in range(count)
    ]
    return {"records": records, **changes}


def predicted(forecaster: WaveForecaster, **request: Any) -> Any:
    return forecaster.predict(WaveForecastInput.model_validate(request))


def test_a_model_beats_persistence_and_its_interval_holds(
    trained_waves: FakeRun, buoy: Mapping[str, Path], tmp_path: Path
) -> None:
    run = FakeRun(tmp_path, models={"model": trained_waves.saved[-1].model()}, datasets={"test": buoy["test"]})
    metrics = evaluate_waves(run, WaveEvaluateParams(bootstrap_samples=100))
    report = json.loads(next(each.path for each in run.saved if each.path.name == REPORT_FILE).read_text())
    hour, six = report["leads"]
    assert hour["gain"] > 0.15
    assert six["rmse_m"] < six["persistence_m"]
    assert 0.7 < metrics["interval_coverage"] < 0.9
    assert hour["mean_width_m"] < six["mean_width_m"]
    for line in report["leads"]:
        assert line["rmse_interval_m"][0] < line["rmse_m"] < line["rmse_interval_m"][1]
        assert line["gain"] == pytest.approx(1 - line["rmse_m"] / line["persistence_m"])
    # What persistence misses is known by formula of the records themselves.
    series = read_series(buoy["test"])
    still = after(series.hs, 1) - series.hs
    assert hour["persistence_m"] == pytest.approx(float(np.sqrt(np.nanmean(still**2))))


def test_a_wider_interval_holds_more(forecaster: WaveForecaster) -> None:
    narrow, wide = (predicted(forecaster, **asked(coverage=coverage)) for coverage in (0.5, 0.9))
    assert [point.lead_h for point in wide.points] == [1, 6]
    assert wide.start == START + timedelta(days=400, hours=59)
    for inner, outer in zip(narrow.points, wide.points, strict=True):
        assert outer.low_m < inner.low_m < inner.hs_m < inner.high_m < outer.high_m
        assert inner.hs_m == outer.hs_m
        assert inner.time == wide.start + timedelta(hours=inner.lead_h)


def records_of(series: Series, begin: int, end: int) -> list[dict[str, Any]]:
    names = ("hs_m", "hmax_m", "tz_s", "tp_s", "direction_deg", "sst_c")
    return [
        {
            "time": (series.start + timedelta(hours=index)).isoformat(),
            **{name: float(value) for name, value in zip(names, series.values_nc[index], strict=True) if np.isfinite(value)},
        }
        for index in range(begin, end + 1)
    ]


def test_a_request_says_what_a_row_of_the_series_says(forecaster: WaveForecaster, buoy: Mapping[str, Path]) -> None:
    series = read_series(buoy["test"])
    end = 200
    found = predicted(forecaster, records=records_of(series, end - 60, end))
    model = forecaster._model
    height, _ = model.forecast(rows(series)[end : end + 1], model.card.leads[0])
    assert found.points[0].hs_m == round(float(height[0]), 3)


def followed(model: WaveModel, series: Series, end: int, coverage: float) -> list[tuple[float, float]]:
    """The interval of each lead time at `end` by hand: one forecast after the other, outcomes as they come in."""
    found = []
    for lead in model.card.leads:
        delay, tail = round(lead.lead_h), (1 - coverage) / 2
        heights, sizes = (each.tolist() for each in model.forecast(rows(series)[: end + 1], lead))
        below = above = tail
        given: dict[int, tuple[float, float]] = {}
        for now in range(max(0, end - round(REPLAYED_H)), end + 1):
            before = now - delay
            if before in given and np.isfinite(series.hs[now]):
                low, high = given[before]
                score = (series.hs[now] - heights[before]) / sizes[before]
                below = min(max(below + 0.004 * (tail - float(score < low)), 0.01), 0.5)
                above = min(max(above + 0.004 * (tail - float(score > high)), 0.01), 0.5)
            if np.isfinite(series.hs[now]):
                low, high = np.interp([below, 1 - above], LEVELS, lead.quantiles)
                given[now] = float(low), float(high)
        low, high = given[end]
        found.append((max(heights[end] + low * sizes[end], 0), max(heights[end] + high * sizes[end], 0)))
    return found


def test_an_interval_follows_the_outcomes_that_were_there(forecaster: WaveForecaster, buoy: Mapping[str, Path]) -> None:
    series = read_series(buoy["test"])
    for end in (5, 40, 300):
        points = predicted(forecaster, records=records_of(series, 0, end)).points
        wanted = followed(forecaster._model, series, end, 0.8)
        for point, (low, high) in zip(points, wanted, strict=True):
            assert (point.low_m, point.high_m) == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


def test_an_evaluation_gives_the_intervals_that_requests_get(
    trained_waves: FakeRun, forecaster: WaveForecaster, buoy: Mapping[str, Path], tmp_path: Path
) -> None:
    run = FakeRun(tmp_path, models={"model": trained_waves.saved[-1].model()}, datasets={"test": buoy["test"]})
    evaluate_waves(run, WaveEvaluateParams(bootstrap_samples=100))
    samples = next(each.path for each in run.saved if each.path.name == SAMPLES_FILE).read_text().splitlines()
    counted = {line["sample"]: line["values"]["interval_coverage"] for line in map(json.loads, samples)}
    series = read_series(buoy["test"])
    ends = [end for end in range(100, 460, 30) if np.isfinite(series.hs[[end, end + 1, end + 6]]).all()]
    assert len(ends) > 8
    for end in ends:
        points = predicted(forecaster, records=records_of(series, 0, end)).points
        heights = [float(series.hs[end + round(point.lead_h)]) for point in points]
        held = [point.low_m <= height <= point.high_m for point, height in zip(points, heights, strict=True)]
        time = series.start + timedelta(hours=end)
        assert counted[f"{time:%Y-%m-%dT%H:%M:%SZ}"] == [float(np.mean(held)), 2.0]


@pytest.mark.parametrize(("stretched", "fixed"), [(0.7, 0.92), (1.6, 0.7)])
def test_where_errors_have_another_size_than_was_learnt_coverage_comes_back(stretched: float, fixed: float) -> None:
    normal = NormalDist()
    quantiles = [normal.inv_cdf(float(level)) for level in LEVELS]
    scores = stretched * np.random.default_rng(5).standard_normal(8000)
    for delay in (1, 24):
        low, high = (np.interp(each, LEVELS, quantiles) for each in levels(scores, quantiles, delay, 3600, 0.8))
        held = float(((low <= scores) & (scores <= high))[1000:].mean())
        still = float((np.abs(scores) <= normal.inv_cdf(0.9)).mean())
        assert abs(still - 0.8) > abs(fixed - 0.8)
        assert held == pytest.approx(0.8, abs=0.03), "the interval does not follow"


def test_a_level_looks_at_nothing_that_came_later() -> None:
    quantiles = [NormalDist().inv_cdf(float(level)) for level in LEVELS]
    scores = np.random.default_rng(6).standard_normal(500)
    before = levels(scores, quantiles, 6, 3600, 0.8)
    changed = scores.copy()
    changed[300:] = 9.0
    after_ = levels(changed, quantiles, 6, 3600, 0.8)
    for each, other in zip(before, after_, strict=True):
        # What was forecast at 300 came at 306.
        assert np.array_equal(each[:306], other[:306])
    assert before[1][306] != after_[1][306]
    last = last_levels(scores, quantiles, 6, 3600, 0.8)
    assert [float(each[-1]) for each in before] == [float(each[0]) for each in last]


def test_few_records_are_enough(forecaster: WaveForecaster) -> None:
    found = predicted(forecaster, records=[{"time": "2019-06-30T23:00:00Z", "hs_m": 1.4}])
    assert 0.8 < found.points[0].hs_m < 2.2


def test_a_spectrum_is_a_height(forecaster: WaveForecaster) -> None:
    f = np.arange(0.03, 0.6, 0.005)
    b = 1.25 / 9.0**4
    density = (b * 4 / 4) * f**-5 * np.exp(-b * f**-4)
    spectrum = {"frequencies_hz": f.tolist(), "density_m2_per_hz": density.tolist()}
    found = predicted(forecaster, records=[{"time": "2019-06-30T23:00:00Z", "spectrum": spectrum}])
    assert found.now.hs_m == pytest.approx(2.0, rel=0.01)
    assert found.now.tp_s == pytest.approx(9.0, rel=0.01)
    assert found.now.te_s == pytest.approx(0.857 * 9, rel=0.02)
    assert 1.0 < found.points[0].hs_m < 3.5


def test_records_without_a_height_are_refused(forecaster: WaveForecaster) -> None:
    with pytest.raises(InvalidRequest, match="No record has"):
        predicted(forecaster, records=[{"time": "2019-06-30T23:00:00Z", "tz_s": 7}])
    with pytest.raises(InvalidRequest, match="needs a wave model"):
        WaveForecaster(None)


def test_rows_have_the_columns_that_a_model_knows(buoy: Mapping[str, Path]) -> None:
    assert rows(read_series(buoy["test"])).shape[1] == NUM_FEATURES


def test_nothing_later_is_seen(buoy: Mapping[str, Path]) -> None:
    series = read_series(buoy["test"])
    before = rows(series)[:200]
    series.values_nc[200:] = 9.0
    assert np.array_equal(rows(series)[:200], before, equal_nan=True)


def test_too_few_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = [f"{(START + timedelta(hours=index)).isoformat()},1.0" for index in range(100)]
    (tmp_path / "data" / "waves.csv").write_text("time,hs\n" + "\n".join(lines) + "\n")
    run = FakeRun(tmp_path / "run", datasets={"train": tmp_path / "data"})
    with pytest.raises(InvalidData, match="Only 99 records have a height and one 1 hours later"):
        train_waves(run, WaveTrainParams(preset="tiny", leads_h=[1]))


def test_what_is_damaged_is_not_opened(trained_waves: FakeRun, tmp_path: Path) -> None:
    source = trained_waves.saved[-1].path
    for name in (CARD_FILE, WEIGHTS_FILE):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    WaveModel.load(tmp_path)
    tensors = load_file(source / WEIGHTS_FILE)
    for name in ("1.ridge", "6.expected.left", "1.trees.value"):
        save_file({**tensors, name: tensors[name][:-1].copy()}, tmp_path / WEIGHTS_FILE)
        with pytest.raises(InvalidData):
            WaveModel.load(tmp_path)
    (tmp_path / CARD_FILE).write_text("{}")
    with pytest.raises(InvalidData, match="no wave model"):
        WaveModel.load(tmp_path)
