"""Answers judged by a grader while a model is measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from modelworks.capabilities.text.evaluate import evaluate
from modelworks.capabilities.text.evaluation.graded import interval
from modelworks.capabilities.text.evaluation.writing import Writer
from modelworks.capabilities.text.schemas import EvaluateParams
from modelworks.contract import LocalModel
from modelworks.contract.deployment import Answer
from modelworks.contract.errors import Cancelled, InvalidData, InvalidRequest, Unavailable
from modelworks.contract.evaluation import SampleResult
from modelworks.testing.fake_run import FakeRun

EXACT: dict[str, Any] = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
    "operation": "eq",
}
PYTHON: dict[str, Any] = {
    "type": "python",
    "name": "length",
    "source": "def grade(sample, item):\n    return len(sample['output_text']) / item['scale']\n",
}
SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "good",
    "model": "judge",
    "input": [{"role": "user", "content": "How good is {{sample.output_text}} to {{item.messages[0].content}}?"}],
    "range": [0, 10],
}
LABEL: dict[str, Any] = {
    "type": "label_model",
    "name": "kind",
    "model": "judge",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
BOTH: dict[str, Any] = {
    "type": "multi",
    "name": "both",
    "graders": {
        "exact": EXACT,
        "near": {**EXACT, "type": "text_similarity", "name": "near", "evaluation_metric": "fuzzy_match"},
    },
    "calculate_output": "0.5 * exact + 0.5 * near",
}
del BOTH["graders"]["near"]["operation"]


class Judge:
    """A deployment that says one thing."""

    name = "judge"

    def __init__(self, says: str = "7", *, away: bool = False) -> None:
        self._says, self._away = says, away
        self.asked: list[str] = []

    def complete(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> Answer:
        if self._away:
            raise Unavailable("It stayed away.")
        self.asked.append(messages[-1]["content"])
        return Answer(content=json.dumps({"result": self._says}))


def prompt(question: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], **more}


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def run_on(root: Path, model: LocalModel, *records: Any, **more: Any) -> FakeRun:
    folder = root / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return FakeRun(root / "run", models={"model": model}, datasets={"test": folder}, **more)


def samples_of(run: FakeRun) -> list[SampleResult]:
    (saved,) = run.saved
    return [SampleResult.model_validate_json(line) for line in saved.path.read_text("utf-8").splitlines()]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts answers into the model's mouth."""

    def put(*answers: str) -> None:
        left = iter(answers)
        monkeypatch.setattr(Writer, "answer", lambda *_args, **_more: next(left))

    return put


def test_prompts_without_answers_give_the_reward_alone(tmp_path: Path, model: LocalModel, says: Any) -> None:
    says("yes", "no", "yes", "yes")
    run = run_on(tmp_path, model, *(prompt(f"Is it {number}?", reference_answer="yes") for number in range(4)))
    metrics = evaluate(run, EvaluateParams.model_validate({"grader": EXACT, "num_threads": 1}))
    assert set(metrics) == {"reward", "reward_low", "reward_high", "pass_rate", "grader_failures"}
    assert metrics["reward"] == metrics["pass_rate"] == 0.75
    assert metrics["grader_failures"] == 0
    assert 0 <= metrics["reward_low"] < 0.75 < metrics["reward_high"] <= 1
    samples = samples_of(run)
    assert [each.sample for each in samples] == [f"t.jsonl:{line}" for line in (1, 2, 3, 4)]
    assert [each.values for each in samples][1] == {"reward": (0.0, 1.0), "pass_rate": (0.0, 1.0)}
    assert samples[1].detail == {"answer": "no", "reward": 0.0}


def test_conversations_keep_their_other_metrics_and_their_answer_is_the_reference(
    tmp_path: Path, model: LocalModel, says: Any
) -> None:
    says("snow", "rain")
    run = run_on(tmp_path, model, chat("What falls?", "snow"), prompt("And?", reference_answer="rains"))
    metrics = evaluate(run, EvaluateParams.model_validate({"grader": BOTH, "num_threads": 1}))
    assert {"loss", "perplexity", "exact_match", "chrf", "reward"} <= set(metrics)
    first, second = samples_of(run)
    assert first.values["reward"] == (1.0, 1.0)
    assert {"loss", "exact_match", "reward"} <= set(first.values)
    assert first.detail["sub_scores"] == {"exact": 1.0, "near": 1.0}
    assert set(second.values) == {"reward", "pass_rate"}
    assert second.values["reward"][0] == pytest.approx(0.5 * 8 / 9)
    assert metrics["reward"] == pytest.approx((1 + 4 / 9) / 2)


def test_code_judges_and_a_failure_of_it_costs_only_that_answer(tmp_path: Path, model: LocalModel, says: Any) -> None:
    says("abcd", "ab", "abc")
    run = run_on(tmp_path, model, prompt("a", scale=4), prompt("b", scale=0), prompt("c", scale=6))
    metrics = evaluate(run, EvaluateParams.model_validate({"grader": PYTHON, "num_threads": 1}))
    assert metrics["reward"] == pytest.approx(0.75)
    assert metrics["grader_failures"] == pytest.approx(1 / 3)
    failed = samples_of(run)[1]
    assert failed.values == {}
    assert "division by zero" in failed.detail["grader_error"]
    assert "reward" not in failed.detail
    run = run_on(tmp_path / "all", model, prompt("b", scale=0))
    says("ab")
    with pytest.raises(InvalidRequest, match=r"failed on all of 1 answers.*division by zero") as refused:
        evaluate(run, EvaluateParams.model_validate({"grader": PYTHON, "num_threads": 1}))
    assert refused.value.error_code == "grader_failed"
    assert not run.saved


