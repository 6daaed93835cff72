"""What the trained graph answered to one row of ids, kept with the model, so that an engine can be held to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modelworks.capabilities.text.engines.tolerance import allowed_difference
from modelworks.contract.errors import IntegrityFailed

#: The key in a version's metadata.
METADATA_KEY = "probe"
#: The key of what the numbers that a quantised version stores answered, computed without any engine.
STORED_KEY = "stored_probe"
_MAX_IDS, _NUM_TOP, _NUM_SPREAD = 32, 16, 16


@dataclass(frozen=True, slots=True)
class Probe:
    """Ids, and some of the logits that follow them: the highest, and others from all over the vocabulary."""

    ids: tuple[int, ...]
    logits: Mapping[int, float]
    #: Standard deviation of all logits.
    spread: float

    @classmethod
    def taken(cls, model: Any, ids: Sequence[int]) -> Probe:
        """Ask a model; only the beginning of `ids` is used."""
        read = tuple(ids[:_MAX_IDS])
        with torch.no_grad():
            logits_v = model(input_ids=torch.tensor([read]), use_cache=False).logits[0, -1].float()
        size = logits_v.numel()
        highest = logits_v.topk(min(_NUM_TOP, size)).indices.tolist()
        others = range(0, size, max(1, size // _NUM_SPREAD))
        kept = {int(token): float(logits_v[token]) for token in sorted({*highest, *others})}
        return cls(read, kept, float(logits_v.std()))

    @classmethod
    def of(cls, metadata: Mapping[str, Any], key: str = METADATA_KEY) -> Probe | None:
        """The probe in a version's metadata, None for a model that was not trained here."""
        record = metadata.get(key)
        if not isinstance(record, dict):
            return None
        logits = {int(token): float(value) for token, value in record["logits"].items()}
        return cls(tuple(int(token) for token in record["ids"]), logits, float(record["spread"]))

    def record(self) -> dict[str, Any]:
        """As JSON, for a version's metadata."""
        logits = {str(token): value for token, value in self.logits.items()}
        return {"ids": list(self.ids), "logits": logits, "spread": self.spread}

    def difference(self, got: npt.NDArray[np.float32]) -> float:
        """The largest difference between logits (vocabulary) after `ids` and those that were kept."""
        return max(
            (abs(float(got[token]) - value) if token < got.size else math.inf for token, value in self.logits.items()),
            default=0.0,
        )

    def agrees(self, got: npt.NDArray[np.float32], tolerance: float) -> bool:
        """Whether the logits (vocabulary) of an engine after `ids` are those that were kept; see `check`."""
        # Logits of a sharper model differ by more for the same relative error.
        return self.difference(got) <= allowed_difference(tolerance, self.spread)

    def check(self, got: npt.NDArray[np.float32], tolerance: float, name: str) -> None:
        """Compare the logits (vocabulary) of an engine after `ids`.

        Args:
            tolerance: the largest accepted difference, for logits whose spread is 1 or less.

        Raises:
            IntegrityFailed: they are not those of the trained graph.
        """
        if not self.agrees(got, tolerance):
            raise IntegrityFailed(
                f"The model {name!r} would not answer as it was trained: its logits differ by {self.difference(got):.3g} "
                f"from those of the trained graph, where {allowed_difference(tolerance, self.spread):.3g} is allowed.",
                hint="Restore the weights that were trained, or deploy with a higher precision.",
                code="trained_weights_differ",
            )
