"""What a training run stores so that a later attempt continues bit for bit: weights, optimiser state, position. No pickles."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from modelworks.contract.errors import InvalidData

_FORMAT = 1
_MODEL = "model.safetensors"
_OPTIMISER = "optimiser.safetensors"
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stood: steps done, tokens seen, and the torch generator's state for layers that draw from it."""

    step: int
    tokens_seen: int
    first_loss: float
    last_loss: float


def store(folder: Path, model: Any, optimiser: torch.optim.Optimizer, tokenizer: PreTrainedTokenizerFast, at: Position) -> None:
    """Write a checkpoint into `folder`, replacing what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, folder / _MODEL)
    state = {
        f"{names[id(parameter)]}:{key}": value.detach().contiguous()
        for parameter, values in optimiser.state.items()
        for key, value in values.items()
    }
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
            }
        ),
        "utf-8",
    )


def tokenizer_folder(folder: Path) -> Path:
    """Where a checkpoint keeps its tokenizer."""
    return folder / "tokenizer"


def restore(folder: Path, model: Any, optimiser: torch.optim.Optimizer) -> Position:
    """Load a checkpoint into a model and an optimiser of the same shape.

    Raises:
        InvalidData: it is of another format, or of a model of another shape.
    """
    state = json.loads((folder / _STATE).read_text("utf-8"))
    if state.get("format") != _FORMAT:
        raise InvalidData(f"The checkpoint has format {state.get('format')}, not {_FORMAT}.", hint="Start a new run.")
    weights = load_file(folder / _MODEL)
    parameters = dict(model.named_parameters())
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in parameters.items()}:
        raise InvalidData("The checkpoint belongs to a model of another shape.", hint="Start a new run.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in load_file(folder / _OPTIMISER).items():
        name, _, part = key.rpartition(":")
        if name == "torch":
            torch.set_rng_state(value)
        else:
            optimiser.state[parameters[name]][part] = value
    return Position(
        step=int(state["step"]),
        tokens_seen=int(state["tokens_seen"]),
        first_loss=float(state["first_loss"]),
        last_loss=float(state["last_loss"]),
    )
