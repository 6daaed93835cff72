"""What no engine can serve is refused with the model's own name, the reason, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from modelworks.capabilities.text.engines.opening import Checkpoint, open_any, open_transformers
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.schemas import ServeOptions
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidData, ModelworksError, UnsupportedArchitecture


def checkpoint_in(folder: Path, model: Any) -> LocalModel:
    """A checkpoint as the store lays it out: in a folder that is called by its digest."""
    model.save_pretrained(folder)
    return LocalModel(ref="mine@v1", version_id="mdl_1", path=folder, digest=folder.name)


@pytest.fixture
def gpt2(tmp_path: Path) -> LocalModel:
    config = GPT2Config(
        vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    return checkpoint_in(tmp_path / ("a" * 64), GPT2LMHeadModel(config))


def changed(model: LocalModel, **fields: Any) -> LocalModel:
    file = model.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | fields), "utf-8")
    return model


def refusal_of(model: LocalModel) -> ModelworksError:
    with pytest.raises(ModelworksError) as caught:
        open_any(Checkpoint.of(model), ServeOptions())
    assert model.path.name not in f"{caught.value.message} {caught.value.hint}"
    return caught.value


def test_an_encoder_is_not_served_as_a_generator(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = checkpoint_in(tmp_path / ("b" * 64), BertForMaskedLM(config))
    error = refusal_of(model)
    assert isinstance(error, UnsupportedArchitecture)
    assert "'mine@v1' was saved as BertForMaskedLM, which does not predict the next token" in error.message


def test_what_predicts_the_next_token_is_served_whatever_its_config_calls_it(gpt2: LocalModel) -> None:
    for architectures in (["GPT2LMHeadModel"], ["SomebodysForCausalLM"], [], None):
        opened = open_transformers(Checkpoint.of(changed(gpt2, architectures=architectures)), ServeOptions())
        assert opened.engine.name == "transformers"
        opened.engine.close()


def test_weights_that_do_not_fit_the_configuration_are_named_with_both_shapes(gpt2: LocalModel) -> None:
    error = refusal_of(changed(gpt2, vocab_size=80))
    assert isinstance(error, InvalidData)
    assert "'mine@v1' do not fit its config.json" in error.message
    assert "64 × 16 where the configuration asks for 80 × 16" in error.message
    assert "same revision" in (error.hint or "")


def test_an_architecture_that_nobody_knows_is_told_without_advice_to_install_things(gpt2: LocalModel) -> None:
    error = refusal_of(changed(gpt2, model_type="frobnicate", vocab_size=64, max_position_embeddings=32))
    assert isinstance(error, UnsupportedArchitecture)
    assert "'frobnicate'" in error.message
    assert "'mine@v1'" in error.message
    assert "pip install" not in error.message


def test_missing_layers_are_counted(gpt2: LocalModel) -> None:
    error = refusal_of(changed(gpt2, n_layer=2))
    assert isinstance(error, InvalidData)
    assert "The checkpoint 'mine@v1' lacks" in error.message


def test_without_a_name_the_folder_is_named(gpt2: LocalModel) -> None:
    changed(gpt2, n_layer=2)
    with pytest.raises(InvalidData, match="a" * 64):
        load_model(gpt2.path, torch.float32)
