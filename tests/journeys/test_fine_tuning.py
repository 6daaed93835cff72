"""From a file to a tuned model that answers, with nothing but the official client: a real server, worker and engine."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.journeys.language_model import train_and_deploy
from tests.journeys.platform_process import PlatformProcess

from modelworks.client import Modelworks

NAME = "lab/base"
QUESTION = "Which word?"
ANSWER = "the blue gate"
CHAT: Any = {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]}

pytestmark = pytest.mark.xdist_group("fine-tuning")


class Stage:
    """A platform on which `lab/base` answers, and a client."""

    ours: Modelworks
    openai: openai.OpenAI
    jobs: Any

    def __init__(self, platform: PlatformProcess, folder: Path) -> None:
        self.platform = platform
        self.connect()
        train_and_deploy(self.ours, NAME, folder / "text")

    def connect(self) -> None:
        """Clients of the server as it is now."""
        platform = self.platform
        self.ours = platform.client()
        self.openai = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0, timeout=90)
        self.jobs = self.openai.fine_tuning.jobs

    def file(self, *examples: Any) -> str:
        content = b"".join(json.dumps(example).encode() + b"\n" for example in examples)
        return self.openai.files.create(file=("train.jsonl", content), purpose="fine-tune").id

    def until(self, job_id: str, *states: str) -> Any:
        """The job, once it is in one of these states."""
        deadline = time.monotonic() + 120
        while True:
            job: Any = self.jobs.retrieve(job_id)
            if job.status in states:
                return job
            story = [event.message for event in self.jobs.list_events(job_id)]
            assert job.status not in ("succeeded", "failed", "cancelled"), (job.error, story)
            assert time.monotonic() < deadline, (job, story)
            time.sleep(0.2)

    def answer(self, model: str) -> str:
        messages: Any = CHAT["messages"][:1]
        chat = self.openai.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24)
        return str(chat.choices[0].message.content)

    def listed(self, name: str) -> dict[str, Any]:
        """The models by name, once what was deployed a moment ago is in it."""
        deadline = time.monotonic() + 60
        while True:
            models = {model.id: model.model_dump() for model in self.openai.models.list()}
            if name in models:
                return models
            assert time.monotonic() < deadline, models
            time.sleep(0.1)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("tuning")
    with PlatformProcess(root / "home") as platform:
        made = Stage(platform, root)
        yield made
        made.ours.close()


@pytest.fixture(scope="module")
def tuned(stage: Stage) -> Any:
    """A job that has taught the model one answer."""
    chosen: Any = {"n_epochs": 120, "batch_size": 4, "learning_rate_multiplier": 500}
    job = stage.jobs.create(
        model=NAME,
        training_file=stage.file(*[CHAT] * 8),
        validation_file=stage.file(CHAT),
        method={"type": "supervised", "supervised": {"hyperparameters": chosen}},
        suffix="gate",
        seed=5,
    )
    return stage.until(job.id, "succeeded")


def test_a_tuned_model_says_what_it_was_taught(stage: Stage, tuned: Any) -> None:
    assert stage.answer(tuned.fine_tuned_model).strip() == ANSWER
    assert stage.answer(NAME).strip() != ANSWER
    assert tuned.fine_tuned_model == f"ft:{NAME}:default:gate:{tuned.id[-8:].lower()}"
    assert tuned.trained_tokens > 0


def test_it_is_listed_with_where_it_comes_from(stage: Stage, tuned: Any) -> None:
    listed = stage.listed(tuned.fine_tuned_model)
    assert listed[tuned.fine_tuned_model]["parent"] == f"{NAME}@v1"
    root = listed[tuned.fine_tuned_model]["root"]
    assert root == f"{NAME}/gate-{tuned.id[-8:].lower()}@v1"
    assert stage.openai.models.retrieve(tuned.fine_tuned_model).id == tuned.fine_tuned_model
    tree = json.dumps(stage.ours.lineage.tree(root))
    assert f'"{NAME}"' in tree
    assert tuned.training_file in tree


def test_the_losses_are_in_the_events_and_in_the_result_file(stage: Stage, tuned: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(stage.openai.files.content(tuned.result_files[0]).text)))
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"]]
    assert losses[-1] < losses[0] / 4
    assert any(row["valid_loss"] for row in rows)
    events = list(stage.jobs.list_events(tuned.id))
    metrics = [event for event in events if event.type == "metrics"]
    assert metrics
    assert all("train_loss" in event.data for event in metrics)  # type: ignore[operator]
    checkpoints = list(stage.jobs.checkpoints.list(tuned.id))
    assert [each.fine_tuned_model_checkpoint for each in checkpoints] == [
        tuned.fine_tuned_model,
        *(f"{tuned.fine_tuned_model}:ckpt-step-{each.step_number}" for each in checkpoints[1:]),
    ]
    assert len(checkpoints) == 3
    assert checkpoints[0].step_number > checkpoints[1].step_number > checkpoints[2].step_number
    assert all(each.metrics.full_valid_loss is not None for each in checkpoints)


@pytest.mark.thorough
def test_preferences_are_learnt_and_the_model_is_deleted(stage: Stage) -> None:
    pair = {
        "input": {"messages": CHAT["messages"][:1]},
        "preferred_output": [{"role": "assistant", "content": "yes"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }
    job = stage.jobs.create(
        model=NAME,
        training_file=stage.file(*[pair] * 4),
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 5, "beta": 0.2}}},
    )
    job = stage.until(job.id, "succeeded")
    assert job.fine_tuned_model is not None
    story = [event.message for event in stage.jobs.list_events(job.id)]
    assert any(message.startswith("batch_size is 4 (auto: ") for message in story)
    assert isinstance(stage.answer(job.fine_tuned_model), str)
    assert stage.openai.models.delete(job.fine_tuned_model).deleted
    deadline = time.monotonic() + 60
    while job.fine_tuned_model in {model.id for model in stage.openai.models.list()}:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert stage.ours.models.get(f"{NAME}/tuned-{job.id[-8:].lower()}")["version"]["number"] == 1


@pytest.mark.thorough
def test_what_a_grader_rewards_is_learnt(stage: Stage) -> None:
    """Short answers are, by code that runs in the sandbox; nobody shows the model one."""
    source = "def grade(sample, item):\n    return -len(sample['output_text']) / item['scale']\n"
    grader: Any = {"type": "python", "name": "short", "source": source}
    tried = stage.openai.fine_tuning.alpha.graders.run(grader=grader, model_sample="gate", item={"scale": 8})
    assert tried.reward == -0.5
    prompts = [
        {"messages": [{"role": "user", "content": word}], "scale": 100} for word in ("Gate?", "Wall?", "Field?", "Boat?")
    ]
    chosen: Any = {"n_epochs": 16, "batch_size": 4, "learning_rate_multiplier": 10_000, "compute_multiplier": 0.5}
    job = stage.jobs.create(
        model=NAME,
        training_file=stage.file(*prompts),
        validation_file=stage.file({"messages": [{"role": "user", "content": "House?"}], "scale": 100}),
        method={"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": chosen}},
        seed=3,
    )
    job = stage.until(job.id, "succeeded")
    assert job.method.reinforcement.hyperparameters.compute_multiplier == 0.5
    rows = list(csv.DictReader(io.StringIO(stage.openai.files.content(job.result_files[0]).text)))
    rewards = [float(row["train_reward_mean"]) for row in rows if row["train_reward_mean"]]
    assert len(rewards) == 16
    assert sum(rewards[-4:]) > sum(rewards[:4])
    assert any(row["valid_reward_mean"] for row in rows)
    assert isinstance(stage.answer(job.fine_tuned_model), str)
    # What does not answer any more need not come back with the server in a later test.
    assert stage.openai.models.delete(job.fine_tuned_model).deleted


def test_a_bad_file_costs_nothing(stage: Stage) -> None:
    job = stage.jobs.create(model=NAME, training_file=stage.file(CHAT, {"messages": []}))
    job = stage.until(job.id, "failed")
    assert job.error is not None
    assert "line 2, messages" in job.error.message
    assert job.fine_tuned_model is None


def test_a_running_job_is_paused_resumed_and_cancelled(stage: Stage) -> None:
    job = stage.jobs.create(
        model=NAME, training_file=stage.file(*[CHAT] * 8), hyperparameters={"n_epochs": 5000, "batch_size": 1}
    )
    stage.until(job.id, "running")
    deadline = time.monotonic() + 60
    while not any(event.type == "metrics" for event in stage.jobs.list_events(job.id)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    stage.jobs.pause(job.id)
    stage.until(job.id, "paused")
    stage.jobs.resume(job.id)
    stage.until(job.id, "running")
    stage.jobs.cancel(job.id)
    assert stage.until(job.id, "cancelled").finished_at is not None
    story = [event.message for event in stage.jobs.list_events(job.id)]
    assert "The job is paused; its last checkpoint is kept." in story
    assert "Fine-tuning job continued from its last checkpoint" in story


@pytest.mark.thorough
def test_an_adapter_is_loaded_on_its_base_and_comes_back_with_the_server(stage: Stage) -> None:
    chosen: Any = {"n_epochs": 20, "batch_size": 4, "learning_rate_multiplier": 50, "lora_rank": 8}
    job = stage.jobs.create(
        model=NAME,
        training_file=stage.file(*[CHAT] * 8),
        method={"type": "supervised", "supervised": {"hyperparameters": chosen}},
        suffix="beside",
        seed=5,
    )
    base = stage.answer(NAME)
    name = str(stage.until(job.id, "succeeded").fine_tuned_model)
    taught = stage.answer(name)
    assert taught != base
    assert stage.answer(NAME) == base
    listed = {model.id: model.model_dump() for model in stage.openai.models.list()}
    assert listed[name]["parent"] == NAME
    assert listed[name]["root"] == f"{NAME}/beside-{job.id[-8:].lower()}@v1"
    # One process answers for both.
    assert name not in {deployment["name"] for deployment in stage.ours.deployments.list().data}
    [adapter] = stage.ours.deployments.adapters(NAME).data
    assert (adapter["name"], adapter["state"]) == (name, "ready")
    # The model of an epoch before answers as soon as it is asked, beside the others.
    earlier = [each.fine_tuned_model_checkpoint for each in stage.jobs.checkpoints.list(job.id)][-1]
    assert earlier not in listed
    assert isinstance(stage.answer(earlier), str)
    assert sorted(each["name"] for each in stage.ours.deployments.adapters(NAME).data) == [name, earlier]
    assert stage.openai.models.delete(earlier).deleted
    assert earlier not in [each.fine_tuned_model_checkpoint for each in stage.jobs.checkpoints.list(job.id)]
    used = {row["key"]: row for row in stage.ours.usage.summary(group_by="model")["data"]}
    assert used[name]["completion_tokens"] > 0
    stage.ours.close()
    stage.platform.stop()
    stage.platform.start()
    stage.connect()
    assert stage.answer(name) == taught
    stage.openai.models.delete(name)
    deadline = time.monotonic() + 30
    while name in {model.id for model in stage.openai.models.list()}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert stage.answer(NAME) == base
