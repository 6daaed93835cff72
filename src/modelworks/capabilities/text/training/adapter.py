"""Low-rank adapters: put them on a model, write them down, and merge them into weights that compute the same."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from modelworks.capabilities.text.engines.adapter import Adapter
from modelworks.capabilities.text.schemas import ADAPTER_CONFIG, ADAPTER_FOLDER, ADAPTER_WEIGHTS, AdapterParams
from modelworks.contract.errors import InvalidRequest, MissingExtra
from modelworks.contract.run import LocalModel

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


def put(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Give the adapter of a model these weights, by the names in its file; raises InvalidRequest where they are not all."""
    from peft import set_peft_model_state_dict

    found = set_peft_model_state_dict(model, dict(weights))
    lacking = [name for name in found.missing_keys if "lora_" in name]
    if strange := [*found.unexpected_keys, *lacking]:
        raise InvalidRequest(
            f"The adapter does not fit the layers that are to carry it: {strange[0]}.",
            hint="Use the targets that it was trained with.",
            param="targets",
        )


def read(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter that was written, by name."""
    weights: dict[str, torch.Tensor] = load_file(folder / ADAPTER_WEIGHTS)
    return weights


def wear(model: Any, folder: Path) -> Any:
    """The base model with an adapter from its files, as one that serves it has."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return PeftModel.from_pretrained(model, folder)


def merge(model: Any) -> Any:
    """The base model with the adapter added to its weights, in place."""
    return model.merge_and_unload(safe_merge=True)


def start_of(model: LocalModel, base: LocalModel, prompt_format: Mapping[str, Any], shape: AdapterParams) -> Path:
    """The folder of an adapter that a training goes on from, once it is found to fit.

    Raises:
        InvalidRequest: it is none, one of another base, or of another shape than is to be trained.
        IntegrityFailed: its files, or the prompt format, are not those that it was trained with.
    """
    folder = Adapter.of(model, base, prompt_format).folder
    config = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    had = (int(config["r"]), float(config["lora_alpha"]), bool(config.get("use_rslora")))
    if had != (shape.rank, float(shape.alpha), shape.rslora) or shape.dora:
        raise InvalidRequest(
            f"The adapter {model.ref!r} has rank {had[0]} and alpha {had[1]:g}, and rank {shape.rank} and alpha {shape.alpha} "
            "are to be trained.",
            hint="Go on with the same shape, or begin from the base.",
            param="rank",
            code="adapter_of_another_shape",
        )
    return folder
