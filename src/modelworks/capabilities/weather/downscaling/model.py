"""A fine field from a coarse one: bicubic interpolation of the anomaly, and a ridge regression of what that leaves.

Each point of the fine grid is regressed on the coarse points around it, all predictors together, as in perfect-prognosis
downscaling (Maraun and Widmann 2018, chapter 11). Climates are removed on either side, so that a bias of the coarse
grid is corrected; the regression is of what interpolation leaves, so that with a strong penalty interpolation remains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from modelworks.capabilities.weather.downscaling.interpolation import interpolated, places, weights
from modelworks.capabilities.weather.grid.grids import Floats, Grids, Times, closes
from modelworks.capabilities.weather.grid.handshake import agreed
from modelworks.capabilities.weather.model.climate import Climate, area_weights, phase
from modelworks.contract.errors import InvalidData

CARD: Final = "downscaling.json"
WEIGHTS: Final = "downscaling.safetensors"
#: Of the ridge regression, for each state and in spreads of a predictor.
PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: More weights than this are no model to hand about.
MAX_WEIGHTS: Final = 500_000_000
#: A shorter stretch tells nothing of the seasons.
SEASONS_DAYS: Final = 500


class Card(BaseModel):
    """What a downscaling model says about itself."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    channels: list[str]
    predictors: list[str]
    latitude: list[float]
    longitude: list[float]
    coarse_latitude: list[float]
    coarse_longitude: list[float]
    step_hours: float
    kinds: dict[str, str]
    coarse_kinds: dict[str, str]
    #: The coarse grid was made from the fine one by means over so many points; None where it was given.
    coarsen: int | None
    window: int
    #: Whether the regression differs with the time of year.
    seasonal: bool
    first: str
    last: str
    num_states: int


