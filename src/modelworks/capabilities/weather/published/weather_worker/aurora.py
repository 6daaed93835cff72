"""Aurora (Bodnar et al., arXiv 2405.13063) through its package `microsoft-aurora`, in the operator's interpreter."""

from __future__ import annotations

import importlib
from datetime import datetime, timezone
from typing import Any

import numpy as np

from .exchange import Model, read, serve


class _Aurora:
    def __init__(self, given: dict[str, Any]) -> None:
        self._torch = importlib.import_module("torch")
        self._aurora = importlib.import_module("aurora")
        torch = self._torch
        self._model = getattr(self._aurora, given["class"])(**given["options"])
        weights = {name: torch.from_numpy(np.array(each)) for name, each in read(given["weights"]).items()}
        # As the package's own loader: older checkpoints have other names.
        weights = self._model._adapt_checkpoint(weights)
        if weights["encoder.surf_token_embeds.weights.2t"].shape[2] < self._model.max_history_size:
            self._model.adapt_checkpoint_max_history_size(weights)
        wanted = {name: tuple(each.shape) for name, each in self._model.state_dict().items()}
        found = {name: tuple(each.shape) for name, each in weights.items()}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise ValueError(f"{name} is {found.get(name, 'missing')}, and {given['class']} has {wanted.get(name, 'none')}")
        self._model.load_state_dict(weights, strict=True)
        self._model.eval()
        self._names: list[tuple[str, str]] = [(str(kind), str(name)) for kind, name in given["fields"]]
        self._levels = tuple(given["levels"])
        self._hours = self._model.timestep.total_seconds() / 3600
        static = read(given["static"])
        self._static = {name: torch.from_numpy(np.array(static[name])) for name in self._model.static_vars}
        self._lat = torch.tensor(given["latitude"], dtype=torch.float32)
        self._lon = torch.tensor(given["longitude"], dtype=torch.float32)

    def advance(self, history_schw: Any, time: Any, step: int) -> Any:
        torch, num_levels = self._torch, len(self._levels)
        given = torch.from_numpy(history_schw)[None]
        surface, upper, place = {}, {}, 0
        for kind, name in self._names:
            if kind == "surface":
                surface[name] = given[:, :, place]
                place += 1
            else:
                upper[name] = given[:, :, place : place + num_levels]
                place += num_levels
        now = datetime.fromisoformat(str(time.astype("datetime64[s]"))).replace(tzinfo=timezone.utc)  # noqa: UP017 - Python 3.10
        metadata = self._aurora.Metadata(
            lat=self._lat, lon=self._lon, time=(now,), atmos_levels=self._levels, rollout_step=step
        )
        batch = self._aurora.Batch(surf_vars=surface, static_vars=self._static, atmos_vars=upper, metadata=metadata)
        with torch.inference_mode():
            found = self._model.forward(batch)
        parts = [
            found.surf_vars[name][0, 0][None] if kind == "surface" else found.atmos_vars[name][0, 0]
            for kind, name in self._names
        ]
        return torch.cat(parts).float().numpy()


def _opened(given: dict[str, Any]) -> Model:
    return _Aurora(given)


def main() -> None:
    """Serve until stdin ends."""
    serve(_opened)
