"""Any causal model that transformers loads, as a `LogitsDecoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.utils import logging as transformers_logging

from modelworks.capabilities.text.weights import open_weights, quantised_file, state_of
from modelworks.contract.errors import InvalidData, UnsupportedArchitecture

#: Endings of the class names under which transformers saves models that predict the next token.
_CAUSAL = ("ForCausalLM", "LMHeadModel", "ModelWithLMHead", "ForConditionalGeneration")


def load_model(folder: Path, dtype: torch.dtype, name: str | None = None) -> Any:
    """Load a checkpoint for reading, from safetensors or GGUF and without running code that comes with it.

    Quantised weights are given the numbers that they stand for.

    Args:
        folder: a Hugging Face folder.
        dtype: of the weights in memory.
        name: what messages call the model; by default the folder's name.

    Raises:
        UnsupportedArchitecture: transformers does not know the architecture, or only by code in the folder; or the
            checkpoint was made for something else than predicting the next token.
        InvalidData: the weights do not fit the configuration.
    """
    name = name or folder.name
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise UnsupportedArchitecture(
            f"transformers cannot read the configuration of {name!r}: {_first_sentence(error)}",
            hint="Check config.json; an architecture that is newer than the installed transformers needs a newer one.",
        ) from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedArchitecture(f"Architecture {config.model_type!r} is no causal language model in transformers.")
    _check_purpose(config, name)
    try:
        # Looked at below: transformers' own refusal of other shapes names no weight.
        wanted = {"config": config, "dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
        if quantised_file(folder) is None:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, **wanted
            )
        else:
            kind = AutoModelForCausalLM._model_mapping[type(config)]
            model, report = kind.from_pretrained(None, state_dict=state_of(open_weights(folder), dtype), **wanted)
    except (RuntimeError, ValueError, OSError) as error:
        raise InvalidData(f"The weights of {name!r} cannot be loaded: {_first_sentence(error)}") from error
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        weight, found, wanted = mismatched[0]
        raise InvalidData(
            f"The weights of {name!r} do not fit its config.json: {len(mismatched)} have another shape, "
            f"{weight} among them: {_shape(found)} where the configuration asks for {_shape(wanted)}.",
            hint="Fetch config.json and the weights again, from the same revision.",
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InvalidData(
            f"The checkpoint {name!r} lacks {len(missing)} weights, {missing[0]} among them.",
            hint="Fetch the checkpoint again; a shard of it may be missing.",
        )
    return model.eval()


def _check_purpose(config: Any, name: str) -> None:
    """Refuse what transformers would load as a causal model although it was trained as something else, such as BERT."""
    named = [str(each) for each in getattr(config, "architectures", None) or ()]
    loaded_as = AutoModelForCausalLM._model_mapping[type(config)].__name__
    # A bare backbone has no head and is refused for the weights that it lacks.
    if not named or any(each == loaded_as or each.endswith(("Model", *_CAUSAL)) for each in named):
        return
    raise UnsupportedArchitecture(
        f"{name!r} was saved as {', '.join(named)}, which does not predict the next token: it cannot generate text.",
        hint="Choose a model for text generation (…ForCausalLM).",
    )


def _shape(size: Any) -> str:
    return " × ".join(str(int(each)) for each in size)


def _first_sentence(error: Exception) -> str:
    """What went wrong, without the library's advice to install this or that."""
    text = " ".join(str(error).split())
    head, stop, _ = text.partition(". ")
    return head + stop.strip() if stop else text


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
        logits: npt.NDArray[np.float32] = self._read(state, token_ids, 1)[-1]
        return logits

    def read_all(self, state: DynamicCache, token_ids: list[int], position: int) -> npt.NDArray[np.float32]:
        """Append tokens; see `LogitsDecoder.read_all`."""
        return self._read(state, token_ids, len(token_ids))

    def _read(self, state: DynamicCache, token_ids: list[int], num_kept: int) -> npt.NDArray[np.float32]:
        ids = torch.tensor([token_ids])
        with torch.inference_mode():
            output = self._model(input_ids=ids, past_key_values=state, use_cache=True, logits_to_keep=num_kept)
            logits: npt.NDArray[np.float32] = output.logits[0].float().numpy()
        return logits
