"""Write a Hugging Face checkpoint of the Llama, Qwen2 or Qwen3 shape as one GGUF file, for engines that open nothing else.

The tensors and key names follow the GGUF specification and llama.cpp's architecture names. Only what an engine needs to compute
logits is certain to be there: token ids are always made by the checkpoint's own Hugging Face tokenizer, so the vocabulary is
written for readers that insist on one, without any promise that a tokenizer rebuilt from it splits text the same way.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from safetensors import safe_open

from modelworks.contract.errors import InvalidData, InvalidRequest, UnsupportedArchitecture

GgufType = Literal["f32", "f16", "q8_0"]

#: Hugging Face `model_type` → architecture name in GGUF.
ARCHITECTURES: Mapping[str, str] = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}

_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_TENSOR_TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
_TOP_LEVEL = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)\.(weight|bias)$")
#: Q8_0 stores numbers in groups of this many along a row.
_Q8_GROUP = 32


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


def export(model_dir: Path, target: Path, dtype: GgufType = "f32") -> None:
    """Write the checkpoint in `model_dir` to the file `target`, which appears whole or not at all.

    Args:
        model_dir: a Hugging Face folder with `config.json`, safetensors and `tokenizer.json`; only read.
        target: the GGUF file; its folder must exist.
        dtype: of the matrices. Vectors stay f32.

    Raises:
        UnsupportedArchitecture: see `Shape.of`.
        InvalidData: a weight has a name that the architecture does not have, or one is missing.
        InvalidRequest: `q8_0` for matrices whose rows are not a multiple of 32 long.
    """
    shape = Shape.of(json.loads((model_dir / "config.json").read_text("utf-8")))
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(temporary, shape.architecture)
        _write_shape(writer, shape, dtype)
        _write_vocabulary(writer, model_dir, shape.vocab_size)
        _write_weights(writer, model_dir, shape, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
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
    # Which ids end a turn is decided by our own code from generation_config.json; readers only insist on the keys.
    end = min(special, default=0)
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(end)
    writer.add_pad_token_id(end)


def _write_weights(writer: Any, model_dir: Path, shape: Shape, dtype: GgufType) -> None:
    seen: set[str] = set()
    for file in sorted(model_dir.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                target = _gguf_name(name)
                if target is None or (target == "output.weight" and shape.tied):
                    continue
                tensor = weights.get_tensor(name).to(torch.float32)
                if shape.architecture == "llama" and target.endswith(("attn_q.weight", "attn_k.weight")):
                    heads = shape.num_heads if target.endswith("attn_q.weight") else shape.num_kv_heads
                    tensor = _interleave_rotary(tensor, heads)
                _add(writer, target, np.ascontiguousarray(tensor.numpy()), dtype)
                seen.add(target)
    layers = {f"blk.{layer}.{part}.weight" for layer in range(shape.num_layers) for part in ("attn_q", "attn_k", "ffn_down")}
    missing = ({"token_embd.weight", "output_norm.weight"} | layers) - seen
    if missing:
        raise InvalidData(
            f"The checkpoint lacks {len(missing)} weights of the {shape.num_layers} layers that its config.json names, "
            f"{sorted(missing)[0]} (as GGUF calls it) among them.",
            hint="Fetch the checkpoint again; a shard of it may be missing.",
        )


def _gguf_name(name: str) -> str | None:
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    match = _LAYER.match(name)
    if match is not None and match[2] in _IN_LAYER:
        return f"blk.{match[1]}.{_IN_LAYER[match[2]]}.{match[3]}"
    if name.endswith("rotary_emb.inv_freq"):
        return None  # recomputed from the base frequency
    raise InvalidData(f"The checkpoint has a weight {name!r} that its architecture does not have.")


def _interleave_rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from Hugging Face's half-split order to the interleaved one that llama.cpp uses for architecture "llama"."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _add(writer: Any, name: str, values: np.ndarray[Any, Any], dtype: GgufType) -> None:
    kind = dtype if values.ndim > 1 else "f32"
    if kind == "q8_0" and values.shape[-1] % _Q8_GROUP:
        raise InvalidRequest(
            f"{name} has rows of {values.shape[-1]} numbers, which int8 cannot store: it needs a multiple of {_Q8_GROUP}.",
            hint="Deploy this model with precision f32 or bf16.",
            param="precision",
        )
    if kind == "f32":
        writer.add_tensor(name, values)
    else:
        raw = gguf.quantize(values, _TENSOR_TYPES[kind])
        if kind == "f16":
            writer.add_tensor(name, raw)
        else:
            writer.add_tensor(name, raw, raw_dtype=_TENSOR_TYPES[kind])
