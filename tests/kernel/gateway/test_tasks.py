"""Tasks by name in their four modes, with capabilities that live in this file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from pydantic import BaseModel
from sqlalchemy.orm import Session
from tests.kernel.gateway.conftest import Stage, chunk, hello, usage

from modelworks.contract.capability import Capability, Task
from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.contract.generation import GenerationChunk, GenerationInput
from modelworks.contract.media import File
from modelworks.kernel.catalog import discovery
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.jobs.schemas import JobSpec, RunRecord


class Picture(BaseModel):
    url: str
    threshold: float = 0.5


class Label(BaseModel):
    label: str


class Question(BaseModel):
    input: str


TOY = Capability(
    name="toy",
    summary="For tests.",
    package="toy",
    tasks=(
        Task(name="text-generation", mode="stream", input=GenerationInput, output=GenerationChunk, predictor="toy.serve:A"),
        Task(name="image-classification", mode="sync", input=Picture, output=Label, predictor="toy.serve:B"),
        Task(name="weather-forecast", mode="job", input=Picture, output=Label, predictor="toy.serve:c"),
        Task(name="scene-3d", mode="static", input=Picture, output=Label),
        Task(name="question-answering", mode="sync", input=Question, output=Label, predictor="toy.serve:D"),
    ),
)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    found = discovery._Found(capabilities={"toy": TOY})
    monkeypatch.setattr(discovery, "_discover", lambda: found)


async def test_tasks_are_listed_with_their_models(stage: Stage) -> None:
    stage.deploy("eyes", task="image-classification", capability="toy")
    async with stage.http.get(stage.url + "/v1/tasks", headers={"x-api-key": stage.secret}) as response:
        body = await response.json()
    assert body["object"] == "list"
    assert [(task["id"], task["mode"]) for task in body["data"]] == [
        ("text-generation", "stream"),
        ("image-classification", "sync"),
        ("weather-forecast", "job"),
        ("scene-3d", "static"),
        ("question-answering", "sync"),
    ]
    assert body["data"][0]["models"] == ["remote/gpt", "tiny"]
    assert body["data"][1]["models"] == ["eyes"]


async def test_a_tasks_schema_is_its_declaration(stage: Stage) -> None:
    headers = {"x-api-key": stage.secret}
    async with stage.http.get(stage.url + "/v1/tasks/image-classification/schema", headers=headers) as response:
        body = await response.json()
    assert body["mode"] == "sync"
    assert body["input"]["required"] == ["url"]
    assert body["output"]["properties"]["label"]["type"] == "string"
    async with stage.http.get(stage.url + "/v1/tasks/image-clasification/schema", headers=headers) as response:
        assert response.status == 404
        assert "image-classification" in (await response.json())["error"]["message"]


async def test_a_sync_task_takes_its_input_nested_or_flat(stage: Stage) -> None:
    stage.deploy("eyes", task="image-classification")
    nested = {"model": "eyes", "input": {"url": "https://a"}}
    flat = {"model": "eyes", "url": "https://a"}
    without = {"url": "https://a"}
    for body in (nested, flat, without):
        status, answer, headers = await stage.post("/v1/tasks/image-classification", body)
        assert (status, answer) == (200, {"label": "cat"})
        assert headers["content-type"] == "application/json"
    assert stage.replica.requests == [{"url": "https://a"}] * 3
    assert [(record.endpoint, record.model, record.status) for record in stage.used()] == [
        ("/v1/tasks/image-classification", "eyes", 200)
    ] * 3


async def test_a_task_whose_own_field_is_called_input(stage: Stage) -> None:
    stage.deploy("qa", task="question-answering")
    await stage.post("/v1/tasks/question-answering", {"model": "qa", "input": "why?"})
    await stage.post("/v1/tasks/question-answering", {"model": "qa", "input": {"input": "why?"}})
    assert stage.replica.requests == [{"input": "why?"}] * 2


async def test_the_replicas_refusal_points_into_the_callers_body(stage: Stage) -> None:
    stage.deploy("eyes", task="image-classification")
    stage.replica.refusal = (400, InvalidRequest("url: is missing.", param="url").to_wire())
    for body, param in [({"model": "eyes", "input": {}}, "input.url"), ({"model": "eyes"}, "url")]:
        status, answer, _ = await stage.post("/v1/tasks/image-classification", body)
        assert (status, answer["error"]["param"]) == (400, param)


async def test_without_a_single_candidate_the_model_must_be_named(stage: Stage) -> None:
    status, body, _ = await stage.post("/v1/tasks/image-classification", {"url": "a"})
    assert (status, body["error"]["param"]) == (400, "model")
    assert "Nothing is deployed" in body["error"]["message"]
    stage.deploy("eyes", task="image-classification")
    stage.deploy("eyes2", task="image-classification")
    _, body, _ = await stage.post("/v1/tasks/image-classification", {"url": "a"})
    assert "eyes, eyes2" in body["error"]["message"]


async def test_a_model_of_another_task_is_refused(stage: Stage) -> None:
    status, body, _ = await stage.post("/v1/tasks/image-classification", {"model": "tiny", "url": "a"})
    assert (status, body["error"]["code"]) == (400, "model_not_supported")
    stage.deploy("away", kind="openai")
    status, body, _ = await stage.post("/v1/tasks/text-generation", {"model": "away", "prompt": "a"})
    assert (status, body["error"]["code"]) == (400, "model_not_supported")
    assert "/v1/chat/completions" in body["error"]["message"]
    assert stage.replica.requests == []


async def test_a_models_list_binds_tasks_too(stage: Stage) -> None:
    stage.deploy("eyes", task="image-classification")
    key = stage.key(model_allow=["tiny"])
    headers = {"authorization": f"Bearer {key}"}
    for path, name in [("image-classification", "eyes"), ("weather-forecast", "eyes")]:
        async with stage.http.post(stage.url + f"/v1/tasks/{path}", json={"model": name}, headers=headers) as response:
            assert response.status == 403
            assert (await response.json())["error"]["code"] == "model_not_allowed"


async def test_a_stream_task_gives_lines_or_events(stage: Stage) -> None:
    body = {"model": "tiny", "input": {"prompt": "a"}}
    status, raw, headers = await stage.post("/v1/tasks/text-generation", body)
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    assert [orjson.loads(line) for line in raw.splitlines()] == hello()
    _, raw, headers = await stage.post("/v1/tasks/text-generation", body, accept="text/event-stream")
    assert headers["content-type"].startswith("text/event-stream")
    blocks = raw.decode().strip().split("\n\n")
    assert [orjson.loads(block[6:]) for block in blocks[:-1]] == hello()
    assert blocks[-1] == "data: [DONE]"
    assert [(record.prompt_tokens, record.completion_tokens, record.streamed) for record in stage.used()] == [(5, 2, True)] * 2


async def test_a_stream_task_that_fails_in_the_middle_ends_with_an_error_line(stage: Stage) -> None:
    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk("a", usage=usage(1, 0))
        await asyncio.sleep(0.05)
        yield {"error": Conflict("No.").to_wire()}

    stage.replica.lines = lines
    _, raw, _ = await stage.post("/v1/tasks/text-generation", {"model": "tiny", "prompt": "a"})
    *_, last = raw.splitlines()
    assert orjson.loads(last)["error"]["code"] == "conflict"


async def test_a_caller_who_leaves_a_task_stops_it(stage: Stage) -> None:
    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk("a")
        await asyncio.Event().wait()

    stage.replica.lines = lines
    asking = asyncio.create_task(stage.post("/v1/tasks/text-generation", {"model": "tiny", "prompt": "a"}))
    await asyncio.wait_for(stage.replica.asked.wait(), 5)
    asking.cancel()
    await asyncio.wait_for(stage.replica.hung_up.wait(), 5)
    [record] = await stage.used_soon(1)
    assert record.aborted


class Jobs:
    """The jobs room as far as the gateway sees it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.submitted: list[tuple[str, str | None, JobSpec]] = []
        self.checked: list[JobSpec] = []
        self.error = error

    def check_rights(self, spec: JobSpec, caller: Any) -> None:
        self.checked.append(spec)

    def submit(
        self, session: Session, project_id: str, key_id: str | None, spec: JobSpec, *, dry_run: bool = False
    ) -> RunRecord:
        if self.error is not None:
            raise self.error
        assert session.in_transaction()
        self.submitted.append((project_id, key_id, spec))
        nothing = dict.fromkeys(
            ("output_name", "progress", "error", "result", "started_at", "finished_at", "heartbeat_at", "cancel_requested_at")
        )
        return RunRecord.model_validate(
            {
                **nothing,
                "id": "run_1",
                "project_id": project_id,
                "capability": spec.capability,
                "task": spec.task,
                "verb": spec.verb,
                "inputs": {},
                "params": spec.params,
                "state": "queued",
                "executor": "local",
                "attempt": 0,
                "max_attempts": 1,
                "seed": 0,
                "resources": {},
                "outputs": [],
                "has_checkpoint": False,
                "key_id": key_id,
                "created_at": datetime(2026, 1, 1, tzinfo=UTC),
            }
        )


