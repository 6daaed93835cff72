"""Small records of a buoy with something to learn in them: a swell that comes and goes, told an hour ahead by its period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

START = datetime(2017, 1, 1, tzinfo=UTC)


def heights(num_days: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hourly heights in m and periods in s; the period rises an hour before the height does."""
    rng = np.random.default_rng(seed)
    count = 24 * num_days
    noise = rng.standard_normal(count + 1)
    swell = np.zeros(count + 1)
    for index in range(1, count + 1):
        swell[index] = 0.97 * swell[index - 1] + 0.1 * noise[index]
    return 1.5 * np.exp(0.6 * swell[:-1]), 8 + 3 * swell[1:]


def write(folder: Path) -> dict[str, Path]:
    """Sixty days to learn from and twenty to be measured on, with holes."""
    found = {}
    for role, (num_days, seed, offset) in {"train": (60, 1, 0), "test": (20, 2, 100)}.items():
        hs, tz = heights(num_days, seed)
        lines = ["Date/Time,Hs,Hmax,Tz,Tp,Peak Direction,SST"]
        for index, (height, period) in enumerate(zip(hs, tz, strict=True)):
            time = START + timedelta(days=offset, hours=index)
            if index % 97 == 0:
                lines.append(f"{time:%d/%m/%Y %H:%M},-99.9,-99.9,-99.9,-99.9,-99.9,-99.9")
            else:
                lines.append(f"{time:%d/%m/%Y %H:%M},{height:.3f},{1.7 * height:.2f},{period:.3f},{1.2 * period:.3f},90,24.5")
        (folder / role).mkdir(parents=True, exist_ok=True)
        (folder / role / "waves.csv").write_text("\n".join(lines) + "\n")
        found[role] = folder / role
    return found
