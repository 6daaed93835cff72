"""The models of a fine-tuning job's last epochs, through the official client; the training itself is played by hand."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from sqlalchemy import select
from tests.kernel.gateway.tuning.desk import Desk
from tests.kernel.gateway.tuning.test_fine_tuning import finish

from modelworks.kernel.serving.store import DeploymentRow


def base_used(desk: Desk, job_id: str) -> tuple[str, dict[str, Any]]:
    """What the worker of a job notes when it has opened the base model."""
    with desk.db.reading() as session:
        given = desk.jobs.get(session, desk.project_id, desk.run_id(job_id)).inputs["base"]
    return "used", {"role": "base", "kind": "model", "version_id": given.version_id}


async def leave_checkpoints(desk: Desk) -> Any:
    """A job that has succeeded, with the models of two epochs before its result."""
    job = await desk.job()
    desk.steps.tick()
    desk.play(
        job.id,
        base_used(desk, job.id),
        ("metrics", {"step": 2, "values": {"loss": 3.0}}),
        ("metrics", {"step": 4, "values": {"loss": 2.0, "validation_loss": 2.5, "tokens_per_s": 5.0}}),
        desk.saved_model(part="ckpt-step-4"),
        ("metrics", {"step": 6, "values": {"loss": 1.5, "validation_loss": 1.9, "validation_accuracy": 0.25}}),
        desk.saved_model(part="ckpt-step-6"),
        ("metrics", {"step": 8, "values": {"loss": 1.0, "validation_loss": 1.8, "validation_accuracy": 0.5}}),
        desk.saved_model(),
        ("finished", {"result": None}),
    )
    desk.steps.tick()
    return await desk.client.fine_tuning.jobs.retrieve(job.id)


async def test_checkpoints_of_the_last_epochs_are_listed_with_what_was_measured(desk: Desk) -> None:
    job = await leave_checkpoints(desk)
    listed = [each async for each in desk.client.fine_tuning.jobs.checkpoints.list(job.id, limit=2)]
    name = job.fine_tuned_model
    assert [(each.step_number, each.fine_tuned_model_checkpoint) for each in listed] == [
        (8, name),
        (6, f"{name}:ckpt-step-6"),
        (4, f"{name}:ckpt-step-4"),
    ]
    assert len({each.id for each in listed}) == 3
    assert listed[1].metrics.to_dict() == {
        "step": 6.0,
        "train_loss": 1.5,
        "valid_loss": 1.9,
        "full_valid_loss": 1.9,
        "valid_mean_token_accuracy": 0.25,
        "full_valid_mean_token_accuracy": 0.25,
    }
    assert listed[2].metrics.train_loss == 2.0
    assert listed[2].metrics.valid_mean_token_accuracy is None
    with desk.db.reading() as session:
        assert desk.serving.get(session, desk.project_id, name).desired == "running"
        version = desk.catalog.resolve(session, desk.project_id, f"lab/base/tuned-{job.id[-8:].lower()}-ckpt-step-4@v1")
    assert version.created_by_run == desk.run_id(job.id)
    assert version.metadata["parent"] == "lab/base@v1"
    running = await desk.job()
    assert [each async for each in desk.client.fine_tuning.jobs.checkpoints.list(running.id)] == []


async def test_a_checkpoint_is_deployed_when_it_is_first_asked_and_deleted_for_good(desk: Desk) -> None:
    job = await leave_checkpoints(desk)
    name = f"{job.fine_tuned_model}:ckpt-step-4"

    async def ask(model: str) -> None:
        # Nobody starts what is wished here, so there is no answer yet.
        with pytest.raises(openai.NotFoundError):
            await desk.client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])

    def deployed() -> list[str]:
        with desk.db.reading() as session:
            rows = session.scalars(select(DeploymentRow).where(DeploymentRow.state == "running"))
            return sorted(row.name for row in rows)

    for unknown in (
        f"{job.fine_tuned_model}:ckpt-step-5",
        f"{job.fine_tuned_model}:ckpt-step-8",
        "ft:x:ckpt-step-4",
        "ckpt-step-4",
    ):
        await ask(unknown)
    assert deployed() == [job.fine_tuned_model]
    for _ in range(2):
        await ask(name)
    assert deployed() == [job.fine_tuned_model, name]
    assert (await desk.client.models.delete(name)).deleted
    await ask(name)
    assert deployed() == [job.fine_tuned_model]
    listed = [each.step_number async for each in desk.client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert listed == [8, 6]


async def test_a_checkpoint_can_be_tuned_further_and_then_stays(desk: Desk) -> None:
    job = await leave_checkpoints(desk)
    name = f"{job.fine_tuned_model}:ckpt-step-6"
    again = await desk.job(model=name, suffix="again")
    assert again.model == name
    desk.steps.tick()
    with desk.db.reading() as session:
        run = desk.jobs.get(session, desk.project_id, desk.run_id(again.id))
        base = desk.catalog.get_version(session, desk.project_id, run.inputs["base"].version_id)
    assert base.name.endswith("-ckpt-step-6")
    desk.play(again.id, base_used(desk, again.id))
    finish(desk, again.id)
    with pytest.raises(openai.ConflictError) as refused:
        await desk.client.models.delete(name)
    assert refused.value.code == "in_use"
    with pytest.raises(openai.NotFoundError):
        await desk.job(model=f"{job.fine_tuned_model}:ckpt-step-5")
