"""A replica's application over real sockets: answers, errors, and what happens when the client goes away."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from tests.kernel.serving.room import wait_until

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.catalog import find_task, resolve_import
from modelworks.kernel.serving.worker import Replica

TOKEN = "token-of-the-test"


@asynccontextmanager
async def replica_of(task_name: str, engine: str, **options: Any) -> AsyncIterator[tuple[Replica, aiohttp.ClientSession]]:
    """A loaded replica behind a real server in this event loop, and a client for it."""
    _, task = find_task("serving-toys", task_name)
    factory: Any = resolve_import(task.predictors.get(engine, task.predictor))
    made = None if task.options is None else task.options.model_validate(options)
    replica = Replica(task, lambda: factory(None, made), TOKEN)
    replica.load()
    async with serving(replica) as client:
        yield replica, client


@asynccontextmanager
async def serving(replica: Replica) -> AsyncIterator[aiohttp.ClientSession]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(replica, log_config=None, access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve([listener]))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with aiohttp.ClientSession(base, headers=headers) as client:
        yield client
    server.should_exit = True
    await task
    replica.close()


async def answer(client: aiohttp.ClientSession, path: str, **request: Any) -> tuple[int, dict[str, Any]]:
    async with client.post(path, json=request) as response:
        return response.status, await response.json()


async def lines(client: aiohttp.ClientSession, **request: Any) -> list[dict[str, Any]]:
    async with client.post("/stream", json=request) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        return [json.loads(line) async for line in response.content]


@pytest.mark.parametrize("engine", ["plain", "async"])
async def test_predict_answers_in_thread_and_in_loop(toys: None, engine: str) -> None:
    async with replica_of("echo", engine) as (_, client):
        status, body = await answer(client, "/invoke", text="你好")
        assert (status, body["text"]) == (200, "你好")


@pytest.mark.parametrize("engine", ["plain", "async"])
async def test_requests_are_answered_at_the_same_time(toys: None, engine: str) -> None:
    async with replica_of("echo", engine) as (replica, client):
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            slow = [group.create_task(answer(client, "/invoke", text=str(number), delay_s=0.5)) for number in range(4)]
            while replica.stats()["in_flight"] < 4:
                await asyncio.sleep(0.01)
        assert [task.result()[1]["text"] for task in slow] == ["0", "1", "2", "3"]


async def test_output_given_as_dict_is_made_into_the_declared_type(toys: None) -> None:
    async with replica_of("echo", "plain", prefix="> ") as (_, client):
        status, body = await answer(client, "/invoke", text="a", action="dict")
        assert (status, body["text"]) == (200, "> a")


async def test_invalid_input_names_the_field(toys: None) -> None:
    async with replica_of("echo", "plain") as (_, client):
        status, body = await answer(client, "/invoke", text=["not text"])
        assert status == 400
        assert body["error"]["class"] == "InvalidRequest"
        assert body["error"]["param"] == "text"
        assert body["error"]["message"] == "text: Input should be a valid string."
        assert "/v1/tasks/" in body["error"]["hint"]
        async with client.post("/invoke", data=b"{broken") as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "invalid_json"


async def test_predictors_own_error_arrives_whole(toys: None) -> None:
    async with replica_of("echo", "plain") as (_, client):
        status, body = await answer(client, "/invoke", text="a", action="refuse")
        assert status == 400
        assert body["error"] | {"hint": None} == {
            "class": "InvalidRequest",
            "message": "That text is not wanted.",
            "hint": None,
            "param": "text",
            "code": "unwanted",
            "retry_after_s": None,
        }


@pytest.mark.parametrize("action", ["bug", "wrong"])
async def test_bug_is_a_500_that_tells_nothing(toys: None, action: str) -> None:
    async with replica_of("echo", "plain") as (replica, client):
        status, body = await answer(client, "/invoke", text="a", action=action)
        assert status == 500
        assert body["error"]["code"] == "internal_error"
        assert "secret" not in json.dumps(body)
        assert replica.stats()["failed"] == 1
        assert (await answer(client, "/invoke", text="still here"))[0] == 200


async def test_only_the_server_is_answered(toys: None) -> None:
    async with replica_of("echo", "plain") as (_, client):
        async with client.post("/invoke", json={"text": "a"}, headers={"Authorization": "Bearer other"}) as response:
            assert response.status == 401
        async with client.get("/invoke") as response:
            assert response.status == 405
        async with client.get("/nothing") as response:
            assert response.status == 404


@pytest.mark.parametrize("engine", ["default", "plain", "object"])
async def test_stream_gives_one_line_per_output(toys: None, engine: str) -> None:
    async with replica_of("count", engine) as (replica, client):
        assert [line["value"] for line in await lines(client, num=5)] == [0, 1, 2, 3, 4]
        assert await lines(client, num=0) == []
        # More than a plain iterator's thread may be ahead.
        assert len(await lines(client, num=300)) == 300
        assert replica.stats() | {"served": 0} == {"in_flight": 0, "served": 0, "failed": 0, "aborted": 0, "aborted_tokens": 0}


@pytest.mark.parametrize("engine", ["default", "plain"])
async def test_failure_before_the_first_output_has_its_status(toys: None, engine: str) -> None:
    async with replica_of("count", engine) as (_, client):
        status, body = await answer(client, "/stream", num=3, fail_at=0)
        assert (status, body["error"]["code"]) == (400, "enough")


@pytest.mark.parametrize("engine", ["default", "plain"])
async def test_failure_in_mid_stream_is_the_last_line(toys: None, engine: str) -> None:
    async with replica_of("count", engine) as (replica, client):
        found = await lines(client, num=5, fail_at=2)
        assert [line.get("value") for line in found] == [0, 1, None]
        assert found[-1]["error"]["code"] == "enough"
        assert replica.stats()["failed"] == 1


@pytest.mark.parametrize("engine", ["default", "plain", "object"])
async def test_client_that_goes_away_closes_the_iterator(toys: None, engine: str, tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with replica_of("count", engine) as (replica, client):
        async with client.post("/stream", json={"num": 1000, "delay_s": 0.05, "note": str(note)}) as response:
            await response.content.readline()
            await response.content.readline()
            response.close()
        await asyncio.to_thread(wait_until, note.exists, "the iterator is closed")
        while replica.stats()["in_flight"]:
            await asyncio.sleep(0.01)
        assert replica.stats()["aborted"] == 1
        assert note.read_text() == "closed\n"
        if engine != "object":
            assert 1 < replica.stats()["aborted_tokens"] < 1000


@pytest.mark.parametrize("engine", ["default", "object"])
async def test_client_that_goes_away_before_the_first_output_closes_the_iterator(
    toys: None, engine: str, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    async with replica_of("count", engine) as (replica, client):
        request = asyncio.create_task(answer(client, "/stream", num=5, first_delay_s=3600.0, note=str(note)))
        while not replica.stats()["in_flight"]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        request.cancel()
        await asyncio.to_thread(wait_until, note.exists, "the iterator is closed")
        assert replica.stats()["aborted"] == 1


async def test_client_that_stops_reading_holds_the_predictor_back(toys: None) -> None:
    _, task = find_task("serving-toys", "count")
    made: list[int] = []

    class Eager:
        def stream(self, request: Any) -> Iterator[Any]:
            for value in range(request.num):
                made.append(value)
                yield task.output(value=value, filler="x" * request.wide)

    replica = Replica(task, Eager, TOKEN)
    replica.load()
    async with (
        serving(replica) as client,
        client.post("/stream", json={"num": 5000, "wide": 20000}) as response,
    ):
        await response.content.readline()
        before = -1
        while len(made) != before:
            before = len(made)
            await asyncio.sleep(0.3)
        assert before < 4000
        response.close()


async def test_health_answers_while_loading_and_after_a_failure(toys: None) -> None:
    _, task = find_task("serving-toys", "echo")
    go = threading.Event()

    def load() -> Any:
        go.wait(20)
        raise InvalidRequest("These files are not a model.")

    replica = Replica(task, load, TOKEN)
    thread = replica.start_loading()
    async with serving(replica) as client:
        async with client.get("/health") as response:
            assert (response.status, await response.json()) == (503, {"status": "loading"})
        status, body = await answer(client, "/invoke", text="a")
        assert (status, body["error"]["code"]) == (503, "model_loading")
        go.set()
        await asyncio.to_thread(thread.join)
        async with client.get("/health") as response:
            assert (response.status, await response.json()) == (503, {"status": "failed"})
        assert (await answer(client, "/invoke", text="a"))[1]["error"]["message"] == "These files are not a model."


async def test_invoking_a_task_that_streams_says_what_to_use(toys: None) -> None:
    async with replica_of("count", "default") as (_, client):
        status, body = await answer(client, "/invoke", num=1)
        assert status == 405
        assert "/stream" in body["error"]["message"]


async def test_predictor_is_closed_with_the_replica(toys: None) -> None:
    closed: list[Callable[..., Any]] = []
    _, task = find_task("serving-toys", "echo")

    class Holder:
        def close(self) -> None:
            closed.append(self.close)

    replica = Replica(task, Holder, TOKEN)
    replica.load()
    replica.close()
    assert len(closed) == 1