async def test_a_job_task_is_accepted_as_a_run(stage: Stage) -> None:
    jobs = Jobs()
    object.__setattr__(stage.gateway, "jobs", jobs)
    status, body, _ = await stage.post("/v1/tasks/weather-forecast", {"model": "graph@best", "input": {"url": "a"}})
    assert status == 202
    assert (body["run"]["id"], body["run"]["state"]) == ("run_1", "queued")
    [(project_id, key_id, spec)] = jobs.submitted
    assert project_id == stage.project_id
    assert key_id is not None
    assert (spec.verb, spec.capability, spec.task) == ("batch", "toy", "weather-forecast")
    assert (spec.inputs, spec.params) == ({"model": "graph@best"}, {"url": "a"})
    assert [(record.status, record.model) for record in stage.used()] == [(202, "graph@best")]
    await stage.post("/v1/tasks/weather-forecast", {"url": "a"})
    assert jobs.submitted[1][2].inputs == {}


async def test_a_job_is_given_what_it_reads_by_role(stage: Stage) -> None:
    jobs = Jobs()
    object.__setattr__(stage.gateway, "jobs", jobs)
    path, key = "/v1/tasks/weather-forecast", "Bearer " + stage.key(scopes=["inference", "write"])
    body = {"model": "graph@best", "inputs": {"initial": "dataset:today@v1"}, "input": {"url": "a"}}
    assert (await stage.post(path, body, authorization=key))[0] == 202
    assert (await stage.post(path, {"url": "a", "inputs": {"initial": "today"}}, authorization=key))[0] == 202
    assert [spec.inputs for _, _, spec in jobs.submitted] == [
        {"model": "graph@best", "initial": "dataset:today@v1"},
        {"initial": "today"},
    ]
    assert [spec.params for _, _, spec in jobs.submitted] == [{"url": "a"}, {"url": "a"}]
    assert [spec.inputs for spec in jobs.checked] == [spec.inputs for _, _, spec in jobs.submitted]
    for wrong in ("today", {"initial": 5}, {"model": "graph@worst"}):
        status, answer, _ = await stage.post(path, {"url": "a", "inputs": wrong}, authorization=key)
        assert (status, answer["error"]["param"]) == (400, "inputs")
    assert (await stage.post(path, body))[0] == 403, "who may ask models may not choose what runs read"
    assert len(jobs.submitted) == 2


