"""Rows into tensors: packed side by side without seeing each other, or padded one by one; and the order in which they come.

Shape suffixes: b rows, t positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn import functional

from modelworks.capabilities.text.training.loop import Batch
from modelworks.capabilities.text.training.rows import Row, pack, places_of
from modelworks.capabilities.text.training.spread import Spread
from modelworks.contract.errors import InvalidRequest

T = TypeVar("T")

#: Largest difference of a token's loss between a packed and a lone sample that rounding explains, relative to its size.
_PACKING_TOLERANCE = 1e-3


class Order:
    """Which items a step reads: each pass in another order, which follows from the seed and the pass alone.

    Args:
        batch_size: items that are computed at a time.
        accumulation: batches to a step.
    """

    def __init__(self, num_items: int, batch_size: int, accumulation: int, seed: int) -> None:
        self._num_items = num_items
        self._batch_size = batch_size
        self._per_step = batch_size * accumulation
        self._seed = seed
        self._epoch = -1
        self._items: list[int] = []

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass; the last may be smaller, rather than reaching into the next pass."""
        return math.ceil(self._num_items / self._per_step)

    def step(self, number: int) -> list[list[int]]:
        """The items of each batch of a step, counted from 0 over all passes."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            self._items = [int(item) for item in np.random.default_rng([self._seed, epoch]).permutation(self._num_items)]
            self._epoch = epoch
        items = self._items[place * self._per_step :][: self._per_step]
        return [items[start : start + self._batch_size] for start in range(0, len(items), self._batch_size)]


class RowSource:
    """Weighted rows as a source of the loop.

    Args:
        length: the longest packed row, in tokens.
        packing: several samples to a row; else one sample per row, padded.
        spread: the processes that share the run; each gets its portion of every batch.
        same_shape: every training batch has `batch_size` rows of `length`, filled up with what counts for nothing.
    """

    def __init__(
        self,
        training: Sequence[Row],
        validation: Sequence[Row],
        *,
        batch_size: int,
        accumulation: int,
        length: int,
        packing: bool,
        seed: int,
        spread: Spread | None = None,
        same_shape: bool = False,
    ) -> None:
        self._spread = spread or Spread()
        self._shape = (batch_size, length) if same_shape else None
        self._training = _bins(training, length, packing, np.random.default_rng([seed, 1]))
        self._validation = _bins(validation, length, packing, None)
        self._batch_size = batch_size
        self._order = Order(len(self._training), batch_size, accumulation, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass."""
        return self._order.steps_per_epoch

    def step(self, number: int) -> Sequence[Batch]:
        return [
            portion_of([self._training[item] for item in items], self._spread, partial(collate, shape=self._shape))
            for items in self._order.step(number)
        ]

    def place(self, number: int) -> str:
        return places_of(row for items in self._order.step(number) for item in items for row in self._training[item])

    def validation(self) -> Iterable[Batch]:
        for start in range(0, len(self._validation), self._batch_size):
            yield portion_of(self._validation[start : start + self._batch_size], self._spread, collate)


def portion_of(items: Sequence[T], spread: Spread, collated: Callable[[Sequence[T]], Batch]) -> Batch:
    """The portion of a batch that is this process's; where it has none, one item that counts for nothing."""
    portion = spread.portion(items)
    return collated(portion) if portion else collated(items[:1]).blank()


def _bins(rows: Sequence[Row], length: int, packing: bool, generator: np.random.Generator | None) -> list[list[Row]]:
    if not packing:
        return [[row] for row in rows]
    order = list(range(len(rows))) if generator is None else [int(index) for index in generator.permutation(len(rows))]
    return [[rows[index] for index in filled] for filled in pack(rows, length, order)]


