"""Adapters on a deployment: wished for, loaded, routed to, followed, unloaded; with a real replica's process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from tests.kernel.serving.room import PROJECT, Room, wait_until

from modelworks.contract.errors import Conflict, InvalidRequest, ModelNotFound, NotFound, Unavailable
from modelworks.contract.media import File
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog import Version
from modelworks.kernel.serving import reconciler as reconciler_module
from modelworks.kernel.serving.schemas import Adapter, AdapterCreate
from modelworks.kernel.serving.store import AdapterRow


def trained(room: Room, name: str, greeting: str, base: Version) -> Version:
    """A version that says of itself that it is an adapter of `base`."""
    info = room.blobs.put(greeting.encode())
    files = [File(path="greeting.txt", digest=info.digest, num_bytes=info.num_bytes)]
    record = {"base": base.ref, "base_digest": base.digest}
    with room.db.transaction() as session:
        return room.catalog.register(
            session, PROJECT, kind="model", name=name, files=files, task="echo", metadata={"adapter": record}, source=greeting
        )


def add(room: Room, model: str, name: str | None = None, deployment: str = "toy", **more: Any) -> Adapter:
    with room.db.transaction() as session:
        wish = AdapterCreate(deployment=deployment, model=model, name=name)
        return room.service.adapters.add(session, PROJECT, wish, **more)


def remove(room: Room, name: str) -> None:
    with room.db.transaction() as session:
        room.service.adapters.remove(session, PROJECT, name)


def adapters(room: Room) -> dict[str, Adapter]:
    with room.db.reading() as session:
        return {each.name: each for each in room.service.adapters.list(session, PROJECT)}


async def state(room: Room, name: str, wanted: str) -> Adapter:
    def look() -> Adapter | None:
        found = adapters(room).get(name)
        return found if found is not None and found.state == wanted else None

    found: Adapter = await asyncio.to_thread(wait_until, look, f"{name} {wanted}")
    return found


@pytest.fixture
def base(room: Room) -> Version:
    version = room.register("base ")
    room.apply(model="greeter", engine="hosting")
    return version


async def test_adapters_answer_beside_the_base_and_are_described(room: Room, base: Version) -> None:
    ours = trained(room, "polite", "please ", base)
    trained(room, "rude", "now ", base)
    assert add(room, "polite").state == "loading"
    add(room, "rude", "team/rude:1")
    # No waiting in between: the request waits for the adapter.
    assert (await room.invoke("polite", text="sit"))["text"] == "please sit"
    assert (await room.invoke("team/rude:1", text="sit"))["text"] == "now sit"
    assert (await room.invoke(text="sit"))["text"] == "base sit"
    assert (await room.invoke("polite@v1", text="x"))["text"] == "please x"
    assert (await room.invoke(ours.id, text="x"))["text"] == "please x"
    now = await state(room, "polite", "ready")
    assert (now.deployment, now.model, now.version_id) == ("toy", "polite", ours.id)
    shown = {model.name: model for model in room.pool.snapshot(PROJECT)}
    assert set(shown) == {"toy", "polite", "team/rude:1"}
    assert (shown["polite"].root, shown["polite"].parent) == ("polite@v1", "toy")
    assert shown["polite"].state == "ready"
    async with room.pool.acquire(PROJECT, "polite") as route:
        assert route.version_id == ours.id
    with room.db.reading() as session:
        graph = room.catalog.lineage(session, PROJECT, ours.id)
    assert (room.get().id, "deployed", ours.id) in [(e.subject_id, e.relation, e.object_id) for e in graph.edges]
    with room.db.transaction() as session, pytest.raises(Conflict, match="as the adapter 'polite'"):
        room.catalog.remove(session, PROJECT, "polite@v1")
    # The same wish again loads nothing.
    add(room, "polite")
    await asyncio.sleep(0.3)
    assert (await room.invoke(text="", action="list"))["text"].endswith("['now ', 'please '] ")


async def test_wishes_made_before_the_replica_is_ready_are_loaded_together(room: Room, base: Version) -> None:
    for number in range(4):
        trained(room, f"a{number}", f"{number} ", base)
        add(room, f"a{number}")
    for number in range(4):
        assert (await room.invoke(f"a{number}", text=""))["text"] == f"{number} "
    assert int((await room.invoke(text="", action="list"))["text"].split()[0]) <= 2


async def test_removal_finishes_what_is_under_way(room: Room, base: Version) -> None:
    trained(room, "polite", "please ", base)
    add(room, "polite")
    await room.invoke("polite", text="")
    long = asyncio.create_task(room.invoke("polite", text="sit", delay_s=1.5))
    await asyncio.sleep(0.2)
    remove(room, "polite")
    await asyncio.to_thread(wait_until, lambda: room.pool.peek(PROJECT, "polite") is None, "it is taken out of the table")
    with pytest.raises(ModelNotFound):
        await room.invoke("polite", text="", wait_s=0.0)
    assert "please" in (await room.invoke(text="", action="list"))["text"]
    assert await long == {"text": "please sit", "pid": (await long)["pid"], "status": 200}

    def rows() -> list[AdapterRow]:
        with room.db.reading() as session:
            return [*session.scalars(select(AdapterRow))]

    await asyncio.to_thread(wait_until, lambda: not rows(), "the row is gone")
    assert (await room.invoke(text="", action="list"))["text"].endswith("[] ")
    with pytest.raises(NotFound):
        remove(room, "polite")


async def test_a_moved_alias_is_followed_without_a_failed_request(room: Room, base: Version) -> None:
    first = trained(room, "polite", "one", base)
    room.alias("polite@v1", "prod")
    add(room, "polite@prod", "live")
    assert (await room.invoke("live", text=""))["text"] == "one"
    answers: list[str] = []
    done = asyncio.Event()

    async def keep_asking() -> None:
        while not done.is_set():
            answer = await room.invoke("live", text="", wait_s=1.0)
            assert answer["status"] == 200
            answers.append(answer["text"])
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(keep_asking())
    trained(room, "polite", "two", base)
    room.alias("polite@v2", "prod")

    def moved() -> bool:
        return adapters(room)["live"].version_id not in (None, first.id)

    await asyncio.to_thread(wait_until, moved, "the new version answers")
    await asyncio.sleep(0.6)
    done.set()
    await asking
    assert answers == sorted(answers)
    assert answers[-1] == "two"
    while not (await room.invoke(text="", action="list"))["text"].endswith("['two'] "):
        await asyncio.sleep(0.05)


async def test_a_replica_that_ends_gets_its_adapters_again(room: Room, base: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "BACKOFF_S", (0.05, 60.0))
    trained(room, "polite", "please ", base)
    add(room, "polite")
    before = (await room.invoke("polite", text=""))["pid"]
    with pytest.raises(Exception, match="disconnected"):
        await room.invoke("polite", text="", action="crash")
    after = await room.invoke("polite", text="")
    assert after["text"] == "please "
    assert after["pid"] != before


async def test_the_next_server_brings_them_back(make_room: Callable[..., Room], database: Database) -> None:
    first = make_room(database)
    base = first.register("base ")
    trained(first, "polite", "please ", base)
    first.apply(model="greeter", engine="hosting")
    add(first, "polite")
    await first.pool.start()
    first.reconciler.start()
    assert (await first.invoke("polite", text=""))["text"] == "please "
    first.reconciler.close()
    await first.pool.close()
    second = make_room(database)
    await second.pool.start()
    second.reconciler.start()
    assert (await second.invoke("polite", text=""))["text"] == "please "
    await second.pool.close()


async def test_a_refused_adapter_shows_its_reason_and_leaves_the_others(room: Room, base: Version) -> None:
    trained(room, "empty", "zero", base)
    trained(room, "polite", "please ", base)
    add(room, "empty")
    add(room, "polite")
    assert (await room.invoke("polite", text=""))["text"] == "please "
    failed = await state(room, "empty", "failed")
    assert failed.last_error == "empty@v1 changes nothing. Train it."
    with pytest.raises(Unavailable, match="changes nothing"):
        await room.invoke("empty", text="")
    assert (await room.invoke(text="x"))["text"] == "base x"
    # Wished for again, it is tried again at once.
    loads = int((await room.invoke(text="", action="list"))["text"].split()[0])
    add(room, "empty")

    async def tried() -> bool:
        return int((await room.invoke(text="", action="list"))["text"].split()[0]) > loads

    while not await tried():
        await asyncio.sleep(0.05)


async def test_what_cannot_be_added_is_refused_before_anything_is_loaded(room: Room, base: Version) -> None:
    other = room.register("other", name="other-base")
    trained(room, "foreign", "x", other)
    trained(room, "polite", "please ", base)
    with pytest.raises(InvalidRequest) as refused:
        add(room, "foreign")
    assert refused.value.error_code == "adapter_of_another_base"
    assert other.ref in refused.value.message
    assert base.ref in refused.value.message
    with pytest.raises(InvalidRequest, match="is no adapter"):
        add(room, "other-base")
    with pytest.raises(NotFound):
        add(room, "polite", deployment="nowhere")
    with pytest.raises(Conflict, match="taken by a deployment"):
        add(room, "polite", "toy")
    assert add(room, "polite", dry_run=True).name == "polite"
    assert adapters(room) == {}
    add(room, "polite")
    with pytest.raises(Conflict, match="taken by an adapter"):
        room.apply("polite", model="greeter")
    room.apply("far", base_url="http://93.184.216.34/v1")
    with pytest.raises(InvalidRequest, match="takes no adapters"):
        add(room, "polite", "again", "far")


async def test_an_engine_without_adapters_says_so(room: Room) -> None:
    base = room.register("base ")
    trained(room, "polite", "please ", base)
    room.apply(model="greeter", engine="plain")
    add(room, "polite")
    failed = await state(room, "polite", "failed")
    assert "holds no adapters" in str(failed.last_error)
    assert not room.get().holds_adapters
    with room.db.reading() as session:
        assert room.service.adapters.host_of(session, PROJECT, "polite") is None


async def test_the_deployment_that_takes_an_adapter_is_found(room: Room, base: Version) -> None:
    trained(room, "polite", "please ", base)
    await room.invoke(text="")
    await asyncio.to_thread(wait_until, lambda: room.get().holds_adapters, "it says that it holds adapters")
    with room.db.reading() as session:
        assert room.service.adapters.host_of(session, PROJECT, "polite") == "toy"
        assert room.service.adapters.host_of(session, PROJECT, "greeter") is None


async def test_a_busy_adapter_counts_on_its_replica(room: Room, base: Version) -> None:
    trained(room, "polite", "please ", base)
    room.apply(model="greeter", engine="hosting", num_replicas=2)
    # One that is not ready yet takes no request, and the adapter is ready where all that are have it.
    await asyncio.to_thread(wait_until, lambda: room.get().state == "ready", "both replicas are ready")
    add(room, "polite")
    await state(room, "polite", "ready")
    long = [asyncio.create_task(room.invoke("polite", text="", delay_s=1.0)) for _ in range(2)]
    pids = {(await each)["pid"] for each in long}
    assert len(pids) == 2
