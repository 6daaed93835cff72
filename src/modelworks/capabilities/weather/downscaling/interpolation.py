"""Interpolation between the points of a regular grid: bilinear, and bicubic by convolution (Keys 1981, a = -1/2).

Half a cell beyond the outermost points, values go on in a straight line: where a coarse grid holds means of cells, its cells
reach as far. All of it is linear, so an interpolation is a matrix for each direction.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import SAME_DEGREES, Floats, closes
from modelworks.capabilities.weather.grid.reading import told
from modelworks.contract.errors import InvalidData

Degrees = NDArray[np.float64]
Order = Literal["bilinear", "bicubic"]


def places(name: Literal["latitude", "longitude"], coarse: Degrees, wanted: Degrees) -> Degrees:
    """Where wanted coordinates lie among the coarse ones, in steps from the first.

    Raises:
        InvalidData: the coarse grid has a single row or column, or does not reach so far; `param` names the coordinate.
    """
    if len(coarse) < 2:
        raise InvalidData(
            f"The coordinate {name} of the coarse grid has one value.",
            hint="Give a coarse grid of at least two rows and columns.",
            code="wrong_grid",
            param=name,
        )
    step = float(coarse[1] - coarse[0])
    apart = wanted - coarse[0]
    if name == "longitude":
        # Counted from half a cell before the first meridian, so that those just west of it stay there.
        apart = np.mod(apart + step / 2 + SAME_DEGREES, 360) - step / 2 - SAME_DEGREES
    found = apart / step
    outside = (found < -0.5 - SAME_DEGREES / abs(step)) | (found > len(coarse) - 0.5 + SAME_DEGREES / abs(step))
    if outside.any() and not (name == "longitude" and closes(coarse)):
        raise InvalidData(
            f"The coordinate {name} of the fine grid is {told(wanted)}, and the coarse one's, {told(coarse)}, does not "
            f"reach so far (half a cell beyond its last points).",
            hint="Give a coarse grid that covers the fine one, or cut the fine one.",
            code="wrong_grid",
            param=name,
        )
    return np.asarray(found)


def weights(places_n: Degrees, size: int, order: Order, *, is_closed: bool) -> Floats:
    """The matrix (wanted, coarse) that interpolates along one direction."""
    reach = 1 if order == "bilinear" else 2
    first = np.floor(places_n).astype(int)
    if not is_closed:
        first = np.clip(first, -1, size - 1)
    part = places_n - first
    found = np.zeros((len(places_n), size))
    rows = np.arange(len(places_n))
    for offset in range(1 - reach, reach + 1):
        weight = _linear(part - offset) if order == "bilinear" else _keys(part - offset)
        at = first + offset
        if is_closed:
            np.add.at(found, (rows, at % size), weight)
            continue
        # A point beyond the end is twice the last one less the one before it, and so on: a straight line.
        over = np.where(at < 0, -at, np.where(at > size - 1, at - size + 1, 0))
        last, before = np.where(at < 0, 0, size - 1), np.where(at < 0, 1, size - 2)
        inside = over == 0
        np.add.at(found, (rows, np.where(inside, at, last)), weight * np.where(inside, 1.0, 1.0 + over))
        np.add.at(found, (rows, before), np.where(inside, 0.0, -weight * over))
    return found.astype(np.float32)


def interpolated(values: Floats, rows_nh: Floats, columns_nw: Floats) -> Floats:
    """The fine fields (…, rows, columns) of coarse ones (…, h, w)."""
    return np.asarray(rows_nh @ values @ columns_nw.T, np.float32)


def _linear(distance: Degrees) -> Degrees:
    return np.asarray(np.maximum(1 - np.abs(distance), 0.0))


def _keys(distance: Degrees) -> Degrees:
    x = np.abs(distance)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.asarray(np.where(x <= 1, near, np.where(x < 2, far, 0.0)))
