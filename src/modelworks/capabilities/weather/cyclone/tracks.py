"""What a cyclone's track is, and distances on the sphere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

#: Mean radius of the Earth (IUGG), and the nautical mile, in km.
EARTH_KM: Final = 6371.0088
NAUTICAL_MILE_KM: Final = 1.852
#: One degree of latitude, in km.
DEGREE_KM: Final = EARTH_KM * np.pi / 180
#: Agencies give positions at these hours of UTC; landfalls and peaks between them are not used as starts.
SYNOPTIC_H: Final = 6

#: storm covers tropical storms, severe ones and hurricanes or typhoons alike: `wind_kt` tells them apart.
Stage = Literal["disturbance", "depression", "storm", "subtropical", "extratropical", "unknown"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fix:
    """Where a cyclone's centre was: latitude and longitude in degrees (north and east positive, longitude in [-180, 180))."""

    time: datetime
    latitude: float
    longitude: float
    #: Largest sustained wind in knots, by the agency's own averaging time.
    wind_kt: float | None = None
    pressure_hpa: float | None = None
    stage: Stage = "unknown"


@dataclass(slots=True)
class Storm:
    """One cyclone's fixes in the order of time, no two of the same time."""

    id: str
    name: str | None = None
    fixes: list[Fix] = field(default_factory=list)

    @property
    def season(self) -> int:
        """The calendar year of its first fix."""
        return self.fixes[0].time.year

    def synoptic(self) -> dict[datetime, Fix]:
        """Fixes at 00, 06, 12 and 18 UTC by their time."""
        return {fix.time: fix for fix in self.fixes if fix.time.hour % SYNOPTIC_H == 0 and fix.time.minute == 0}


def wrapped(degrees: Any) -> Any:
    """Degrees of longitude in [-180, 180)."""
    return (degrees + 180) % 360 - 180


def distance_km(latitude_a: Any, longitude_a: Any, latitude_b: Any, longitude_b: Any) -> Any:
    """Great-circle distance in km on a sphere, by the haversine formula; degrees in, arrays allowed."""
    phi_a, lambda_a, phi_b, lambda_b = (np.radians(each) for each in (latitude_a, longitude_a, latitude_b, longitude_b))
    half = np.sin((phi_b - phi_a) / 2) ** 2 + np.cos(phi_a) * np.cos(phi_b) * np.sin((lambda_b - lambda_a) / 2) ** 2
    return 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))


def offset_km(fix: Fix, other: Fix) -> tuple[float, float]:
    """How far east and north of `fix` the other one is, in km on the plane that touches the sphere's circle of latitude."""
    return between_km(fix.latitude, fix.longitude, other.latitude, other.longitude)


def between_km(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> tuple[float, float]:
    """The same between two places."""
    east = wrapped(to_longitude - longitude) * DEGREE_KM * np.cos(np.radians(latitude))
    return float(east), float((to_latitude - latitude) * DEGREE_KM)


def moved(latitude: Any, longitude: Any, east_km: Any, north_km: Any) -> tuple[Any, Any]:
    """The place so many km east and north: the inverse of `offset_km`. Latitudes end at the poles."""
    new_latitude = np.clip(latitude + north_km / DEGREE_KM, -90, 90)
    return new_latitude, wrapped(longitude + east_km / (DEGREE_KM * np.maximum(np.cos(np.radians(latitude)), 0.05)))


def circle(latitude: float, longitude: float, radius_km: float, points: int = 48) -> list[tuple[float, float]]:
    """Points (latitude, longitude) at that great-circle distance, closed: the last one is the first.

    Longitudes go on beyond ±180 rather than jump, so that a polygon of them does not cross the map.
    """
    angle = radius_km / EARTH_KM
    phi = np.radians(latitude)
    bearings = np.linspace(0, 2 * np.pi, points, endpoint=False)
    phis = np.arcsin(np.sin(phi) * np.cos(angle) + np.cos(phi) * np.sin(angle) * np.cos(bearings))
    turns = np.arctan2(np.sin(bearings) * np.sin(angle) * np.cos(phi), np.cos(angle) - np.sin(phi) * np.sin(phis))
    found = [(float(np.degrees(each)), float(longitude + np.degrees(turn))) for each, turn in zip(phis, turns, strict=True)]
    return [*found, found[0]]


def windows(storms: Sequence[Storm], history_h: Sequence[int]) -> Iterator[tuple[Storm, Fix, dict[datetime, Fix]]]:
    """Every synoptic fix that has a fix at each of the hours before it, with the storm's synoptic fixes."""
    for storm in storms:
        fixes = storm.synoptic()
        for time, fix in fixes.items():
            if all(time - timedelta(hours=hours) in fixes for hours in history_h):
                yield storm, fix, fixes
