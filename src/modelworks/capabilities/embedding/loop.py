"""The training loop of both tasks: steps, curves, checkpoints, measuring, stopping early, stopping when asked.

Method: AdamW (Loshchilov & Hutter 2019), linear warm-up, cosine to a tenth of the highest rate, gradients clipped; weights
and the loss in f32, products in f32 or bf16 (autocast). The rows of a step are computed in chunks of like length; with cached
gradients (Gao et al. 2021, GradCache) each chunk is computed twice and forgotten in between, so that a batch may be larger than
memory. Dropout is off: in-batch negatives regularise, and a resumed run needs no state of a generator.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.embedding.encoder import Row, chunks, padded
from modelworks.capabilities.embedding.schemas import EmbeddingTrainParams, RankingTrainParams
from modelworks.contract.errors import Cancelled, InvalidData, InvalidRequest
from modelworks.contract.run import Run

log = logging.getLogger(__name__)
_FORMAT = 1
_BETAS = (0.9, 0.98)
_LEAST_RATE = 0.1
_MODEL, _OPTIMISER, _BEST, _STATE = "model.safetensors", "optimiser.safetensors", "best.safetensors", "state.json"

#: From the outputs of a step's rows [n, d] to the mean loss, a scalar, and further numbers for the curves.
Loss = Callable[[torch.Tensor], tuple[torch.Tensor, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Work:
    """What one step computes."""

    rows: Sequence[Row]
    loss: Loss


class Source(Protocol):
    """Where steps come from. What a step reads follows from its number alone, so a resumed run needs no stored position."""

    @property
    def num_steps(self) -> int: ...

    def step(self, number: int) -> Work:
        """Step `number`, counted from 0."""
        ...

    def validation(self) -> Work:
        """What is held out, the same every time."""
        ...


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands."""

    step: int = 0
    tokens_seen: int = 0
    first_loss: float = math.nan
    last_loss: float = math.nan
    #: The lowest validation loss so far and the measurements since.
    best_loss: float | None = None
    waited: int = 0


