"""A sequence of states on a grid, and the layout that all of them have here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.grid.vocabulary import parts
from modelworks.contract.errors import InvalidData

Floats = NDArray[np.float32]
Times = NDArray[np.datetime64]

#: Coordinates that differ by less are the same, degrees: float32 has about 1e-5 at 360.
SAME_DEGREES = 2e-3


@dataclass(frozen=True, slots=True)
class Grids:
    """States at times that rise.

    Shapes: T times, C channels, H latitudes from north to south, W longitudes that ascend without a gap (a global grid begins
    at 0, one of a region between -180 and 180). Values are in the vocabulary's units; nan is missing.
    """

    channels: tuple[str, ...]
    times_t: Times
    latitude_h: NDArray[np.float64]
    longitude_w: NDArray[np.float64]
    values_tchw: Floats
    #: What was repaired on the way here, a sentence each.
    notes: tuple[str, ...] = ()
    #: Fields without a time, by name (`zs`, `lsm`).
    constants: dict[str, Floats] = field(default_factory=dict)
    #: Channel -> how a value stands for its time: "instant", "accum", "avg", "max", "min".
    kinds: dict[str, str] = field(default_factory=dict)

    @property
    def is_global(self) -> bool:
        """Whether the longitudes close the circle."""
        return closes(self.longitude_w)

    @property
    def step_hours(self) -> float:
        """The hours between two times.

        Raises:
            InvalidData: there are fewer than two, or they are not equally far apart.
        """
        return step_hours(self.times_t)

    def select(self, channels: Sequence[str]) -> Grids:
        """These channels, in this order.

        Raises:
            InvalidData: one is missing; says which, and of which level.
        """
        lacking = [each for each in channels if each not in self.channels]
        if lacking:
            here = {parts(each)[0] for each in self.channels if parts(each)[1] is not None}
            levels = [each for each in lacking if parts(each)[1] is not None and parts(each)[0] in here]
            if levels:
                known = sorted({f"{parts(each)[1]:g}" for each in self.channels if parts(each)[1] is not None}, key=float)
                raise InvalidData(
                    f"The coordinate level of the data lacks {', '.join(levels)}; it has {', '.join(known)} hPa.",
                    hint="Give these levels as well; they are not interpolated.",
                    code="missing_channel",
                    param="level",
                )
            raise InvalidData(
                f"The data have no channel {', '.join(lacking)}; they have {', '.join(self.channels) or 'none'}.",
                hint="A channel is a variable, with its level in hPa where it has one: msl, t2m, z500.",
                code="missing_channel",
                param="channels",
            )
        index = [self.channels.index(each) for each in channels]
        kinds = {each: self.kinds[each] for each in channels if each in self.kinds}
        values = self.values_tchw if index == list(range(len(self.channels))) else self.values_tchw[:, index]
        return replace(self, channels=tuple(channels), values_tchw=values, kinds=kinds)

    def between(self, start: int, stop: int) -> Grids:
        """The states of these indices."""
        return replace(self, times_t=self.times_t[start:stop], values_tchw=self.values_tchw[start:stop])


def closes(longitude_w: NDArray[np.float64]) -> bool:
    """Whether equally spaced longitudes go round the whole circle."""
    if len(longitude_w) < 2:
        return False
    spacing = float(longitude_w[1] - longitude_w[0])
    return abs(len(longitude_w) * spacing - 360) < max(SAME_DEGREES * len(longitude_w), spacing / 4)


def step_hours(times_t: Times) -> float:
    """The hours between two times; see `Grids.step_hours`."""
    if len(times_t) < 2:
        raise InvalidData(
            f"The data have {len(times_t)} time, and it takes two to know how far apart they are.",
            hint="Give more states.",
            code="too_few_times",
            param="time",
        )
    gaps = np.diff(times_t).astype("timedelta64[s]").astype(np.int64)
    common = int(np.bincount(np.unique(gaps, return_inverse=True)[1]).argmax())
    usual = int(np.unique(gaps)[common])
    odd = np.flatnonzero(gaps != usual)
    if odd.size:
        first = int(odd[0])
        raise InvalidData(
            f"The times are {usual / 3600:g} hours apart, but {gaps[first] / 3600:g} hours lie between "
            f"{shown(times_t[first])} and {shown(times_t[first + 1])} ({odd.size} such places).",
            hint="Give states at equal distances; fill the missing ones, or cut the data there.",
            code="uneven_times",
            param="time",
        )
    return usual / 3600


def shown(time: Any) -> str:
    """A time for a person."""
    return str(np.datetime64(time, "m")).replace("T", " ")


def in_order(
    latitude_h: NDArray[np.float64], longitude_w: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64], list[str]]:
    """How rows and columns must be taken to lie in our layout: (rows, columns, longitudes, what was done).

    Longitudes are wound round so that they ascend without a gap, whichever of 0..360 and -180..180 the file has.

    Raises:
        InvalidData: coordinates that are no degrees, swapped, or given twice; names which.
    """
    notes: list[str] = []
    for name, values, least, most in (("latitude", latitude_h, -90.0, 90.0), ("longitude", longitude_w, -360.0, 720.0)):
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise InvalidData(
                f"The coordinate {name} is not a plain row of numbers (shape {values.shape}).",
                hint="Only regular latitude-longitude grids are read; regrid others first (cdo remapbil, xesmf).",
                code="wrong_grid",
                param=name,
            )
        if values.min() < least - SAME_DEGREES or values.max() > most + SAME_DEGREES:
            raise InvalidData(
                f"The coordinate {name} runs from {values.min():g} to {values.max():g}, outside {least:g} to {most:g} degrees"
                + (": latitude and longitude may be swapped." if name == "latitude" else "."),
                hint="Give degrees, latitude from -90 to 90; projected grids are regridded first.",
                code="wrong_grid",
                param=name,
            )
    rows = np.argsort(-latitude_h, kind="stable")
    if len(latitude_h) > 1 and latitude_h[0] < latitude_h[-1]:
        notes.append("latitude runs from south to north in the file and was turned round")
    wound = np.mod(np.round(longitude_w, 6), 360.0)
    order = np.argsort(wound, kind="stable")
    turned = wound[order]
    if len(turned) > 1 and np.min(np.diff(turned)) < SAME_DEGREES:
        # A global file that repeats its first meridian at the end.
        keep = np.concatenate([[True], np.diff(turned) >= SAME_DEGREES])
        if len(turned) - keep.sum() > 1:
            raise InvalidData(
                f"The coordinate longitude names {len(turned) - int(keep.sum())} meridians twice.",
                hint="Give each longitude once.",
                code="wrong_grid",
                param="longitude",
            )
        notes.append("longitude repeats its first meridian, which was left out")
        order, turned = order[keep], turned[keep]
    if len(np.unique(np.round(latitude_h, 4))) != len(latitude_h):
        raise InvalidData(
            "The coordinate latitude names a row twice.", hint="Give each latitude once.", code="wrong_grid", param="latitude"
        )
    if len(turned) > 1 and not closes(turned):
        gaps = np.append(np.diff(turned), turned[0] + 360 - turned[-1])
        cut = (int(np.argmax(gaps)) + 1) % len(turned)
        order, turned = np.roll(order, -cut), np.roll(turned, -cut)
        turned = np.where(turned < turned[0], turned + 360, turned)
        if turned[0] >= 180:
            turned = turned - 360
    for name, values in (("latitude", latitude_h[rows]), ("longitude", turned)):
        gaps = np.abs(np.diff(values))
        if len(gaps) and gaps.max() - gaps.min() > 2 * SAME_DEGREES + 0.02 * gaps.mean():
            raise InvalidData(
                f"The coordinate {name} is not equally spaced: steps from {gaps.min():g} to {gaps.max():g} degrees.",
                hint="Gaussian, rotated and cut grids are regridded first (cdo remapbil, xesmf).",
                code="wrong_grid",
                param=name,
            )
    if longitude_w.min() < 0 <= turned.min() or not np.allclose(np.diff(order), 1):
        notes.append("longitudes were wound round to ascend without a gap")
    return rows, order, turned, notes
