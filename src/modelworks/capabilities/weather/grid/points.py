"""Series at places between a grid's points, bilinear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import Floats, Grids
from modelworks.capabilities.weather.grid.writing import ForecastStore
from modelworks.capabilities.weather.schemas import Point, Series
from modelworks.contract.errors import InvalidRequest

#: Rows, columns and weights of the four points around a place.
Place = tuple[NDArray[np.intp], NDArray[np.intp], Floats]


def place_of(point: Point, grids: Grids) -> Place:
    """Rows, columns and weights of the four points around a place.

    Raises:
        InvalidRequest: it lies outside the grid.
    """
    latitudes, longitudes = grids.latitude_h, grids.longitude_w
    east = (point.longitude - longitudes[0]) % 360
    span = 360.0 if grids.is_global else float(longitudes[-1] - longitudes[0])
    if not latitudes[-1] <= point.latitude <= latitudes[0] or east > span + 1e-9:
        raise InvalidRequest(
            f"The point {point.name!r} ({point.latitude:g}, {point.longitude:g}) lies outside the grid: latitude "
            f"{latitudes[-1]:g} to {latitudes[0]:g}, longitude {longitudes[0]:g} to {longitudes[-1]:g}.",
            hint="Name a place within it.",
            param="points",
        )
    row = float(np.interp(point.latitude, latitudes[::-1], np.arange(len(latitudes))[::-1]))
    column = east / (float(longitudes[1] - longitudes[0]) if len(longitudes) > 1 else 1.0)
    rows = np.asarray([int(row), min(int(row) + 1, len(latitudes) - 1)])
    columns = np.asarray([int(column), int(column) + 1])
    columns = columns % len(longitudes) if grids.is_global else np.minimum(columns, len(longitudes) - 1)
    down, right = row - int(row), column - int(column)
    weights = np.asarray([[(1 - down) * (1 - right), (1 - down) * right], [down * (1 - right), down * right]], np.float32)
    return rows, columns, weights


def series_of(store: ForecastStore, point: Point, place: Place) -> list[Series]:
    """Each channel at a place by time; of ensembles the mean, and percentiles beside it."""
    layout = store.layout
    rows, columns, weights = place
    values_mtc = np.empty((max(1, layout.members), layout.steps, len(layout.channels)))
    for step, member, state_chw in store.steps():
        values_mtc[member, step] = (state_chw[:, rows][:, :, columns] * weights).sum(axis=(1, 2))
    found = []
    for index, channel in enumerate(layout.channels):
        own = values_mtc[:, :, index]
        plume = {}
        if layout.members > 1:
            quantiles = np.quantile(own, [0.1, 0.5, 0.9], axis=0)
            plume = {name: each.tolist() for name, each in zip(("p10", "p50", "p90"), quantiles, strict=True)}
        values = own.mean(axis=0).tolist()
        found.append(Series(point=point.name, channel=channel, units=layout.units_of(channel), values=values, **plume))
    return found