class TrainingLoop:
    """One instance per attempt.

    Args:
        module: an encoder with its pooling or head; from `padded` rows to outputs [n, d].
        tokenizer: stored with each checkpoint.

    Raises:
        InvalidData: the run's checkpoint belongs to another model.
    """

    def __init__(
        self,
        run: Run,
        params: EmbeddingTrainParams | RankingTrainParams,
        module: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        source: Source,
    ) -> None:
        if params.precision == "bf16" and not _multiplies_bf16():
            log.warning("This processor does not multiply bf16 by itself: precision=f32 is many times as fast here.")
        self._run = run
        self._params = params
        self._module = module.eval()
        self._tokenizer = tokenizer
        self._source = source
        self._total = min(source.num_steps, params.max_steps or source.num_steps)
        self._parameters: dict[str, Any] = dict(module.named_parameters())
        matrices = [each for each in self._parameters.values() if each.ndim > 1]
        vectors = [each for each in self._parameters.values() if each.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": params.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=params.learning_rate,
            betas=_BETAS,
            fused=True,
        )
        self._at = Position()
        self._best: dict[str, torch.Tensor] = {}
        if run.resume_from is not None:
            self._restore(run.resume_from)
        self._stored_step = self._at.step

    def finish(self) -> Position:
        """Train to the last step, or until the validation loss stays where it is, and say where that was.

        Raises:
            InvalidRequest: the loss stopped being a number.
            Cancelled: the user stopped the run; a checkpoint was stored first.
        """
        params, run = self._params, self._run
        started, tokens_before = time.monotonic(), self._at.tokens_seen
        run.progress(self._at.step, self._total, "steps")
        while self._at.step < self._total and not self._is_over():
            self._stop_if_asked()
            rate = self._rate_after(self._at.step)
            loss, further = self._step(rate)
            step = self._at.step
            if step == 1 or step % params.log_every == 0 or step == self._total:
                speed = (self._at.tokens_seen - tokens_before) / max(time.monotonic() - started, 1e-9)
                started, tokens_before = time.monotonic(), self._at.tokens_seen
                run.log(step, loss=loss, lr=rate, tokens_per_s=speed, **further)
                run.progress(step, self._total, "steps")
            if step < self._total and step % params.validate_every == 0:
                self._measure()
            if step < self._total and step % params.checkpoint_every == 0:
                self._store()
        if self._best and self._at.step == self._total:
            # The last weights compete too.
            self._measure()
        if self._best:
            with torch.no_grad():
                for name, value in self._best.items():
                    self._parameters[name].copy_(value)
        run.progress(self._total, self._total, "steps")
        return self._at

    def validation_metrics(self) -> dict[str, float]:
        """`validation_loss` and the source's own numbers over what is held out."""
        work = self._source.validation()
        with torch.no_grad():
            loss, further = work.loss(self._outputs(work.rows))
        return {"validation_loss": float(loss)} | {f"validation_{name}": value for name, value in further.items()}

    def _rate_after(self, step: int) -> float:
        warmup = max(1, round(self._params.warmup_ratio * self._total))
        if step < warmup:
            return self._params.learning_rate * (step + 1) / warmup
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self._total - warmup)))
        return self._params.learning_rate * (_LEAST_RATE + (1 - _LEAST_RATE) * cosine)

    def _outputs(self, rows: Sequence[Row]) -> torch.Tensor:
        """Outputs of all rows in their order, [n, d]."""
        parts, order = [], list[int]()
        for chunk in self._chunks(rows):
            parts.append(self._chunk(rows, chunk))
            order.extend(chunk)
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def _chunks(self, rows: Sequence[Row]) -> list[list[int]]:
        return chunks([len(row.ids) for row in rows], self._params.chunk_tokens)

    def _chunk(self, rows: Sequence[Row], chunk: Sequence[int]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._params.precision == "bf16"):
            found: torch.Tensor = self._module(**padded([rows[index] for index in chunk]))
        return found.float()

    def _step(self, rate: float) -> tuple[float, Mapping[str, float]]:
        work = self._source.step(self._at.step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        if self._params.cached_gradients:
            with torch.no_grad():
                outputs_nd = self._outputs(work.rows)
            outputs_nd.requires_grad_()
            loss, further = work.loss(outputs_nd)
            self._check_finite("loss", float(loss.detach()))
            loss.backward()
            gradient_nd = outputs_nd.grad
            for chunk in self._chunks(work.rows):
                self._chunk(work.rows, chunk).backward(gradient_nd[chunk])
        else:
            loss, further = work.loss(self._outputs(work.rows))
            self._check_finite("loss", float(loss.detach()))
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._params.max_grad_norm)
        # Seen before the weights are touched, so that no checkpoint ever holds them.
        self._check_finite("gradient", float(norm))
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        value = float(loss.detach())
        self._at = replace(
            self._at,
            step=self._at.step + 1,
            tokens_seen=self._at.tokens_seen + sum(len(row.ids) for row in work.rows),
            first_loss=self._at.first_loss if self._at.step else value,
            last_loss=value,
        )
        return value, further

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise InvalidRequest(
                f"Training diverged: the {what} is {value} at step {self._at.step + 1}.",
                hint=f"Lower learning_rate (it is {self._params.learning_rate:g}) or raise warmup_ratio.",
                code="training_diverged",
            )

    def _measure(self) -> None:
        metrics = self.validation_metrics()
        self._run.log(self._at.step, **metrics)
        if self._params.patience is None:
            return
        if self._at.best_loss is None or metrics["validation_loss"] < self._at.best_loss:
            self._at = replace(self._at, best_loss=metrics["validation_loss"], waited=0)
            self._best = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        else:
            self._at = replace(self._at, waited=self._at.waited + 1)

    def _is_over(self) -> bool:
        return self._params.patience is not None and self._at.waited >= self._params.patience

    def _stop_if_asked(self) -> None:
        try:
            self._run.raise_if_cancelled()
        except Cancelled:
            if self._at.step > self._stored_step:
                self._store()
            raise

    def _store(self) -> None:
        folder = self._run.workdir / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        save_file({name: parameter.detach() for name, parameter in self._parameters.items()}, folder / _MODEL)
        save_file(
            {
                f"{names[id(parameter)]}:{key}": value
                for parameter, values in self._optimiser.state.items()
                for key, value in values.items()
            },
            folder / _OPTIMISER,
        )
        if self._best:
            save_file(self._best, folder / _BEST)
        self._tokenizer.save_pretrained(tokenizer_folder(folder))
        state = {name: getattr(self._at, name) for name in Position.__dataclass_fields__}
        (folder / _STATE).write_text(json.dumps({"format": _FORMAT, **state}), "utf-8")
        self._run.checkpoint(folder)
        self._stored_step = self._at.step

    def _restore(self, folder: Path) -> None:
        state = json.loads((folder / _STATE).read_text("utf-8"))
        if state.pop("format") != _FORMAT:
            raise InvalidData("The checkpoint is of another format.", hint="Start a new run.")
        weights = load_file(folder / _MODEL)
        if {name: value.shape for name, value in weights.items()} != {
            name: parameter.shape for name, parameter in self._parameters.items()
        }:
            raise InvalidData("The checkpoint belongs to a model of another shape.", hint="Start a new run.")
        with torch.no_grad():
            for name, value in weights.items():
                self._parameters[name].copy_(value)
        for key, value in load_file(folder / _OPTIMISER).items():
            name, _, what = key.rpartition(":")
            self._optimiser.state[self._parameters[name]][what] = value
        if (folder / _BEST).is_file():
            self._best = load_file(folder / _BEST)
        self._at = Position(**state)


def _multiplies_bf16() -> bool:
    """Whether the processor does; elsewhere torch multiplies number by number."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def tokenizer_folder(checkpoint: Path) -> Path:
    """Where a checkpoint keeps its tokenizer."""
    return checkpoint / "tokenizer"
