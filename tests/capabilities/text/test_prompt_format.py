"""One object from training to serving: what differs is found, and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.capabilities.text.conftest import local

from modelworks.capabilities.text.engines.vllm import command
from modelworks.capabilities.text.prompt_format import PromptFormat, served_format
from modelworks.capabilities.text.schemas import ServeOptions
from modelworks.capabilities.text.serve import OpenVINOGenerator, TransformersGenerator
from modelworks.contract import LocalModel
from modelworks.contract.errors import IntegrityFailed, InvalidRequest

ENGINES = [OpenVINOGenerator, TransformersGenerator]


@pytest.fixture
def copy(tmp_path: Path, model: LocalModel) -> LocalModel:
    """The trained model, in a folder that may be spoilt."""
    shutil.copytree(model.path, tmp_path / "copy")
    return model.model_copy(update={"path": tmp_path / "copy"})


def break_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text("utf-8").replace("assistant", "model"), "utf-8")


def break_end(folder: Path) -> None:
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"eos_token_id": [7]}), "utf-8")


def break_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-5]
    file.write_text(json.dumps(tokenizer), "utf-8")


BREAKAGES = [
    pytest.param(break_template, "the chat template was sha256:.* and is sha256:", id="template"),
    pytest.param(break_end, r"the ids that end an answer \(eos_token_id\) was \[0, 2\] and is \[2, 7\]", id="end"),
    pytest.param(break_tokenizer, r"the tokenizer \(tokenizer.json\) was sha256:.* and is sha256:", id="tokenizer"),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("recorded", ["metadata", "folder"])
@pytest.mark.parametrize(("spoil", "said"), BREAKAGES)
def test_a_changed_format_is_not_served(
    copy: LocalModel, engine: type[TransformersGenerator], recorded: str, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(copy.path)
    if recorded == "metadata":
        (copy.path / "prompt_format.json").unlink()
    else:
        copy = local(copy.path)
    with pytest.raises(IntegrityFailed, match=said) as caught:
        engine(copy, ServeOptions(num_threads=1))
    assert caught.value.error_code == "prompt_format_changed"
    assert str(caught.value).count(" and is ") == 1, "only what differs is named"
    with pytest.raises(IntegrityFailed, match=said):
        command(copy, None)


@pytest.mark.parametrize("engine", ENGINES)
def test_changed_weights_are_not_served(copy: LocalModel, engine: type[TransformersGenerator]) -> None:
    file = copy.path / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name] + 0.05 * torch.ones_like(weights[name])
    save_file(weights, file, {"format": "pt"})
    # A digest of its own, so that no engine finds the unspoilt one converted.
    with pytest.raises(IntegrityFailed, match=r"differ by .* from those of the trained graph") as caught:
        engine(copy.model_copy(update={"digest": local(copy.path).digest}), ServeOptions(num_threads=1))
    assert caught.value.error_code == "trained_weights_differ"


def test_a_model_from_elsewhere_has_nothing_to_differ_from(copy: LocalModel) -> None:
    (copy.path / "prompt_format.json").unlink()
    break_template(copy.path)
    assert served_format(local(copy.path)).stop_ids == (0, 2)


def test_spacing_is_no_difference(copy: LocalModel) -> None:
    file = copy.path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")), indent=7), "utf-8")
    assert served_format(copy).digest == copy.metadata["prompt_format"]["digest"]


def test_the_end_of_a_turn_becomes_an_end_of_answers(copy: LocalModel) -> None:
    (copy.path / "generation_config.json").write_text('{"eos_token_id": 0}', "utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((copy.path / name).read_text("utf-8"))
        end = {"eos_token_id": 0} if name == "config.json" else {"eos_token": "<|endoftext|>"}
        (copy.path / name).write_text(json.dumps(settings | end), "utf-8")
    found = PromptFormat.of(copy.path)
    assert found.stop_ids == (0,)
    assert found.for_training().stop_ids == (0, 2)


def test_a_template_without_an_end_cannot_be_trained(copy: LocalModel) -> None:
    (copy.path / "chat_template.jinja").write_text(
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}", "utf-8"
    )
    with pytest.raises(InvalidRequest, match="ends an answer with no special token") as caught:
        PromptFormat.of(copy.path).for_training()
    assert caught.value.error_code == "template_without_end"
