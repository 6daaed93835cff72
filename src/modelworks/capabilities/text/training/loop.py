"""The training loop that every method shares: steps, curves, checkpoints, measuring, stopping early, stopping when asked.

Method: AdamW (Loshchilov & Hutter 2019) with a linear warm-up and a cosine to a part of the highest rate; gradients clipped by
their norm; weights in f32, computed as `precision` says. Where several processes share the run, each goes through the same
steps with its portion of every batch (`spread`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.text import checkpoint as checkpoints
from modelworks.capabilities.text.checkpoint import Position
from modelworks.capabilities.text.training.disk import bytes_of, enough_room
from modelworks.capabilities.text.training.precision import Precision
from modelworks.capabilities.text.training.spread import Spread
from modelworks.contract.errors import Cancelled, InvalidRequest
from modelworks.contract.run import Run

_ADAM_BETAS = (0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are computed at a time.

    `weight` is what the loss is a sum over (weighted tokens, pairs); `num_tokens` counts every token that is read. A batch of
    weight 0 is computed and counts for nothing: a process whose rows have run out keeps the others company with it.
    """

    tensors: Mapping[str, torch.Tensor]
    weight: float
    num_tokens: int

    def blank(self) -> Batch:
        """The same rows, counting for nothing."""
        return replace(self, weight=0.0, num_tokens=0)

    def on(self, device: torch.device) -> Batch:
        """The same batch where it is to be computed."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})


class Source(Protocol):
    """Where batches come from. What a step reads follows from its number alone, so a resumed run needs no stored position.

    In each of several processes it gives that process's portion of each batch, blank where there is none: as many batches as in
    the others.
    """

    def step(self, number: int) -> Sequence[Batch]:
        """The batches whose gradients are added up in step `number`, counted from 0."""
        ...

    def place(self, number: int) -> str:
        """Which records step `number` reads, for a message: files and lines; empty where that is not known."""
        ...

    def validation(self) -> Iterable[Batch]:
        """The held-out batches, the same every time; none where nothing is held out."""
        ...


class Objective(Protocol):
    """What is made small: returns the sum of the loss over a batch, a scalar, and further sums for the curves."""

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long and how fast is trained, and when something is written down; in optimiser steps."""

    num_steps: int
    learning_rate: float
    min_learning_rate_ratio: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    checkpoint_every: int
    validate_every: int
    log_every: int
    #: Measurements without a lower validation loss after which training ends; None: never.
    patience: int | None = None
    #: Steps that are stopped only together: of a group that was begun, the next attempt would not find what it read.
    #: `checkpoint_every` is a multiple of it.
    group: int = 1
    #: Steps after which the model is saved as a result of its own.
    keep_at: frozenset[int] = frozenset()

    def keeping(self, epochs: int, steps_per_epoch: int) -> Schedule:
        """The same, with the models of that many epochs before the last saved."""
        ends = range(steps_per_epoch, self.num_steps, steps_per_epoch)
        return replace(self, keep_at=frozenset(ends[len(ends) - min(epochs, len(ends)) :]))

    def learning_rate_after(self, step: int) -> float:
        """The rate of the step that follows `step` finished ones."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        lowest = self.min_learning_rate_ratio
        return self.learning_rate * (lowest + (1 - lowest) * cosine)


#: Saves the model as it is now, and leaves it as it was; is given what the held-out data say of it.
Keep = Callable[[Position, Mapping[str, float]], None]


class TrainingLoop:
    """One instance per attempt and process. Only parameters that require a gradient are trained and stored.

    Args:
        keep: called after the steps of `Schedule.keep_at`, in every process.
        spread: how the model is spread over the processes that share the run; not at all by default.
        precision: in which numbers it is computed; in f32 by default.

    Raises:
        InvalidData: the run's checkpoint belongs to another model.
    """

    def __init__(
        self,
        run: Run,
        schedule: Schedule,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        source: Source,
        objective: Objective,
        spread: Spread | None = None,
        keep: Keep | None = None,
        precision: Precision | None = None,
    ) -> None:
        self._keep = keep
        self._spread = spread or Spread()
        self._precision = precision or Precision()
        spread_model = self._spread.over(model)
        self._run = run
        self._schedule = schedule
        self._model = model
        self._tokenizer = tokenizer
        self._source = source
        self._objective = objective
        self._trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        # Sharded parameters and whole ones have the same number of dimensions.
        matrices = [parameter for parameter in self._trained.values() if parameter.ndim > 1]
        vectors = [parameter for parameter in self._trained.values() if parameter.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=schedule.learning_rate,
            betas=_ADAM_BETAS,
            fused=True,
        )
        self._at = Position(step=0, tokens_seen=0, first_loss=math.nan, last_loss=math.nan)
        #: The weights of the best measurement, kept where training may stop early.
        self._best: dict[str, torch.Tensor] = {}
        if run.resume_from is not None:
            self._at = checkpoints.restore(run.resume_from, model, self._optimiser, self._spread)
            self._best = checkpoints.restore_best(run.resume_from, model, self._spread)
        self._computed = self._precision.of(spread_model)
        # Measuring is rare, so nothing is compiled for it.
        self._learnt = self._precision.fast(objective)
        self._stored_step = self._at.step
        if not self._spread.world.is_first:
            # Layers that draw (dropout) draw other numbers for other rows. The first process goes on with the checkpoint's.
            torch.manual_seed((run.seed, self._spread.world.rank, self._at.step).__hash__() % (1 << 63))

    def finish(self) -> Position:
        """Train to the last step, or until the validation loss stays where it is, and say where that was.

        Raises:
            InvalidRequest: the loss stopped being a number.
            Cancelled: the user stopped the run; a checkpoint was stored first.
        """
        schedule, total = self._schedule, self._schedule.num_steps
        self._computed.train()
        started, tokens_before = time.monotonic(), self._at.tokens_seen
        self._run.progress(self._at.step, total, "steps")
        while self._at.step < total and not self._is_over():
            if self._at.step % schedule.group == 0:
                self._stop_if_asked()
            learning_rate = schedule.learning_rate_after(self._at.step)
            loss, further = self._step(learning_rate)
            step = self._at.step
            if step == 1 or step % schedule.log_every == 0 or step == total:
                elapsed = max(time.monotonic() - started, 1e-9)
                rate = (self._at.tokens_seen - tokens_before) / elapsed
                started, tokens_before = time.monotonic(), self._at.tokens_seen
                self._run.log(step, loss=loss, lr=learning_rate, tokens_per_s=rate, **further)
                self._run.progress(step, total, "steps")
            metrics = self._measure() if step < total and step % schedule.validate_every == 0 else None
            if step in schedule.keep_at:
                # Before the checkpoint: what follows it is saved again by an attempt that begins there, and this is not.
                self._keep_model(metrics)
            if step < total and step % schedule.checkpoint_every == 0:
                self._store()
        if self._best and self._at.step == total:
            # The last weights compete too.
            self._measure()
        if self._best:
            with torch.no_grad():
                for name, value in self._best.items():
                    self._trained[name].copy_(value)
            self._precision.follow()
        self._run.progress(total, total, "steps")
        return self._at

    def validation_metrics(self) -> dict[str, float]:
        """`validation_loss` per unit of weight, and the objective's own curves, over what is held out; empty without it."""
        total, weight = 0.0, 0.0
        sums: dict[str, float] = {}
        self._computed.eval()
        with torch.no_grad():
            for batch in self._source.validation():
                loss, further = self._objective(self._computed, batch.on(self._spread.device))
                for name, value in further.items():
                    sums[name] = sums.get(name, 0.0) + (value if batch.weight else 0.0)
                total += float(loss) if batch.weight else 0.0
                weight += batch.weight
        self._computed.train()
        total, weight, *found = self._spread.sums(total, weight, *sums.values())
        sums = dict(zip(sums, found, strict=True))
        if not weight:
            return {}
        return {"validation_loss": total / weight} | {f"validation_{name}": value / weight for name, value in sums.items()}

    def _keep_model(self, metrics: Mapping[str, float] | None) -> None:
        if metrics is None:
            metrics = self.validation_metrics()
        self._run.log(self._at.step, loss=self._at.last_loss, **metrics)
        if self._keep is not None:
            self._spread.rest()
            self._keep(self._at, metrics)
            self._computed.train()

    def _measure(self) -> dict[str, float]:
        metrics = self.validation_metrics()
        if not metrics:
            return metrics
        self._run.log(self._at.step, **metrics)
        if self._schedule.patience is None:
            return metrics
        if self._at.best_loss is None or metrics["validation_loss"] < self._at.best_loss:
            self._at = replace(self._at, best_loss=metrics["validation_loss"], waited=0)
            self._best = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        else:
            self._at = replace(self._at, waited=self._at.waited + 1)
        return metrics

    def _is_over(self) -> bool:
        return self._schedule.patience is not None and self._at.waited >= self._schedule.patience

    def _step(self, learning_rate: float) -> tuple[float, dict[str, float]]:
        batches = self._source.step(self._at.step)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        # The mean over the whole step, however its batches are cut.
        weight, num_tokens = self._spread.sums(
            sum(batch.weight for batch in batches), float(sum(batch.num_tokens for batch in batches))
        )
        value = 0.0
        sums: dict[str, float] = {}
        for number, batch in enumerate(batches, start=1):
            with self._spread.adding_up(number == len(batches)):
                total, further = self._learnt(self._computed, batch.on(self._spread.device))
                loss = total / weight if batch.weight else total * 0.0
                value += float(loss.detach())
                (loss * self._spread.gradient_scale).backward()
                self._precision.gather()
            for name, found in further.items():
                sums[name] = sums.get(name, 0.0) + (found if batch.weight else 0.0)
        value, *totals = self._spread.sums(value, *sums.values())
        sums = dict(zip(sums, totals, strict=True))
        # Seen before the weights are touched, so that no checkpoint ever holds them; and by all processes alike.
        self._check_finite("loss", value)
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self._schedule.max_grad_norm)
        self._check_finite("gradient", float(self._spread.whole(norm)))
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._precision.follow()
        self._at = replace(
            self._at,
            step=self._at.step + 1,
            tokens_seen=self._at.tokens_seen + round(num_tokens),
            first_loss=self._at.first_loss if self._at.step else value,
            last_loss=value,
        )
        return value, {name: number / weight for name, number in sums.items()}

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            rate = self._optimiser.param_groups[0]["lr"]
            records = self._source.place(self._at.step)
            look = f" Where that does not help, look at {records}." if records else ""
            kept = f" The weights of step {self._stored_step} are kept in a checkpoint." if self._stored_step else ""
            raise InvalidRequest(
                f"Training diverged: the {what} is {value} at step {self._at.step + 1}, with a learning rate of {rate:.3g}"
                f"{f', on {records}' if records else ''}.{kept}",
                hint=f"Lower learning_rate (it is {self._schedule.learning_rate:g}) or raise warmup_steps.{look}",
                code="training_diverged",
            )

    def _stop_if_asked(self) -> None:
        try:
            self._run.raise_if_cancelled()
        except Cancelled:
            if self._at.step > self._stored_step:
                self._store()
            raise

    def _store(self) -> None:
        folder = self._run.workdir / "checkpoint"
        self._spread.rest()
        trained = bytes_of(self._trained.values())
        before = f"the checkpoint of step {self._stored_step}" if self._stored_step else "the beginning"
        hint = f"Free some space and resume the run: it goes on from {before}."
        # Weights, two moments of each, and the best weights where they are kept.
        with enough_room(folder, f"the checkpoint of step {self._at.step}", (4 if self._best else 3) * trained, hint):
            checkpoints.store(folder, self._model, self._optimiser, self._tokenizer, self._at, self._best, self._spread)
        self._run.checkpoint(folder)
        self._stored_step = self._at.step
