"""Write a Hugging Face checkpoint of the Llama, Qwen2 or Qwen3 shape as one GGUF file, for engines that open nothing else.

The tensors and key names follow the GGUF specification and llama.cpp's architecture names. Only what an engine needs to compute
logits is certain to be there: token ids are always made by the checkpoint's own Hugging Face tokenizer, which a complete file
carries (`tokenizer.huggingface.json`). The vocabulary beside it is written for readers that insist on one, without any promise
that a tokenizer rebuilt from it splits text the same way.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
import torch

from modelworks.capabilities.text.engines.tolerance import check_matrix
from modelworks.capabilities.text.gguf_names import gguf_name, interleave_rotary
from modelworks.capabilities.text.weights import open_weights, read_object
from modelworks.contract.errors import InvalidData, InvalidRequest, UnsupportedArchitecture

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]

#: Hugging Face `model_type` → architecture name in GGUF.
ARCHITECTURES: Mapping[str, str] = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}

#: Our own keys: files of the folder as they are, so that what is read back is what was written. Other readers skip them.
FILE_KEY = "modelworks.file."

FOLDER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "prompt_format.json",
    "meaning.json",
)

_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
}
_TENSOR_TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
}
#: Four bits for the matrices of the layers only: what a token is read and written as keeps eight.
_KEPT_AT_EIGHT = ("token_embd.weight", "output.weight")
_BITS = {"q8_0": "int8", "q4_0": "int4", "q4_1": "int4"}
#: Quantised numbers are stored in groups of this many along a row.
_GROUP = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a decoder that both formats name, read from `config.json`."""

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Read it from the parsed `config.json`.

        Raises:
            UnsupportedArchitecture: the model type, or one of its settings, cannot be said in the GGUF that engines read.
        """
        model_type = str(config.get("model_type"))
        if model_type not in ARCHITECTURES:
            raise UnsupportedArchitecture(
                f"Architecture {model_type!r} has no GGUF form here; it knows {sorted(ARCHITECTURES)}."
            )
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise UnsupportedArchitecture(f"Rotary scaling {kind!r} of architecture {model_type!r} has no GGUF form here.")
        if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
            raise UnsupportedArchitecture(f"Sliding-window attention of architecture {model_type!r} has no GGUF form here.")
        if config.get("hidden_act", "silu") != "silu":
            raise UnsupportedArchitecture(f"Activation {config['hidden_act']!r} has no GGUF form here.")
        if config.get("mlp_bias") or (model_type != "qwen2" and config.get("attention_bias")):
            raise UnsupportedArchitecture(f"Biases in architecture {model_type!r} have no GGUF form here.")
        heads = int(config["num_attention_heads"])
        return cls(
            architecture=ARCHITECTURES[model_type],
            num_layers=int(config["num_hidden_layers"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            vocab_size=int(config["vocab_size"]),
            context_length=int(config["max_position_embeddings"]),
            rms_norm_eps=float(config["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            tied=bool(config.get("tie_word_embeddings", False)),
        )


def export(
    model_dir: Path,
    target: Path,
    dtype: GgufType = "f32",
    *,
    complete: bool = False,
    name: str | None = None,
    licence: str | None = None,
) -> None:
    """Write the checkpoint in `model_dir` to the file `target`, which appears whole or not at all.

    Args:
        model_dir: a Hugging Face folder with `config.json`, weights and `tokenizer.json`; only read.
        target: the GGUF file; its folder must exist.
        dtype: of the matrices. Vectors stay f32.
        complete: put the tokenizer, the chat template and the configuration into the file as well, so that it can be opened
            without the folder. An engine that reads it beside its folder does without.
        name, licence: of the model, for those who list files.

    Raises:
        UnsupportedArchitecture: see `Shape.of`.
        InvalidData: a weight has a name that the architecture does not have, or one is missing.
        InvalidRequest: a quantised kind for matrices whose rows are not a multiple of 32 long.
        IntegrityFailed: a quantised matrix is further from the trained one than its precision explains.
    """
    shape = Shape.of(json.loads((model_dir / "config.json").read_text("utf-8")))
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(temporary, shape.architecture)
        _write_shape(writer, shape, dtype)
        _write_vocabulary(writer, model_dir, shape.vocab_size)
        if name is not None:
            writer.add_name(name)
        if licence is not None:
            writer.add_license(licence)
        if complete:
            _write_folder(writer, model_dir)
        _write_weights(writer, model_dir, shape, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _write_shape(writer: Any, shape: Shape, dtype: GgufType) -> None:
    writer.add_file_type(_FILE_TYPES[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)


def _write_vocabulary(writer: Any, model_dir: Path, vocab_size: int) -> None:
    """Tokens by id, with unused ids filled: readers take the vocabulary's size from this list."""
    tokenizer = json.loads((model_dir / "tokenizer.json").read_text("utf-8"))
    special = {int(token["id"]): str(token["content"]) for token in tokenizer.get("added_tokens", ())}
    vocabulary = tokenizer["model"].get("vocab", {})
    if isinstance(vocabulary, list):  # a unigram model lists [text, score]
        vocabulary = {entry[0]: position for position, entry in enumerate(vocabulary)}
    by_id = {int(position): str(text) for text, position in vocabulary.items()} | special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([by_id.get(position, f"[unused{position}]") for position in range(vocab_size)])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if position in special else gguf.TokenType.NORMAL for position in range(vocab_size)]
    )
    merges = tokenizer["model"].get("merges") or []
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges] or ["a b"])
    ends = _end_ids(model_dir) or [min(special, default=0)]
    writer.add_eos_token_id(ends[0])
    writer.add_bos_token_id(ends[0])
    writer.add_pad_token_id(ends[-1])


