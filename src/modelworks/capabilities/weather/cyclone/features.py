"""What a track says about where it will go: position, motion, its changes, strength and season, as one row per start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from modelworks.capabilities.weather.cyclone.tracks import (
    DEGREE_KM,
    Fix,
    Floats,
    Storm,
    distance_km,
    offset_km,
    windows,
    wrapped,
)

#: Hours before a start at which a fix is needed.
HISTORY_H: Final = (6, 12, 18, 24)
#: Further back where known.
_EARLIER_H: Final = (36, 48)

#: Columns of a row. Motions are in km per hour, east and north; `m6` is the mean motion over the last six hours.
NAMES: Final = (
    "latitude",
    "longitude",
    *(f"m{hours}_{way}" for hours in (6, 12, 24) for way in ("east", "north")),
    "before_east",
    "before_north",
    "change_east",
    "change_north",
    "step_east",
    "step_north",
    *(f"m{hours}_{way}" for hours in _EARLIER_H for way in ("east", "north")),
    "speed",
    "heading",
    "along",
    "across",
    "before_across",
    "wind",
    "wind_change_6_18",
    "wind_change_12",
    "wind_change_24",
    "pressure",
    "pressure_change_12",
    "subtropical",
    "season_cos",
    "season_sin",
    "day",
)
COLUMN: Final[Mapping[str, int]] = {name: index for index, name in enumerate(NAMES)}

_NAN: Final = float("nan")


@dataclass(frozen=True, slots=True)
class Starts:
    """Forecasts to learn from or to be measured on: one row each.

    Args:
        rows_nf: features, with NaN where unknown; `longitude` is in degrees [-180, 180).
        targets_nl2: km east and north of the start at each lead, NaN where the storm is not verified.
        winds_nl: knots at each lead, NaN likewise.
        seasons_n: calendar year of each storm's first fix.
        fixes, storms: where each row starts.
    """

    rows_nf: Floats
    targets_nl2: Floats
    winds_nl: Floats
    seasons_n: Floats
    fixes: Sequence[Fix]
    storms: Sequence[str]

    def __len__(self) -> int:
        return len(self.fixes)

    def last(self, count: int) -> Starts:
        """So many of the latest ones, in the order of time."""
        chosen = np.argsort(self.hours_n, kind="stable")[-count:]
        return Starts(
            self.rows_nf[chosen],
            self.targets_nl2[chosen],
            self.winds_nl[chosen],
            self.seasons_n[chosen],
            [self.fixes[index] for index in chosen],
            [self.storms[index] for index in chosen],
        )

    @property
    def hours_n(self) -> Floats:
        """When each one starts, in hours since 1970."""
        return np.array([fix.time.timestamp() / 3600 for fix in self.fixes], dtype=np.float64)


def row(fix: Fix, fixes: Mapping[datetime, Fix]) -> list[float]:
    """The features of a start; `fixes` holds those at `HISTORY_H` before it."""
    back = {hours: fixes[fix.time - timedelta(hours=hours)] for hours in HISTORY_H}
    steps = {hours: tuple(-each for each in offset_km(fix, before)) for hours, before in back.items()}
    motion = {hours: (east / hours, north / hours) for hours, (east, north) in steps.items()}
    before = tuple((steps[24][way] - steps[12][way]) / 12 for way in (0, 1))
    east, north = motion[12]
    last = tuple((steps[12][way] - steps[6][way]) / 6 for way in (0, 1))
    earlier: list[float] = []
    for hours in _EARLIER_H:
        known = fixes.get(fix.time - timedelta(hours=hours))
        far = None if known is None else offset_km(fix, known)
        earlier += [_NAN, _NAN] if far is None else [(-far[way] - steps[24][way]) / (hours - 24) for way in (0, 1)]
    speed = float(np.hypot(east, north))
    floor = max(speed, 1.0)
    day = fix.time.timetuple().tm_yday
    angle = 2 * np.pi * day / 365.25
    wind, pressure = _or_nan(fix.wind_kt), _or_nan(fix.pressure_hpa)
    return [
        fix.latitude,
        fix.longitude,
        *motion[6],
        *motion[12],
        *motion[24],
        *before,
        east - before[0],
        north - before[1],
        *last,
        *earlier,
        speed,
        float(np.arctan2(east, north)),
        (motion[6][0] * east + motion[6][1] * north) / floor,
        (motion[6][0] * north - motion[6][1] * east) / floor,
        (before[0] * north - before[1] * east) / floor,
        wind,
        _or_nan(back[6].wind_kt) - _or_nan(back[18].wind_kt),
        wind - _or_nan(back[12].wind_kt),
        wind - _or_nan(back[24].wind_kt),
        pressure,
        pressure - _or_nan(back[12].pressure_hpa),
        float(fix.stage == "subtropical"),
        float(np.cos(angle)),
        float(np.sin(angle)),
        float(day),
    ]


def starts(storms: Sequence[Storm], leads_h: Sequence[int], *, first: str, verified: str) -> Starts:
    """Every start of the storms.

    Args:
        first: which systems a forecast starts from: `tropical` (depressions and stronger, subtropical ones too) or `storm` (at
            least 34 knots by its stage).
        verified: which ones it is held against: `tropical`, or `any` that still has a fix.
    """
    rows, targets, winds, seasons, fixes, names = [], [], [], [], [], []
    for storm, fix, known in windows(storms, HISTORY_H):
        if not _counts(fix, first):
            continue
        target, wind = [], []
        for lead in leads_h:
            later = known.get(fix.time + timedelta(hours=lead))
            if later is None or not _counts(later, verified):
                target.append((_NAN, _NAN))
                wind.append(_NAN)
            else:
                target.append(offset_km(fix, later))
                wind.append(_or_nan(later.wind_kt))
        rows.append(row(fix, known))
        targets.append(target)
        winds.append(wind)
        seasons.append(float(storm.season))
        fixes.append(fix)
        names.append(storm.id)
    count, leads = len(rows), len(leads_h)
    return Starts(
        np.array(rows, dtype=np.float64).reshape(count, len(NAMES)),
        np.array(targets, dtype=np.float64).reshape(count, leads, 2),
        np.array(winds, dtype=np.float64).reshape(count, leads),
        np.array(seasons, dtype=np.float64),
        fixes,
        names,
    )


def around(rows_nf: Floats, centre: float) -> Floats:
    """Rows whose longitude is counted from `centre`, so that no basin is cut at a meridian."""
    moved_nf = rows_nf.copy()
    moved_nf[:, COLUMN["longitude"]] = wrapped(rows_nf[:, COLUMN["longitude"]] - centre)
    return moved_nf


def extrapolated(rows_nf: Floats, lead_h: int) -> Floats:
    """Km east and north if a storm moved on as it did over the last twelve hours: what forecasts are compared with."""
    return rows_nf[:, [COLUMN["m12_east"], COLUMN["m12_north"]]] * lead_h


def errors_km(starts_: Starts, lead: int, found_n2: Floats) -> Floats:
    """Great-circle distances between forecast and best track, km; NaN where there is nothing to verify."""
    latitude, longitude = (starts_.rows_nf[:, COLUMN[name]] for name in ("latitude", "longitude"))
    scale = DEGREE_KM * np.cos(np.radians(latitude))
    target = starts_.targets_nl2[:, lead]
    return np.asarray(
        distance_km(
            latitude + found_n2[:, 1] / DEGREE_KM,
            longitude + found_n2[:, 0] / scale,
            latitude + target[:, 1] / DEGREE_KM,
            longitude + target[:, 0] / scale,
        )
    )


def _counts(fix: Fix, rule: str) -> bool:
    if rule == "any":
        return True
    if rule == "storm":
        return fix.stage == "storm"
    return fix.stage in ("depression", "storm", "subtropical")


def _or_nan(value: float | None) -> float:
    return _NAN if value is None else value
