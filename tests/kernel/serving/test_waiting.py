"""Requests that wait for a free place: bounded, fair, given up at once, refused in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.kernel.serving.test_pool import MODEL, ROUTE

from modelworks.contract.errors import ModelNotFound, Unavailable
from modelworks.kernel.serving.pool import ReplicaPool
from modelworks.kernel.serving.queue import Turn
from modelworks.kernel.serving.target import Slot, Target


@pytest.fixture
async def pool() -> AsyncIterator[ReplicaPool]:
    made = ReplicaPool(max_queue=4, load_wait_s=20.0, queue_wait_s=20.0)
    await made.start()
    yield made
    await made.close()


def slot(name: str, capacity: int = 1, **route: Any) -> Slot:
    return Slot(name, replace(ROUTE, replica_id=name, **route), capacity=capacity)


def publish(pool: ReplicaPool, *slots: Slot, **model: Any) -> None:
    deployed = replace(MODEL, **model)
    pool.publish({(deployed.project_id, deployed.name): Target(deployed, slots)})


class Asked:
    """A request under way: `served` once it has a replica; it holds that until `end`."""

    def __init__(self, pool: ReplicaPool, caller: str = "key", order: list[str] | None = None, **more: Any) -> None:
        turn = Turn("prj", caller, background=more.pop("background", False), beyond=more.pop("beyond", False))
        self.turn = turn
        self.route: Any = None
        self._end = asyncio.Event()
        self._order = order
        self.task = asyncio.create_task(self._ask(pool.acquire("prj", "chat", turn=turn, **more), caller))

    async def _ask(self, acquisition: Any, caller: str) -> None:
        async with acquisition as route:
            self.route = route
            if self._order is not None:
                self._order.append(caller)
                return
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not look():
            await asyncio.sleep(0)


async def full(pool: ReplicaPool, *slots: Slot) -> Asked:
    """A deployment of one place, which is taken."""
    publish(pool, *(slots or (slot("a"),)))
    first = Asked(pool)
    await until(lambda: first.route is not None)
    return first


async def test_a_full_replica_is_given_the_next_request_when_one_is_over(pool: ReplicaPool) -> None:
    first = await full(pool)
    second, third = Asked(pool), Asked(pool)
    await until(lambda: pool.waiting() == {"chat": 2})
    await first.end()
    await until(lambda: second.route is not None)
    assert third.route is None
    assert pool.waiting() == {"chat": 1}
    await second.end()
    await until(lambda: third.route is not None)
    await third.end()
    assert pool.waiting() == {}


async def test_nobody_overtakes_those_who_wait(pool: ReplicaPool) -> None:
    place = slot("a")
    first = await full(pool, place)
    order: list[str] = []
    waiting = [Asked(pool, str(number), order) for number in range(3)]
    await until(lambda: pool.waiting() == {"chat": 3})
    await first.end()
    late = Asked(pool, "late", order)
    await asyncio.gather(late.task, *(each.task for each in waiting))
    assert order == ["0", "1", "2", "late"]
    assert place.in_flight == 0


async def test_a_caller_with_many_waiting_does_not_starve_one(pool: ReplicaPool) -> None:
    first = await full(pool)
    order: list[str] = []
    many = [Asked(pool, "many", order) for _ in range(3)]
    one = Asked(pool, "one", order)
    batch = Asked(pool, "one", order, background=True)
    await until(lambda: pool.waiting() == {"chat": 5})
    await first.end()
    await asyncio.gather(one.task, batch.task, *(each.task for each in many))
    assert order.index("one") <= 1
    assert order[-1] == "one"
    assert len(order) == 5


async def test_the_queue_is_bounded_and_says_when_to_come_back(pool: ReplicaPool) -> None:
    first = await full(pool)
    waiting = [Asked(pool) for _ in range(4)]
    await until(lambda: pool.waiting() == {"chat": 4})
    with pytest.raises(Unavailable) as caught:
        await Asked(pool).task
    assert caught.value.error_code == "model_overloaded"
    assert caught.value.retry_after_s
    assert pool.waiting() == {"chat": 4}
    await first.end()
    for each in waiting:
        await each.end()


async def test_a_newcomer_takes_the_place_of_the_newest_of_many(pool: ReplicaPool) -> None:
    first = await full(pool)
    many = [Asked(pool, "many") for _ in range(4)]
    await until(lambda: pool.waiting() == {"chat": 4})
    one = Asked(pool, "one")
    with pytest.raises(Unavailable, match="is busy"):
        await many[-1].task
    assert not many[0].task.done()
    await first.end()
    await until(lambda: many[0].route is not None)
    await many[0].end()
    await until(lambda: one.route is not None)
    await one.end()
    for each in many[1:3]:
        await each.end()


async def test_whoever_goes_away_frees_its_place_in_the_queue(pool: ReplicaPool) -> None:
    place = slot("a")
    first = await full(pool, place)
    gone, stays = Asked(pool), Asked(pool)
    await until(lambda: pool.waiting() == {"chat": 2})
    gone.task.cancel()
    await until(lambda: pool.waiting() == {"chat": 1})
    # One that goes away in the moment in which it is served leaves its place to the next.
    first._end.set()
    await until(lambda: stays.turn is not None and place.in_flight <= 1 and first.task.done())
    await until(lambda: stays.route is not None)
    late = Asked(pool)
    next_one = Asked(pool)
    await until(lambda: pool.waiting() == {"chat": 2})
    stays._end.set()
    await until(lambda: pool.waiting() == {"chat": 1})
    late.task.cancel()
    await until(lambda: next_one.route is not None)
    assert late.route is None
    await next_one.end()
    assert place.in_flight == 0


async def test_a_request_that_waited_in_vain_is_told_so(pool: ReplicaPool) -> None:
    pool._room._queue_wait_s = 0.05
    first = await full(pool)
    with pytest.raises(Unavailable, match="no place became free") as caught:
        await Asked(pool).task
    assert caught.value.error_code == "model_overloaded"
    # The background has more patience.
    batch = Asked(pool, background=True)
    await asyncio.sleep(0.15)
    assert not batch.task.done()
    await first.end()
    await batch.end()


async def test_parts_of_a_request_that_was_let_in_wait_for_no_place(pool: ReplicaPool) -> None:
    first = await full(pool)
    waits = Asked(pool)
    await until(lambda: pool.waiting() == {"chat": 1})
    part = Asked(pool, beyond=True)
    await until(lambda: part.route is not None)
    await part.end()
    assert waits.route is None
    await first.end()
    await waits.end()


async def test_time_in_the_queue_counts_from_when_the_model_is_ready(pool: ReplicaPool) -> None:
    pool._room._queue_wait_s = 0.2
    publish(pool, state="loading")
    asked = [Asked(pool), Asked(pool)]
    await asyncio.sleep(0.3)
    assert not any(each.task.done() for each in asked)
    publish(pool, slot("a"))
    await until(lambda: asked[0].route is not None)
    assert not asked[1].task.done()
    with pytest.raises(Unavailable, match="no place became free"):
        await asked[1].task
    await asked[0].end()


@pytest.mark.parametrize("state", ["failed", "stopped", None])
async def test_whoever_waits_for_a_place_hears_that_there_will_be_none(pool: ReplicaPool, state: str | None) -> None:
    first = await full(pool)
    waits = Asked(pool)
    await until(lambda: pool.waiting() == {"chat": 1})
    if state is None:
        pool.publish({})
    else:
        publish(pool, state=state, last_error="no memory")
    with pytest.raises(ModelNotFound if state is None else Unavailable):
        await waits.task
    await first.end()


async def test_closing_refuses_those_who_wait(pool: ReplicaPool) -> None:
    first = await full(pool)
    waits = Asked(pool)
    await until(lambda: pool.waiting() == {"chat": 1})
    await pool.close()
    with pytest.raises(Unavailable, match="stopping"):
        await waits.task
    await first.end()


async def test_more_replicas_serve_those_who_wait(pool: ReplicaPool) -> None:
    place = slot("a")
    first = await full(pool, place)
    waiting = [Asked(pool) for _ in range(3)]
    await until(lambda: pool.waiting() == {"chat": 3})
    publish(pool, place, slot("b", capacity=2))
    await until(lambda: sum(each.route is not None for each in waiting) == 2)
    assert {each.route.replica_id for each in waiting if each.route} == {"b"}
    for each in (first, *waiting):
        await each.end()


async def test_adapters_of_a_replica_share_its_places_and_its_queue(pool: ReplicaPool) -> None:
    base = slot("a")
    adapter = Slot("a", replace(ROUTE, replica_id="a", version_id="mdl_2"), parent=base)
    other = replace(MODEL, name="tuned")
    pool.publish({("prj", "chat"): Target(MODEL, (base,)), ("prj", "tuned"): Target(other, (adapter,))})
    first = Asked(pool)
    await until(lambda: first.route is not None)

    async def ask_tuned() -> str | None:
        async with pool.acquire("prj", "tuned") as route:
            return route.version_id

    tuned = asyncio.create_task(ask_tuned())
    await until(lambda: pool.waiting() == {"tuned": 1})
    await first.end()
    assert await tuned == "mdl_2"
    assert base.in_flight == 0


async def test_a_canary_that_is_full_keeps_its_share_and_serves_it_later(pool: ReplicaPool) -> None:
    main, canary = slot("main", capacity=5), slot("canary", deployment_id="dep_canary")
    own = replace(MODEL, name="chat-canary", deployment_id="dep_canary")
    pool.publish(
        {
            ("prj", "chat"): Target(MODEL, (main,), canary=(canary,), share=1.0),
            ("prj", "chat-canary"): Target(own, (canary,), queue="dep_1"),
        }
    )
    first, second = Asked(pool, split_by="u"), Asked(pool, split_by="u")
    await until(lambda: pool.waiting() == {"chat": 1})
    await first.end()
    await until(lambda: second.route is not None)
    assert second.route.replica_id == "canary"
    await second.end()
