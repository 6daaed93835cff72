"""What a training run stores so that a later attempt continues bit for bit: weights, optimiser state, position. No pickles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.text.training.spread import Spread
from modelworks.contract.errors import InvalidData

_FORMAT = 1
_MODEL = "model.safetensors"
_OPTIMISER = "optimiser.safetensors"
_BEST = "best.safetensors"
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stood: steps done, tokens seen, and the torch generator's state for layers that draw from it."""

    step: int
    tokens_seen: int
    first_loss: float
    last_loss: float
    #: The lowest validation loss so far and the measurements since, where training may stop early.
    best_loss: float | None = None
    waited: int = 0


def store(
    folder: Path,
    model: Any,
    optimiser: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerFast,
    at: Position,
    best: Mapping[str, torch.Tensor] | None = None,
    spread: Spread | None = None,
) -> None:
    """Write a checkpoint into `folder`, replacing what is there: of the model, only what is being trained.

    It is the same whoever writes it: one process or several, which gather it tensor by tensor for the first to write.

    Args:
        best: the weights of the best measurement, where training may stop early.
        spread: the processes that share the run; all of them call this.
    """
    spread = spread or Spread()
    trained = _trained(model)
    names = {id(parameter): name for name, parameter in trained.items()}
    weights = _gathered(spread, trained.items())
    best = _gathered(spread, (best or {}).items())
    state = _gathered(
        spread,
        (
            (f"{names[id(parameter)]}:{key}", value)
            for parameter, values in optimiser.state.items()
            for key, value in values.items()
        ),
    )
    if not spread.world.is_first:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(weights, folder / _MODEL)
    if best:
        save_file(best, folder / _BEST)
    save_file(state | {"torch:generator": torch.get_rng_state()}, folder / _OPTIMISER)
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / _STATE).write_text(
        json.dumps(
            {
                "format": _FORMAT,
                "step": at.step,
                "tokens_seen": at.tokens_seen,
                "first_loss": at.first_loss,
                "last_loss": at.last_loss,
                "best_loss": at.best_loss,
                "waited": at.waited,
            }
        ),
        "utf-8",
    )


def tokenizer_folder(folder: Path) -> Path:
    """Where a checkpoint keeps its tokenizer."""
    return folder / "tokenizer"


def restore(folder: Path, model: Any, optimiser: torch.optim.Optimizer, spread: Spread | None = None) -> Position:
    """Load a checkpoint into a model and an optimiser of the same shape.

    Raises:
        InvalidData: it is of another format, or of a model of another shape.
    """
    state = json.loads((folder / _STATE).read_text("utf-8"))
    if state.get("format") != _FORMAT:
        raise InvalidData(f"The checkpoint has format {state.get('format')}, not {_FORMAT}.", hint="Start a new run.")
    spread = spread or Spread()
    parameters = _trained(model)
    # One tensor at a time: where weights are sharded, no process has room for all of them.
    with safe_open(folder / _MODEL, framework="pt") as weights:
        shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118 - no mapping
        if shapes != {name: tuple(value.shape) for name, value in parameters.items()}:
            raise InvalidData("The checkpoint belongs to a model of another shape.", hint="Start a new run.")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(spread.like(weights.get_tensor(name), parameter))
    with safe_open(folder / _OPTIMISER, framework="pt") as values:
        for key in values.keys():  # noqa: SIM118 - no mapping
            name, _, part = key.rpartition(":")
            if name == "torch":
                torch.set_rng_state(values.get_tensor(key))
            else:
                optimiser.state[parameters[name]][part] = spread.like(values.get_tensor(key), parameters[name])
    return Position(
        step=int(state["step"]),
        tokens_seen=int(state["tokens_seen"]),
        first_loss=float(state["first_loss"]),
        last_loss=float(state["last_loss"]),
        best_loss=state.get("best_loss"),
        waited=int(state.get("waited", 0)),
    )


def restore_best(folder: Path, model: Any, spread: Spread) -> dict[str, torch.Tensor]:
    """The weights of the best measurement; none where training does not stop early, or nothing was measured yet."""
    if not (folder / _BEST).is_file():
        return {}
    parameters = _trained(model)
    return {name: spread.like(value, parameters[name]) for name, value in load_file(folder / _BEST).items()}


def _gathered(spread: Spread, values: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Each value in one piece, kept by the first process only. Every process goes through them in the same order."""
    kept = {}
    for name, value in values:
        whole = spread.whole(value)
        if spread.world.is_first:
            kept[name] = whole
    return kept


def _trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
