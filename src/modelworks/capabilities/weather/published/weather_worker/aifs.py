"""AIFS through ECMWF's own packages (anemoi-inference, anemoi-models), in the operator's interpreter.

The network is a pickle: opening it runs what is in it, which is why this process is shut off. Its points are those of a reduced
Gaussian grid; states come and go on latitudes and longitudes, bilinear both ways.

Legend: S states, C channels, H latitudes, W longitudes, P points of the model, N corners.
"""

from __future__ import annotations

import importlib
from datetime import timedelta
from typing import Any

import numpy as np

from .exchange import Model, read, serve


def between(lat_p: Any, lon_p: Any, lat_h: Any, lon_w: Any) -> tuple[Any, Any]:
    """Flat indices (4, P) into a grid of (H, W), from north to south and closed in longitude, and weights (4, P)."""
    spacing_h, spacing_w = abs(lat_h[1] - lat_h[0]), lon_w[1] - lon_w[0]
    row = np.clip((lat_h[0] - lat_p) / spacing_h, 0, len(lat_h) - 1)
    column = ((lon_p - lon_w[0]) % 360) / spacing_w
    top, left = np.minimum(row.astype(int), len(lat_h) - 2), column.astype(int) % len(lon_w)
    down, right = row - top, column - np.floor(column)
    after = (left + 1) % len(lon_w)
    at = np.stack(
        [top * len(lon_w) + left, top * len(lon_w) + after, (top + 1) * len(lon_w) + left, (top + 1) * len(lon_w) + after]
    )
    return at, np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right])


def from_rows(lat_p: Any, lon_p: Any, lat_h: Any, lon_w: Any) -> tuple[Any, Any]:
    """Indices (4, H*W) into points that lie on rows of one latitude, each closed in longitude, and weights (4, H*W).

    Beyond the first and last row the row itself is taken.
    """
    rows = np.unique(np.round(lat_p, 6))[::-1]
    members = []
    for each in rows:
        here = np.flatnonzero(np.abs(lat_p - each) < 1e-5)
        members.append(here[np.argsort(lon_p[here] % 360)])
    place = np.clip(np.interp(-lat_h, -rows, np.arange(len(rows))), 0, len(rows) - 1)
    at, weights = np.zeros((4, len(lat_h), len(lon_w)), int), np.zeros((4, len(lat_h), len(lon_w)))
    for index, where in enumerate(place):
        top = min(int(where), max(len(rows) - 2, 0))
        for side, number in enumerate((top, min(top + 1, len(rows) - 1))):
            share = (where - top) if side else 1 - (where - top)
            ring = members[number]
            longitudes = lon_p[ring] % 360
            after = np.searchsorted(longitudes, lon_w % 360, side="right") % len(ring)
            before = (after - 1) % len(ring)
            span = (longitudes[after] - longitudes[before]) % 360
            right = ((lon_w - longitudes[before]) % 360) / np.where(span == 0, 360, span)
            at[2 * side, index], at[2 * side + 1, index] = ring[before], ring[after]
            weights[2 * side, index], weights[2 * side + 1, index] = share * (1 - right), share * right
    return at.reshape(4, -1), weights.reshape(4, -1)


class _Aifs:
    def __init__(self, given: dict[str, Any]) -> None:
        simple = importlib.import_module("anemoi.inference.runners.simple")
        importlib.import_module("anemoi.models")
        self._runner = simple.SimpleRunner(given["checkpoint"], device="cpu")
        arrays = read(given["static"])
        lat_p, lon_p = (np.array(arrays[name], np.float64) for name in ("latitudes", "longitudes"))
        lat_h, lon_w = np.array(given["latitude"]), np.array(given["longitude"])
        self._shape = (len(lat_h), len(lon_w))
        self._there, self._back = between(lat_p, lon_p, lat_h, lon_w), from_rows(lat_p, lon_p, lat_h, lon_w)
        self._names, self._hours = [str(each) for each in given["fields"]], float(given["hours"])
        self._static = {name: self._points(np.array(arrays[f"field_{name}"])) for name in given["fixed"]}
        self._where = {"latitudes": lat_p, "longitudes": lon_p}

    def _points(self, field_hw: Any) -> Any:
        at, weights = self._there
        return (field_hw.reshape(-1)[at] * weights).sum(axis=0).astype(np.float32)

    def advance(self, history_schw: Any, time: Any, step: int) -> Any:
        fields = {
            name: np.stack([self._points(state[place]) for state in history_schw]) for place, name in enumerate(self._names)
        }
        fields |= {name: np.stack([each] * len(history_schw)) for name, each in self._static.items()}
        now = time.astype("datetime64[s]").item()
        state = {"date": now, "fields": fields, **self._where}
        for found in self._runner.run(input_states=state, lead_time=timedelta(hours=self._hours)):
            given = {name: np.array(found["fields"][name], np.float32) for name in self._names}
        at, weights = self._back
        return np.stack([(given[name].reshape(-1)[at] * weights).sum(axis=0).reshape(self._shape) for name in self._names])


def _opened(given: dict[str, Any]) -> Model:
    return _Aifs(given)


def main() -> None:
    """Serve until stdin ends."""
    serve(_opened)