def _end_ids(model_dir: Path) -> list[int]:
    """The ids that end an answer; readers know one, our own code all of them."""
    for name in ("generation_config.json", "config.json"):
        named = read_object(model_dir / name).get("eos_token_id")
        if named is not None:
            return [int(token) for token in (named if isinstance(named, list) else [named])]
    return []


def _write_folder(writer: Any, model_dir: Path) -> None:
    """The small files of the folder, each under the key that others know where there is one."""
    writer.add_string(gguf.Keys.Tokenizer.HF_JSON, (model_dir / "tokenizer.json").read_text("utf-8"))
    template = read_object(model_dir / "tokenizer_config.json").get("chat_template")
    if (model_dir / "chat_template.jinja").is_file():
        template = (model_dir / "chat_template.jinja").read_text("utf-8")
    if isinstance(template, str):
        writer.add_chat_template(template)
    for name in FOLDER_FILES:
        if (model_dir / name).is_file():
            writer.add_string(FILE_KEY + name, (model_dir / name).read_text("utf-8"))


def _write_weights(writer: Any, model_dir: Path, shape: Shape, dtype: GgufType) -> None:
    seen: set[str] = set()
    weights = open_weights(model_dir)
    for name in weights.shapes:
        if name.endswith("rotary_emb.inv_freq"):
            continue  # recomputed from the base frequency
        target = gguf_name(name)
        if target is None:
            raise InvalidData(f"The checkpoint has a weight {name!r} that its architecture does not have.")
        if target == "output.weight" and shape.tied:
            continue
        tensor = weights.read(name).to(torch.float32)
        if shape.architecture == "llama" and target.endswith(("attn_q.weight", "attn_k.weight")):
            heads = shape.num_heads if target.endswith("attn_q.weight") else shape.num_kv_heads
            tensor = interleave_rotary(tensor, heads)
        _add(writer, target, np.ascontiguousarray(tensor.numpy()), dtype, model_dir.name)
        seen.add(target)
    layers = {f"blk.{layer}.{part}.weight" for layer in range(shape.num_layers) for part in ("attn_q", "attn_k", "ffn_down")}
    missing = ({"token_embd.weight", "output_norm.weight"} | layers) - seen
    if missing:
        raise InvalidData(
            f"The checkpoint lacks {len(missing)} weights of the {shape.num_layers} layers that its config.json names, "
            f"{sorted(missing)[0]} (as GGUF calls it) among them.",
            hint="Fetch the checkpoint again; a shard of it may be missing.",
        )


def _add(writer: Any, name: str, values: npt.NDArray[np.float32], dtype: GgufType, where: str) -> None:
    kind: GgufType = dtype if values.ndim > 1 else "f32"
    if kind in ("q4_0", "q4_1") and name in _KEPT_AT_EIGHT:
        kind = "q8_0"
    if kind in ("q8_0", "q4_0", "q4_1") and values.shape[-1] % _GROUP:
        raise InvalidRequest(
            f"{name} has rows of {values.shape[-1]} numbers, which {_BITS[kind]} cannot store: "
            f"it needs a multiple of {_GROUP}.",
            hint="Deploy this model with precision f32 or bf16.",
            param="precision",
        )
    if kind == "f32":
        writer.add_tensor(name, values)
        return
    raw = quantised(values, kind)
    if kind in _BITS:
        check_matrix(name, values, gguf.dequantize(raw, _TENSOR_TYPES[kind]), _BITS[kind], where)
    if kind == "f16":
        writer.add_tensor(name, raw)
    else:
        writer.add_tensor(name, raw, raw_dtype=_TENSOR_TYPES[kind])


def quantised(values: npt.NDArray[np.float32], kind: GgufType) -> npt.NDArray[Any]:
    """A matrix as the bytes that GGUF stores of it, row by row."""
    stored: npt.NDArray[Any] = gguf.quantize(values, _TENSOR_TYPES[kind])
    return stored
