"""Distances and circles on the sphere, across the date line, too."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from modelworks.capabilities.weather.cyclone.tracks import Fix, circle, distance_km, moved, offset_km

NOW = datetime(2020, 1, 1, tzinfo=UTC)


def test_distances_are_great_circles() -> None:
    # A quarter of a meridian, and London to New York.
    assert distance_km(0, 0, 90, 0) == pytest.approx(10007.557, abs=0.01)
    assert distance_km(51.5, -0.1, 40.7, -74.0) == pytest.approx(5567, abs=10)


def test_the_date_line_is_no_border() -> None:
    assert distance_km(10, 179.5, 10, -179.5) == pytest.approx(distance_km(10, 0, 10, 1), rel=1e-9)
    east, north = offset_km(Fix(NOW, 10, 179.5), Fix(NOW, 11, -179.5))
    assert east == pytest.approx(109.5, abs=0.1)
    assert north == pytest.approx(111.19, abs=0.01)
    assert moved(10, 179.5, east, north) == (pytest.approx(11), pytest.approx(-179.5))


@pytest.mark.parametrize("latitude", [0.0, 35.0, -62.0])
def test_every_point_of_a_circle_is_as_far(latitude: float) -> None:
    points = circle(latitude, 178.0, 400.0)
    assert points[0] == points[-1]
    assert all(distance_km(latitude, 178.0, *point) == pytest.approx(400) for point in points)
    assert max(longitude for _, longitude in points) > 180
