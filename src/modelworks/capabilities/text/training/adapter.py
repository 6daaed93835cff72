"""Low-rank adapters: put them on a model, write them down, and merge them into weights that compute the same."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from modelworks.capabilities.text.schemas import ADAPTER_CONFIG, ADAPTER_FOLDER, ADAPTER_WEIGHTS, AdapterParams
from modelworks.contract.errors import InvalidRequest, MissingExtra

FOLDER = ADAPTER_FOLDER


def attach(model: Any, params: AdapterParams) -> Any:
    """The model with an adapter that changes nothing yet; only the adapter requires a gradient.

    Raises:
        InvalidRequest: a target names no layer that can carry one.
        MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra.of("peft", "text") from error
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=params.targets or "all-linear",
        use_rslora=params.rslora,
        use_dora=params.dora,
        bias="none",
    )
    layers = sorted({name.rpartition(".")[2] for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)})
    unknown = [target for target in params.targets or () if target not in layers]
    if unknown:
        raise InvalidRequest(
            f"The base model has no linear layer {unknown[0]!r}.", hint=f"It has: {', '.join(layers)}.", param="targets"
        )
    with warnings.catch_warnings():
        # The pinned peft asks transformers under a name that transformers is about to drop.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, config)


def write(model: Any, folder: Path, base_ref: str) -> None:
    """Write the adapter as peft reads it. It names its base by reference, not by a path of this machine."""
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: state[name].detach().clone().contiguous() for name in sorted(state)}
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config |= {"inference_mode": True, "base_model_name_or_path": base_ref}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", "utf-8")


def merge(model: Any) -> Any:
    """The base model with the adapter added to its weights, in place."""
    return model.merge_and_unload(safe_merge=True)
