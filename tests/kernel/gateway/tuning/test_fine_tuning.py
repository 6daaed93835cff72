"""Fine-tuning jobs, through the official client; the training itself is played by hand."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from sqlalchemy import select
from tests.kernel.gateway.test_golden import compare
from tests.kernel.gateway.tuning.desk import CHAT, PAIR, Desk, jsonl

from modelworks.kernel.gateway.tuning.training_file import MAX_FAULTS, check
from modelworks.kernel.serving.schemas import DeploymentSpec
from modelworks.kernel.serving.store import DeploymentRow


async def events_of(desk: Desk, job_id: str) -> list[Any]:
    """Oldest first."""
    return [event async for event in desk.client.fine_tuning.jobs.list_events(job_id, limit=3)][::-1]


async def messages_of(desk: Desk, job_id: str) -> list[str]:
    return [event.message for event in await events_of(desk, job_id)]


def finish(desk: Desk, job_id: str, **metadata: Any) -> None:
    """The run trains for two steps and succeeds."""
    desk.play(
        job_id,
        ("metrics", {"step": 1, "values": {"loss": 2.0, "tokens_per_s": 5.0}}),
        ("metrics", {"step": 2, "values": {"loss": 1.0, "validation_loss": 1.5}}),
        desk.saved_model(**metadata),
        ("finished", {"result": None}),
    )
    desk.steps.tick()


async def test_a_job_goes_its_way(desk: Desk) -> None:
    file_id = await desk.file(CHAT, CHAT, CHAT)
    job = await desk.job(training_file=file_id, suffix="my model!", seed=7, metadata={"team": "a"})
    assert (job.object, job.status, job.model, job.training_file, job.seed) == (
        "fine_tuning.job",
        "validating_files",
        "lab/base",
        file_id,
        7,
    )
    assert (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.result_files) == (None, None, None, [])
    assert job.metadata == {"team": "a"}
    assert job.organization_id == desk.project_id

    desk.steps.tick()
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "queued"
    assert job.hyperparameters.to_dict() == {"n_epochs": 3.0, "batch_size": 4, "learning_rate_multiplier": 1.0}
    with desk.db.reading() as session:
        run = desk.jobs.get(session, desk.project_id, desk.run_id(job.id))
    assert run.params == {
        "method": "supervised",
        "epochs": 3.0,
        "batch_size": 4,
        "learning_rate": 1e-4,
        "keep_epochs": 2,
    }
    assert (run.seed, run.inputs["train"].kind, run.inputs["base"].ref[:4]) == (7, "dataset", "mdl_")

    desk.play(job.id, ("progress", {"done": 1, "total": 4, "what": "steps"}))
    desk.clock.advance(10)
    running = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert running.status == "running"
    # One step of four in ten seconds.
    assert running.estimated_finish == int(desk.clock.now().timestamp()) + 30

    finish(desk, job.id)
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error, job.estimated_finish) == ("succeeded", None, None)
    assert job.trained_tokens == 1234
    assert job.finished_at == int(desk.clock.now().timestamp())
    assert job.fine_tuned_model == f"ft:lab/base:my-lab:my-model:{job.id[-8:].lower()}"

    with desk.db.reading() as session:
        deployment = desk.serving.get(session, desk.project_id, job.fine_tuned_model)
        version = desk.catalog.resolve(session, desk.project_id, str(deployment.model))
    assert version.name == f"lab/base/my-model-{job.id[-8:].lower()}"
    assert version.created_by_run == run.id

    (result,) = job.result_files
    content = (await desk.client.files.content(result)).text
    assert list(csv.DictReader(io.StringIO(content))) == [
        {"step": "1", "train_loss": "2.0", "valid_loss": "", "tokens_per_s": "5.0"},
        {"step": "2", "train_loss": "1.0", "valid_loss": "1.5", "tokens_per_s": ""},
    ]
    assert (await desk.client.files.retrieve(result)).purpose == "fine-tune-results"

    (checkpoint,) = (await desk.client.fine_tuning.jobs.checkpoints.list(job.id)).data
    assert checkpoint.fine_tuned_model_checkpoint == job.fine_tuned_model
    assert checkpoint.step_number == 2
    assert checkpoint.metrics.train_loss == 1.0
    assert checkpoint.metrics.full_valid_loss == 1.5


async def test_the_events_tell_the_story_and_explain_what_was_chosen(desk: Desk) -> None:
    job = await desk.job(method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}})
    desk.steps.tick()
    finish(desk, job.id)
    events = await events_of(desk, job.id)
    messages = [event.message for event in events]
    assert messages == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file}",
        "Files validated, moving job to queued state",
        "batch_size is 4 (auto: the method's default. Rows at a time)",
        "learning_rate_multiplier is 1.0 (auto: the method's own rate, 0.0001)",
        "Fine-tuning job started",
        "Step 2: train_loss=1, valid_loss=1.5",
        f"New fine-tuned model created: ft:lab/base:my-lab::{job.id[-8:].lower()}",
        "The job has successfully completed.",
    ]
    assert {event.object for event in events} == {"fine_tuning.job.event"}
    assert len({event.id for event in events}) == len(events)
    assert [event.type for event in events].count("metrics") == 1
    with pytest.raises(openai.BadRequestError) as refused:
        await desk.client.fine_tuning.jobs.list_events(job.id, after="nothing")
    assert refused.value.param == "after"


async def test_hyperparameters_reach_the_run(desk: Desk) -> None:
    chosen: Any = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5, "beta": 0.3}
    file_id = await desk.file(PAIR)
    job = await desk.job(training_file=file_id, method={"type": "dpo", "dpo": {"hyperparameters": chosen}})
    desk.steps.tick()
    with desk.db.reading() as session:
        params = desk.jobs.get(session, desk.project_id, desk.run_id(job.id)).params
    assert params == {
        "method": "preference",
        "epochs": 2.0,
        "batch_size": 8,
        "learning_rate": pytest.approx(2.5e-6),
        "beta": 0.3,
        "keep_epochs": 2,
    }
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert job.method is not None
    assert job.method.type == "dpo"
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.to_dict() == chosen
    older = await desk.job(hyperparameters={"n_epochs": 5, "batch_size": "auto"})
    assert older.hyperparameters.n_epochs == 5


async def test_faults_of_a_file_fail_the_job_with_their_lines(desk: Desk) -> None:
    content = jsonl(CHAT) + b"{broken\n" + jsonl({"messages": [{"role": "user", "content": "Hi"}]})
    file = await desk.client.files.create(file=("bad.jsonl", content), purpose="fine-tune")
    job = await desk.job(training_file=file.id)
    desk.steps.tick()
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "failed"
    assert job.finished_at is not None
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert "line 2: it is not JSON" in job.error.message
    assert "line 3, messages: the last message is not from the assistant" in job.error.message
    assert (await events_of(desk, job.id))[-1].level == "error"
    good = await desk.file(CHAT)
    job = await desk.job(training_file=good, validation_file=file.id)
    desk.steps.tick()
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert (job.error.code, job.error.param) == ("invalid_validation_file", "validation_file")


async def test_what_the_run_could_not_do_is_the_error_of_the_job(desk: Desk) -> None:
    job = await desk.job()
    desk.steps.tick()
    wire = {"class": "InvalidData", "message": "Line 2 is too long.", "hint": "Cut it.", "code": "invalid_data"}
    desk.play(job.id, ("failed", {"error": wire, "retry": False}))
    desk.steps.tick()
    job = await desk.client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.fine_tuned_model) == ("failed", None)
    assert job.error.to_dict() == {"code": "invalid_data", "message": "Line 2 is too long. Cut it.", "param": "training_file"}


@pytest.mark.parametrize(
    ("fields", "param", "status"),
    [
        ({"model": "lab/none"}, "model", 404),
        ({"model": "lab/picture"}, "model", 400),
        ({"training_file": "file_none"}, "training_file", 404),
        ({"validation_file": "file_none"}, "validation_file", 404),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement", 400),
        ({"method": {"type": "magic"}}, "method.type", 400),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations", 400),
        ({"suffix": "你好"}, "suffix", 400),
        ({"suffix": "x" * 65}, "suffix", 400),
        ({"seed": -1}, "seed", 400),
        ({"metadata": {"key": "x" * 513}}, "metadata", 400),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", 400),
        ({"hyperparameters": {"n_epochs": 1000}}, "method.supervised.hyperparameters.n_epochs", 400),
        ({"hyperparameters": {"batch_size": 1.5}}, "hyperparameters.batch_size", 400),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 1e9}}}},
            "method.supervised.hyperparameters.learning_rate_multiplier",
            400,
        ),
    ],
)
async def test_a_wrong_parameter_is_named(desk: Desk, fields: dict[str, Any], param: str, status: int) -> None:
    desk.model("lab/picture", task="image-classification")
    with pytest.raises(openai.APIStatusError) as refused:
        await desk.job(**fields)
    assert (refused.value.status_code, refused.value.param) == (status, param)
    assert [job async for job in desk.client.fine_tuning.jobs.list()] == []


async def test_a_file_of_another_purpose_is_refused(desk: Desk) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await desk.job(training_file=await desk.file(CHAT, purpose="batch"))
    assert (refused.value.code, refused.value.param) == ("invalid_file_purpose", "training_file")


async def test_jobs_are_listed_and_found_by_metadata(desk: Desk) -> None:
    file_id = await desk.file(CHAT)
    made = [await desk.job(training_file=file_id, metadata=labels) for labels in ({"a": "1"}, {"a": "1", "b": "2"}, {})]
    ids = [job.id for job in made]
    assert {job.id async for job in desk.client.fine_tuning.jobs.list(limit=2)} == set(ids)
    assert {job.id async for job in desk.client.fine_tuning.jobs.list(metadata={"a": "1"})} == set(ids[:2])
    assert [job.id async for job in desk.client.fine_tuning.jobs.list(metadata={"a": "1", "b": "2"})] == ids[1:2]
    without = desk.client.fine_tuning.jobs.list(extra_query={"metadata": "null"})
    assert [job.id async for job in without] == ids[2:]


async def test_a_job_is_cancelled_whenever_it_is(desk: Desk) -> None:
    jobs = desk.client.fine_tuning.jobs
    early, queued, running = [await desk.job() for _ in range(3)]
    assert (await jobs.cancel(early.id)).status == "cancelled"
    desk.steps.tick()
    desk.play(running.id, ("progress", {"done": 1, "total": 4, "what": "steps"}))
    for job in (queued, running):
        await jobs.cancel(job.id)
    desk.play(running.id, ("cancelled", {}))
    desk.steps.tick()
    for job in (early, queued, running):
        found = await jobs.retrieve(job.id)
        assert (found.status, found.finished_at is not None) == ("cancelled", True)
        for call in (jobs.cancel, jobs.pause, jobs.resume):
            with pytest.raises(openai.ConflictError):
                await call(job.id)
    with desk.db.reading() as session:
        assert {run.state for run in desk.jobs.list(session, desk.project_id).data} == {"cancelled"}


async def test_a_paused_job_keeps_its_checkpoint_and_goes_on(desk: Desk) -> None:
    jobs = desk.client.fine_tuning.jobs
    job = await desk.job()
    desk.steps.tick()
    blob = desk.blobs.put(b"state")
    files = [{"path": "state", "digest": blob.digest, "num_bytes": blob.num_bytes}]
    desk.play(job.id, ("metrics", {"step": 1, "values": {"loss": 2.0}}))
    assert (await jobs.pause(job.id)).status == "running"
    desk.play(job.id, ("checkpoint", {"files": files, "step": 1}), ("cancelled", {}))
    desk.steps.tick()
    paused: Any = await jobs.retrieve(job.id)
    assert (paused.status, paused.finished_at) == ("paused", None)
    assert (await jobs.resume(job.id)).status == "queued"
    finish(desk, job.id)
    assert (await jobs.retrieve(job.id)).status == "succeeded"
    messages = await messages_of(desk, job.id)
    for message in (
        "The job will pause after its current step.",
        "Checkpoint stored at step 1",
        "The job is paused; its last checkpoint is kept.",
        "The job is resumed.",
        "Fine-tuning job continued from its last checkpoint",
    ):
        assert message in messages


async def test_a_job_that_is_resumed_before_it_stood_still_goes_on(desk: Desk) -> None:
    jobs = desk.client.fine_tuning.jobs
    job = await desk.job()
    with pytest.raises(openai.ConflictError):
        await jobs.resume(job.id)
    desk.steps.tick()
    desk.play(job.id, ("progress", {"done": 1, "total": 4, "what": "steps"}))
    await jobs.pause(job.id)
    await jobs.resume(job.id)
    desk.play(job.id, ("cancelled", {}))
    desk.steps.tick()
    assert (await jobs.retrieve(job.id)).status == "queued"


async def test_a_job_paused_before_its_files_were_read_waits(desk: Desk) -> None:
    jobs = desk.client.fine_tuning.jobs
    job = await desk.job()
    paused: Any = await jobs.pause(job.id)
    assert paused.status == "paused"
    desk.steps.tick()
    paused = await jobs.retrieve(job.id)
    assert paused.status == "paused"
    assert (await jobs.resume(job.id)).status == "validating_files"
    desk.steps.tick()
    assert (await jobs.retrieve(job.id)).status == "queued"


async def test_the_steps_go_on_where_an_earlier_server_stopped(desk: Desk) -> None:
    job = await desk.job()
    desk.steps.tick()
    desk.play(job.id, desk.saved_model(), ("finished", {"result": None}))
    # A tick that dies after the results were stored is repeated as a whole, and a second one changes nothing.
    for _ in range(3):
        desk.steps.tick()
    files = [file async for file in desk.client.files.list(purpose="fine-tune-results")]
    assert len(files) == 1
    assert (await messages_of(desk, job.id)).count("The job has successfully completed.") == 1


async def test_a_tuned_model_can_be_tuned_again_by_its_name(desk: Desk) -> None:
    job = await desk.job()
    desk.steps.tick()
    finish(desk, job.id)
    name = (await desk.client.fine_tuning.jobs.retrieve(job.id)).fine_tuned_model
    again = await desk.job(model=name, suffix="again")
    desk.steps.tick()
    with desk.db.reading() as session:
        run = desk.jobs.get(session, desk.project_id, desk.run_id(again.id))
        base = desk.catalog.get_version(session, desk.project_id, run.inputs["base"].version_id)
    assert base.created_by_run == desk.run_id(job.id)


async def test_a_file_in_training_is_a_data_set_and_cannot_be_deleted(desk: Desk) -> None:
    file_id = await desk.file(CHAT)
    job = await desk.job(training_file=file_id)
    desk.steps.tick()
    with pytest.raises(openai.ConflictError) as refused:
        await desk.client.files.delete(file_id)
    assert refused.value.code == "in_use"
    with desk.db.reading() as session:
        version = desk.catalog.resolve(session, desk.project_id, file_id, "dataset")
    assert version.metadata["file_id"] == file_id
    desk.play(job.id, ("used", {"role": "train", "kind": "dataset", "version_id": version.id}))
    finish(desk, job.id)
    with desk.db.reading() as session:
        graph = desk.catalog.lineage(session, desk.project_id, version.id)
    assert (desk.run_id(job.id), "used", version.id) in {
        (edge.subject_id, edge.relation, edge.object_id) for edge in graph.edges
    }
    await desk.client.files.delete(file_id)
    with desk.db.reading() as session:
        assert desk.catalog.get_version(session, desk.project_id, version.id).state == "removed"


async def test_a_job_belongs_to_its_project_and_needs_the_right_scope(desk: Desk) -> None:
    job = await desk.job()
    stranger = await desk.other(project="another")
    jobs = stranger.fine_tuning.jobs
    assert [each async for each in jobs.list()] == []
    for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
        with pytest.raises(openai.NotFoundError):
            await call(job.id)  # type: ignore[operator]
    with pytest.raises(openai.NotFoundError):
        await jobs.create(model="lab/base", training_file=job.training_file)
    reader = await desk.other(["read"])
    assert (await reader.fine_tuning.jobs.retrieve(job.id)).id == job.id
    with pytest.raises(openai.PermissionDeniedError):
        await reader.fine_tuning.jobs.cancel(job.id)
    limited = await desk.other(["write"], model_allow=["lab/other"])
    with pytest.raises(openai.PermissionDeniedError):
        await limited.fine_tuning.jobs.create(model="lab/base", training_file=job.training_file)


async def test_only_a_tuned_model_is_deleted_by_the_client(desk: Desk) -> None:
    job = await desk.job()
    desk.steps.tick()
    finish(desk, job.id)
    name = str((await desk.client.fine_tuning.jobs.retrieve(job.id)).fine_tuned_model)
    with pytest.raises(openai.BadRequestError) as refused:
        await desk.client.models.delete("lab/base")
    assert refused.value.code == "model_not_tuned"
    stranger, reader = await desk.other(project="another"), await desk.other(["read", "inference"])
    with pytest.raises(openai.BadRequestError):
        await stranger.models.delete(name)
    with pytest.raises(openai.PermissionDeniedError):
        await reader.models.delete(name)
    deleted = await desk.client.models.delete(name)
    assert (deleted.id, deleted.deleted, deleted.object) == (name, True, "model")
    with pytest.raises(openai.NotFoundError):
        await desk.client.models.delete(name)


async def test_a_tuned_adapter_is_added_where_its_base_answers(desk: Desk) -> None:
    async def tuned() -> str:
        job = await desk.job(method={"type": "supervised", "supervised": {"hyperparameters": {"lora_rank": 8}}})
        desk.steps.tick()
        with desk.db.reading() as session:
            assert desk.jobs.get(session, desk.project_id, desk.run_id(job.id)).params["method"] == "lora"
            base = desk.catalog.resolve(session, desk.project_id, "lab/base")
        assert "learning_rate_multiplier is 1.0 (auto: the method's own rate, 0.0002)" in await messages_of(desk, job.id)
        finish(desk, job.id, adapter={"base": base.ref, "base_digest": base.digest})
        found = await desk.client.fine_tuning.jobs.retrieve(job.id)
        assert found.hyperparameters.to_dict()["lora_rank"] == 8
        return str(found.fine_tuned_model)

    def deployed() -> set[str]:
        with desk.db.reading() as session:
            return {each.name for each in desk.serving.list(session, desk.project_id)[0]}

    # Where nothing holds adapters, the merged weights are deployed.
    merged = await tuned()
    assert deployed() == {merged}
    with desk.db.transaction() as session:
        desk.serving.apply(session, desk.project_id, DeploymentSpec(name="chat", model="lab/base"))
        row = session.scalars(select(DeploymentRow).where(DeploymentRow.name == "chat")).one()
        row.holds_adapters, row.version_id = True, desk.catalog.resolve(session, desk.project_id, "lab/base").id
    name = await tuned()
    assert deployed() == {merged, "chat"}
    with desk.db.reading() as session:
        [adapter] = desk.serving.adapters.list(session, desk.project_id)
    assert (adapter.name, adapter.deployment) == (name, "chat")
    # It can be tuned again by its name, and deleted.
    again = await desk.job(model=name)
    assert again.model == name
    assert (await desk.client.models.delete(name)).deleted
    with desk.db.reading() as session:
        assert desk.serving.adapters.list(session, desk.project_id) == []


async def test_a_job_without_news_writes_nothing(desk: Desk, tmp_path: Path) -> None:
    job = await desk.job()
    desk.steps.tick()
    desk.steps.tick()
    with closing(sqlite3.connect(tmp_path / "rooms.db")) as watcher:

        def version() -> int:
            return int(watcher.execute("PRAGMA data_version").fetchone()[0])

        before = version()
        assert desk.steps.tick()
        assert version() == before
        await desk.client.fine_tuning.jobs.cancel(job.id)
        assert version() != before


async def test_the_wire_forms_are_as_written_down(desk: Desk) -> None:
    job = await desk.job(seed=1, suffix="gold", metadata={"team": "a"})
    desk.steps.tick()
    finish(desk, job.id)
    upload = await desk.client.uploads.create(bytes=3, filename="a.txt", mime_type="text/plain", purpose="user_data")
    part = await desk.client.uploads.parts.create(upload.id, data=b"abc")
    files, uploads, jobs = (
        each.with_raw_response for each in (desk.client.files, desk.client.uploads, desk.client.fine_tuning.jobs)
    )
    forms = {
        "file": await files.retrieve(job.training_file),
        "file-list": await files.list(purpose="fine-tune"),
        "upload": await uploads.create(bytes=1, filename="b.txt", mime_type="text/plain", purpose="user_data"),
        "upload-part": await uploads.parts.create(upload.id, data=b"more"),
        "upload-completed": await uploads.complete(upload.id, part_ids=[part.id]),
        "fine-tuning-job": await jobs.retrieve(job.id),
        "fine-tuning-events": await jobs.list_events(job.id),
        "fine-tuning-checkpoints": await jobs.checkpoints.list(job.id),
    }
    for name, form in forms.items():
        text = re.sub(r"(file|upload|part|ftjob|run|prj|mdl|ftevent|ftckpt)_[0-9A-Z]{26}", r"\1_ID", form.http_response.text)
        compare(name, json.loads(re.sub(r":gold:[0-9a-z]{8}", ":gold:ID", text)))


async def test_routes_that_are_not_built_are_unknown(desk: Desk) -> None:
    path = desk.url + "/v1/fine_tuning/checkpoints/x/permissions"
    headers = {"authorization": f"Bearer {desk.client.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.post(path, json={}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_route")


@pytest.mark.parametrize(
    ("line", "where", "what"),
    [
        (b'\xef\xbb\xbf{"messages": 1}', "messages", "byte order mark"),
        (b'{"messages": "\xff"}', "line 1", "not UTF-8"),
        (b"[]", "line 1", "not a JSON object"),
        (b"\n", "line 1", "no example"),
        (jsonl({"messages": []}), "messages", "missing"),
        (jsonl({"messages": [1]}), "messages.0", "not a JSON object"),
        (jsonl({"messages": [{"role": "robot", "content": "a"}]}), "messages.0.role", "not a role"),
        (jsonl({"messages": [{"role": "user"}]}), "messages.0.content", "missing"),
        (jsonl({"messages": [{"role": "user", "content": 1}]}), "messages.0.content", "not a text"),
        (jsonl({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages.0.content", "not text"),
        (jsonl({"messages": [{"role": "assistant", "content": " "}]}), "messages.0.content", "empty"),
        (jsonl({"messages": [{"role": "assistant", "content": "a", "weight": 2}]}), "messages.0.weight", "0 or 1"),
        (jsonl({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}), "messages", "nothing to learn"),
        (
            jsonl({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}),
            "messages.0.tool_calls.0.function.arguments",
            "JSON",
        ),
        (jsonl({"messages": [{"role": "assistant", "tool_calls": [{}]}]}), "messages.0.tool_calls.0", "no function"),
        (jsonl({"messages": [{"role": "user", "content": "a", "tool_calls": []}]}), "messages.0.tool_calls", "assistant"),
        (jsonl({**CHAT, "tools": [{}]}), "tools.0", "no function"),
        (jsonl({**CHAT, "tools": {}}), "tools", "not a list"),
    ],
)
def test_every_fault_of_a_conversation_is_found(line: bytes, where: str, what: str) -> None:
    summary = check(io.BytesIO(line), "chat").summary()
    assert where in summary
    assert what in summary


def test_every_fault_of_a_pair_is_found() -> None:
    messages = [{"role": "assistant", "content": "a"}]
    found = check(
        io.BytesIO(
            jsonl(
                {},
                {**PAIR, "input": {"messages": messages}},
                {**PAIR, "preferred_output": [{"role": "user", "content": "a"}]},
                {**PAIR, "preferred_output": PAIR["non_preferred_output"]},
            )
        ),
        "preference",
    )
    assert [(fault.line, fault.field) for fault in found.faults] == [
        (1, "input.messages"),
        (1, "preferred_output"),
        (1, "non_preferred_output"),
        (2, "input.messages"),
        (3, "preferred_output.0.role"),
        (4, None),
    ]


def test_faults_are_counted_beyond_those_that_are_shown() -> None:
    found = check(io.BytesIO(jsonl(CHAT) + b"{\n" * (MAX_FAULTS + 5)), "chat")
    assert (found.num_examples, found.num_faults, len(found.faults)) == (MAX_FAULTS + 6, MAX_FAULTS + 5, MAX_FAULTS)
    assert found.summary().endswith("and 5 more")


def test_a_line_too_long_is_passed_over_without_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.gateway.tuning.training_file.MAX_LINE_BYTES", 200)
    found = check(io.BytesIO(b"x" * 950 + b"\n" + jsonl(CHAT)), "chat")
    assert [fault.line for fault in found.faults] == [1]
    assert found.num_examples == 1
