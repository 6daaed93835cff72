"""Measuring a model on held-out text."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.evaluate import evaluate
from modelworks.capabilities.text.evaluation.likelihood import windows
from modelworks.capabilities.text.schemas import EvaluateParams
from modelworks.capabilities.text.tokenizer import encode_plain, load_tokenizer
from modelworks.contract import LocalModel
from modelworks.contract.errors import Cancelled, InvalidData
from modelworks.testing.fake_run import FakeRun
from modelworks.testing.tiny_data import sentences


@given(st.integers(0, 60), st.integers(2, 20), st.integers(1, 19))
def test_windows_count_every_target_once_with_enough_context(length: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    counted: list[int] = []
    for part in windows(range(length), window, stride):
        assert len(part.ids) <= window + 1
        counted += part.ids[part.first_counted :]
        first = part.ids[part.first_counted]
        assert part.first_counted >= min(first, window - stride + 1)
    assert counted == list(range(1, length))


def run_for(root: Path, model: LocalModel, text: str, **options: int) -> FakeRun:
    data = root / "data"
    data.mkdir(parents=True)
    (data / "test.txt").write_text(text, "utf-8")
    return FakeRun(root / "run", models={"model": model}, datasets={"test": data})


def test_a_short_text_gives_the_loss_that_one_look_gives(tmp_path: Path, model: LocalModel) -> None:
    text = " ".join(sentences(3, seed=50)) + " 大雪"
    metrics = evaluate(run_for(tmp_path, model, text), EvaluateParams(num_threads=1))
    (ids,) = encode_plain(load_tokenizer(model.path), [text])
    assert len(ids) < 128
    row = torch.tensor([[0, *ids]])
    with torch.no_grad():
        logprobs = load_model(model.path, torch.float32)(input_ids=row).logits[0, :-1].log_softmax(-1)
    nats = -float(logprobs.gather(1, row[0, 1:, None]).sum())
    assert metrics["loss"] == pytest.approx(nats / len(ids), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(nats / len(ids)), rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


def test_more_context_never_changes_what_is_counted_and_helps(tmp_path: Path, model: LocalModel) -> None:
    text = " ".join(sentences(60, seed=51))
    wide = evaluate(run_for(tmp_path / "a", model, text), EvaluateParams(stride=16))
    narrow = evaluate(run_for(tmp_path / "b", model, text), EvaluateParams(window=4, stride=3))
    batched = evaluate(run_for(tmp_path / "c", model, text), EvaluateParams(stride=16, batch_size=1))
    assert wide["loss"] < narrow["loss"]
    assert batched["loss"] == pytest.approx(wide["loss"], rel=1e-5)


def test_a_model_that_knows_nothing_has_the_vocabularys_entropy(tmp_path: Path, model: LocalModel) -> None:
    blank = tmp_path / "blank"
    blank.mkdir()
    for file in model.path.iterdir():
        (blank / file.name).write_bytes(file.read_bytes())
    weights = load_file(blank / "model.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in weights.items()}, blank / "model.safetensors")
    vocabulary = weights["model.embed_tokens.weight"].shape[0]
    run = FakeRun(
        tmp_path / "run", models={"model": blank}, datasets={"test": run_for(tmp_path, model, "x y z").dataset("test")}
    )
    assert evaluate(run, EvaluateParams())["perplexity"] == pytest.approx(vocabulary, rel=1e-4)


def test_it_can_be_cancelled_and_measures_only_as_many_documents_as_asked(
    tmp_path: Path, model: LocalModel, documents: Path
) -> None:
    run = FakeRun(tmp_path / "a", models={"model": model}, datasets={"test": documents}, cancel_at=0)
    with pytest.raises(Cancelled):
        evaluate(run, EvaluateParams())
    run = FakeRun(tmp_path / "b", models={"model": model}, datasets={"test": documents})
    evaluate(run, EvaluateParams(max_documents=2))
    assert run.progress_points[-1].total == 2


def test_damaged_weights_are_refused(tmp_path: Path, model: LocalModel, documents: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.path.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[:-5] if file.suffix == ".safetensors" else file.read_bytes())
    run = FakeRun(tmp_path / "run", models={"model": broken}, datasets={"test": documents})
    with pytest.raises(InvalidData, match="truncated"):
        evaluate(run, EvaluateParams())
