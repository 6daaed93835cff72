"""What eval runs do by themselves: they go on after a crash, stop when told to, and are held up by no item."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.kernel.gateway.evals.exam import ITEM_SCHEMA, TEMPLATE, Exam, item, open_exam

from modelworks.contract.errors import Unavailable
from modelworks.kernel.base.database import Database
from modelworks.kernel.gateway.evals.grading import GraderProcess


@pytest.fixture
async def exam(tmp_path: Path) -> AsyncIterator[Exam]:
    async with open_exam(tmp_path) as made:
        yield made


@pytest.fixture
async def either(tmp_path: Path, database: Database) -> AsyncIterator[Exam]:
    """On SQLite, and on PostgreSQL where there is one."""
    async with open_exam(tmp_path, database) as made:
        yield made


async def test_what_fails_for_a_moment_is_asked_again(exam: Exam) -> None:
    exam.replica.refusal = (503, Unavailable("Busy.").to_wire())
    eval_id = await exam.eval()
    made = await exam.client.evals.runs.create(eval_id, data_source=await exam.asking(item("a")))  # type: ignore[arg-type]
    while not exam.replica.requests:
        await asyncio.sleep(0.005)
    exam.replica.refusal = None
    run = await exam.until_over(eval_id, made.id)
    assert run.result_counts.passed == 1
    assert TEMPLATE["template"][0]["content"] == "Be short."


async def test_a_run_goes_on_after_a_crash_and_asks_nothing_twice(either: Exam) -> None:
    exam = either
    held = asyncio.Event()
    answer = exam.replica.lines

    async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
        if request["messages"][-1]["content"] == "held":
            await held.wait()
        async for each in answer(request):
            yield each

    exam.replica.lines = lines
    eval_id = await exam.eval()
    source: Any = await exam.asking(item("a"), item("b"), item("held"), item("d"))
    made = await exam.client.evals.runs.create(eval_id, data_source=source)
    while (run := await exam.client.evals.runs.retrieve(made.id, eval_id=eval_id)).result_counts.passed < 3:
        assert run.status in ("queued", "in_progress")
        await asyncio.sleep(0.01)
    assert [each.datasource_item["question"] for each in await exam.items(run)] == ["a", "b", "d"]
    await exam.steps.stop()
    held.set()
    assert (await exam.client.evals.runs.retrieve(made.id, eval_id=eval_id)).status == "in_progress"

    exam.steps = exam.fresh_steps()
    exam.steps.start()
    run = await exam.until_over(eval_id, made.id)
    assert run.result_counts.to_dict() == {"total": 4, "passed": 4, "failed": 0, "errored": 0}
    assert sorted(exam.questions()) == ["a", "b", "d", "held", "held"]
    assert run.per_model_usage[0].invocation_count == 4


async def test_a_run_is_cancelled_and_keeps_what_is_done(exam: Exam) -> None:
    answer = exam.replica.lines

    async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
        if request["messages"][-1]["content"] == "held":
            await asyncio.Event().wait()
        async for each in answer(request):
            yield each

    exam.replica.lines = lines
    eval_id = await exam.eval()
    source: Any = await exam.asking(item("a"), item("held"))
    runs = exam.client.evals.runs
    made = await runs.create(eval_id, data_source=source)
    while (await runs.retrieve(made.id, eval_id=eval_id)).result_counts.passed < 1:
        await asyncio.sleep(0.01)
    cancelled = await runs.cancel(made.id, eval_id=eval_id)
    assert cancelled.status == "canceled"
    await asyncio.wait_for(exam.replica.hung_up.wait(), 10)
    run = await runs.retrieve(made.id, eval_id=eval_id)
    assert (run.status, run.result_counts.passed, run.result_counts.total) == ("canceled", 1, 2)
    assert [each.id async for each in runs.list(eval_id, status="canceled")] == [made.id]
    with pytest.raises(openai.ConflictError):
        await runs.cancel(made.id, eval_id=eval_id)


async def test_a_model_that_is_taken_away_ends_the_run(exam: Exam) -> None:
    eval_id = await exam.eval()
    source: Any = await exam.asking(item("a"))
    await exam.steps.stop()
    made = await exam.client.evals.runs.create(eval_id, data_source=source)
    exam.undeploy("tiny")
    exam.steps = exam.fresh_steps()
    exam.steps.start()
    run = await exam.until_over(eval_id, made.id)
    assert (run.status, run.error.code) == ("failed", "model_not_found")


async def test_a_file_that_is_deleted_before_it_is_read_ends_the_run(exam: Exam) -> None:
    eval_id = await exam.eval()
    source: Any = await exam.asking(item("a"))
    await exam.steps.stop()
    made = await exam.client.evals.runs.create(eval_id, data_source=source)
    await exam.client.files.delete(source["source"]["id"])
    exam.steps = exam.fresh_steps()
    exam.steps.start()
    run = await exam.until_over(eval_id, made.id)
    assert (run.status, run.error.code) == ("failed", "file_not_found")


SLOW_GRADER = """
import os
from modelworks.contract.grading import Grade

