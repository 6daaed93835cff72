"""Checkpoints as GGUF files."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelworks.capabilities.text.gguf_export import Shape, export
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidData, InvalidRequest, UnsupportedArchitecture


def read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file's settings and tensors, as the format's own reader sees them."""
    reader = gguf.GGUFReader(file)
    return {key: field.contents() for key, field in reader.fields.items()}, {tensor.name: tensor for tensor in reader.tensors}


def test_every_weight_and_setting_arrives(model: LocalModel, tmp_path: Path) -> None:
    export(model.path, tmp_path / "model.gguf", "f32")
    settings, tensors = read(tmp_path / "model.gguf")
    assert settings["general.architecture"] == "qwen3"
    assert settings["general.file_type"] == gguf.LlamaFileType.ALL_F32
    assert settings["qwen3.block_count"] == 2
    assert settings["qwen3.attention.head_count_kv"] == 1
    assert settings["qwen3.context_length"] == 128
    weights = load_file(model.path / "model.safetensors")
    assert len(tensors) == len(weights)
    assert len(settings["tokenizer.ggml.tokens"]) == weights["model.embed_tokens.weight"].shape[0]
    for name, other in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight"),
        ("model.layers.0.self_attn.k_norm.weight", "blk.0.attn_k_norm.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        assert np.array_equal(tensors[other].data, weights[name].numpy()), name
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(("dtype", "apart"), [("f16", 2e-3), ("q8_0", 2e-2)])
def test_smaller_numbers_are_near(model: LocalModel, tmp_path: Path, dtype: Any, apart: float) -> None:
    export(model.path, tmp_path / "model.gguf", dtype)
    _, tensors = read(tmp_path / "model.gguf")
    weight = load_file(model.path / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].numpy()
    stored = tensors["blk.0.ffn_up.weight"]
    difference = np.abs(gguf.dequantize(stored.data, stored.tensor_type) - weight).max()
    assert 0 < difference < apart * np.abs(weight).max()
    assert tensors["output_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32


def copy_with(model: LocalModel, folder: Path, **config: Any) -> Path:
    shutil.copytree(model.path, folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2"},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}},
        {"use_sliding_window": True},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
    ],
)
def test_what_the_format_cannot_say_is_refused_not_dropped(model: LocalModel, config: dict[str, Any], tmp_path: Path) -> None:
    folder = copy_with(model, tmp_path / "model", **config)
    with pytest.raises(UnsupportedArchitecture):
        Shape.of(json.loads((folder / "config.json").read_text()))
    with pytest.raises(UnsupportedArchitecture):
        export(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_strange_and_missing_weights_are_named_and_nothing_half_written(model: LocalModel, tmp_path: Path) -> None:
    folder = copy_with(model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.layers.0.adapter.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    with pytest.raises(InvalidData, match="adapter"):
        export(folder, tmp_path / "model.gguf")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InvalidData, match=r"blk\.1\.ffn_down"):
        export(folder, tmp_path / "model.gguf")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_rows_that_int8_cannot_store_are_named(stories: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"ffn_down.*172.*multiple of 32") as caught:
        export(stories.path, tmp_path / "model.gguf", "q8_0")
    assert "f32" in (caught.value.hint or "")
