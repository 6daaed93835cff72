"""Smaller versions: what they keep, what they cost, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tests.capabilities.text.conftest import ask, local

from modelworks.capabilities.text import gguf_export
from modelworks.capabilities.text.engines.tolerance import TOLERANCES
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.engines.vllm import command
from modelworks.capabilities.text.quantise import quantise
from modelworks.capabilities.text.schemas import QuantiseParams, ServeOptions
from modelworks.capabilities.text.serve import Generator, OpenVINOGenerator, TransformersGenerator
from modelworks.contract import LocalModel
from modelworks.contract.errors import IntegrityFailed, InvalidRequest, UnsupportedParameter
from modelworks.contract.quantisation import QuantiseReport
from modelworks.testing.fake_run import FakeRun

ENGINES = [OpenVINOGenerator, TransformersGenerator]
FAST = {"num_threads": 1, "max_documents": 8, "max_answers": 0, "speed_tokens": 8}


@pytest.fixture(scope="module")
def test_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held-out")
    for number in range(6):
        (folder / f"{number}.txt").write_text(f"The pump number {number} starts, and the valve opens. " * 3, "utf-8")
    return folder


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("task") / "chats.jsonl"
    turns = [{"role": "user", "content": "Which pump?"}, {"role": "assistant", "content": "The blue one."}]
    file.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(6)), "utf-8")
    return file.parent


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, model: LocalModel, test_texts: Path, chats: Path) -> FakeRun:
    licensed = model.model_copy(update={"licence": "apache-2.0"})
    run = FakeRun(tmp_path_factory.mktemp("run"), models={"base": licensed}, datasets={"test": test_texts, "task": chats})
    report = quantise(run, QuantiseParams(**FAST))
    assert json.loads(run.saved[-1].path.read_text("utf-8")) == report.model_dump(mode="json")
    return run


@pytest.fixture(params=["int8", "int4"])
def version(request: pytest.FixtureRequest, quantised: FakeRun) -> LocalModel:
    return next(saved for saved in quantised.saved if saved.metadata.get("part") == request.param).model()


def test_the_table_says_what_each_version_saves_and_costs(quantised: FakeRun) -> None:
    report = QuantiseReport.model_validate_json(quantised.saved[-1].path.read_text("utf-8"))
    full, int8, int4 = report.variants
    assert [each.name for each in report.variants] == ["full", "int8", "int4"]
    assert int4.num_bytes < int8.num_bytes < 0.4 * full.num_bytes
    assert full.logit_difference == 0
    assert 0 < int8.logit_difference < int4.logit_difference
    for each in report.variants:
        assert each.tokens_per_cpu_s is not None
        assert each.tokens_per_cpu_s > 0
        assert each.metrics["test"].keys() == each.metrics["task"].keys() == {"loss", "perplexity", "bits_per_byte"}
    for smaller in (int8, int4):
        for role in ("test", "task"):
            found = smaller.differences[role]["loss"]
            assert found.low is not None
            assert found.high is not None
            assert found.low <= found.quantised - found.full <= found.high
            assert found.full == full.metrics[role]["loss"]
        assert smaller.differences["test"]["perplexity"].low is None, "it is no mean over samples"
    assert abs(int8.differences["test"]["loss"].quantised - full.metrics["test"]["loss"]) < 0.05
    assert quantised.progress_points[-1].done == quantised.progress_points[-1].total
    assert quantised.used == ["base", "test", "task"]


def test_a_version_keeps_what_the_full_model_is(version: LocalModel, model: LocalModel) -> None:
    assert (version.task, version.level, version.licence) == ("text-generation", "L0", "apache-2.0")
    for name in ("prompt_format", "probe", "num_parameters", "context_length"):
        assert version.metadata[name] == model.metadata[name]
    assert version.metadata["quantised"]["base"] == model.ref
    assert version.metadata["metrics"]["num_bytes"] == (version.path / "model.gguf").stat().st_size
    assert {"loss", "perplexity", "task_loss", "tokens_per_cpu_s"} <= version.metadata["metrics"].keys()


async def test_both_engines_give_the_same_answer(version: LocalModel) -> None:
    answers = []
    for engine in ENGINES:
        generator = engine(version, ServeOptions(num_threads=1))
        try:
            messages = [{"role": "user", "content": "What starts?"}]
            answer = await ask(generator, messages=messages, max_tokens=4, temperature=0, logprobs=True)
            answers.append([step.logprob for step in answer.only.logprobs][:1])
        finally:
            generator.close()
    assert answers[0] == pytest.approx(answers[1], abs=0.1)


def test_a_precision_that_is_not_stored_is_refused(version: LocalModel, model: LocalModel) -> None:
    stored = version.metadata["quantised"]["precision"]
    for engine in ENGINES:
        with pytest.raises(UnsupportedParameter, match=f"stored as {stored}"):
            engine(version, ServeOptions(precision="f32"))
        with pytest.raises(UnsupportedParameter, match="int4"):
            engine(model, ServeOptions(precision="int4"))
    with pytest.raises(InvalidRequest, match="vLLM"):
        command(version, None)


def test_what_is_quantised_already_is_not_quantised_again(version: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="already"):
        quantise(FakeRun(tmp_path, models={"base": version}), QuantiseParams(**FAST))


def test_parameters_are_checked() -> None:
    for wrong in ({"to": []}, {"to": ["int8", "int8"]}, {"to": ["int2"]}, {"speed_tokens": 0}):
        with pytest.raises(ValueError):
            QuantiseParams(**wrong)


# -- broken on purpose ---------------------------------------------------------------------------------------------------


def doubled(values: np.ndarray, kind: Any) -> np.ndarray:
    """A quantiser whose scales are twice what they should be."""
    return gguf.quantize(2 * values, getattr(gguf.GGMLQuantizationType, kind.upper()))


def permuted(values: np.ndarray, kind: Any) -> np.ndarray:
    """A quantiser that mixes up rows."""
    return gguf.quantize(values[::-1].copy(), getattr(gguf.GGMLQuantizationType, kind.upper()))


@pytest.mark.parametrize("broken", [doubled, permuted])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_broken_quantiser_is_refused_with_the_difference(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any, precision: str
) -> None:
    right, calls = gguf_export.quantised, []

    def only_one_matrix(values: np.ndarray, kind: Any) -> np.ndarray:
        # Full weights pass here too, where the model that is compared with is converted for the first time.
        calls.extend([kind] if kind.startswith("q") else [])
        return broken(values, kind) if len(calls) == 5 and kind.startswith("q") else right(values, kind)

    monkeypatch.setattr(gguf_export, "quantised", only_one_matrix)
    run = FakeRun(tmp_path, models={"base": model})
    said = rf"broke the matrix 'blk\..*relative error is 1.*{TOLERANCES[precision].matrix:.3g} is allowed"
    with pytest.raises(IntegrityFailed, match=said) as caught:
        quantise(run, QuantiseParams(to=[precision], **FAST))
    assert caught.value.error_code == "quantisation_broken"
    assert not run.saved


def test_a_broken_quantiser_is_refused_at_a_deployment_too(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_export, "quantised", doubled)
    fresh = model.model_copy(update={"digest": "sha256:fresh"})
    with pytest.raises(IntegrityFailed, match="broke the matrix"):
        OpenVINOGenerator(fresh, ServeOptions(precision="int8", num_threads=1))


def spoil(file: Path, how: str) -> None:
    """Double the scales of one matrix, or exchange its rows, in the file."""
    reader = gguf.GGUFReader(file, "r+")
    tensor = next(each for each in reader.tensors if each.name == "blk.1.ffn_up.weight")
    if how == "permuted":
        tensor.data[:] = tensor.data[::-1].copy()
    else:
        _, size = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
        blocks = tensor.data.reshape(-1, size)
        scales = blocks[:, :2].copy().view(np.float16)
        blocks[:, :2] = (2 * scales).view(np.uint8)
    reader.data.flush()


@pytest.mark.parametrize("how", ["doubled", "permuted"])
@pytest.mark.parametrize("engine", ENGINES)
def test_quantised_numbers_that_changed_are_not_served(
    version: LocalModel, tmp_path: Path, engine: type[Generator], how: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(version.path, folder)
    spoil(folder / "model.gguf", how)
    copy = version.model_copy(update={"path": folder, "digest": local(folder).digest})
    with pytest.raises(IntegrityFailed, match=r"its logits differ by .* from those of the trained graph, where 0\.0"):
        engine(copy, ServeOptions(num_threads=1))


def test_the_stored_numbers_are_what_training_would_go_on_with(version: LocalModel, model: LocalModel) -> None:
    ours, theirs = load_model(version.path, torch.float32), load_model(model.path, torch.float32)
    allowed = TOLERANCES[version.metadata["quantised"]["precision"]].matrix
    for (name, stored), (_, exact) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        error = float(((stored - exact).norm() / exact.norm()).detach())
        assert error <= (allowed if exact.ndim > 1 else 0), name
