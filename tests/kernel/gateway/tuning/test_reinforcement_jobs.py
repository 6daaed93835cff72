"""Fine-tuning jobs of the method reinforcement, through the official client; the training itself is played by hand."""

from __future__ import annotations

import io
import json
from typing import Any

import openai
import pytest
from tests.kernel.gateway.tuning.desk import Desk

from modelworks.contract.template import Template
from modelworks.kernel.gateway.tuning.training_file import check

GRADER: Any = {
    "type": "string_check",
    "name": "same",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
    "operation": "eq",
}
JUDGE: Any = {
    "type": "score_model",
    "name": "j",
    "model": "big",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}
PROMPT = {"messages": [{"role": "user", "content": "2+2?"}], "reference_answer": "4"}


async def job_of(desk: Desk, grader: Any = GRADER, **hyperparameters: Any) -> Any:
    file_id = await desk.file(PROMPT, PROMPT)
    method = {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": hyperparameters}}
    return await desk.job(training_file=file_id, method=method)


async def test_grader_and_hyperparameters_reach_the_run(desk: Desk) -> None:
    job = await job_of(desk, compute_multiplier=0.5, eval_interval=7, eval_samples="auto", learning_rate_multiplier=10)
    assert job.status == "validating_files"
    desk.steps.tick()
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "queued", job.error
    assert job.method.type == "reinforcement"
    assert job.method.reinforcement.grader.to_dict() == GRADER
    assert job.method.reinforcement.hyperparameters.to_dict() == {
        "n_epochs": 1.0,
        "batch_size": 4,
        "learning_rate_multiplier": 10,
        "compute_multiplier": 0.5,
        "eval_interval": 7,
        "eval_samples": 1,
    }
    with desk.db.reading() as session:
        run = desk.jobs.get(session, desk.project_id, desk.run_id(job.id))
    assert run.params["grader"] == GRADER
    assert (run.params["group_size"], run.params["validate_every"]) == (4, 7)
    assert run.params["learning_rate"] == pytest.approx(1e-5)
    story = [event.message async for event in desk.client.fine_tuning.jobs.list_events(job.id)]
    assert "eval_samples is 1 (auto: the method's default. Answers to measure by)" in story


async def test_rewards_are_told_in_openais_names(desk: Desk) -> None:
    job = await job_of(desk)
    desk.steps.tick()
    desk.play(
        job.id,
        ("metrics", {"step": 1, "values": {"loss": 0.0, "reward": 0.25, "kl": 0.0}}),
        ("metrics", {"step": 2, "values": {"loss": 0.0, "reward": 0.5, "kl": 0.1, "validation_reward": 0.75}}),
        desk.saved_model(),
        ("finished", {"result": None}),
    )
    desk.steps.tick()
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    table = (await desk.client.files.content(job.result_files[0])).text.splitlines()
    assert table[0] == "step,train_loss,train_reward_mean,valid_reward_mean,kl"
    assert table[2] == "2,0.0,0.5,0.75,0.1"
    (checkpoint,) = [each async for each in desk.client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert checkpoint.metrics.to_dict()["valid_reward_mean"] == 0.75


@pytest.mark.parametrize(
    ("detail", "param"),
    [
        ({}, "method.reinforcement.grader"),
        ({"grader": {**GRADER, "operation": "almost"}}, "method.reinforcement.grader.operation"),
        ({"grader": {"type": "python", "name": "p", "source": "def grade(x): return 1"}}, "method.reinforcement.grader.source"),
        (
            {"grader": GRADER, "hyperparameters": {"eval_interval": 0}},
            "method.reinforcement.hyperparameters.eval_interval",
        ),
        (
            {"grader": GRADER, "hyperparameters": {"compute_multiplier": 100}},
            "method.reinforcement.hyperparameters.compute_multiplier",
        ),
        (
            {"grader": GRADER, "hyperparameters": {"reasoning_effort": "high"}},
            "method.reinforcement.hyperparameters.reasoning_effort",
        ),
    ],
)
async def test_a_wrong_parameter_is_named(desk: Desk, detail: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await desk.job(method={"type": "reinforcement", "reinforcement": detail})
    assert refused.value.param == param


async def test_a_grader_may_ask_only_what_the_key_may(desk: Desk) -> None:
    client = await desk.other(["read", "write"])
    method: Any = {"type": "reinforcement", "reinforcement": {"grader": JUDGE}}
    file_id = await desk.file(PROMPT)
    with pytest.raises(openai.PermissionDeniedError):
        await client.fine_tuning.jobs.create(model="lab/base", training_file=file_id, method=method)
    # Here runs ask nothing, and nothing is deployed.
    with pytest.raises(openai.BadRequestError) as refused:
        await desk.job(training_file=file_id, method=method)
    assert refused.value.param == "inputs.judge"


async def test_a_record_without_what_the_grader_reads_fails_the_job(desk: Desk) -> None:
    file_id = await desk.file(PROMPT, {"messages": PROMPT["messages"], "reference": "4"})
    job = await desk.job(training_file=file_id, method={"type": "reinforcement", "reinforcement": {"grader": GRADER}})
    desk.steps.tick()
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "failed"
    assert "line 2, reference_answer: the grader reads {{item.reference_answer}}: item has no field" in job.error.message


@pytest.mark.parametrize(
    ("record", "where", "what"),
    [
        ({"reference_answer": "4"}, "messages", "missing"),
        (
            {**PROMPT, "messages": [*PROMPT["messages"], {"role": "assistant", "content": "4"}]},
            "messages",
            "from the assistant",
        ),
        ({**PROMPT, "messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        ({**PROMPT, "tools": [{}]}, "tools.0", "names no function"),
        ({"messages": PROMPT["messages"]}, "reference_answer", "the grader reads"),
    ],
)
def test_every_fault_of_a_prompt_is_found(record: Any, where: str, what: str) -> None:
    variables = Template.parse(GRADER["reference"]).variables
    findings = check(io.BytesIO(json.dumps(record).encode()), "prompt", variables)
    assert [fault.field for fault in findings.faults] == [where]
    assert what in findings.faults[0].what
