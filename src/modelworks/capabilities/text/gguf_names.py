"""How Hugging Face and GGUF call the same weights of a Llama, Qwen2 or Qwen3 decoder, and the order of rotary rows."""

from __future__ import annotations

import re

import torch

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
_BLOCK = re.compile(r"^blk\.(\d+)\.([a-z_]+)\.(weight|bias)$")
_TOP_LEVEL_BACK = {theirs: ours for ours, theirs in _TOP_LEVEL.items()}
_IN_LAYER_BACK = {theirs: ours for ours, theirs in _IN_LAYER.items()}


def gguf_name(name: str) -> str | None:
    """What GGUF calls a Hugging Face weight; None where the architectures have no such weight."""
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    match = _LAYER.match(name)
    if match is None or match[2] not in _IN_LAYER:
        return None
    return f"blk.{match[1]}.{_IN_LAYER[match[2]]}.{match[3]}"


def hugging_face_name(name: str) -> str | None:
    """The inverse of `gguf_name`."""
    if name in _TOP_LEVEL_BACK:
        return _TOP_LEVEL_BACK[name]
    match = _BLOCK.match(name)
    if match is None or match[2] not in _IN_LAYER_BACK:
        return None
    return f"model.layers.{match[1]}.{_IN_LAYER_BACK[match[2]]}.{match[3]}"


def interleave_rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from Hugging Face's half-split order to the interleaved one that llama.cpp uses for architecture "llama"."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def split_rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse of `interleave_rotary`."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
