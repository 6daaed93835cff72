"""Spectra whose heights and periods are known, by formula."""

from __future__ import annotations

from math import gamma

import numpy as np
import pytest

from modelworks.capabilities.weather.wave.spectrum import sea_state
from modelworks.contract.errors import InvalidData


def test_a_pierson_moskowitz_sea_has_its_height_and_periods() -> None:
    # S(f) = A f^-5 exp(-B f^-4): m0 = A / 4B, so Hs = 2 sqrt(A / B); m-1 = A Gamma(5/4) / 4 B^(5/4), so
    # Te = Gamma(5/4) B^(-1/4).
    hs, tp = 3.0, 9.0
    b = 1.25 / tp**4
    a = b * hs**2 / 4
    f = np.arange(0.02, 2.0, 0.0005)
    found = sea_state(f, a * f**-5 * np.exp(-b * f**-4))
    assert found[0] == pytest.approx(hs, rel=2e-3)
    assert found[1] == pytest.approx(tp, rel=1e-3)
    assert found[2] == pytest.approx(gamma(1.25) * b**-0.25, rel=1e-3)


def test_a_peak_lies_between_coarse_bins() -> None:
    f = np.array([0.05, 0.08, 0.10, 0.13, 0.2])
    density = 10 - 2000 * (f - 0.105) ** 2
    assert 1 / sea_state(f, np.maximum(density, 0))[1] == pytest.approx(0.105, abs=1e-9)


def test_a_peak_at_the_end_is_the_end() -> None:
    assert sea_state([0.05, 0.1, 0.15], [3.0, 2.0, 1.0])[1] == pytest.approx(20)


@pytest.mark.parametrize(
    ("frequencies", "density"),
    [([0.1, 0.2, 0.3], [0, 0, 0]), ([0.1, 0.1, 0.3], [1, 1, 1]), ([0.0, 0.1, 0.2], [1, 1, 1]), ([0.1, 0.2, 0.3], [1, -1, 1])],
)
def test_what_is_no_spectrum_is_refused(frequencies: list[float], density: list[float]) -> None:
    with pytest.raises(InvalidData):
        sea_state(frequencies, density)
