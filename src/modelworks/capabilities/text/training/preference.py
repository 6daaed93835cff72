"""Direct preference optimisation (Rafailov et al. 2023): pairs of answers, weighed against what the base model thinks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from modelworks.capabilities.text.datasets import PreferenceSample
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.training.batches import Order, collate, portion_of, weighted_losses
from modelworks.capabilities.text.training.loop import Batch
from modelworks.capabilities.text.training.rows import Row, conversation_rows, places_of
from modelworks.capabilities.text.training.spread import Spread
from modelworks.contract.errors import InvalidData


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt. `reference` is by how many nats the base model finds the chosen one likelier."""

    chosen: Row
    rejected: Row
    reference: float = 0.0


def pair_of(prompt_format: PromptFormat, sample: PreferenceSample) -> Pair:
    """The two rows of a sample; only the answers count.

    Raises:
        InvalidData: the template refuses one of them, or writes the prompt anew in the middle of an answer.
    """
    where = f"{sample.source}, line {sample.line}"

    def row(answer: list[dict[str, Any]], name: str) -> Row:
        weights = [0.0] * len(sample.messages) + [1.0] * len(answer)
        rows = conversation_rows(prompt_format, [*sample.messages, *answer], sample.tools, weights, f"{where}, {name}")
        if len(rows) != 1:
            raise InvalidData(
                f"{where}: the {name} answer makes {len(rows)} rows, not one.",
                hint="Give each answer exactly one message of the role assistant.",
            )
        return rows[0]

    return Pair(row(sample.chosen, "chosen"), row(sample.rejected, "rejected"))


def with_references(model: Any, pairs: Sequence[Pair], spread: Spread | None = None) -> list[Pair]:
    """The pairs with the base model's preference, computed once and one by one: no second copy of it is kept in memory."""
    spread = spread or Spread()
    model.eval()
    with torch.no_grad():
        found = spread.gathered([float(_margins(model, _collate([pair]))[0]) for pair in spread.portion(pairs)])
    return [replace(pair, reference=reference) for pair, reference in zip(pairs, found, strict=True)]


class PairSource:
    """Pairs as a source of the loop."""

    def __init__(
        self,
        training: Sequence[Pair],
        validation: Sequence[Pair],
        *,
        batch_size: int,
        accumulation: int,
        seed: int,
        spread: Spread | None = None,
    ) -> None:
        self._spread = spread or Spread()
        self._training = training
        self._validation = validation
        self._batch_size = batch_size
        self._order = Order(len(training), batch_size, accumulation, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass."""
        return self._order.steps_per_epoch

    def step(self, number: int) -> Sequence[Batch]:
        return [
            portion_of([self._training[item] for item in items], self._spread, _collate) for items in self._order.step(number)
        ]

    def place(self, number: int) -> str:
        return places_of(self._training[item].chosen for items in self._order.step(number) for item in items)

    def validation(self) -> Iterable[Batch]:
        for start in range(0, len(self._validation), self._batch_size):
            yield portion_of(self._validation[start : start + self._batch_size], self._spread, _collate)


class Preference:
    """The objective: minus the log-sigmoid of beta times how much more than the base model the chosen answer is preferred."""

    def __init__(self, beta: float) -> None:
        self._beta = beta

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float]]:
        rewards_b = self._beta * (_margins(model, batch) - batch.tensors["references"])
        further = {
            "reward_margin": float(rewards_b.detach().sum()),
            "reward_accuracy": float((rewards_b.detach() > 0).sum()),
        }
        return -functional.logsigmoid(rewards_b).sum(), further


def _collate(pairs: Sequence[Pair]) -> Batch:
    """Chosen rows, then rejected ones; `references` is b of the pairs. The loss is a sum over pairs."""
    batch = collate([[pair.chosen] for pair in pairs] + [[pair.rejected] for pair in pairs])
    references_b = torch.tensor([pair.reference for pair in pairs], dtype=torch.float32)
    return replace(batch, tensors={**batch.tensors, "references": references_b}, weight=float(len(pairs)))


def _margins(model: Any, batch: Batch) -> torch.Tensor:
    """By how many nats each chosen answer is likelier than the rejected one, b."""
    # A weight below 1 asks for less of an answer's loss; which answer is the better one has no degrees.
    counted_bt = (batch.tensors["weights"] > 0).float()
    likelihood_b = -weighted_losses(model, batch, counted_bt)
    chosen_b, rejected_b = likelihood_b.chunk(2)
    return chosen_b - rejected_b
