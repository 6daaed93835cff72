"""Reinforcement: answers that a grader rewards become likelier, and nothing else earns anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.capabilities.text.training.conftest import conversation, write_lines

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.evaluation.chat import Writer
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import ReinforcementParams, TrainParams
from modelworks.capabilities.text.train import train
from modelworks.capabilities.text.training.answering import draw_answers
from modelworks.capabilities.text.training.policy import (
    FIGURES,
    Policy,
    advantages,
    learnt_columns,
    log_likelihoods,
    policy_batch,
    with_likelihoods,
)
from modelworks.capabilities.text.training.rows import Row
from modelworks.contract import LocalModel
from modelworks.contract.deployment import Answer
from modelworks.contract.errors import Cancelled, InvalidData, InvalidRequest, Unavailable
from modelworks.contract.generation import Message
from modelworks.testing.fake_run import FakeRun, digest_of

QUESTIONS = ("Rain?", "Sun?", "Fog?", "Wind?", "What about the snow?")
HAS = {
    "type": "string_check",
    "name": "has",
    "operation": "like",
    "input": "{{sample.output_text}}",
    "reference": "{{item.want}}",
}
QUICK: dict[str, Any] = {
    "method": "reinforcement",
    "grader": HAS,
    "steps": 14,
    "learning_rate": 1e-2,
    "batch_size": 4,
    "max_answer_tokens": 6,
    "reward_cut": True,
    "validation_fraction": 0.2,
    "validation_samples": 8,
    "checkpoint_every": 100,
    "num_threads": 1,
}


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [{"messages": [{"role": "user", "content": question}], "want": "w"} for question in QUESTIONS]
    return write_lines(tmp_path_factory.mktemp("prompts"), records)


def reinforced(run: FakeRun, **params: Any) -> FakeRun:
    train(run, TrainParams.model_validate({**QUICK, **params}))
    return run


def curve(run: FakeRun, name: str) -> list[float]:
    return [point.metrics[name] for point in run.logs if name in point.metrics]


@pytest.fixture(scope="session")
def risen(tmp_path_factory: pytest.TempPathFactory, model: LocalModel, prompts: Path) -> FakeRun:
    """An undisturbed run, two steps to a set of answers."""
    run = FakeRun(tmp_path_factory.mktemp("risen"), models={"base": model}, datasets={"train": prompts}, seed=2)
    return reinforced(run, updates=2)


def test_what_is_rewarded_becomes_likelier(risen: FakeRun) -> None:
    rewards = curve(risen, "reward")
    assert sum(rewards[:2]) / 2 < 0.4
    assert sum(rewards[-4:]) / 4 > 0.7
    first, *_, last = curve(risen, "validation_reward")
    assert last > first
    (saved,) = risen.saved
    assert saved.metadata["method"] == "reinforcement"
    assert saved.metadata["metrics"]["base_validation_reward"] == first
    assert saved.metadata["metrics"]["validation_reward"] == last
    # At first the model is its own base; then it goes away from it, and the second of two updates is clipped somewhere.
    assert curve(risen, "kl")[0] == pytest.approx(0, abs=1e-6)
    assert curve(risen, "kl")[-1] > 0.1
    assert max(curve(risen, "clipped")) > 0
    assert set(curve(risen, "clipped")[::2]) == {0.0}
    assert curve(risen, "entropy")[-1] < curve(risen, "entropy")[0]
    risen.check_inputs_unchanged()


def test_a_resumed_run_gives_the_same_bytes(tmp_path: Path, model: LocalModel, prompts: Path, risen: FakeRun) -> None:
    given: dict[str, Any] = {"models": {"base": model}, "datasets": {"train": prompts}, "seed": 2}
    first = FakeRun(tmp_path, **given, cancel_at=5)
    with pytest.raises(Cancelled):
        reinforced(first, updates=2)
    # Not after the fifth step: its answers were drawn by weights that the checkpoint no longer has.
    assert json.loads((first.checkpoints[-1].path / "state.json").read_text())["step"] == 6
    again = reinforced(FakeRun(tmp_path, **given, resume_from=first.checkpoints[-1].path), updates=2)
    assert again.logs[0].step == 7
    assert digest_of(again.saved[0].path) == digest_of(risen.saved[0].path)
    assert again.saved[0].metadata == risen.saved[0].metadata


def test_an_adapter_is_trained_against_the_model_without_it(tmp_path: Path, model: LocalModel, prompts: Path) -> None:
    run = FakeRun(tmp_path, models={"base": model}, datasets={"train": prompts}, seed=2)
    reinforced(run, adapter={"rank": 8}, learning_rate=5e-2, steps=12, checkpoint_every=4)
    assert curve(run, "kl")[0] == pytest.approx(0, abs=1e-6)
    assert curve(run, "kl")[-1] > 0.05
    assert sum(curve(run, "reward")[-3:]) > sum(curve(run, "reward")[:3])
    assert (run.saved[0].path / "adapter" / "adapter_model.safetensors").is_file()
    assert len(run.checkpoints) == 2


# -- answers --------------------------------------------------------------------------------------------------------------


def test_answers_do_not_depend_on_what_is_answered_beside_them(model: LocalModel) -> None:
    """Near temperature 0 the draws are the likeliest tokens: what the evaluation writes one by one, without any padding."""
    prompt_format = PromptFormat.of(model.path).for_training()
    loaded = load_model(model.path, torch.float32)
    ids = [prompt_format.encoder.render([Message(role="user", content=each)]).ids() for each in QUESTIONS]
    assert len({len(each) for each in ids}) > 1
    answers, entropy = draw_answers(
        loaded,
        ids,
        each=2,
        max_tokens=12,
        stop_ids=prompt_format.stop_ids,
        temperature=1e-3,
        generator=torch.Generator().manual_seed(0),
    )
    writer = Writer(loaded, prompt_format, 128, 12)
    expected = [writer.answer(each) for each in ids for _ in range(2)]
    found = [prompt_format.tokenizer.decode(list(answer.ids), skip_special_tokens=True) for answer in answers]
    assert found == expected
    assert 0 <= entropy < 0.1


def test_draws_follow_the_models_distribution_and_end_where_it_ends(model: LocalModel) -> None:
    prompt_format = PromptFormat.of(model.path).for_training()
    loaded = load_model(model.path, torch.float32)
    ids = prompt_format.encoder.render([Message(role="user", content="Rain?")]).ids()

    def draw(seed: int, **more: Any) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        given = {"each": 400, "max_tokens": 1, "stop_ids": (), "temperature": 0.7, **more}
        return draw_answers(loaded, [ids], generator=generator, **given)[0]

    drawn = torch.tensor([answer.ids[0] for answer in draw(1)])
    with torch.no_grad():
        chances = (loaded(input_ids=torch.tensor([ids])).logits[0, -1] / 0.7).softmax(-1)
    likeliest = int(chances.argmax())
    share, expected = float((drawn == likeliest).float().mean()), float(chances[likeliest])
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5
    assert draw(1) == draw(1) != draw(2)
    ended = draw(3, each=40, max_tokens=5, stop_ids=tuple(range(0, 420, 2)))
    for answer in ended:
        assert all(token % 2 for token in answer.ids[:-1])
        assert answer.is_cut == bool(answer.ids[-1] % 2)
        assert len(answer.ids) == 5 or not answer.is_cut
    assert {answer.is_cut for answer in ended} == {True, False}


# -- the objective --------------------------------------------------------------------------------------------------------

ROWS = [
    Row((5, 90, 30, 7), (0.0, 0.0, 1.0, 1.0)),
    Row((5, 90, 41, 12, 55, 9), (0.0, 0.0, 1.0, 1.0, 1.0, 1.0)),
]
NOTHING = dict.fromkeys(FIGURES, 0.0)


def test_advantages_are_relative_to_the_group() -> None:
    assert advantages([1, 0, 0, 1], scale=False) == [0.5, -0.5, -0.5, 0.5]
    assert advantages([1, 0, 0, 0], scale=True) == pytest.approx([3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)], rel=1e-4)
    assert advantages([2, 2, 2], scale=True) == [0, 0, 0]


@pytest.mark.parametrize(
    ("weighting", "weights"), [("constant", (1 / 20, 1 / 20)), ("token", (1 / 6, 1 / 6)), ("answer", (1 / 4, 1 / 8))]
)
def test_the_gradient_is_that_of_weighted_likelihoods(model: LocalModel, weighting: Any, weights: tuple[float, float]) -> None:
    loaded = load_model(model.path, torch.float32)
    gains = [0.75, -0.25]
    batch = policy_batch(ROWS, gains, NOTHING, weighting=weighting, max_tokens=10, keep_all=False)
    policy = Policy(beta=0.0, clip_low=0.2, clip_high=0.28, temperature=0.8)
    loss, _ = policy(loaded, batch)
    (loss / batch.weight).backward()
    found = loaded.lm_head.weight.grad.clone()
    loaded.zero_grad()
    total = torch.zeros(())
    for row, gain, weight in zip(ROWS, gains, weights, strict=True):
        scores = (loaded(input_ids=torch.tensor([row.ids])).logits[0] / 0.8).log_softmax(-1)
        for place in range(1, len(row.ids)):
            total = total - row.weights[place] * weight * gain * scores[place - 1, row.ids[place]]
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, loaded.lm_head.weight.grad, atol=1e-6, rtol=1e-4)


def test_ratios_are_clipped_higher_above_than_below(model: LocalModel) -> None:
    loaded = load_model(model.path, torch.float32)
    batch = policy_batch(ROWS, [1.0, -1.0], NOTHING, weighting="constant", max_tokens=10, keep_all=False)
    columns = learnt_columns(batch)
    now = log_likelihoods(loaded, batch, columns, 1.0).detach()

    def told(ratio: float) -> tuple[float, float]:
        moved = {**batch.tensors, "before": now - torch.tensor(ratio).log()}
        shifted = type(batch)(moved, batch.weight, batch.num_tokens)
        loss, further = Policy(beta=0.0, clip_low=0.2, clip_high=0.28, temperature=1.0)(loaded, shifted)
        return loss.item(), further["clipped"] / batch.weight

    # Two tokens of the better answer, four of the worse one.
    assert told(1.0) == pytest.approx((-2 + 4, 0))
    assert told(1.25) == pytest.approx((-2 * 1.25 + 4 * 1.25, 0))
    assert told(1.5) == pytest.approx((-2 * 1.28 + 4 * 1.5, 2 / 6))
    assert told(0.5) == pytest.approx((-2 * 0.5 + 4 * 0.8, 4 / 6))


def test_the_distance_from_the_base_pulls_back(model: LocalModel) -> None:
    loaded = load_model(model.path, torch.float32)
    batch = policy_batch(ROWS, [0.0, 0.0], NOTHING, weighting="constant", max_tokens=10, keep_all=True)
    batch = with_likelihoods(batch, "reference", loaded, 1.0)
    policy = Policy(beta=0.5, clip_low=0.2, clip_high=0.28, temperature=1.0)
    loss, further = policy(loaded, batch)
    assert (loss.item(), further["kl"]) == pytest.approx((0, 0), abs=1e-6)
    with torch.no_grad():
        loaded.model.norm.weight.mul_(1.5)
    away, further = policy(loaded, batch)
    assert away.item() > 0.001
    assert further["kl"] > 0
    away.backward()
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter -= 1e-4 * parameter.grad
    assert policy(loaded, batch)[0].item() < away.item()


def test_groups_without_a_signal_cost_no_computation_and_change_nothing() -> None:
    batch = policy_batch(ROWS, [0.0, 0.0], NOTHING, weighting="constant", max_tokens=10, keep_all=False)
    assert len(batch.tensors["inputs"]) == 1
    assert batch.weight == 20
    both = policy_batch(ROWS, [0.0, 0.0], NOTHING, weighting="constant", max_tokens=10, keep_all=True)
    assert len(both.tensors["inputs"]) == 2


# -- guards ---------------------------------------------------------------------------------------------------------------


def test_an_answer_without_end_or_form_earns_nothing(tmp_path: Path, model: LocalModel, prompts: Path) -> None:
    def rewards(folder: str, **params: Any) -> list[float]:
        always = {**HAS, "reference": ""}
        run = FakeRun(tmp_path / folder, models={"base": model}, datasets={"train": prompts}, seed=2)
        reinforced(run, **{"grader": always, "steps": 1, **params})
        return curve(run, "reward") + curve(run, "cut_answers")

    assert rewards("all") == [1.0, pytest.approx(0.9, abs=0.1)]
    reward, cut = rewards("whole", reward_cut=False)
    assert reward == pytest.approx(1 - cut)
    assert rewards("form", answer_format=r"[0-9]{40}")[0] == 0


def failing_on(condition: str) -> dict[str, Any]:
    source = f"def grade(sample, item):\n    if {condition}: raise ValueError('no idea')\n    return len(sample['output_text'])"
    return {"type": "python", "name": "code", "source": source}


def test_failures_of_the_grader_are_counted(tmp_path: Path, model: LocalModel, prompts: Path, caplog: Any) -> None:
    run = FakeRun(tmp_path, models={"base": model}, datasets={"train": prompts}, seed=2)
    reinforced(run, grader=failing_on("item['messages'][0]['content'] == 'Fog?'"), steps=2, validation_fraction=0, batch_size=5)
    assert curve(run, "grader_failures") == [0.2, 0.2]
    assert "failed on 8 of 40 answers" in caplog.text
    assert "ValueError: no idea" in caplog.text


@pytest.mark.parametrize("held_out", [0, 0.2])
def test_a_grader_that_always_fails_ends_the_run(tmp_path: Path, model: LocalModel, prompts: Path, held_out: float) -> None:
    run = FakeRun(tmp_path, models={"base": model}, datasets={"train": prompts}, seed=2)
    with pytest.raises(InvalidRequest, match=r"failed on all of \d+ answers: .*ValueError: no idea \(line 2\)") as caught:
        reinforced(run, grader=failing_on("True"), validation_fraction=held_out)
    assert caught.value.error_code == "grader_failed"
    assert not run.saved


def test_a_record_without_what_the_grader_reads_is_named(tmp_path: Path, model: LocalModel) -> None:
    question = {"messages": [{"role": "user", "content": "Rain?"}]}
    data = write_lines(tmp_path / "data", [{**question, "want": "a"}, {**question, "wanted": "a"}])
    run = FakeRun(tmp_path, models={"base": model}, datasets={"train": data})
    with pytest.raises(InvalidData, match=r"samples\.jsonl, line 2: the grader reads \{\{item\.want\}\}: item has no field"):
        reinforced(run)


def test_prompts_must_leave_room_and_be_prompts(tmp_path: Path, model: LocalModel, prompts: Path) -> None:
    with pytest.raises(InvalidData, match="No prompt leaves room for an answer: 4 have more than 3 tokens"):
        reinforced(FakeRun(tmp_path / "a", models={"base": model}, datasets={"train": prompts}), max_answer_tokens=125)
    talks = write_lines(tmp_path / "talks", [conversation("Rain?", "No.")])
    with pytest.raises(InvalidData, match="'chat' among prompts"):
        reinforced(FakeRun(tmp_path / "b", models={"base": model}, datasets={"train": talks}))
    with pytest.raises(InvalidRequest, match="needs a base model"):
        reinforced(FakeRun(tmp_path / "c", datasets={"train": prompts}))
    run = FakeRun(tmp_path / "d", models={"base": model}, datasets={"train": prompts})
    with pytest.raises(InvalidRequest, match="patience needs samples"):
        reinforced(run, patience=2, validation_fraction=0)


# -- a model as the judge -------------------------------------------------------------------------------------------------


class Judge:
    """A deployment that likes long words."""

    def __init__(self, name: str = "big", away: bool = False) -> None:
        self.name = name
        self.away = away
        self.asked: list[str] = []

    def complete(self, messages: Sequence[Mapping[str, Any]], *, tools: Any = None, **sampling: Any) -> Answer:
        assert sampling["temperature"] == 0
        if self.away:
            raise Unavailable("It sleeps.")
        self.asked.append(str(messages[0]["content"]))
        return Answer(content='{"result": 0.5}')


ASKS = {"type": "score_model", "name": "j", "model": "big", "input": [{"role": "user", "content": "{{sample.output_text}}"}]}


def test_a_deployment_may_judge(tmp_path: Path, model: LocalModel, prompts: Path) -> None:
    judge = Judge()
    run = FakeRun(tmp_path / "a", models={"base": model}, datasets={"train": prompts}, deployments={"judge": judge})
    reinforced(run, grader=ASKS, steps=1, validation_fraction=0, batch_size=2)
    assert curve(run, "reward") == [0.5]
    assert curve(run, "without_signal") == [1.0]
    assert len(judge.asked) == 16
    for name, more in (("b", {}), ("c", {"deployments": {"judge": Judge("small")}})):
        other = FakeRun(tmp_path / name, models={"base": model}, datasets={"train": prompts}, **more)
        with pytest.raises(InvalidRequest, match="asks the model 'big'") as caught:
            reinforced(other, grader=ASKS)
        assert caught.value.param == "inputs.judge"
    gone = {"judge": Judge(away=True)}
    run = FakeRun(tmp_path / "d", models={"base": model}, datasets={"train": prompts}, deployments=gone)
    with pytest.raises(Unavailable, match="It sleeps"):
        reinforced(run, grader=ASKS)


# -- parameters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"grader": {**HAS, "operation": "almost"}}, "eq"),
        ({"grader": {"type": "python", "name": "p", "source": "def grade(x): return 1"}}, "two arguments"),
        ({"answer_format": "("}, "no regular expression"),
        ({"group_size": 1}, "greater than or equal to 2"),
        ({"clip_low": 1.0}, "less than 1"),
        ({"temperature": 0}, "greater than 0"),
        ({"grade": HAS}, "not permitted"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        TrainParams.model_validate({**QUICK, **params})


def test_several_judges_are_refused() -> None:
    both = {"type": "multi", "name": "m", "graders": [ASKS, {**ASKS, "name": "k", "model": "b"}], "calculate_output": "j + k"}
    with pytest.raises(ValidationError, match="a run can ask one"):
        TrainParams.model_validate({**QUICK, "grader": both})


def test_an_adapter_has_a_rate_of_its_own_and_parameters_read_back_as_they_were() -> None:
    assert ReinforcementParams.model_validate({"grader": HAS}).learning_rate == 1e-6
    params = ReinforcementParams.model_validate({"grader": HAS, "adapter": {"rank": 4}})
    assert params.learning_rate == 1e-5
    assert TrainParams.model_validate(TrainParams(params).model_dump(mode="json")).root == params