async def test_a_job_that_is_refused_is_refused_at_once(stage: Stage) -> None:
    object.__setattr__(stage.gateway, "jobs", Jobs(InvalidRequest("url: is missing.", param="url")))
    status, body, _ = await stage.post("/v1/tasks/weather-forecast", {})
    assert (status, body["error"]["param"]) == (400, "url")
    assert [record.status for record in stage.used()] == [400]


async def test_a_static_task_lists_its_files(stage: Stage) -> None:
    class Catalog:
        def get_version(self, session: Session, project_id: str, version_id: str) -> Version:
            if (project_id, version_id) != (stage.project_id, "mdl_scene"):
                raise NotFound("There is no such version.")
            return Version(
                id=version_id,
                artifact_id="art_1",
                project_id=project_id,
                kind="model",
                name="hall",
                number=1,
                digest="sha256:" + "0" * 64,
                files=[File(path="scene.splat", digest="sha256:" + "1" * 64, num_bytes=9)],
                num_bytes=9,
                created_at=datetime(2026, 1, 1, tzinfo=UTC),
            )

    object.__setattr__(stage.gateway, "catalog", Catalog())
    stage.deploy("hall", kind="static", task="scene-3d", version_id="mdl_scene")
    status, body, _ = await stage.post("/v1/tasks/scene-3d", {"model": "hall"})
    assert status == 200
    assert body["data"] == [
        {"path": "scene.splat", "num_bytes": 9, "digest": "sha256:" + "1" * 64, "url": "/api/static/hall/scene.splat"}
    ]
    status, body, _ = await stage.post(
        "/v1/chat/completions", {"model": "hall", "messages": [{"role": "user", "content": "a"}]}
    )
    assert (status, body["error"]["code"]) == (400, "model_not_supported")


@pytest.mark.parametrize("body", [{"model": 5}, {"model": ["tiny"]}])
async def test_a_model_that_is_no_text(stage: Stage, body: Any) -> None:
    status, answer, _ = await stage.post("/v1/tasks/text-generation", body)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "model", "invalid_type")


async def test_an_unknown_task(stage: Stage) -> None:
    status, body, _ = await stage.post("/v1/tasks/tea-making", {"model": "tiny"})
    assert (status, body["error"]["code"]) == (404, "task_not_found")
