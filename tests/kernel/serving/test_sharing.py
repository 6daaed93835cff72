"""What the processes of one server tell each other, over a real socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from tests.kernel.serving.test_pool import MODEL, ROUTE

from modelworks.contract.errors import ModelNotFound
from modelworks.kernel.base.events import Events
from modelworks.kernel.serving.pool import ReplicaPool
from modelworks.kernel.serving.sharing import Hub, Spoke, decode, encode
from modelworks.kernel.serving.target import Slot, Target

TABLE = {("prj", "chat"): Target(MODEL, (Slot("a", ROUTE, capacity=3),))}


@dataclass
class Pair:
    """The first process and a further one, in one event loop."""

    first: ReplicaPool
    first_events: Events
    hub: Hub
    further: ReplicaPool
    further_events: Events
    hang_up: Callable[[], None]


@asynccontextmanager
async def joined(hub: Hub, pool: ReplicaPool, events: Events) -> AsyncIterator[Callable[[], None]]:
    spoke = Spoke(pool, events)
    ours, theirs = socket.socketpair()
    attending = asyncio.create_task(hub.attend(*await asyncio.open_connection(sock=ours)))
    reader, writer = await asyncio.open_connection(sock=theirs)
    told = asyncio.Event()
    following = asyncio.create_task(spoke.attend(reader, writer, told.set))
    await asyncio.wait_for(told.wait(), 5)
    yield writer.close
    writer.close()
    await asyncio.wait_for(asyncio.gather(attending, following), 5)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    first, further, events, further_events = ReplicaPool(), ReplicaPool(), Events(), Events()
    hub = Hub(first, events)
    await first.start()
    await further.start()
    async with joined(hub, further, further_events) as hang_up:
        yield Pair(first, events, hub, further, further_events, hang_up)
    await first.close()
    await further.close()


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not look():
            await asyncio.sleep(0.005)


def test_a_table_survives_the_way_and_slots_stay_the_same() -> None:
    main, canary = Slot("a", ROUTE, capacity=3), Slot("c", replace(ROUTE, headers={"authorization": "Bearer x"}))
    adapter = Slot("a", replace(ROUTE, version_id="mdl_9"), parent=main)
    table = {
        ("prj", "chat"): Target(MODEL, (main,), references=frozenset({"m@v1"}), canary=(canary,), share=0.25),
        ("prj", "tuned"): Target(replace(MODEL, name="tuned"), (adapter,), queue="dep_0"),
        ("prj", "scene"): Target(replace(MODEL, name="scene", kind="static"), (), static=replace(ROUTE, kind="static")),
    }
    known: dict[str, Slot] = {}
    message = orjson.loads(orjson.dumps(encode(table, 7)))
    found = decode(message, known)
    assert found.keys() == table.keys()
    for key, target in table.items():
        for name in ("model", "static", "references", "share", "queue"):
            assert getattr(found[key], name) == getattr(target, name)
    got = found["prj", "chat"]
    assert (got.slots[0].route, got.slots[0].capacity) == (ROUTE, 3)
    assert got.canary[0].route.headers == {"authorization": "Bearer x"}
    assert found["prj", "tuned"].slots[0].parent is got.slots[0]
    assert decode(message, known)["prj", "chat"].slots[0] is got.slots[0]


async def test_what_is_published_is_known_everywhere_and_what_is_busy_is_told_back(pair: Pair) -> None:
    pair.first.publish(TABLE, 1)
    await until(lambda: pair.further.peek("prj", "chat") is not None)
    slot = TABLE["prj", "chat"].slots[0]
    async with pair.further.acquire("prj", "chat") as route:
        assert route == ROUTE
        await until(lambda: slot.busy == 1)
        assert slot.in_flight == 0
    await until(lambda: slot.busy == 0)
    async with pair.further.acquire("prj", "chat"):
        await until(lambda: slot.busy == 1)
        # A process that dies is busy no more.
        pair.hang_up()
        await until(lambda: slot.busy == 0)


async def test_announcements_go_to_every_process_once(pair: Pair) -> None:
    heard: list[tuple[str, Any]] = []
    third, third_events = ReplicaPool(), Events()
    await third.start()
    for name, events in (("first", pair.first_events), ("further", pair.further_events), ("third", third_events)):
        events.subscribe("key.changed", lambda _topic, payload, name=name: heard.append((name, payload)))  # type: ignore[misc]
    async with joined(pair.hub, third, third_events):
        for events in (pair.further_events, pair.first_events):
            heard.clear()
            events.publish("key.changed", key_id="key_1")
            await until(lambda: len(heard) >= 3)
            await asyncio.sleep(0.05)
            assert sorted(heard) == [(name, {"key_id": "key_1"}) for name in ("first", "further", "third")]
    await third.close()


async def test_a_name_is_unknown_only_when_the_first_process_says_so(pair: Pair) -> None:
    """Deployed a moment ago through another process: nobody has told this one yet."""
    announced: list[bool] = []

    def read_again(_topic: str, _payload: Any) -> None:
        announced.append(True)
        pair.first.expect(2)
        asyncio.get_running_loop().call_later(0.1, pair.first.publish, TABLE, 2)

    pair.first_events.subscribe("deployment.changed", read_again)
    async with pair.further.acquire("prj", "chat") as route:
        assert route.replica_id == ROUTE.replica_id
    assert announced
    with pytest.raises(ModelNotFound):
        async with pair.further.acquire("prj", "other"):
            pass


async def test_a_replica_that_refuses_a_connection_is_reported(pair: Pair) -> None:
    woken = asyncio.Event()
    pair.first.on_wake(woken.set)
    pair.further.wake_reconciler()
    await asyncio.wait_for(woken.wait(), 5)
