"""Heights and periods of a spectrum of the sea's surface, by its moments (WMO Guide to Wave Analysis, WMO-No. 702)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelworks.contract.errors import InvalidData


def sea_state(frequencies_hz: Sequence[float], density_m2_per_hz: Sequence[float]) -> tuple[float, float, float]:
    """Significant height in m, peak period and energy period in s.

    Hs = 4 √m0, Te = m₋₁ / m0, with m_n the integral of fⁿ S(f) by the trapezoidal rule. The peak is that of the parabola
    through the highest three densities, since bins are coarse.

    Raises:
        InvalidData: the spectrum has no energy, or is not one of ascending positive frequencies.
    """
    f = np.asarray(frequencies_hz, np.float64)
    s = np.asarray(density_m2_per_hz, np.float64)
    if f.ndim != 1 or f.shape != s.shape or len(f) < 3 or not (f[0] > 0 and (np.diff(f) > 0).all() and (s >= 0).all()):
        raise InvalidData("A spectrum has densities of at least 0 at three or more ascending positive frequencies.")
    m0, m_1 = float(np.trapezoid(s, f)), float(np.trapezoid(s / f, f))
    if not m0 > 0 or not np.isfinite(m0):
        raise InvalidData("The spectrum has no energy.", hint="Leave out records of a calm sea, or give hs_m 0.")
    top = int(np.argmax(s))
    peak = float(f[top])
    if 0 < top < len(f) - 1:
        # The vertex of the parabola through three points that need not be evenly spaced.
        left, right = f[top] - f[top - 1], f[top] - f[top + 1]
        a, b = s[top] - s[top + 1], s[top] - s[top - 1]
        below = left * a - right * b
        if below > 0:
            peak -= 0.5 * float((left**2 * a - right**2 * b) / below)
    return 4 * float(np.sqrt(m0)), 1 / peak, m_1 / m0
