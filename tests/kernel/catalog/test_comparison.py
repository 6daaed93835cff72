"""The paired bootstrap: its interval holds the truth as often as it says, and chance is not taken for a difference."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.kernel.catalog.comparison import Pair, _Draw, compare


def pairs(size: int, shift: float, seed: int, *, noise: float = 0.1) -> list[Pair]:
    """Samples that are hard or easy for both models; the candidate differs by `shift` and noise."""
    chance = random.Random(seed)
    made = []
    for _ in range(size):
        hard, weight = chance.gauss(3, 1), chance.randint(5, 50)
        made.append(Pair((hard, weight), (hard + shift + chance.gauss(0, noise), weight)))
    return made


@pytest.mark.parametrize("size", [40, 1000])
def test_a_real_difference_is_proven_although_samples_differ_far_more(size: int) -> None:
    found = compare(pairs(size, -0.1, seed=1))
    assert found.low < found.difference < found.high < 0
    assert found.verdict(lower_is_better=True) == "better"
    assert found.verdict(lower_is_better=False) == "worse"


@pytest.mark.parametrize("size", [30, 600])
def test_the_interval_holds_the_truth_in_about_95_of_100_cases(size: int) -> None:
    held = 0
    for seed in range(60):
        found = compare(pairs(size, 0.05, seed=seed, noise=0.3), num_resamples=400)
        held += found.low <= 0.05 <= found.high
    assert 50 <= held <= 60


def test_two_equal_models_are_undecided_and_the_numbers_repeat() -> None:
    same = [Pair((value, 1.0), (value, 1.0)) for value in (0.0, 1.0, 1.0, 0.0, 1.0)]
    found = compare(same)
    assert (found.low, found.difference, found.high) == (0, 0, 0)
    assert found.verdict(lower_is_better=True) == "undecided"
    some = pairs(50, 0.01, seed=3)
    assert compare(some) == compare(some) != compare(some, seed=1)


def test_means_are_weighted() -> None:
    found = compare([Pair((1.0, 9.0), (2.0, 9.0)), Pair((2.0, 1.0), (12.0, 1.0))], num_resamples=100)
    assert found.baseline == pytest.approx(1.1)
    assert found.candidate == pytest.approx(3.0)


@given(st.integers(1, 256))
def test_draws_are_uniform_and_in_range(size: int) -> None:
    draw = _Draw(size, random.Random(size))
    drawn = draw()
    assert len(drawn) == size
    assert max(drawn) < size


def test_no_number_is_drawn_more_often_than_another() -> None:
    draw = _Draw(100, random.Random(0))
    counts = [0] * 100
    for _ in range(2000):
        for number in draw():
            counts[number] += 1
    # 2,000 each, with a standard deviation of about 45; taking all bytes would give the first 56 a half more.
    assert min(counts) > 1750
    assert max(counts) < 2250
