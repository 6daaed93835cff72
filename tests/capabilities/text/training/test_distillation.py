"""A student learns how likely a teacher finds every token."""

import math
from pathlib import Path

import pytest
import torch
from tests.capabilities.text.conftest import TINY
from tests.capabilities.text.training.conftest import QUICK, TALKS, conversation, tuned, write_lines
from torch.nn import functional

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import AdapterParams, DistillationParams, PretrainParams
from modelworks.capabilities.text.train import pretrain
from modelworks.capabilities.text.training.batches import answers, collate
from modelworks.capabilities.text.training.distillation import Distillation
from modelworks.capabilities.text.training.rows import conversation_rows
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidRequest
from modelworks.testing.fake_run import FakeRun

DISTIL = DistillationParams(**QUICK, steps=60, learning_rate=5e-3, checkpoint_every=25, batch_size=2, teacher_share=1.0)


@pytest.fixture(scope="session")
def teacher(supervised: FakeRun) -> LocalModel:
    return supervised.saved[0].model("teacher@v1")


@pytest.fixture(scope="session")
def lies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The questions that the teacher knows, with answers that are wrong."""
    return write_lines(tmp_path_factory.mktemp("lies"), [conversation(question, "Never.") for question, _ in TALKS])


def a_run(tmp_path: Path, model: LocalModel, teacher: LocalModel | None, data: Path, **known: object) -> FakeRun:
    models = {"base": model} | ({} if teacher is None else {"teacher": teacher})
    return FakeRun(tmp_path, models=models, datasets={"train": data}, seed=5, **known)  # type: ignore[arg-type]


def logits_of(model: LocalModel, rows: list[list[int]]) -> list[torch.Tensor]:
    graph = load_model(model.path, torch.float32).eval()
    with torch.no_grad():
        return [graph(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in rows]


def test_the_objective_is_the_papers(model: LocalModel, teacher: LocalModel) -> None:
    """Against a loop over positions that spells the formula out."""
    prompt_format = PromptFormat.of(model.path).for_training()
    rows = [
        row
        for question, answer in TALKS[:2]
        for row in conversation_rows(
            prompt_format, conversation(question, answer)["messages"], None, [0.0, 1.0], "samples.jsonl, line 1"
        )
    ]
    batch = collate([[row] for row in rows])
    student, expert = load_model(model.path, torch.float32).eval(), load_model(teacher.path, torch.float32).eval()
    size, heat, share = len(prompt_format.tokenizer), 3.0, 0.25
    params = DistillationParams(temperature=heat, teacher_share=share)
    with torch.no_grad():
        found, further = Distillation(expert, size, params)(student, batch)
        crossed, _ = answers(student, batch)
    divergence = 0.0
    ids = [list(row.ids) for row in rows]
    both = zip(logits_of(model, ids), logits_of(teacher, ids), strict=True)
    for row, (ours, theirs) in zip(rows, both, strict=True):
        for place in range(len(row.ids) - 1):
            p = functional.softmax(theirs[place, :size] / heat, dim=0)
            q = functional.softmax(ours[place, :size] / heat, dim=0)
            divergence += row.weights[place + 1] * heat**2 * float((p * (p.log() - q.log())).sum())
    assert further["divergence"] == pytest.approx(divergence, rel=1e-4)
    assert float(found) == pytest.approx((1 - share) * float(crossed) + share * divergence, rel=1e-4)
    assert divergence > 1


def test_a_student_comes_to_agree_with_its_teacher_against_the_labels(
    tmp_path: Path, model: LocalModel, teacher: LocalModel, lies: Path
) -> None:
    run = tuned(a_run(tmp_path, model, teacher, lies), DISTIL)
    curve = [point.metrics["divergence"] for point in run.logs if "divergence" in point.metrics]
    assert curve[-1] < curve[0] / 4
    assert run.saved[0].metadata["teacher"] == {"ref": "teacher@v1", "digest": teacher.digest}
    assert run.used == ["base", "train", "teacher"]


@pytest.mark.parametrize("adapter", [None, AdapterParams(rank=4, dropout=0.05)], ids=["weights", "adapter"])
def test_a_resumed_run_gives_the_same_bytes(
    tmp_path: Path, model: LocalModel, teacher: LocalModel, talks: Path, adapter: AdapterParams | None
) -> None:
    params = DISTIL.model_copy(update={"steps": 9, "checkpoint_every": 4, "adapter": adapter})
    whole = tuned(a_run(tmp_path / "whole", model, teacher, talks), params)
    resumed = tuned(a_run(tmp_path / "rest", model, teacher, talks, resume_from=whole.checkpoints[-1].path), params)
    one, other = whole.saved[0].path / "model.safetensors", resumed.saved[0].path / "model.safetensors"
    assert one.read_bytes() == other.read_bytes()
    assert ("adapter" in whole.saved[0].metadata) == (adapter is not None)


def test_a_teacher_of_other_tokens_is_refused(tmp_path: Path, model: LocalModel, documents: Path, talks: Path) -> None:
    stranger = FakeRun(tmp_path / "stranger", datasets={"train": documents})
    pretrain(stranger, PretrainParams(**TINY | {"vocab_size": 380, "steps": 1, "hidden_size": 16, "head_dim": 8}))
    with pytest.raises(InvalidRequest, match="another tokenizer") as refused:
        tuned(a_run(tmp_path / "run", model, stranger.saved[0].model("stranger@v1"), talks), DISTIL)
    assert (refused.value.error_code, refused.value.param) == ("tokenizer_differs", "inputs.teacher")
    assert "modelworks data label" in str(refused.value.hint)


def test_a_teacher_is_needed(tmp_path: Path, model: LocalModel, talks: Path) -> None:
    with pytest.raises(InvalidRequest, match="needs a teacher") as refused:
        tuned(a_run(tmp_path, model, None, talks), DISTIL)
    assert refused.value.param == "inputs.teacher"


def test_without_a_share_of_the_teacher_it_is_supervised_training(model: LocalModel, teacher: LocalModel) -> None:
    prompt_format = PromptFormat.of(model.path).for_training()
    (row,) = conversation_rows(prompt_format, conversation("Rain?", "No.")["messages"], None, [0.0, 1.0], "here")
    batch = collate([[row]])
    student, expert = (load_model(each.path, torch.float32).eval() for each in (model, teacher))
    with torch.no_grad():
        found, _ = Distillation(expert, len(prompt_format.tokenizer), DistillationParams(teacher_share=0))(student, batch)
        assert math.isclose(float(found), float(answers(student, batch)[0]), rel_tol=1e-6)
