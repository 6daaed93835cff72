"""What a training is said to need: grows with what it depends on, and asks for what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.capabilities.text.training.conftest import conversation, write_lines

from modelworks.capabilities.text.estimate import estimate, shape_of
from modelworks.capabilities.text.schemas import TrainParams
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.estimate import Estimate
from modelworks.testing.fake_run import FakeInputs

#: Trains in a process of its own and prints the largest memory that it took.
TRAIN = """
import json, sys
from pathlib import Path
from modelworks.capabilities.text.schemas import TrainParams
from modelworks.capabilities.text.train import train
from modelworks.testing.fake_run import FakeRun
root, base, data, params = sys.argv[1:]
train(FakeRun(Path(root), models={"base": Path(base)}, datasets={"train": Path(data)}), TrainParams.model_validate_json(params))
status = Path("/proc/self/status").read_text()
print(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10)
"""


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = "the blue gate of the old town by the river"
    records = [conversation(f"Question {number}?", " ".join([words] * (number % 7 + 1))) for number in range(200)]
    return write_lines(tmp_path_factory.mktemp("talks"), records)


def said(inputs: FakeInputs, **params: Any) -> Estimate:
    found = estimate(TrainParams.model_validate(params), inputs, 1.0)
    assert found is not None
    return found


def test_the_shape_is_read_from_the_files(model: LocalModel) -> None:
    shape = shape_of(FakeInputs(base=model.path), "base")
    assert shape is not None
    assert (shape.hidden, shape.layers, shape.vocab_size, shape.queries, shape.keys, shape.intermediate) == (
        64, 2, 448, 64, 32, 128,
    )  # fmt: skip
    assert shape.num_parameters == pytest.approx(448 * 64 + 2 * (2 * 64 * (64 + 32) + 3 * 64 * 128), rel=0.05)


def test_it_grows_with_what_it_depends_on(model: LocalModel, talks: Path) -> None:
    inputs = FakeInputs(base=model.path, train=talks)
    usual = {"method": "supervised", "batch_size": 32, "max_length": 128, "steps": 10}
    plain = said(inputs, **usual)
    assert said(inputs, **usual | {"batch_size": 64}).parts["activations"] == 2 * plain.parts["activations"]
    assert said(inputs, **usual | {"max_length": 64}).memory_bytes < plain.memory_bytes
    assert said(inputs, **usual | {"gradient_checkpointing": True}).parts["activations"] < plain.parts["activations"]
    assert said(inputs, **usual | {"method": "lora"}).parts["optimiser"] < plain.parts["optimiser"] * 2
    assert said(inputs, **usual | {"patience": 2}).parts["best weights"] == plain.parts["weights"]
    distilled = said(FakeInputs(base=model.path, teacher=model.path, train=talks), **usual | {"method": "distillation"})
    assert distilled.parts["teacher"] > plain.parts["weights"]
    assert (plain.seconds or 0) > 0
    assert any("batch_size" in hint for hint in plain.hints)


def test_short_samples_need_no_long_rows(model: LocalModel, tmp_path: Path) -> None:
    few = write_lines(tmp_path / "few", [conversation("Rain?", "No rain.")])
    inputs = FakeInputs(base=model.path, train=few)
    packed = said(inputs, method="supervised", batch_size=64)
    assert packed.parts["activations"] < said(FakeInputs(base=model.path), method="supervised").parts["activations"] / 8


def test_pre_training_is_estimated_from_its_parameters_alone(talks: Path) -> None:
    tiny = said(FakeInputs(train=talks), preset="tiny")
    small = said(FakeInputs(train=talks), preset="small")
    assert tiny.memory_bytes < small.memory_bytes
    assert (tiny.seconds or 0) < (small.seconds or 0)


def test_a_base_model_is_asked_for(talks: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        estimate(TrainParams.model_validate({"method": "lora"}), FakeInputs(train=talks), 1.0)
    assert refused.value.param == "inputs.base"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"method": "distillation"}, "inputs.teacher"),
        ({"method": "supervised", "patience": 2, "validation_fraction": 0}, "params.patience"),
    ],
)
def test_what_would_fail_at_the_first_step_is_refused_at_once(
    model: LocalModel, talks: Path, params: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        estimate(TrainParams.model_validate(params), FakeInputs(base=model.path, train=talks), 1.0)
    assert refused.value.param == param


@pytest.mark.parametrize("config", ["", "[]", json.dumps({"model_type": "strange"})])
def test_nothing_is_said_of_a_base_that_cannot_be_read(tmp_path: Path, talks: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    inputs = FakeInputs(base=tmp_path, train=talks)
    assert estimate(TrainParams.model_validate({"method": "supervised"}), inputs, 1.0) is None


def test_prompts_that_another_method_cannot_read_are_left_to_it_to_refuse(tmp_path: Path, model: LocalModel) -> None:
    record = {"messages": [{"role": "user", "content": "Rain?"}], "reference_answer": "No."}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(record), "utf-8")
    assert said(FakeInputs(base=model.path, train=tmp_path), method="supervised").memory_bytes > 0


def test_it_is_within_30_percent_of_the_truth(tmp_path: Path, model: LocalModel, talks: Path) -> None:
    params = {"method": "supervised", "batch_size": 256, "max_length": 128, "steps": 1, "num_threads": 1, "warmup_steps": 0}
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "run"), str(model.path), str(talks), json.dumps(params)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    truth = int(done.stdout.split()[-1])
    expected = said(FakeInputs(base=model.path, train=talks), **params).memory_bytes
    assert expected == pytest.approx(truth, rel=0.3)
    assert truth > 400 << 20


def test_training_data_that_give_the_test_away_are_told_before(tmp_path: Path, model: LocalModel) -> None:
    secret = "Which gate of the old town is painted blue and stands closest to the river bank?"
    test = write_lines(tmp_path / "test", [conversation(secret, "The southern one."), conversation("Who?", "Nobody.")])
    other = [conversation(f"How many boats of size {number} are there on the lake in winter?", "Few.") for number in range(9)]
    known = conversation(f"Tell me. {secret}", "The northern one.")
    usual = {"method": "supervised", "steps": 1}
    for place, train, notes in (("clean", other, 0), ("leaking", [*other, known], 1)):
        folder = write_lines(tmp_path / place, train)
        for role in ("test", "validation"):
            found = [
                note for note in said(FakeInputs(base=model.path, train=folder, **{role: test}), **usual).notes if role in note
            ]
            assert len(found) == notes
            if notes:
                assert found[0].startswith("1 of 10 training samples give away")
                assert f"samples.jsonl:10 gives away samples.jsonl:1 of {role}" in found[0]
                assert "data clean" in found[0]
    assert not any("give away" in note for note in said(FakeInputs(base=model.path, train=tmp_path / "leaking"), **usual).notes)