def collate(bins: Sequence[Sequence[Row]], shape: tuple[int, int] | None = None) -> Batch:
    """Rows of samples, side by side, as tensors.

    Args:
        bins: the samples of each row.
        shape: rows and positions at least; what is added counts for nothing. By default no more than the samples need.

    Positions start anew with each sample, and attention stays within it, so that a sample's loss is what it would be alone.

    Returns:
        A batch of `inputs` bt and `positions` bt int64, `mask` b1tt (True: may be attended to), `targets` bt int64 and
        `weights` bt f32, those of the targets. A sample's last id is only a target.
    """
    num_rows, longest = len(bins), max(sum(len(row.ids) - 1 for row in samples) for samples in bins)
    if shape is not None:
        num_rows, longest = max(num_rows, shape[0]), max(longest, shape[1])
    inputs_bt = torch.zeros((num_rows, longest), dtype=torch.int64)
    positions_bt = torch.zeros((num_rows, longest), dtype=torch.int64)
    targets_bt = torch.zeros((num_rows, longest), dtype=torch.int64)
    weights_bt = torch.zeros((num_rows, longest), dtype=torch.float32)
    # What fills a row up is a sample of its own: a position that attends to nothing would be no number.
    sample_bt = torch.full((num_rows, longest), -1, dtype=torch.int64)
    num_tokens = 0
    for place, samples in enumerate(bins):
        start = 0
        for number, row in enumerate(samples):
            ids, size = torch.tensor(row.ids), len(row.ids) - 1
            here = slice(start, start + size)
            inputs_bt[place, here] = ids[:-1]
            targets_bt[place, here] = ids[1:]
            weights_bt[place, here] = torch.tensor(row.weights[1:])
            positions_bt[place, here] = torch.arange(size)
            sample_bt[place, here] = number
            start += size
            num_tokens += size
    causal_tt = torch.ones((longest, longest), dtype=torch.bool).tril()
    mask_b1tt = ((sample_bt[:, :, None] == sample_bt[:, None, :]) & causal_tt)[:, None]
    tensors = {
        "inputs": inputs_bt,
        "positions": positions_bt,
        "mask": mask_b1tt,
        "targets": targets_bt,
        "weights": weights_bt,
    }
    return Batch(tensors, weight=float(weights_bt.sum()), num_tokens=num_tokens)


def token_logits(model: Any, batch: Batch, columns_k: torch.Tensor | None = None) -> torch.Tensor:
    """The logits of every position, btv f32; bkv where only some columns are wanted.

    The head is the widest layer of all: columns in which no row learns anything need not pass through it.
    """
    more = {} if columns_k is None else {"logits_to_keep": columns_k}
    logits_btv = model(
        input_ids=batch.tensors["inputs"],
        attention_mask=batch.tensors["mask"],
        position_ids=batch.tensors["positions"],
        use_cache=False,
        **more,
    ).logits
    if columns_k is not None and logits_btv.shape[1] != columns_k.numel():
        # An architecture that knows nothing of the wish.
        logits_btv = logits_btv[:, columns_k]
    found: torch.Tensor = logits_btv.float()
    return found


def token_losses(model: Any, batch: Batch, columns_k: torch.Tensor | None = None) -> torch.Tensor:
    """Negative log-likelihood of every target in nats, bt f32, unweighted; bk where only some columns are wanted."""
    return losses_of(token_logits(model, batch, columns_k), batch, columns_k)


def losses_of(logits_btv: torch.Tensor, batch: Batch, columns_k: torch.Tensor | None = None) -> torch.Tensor:
    """What `token_losses` makes of the logits."""
    targets_bt = batch.tensors["targets"] if columns_k is None else batch.tensors["targets"][:, columns_k]
    losses: torch.Tensor = functional.cross_entropy(logits_btv.flatten(0, 1), targets_bt.flatten(), reduction="none").view_as(
        targets_bt
    )
    return losses


def learnt_columns(weights_bt: torch.Tensor) -> torch.Tensor:
    """The columns in which some row learns something, k int64."""
    return (weights_bt != 0).any(dim=0).nonzero().flatten()


def weighted_losses(model: Any, batch: Batch, weights_bt: torch.Tensor) -> torch.Tensor:
    """The loss of each row in nats, summed with weights, b f32."""
    columns_k = learnt_columns(weights_bt)
    return (token_losses(model, batch, columns_k) * weights_bt[:, columns_k]).sum(dim=1)


def answers(model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """The objective of supervised training: summed loss of the weighted targets, in nats."""
    return weighted_losses(model, batch, batch.tensors["weights"]).sum(), {}


def answers_in_one_shape(model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """`answers` for compiled code: all columns, so that nothing that is computed depends on what the samples say."""
    return (token_losses(model, batch) * batch.tensors["weights"]).sum(), {}


def check_packing(model: Any, rows: Iterable[Row]) -> None:
    """Make sure that this model keeps packed samples apart: the second's loss must not depend on the first.

    Raises:
        InvalidRequest: it depends on it, as in models that read on past the mask (state-space layers).
    """
    pair = list(_some(rows, 2))
    if len(pair) < 2:
        return
    was_training = model.training
    model.eval()
    with torch.no_grad():
        packed = token_losses(model, collate([pair]))[0, len(pair[0].ids) - 1 :]
        alone = token_losses(model, collate([pair[1:]]))[0]
    model.train(was_training)
    difference = float((packed - alone).abs().max())
    allowed = _PACKING_TOLERANCE * max(1.0, float(alone.abs().max()))
    if not difference <= allowed:
        raise InvalidRequest(
            f"This model lets packed samples see each other: a token's loss differs by {difference:.3g}.",
            hint="Set packing to false.",
            param="packing",
        )


def _some(rows: Iterable[Row], number: int) -> Iterator[Row]:
    for row, _ in zip(rows, range(number), strict=False):
        # Long rows would show nothing more.
        yield Row(row.ids[:64], row.weights[:64])
