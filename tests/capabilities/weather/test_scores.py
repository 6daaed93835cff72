"""Scores against values worked out by hand or by another way."""

from __future__ import annotations

import numpy as np
import pytest

from modelworks.capabilities.weather.verification.intervals import drawn, interval, mean, relative, root_mean
from modelworks.capabilities.weather.verification.scores import (
    anomaly_correlation,
    area_mean,
    crps,
    errors,
    spread_and_skill,
    spread_skill_ratio,
    zonal_power,
)

LATITUDE = np.asarray([60.0, 0.0])


def test_rows_count_by_the_cosine_of_their_latitude() -> None:
    assert area_mean(np.asarray([[1.0, 1.0], [4.0, 4.0]]), LATITUDE) == pytest.approx((0.5 * 1 + 1 * 4) / 1.5)
    found = errors(np.asarray([[3.0, 3.0], [1.0, 1.0]]), np.zeros((2, 2)), LATITUDE)
    assert found["mse"] == pytest.approx((0.5 * 9 + 1) / 1.5)
    assert found["mae"] == pytest.approx((0.5 * 3 + 1) / 1.5)
    assert errors(np.full((2, 2), -2.0), np.zeros((2, 2)), LATITUDE)["bias"] == pytest.approx(-2)


def test_anomaly_correlation_is_of_departures_from_the_climate() -> None:
    climate = np.asarray([[5.0, 5.0], [7.0, 7.0]])
    truth = climate + np.asarray([[1.0, -1.0], [2.0, 0.0]])
    assert anomaly_correlation(climate + 3 * (truth - climate), truth, climate, LATITUDE) == pytest.approx(1)
    assert anomaly_correlation(climate - (truth - climate), truth, climate, LATITUDE) == pytest.approx(-1)
    # Not centred: a constant departure counts as much as any.
    assert anomaly_correlation(climate + 1, climate + 2, climate, LATITUDE) == pytest.approx(1)
    assert np.isnan(anomaly_correlation(climate, truth, climate, LATITUDE))


def test_crps_is_fair_and_of_one_member_the_absolute_error() -> None:
    truth = np.asarray([[0.0, 0.0], [0.0, 0.0]])
    members = np.asarray([np.full((2, 2), value) for value in (1.0, 3.0, -2.0)])
    by_pairs = np.mean([1, 3, 2]) - sum(abs(a - b) for a in (1, 3, -2) for b in (1, 3, -2)) / (2 * 3 * 2)
    assert crps(members, truth, LATITUDE) == pytest.approx(by_pairs)
    assert crps(members[:1], truth, LATITUDE) == pytest.approx(1)


def test_an_ensemble_that_the_truth_could_be_a_member_of_is_as_uncertain_as_it_is_wrong() -> None:
    rng = np.random.default_rng(0)
    variances, squares = [], []
    for _ in range(300):
        draws = rng.standard_normal((6, 2, 8))
        variance, square = spread_and_skill(draws[:5], draws[5], LATITUDE)
        variances.append(variance)
        squares.append(square)
    assert spread_skill_ratio(np.asarray(variances), np.asarray(squares), 5) == pytest.approx(1, abs=0.06)


def test_power_adds_up_to_the_mean_square_and_lies_where_the_wave_is() -> None:
    angle = np.arange(16) * 2 * np.pi / 16
    field = np.broadcast_to(3 + 2 * np.cos(5 * angle), (2, 16))
    round_the_circle = zonal_power(field, LATITUDE, is_global=True)
    assert round_the_circle.argsort()[-2:].tolist() == [5, 0]
    assert round_the_circle.sum() == pytest.approx(9 + 2)
    half_waves = zonal_power(
        np.broadcast_to(np.cos(4 * (np.arange(16) + 0.5) * np.pi / 16), (2, 16)), LATITUDE, is_global=False
    )
    assert half_waves.argmax() == 4
    assert half_waves.sum() == pytest.approx(0.5)


def test_blocks_of_neighbours_widen_the_interval_of_scores_that_are_alike() -> None:
    rng = np.random.default_rng(1)
    alike = np.repeat(rng.standard_normal(20), 20)
    narrow = interval(mean(alike), drawn(400, 1, 500, 0), 0.95)
    wide = interval(mean(alike), drawn(400, 20, 500, 0), 0.95)
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])
    assert drawn(400, 20, 3, 5).tolist() == drawn(400, 20, 3, 5).tolist()
    indices = drawn(10, 3, 50, 0)
    assert indices.shape == (50, 10)
    assert ((indices[:, 1] - indices[:, 0]) % 10 == 1).all()


def test_a_gain_is_taken_on_the_same_starts() -> None:
    rng = np.random.default_rng(2)
    theirs = rng.uniform(1, 100, 200)
    low, high = interval(relative(0.81 * theirs, theirs), drawn(200, 10, 200, 0), 0.95)
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))
    low, high = interval(root_mean(theirs), drawn(200, 10, 200, 0), 0.95)
    assert low < np.sqrt(theirs.mean()) < high
