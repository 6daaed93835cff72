"""Pre-training."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.capabilities.text.conftest import TINY, write_documents
from transformers import AutoModelForCausalLM, GenerationConfig

from modelworks.capabilities.text import train
from modelworks.capabilities.text.schemas import PretrainParams
from modelworks.capabilities.text.tokenizer import load_tokenizer, template_digest
from modelworks.contract.errors import Cancelled, InvalidData, InvalidRequest
from modelworks.testing.fake_run import FakeRun, digest_of

PARAMS = PretrainParams(**TINY)


def test_the_loss_falls_and_the_run_says_how_it_went(trained: FakeRun) -> None:
    losses = {point.step: point.metrics["loss"] for point in trained.logs if "loss" in point.metrics}
    assert losses[1] > 0.9 * math.log(384)
    assert losses[40] < 0.75 * losses[1]
    validation = [point.metrics["validation_loss"] for point in trained.logs if "validation_loss" in point.metrics]
    assert len(validation) == 2
    assert validation[-1] < losses[1]
    rates = {point.step: point.metrics["lr"] for point in trained.logs if "lr" in point.metrics}
    assert rates[1] == pytest.approx(6e-3 / 5)
    assert rates[40] == pytest.approx(6e-4, rel=0.05)
    assert all(point.metrics["tokens_per_s"] > 0 for point in trained.logs if "loss" in point.metrics)
    assert trained.progress_points[-1].done == trained.progress_points[-1].total == 40


def test_the_result_is_a_hugging_face_folder_that_others_can_load(trained: FakeRun) -> None:
    (saved,) = trained.saved
    names = {file.name for file in saved.path.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    }
    model = AutoModelForCausalLM.from_pretrained(saved.path)
    assert model.config.model_type == "qwen3"
    assert model.config.tie_word_embeddings
    tokenizer = load_tokenizer(saved.path)
    assert GenerationConfig.from_pretrained(saved.path).eos_token_id == [2, 0]
    metadata = saved.metadata
    assert saved.kind == "model"
    assert metadata["task"] == "text-generation"
    assert metadata["level"] == "L0"
    assert metadata["context_length"] == 128
    assert metadata["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert metadata["template_digest"] == template_digest(tokenizer)
    assert metadata["metrics"]["tokens_seen"] == 40 * 4 * 64
    assert metadata["metrics"]["first_loss"] > metadata["metrics"]["loss"]


@pytest.mark.parametrize("cancel_at", [10, 20])
def test_a_resumed_run_gives_the_same_bytes(tmp_path: Path, documents: Path, trained: FakeRun, cancel_at: int) -> None:
    first = FakeRun(tmp_path, datasets={"train": documents}, seed=7, cancel_at=cancel_at)
    with pytest.raises(Cancelled):
        train.pretrain(first, PARAMS)
    assert not first.saved
    state = json.loads((first.checkpoints[-1].path / "state.json").read_text())
    assert state["step"] == cancel_at, "a cancelled run keeps the very step it was stopped at"
    second = FakeRun(tmp_path, datasets={"train": documents}, seed=7, resume_from=first.checkpoints[-1].path)
    train.pretrain(second, PARAMS)
    assert second.logs[0].step > cancel_at
    assert digest_of(second.saved[0].path) == digest_of(trained.saved[0].path)
    assert second.saved[0].metadata == trained.saved[0].metadata


def test_checkpoints_hold_no_pickles_and_come_at_their_steps(trained: FakeRun) -> None:
    steps = [json.loads((point.path / "state.json").read_text())["step"] for point in trained.checkpoints]
    assert steps == [15, 30]
    suffixes = {file.suffix for point in trained.checkpoints for file in point.path.rglob("*") if file.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja"}


def test_a_base_model_is_continued_from(tmp_path: Path, documents: Path, trained: FakeRun) -> None:
    base = trained.saved[0].path
    run = FakeRun(tmp_path, datasets={"train": documents}, models={"base": base}, seed=1)
    train.pretrain(run, PretrainParams(**{**TINY, "steps": 2, "learning_rate": 1e-4, "warmup_steps": 0}))
    assert run.saved[0].metadata["level"] == "L1"
    first_loss = run.logs[0].metrics["loss"]
    assert first_loss < trained.logs[0].metrics["loss"] - 1
    ours = load_file(run.saved[0].path / "model.safetensors")
    theirs = load_file(base / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    assert (run.saved[0].path / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    run.check_inputs_unchanged()


def test_what_is_replayed_is_forgotten_less(tmp_path: Path, documents: Path, trained: FakeRun) -> None:
    base = trained.saved[0].path
    tokenizer = load_tokenizer(base)
    old = torch.tensor([tokenizer("\n".join(file.read_text() for file in sorted(documents.rglob("*.txt"))))["input_ids"][:512]])
    other = tmp_path / "other"
    other.mkdir()
    for number in range(20):
        (other / f"{number}.txt").write_text(" ".join(str(each * 7919 % 1000) for each in range(number, number + 80)))

    def loss_after(folder: str, **more: Path) -> float:
        run = FakeRun(tmp_path / folder, datasets={"train": other, **more}, models={"base": base}, seed=1)
        changed = {"steps": 12, "learning_rate": 6e-3, "warmup_steps": 0, "replay_fraction": 0.5, "chat_fraction": 0}
        train.pretrain(run, PretrainParams(**{**TINY, **changed}))
        assert run.saved[0].metadata["metrics"]["tokens_seen"] == 12 * 4 * 64
        model = AutoModelForCausalLM.from_pretrained(run.saved[0].path)
        with torch.no_grad():
            return float(model(input_ids=old.reshape(4, 128), labels=old.reshape(4, 128)).loss)

    assert loss_after("replayed", replay=documents) < loss_after("alone") - 0.5


def test_a_short_text_is_replayed_in_short_blocks(tmp_path: Path, documents: Path, trained: FakeRun) -> None:
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "a.txt").write_text("The pump was repaired during the night.")
    inputs = {"train": documents, "replay": tmp_path / "short"}
    run = FakeRun(tmp_path / "run", datasets=inputs, models={"base": trained.saved[0].path}, seed=1)
    train.pretrain(run, PretrainParams(**{**TINY, "steps": 1, "chat_fraction": 0}))
    assert 4 <= run.saved[0].metadata["metrics"]["tokens_seen"] < 4 * 64


def test_a_given_tokenizer_is_used(tmp_path: Path, documents: Path, trained: FakeRun) -> None:
    given = trained.saved[0].path
    run = FakeRun(tmp_path, datasets={"train": documents}, models={"tokenizer": given}, seed=2)
    train.pretrain(run, PretrainParams(**{**TINY, "steps": 1, "vocab_size": 4000}))
    assert (run.saved[0].path / "tokenizer.json").read_bytes() == (given / "tokenizer.json").read_bytes()


def test_a_seed_decides_the_weights(tmp_path: Path, documents: Path) -> None:
    def weights(folder: str, seed: int) -> str:
        run = FakeRun(tmp_path / folder, datasets={"train": documents}, seed=seed)
        train.pretrain(run, PretrainParams(**{**TINY, "steps": 2}))
        return digest_of(run.saved[0].path / "model.safetensors")

    assert weights("a", 1) == weights("b", 1) != weights("c", 2)


def test_a_loss_that_is_no_number_stops_the_run_with_advice(tmp_path: Path, documents: Path, trained: FakeRun) -> None:
    base = tmp_path / "base"
    shutil.copytree(trained.saved[0].path, base)
    weights = load_file(base / "model.safetensors")
    save_file({name: value * 1e38 for name, value in weights.items()}, base / "model.safetensors", {"format": "pt"})
    run = FakeRun(tmp_path, datasets={"train": documents}, models={"base": base})
    with pytest.raises(InvalidRequest, match=r"diverged: the (loss|gradient) is (nan|inf) at step 1") as caught:
        train.pretrain(run, PARAMS)
    assert caught.value.error_code == "training_diverged"
    assert "learning_rate" in (caught.value.hint or "")
    assert not run.saved


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path, documents: Path, trained: FakeRun) -> None:
    run = FakeRun(tmp_path, datasets={"train": documents}, resume_from=trained.checkpoints[0].path)
    with pytest.raises(InvalidData, match="another shape"):
        train.pretrain(run, PretrainParams(**{**TINY, "num_layers": 1}))


def test_a_bad_document_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    data = write_documents(tmp_path / "data")
    (data / "zz.txt").write_bytes(b"fine \xff")
    run = FakeRun(tmp_path / "run", datasets={"train": data})
    with pytest.raises(InvalidData, match=r"zz\.txt.*byte 5"):
        train.pretrain(run, PARAMS)
    assert not run.logs
