"""Small best tracks with something to learn in them: storms that drift west, turn north with latitude and weaken there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from modelworks.capabilities.weather.cyclone.tracks import Fix, Storm, moved


def storms(first: int, last: int, *, per_season: int = 4, seed: int = 0) -> list[Storm]:
    """Some storms for each season; each has five days of fixes."""
    rng = np.random.default_rng(seed)
    found = []
    for season in range(first, last + 1):
        for number in range(1, per_season + 1):
            latitude, longitude, wind = rng.uniform(12, 24), rng.uniform(-70, -40), rng.uniform(35, 60)
            time = datetime(season, 8, 1, tzinfo=UTC) + timedelta(days=int(rng.integers(0, 60)))
            east, north = rng.normal(-18, 3), rng.normal(4, 2)
            fixes = []
            for step in range(21):
                fixes.append(
                    Fix(
                        time + timedelta(hours=6 * step),
                        round(latitude, 1),
                        round(longitude, 1),
                        round(wind),
                        1010 - wind / 2,
                        "storm",
                    )
                )
                # Recurvature: beyond 22 degrees the wind aloft blows from the west.
                turn = np.tanh((latitude - 22) / 5)
                latitude, longitude = moved(
                    latitude, longitude, 6 * (east + 30 * (turn + 1) / 2), 6 * (north + 8 * (turn + 1) / 2)
                )
                latitude, longitude = float(latitude + rng.normal(0, 0.05)), float(longitude + rng.normal(0, 0.05))
                wind = float(np.clip(wind + 2 - 6 * (turn > 0) + rng.normal(0, 1), 20, 140))
            found.append(Storm(f"AL{number:02d}{season}", f"STORM{number}", fixes))
    return found


def hurdat(storms: list[Storm]) -> str:
    """The storms as HURDAT2 has them."""
    lines = []
    for storm in storms:
        lines.append(f"{storm.id},{storm.name or 'UNNAMED':>19},{len(storm.fixes):>7},")
        for fix in storm.fixes:
            letters = ("N" if fix.latitude >= 0 else "S", "E" if fix.longitude >= 0 else "W")
            place = f"{abs(fix.latitude):5.1f}{letters[0]}, {abs(fix.longitude):5.1f}{letters[1]}"
            status = {"storm": "TS", "depression": "TD", "extratropical": "EX"}[fix.stage]
            lines.append(
                f"{fix.time:%Y%m%d}, {fix.time:%H%M},  , {status}, {place}, "
                f"{fix.wind_kt or -99:3.0f}, {fix.pressure_hpa or -999:4.0f}," + " -999," * 12
            )
    return "\n".join(lines) + "\n"


def write(folder: Path) -> dict[str, Path]:
    """A data set of twelve seasons to learn from, and one of three to be measured on."""
    found = {}
    for role, (first, last, seed) in {"train": (1990, 2001, 1), "test": (2002, 2004, 2)}.items():
        (folder / role).mkdir(parents=True, exist_ok=True)
        (folder / role / "best.txt").write_text(hurdat(storms(first, last, seed=seed)))
        found[role] = folder / role
    return found
