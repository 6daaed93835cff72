"""Routing in memory: who is chosen, who waits, who is refused and with which words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from modelworks.contract.errors import ModelNotFound, Unavailable
from modelworks.kernel.serving.pool import ReplicaPool
from modelworks.kernel.serving.schemas import DeployedModel, Route
from modelworks.kernel.serving.target import Slot, Target

ROUTE = Route("dep_1", "prj", "chat", "text-generation", "text", "predictor", "openvino", "mdl_1", "http://127.0.0.1:1")
MODEL = DeployedModel("chat", "prj", "dep_1", "text-generation", "text", "predictor", "openvino", "mdl_1", 1, "ready")


@pytest.fixture
async def pool() -> AsyncIterator[ReplicaPool]:
    made = ReplicaPool(max_queue=2, load_wait_s=20.0)
    await made.start()
    yield made
    await made.close()


def slot(name: str) -> Slot:
    return Slot(name, replace(ROUTE, replica_id=name))


def publish(pool: ReplicaPool, *slots: Slot, references: frozenset[str] = frozenset(), **model: Any) -> None:
    deployed = replace(MODEL, **model)
    pool.publish({(deployed.project_id, deployed.name): Target(deployed, slots, references=references)})


async def test_least_busy_replica_is_chosen(pool: ReplicaPool) -> None:
    publish(pool, slot("a"), slot("b"))
    async with pool.acquire("prj", "chat") as first, pool.acquire("prj", "chat") as second:
        assert {first.replica_id, second.replica_id} == {"a", "b"}
        async with pool.acquire("prj", "chat") as third:
            assert third.replica_id == first.replica_id
        async with pool.acquire("prj", "chat") as third:
            assert third.replica_id == first.replica_id


async def test_count_survives_publishing_and_falls_after_an_error(pool: ReplicaPool) -> None:
    kept = slot("a")
    publish(pool, kept)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with pool.acquire("prj", "chat"):
            publish(pool, kept)
            assert kept.in_flight == 1
            raise ZeroDivisionError
    assert kept.in_flight == 0


async def test_replica_that_refused_a_connection_is_passed_over(pool: ReplicaPool) -> None:
    woken: list[bool] = []
    pool.on_wake(lambda: woken.append(True))
    bad, good = slot("bad"), slot("good")
    publish(pool, bad, good)
    with pytest.raises(aiohttp.ClientConnectionError):  # noqa: PT012
        async with pool.acquire("prj", "chat") as route:
            assert route.replica_id == "bad"
            raise aiohttp.ClientConnectionError
    assert woken
    for _ in range(3):
        async with pool.acquire("prj", "chat") as route:
            assert route.replica_id == "good"


async def test_other_projects_deployments_do_not_exist(pool: ReplicaPool) -> None:
    publish(pool, slot("a"), references=frozenset({"model@v1"}))
    for name in ("chat", "model@v1"):
        with pytest.raises(ModelNotFound):
            async with pool.acquire("prj_other", name):
                pass
    assert pool.snapshot("prj_other") == []
    assert [model.name for model in pool.snapshot("prj")] == ["chat"]


async def test_unknown_name_hints_at_near_ones(pool: ReplicaPool) -> None:
    publish(pool, slot("a"))
    with pytest.raises(ModelNotFound) as caught:
        async with pool.acquire("prj", "chta"):
            pass
    assert "Did you mean 'chat'?" in (caught.value.hint or "")
    assert caught.value.param == "model"


@pytest.mark.parametrize("state", [None, "failed", "stopped"])
async def test_nobody_is_refused_by_a_table_that_is_out_of_date(pool: ReplicaPool, state: Any) -> None:
    if state is not None:
        publish(pool, state=state)
    pool.expect(7)
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, pool.publish, {}, 6)
    loop.call_later(0.05, pool.publish, {("prj", "chat"): Target(MODEL, (slot("a"),))}, 7)
    async with pool.acquire("prj", "chat") as route:
        assert route.replica_id == "a"
    async with asyncio.timeout(1):
        with pytest.raises(ModelNotFound):
            async with pool.acquire("prj", "other"):
                pass


async def test_reference_of_the_served_version_reaches_it(pool: ReplicaPool) -> None:
    publish(pool, slot("a"), references=frozenset({"qwen@v3", "qwen@prod", "mdl_1"}))
    for name in ("qwen@v3", "qwen@prod", "mdl_1"):
        async with pool.acquire("prj", name) as route:
            assert route.name == "chat"
        assert pool.peek("prj", name) is not None
    assert pool.peek("prj", "qwen@v2") is None


async def test_request_waits_while_the_model_loads(pool: ReplicaPool) -> None:
    publish(pool, state="loading")

    async def ask() -> str | None:
        async with pool.acquire("prj", "chat") as route:
            return route.replica_id

    waiting = asyncio.create_task(ask())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    publish(pool, slot("a"))
    assert await waiting == "a"


async def test_waiting_ends_with_a_time_to_come_back(pool: ReplicaPool) -> None:
    publish(pool, state="loading")
    with pytest.raises(Unavailable) as caught:
        async with pool.acquire("prj", "chat", wait_s=0.05):
            pass
    assert caught.value.error_code == "model_loading"
    assert caught.value.retry_after_s


async def test_queue_is_bounded(pool: ReplicaPool) -> None:
    publish(pool, state="loading")

    async def ask() -> None:
        async with pool.acquire("prj", "chat"):
            pass

    waiting = [asyncio.create_task(ask()) for _ in range(2)]
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable) as caught:
        await ask()
    assert caught.value.error_code == "model_overloaded"
    publish(pool, slot("a"))
    await asyncio.gather(*waiting)
    await ask()


async def test_given_up_waiting_frees_its_place(pool: ReplicaPool) -> None:
    publish(pool, state="loading")
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02), pool.acquire("prj", "chat"):
                pass


async def test_failed_deployment_is_refused_at_once_with_the_reason(pool: ReplicaPool) -> None:
    publish(pool, state="failed", last_error="the weights do not fit")
    async with asyncio.timeout(1):
        with pytest.raises(Unavailable) as caught:
            async with pool.acquire("prj", "chat", wait_s=60):
                pass
    assert "the weights do not fit" in caught.value.message
    assert caught.value.error_code == "deployment_failed"


async def test_failure_while_waiting_ends_the_wait(pool: ReplicaPool) -> None:
    publish(pool, state="loading")

    async def ask() -> None:
        async with pool.acquire("prj", "chat"):
            pass

    waiting = asyncio.create_task(ask())
    await asyncio.sleep(0.05)
    publish(pool, state="failed", last_error="no")
    with pytest.raises(Unavailable, match="has failed: no"):
        await waiting


async def test_removal_while_waiting_is_not_found(pool: ReplicaPool) -> None:
    publish(pool, state="loading")

    async def ask() -> None:
        async with pool.acquire("prj", "chat"):
            pass

    waiting = asyncio.create_task(ask())
    await asyncio.sleep(0.05)
    pool.publish({})
    with pytest.raises(ModelNotFound):
        await waiting


async def test_stopped_deployment_says_so(pool: ReplicaPool) -> None:
    publish(pool, state="stopped")
    with pytest.raises(Unavailable, match="is stopped"):
        async with pool.acquire("prj", "chat"):
            pass
