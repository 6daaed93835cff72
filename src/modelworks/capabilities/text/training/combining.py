"""Several adapters of one base made one, exactly: the sum of their changes, without training anything.

Trained apart on shards of the data, they can be made anew one by one when a shard changes (Bourtoule et al. 2021, "Machine
Unlearning", SISA); together they are the mean of their changes to the weights, as in Wortsman et al. 2022, "Model soups".
Matrices that stand side by side give that sum to the last bit that rounding leaves: `[B1 B2] [A1; A2] = B1 A1 + B2 A2`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors.torch import load_file

from modelworks.capabilities.text.checkpoint import Position
from modelworks.capabilities.text.datasets import read_chat
from modelworks.capabilities.text.engines.adapter import Adapter
from modelworks.capabilities.text.engines.opening import Checkpoint
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.prompt_format import served_format
from modelworks.capabilities.text.schemas import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterParams, CombineParams
from modelworks.capabilities.text.training import adapter as adapters
from modelworks.capabilities.text.training.rows import conversation_rows, within
from modelworks.capabilities.text.training.tuning import PROBE_ROWS, require_base, save_tuned
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.run import LocalModel, Run

#: Adapters to combine have these roles, counted from 1.
ROLE: Final = "adapter_{}"
_MOST_RANK: Final = 1024


@dataclass(frozen=True, slots=True)
class _Given:
    """An adapter as it was trained: its matrices by name, and what their product counts."""

    weights: Mapping[str, torch.Tensor]
    scale: float
    rank: int


def combine(run: Run, params: CombineParams) -> None:
    """Save the sum of the changes of all adapters given, each counting `scale` times, as one adapter and merged.

    Inputs: model "base"; models "adapter_1", "adapter_2" and so on, which were trained on it; data set "train" of
    conversations, on a few of which what is saved must compute what was put together.

    Raises:
        InvalidRequest: there is no base or no adapter, one is of another base or of other layers, or all ranks together are
            more than 1,024.
        UnsupportedParameter: one is no plain sum of low-rank pairs (DoRA).
        IntegrityFailed: an adapter's files were changed, or the saved weights compute something else.
        InvalidData: the data set holds no conversation, or an adapter's files are damaged.
    """
    require_base(run, params)
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    base = run.model("base")
    checkpoint = Checkpoint.of(base)
    prompt_format = served_format(base).for_training()
    record = prompt_format.record()
    found = [_given(model, base, record) for model in _models(run)]
    scale = 1.0 / len(found) if params.scale is None else params.scale
    rank = sum(each.rank for each in found)
    if rank > _MOST_RANK:
        raise InvalidRequest(
            f"The adapters have a rank of {rank} together, and {_MOST_RANK} is the most.",
            hint="Train them with a smaller rank, or combine fewer.",
            param="inputs",
        )
    chats = read_chat(run.dataset("train").path)
    rows, _ = within(
        (
            (f"{chat.source}, line {chat.line}", row)
            for chat in chats
            for row in conversation_rows(prompt_format, chat.messages, chat.tools, chat.weights, chat.source)
        ),
        checkpoint.context_length,
    )
    shape = AdapterParams(rank=rank, alpha=rank, targets=_targets(found))
    model = adapters.attach(load_model(base.path, torch.float32), shape)
    adapters.put(model, _side_by_side(found, scale))
    done = Position(step=0, tokens_seen=0, first_loss=0.0, last_loss=0.0)
    metrics = {"num_adapters": float(len(found)), "scale": scale}
    run.progress(1, 1, "adapters")
    save_tuned(run, params, base, model, shape, prompt_format, rows[:PROBE_ROWS], done, metrics)


def _models(run: Run) -> list[LocalModel]:
    found: list[LocalModel] = []
    while run.has_input(role := ROLE.format(len(found) + 1)):
        found.append(run.model(role))
    if not found:
        raise InvalidRequest(
            "The method 'combine' needs adapters.", hint="Give them under the roles adapter_1, adapter_2, …", param="inputs"
        )
    return found


def _given(model: LocalModel, base: LocalModel, prompt_format: Mapping[str, Any]) -> _Given:
    checked = Adapter.of(model, base, prompt_format)
    rank = int(json.loads((checked.folder / ADAPTER_CONFIG).read_text("utf-8"))["r"])
    return _Given(load_file(checked.folder / ADAPTER_WEIGHTS), checked.scale, rank)


def _targets(found: Sequence[_Given]) -> list[str]:
    """The last part of the names of the layers, which all of them must have alike."""
    names = {frozenset(each.weights) for each in found}
    if len(names) > 1:
        raise InvalidRequest(
            "The adapters are of different layers.", hint="Train them with the same targets, then combine them.", param="inputs"
        )
    return sorted({name.rpartition(".lora_")[0].rpartition(".")[2] for name in found[0].weights})


def _side_by_side(found: Sequence[_Given], scale: float) -> dict[str, torch.Tensor]:
    """`A` (rank, inputs) one under the other, `B` (outputs, rank) beside each other, with what each counts in `B`."""
    made = {}
    for name in found[0].weights:
        if ".lora_A." in name:
            made[name] = torch.cat([each.weights[name] for each in found], dim=0)
        elif ".lora_B." in name:
            made[name] = torch.cat([each.weights[name] * (each.scale * scale) for each in found], dim=1)
        else:
            raise InvalidData(f"An adapter has a weight {name!r}, which is no half of a pair.", hint="Train it anew.")
    return made
