"""Supervised training, adapters and preferences: what they change, what they leave, what they save."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.capabilities.text.conftest import ask
from tests.capabilities.text.training.conftest import LORA, QUICK, TALKS, conversation, tuned, write_lines

from modelworks.capabilities.text.engines.adapter import file_digests
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import AdapterParams, LoraParams, PreferenceParams, ServeOptions, SupervisedParams
from modelworks.capabilities.text.serve import OpenVINOGenerator, TransformersGenerator
from modelworks.capabilities.text.training import adapter as adapters
from modelworks.capabilities.text.training import tuning
from modelworks.contract import LocalModel
from modelworks.contract.errors import Cancelled, IntegrityFailed, InvalidData, InvalidRequest
from modelworks.testing.fake_run import FakeRun, digest_of

#: Trains until the seventh step is logged, and is gone.
KILLED = """
import os, signal, sys
from pathlib import Path
from modelworks.capabilities.text.schemas import PreferenceParams, TrainParams
from modelworks.capabilities.text.train import train
from modelworks.contract import LocalModel
from modelworks.testing.fake_run import FakeRun

class Run(FakeRun):
    def log(self, step, **metrics):
        super().log(step, **metrics)
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

root, model, data, params = sys.argv[1:]
given = {"models": {"base": LocalModel.model_validate_json(model)}, "datasets": {"train": Path(data)}}
train(Run(Path(root), **given, seed=5), TrainParams(PreferenceParams.model_validate_json(params)))
"""


def losses(run: FakeRun) -> list[float]:
    return [point.metrics["loss"] for point in run.logs if "loss" in point.metrics]


@pytest.mark.parametrize("engine", [OpenVINOGenerator, TransformersGenerator])
async def test_a_learnt_answer_is_what_the_engine_says(supervised: FakeRun, engine: type[TransformersGenerator]) -> None:
    assert losses(supervised)[-1] < 0.05 < 1 < losses(supervised)[0]
    generator = engine(supervised.saved[0].model(), ServeOptions(num_threads=1))
    try:
        for question, answer in TALKS[:2]:
            said = await ask(generator, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=30)
            assert said.only.text == answer
            assert said.only.finish_reason == "stop"
    finally:
        generator.close()


def test_the_result_says_what_it_is(supervised: FakeRun, model: LocalModel) -> None:
    (saved,) = supervised.saved
    assert saved.metadata["method"] == "supervised"
    assert saved.metadata["level"] == "L2"
    assert saved.metadata["prompt_format"]["digest"] == PromptFormat.of(saved.path).digest
    assert (saved.path / "tokenizer.json").read_bytes() == (model.path / "tokenizer.json").read_bytes()
    assert supervised.used == ["base", "train"]
    supervised.check_inputs_unchanged()


@pytest.mark.parametrize("method", [SupervisedParams, LoraParams])
def test_the_models_of_the_last_epochs_are_kept_and_change_nothing(
    tmp_path: Path, model: LocalModel, talks: Path, method: type[SupervisedParams | LoraParams]
) -> None:
    shape: dict[str, Any] = {"rank": 4, "dropout": 0.1} if method is LoraParams else {}
    params = method(**QUICK, **shape, epochs=4, batch_size=2, packing=False, learning_rate=1e-2, checkpoint_every=3)
    given: dict[str, Any] = {"models": {"base": model}, "datasets": {"train": talks, "validation": talks}, "seed": 4}
    plain = tuned(FakeRun(tmp_path / "plain", **given), params)
    params = params.model_copy(update={"keep_epochs": 2})
    run = tuned(FakeRun(tmp_path / "kept", **given), params)
    assert [saved.metadata.get("part") for saved in run.saved] == ["ckpt-step-6", "ckpt-step-9", None]
    assert digest_of(run.saved[-1].path) == digest_of(plain.saved[0].path), "what is kept moves the training"
    assert not list(run.workdir.glob("ckpt-*"))
    at_six = next(each.path for each in run.checkpoints if each.step == 6)
    trained, kept = load_file(at_six / "model.safetensors"), run.saved[0]
    if method is LoraParams:
        written = load_file(kept.path / "adapter" / "adapter_model.safetensors")
        assert kept.metadata["adapter"]["base_digest"] == model.digest
    else:
        written = load_file(kept.path / "model.safetensors")
    assert sorted(float(value.sum()) for value in written.values()) == sorted(float(value.sum()) for value in trained.values())
    assert kept.metadata["steps"] == 6
    measured = [
        point.metrics["validation_loss"] for point in run.logs if point.step == 6 and "validation_loss" in point.metrics
    ]
    assert measured == [kept.metadata["metrics"]["validation_loss"]]
    again = tuned(FakeRun(tmp_path / "again", **given, resume_from=at_six), params)
    assert [saved.metadata.get("part") for saved in again.saved] == ["ckpt-step-9", None], "the first is kept already"
    assert [digest_of(saved.path) for saved in again.saved] == [digest_of(saved.path) for saved in run.saved[1:]]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_is_all_that_is_trained_and_its_merge_computes_the_same(lora: FakeRun, model: LocalModel) -> None:
    assert losses(lora)[-1] < 0.8 * losses(lora)[0]
    (saved,) = lora.saved
    trained = load_file(lora.checkpoints[0].path / "model.safetensors")
    assert trained
    assert all("lora_" in name for name in trained)
    config = json.loads((saved.path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == model.ref
    assert {file.name for file in (saved.path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "prompt_format.json",
    }
    ids = torch.tensor([[5, 90, 30, 200, 7]])
    with torch.no_grad():
        alone = load_model(model.path, torch.float32)
        before = alone(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(alone, saved.path / "adapter")(input_ids=ids).logits
        merged = load_model(saved.path, torch.float32)(input_ids=ids).logits
    assert (adapted - before).abs().max() > 0.1
    assert (adapted - merged).abs().max() < 1e-4
    changed = load_file(saved.path / "model.safetensors")
    base = load_file(model.path / "model.safetensors")
    same = {name for name in base if torch.equal(base[name], changed[name])}
    assert "model.embed_tokens.weight" in same
    assert all(name in same for name in base if "norm" in name)
    assert saved.metadata["adapter"] == {
        "folder": "adapter",
        "base": model.ref,
        "base_digest": model.digest,
        "files": file_digests(saved.path / "adapter"),
        "prompt_format": saved.metadata["prompt_format"]["digest"],
        "rank": 8,
        "alpha": 16,
        "targets": None,
    }


@pytest.mark.parametrize("more", [{"rslora": True}, {"dora": True}, {"targets": ["q_proj", "v_proj"]}])
def test_every_kind_of_adapter_merges(tmp_path: Path, model: LocalModel, talks: Path, more: dict[str, object]) -> None:
    params = LORA.model_copy(update={"steps": 3, **more})
    run = tuned(FakeRun(tmp_path, models={"base": model}, datasets={"train": talks}), params)
    config = json.loads((run.saved[0].path / "adapter" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["use_dora"]) == ("rslora" in more, "dora" in more)
    names = load_file(run.saved[0].path / "adapter" / "adapter_model.safetensors")
    assert any("magnitude" in name for name in names) == ("dora" in more)
    assert any("mlp" in name for name in names) != ("targets" in more)


def test_a_layer_that_is_not_there_is_named(tmp_path: Path, model: LocalModel, talks: Path) -> None:
    run = FakeRun(tmp_path, models={"base": model}, datasets={"train": talks})
    with pytest.raises(InvalidRequest, match="no linear layer 'c_attn'") as caught:
        tuned(run, LORA.model_copy(update={"targets": ["c_attn"]}))
    assert "q_proj" in (caught.value.hint or "")


@pytest.mark.parametrize("adapter", [None, AdapterParams(rank=8)])
def test_preferences_raise_the_margin(
    tmp_path: Path, model: LocalModel, preferences: Path, adapter: AdapterParams | None
) -> None:
    params = PreferenceParams(**QUICK, steps=12, learning_rate=1e-3 if adapter is None else 1e-2, adapter=adapter)
    run = tuned(FakeRun(tmp_path, models={"base": model}, datasets={"train": preferences}), params)
    points = [point.metrics for point in run.logs]
    # At first the model is its own reference.
    assert points[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert points[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert points[-1]["reward_margin"] > 1
    assert points[-1]["reward_accuracy"] == 1
    assert points[-1]["loss"] < 0.4
    assert (run.saved[0].path / "adapter").is_dir() == (adapter is not None)


@pytest.mark.parametrize("method", ["supervised", "lora"])
def test_a_resumed_run_gives_the_same_bytes(
    tmp_path: Path, model: LocalModel, talks: Path, lora: FakeRun, supervised: FakeRun, method: str
) -> None:
    undisturbed = {"supervised": supervised, "lora": lora}[method]
    params = {
        "supervised": SupervisedParams(**QUICK, steps=200, learning_rate=5e-3, checkpoint_every=80, batch_size=2),
        "lora": LORA,
    }[method]
    first = FakeRun(tmp_path, models={"base": model}, datasets={"train": talks}, seed=3, cancel_at=17)
    with pytest.raises(Cancelled):
        tuned(first, params)
    assert json.loads((first.checkpoints[-1].path / "state.json").read_text())["step"] == 17
    again = FakeRun(tmp_path, models={"base": model}, datasets={"train": talks}, seed=3, resume_from=first.checkpoints[-1].path)
    tuned(again, params)
    assert again.logs[0].step == 18
    assert digest_of(again.saved[0].path) == digest_of(undisturbed.saved[0].path)
    assert again.saved[0].metadata == undisturbed.saved[0].metadata


def test_a_killed_run_goes_on_in_the_middle_of_a_pass(tmp_path: Path, model: LocalModel, preferences: Path) -> None:
    """Dropout draws from the generator whose state the checkpoint holds; five pairs make three steps a pass."""
    params = PreferenceParams(
        **QUICK,
        steps=8,
        batch_size=2,
        learning_rate=1e-2,
        checkpoint_every=5,
        adapter=AdapterParams(rank=4, dropout=0.1),
    )
    undisturbed = tuned(FakeRun(tmp_path / "a", models={"base": model}, datasets={"train": preferences}, seed=5), params)
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED,
            str(tmp_path / "b"),
            model.model_dump_json(),
            str(preferences),
            params.model_dump_json(),
        ],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    checkpoint = tmp_path / "b" / "attempt-1" / "checkpoints" / "1"
    assert json.loads((checkpoint / "state.json").read_text())["step"] == 5
    assert not (tmp_path / "b" / "attempt-1" / "saved").exists()
    given = {"models": {"base": model}, "datasets": {"train": preferences}}
    resumed = tuned(FakeRun(tmp_path / "b", **given, seed=5, resume_from=checkpoint), params)  # type: ignore[arg-type]
    assert resumed.logs[0].step == 6
    assert digest_of(resumed.saved[0].path) == digest_of(undisturbed.saved[0].path)


def test_training_stops_where_the_validation_loss_stays_and_keeps_the_best(
    tmp_path: Path, model: LocalModel, talks: Path
) -> None:
    other = write_lines(tmp_path / "other", [conversation("Rain?", "Heavy hail today.")])
    data = {"train": talks, "validation": other}
    params = SupervisedParams(
        **QUICK, steps=60, learning_rate=3e-3, warmup_steps=0, validate_every=3, checkpoint_every=3, patience=2
    )

    def run(folder: str, **more: object) -> FakeRun:
        return FakeRun(tmp_path / folder, models={"base": model}, datasets=data, **more)  # type: ignore[arg-type]

    undisturbed = tuned(run("a"), params)
    measured = [point.metrics["validation_loss"] for point in undisturbed.logs if "validation_loss" in point.metrics]
    best = undisturbed.saved[0].metadata["metrics"]["validation_loss"]
    assert len(losses(undisturbed)) < 60
    assert best == min(measured)
    assert measured[-1] == best < measured[-2]
    cancelled = run("b", cancel_at=len(losses(undisturbed)) - 1)
    with pytest.raises(Cancelled):
        tuned(cancelled, params)
    resumed = tuned(run("b", resume_from=cancelled.checkpoints[-1].path), params)
    assert digest_of(resumed.saved[0].path) == digest_of(undisturbed.saved[0].path)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path, model: LocalModel, talks: Path) -> None:
    def weights(folder: str, **more: object) -> dict[str, torch.Tensor]:
        params = SupervisedParams(**QUICK, steps=2, learning_rate=1e-3, packing=False, **more)  # type: ignore[arg-type]
        run = tuned(FakeRun(tmp_path / folder, models={"base": model}, datasets={"train": talks}), params)
        return load_file(run.saved[0].path / "model.safetensors")

    large = weights("large", batch_size=4)
    for small in (weights("small", batch_size=1, accumulation=4), weights("again", batch_size=4, gradient_checkpointing=True)):
        for name, value in large.items():
            torch.testing.assert_close(small[name], value, atol=2e-4, rtol=1e-3)


def test_a_merge_that_computes_something_else_is_refused(
    tmp_path: Path, model: LocalModel, talks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapters.merge

    def broken(adapted: object) -> object:
        merged = whole(adapted)
        with torch.no_grad():
            merged.model.layers[0].mlp.up_proj.weight.mul_(1.02)
        return merged

    monkeypatch.setattr(adapters, "merge", broken)
    run = FakeRun(tmp_path, models={"base": model}, datasets={"train": talks})
    with pytest.raises(IntegrityFailed, match="other logits than those that were trained") as caught:
        tuned(run, LORA.model_copy(update={"steps": 2}))
    assert caught.value.error_code == "trained_weights_differ"
    assert not run.saved


def test_a_base_model_and_fitting_samples_are_needed(tmp_path: Path, model: LocalModel, talks: Path) -> None:
    with pytest.raises(InvalidRequest, match="'lora' needs a base model"):
        tuned(FakeRun(tmp_path / "a", datasets={"train": talks}), LORA)
    run = FakeRun(tmp_path / "b", models={"base": model}, datasets={"train": talks})
    with pytest.raises(InvalidData, match=r"longer than 8 tokens; the longest, samples\.jsonl, line \d, has"):
        tuned(run, LoraParams(**QUICK, max_length=8))
    with pytest.raises(InvalidRequest, match="patience needs samples"):
        tuned(FakeRun(tmp_path / "d", models={"base": model}, datasets={"train": talks}), LoraParams(**QUICK, patience=1))
    long = write_lines(tmp_path / "long", [conversation(*TALKS[0]), conversation("Rain? " * 60, "No.")])
    run = FakeRun(tmp_path / "c", models={"base": model}, datasets={"train": long})
    tuned(run, SupervisedParams(**QUICK, steps=1))
    assert run.saved[0].metadata["metrics"]["num_too_long"] == 1


def test_validation_samples_that_were_trained_on_are_counted(
    tmp_path: Path, model: LocalModel, talks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = write_lines(tmp_path / "held-out", [conversation(*TALKS[0]), conversation("Hail?", "Never.")])
    datasets = {"train": talks, "validation": held_out}
    run = tuned(FakeRun(tmp_path / "run", models={"base": model}, datasets=datasets), SupervisedParams(**QUICK, steps=1))
    assert run.saved[0].metadata["metrics"]["num_leaked"] == 1
    assert "1 of 2 validation samples are in the training data too" in caplog.text


def test_copies_of_a_sample_stay_on_one_side(talks: Path) -> None:
    from modelworks.capabilities.text.datasets import read_chat

    samples = list(read_chat(talks))
    training, validation = tuning.split_samples(samples * 3, 0.2)
    assert len(validation) == 3
    assert len({sample.line for sample in validation}) == 1
    assert len(training) == 12
    assert tuning.split_samples(samples, 0) == (samples, [])
    assert tuning.split_samples(samples[:1], 0.5) == (samples[:1], [])


@pytest.mark.parametrize("method", ["supervised", "lora", "preference"])
def test_the_same_run_elsewhere_gives_the_same_bytes(
    tmp_path: Path, model: LocalModel, talks: Path, preferences: Path, method: str
) -> None:
    quick = {**QUICK, "steps": 4, "batch_size": 2}
    params = {
        "supervised": SupervisedParams(**quick),
        "lora": LoraParams(**quick, rank=4, alpha=8, dropout=0.1),
        "preference": PreferenceParams(**quick),
    }[method]
    data = preferences if method == "preference" else talks
    made = []
    for folder in ("here", "there"):
        torch.manual_seed(len(made))  # nothing is left of what was drawn before
        run = tuned(FakeRun(tmp_path / folder, models={"base": model}, datasets={"train": data}, seed=9), params)
        made.append((digest_of(run.saved[0].path), run.saved[0].metadata))
    assert made[0] == made[1]
