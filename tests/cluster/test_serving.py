"""Deployments on a Ray cluster: the same capability code, the same protocol, through Serve's own proxy."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.conftest import RayCluster
from tests.kernel.serving.room import PROJECT, TOYS, Room, build_room, wait_until

from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import refresh
from modelworks.kernel.serving.backends.ray_serve import RayServeBackend

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# Serve starts a replica that fails several times, ever more rarely, before it gives up.
PATIENCE_S = 300.0


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(TOYS))
    refresh()
    yield
    monkeypatch.undo()
    refresh()


@pytest.fixture
def settings(tmp_path: Path, toys: None) -> Settings:
    made = Settings(home=tmp_path / "home")
    made.prepare_home()
    return made


@pytest.fixture
def make_backend(ray_cluster: RayCluster, proxy_url: str, settings: Settings) -> Callable[[], RayServeBackend]:
    env = {"PYTHONPATH": os.pathsep.join(filter(None, [str(TOYS), os.environ.get("PYTHONPATH")]))}
    return lambda: RayServeBackend(ray_cluster.dashboard_url, proxy_url, settings.effective_storage_url, {}, env)


@pytest.fixture
async def room(ray_cluster: RayCluster, make_backend: Callable[[], RayServeBackend], settings: Settings) -> AsyncIterator[Room]:
    made = build_room(settings, predictor=make_backend())
    await made.pool.start()
    made.reconciler.start()
    yield made
    await asyncio.to_thread(made.reconciler.close)
    await made.pool.close()
    made.db.dispose()
    # What a test that failed midway left there would make the next ones fail, too.
    await asyncio.to_thread(ray_cluster.remove_applications)


async def wait(room: Room, condition: Any, what: str, name: str = "toy") -> Any:
    def look() -> Any:
        found = room.get(name)
        return found if condition(found) else None

    return await asyncio.to_thread(wait_until, look, what, PATIENCE_S)


async def count(room: Room, num: int) -> int:
    """The number of outputs of a stream that takes `num` tenths of a second."""
    async with room.pool.acquire(PROJECT, "numbers", 120) as route:
        request = {"num": num, "delay_s": 0.1}
        async with room.pool.http.post(f"{route.base_url}/stream", json=request, headers=route.headers) as response:
            return len([json.loads(line)["value"] async for line in response.content])


async def test_deployment_on_a_cluster_from_start_to_removal(
    room: Room, make_backend: Callable[[], RayServeBackend], settings: Settings, tmp_path: Path
) -> None:
    room.register("one ")
    room.alias("greeter@v1", "prod")
    room.apply(model="greeter@prod", num_replicas=2)
    room.apply("numbers", task="count")
    assert (await room.invoke(text="x", wait_s=180))["text"] == "one x"

    # Two replicas, in processes of the cluster.
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(room.invoke(text="", delay_s=1.0)) for _ in range(8)]
    assert len({task.result()["pid"] for task in slow}) == 2

    # A stream arrives while it is made, and is closed when the client goes away.
    note = tmp_path / "note"
    async with room.pool.acquire(PROJECT, "numbers", 120) as route:
        request = {"num": 500, "delay_s": 0.1, "note": str(note)}
        async with room.pool.http.post(f"{route.base_url}/stream", json=request, headers=route.headers) as response:
            assert response.content_type == "application/x-ndjson"
            for value in range(3):
                assert json.loads(await response.content.readline())["value"] == value
            response.close()
    await asyncio.to_thread(wait_until, note.exists, "the iterator is closed")

    # Whoever reaches the proxy without the replica's token is refused.
    async with room.pool.http.post(f"{route.base_url}/stream", json={"num": 1}) as response:
        assert response.status == 401

    # A moved alias switches without a failed request, and what other deployments answer goes on.
    other = asyncio.create_task(count(room, 150))
    room.register("two ")
    room.alias("greeter@v2", "prod")
    answers = []
    while not answers or answers[-1] != "two ":
        answer = await room.invoke(text="", wait_s=5)
        assert answer["status"] == 200, answer
        answers.append(answer["text"])
        await asyncio.sleep(0.1)
    assert set(answers) == {"one ", "two "}
    assert await other == 150
    await wait(room, lambda found: len(found.replicas) == 1 and found.state == "ready", "the old version is gone")

    # The server ends; the cluster goes on answering and the next server takes over what it finds.
    before = room.get().replicas[0].id
    await asyncio.to_thread(room.reconciler.close)
    await room.pool.close()
    following = build_room(settings, room.db, predictor=make_backend())
    await following.pool.start()
    following.reconciler.start()
    try:
        assert (await following.invoke(text="y", wait_s=30))["text"] == "two y"
        assert following.get().replicas[0].id == before

        # Removal takes the application off the cluster.
        following.remove()
        following.remove("numbers")

        def applications() -> Any:
            return not make_backend()._look()

        await asyncio.to_thread(wait_until, applications, "the cluster is empty", PATIENCE_S)
    finally:
        await asyncio.to_thread(following.reconciler.close)
        await following.pool.close()


async def test_model_that_cannot_be_loaded_on_the_cluster_tells_why(room: Room) -> None:
    room.register("x")
    room.apply(model="greeter", engine="refusing")
    found = await wait(room, lambda found: found.state == "failed", "failed")
    assert found.last_error == "These files are not a model. Train one."