class Slow:
    templates = ()

    def grade(self, cases):
        for case in cases:
            if case.sample.output_text == "hang":
                while True:
                    pass
            if case.sample.output_text == "die":
                os._exit(3)
        return [Grade(score=1.0, passed=True) for _ in cases]

def open_grader(spec, *, ask=None):
    return Slow()
"""


async def test_an_item_that_is_too_much_for_the_judge_costs_only_itself(
    exam: Exam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_grader.py").write_text(SLOW_GRADER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("modelworks.kernel.gateway.evals.steps.GraderProcess", partial(GraderProcess, time_limit_s=3))
    endless = {**ITEM_SCHEMA, "properties": {"question": {"pattern": "^(a+)+$"}}}
    eval_id, pattern_id = await exam.eval(), await exam.eval(schema=endless)
    monkeypatch.setattr("modelworks.kernel.gateway.evals.grading.grader_path", lambda: "slow_grader:open_grader")
    rows = [{**item(text), "sample": {"output_text": text}} for text in ("good", "die", "hang", "good")]
    run = await exam.run(eval_id, exam.given(*rows))
    assert run.status == "completed"
    items = await exam.items(run)
    assert [each.status for each in items] == ["pass", "error", "error", "pass"]
    assert "has ended" in items[1].results[0].error["message"]
    assert "took longer than 3 s" in items[2].results[0].error["message"]
    # A pattern that never comes to an end, in the schema.
    run = await exam.run(pattern_id, exam.given(item("a" * 40 + "!")))
    assert run.status == "failed"
    assert "could not be checked" in run.error.message


async def test_a_judge_that_is_given_up_answers_no_other_question(exam: Exam) -> None:
    exam.deploy("judge")
    answer = exam.replica.lines

    async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
        if request["messages"][-1]["content"].startswith("held"):
            await asyncio.Event().wait()
        async for each in answer(request):
            yield each

    exam.replica.lines = lines
    labels: dict[str, Any] = {
        "type": "label_model",
        "name": "held",
        "model": "judge",
        "input": [{"role": "user", "content": "{{item.question}}"}],
        "labels": ["yes", "no"],
        "passing_labels": ["yes"],
    }
    eval_id = await exam.eval(labels)
    source: Any = exam.given(item("held"))
    made = await exam.client.evals.runs.create(eval_id, data_source=source)
    while not exam.replica.requests:
        await asyncio.sleep(0.01)
    await exam.client.evals.runs.cancel(made.id, eval_id=eval_id)
    await asyncio.wait_for(exam.replica.hung_up.wait(), 10)
    run = await exam.run(eval_id, exam.given(item("free"), item("free again")))
    assert (run.status, run.result_counts.passed) == ("completed", 2)
