"""Data and model agree on what a state is, or the error says which coordinate is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.grids import SAME_DEGREES, Grids
from modelworks.capabilities.weather.grid.reading import told
from modelworks.contract.errors import InvalidData


def agreed(
    grids: Grids,
    channels: Sequence[str],
    latitude_h: NDArray[np.float64],
    longitude_w: NDArray[np.float64],
    step_hours: float,
    kinds: Mapping[str, str],
) -> Grids:
    """The data on the model's grid, with its channels in its order.

    A larger area is cut, and a finer grid thinned, where it has every point of the model's.

    Raises:
        InvalidData: a channel is missing, or of another kind (sums for values of instants); latitude or longitude are others;
            the steps are of another length. The error's `param` names which.
    """
    grids = grids.select(channels)
    for channel in channels:
        ours, theirs = kinds.get(channel, "instant"), grids.kinds.get(channel, "instant")
        if ours != theirs:
            raise InvalidData(
                f"{channel} of the data is of the kind {theirs}, and the model was trained on {ours}.",
                hint="Give the kind that the model knows: values of instants are not sums, means or extremes.",
                code="mixed_kinds",
                param=channel,
            )
    rows = _places("latitude", grids.latitude_h, latitude_h)
    columns = _places("longitude", grids.longitude_w, longitude_w)
    if len(grids.times_t) > 1 and abs(grids.step_hours - step_hours) > 1e-6:
        every = step_hours / grids.step_hours
        if abs(every - round(every)) > 1e-6 or every < 1:
            raise InvalidData(
                f"The coordinate time of the data has steps of {grids.step_hours:g} hours, and the model's are {step_hours:g}.",
                hint="Give states at the model's distance.",
                code="wrong_step",
                param="time",
            )
        # Counted back from the last state, which a forecast begins from.
        keep = np.arange(len(grids.times_t) - 1, -1, -round(every))[::-1]
        note = f"every {round(every)}th state was taken: steps are of {grids.step_hours:g} hours, the model's of {step_hours:g}"
        grids = replace(grids, times_t=grids.times_t[keep], values_tchw=grids.values_tchw[keep], notes=(*grids.notes, note))
    whole = np.array_equal(rows, np.arange(len(grids.latitude_h))) and np.array_equal(
        columns, np.arange(len(grids.longitude_w))
    )
    if not whole:
        size = f"{len(grids.latitude_h)} x {len(grids.longitude_w)}"
        note = f"the model's {len(rows)} x {len(columns)} points were taken out of {size}"
        constants = {name: each[rows][:, columns] for name, each in grids.constants.items()}
        values = grids.values_tchw[:, :, rows][:, :, :, columns]
        grids = replace(grids, values_tchw=values, constants=constants, notes=(*grids.notes, note))
    return replace(grids, latitude_h=latitude_h, longitude_w=longitude_w)


def _places(name: str, theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where the model's points lie among the data's."""
    apart = np.abs(theirs[None, :] - ours[:, None])
    if name == "longitude":
        apart = np.minimum(apart % 360, 360 - apart % 360)
    nearest = apart.argmin(axis=1)
    if apart[np.arange(len(ours)), nearest].max() > SAME_DEGREES:
        raise InvalidData(
            f"The coordinate {name} of the data is {told(theirs)}, and the model's is {told(ours)}.",
            hint="Regrid the data to the model's points first (cdo remapbil, xesmf), or give its area.",
            code="wrong_grid",
            param=name,
        )
    return np.asarray(nearest)
