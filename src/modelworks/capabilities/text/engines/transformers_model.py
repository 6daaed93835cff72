"""Any causal model that transformers loads, as a `LogitsDecoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.utils import logging as transformers_logging

from modelworks.contract.errors import InvalidData, UnsupportedArchitecture


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """Load a checkpoint for reading, from safetensors and without running code that comes with it.

    Raises:
        UnsupportedArchitecture: transformers does not know the architecture, or only by code in the folder.
        InvalidData: the weights do not fit the configuration.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise UnsupportedArchitecture(f"transformers cannot read the configuration of {folder.name!r}: {error}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedArchitecture(f"Architecture {config.model_type!r} is no causal language model in transformers.")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise InvalidData(f"The weights of {folder.name!r} cannot be loaded: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InvalidData(
            f"The checkpoint {folder.name!r} lacks {len(missing)} weights, {missing[0]} among them.",
            hint="Fetch the checkpoint again; a shard of it may be missing.",
        )
    return model.eval()


# Progress bars of loading belong on a terminal, not in the log of a replica.
transformers_logging.disable_progress_bar()


class TransformersDecoder:
    """A loaded model; a state is its key-value cache."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def new_state(self) -> DynamicCache:
        """An empty cache of the model's kind."""
        return DynamicCache(config=self._model.config)

    def read(self, state: DynamicCache, token_ids: list[int], position: int) -> npt.NDArray[np.float32]:
        """Append tokens; see `LogitsDecoder.read`. The cache knows its own `position`."""
        with torch.inference_mode():
            output = self._model(input_ids=torch.tensor([token_ids]), past_key_values=state, use_cache=True, logits_to_keep=1)
            logits: npt.NDArray[np.float32] = output.logits[0, -1].float().numpy()
        return logits