@pytest.mark.parametrize(("grader", "judge", "reward"), [(SCORE, Judge("7"), 7.0), (LABEL, Judge("good"), 1.0)])
def test_a_deployment_judges(
    tmp_path: Path, model: LocalModel, says: Any, grader: dict[str, Any], judge: Judge, reward: float
) -> None:
    says("blue", "green")
    run = run_on(tmp_path, model, prompt("Sky?"), prompt("Grass?"), deployments={"judge": judge})
    metrics = evaluate(run, EvaluateParams.model_validate({"grader": grader, "num_threads": 1}))
    assert metrics["reward"] == metrics["reward_low"] == metrics["reward_high"] == reward
    assert metrics["pass_rate"] == 1
    assert sorted(each.count("blue") for each in judge.asked) == [0, 1]
    assert "judge" in run.used


def test_what_is_wrong_is_said_before_the_model_is_loaded(
    tmp_path: Path, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr("modelworks.capabilities.text.evaluate.load_model", loaded)
    params = EvaluateParams.model_validate({"grader": SCORE})
    for more in ({}, {"deployments": {"other": Judge()}}):
        with pytest.raises(InvalidRequest, match="asks the model 'judge', and none is given") as refused:
            evaluate(run_on(tmp_path, model, prompt("Sky?"), **more), params)
        assert refused.value.param == "inputs.judge"
    with pytest.raises(InvalidRequest, match="of the form 'text'") as refused:
        evaluate(run_on(tmp_path, model, {"text": "Snow."}), EvaluateParams.model_validate({"grader": EXACT}))
    assert refused.value.param == "params.grader"


def test_a_record_without_what_the_grader_reads_is_named(tmp_path: Path, model: LocalModel) -> None:
    run = run_on(tmp_path, model, prompt("a", reference_answer="b"), prompt("c", note="d"))
    with pytest.raises(InvalidData, match=r"t.jsonl, line 2: the grader reads .*reference_answer.*it has messages, note"):
        evaluate(run, EvaluateParams.model_validate({"grader": EXACT}))


def test_prompts_without_a_grader_are_refused_with_what_to_do(tmp_path: Path, model: LocalModel) -> None:
    run = run_on(tmp_path, model, prompt("a", reference_answer="b"))
    with pytest.raises(InvalidData, match="a sample of kind 'prompt'") as refused:
        evaluate(run, EvaluateParams())
    assert refused.value.hint is not None
    assert "grader" in refused.value.hint


def test_a_judge_that_stays_away_and_a_request_to_stop_end_it(tmp_path: Path, model: LocalModel, says: Any) -> None:
    says("a", "b")
    params = EvaluateParams.model_validate({"grader": SCORE, "num_threads": 1})
    run = run_on(tmp_path / "a", model, prompt("Sky?"), deployments={"judge": Judge(away=True)})
    with pytest.raises(Unavailable, match="stayed away"):
        evaluate(run, params)
    run = run_on(tmp_path / "b", model, prompt("Sky?"), deployments={"judge": Judge()}, cancel_at=0)
    with pytest.raises(Cancelled):
        evaluate(run, params)


@pytest.mark.parametrize(
    ("wrong", "place", "problem"),
    [
        ({**EXACT, "operation": "equals"}, "operation", "'eq', 'ne'"),
        ({"type": "exact"}, "grader", "does not match any of the expected tags"),
        ({**PYTHON, "source": "def judge(): pass"}, "grader", "defines no function grade"),
        ({**BOTH, "calculate_output": "exact + far"}, "grader", "far"),
        (
            {**BOTH, "graders": {"one": SCORE, "two": {**LABEL, "model": "other"}}, "calculate_output": "one"},
            "grader",
            "asks several models",
        ),
    ],
)
def test_a_wrong_grader_is_refused_with_its_field(wrong: dict[str, Any], place: str, problem: str) -> None:
    with pytest.raises(ValidationError) as refused:
        EvaluateParams.model_validate({"grader": wrong})
    first = refused.value.errors()[0]
    assert first["loc"][0] == "grader"
    assert first["loc"][-1] == place or place == "grader"
    assert problem in first["msg"]
    with pytest.raises(ValidationError, match="max_answers must be above 0"):
        EvaluateParams.model_validate({"grader": EXACT, "max_answers": 0})


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    chance = np.random.default_rng(3)
    inside = sum(low <= 0.3 <= high for low, high in (interval(list(chance.random(40) < 0.3)) for _ in range(60)))
    assert 48 <= inside <= 60
    assert interval([0.5]) == (0.5, 0.5)
    assert interval([0.0, 1.0] * 500)[0] > interval([0.0, 1.0] * 5)[0]