@dataclass(frozen=True, slots=True)
class Frame:
    """How coarse and fine points lie to each other. Legend: P predictors, h, w coarse; C channels, H, W fine; F features."""

    channels: tuple[str, ...]
    predictors: tuple[str, ...]
    coarse_latitude_h: NDArray[np.float64]
    coarse_longitude_w: NDArray[np.float64]
    latitude_h: NDArray[np.float64]
    longitude_w: NDArray[np.float64]
    step_hours: float

    def matrices(self) -> tuple[Floats, Floats]:
        """The bicubic matrices of rows and columns; raises InvalidData where the coarse grid does not reach so far."""
        rows = places("latitude", self.coarse_latitude_h, self.latitude_h)
        columns = places("longitude", self.coarse_longitude_w, self.longitude_w)
        return (
            weights(rows, len(self.coarse_latitude_h), "bicubic", is_closed=False),
            weights(columns, len(self.coarse_longitude_w), "bicubic", is_closed=closes(self.coarse_longitude_w)),
        )

    def corners(self, window: int) -> tuple[NDArray[np.intp], NDArray[np.intp], int, int]:
        """First row and column of each fine point's neighbourhood, (H,) and (W,), and how many there are of either.

        A neighbourhood is moved inwards at an edge rather than cut, so that all have the same size.
        """
        found = []
        for name, coarse, fine in (
            ("latitude", self.coarse_latitude_h, self.latitude_h),
            ("longitude", self.coarse_longitude_w, self.longitude_w),
        ):
            size = min(window, len(coarse))
            nearest = np.rint(places(name, coarse, fine)).astype(int)  # type: ignore[arg-type]
            if name == "longitude" and closes(coarse):
                found.append((np.asarray((nearest - size // 2) % len(coarse)), size))
            else:
                found.append((np.asarray(np.clip(nearest - size // 2, 0, len(coarse) - size)), size))
        (rows, height), (columns, width) = found
        return rows, columns, height, width

    def groups(self, window: int) -> Iterator[tuple[slice, slice, NDArray[np.intp], NDArray[np.intp]]]:
        """Fine points with one neighbourhood: their rows and columns, and the coarse rows and columns of it."""
        rows, columns, height, width = self.corners(window)
        for fine_rows in _stretches(rows):
            for fine_columns in _stretches(columns):
                own_rows = rows[fine_rows.start] + np.arange(height)
                own_columns = (columns[fine_columns.start] + np.arange(width)) % len(self.coarse_longitude_w)
                yield fine_rows, fine_columns, own_rows, own_columns

    def num_features(self, window: int, *, seasonal: bool) -> int:
        """Features of a point."""
        _, _, height, width = self.corners(window)
        return len(self.predictors) * height * width * (3 if seasonal else 1) + (4 if self.step_hours < 24 else 0)


def _stretches(corners: NDArray[np.intp]) -> list[slice]:
    """Neighbours with the same corner."""
    cuts = [0, *(np.flatnonzero(np.diff(corners)) + 1).tolist(), len(corners)]
    return [slice(start, stop) for start, stop in pairwise(cuts)]


def features(
    anomaly_tphw: Floats,
    times_t: Times,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    step_hours: float,
    *,
    seasonal: bool,
) -> Floats:
    """What a neighbourhood's points are regressed on, (T, F), each of about unit spread: anomalies, seasons, hours."""
    found = [anomaly_tphw[:, :, rows][:, :, :, columns].reshape(len(times_t), -1)]
    if seasonal:
        angle = phase(times_t)
        found += [found[0] * (np.sqrt(2) * wave(angle)).astype(np.float32)[:, None] for wave in (np.cos, np.sin)]
    if step_hours < 24:
        seconds = times_t.astype("datetime64[s]")
        day = (seconds - seconds.astype("datetime64[D]").astype("datetime64[s]")).astype(np.float64) / 86_400 * 2 * np.pi
        waves = [wave(number * day) for number in (1, 2) for wave in (np.cos, np.sin)]
        found.append((np.sqrt(2) * np.stack(waves, axis=1)).astype(np.float32))
    return np.concatenate(found, axis=1)


@dataclass(slots=True)
class Downscaler:
    """A trained model."""

    card: Card
    frame: Frame
    coarse: Climate
    fine: Climate
    #: Weights of the features, (H, W, C, F).
    weights_hwcf: Floats

    def apply(self, coarse_tphw: Floats, times_t: Times) -> Floats:
        """The fine fields, (T, C, H, W), of coarse ones on the model's coarse grid, in the vocabulary's units."""
        frame, card = self.frame, self.card
        left = coarse_tphw - self.coarse.mean(times_t)
        found = carried(frame, left, self.fine.scale_c)
        anomaly = left / self.coarse.scale_c[:, None, None]
        for rows, columns, own_rows, own_columns in frame.groups(card.window):
            x = features(anomaly, times_t, own_rows, own_columns, frame.step_hours, seasonal=card.seasonal)
            own = self.weights_hwcf[rows, columns]
            found[:, :, rows, columns] += np.einsum("tf,hwcf->tchw", x, own, optimize=True)
        return self.fine.value(found, times_t)

    def agreed(self, coarse: Grids) -> Grids:
        """The coarse data on the model's coarse grid; raises InvalidData that names the coordinate or channel."""
        frame = self.frame
        return agreed(
            coarse,
            frame.predictors,
            frame.coarse_latitude_h,
            frame.coarse_longitude_w,
            frame.step_hours,
            self.card.coarse_kinds,
        )

    def save(self, folder: Path) -> None:
        """Write card and weights."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            "coarse.weights": self.coarse.weights_schw,
            "coarse.scale": self.coarse.scale_c,
            "fine.weights": self.fine.weights_schw,
            "fine.scale": self.fine.scale_c,
            "weights": self.weights_hwcf,
        }
        save_file({name: np.ascontiguousarray(each, np.float32) for name, each in tensors.items()}, folder / WEIGHTS)
        (folder / CARD).write_text(json.dumps(self.card.model_dump(mode="json"), indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Downscaler:
        """Open what `save` wrote; raises InvalidData where it is none, or damaged."""
        try:
            card = Card.model_validate_json((folder / CARD).read_bytes())
            tensors = load_file(folder / WEIGHTS)
            frame = frame_of(card)
            made = cls(
                card,
                frame,
                Climate(tensors["coarse.weights"], tensors["coarse.scale"]),
                Climate(tensors["fine.weights"], tensors["fine.scale"]),
                tensors["weights"],
            )
        except (OSError, KeyError, ValidationError, SafetensorError) as error:
            raise InvalidData(
                f"This is no downscaling model: {str(error).splitlines()[0][:200]}.",
                hint="Train one: modelworks train weather-downscaling --data DATASET.",
            ) from error
        count = frame.num_features(card.window, seasonal=card.seasonal)
        size = (len(card.latitude), len(card.longitude), len(card.channels), count)
        if card.format != 1 or made.weights_hwcf.shape != size:
            raise InvalidData(
                f"The weights of the downscaling model have the shape {made.weights_hwcf.shape}, not {size}.",
                hint="Train it again.",
            )
        return made


def frame_of(card: Card) -> Frame:
    """The frame that a card tells."""
    return Frame(
        tuple(card.channels),
        tuple(card.predictors),
        np.asarray(card.coarse_latitude, np.float64),
        np.asarray(card.coarse_longitude, np.float64),
        np.asarray(card.latitude, np.float64),
        np.asarray(card.longitude, np.float64),
        card.step_hours,
    )


def carried(frame: Frame, left_tphw: Floats, scale_c: Floats) -> Floats:
    """The coarse anomalies, in units, of channels that are on both grids, interpolated; in spreads of the fine ones."""
    rows, columns = frame.matrices()
    found = np.zeros((len(left_tphw), len(frame.channels), len(frame.latitude_h), len(frame.longitude_w)), np.float32)
    for place, channel in enumerate(frame.channels):
        if channel in frame.predictors:
            found[:, place] = interpolated(left_tphw[:, frame.predictors.index(channel)], rows, columns) / scale_c[place]
    return found


@dataclass(slots=True)
class Lesson:
    """What is learnt from: coarse anomalies, and what interpolation leaves of the fine ones; both in spreads."""

    frame: Frame
    times_t: Times
    anomaly_tphw: Floats
    left_tchw: Floats

    def scored(self, window: int, fold_t: NDArray[np.intp], *, seasonal: bool) -> NDArray[np.float64]:
        """Mean squares on blocks held out, (penalty, channel), weighted by area; the other blocks having been learnt from."""
        frame = self.frame
        folds = np.unique(fold_t)
        areas = area_weights(frame.latitude_h)
        found = np.zeros((len(PENALTIES), len(frame.channels)))
        for rows, columns, x, y in self._designs(window, seasonal=seasonal):
            parts = [(x[fold_t == fold], y[fold_t == fold]) for fold in folds]
            grams, moments = zip(*(_normal(*part) for part in parts), strict=True)
            area_k = np.broadcast_to(areas[rows][None, :, None], self._shape(rows, columns)).ravel()
            for (held_x, held_y), gram, moment in zip(parts, grams, moments, strict=True):
                fits = _fits(sum(grams) - gram, sum(moments) - moment, len(x) - len(held_x), PENALTIES)
                for place, fit in enumerate(fits):
                    squares = np.square(held_x @ fit - held_y, dtype=np.float64).sum(axis=0) * area_k
                    found[place] += squares.reshape(len(frame.channels), -1).sum(axis=1)
        return found / (len(self.times_t) * len(frame.latitude_h) * len(frame.longitude_w))

    def fitted(self, window: int, penalty_c: Sequence[float], *, seasonal: bool) -> Floats:
        """The weights of all points, (H, W, C, F), from every state."""
        frame = self.frame
        count = frame.num_features(window, seasonal=seasonal)
        found = np.empty((len(frame.latitude_h), len(frame.longitude_w), len(frame.channels), count), np.float32)
        for rows, columns, x, y in self._designs(window, seasonal=seasonal):
            gram, moment = _normal(x, y)
            fits = dict(zip(penalty_c, _fits(gram, moment, len(x), penalty_c), strict=True))
            shape = (count, *self._shape(rows, columns))
            for place, penalty in enumerate(penalty_c):
                found[rows, columns, place] = fits[penalty].reshape(shape)[:, place].transpose(1, 2, 0)
        return found

    def _shape(self, rows: slice, columns: slice) -> tuple[int, int, int]:
        return len(self.frame.channels), rows.stop - rows.start, columns.stop - columns.start

    def _designs(self, window: int, *, seasonal: bool) -> Iterator[tuple[slice, slice, Floats, Floats]]:
        for rows, columns, own_rows, own_columns in self.frame.groups(window):
            x = features(self.anomaly_tphw, self.times_t, own_rows, own_columns, self.frame.step_hours, seasonal=seasonal)
            yield rows, columns, x, self.left_tchw[:, :, rows, columns].reshape(len(x), -1)


def _normal(x: Floats, y: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = x.astype(np.float64)
    return wide.T @ wide, wide.T @ y


def _fits(gram: Any, moment: Any, count: int, penalties: Sequence[float]) -> list[Floats]:
    values, vectors = np.linalg.eigh(gram)
    turned = vectors.T @ moment
    return [
        np.asarray(vectors @ (turned / (np.maximum(values, 0) + penalty * count)[:, None]), np.float32) for penalty in penalties
    ]
