"""Cyclones found in gridded fields: a closed minimum of pressure, cyclonic vorticity, a warm core; then joined over time.

The rules are those of trackers in use (Zarzycki and Ullrich 2017; Ullrich et al. 2021, TempestExtremes): a minimum whose
pressure rises by 2 hPa all round within 5.5 degrees, with a thickness between two upper levels that falls by 58.8 m²/s² within
6.5 degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter
from scipy.optimize import linear_sum_assignment

from modelworks.capabilities.weather.cyclone.schemas import TrackingInput
from modelworks.capabilities.weather.cyclone.tracks import DEGREE_KM, EARTH_KM, between_km, distance_km, moved
from modelworks.capabilities.weather.grid.grids import Grids
from modelworks.contract.errors import InvalidData

Field = NDArray[np.float64]

#: In degrees: how far from each other minima are, and where rings of pressure and of thickness lie.
_APART, _RING, _WARM_RING = 3.0, 5.5, 6.5
#: In degrees: where the strongest vorticity and wind of a cyclone are looked for, and the middle of its warm core.
_VORTICITY_WITHIN, _WIND_WITHIN, _WARM_WITHIN = 2.5, 4.0, 1.0
#: Coarser grids do not show cyclones: a minimum and its ring would share points.
_COARSEST = 2.6
_AZIMUTHS: Final = np.linspace(0, 2 * np.pi, 24, endpoint=False)
#: Density of air near the surface, kg/m³: what a difference of pressure is as one of geopotential.
_DENSITY = 1.2
_KNOT: Final = 0.514444
#: A cyclone's fastest motion in m/s, and how far it may depart from going on as it did.
_FASTEST, _TURN_KM, _TURN = 35.0, 250.0, 12.0
#: Steps over which a centre may be lost.
_LOST = 1
#: By how much the thickness falls all round a warm core, m²/s²: six metres.
_WARM_FALL: Final = 58.8
#: The cost of a pair that is none.
_NEVER: Final = 1e9


@dataclass(frozen=True, slots=True)
class Centre:
    """A cyclone at one time; what the fields do not tell is None."""

    time: np.datetime64
    latitude: float
    longitude: float
    pressure_hpa: float | None
    wind_kt: float | None
    #: Cyclonic relative vorticity, 1/s.
    vorticity: float | None
    warm: bool | None


@dataclass(slots=True)
class Found:
    """One cyclone over time."""

    centres: list[Centre] = field(default_factory=list)
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Sources:
    """Which channels are looked at; None where the data have none."""

    pressure: str
    winds: tuple[str, str] | None
    vortex: tuple[str, str] | None
    thickness: tuple[str, str] | None


def sources(channels: Sequence[str]) -> Sources:
    """The best channels for each criterion.

    Raises:
        InvalidData: there is neither sea level pressure nor a low geopotential.
    """
    pressure = next((each for each in ("msl", "z1000", "z925", "z850") if each in channels), None)
    if pressure is None:
        raise InvalidData(
            f"No cyclone can be found in {', '.join(channels)}: msl, or one of z1000, z925 and z850 is needed.",
            hint="Give mean sea level pressure; winds at 850 hPa and geopotential at 300 and 500 hPa make it surer.",
            code="missing_channel",
            param="channels",
        )

    def pair(*pairs: tuple[str, str]) -> tuple[str, str] | None:
        return next((each for each in pairs if each[0] in channels and each[1] in channels), None)

    low = tuple((f"u{level}", f"v{level}") for level in (850, 925, 700))
    upper = tuple((f"z{high}", f"z{middle}") for middle in (500, 700, 850) for high in (300, 250, 200))
    return Sources(pressure, pair(("u10", "v10"), *low), pair(*low, ("u10", "v10")), pair(*upper))


def centres(grids: Grids, step: int, rules: TrackingInput) -> list[Centre]:
    """The cyclones of one time, the deepest first.

    Raises:
        InvalidData: the grid is too coarse, or lacks the pressure.
    """
    spacing = max(
        float(np.abs(np.diff(each)).max()) if len(each) > 1 else 999 for each in (grids.latitude_h, grids.longitude_w)
    )
    if spacing > _COARSEST:
        raise InvalidData(
            f"Points lie {spacing:g} degrees apart, too far to see cyclones; {_COARSEST} is the most.",
            hint="Give a finer grid.",
            code="wrong_grid",
        )
    look = sources(grids.channels)
    values = {name: grids.values_tchw[step, grids.channels.index(name)].astype(np.float64) for name in _names(look)}
    low = values[look.pressure]
    rise = rules.min_depth_hpa * 100 / (1 if look.pressure == "msl" else _DENSITY)
    vortex = None if look.vortex is None else vorticity(grids, *(values[name] for name in look.vortex))
    warm = None if look.thickness is None else values[look.thickness[0]] - values[look.thickness[1]]
    wind = None if look.winds is None else np.hypot(*(values[name] for name in look.winds))
    found = list[Centre]()
    for row, column in sorted(_minima(grids, low, rise), key=lambda place: low[place]):
        latitude, longitude = _refined(grids, low, row, column)
        if abs(latitude) > rules.max_latitude:
            continue
        # Two points that are equally low are one cyclone.
        if any(distance_km(latitude, longitude, each.latitude, each.longitude) < _APART * DEGREE_KM for each in found):
            continue
        ring = at(grids, low, *_ring(latitude, longitude, _RING))
        # A ring that leaves the grid says nothing about its other side.
        if not np.isfinite(ring).all() or ring.min() - low[row, column] < rise:
            continue
        spin = None
        if vortex is not None:
            spin = float(
                np.nanmax(np.where(_near(grids, latitude, longitude, _VORTICITY_WITHIN), vortex * np.sign(latitude), -1))
            )
            if spin < rules.min_vorticity:
                continue
        core = None if warm is None else _is_warm(grids, warm, latitude, longitude)
        if core is False and rules.warm_core:
            continue
        speed = None
        if wind is not None:
            speed = float(np.nanmax(np.where(_near(grids, latitude, longitude, _WIND_WITHIN), wind, 0))) / _KNOT
        pressure = float(low[row, column]) / 100 if look.pressure == "msl" else None
        found.append(Centre(grids.times_t[step], latitude, longitude, pressure, speed, spin, core))
    return found


def join(steps: Sequence[Sequence[Centre]], min_duration_h: float) -> list[Found]:
    """Centres of successive times as tracks; those that last less than `min_duration_h` are left out.

    At each time the pairs are chosen that together lie nearest to where their tracks would have gone on.
    """
    active, done = list[Found](), list[Found]()
    for now in steps:
        taken: set[int] = set()
        if active and now:
            cost = np.array([[_cost(track, centre) for centre in now] for track in active])
            for row, column in zip(*linear_sum_assignment(cost), strict=True):
                if np.isfinite(cost[row, column]) and cost[row, column] < _NEVER:
                    active[row].centres.append(now[column])
                    active[row].missed = -1
                    taken.add(int(column))
        for track in active:
            track.missed += 1
        done += [track for track in active if track.missed > _LOST]
        active = [track for track in active if track.missed <= _LOST]
        active += [Found([centre]) for index, centre in enumerate(now) if index not in taken]
    lasting = np.timedelta64(round(min_duration_h * 60), "m")
    found = [track for track in (*done, *active) if track.centres[-1].time - track.centres[0].time >= lasting]
    return sorted(found, key=lambda track: (track.centres[0].time, -len(track.centres)))


def vorticity(grids: Grids, u_hw: Field, v_hw: Field) -> Field:
    """Relative vorticity in 1/s of winds in m/s, by central differences on the sphere; NaN at the poles."""
    phi = np.radians(grids.latitude_h)
    cosine = np.cos(phi)[:, None]
    cosine = np.where(np.abs(cosine) < 1e-6, np.nan, cosine)
    spacing = np.radians(float(grids.longitude_w[1] - grids.longitude_w[0]))
    if grids.is_global:
        eastward = (np.roll(v_hw, -1, axis=1) - np.roll(v_hw, 1, axis=1)) / (2 * spacing)
    else:
        eastward = np.gradient(v_hw, spacing, axis=1)
    northward = np.gradient(u_hw * cosine, phi, axis=0)
    found: Field = (eastward - northward) / (EARTH_KM * 1000 * cosine)
    return found


def at(grids: Grids, field_hw: Field, latitude_n: Field, longitude_n: Field) -> Field:
    """Bilinear values at places; NaN outside of the grid."""
    rows = (grids.latitude_h[0] - latitude_n) / (grids.latitude_h[0] - grids.latitude_h[1])
    first, spacing = float(grids.longitude_w[0]), float(grids.longitude_w[1] - grids.longitude_w[0])
    columns = ((longitude_n - first) % 360) / spacing
    height, width = field_hw.shape
    inside = (rows >= 0) & (rows <= height - 1) & (grids.is_global | (columns <= width - 1))
    top = np.clip(np.floor(rows), 0, height - 2).astype(int)
    left = np.floor(columns).astype(int) % width if grids.is_global else np.clip(np.floor(columns), 0, width - 2).astype(int)
    right = (left + 1) % width
    down, across = rows - top, columns - np.floor(columns) if grids.is_global else columns - left
    upper = field_hw[top, left] * (1 - across) + field_hw[top, right] * across
    lower = field_hw[top + 1, left] * (1 - across) + field_hw[top + 1, right] * across
    return np.where(inside, upper * (1 - down) + lower * down, np.nan)


def _names(look: Sources) -> set[str]:
    pairs: list[Any] = [each for each in (look.winds, look.vortex, look.thickness) if each is not None]
    return {look.pressure, *(name for pair in pairs for name in pair)}


def _minima(grids: Grids, field_hw: Field, rise: float) -> list[tuple[int, int]]:
    """Points that are lowest within `_APART` degrees of latitude and longitude, one near the ring being higher by `rise`.

    The rim of a regional grid is left out.
    """
    steps = [abs(float(each[1] - each[0])) for each in (grids.latitude_h, grids.longitude_w)]
    mode = ("nearest", "wrap" if grids.is_global else "nearest")
    apart = [2 * max(1, round(_APART / step)) + 1 for step in steps]
    known = np.isfinite(field_hw)
    is_lowest = minimum_filter(np.where(known, field_hw, np.inf), size=apart, mode=mode) == field_hw
    # Along the meridian: the ring touches these points, whatever the latitude.
    reach = 2 * int(np.ceil(_RING / steps[0])) + 1
    around = maximum_filter1d(np.where(known, field_hw, -np.inf), reach, axis=0, mode="nearest")
    rows, columns = np.nonzero(is_lowest & (around - field_hw >= rise))
    height, width = field_hw.shape
    return [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if 0 < row < height - 1 and (grids.is_global or 0 < column < width - 1)
    ]


def _refined(grids: Grids, field_hw: Field, row: int, column: int) -> tuple[float, float]:
    """The lowest place of parabolas through a minimum and its neighbours, along each direction."""
    width = field_hw.shape[1]
    along = _vertex(*(float(field_hw[row, (column + each) % width]) for each in (-1, 0, 1)))
    down = _vertex(*(float(field_hw[row + each, column]) for each in (-1, 0, 1)))
    latitude = float(grids.latitude_h[row] + down * (grids.latitude_h[1] - grids.latitude_h[0]))
    longitude = float(grids.longitude_w[column] + along * (grids.longitude_w[1] - grids.longitude_w[0]))
    return latitude, (longitude + 180) % 360 - 180


def _vertex(before: float, here: float, after: float) -> float:
    """Where the parabola through three values is lowest, in steps from the middle one."""
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if np.isfinite(bend) and bend > 0 else 0.0


def _ring(latitude: float, longitude: float, degrees: float) -> tuple[Field, Field]:
    """Places at that angular distance, all round."""
    phi, angle = np.radians(latitude), np.radians(degrees)
    phis = np.arcsin(np.sin(phi) * np.cos(angle) + np.cos(phi) * np.sin(angle) * np.cos(_AZIMUTHS))
    turns = np.arctan2(np.sin(_AZIMUTHS) * np.sin(angle) * np.cos(phi), np.cos(angle) - np.sin(phi) * np.sin(phis))
    return np.degrees(phis), longitude + np.degrees(turns)


def _near(grids: Grids, latitude: float, longitude: float, degrees: float) -> NDArray[np.bool_]:
    away = distance_km(latitude, longitude, grids.latitude_h[:, None], grids.longitude_w[None, :])
    return np.asarray(away <= degrees * DEGREE_KM)


def _is_warm(grids: Grids, thickness_hw: Field, latitude: float, longitude: float) -> bool | None:
    """Whether the thickness falls all round the middle; None where the ring leaves the grid."""
    middle = np.where(_near(grids, latitude, longitude, _WARM_WITHIN), thickness_hw, -np.inf)
    ring = at(grids, thickness_hw, *_ring(latitude, longitude, _WARM_RING))
    if not np.isfinite(ring).all() or not np.isfinite(middle.max()):
        return None
    return bool(middle.max() - ring.max() >= _WARM_FALL)


def _cost(track: Found, centre: Centre) -> float:
    """Km between a centre and where the track would have gone on; `_NEVER` where no cyclone moves so."""
    last = track.centres[-1]
    seconds = float((centre.time - last.time) / np.timedelta64(1, "s"))
    if float(distance_km(last.latitude, last.longitude, centre.latitude, centre.longitude)) > _FASTEST * seconds / 1000:
        return _NEVER
    latitude, longitude, allowed = last.latitude, last.longitude, _FASTEST * seconds / 1000
    if len(track.centres) > 1:
        before = track.centres[-2]
        share = seconds / float((last.time - before.time) / np.timedelta64(1, "s"))
        east, north = between_km(before.latitude, before.longitude, last.latitude, last.longitude)
        latitude, longitude = moved(latitude, longitude, east * share, north * share)
        allowed = _TURN_KM + _TURN * seconds / 1000
    away = float(distance_km(latitude, longitude, centre.latitude, centre.longitude))
    return away if away <= allowed else _NEVER
