"""Wishes become processes: start, switch, restart, drain, remove. All with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select
from tests.kernel.serving.room import PROJECT, Room, alive, wait_until

from modelworks.contract.errors import Conflict, ModelNotFound, Unavailable
from modelworks.kernel.base.database import Database
from modelworks.kernel.serving import reconciler as reconciler_module
from modelworks.kernel.serving.store import DeploymentRow, ReplicaRow


async def seen(room: Room, condition: Callable[[Any], Any], what: str, name: str = "toy") -> Any:
    """The deployment, once it fulfils the condition."""

    def look() -> Any:
        deployment = room.get(name)
        return deployment if condition(deployment) else None

    return await asyncio.to_thread(wait_until, look, what)


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "BACKOFF_S", (0.05, 0.05, 60.0))


async def test_deployed_model_answers_and_is_described(room: Room) -> None:
    version = room.register("hello ")
    deployment = room.apply(model="greeter", options={"prefix": "> ", "context_length": 128})
    assert deployment.state == "loading"
    # No waiting in between: the request waits for the model.
    answer = await room.invoke(text="you")
    assert answer["text"] == "hello > you"
    now = await seen(room, lambda found: found.state == "ready", "ready")
    assert now.version_id == version.id
    assert [replica.state for replica in now.replicas] == ["ready"]
    assert now.engine == "plain"
    [model] = room.pool.snapshot(PROJECT)
    assert (model.name, model.task, model.state, model.max_model_len) == ("toy", "echo", "ready", 128)
    assert (await room.invoke("greeter@v1", text="x"))["text"] == "hello > x"
    assert (await room.invoke(version.id, text="x"))["text"] == "hello > x"
    with room.db.reading() as session:
        graph = room.catalog.lineage(session, PROJECT, version.id)
    assert (deployment.id, "deployed", version.id) in [(e.subject_id, e.relation, e.object_id) for e in graph.edges]
    spec = room.settings.home / "serving" / now.replicas[0].id / "spec.json"
    assert spec.stat().st_mode & 0o077 == 0


async def test_moved_alias_switches_without_a_failed_request(room: Room) -> None:
    room.register("one")
    room.alias("greeter@v1", "prod")
    room.apply(model="greeter@prod")
    assert (await room.invoke(text=""))["text"] == "one"
    first = (await seen(room, lambda found: found.state == "ready", "ready")).replicas[0]
    pid = (await room.invoke(text=""))["pid"]
    long = asyncio.create_task(room.invoke(text="", delay_s=4.0))
    answers: list[str] = []
    done = asyncio.Event()

    async def keep_asking(name: str) -> None:
        while not done.is_set():
            answer = await room.invoke(name, text="", wait_s=0.5)
            assert answer["status"] == 200
            answers.append(answer["text"])
            await asyncio.sleep(0.01)

    asking = [asyncio.create_task(keep_asking(name)) for name in ("toy", "greeter@prod")]
    room.register("two")
    room.alias("greeter@v2", "prod")
    await seen(room, lambda found: found.state == "ready" and found.replicas[-1].id != first.id, "switched")
    while answers[-1] != "two":
        await asyncio.sleep(0.02)
    # The old replica finishes what it is answering.
    assert (await long)["text"] == "one"
    done.set()
    await asyncio.gather(*asking)
    assert answers == sorted(answers), "answers of the two versions alternate"
    await seen(room, lambda found: len(found.replicas) == 1, "the old replica is gone")
    await asyncio.to_thread(wait_until, lambda: not alive(pid), "its process is gone")
    assert not (room.settings.home / "serving" / first.id).exists()


async def test_killed_worker_fails_its_request_cleanly_and_is_restarted(room: Room, quick_backoff: None) -> None:
    room.register("hello ")
    room.apply(model="greeter")
    pid = (await room.invoke(text=""))["pid"]
    in_flight = asyncio.create_task(room.invoke(text="", delay_s=30.0))
    await asyncio.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(aiohttp.ClientConnectionError):
        await in_flight
    answer = await room.invoke(text="again")
    assert answer["text"] == "hello again"
    assert answer["pid"] != pid
    now = await seen(room, lambda found: found.state == "ready", "ready")
    assert now.replicas[0].restarts == 1
    assert "SIGKILL" in (now.replicas[0].last_error or "")


async def test_failing_model_shows_its_reason_and_is_refused_at_once(room: Room, quick_backoff: None) -> None:
    room.register("x")
    room.apply(model="greeter", engine="broken")
    now = await seen(room, lambda found: found.state == "failed", "failed")
    assert "the weights do not fit" in now.last_error
    assert now.replicas[0].restarts == len(reconciler_module.BACKOFF_S) - 1
    async with asyncio.timeout(1):
        with pytest.raises(Unavailable, match="the weights do not fit"):
            await room.invoke(text="")


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("refusing", ["These files are not a model.", "Train one."]),
        ("heavy", ["a_heavy_library_that_nobody_has", "serving-toys[toys]"]),
        ("absent-program", ["/nowhere/vllm"]),
    ],
)
async def test_failure_that_will_not_go_away_is_not_repeated(room: Room, engine: str, words: list[str]) -> None:
    room.register("x")
    room.apply(model="greeter", engine=engine)
    now = await seen(room, lambda found: found.state == "failed", "failed")
    assert now.replicas[0].restarts == 0
    for word in words:
        assert word in now.last_error


async def test_failed_revision_leaves_the_old_one_answering(room: Room, quick_backoff: None) -> None:
    room.register("hello ")
    room.apply(model="greeter")
    await room.invoke(text="")
    room.apply(model="greeter", engine="refusing")
    now = await seen(room, lambda found: found.state == "degraded" and found.last_error, "degraded")
    assert "These files are not a model." in now.last_error
    assert (await room.invoke(text="still"))["text"] == "hello still"


async def test_applying_again_tries_a_failed_deployment_at_once(room: Room, tmp_path: Path) -> None:
    room.register("hello ")
    needed = tmp_path / "needed"
    spec = {"model": "greeter", "options": {"needs_file": str(needed)}}
    room.apply(**spec)
    await seen(room, lambda found: found.replicas and found.replicas[0].last_error, "a failure")
    needed.touch()
    before = room.get().generation
    assert room.apply(**spec).state == "loading"
    assert (await room.invoke(text="now", wait_s=10))["text"] == "hello now"
    assert room.get().generation == before


async def test_replicas_are_added_and_taken_away(room: Room) -> None:
    room.register("hello ")
    room.apply(model="greeter", num_replicas=2)
    await seen(room, lambda found: found.state == "ready", "both are ready")
    slow = [asyncio.create_task(room.invoke(text="", delay_s=0.5)) for _ in range(2)]
    first, second = [answer["pid"] for answer in await asyncio.gather(*slow)]
    assert first != second
    room.apply(model="greeter", num_replicas=1)
    await seen(room, lambda found: len(found.replicas) == 1, "one is gone")
    left = (await room.invoke(text=""))["pid"]
    assert left in (first, second)


async def test_stopped_and_started_again(room: Room) -> None:
    room.register("hello ")
    room.apply(model="greeter")
    await room.invoke(text="")
    with room.db.transaction() as session:
        room.service.stop(session, PROJECT, "toy")
    await seen(room, lambda found: found.state == "stopped" and not found.replicas, "stopped")
    with pytest.raises(Unavailable, match="is stopped"):
        await room.invoke(text="")
    room.apply(model="greeter")
    assert (await room.invoke(text="back"))["text"] == "hello back"


async def test_removal_finishes_what_is_in_flight_and_clears_up(make_room: Callable[..., Room], database: Database) -> None:
    room = make_room(database)
    await room.pool.start()
    room.reconciler.start()
    room.register("hello ")
    room.apply(model="greeter")
    pid = (await room.invoke(text=""))["pid"]
    long = asyncio.create_task(room.invoke(text="long", delay_s=3.0))
    await asyncio.sleep(0.2)
    room.remove()
    with pytest.raises(ModelNotFound):  # noqa: PT012
        while True:
            await room.invoke(text="", wait_s=0.1)
    assert (await long)["text"] == "hello long"
    await asyncio.to_thread(wait_until, lambda: not alive(pid), "the process is gone")

    def rows() -> bool:
        with room.db.reading() as session:
            return not session.scalars(select(DeploymentRow)).all() and not session.scalars(select(ReplicaRow)).all()

    await asyncio.to_thread(wait_until, rows, "the rows are gone")
    # The name is free again, also for something else.
    room.apply(task="count")
    await seen(room, lambda found: found.state == "ready", "ready")
    await room.pool.close()


async def test_served_version_cannot_be_removed(room: Room) -> None:
    room.register("hello ")
    room.apply(model="greeter")
    with pytest.raises(Conflict, match="deployment 'toy' serves it"), room.db.transaction() as session:
        room.catalog.remove(session, PROJECT, "greeter@v1")


async def test_server_program_is_supervised(room: Room, quick_backoff: None) -> None:
    room.register("x")
    room.apply(model="greeter", engine="fake-openai", options={"load_s": 0.3})
    async with room.pool.acquire(PROJECT, "toy", 30) as route:
        assert (route.kind, route.upstream_model) == ("openai", "inner-name")
        assert route.base_url.endswith("/v1")
        first = await room.post(route, "/chat/completions", {"model": route.upstream_model})
    port = route.base_url.split(":")[-1].removesuffix("/v1")
    assert first["greeting"] == f"port {port}"
    os.kill(first["pid"], signal.SIGKILL)
    await seen(room, lambda found: found.replicas[0].restarts == 1 and found.state == "ready", "restarted")
    async with room.pool.acquire(PROJECT, "toy", 30) as route:
        second = await room.post(route, "/chat/completions", {"model": "x"})
    assert second["pid"] != first["pid"]
    room.remove()
    await asyncio.to_thread(wait_until, lambda: not alive(second["pid"]), "the server program is gone")


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        ("dying", {}, ["exit code 1", "address already in use"]),
        ("fake-openai", {"health": "/not-there"}, ["did not become healthy within 1 seconds"]),
    ],
)
async def test_server_program_that_does_not_come_up(room: Room, engine: str, options: dict[str, Any], words: list[str]) -> None:
    room.register("x")
    room.apply(model="greeter", engine=engine, options=options)
    now = await seen(room, lambda found: found.replicas and found.replicas[0].last_error, "an error")
    for word in words:
        assert word in now.replicas[0].last_error


async def test_two_deployments_of_one_version(room: Room) -> None:
    room.register("hello ")
    room.apply("a", model="greeter", options={"prefix": "a"})
    room.apply("b", model="greeter", options={"prefix": "b"})
    assert (await room.invoke("a", text=""))["text"] == "hello a"
    assert (await room.invoke("b", text=""))["text"] == "hello b"
    assert (await room.invoke("greeter@v1", text=""))["text"] in ("hello a", "hello b")
