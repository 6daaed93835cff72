"""A trained model is measured through the official client: real engine, real graders, a server killed in the middle."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.journeys.language_model import train_and_deploy
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

NAME = "lab/base"
NUM_ITEMS = 60
#: Questions that may be under way when the server dies; each is asked again.
UNDER_WAY = 8
CODE = "def grade(sample, item):\n    return float(len(sample['output_text']) > item['least'])\n"
CRITERIA: Any = [
    {"type": "python", "name": "length", "source": CODE, "pass_threshold": 1.0},
    {
        "type": "string_check",
        "name": "echo",
        "input": "{{sample.output_text}}",
        "reference": "{{item.question}}",
        "operation": "ne",
    },
]
SCHEMA: Any = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "least": {"type": "integer"}},
    "required": ["question", "least"],
}


class Stage:
    """A platform on which `lab/base` answers."""

    def __init__(self, platform: PlatformProcess) -> None:
        self.platform = platform

    @property
    def evals(self) -> Any:
        return self.openai.evals

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.platform.url}/v1", api_key=self.platform.key, max_retries=0, timeout=90)

    def file(self, *rows: Any) -> str:
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        return self.openai.files.create(file=("items.jsonl", content), purpose="evals").id

    def eval(self) -> str:
        config: Any = {"type": "custom", "item_schema": SCHEMA, "include_sample_schema": True}
        return str(self.evals.create(name="quiz", data_source_config=config, testing_criteria=CRITERIA).id)

    def start(self, eval_id: str, file_id: str, **sampling: Any) -> Any:
        source = {
            "type": "completions",
            "model": NAME,
            "source": {"type": "file_id", "id": file_id},
            "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{item.question}}"}]},
            "sampling_params": {"max_completion_tokens": 24, **sampling},
        }
        return self.evals.runs.create(eval_id, data_source=source)

    def until(self, run: Any, enough: Any) -> Any:
        deadline = time.monotonic() + 120
        while not enough(run):
            assert time.monotonic() < deadline, run
            time.sleep(0.05)
            run = self.evals.runs.retrieve(run.id, eval_id=run.eval_id)
        return run

    def items(self, run: Any) -> dict[int, Any]:
        """The items that are done, by their line."""
        found = self.evals.runs.output_items.list(run.id, eval_id=run.eval_id, limit=100)
        return {each.datasource_item_id: each.to_dict() for each in found}


def is_over(run: Any) -> bool:
    return run.status not in ("queued", "in_progress")


def answers_of(items: dict[int, Any]) -> list[str]:
    return [items[line]["sample"]["output"][0]["content"] for line in sorted(items)]


def num_answers(stage: Stage) -> int:
    """How many requests were answered and recorded so far."""
    with stage.platform.client() as ours:
        total = ours.usage.summary()["total"]
    return int(total["num_requests"] - total["num_errors"] - total["num_aborted"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("evals")
    with PlatformProcess(root / "home") as platform:
        with platform.client() as ours:
            train_and_deploy(ours, NAME, root / "text", steps=20)
        yield Stage(platform)


def test_a_model_is_measured_item_by_item(stage: Stage) -> None:
    least = [0, 10_000, 0]
    file_id = stage.file(*({"item": {"question": f"Where is {n}?", "least": each}} for n, each in enumerate(least)))
    eval_id = stage.eval()
    run = stage.until(stage.start(eval_id, file_id, temperature=0), is_over)
    assert run.status == "completed", run
    items = stage.items(run)
    assert [each["status"] for each in items.values()] == ["pass", "fail", "pass"]
    assert run.result_counts.to_dict() == {"total": 3, "passed": 2, "failed": 1, "errored": 0}
    assert [each.to_dict()["passed"] for each in run.per_testing_criteria_results] == [2, 3]
    answers = [each["sample"]["output"][0]["content"] for each in items.values()]
    chat = stage.openai.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "Where is 1?"}], temperature=0, max_completion_tokens=24, seed=42
    )
    assert answers[1] == chat.choices[0].message.content
    assert chat.usage is not None
    assert items[2]["sample"]["usage"]["total_tokens"] == chat.usage.total_tokens
    total = sum(each["sample"]["usage"]["completion_tokens"] for each in items.values())
    assert run.per_model_usage[0].completion_tokens == total > 0
    with stage.platform.client() as ours:
        (kept,) = ours.evaluations.list(model=NAME, data=file_id).data
    assert kept["metrics"] == {"pass_rate": 2 / 3, "length": 2 / 3, "echo": 1.0}


@pytest.mark.thorough
def test_a_killed_server_goes_on_with_a_run_and_says_the_same_again(stage: Stage) -> None:
    file_id = stage.file(*({"item": {"question": f"Where is {n}?", "least": 0}} for n in range(NUM_ITEMS)))
    eval_id = stage.eval()
    known = num_answers(stage)
    first = stage.start(eval_id, file_id)
    stage.until(first, lambda run: run.result_counts.passed + run.result_counts.failed > 10)
    before = stage.items(first)
    stage.platform.kill()
    stage.platform.start()
    with stage.platform.client() as ours:
        wait_until_ready(ours, NAME)
    run = stage.until(stage.evals.runs.retrieve(first.id, eval_id=eval_id), is_over)
    assert run.status == "completed", run
    assert run.result_counts.total == NUM_ITEMS
    after = stage.items(run)
    assert sorted(after) == list(range(1, NUM_ITEMS + 1))
    assert before.items() <= after.items(), "what was done is not touched again"
    assert NUM_ITEMS <= num_answers(stage) - known <= NUM_ITEMS + UNDER_WAY

    again = stage.until(stage.start(eval_id, file_id), is_over)
    assert answers_of(stage.items(again)) == answers_of(after)
    assert len(set(answers_of(after))) > 1, "the temperature is 1: the questions must have had different answers"
