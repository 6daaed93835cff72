"""How likely a model finds given tokens: windows over long rows, every target counted once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.nn import functional

#: Target value that a loss passes over.
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Window:
    """A row of ids; the loss counts for its targets from `first_counted` on, the ids before being context."""

    ids: list[int]
    first_counted: int
    #: One per id: which of the targets from `first_counted` on count; None for all.
    wanted: list[bool] | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """Measures rows under one model.

    Args:
        window: tokens seen at once. stride: new tokens per window, the rest being context. batch_size: windows at a time.
    """

    model: Any
    window: int
    stride: int
    batch_size: int

    def __call__(self, ids: Sequence[int], wanted: Sequence[bool] | None = None) -> tuple[float, int]:
        """Summed negative log-likelihood in nats of the wanted ids (all but the first), and how many they are."""
        nats, num_tokens = 0.0, 0
        parts = windows(ids, self.window, self.stride, wanted)
        while batch := list(islice(parts, self.batch_size)):
            batch_nats, batch_tokens = _measure(self.model, batch)
            nats += batch_nats
            num_tokens += batch_tokens
        return nats, num_tokens


def windows(ids: Sequence[int], window: int, stride: int, wanted: Sequence[bool] | None = None) -> Iterator[Window]:
    """Windows of at most `window` inputs whose counted targets tile `ids[1:]` exactly (Press et al. 2021)."""
    counted = 1  # the next target to count, as an index into ids
    while counted < len(ids):
        # The first window has no context to keep, and counts all of its targets.
        fresh = window if counted == 1 else stride
        end = min(counted + fresh, len(ids))
        start = max(0, end - 1 - window)
        yield Window(list(ids[start:end]), counted - start, None if wanted is None else list(wanted[start:end]))
        counted = end


def _measure(model: Any, batch: Iterable[Window]) -> tuple[float, int]:
    batch = list(batch)
    longest = max(len(window.ids) for window in batch) - 1
    inputs_bt = torch.zeros((len(batch), longest), dtype=torch.int64)
    targets_bt = torch.full((len(batch), longest), _IGNORED, dtype=torch.int64)
    for row, window in enumerate(batch):
        ids = torch.tensor(window.ids)
        targets = ids.clone()
        if window.wanted is not None:
            targets[~torch.tensor(window.wanted, dtype=torch.bool)] = _IGNORED
        # What stands to the right of a row's end cannot influence what stands before it.
        inputs_bt[row, : ids.numel() - 1] = ids[:-1]
        targets_bt[row, window.first_counted - 1 : ids.numel() - 1] = targets[window.first_counted :]
    with torch.inference_mode():
        logits_btv = model(input_ids=inputs_bt, use_cache=False).logits.float()
        nats = functional.cross_entropy(logits_btv.flatten(0, 1), targets_bt.flatten(), ignore_index=_IGNORED, reduction="sum")
    return float(nats), int((targets_bt != _IGNORED).sum())
