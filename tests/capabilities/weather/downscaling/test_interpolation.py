import numpy as np
import pytest

from modelworks.capabilities.weather.downscaling.interpolation import Order, interpolated, places, weights
from modelworks.contract.errors import InvalidData


@pytest.mark.parametrize("order", ["bilinear", "bicubic"])
def test_planes_are_met_half_a_cell_beyond_the_last_points_too(order: Order) -> None:
    latitudes, longitudes = np.arange(60.0, 48.0, -2.0), np.arange(-6.0, 8.0, 2.0)
    fine_latitudes, fine_longitudes = np.linspace(61, 49, 25), np.linspace(-7, 7, 29)
    plane = 3 * latitudes[:, None] - 5 * longitudes[None]
    rows = weights(places("latitude", latitudes, fine_latitudes), len(latitudes), order, is_closed=False)
    columns = weights(places("longitude", longitudes, fine_longitudes), len(longitudes), order, is_closed=False)
    found = interpolated(plane[None].astype(np.float32), rows, columns)[0]
    np.testing.assert_allclose(found, 3 * fine_latitudes[:, None] - 5 * fine_longitudes[None], atol=1e-3)


def test_a_bicubic_follows_a_parabola_within_and_keeps_the_points() -> None:
    at = np.arange(8.0)
    wanted = np.linspace(1, 6, 41)
    matrix = weights(wanted, 8, "bicubic", is_closed=False)
    np.testing.assert_allclose(matrix @ at**2, wanted**2, atol=1e-5)
    np.testing.assert_allclose(weights(at, 8, "bicubic", is_closed=False), np.eye(8), atol=1e-7)


@pytest.mark.parametrize("order", ["bilinear", "bicubic"])
def test_a_globe_is_interpolated_across_its_first_meridian(order: Order) -> None:
    longitudes = np.arange(0.0, 360.0, 10.0)
    wanted = np.asarray([355.0, -5.0, 2.5, 359.0, 352.0])
    matrix = weights(places("longitude", longitudes, wanted), 36, order, is_closed=True)
    wave = np.cos(np.deg2rad(longitudes))
    np.testing.assert_allclose(matrix @ wave, np.cos(np.deg2rad(wanted)), atol=5e-3)
    np.testing.assert_allclose(matrix[0], matrix[1])
    # Half way between the last meridian and the first one, both count alike; at 352 degrees the last one more.
    assert matrix[0, 35] == matrix[0, 0] > 0.4
    assert matrix[4, 35] > matrix[4, 0] > 0.1


def test_what_the_coarse_grid_does_not_reach_is_refused_with_the_coordinates_name() -> None:
    coarse = np.arange(60.0, 48.0, -2.0)
    for name, grid, wanted in (
        ("latitude", coarse, np.asarray([61.5, 60.0])),
        ("latitude", coarse, np.asarray([50.0, 48.5])),
        ("longitude", np.arange(-6.0, 8.0, 2.0), np.asarray([-7.5, 0.0])),
        ("longitude", np.arange(-6.0, 8.0, 2.0), np.asarray([0.0, 7.5])),
        ("latitude", np.asarray([50.0]), np.asarray([50.0])),
    ):
        with pytest.raises(InvalidData) as caught:
            places(name, grid, wanted)  # type: ignore[arg-type]
        assert caught.value.param == name
        assert caught.value.hint
