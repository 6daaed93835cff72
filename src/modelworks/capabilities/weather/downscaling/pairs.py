"""Pairs of a coarse and a fine state of one time, read or made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelworks.capabilities.weather.grid.grids import Grids
from modelworks.capabilities.weather.grid.reading import filled, read, told
from modelworks.capabilities.weather.model.climate import area_weights
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.run import Run


@dataclass(frozen=True, slots=True)
class Pairs:
    """A coarse and a fine state at each time."""

    coarse: Grids
    fine: Grids

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired on either side."""
        return tuple(dict.fromkeys((*self.coarse.notes, *self.fine.notes)))


def read_pairs(
    run: Run,
    role: str,
    *,
    channels: Sequence[str] | None,
    predictors: Sequence[str] | None,
    coarsen: int | None,
    max_missing: float,
) -> Pairs:
    """The pairs of a role, the coarse states being those of role "coarse" or made from the fine ones.

    Raises:
        InvalidRequest: neither, or both, of coarse data and a factor are given.
        InvalidData: the grids cannot be read, or have no time in common; `param` names the coordinate.
    """
    has_coarse = run.has_input("coarse")
    if has_coarse == (coarsen is not None):
        raise InvalidRequest(
            "Both a data set of role coarse and a factor coarsen were given."
            if has_coarse
            else "There is no data set of role coarse, and no factor by which the fine grid is made coarser.",
            hint="Give --data coarse=DATASET, or -p coarsen=4; not both.",
            param="coarsen",
        )
    if coarsen is None:
        fine = filled(read(run.dataset(role).path, channels=channels), max_missing)
        coarse = filled(read(run.dataset("coarse").path, channels=predictors), max_missing)
        return together(coarse, fine)
    wanted = None if channels is None or predictors is None else sorted({*channels, *predictors})
    whole = filled(read(run.dataset(role).path, channels=wanted), max_missing)
    coarse, fine = coarser(whole, coarsen)
    return Pairs(
        coarse if predictors is None else coarse.select(predictors), fine if channels is None else fine.select(channels)
    )


def together(coarse: Grids, fine: Grids) -> Pairs:
    """The states of times that both have.

    Raises:
        InvalidData: there are none.
    """
    times, ours, theirs = np.intersect1d(coarse.times_t, fine.times_t, return_indices=True)
    if not len(times):
        raise InvalidData(
            f"The coordinate time of the coarse grid ({coarse.times_t[0]} to {coarse.times_t[-1]}) and of the fine one "
            f"({fine.times_t[0]} to {fine.times_t[-1]}) have no time in common.",
            hint="Give states of the same times, on the minute.",
            code="no_common_times",
            param="time",
        )
    return Pairs(_at(coarse, ours, "coarse"), _at(fine, theirs, "fine"))


def _at(grids: Grids, index: np.typing.NDArray[np.intp], name: str) -> Grids:
    if len(index) == len(grids.times_t):
        return grids
    note = f"{len(index)} of {len(grids.times_t)} {name} states were taken: those of times that both grids have"
    values = grids.values_tchw[index]
    return replace(grids, times_t=grids.times_t[index], values_tchw=values, notes=(*grids.notes, note))


def coarser(fine: Grids, factor: int) -> tuple[Grids, Grids]:
    """Means over blocks of points by area, and the fine grid cut to whole blocks (from the north-west).

    Raises:
        InvalidData: there are fewer than two blocks in a direction.
    """
    rows, columns = len(fine.latitude_h) // factor, len(fine.longitude_w) // factor
    for name, count, values in (("latitude", rows, fine.latitude_h), ("longitude", columns, fine.longitude_w)):
        if count < 2:
            raise InvalidData(
                f"The coordinate {name} of the fine grid, {told(values)}, has no two blocks of {factor} points.",
                hint="Give a larger region, or a smaller factor.",
                code="wrong_grid",
                param=name,
            )
    height, width = rows * factor, columns * factor
    notes = fine.notes
    if (height, width) != (len(fine.latitude_h), len(fine.longitude_w)):
        size = f"{len(fine.latitude_h)} x {len(fine.longitude_w)}"
        notes = (*notes, f"the fine grid was cut to {height} x {width} of its {size} points: whole blocks of {factor}")
    fine = replace(
        fine,
        latitude_h=fine.latitude_h[:height],
        longitude_w=fine.longitude_w[:width],
        values_tchw=np.ascontiguousarray(fine.values_tchw[:, :, :height, :width]),
        constants={name: each[:height, :width] for name, each in fine.constants.items()},
        notes=notes,
    )
    areas = area_weights(fine.latitude_h).astype(np.float32)
    shape = (*fine.values_tchw.shape[:2], rows, factor, columns, factor)
    summed = (fine.values_tchw * areas[:, None]).reshape(shape).sum(axis=(3, 5))
    means = summed / (areas.reshape(rows, factor).sum(axis=1) * factor)[:, None]
    coarse = replace(
        fine,
        latitude_h=fine.latitude_h.reshape(rows, factor).mean(axis=1),
        longitude_w=fine.longitude_w.reshape(columns, factor).mean(axis=1),
        values_tchw=means.astype(np.float32),
        constants={},
        notes=(),
    )
    return coarse, fine
