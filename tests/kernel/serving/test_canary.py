"""A candidate answers a share of a deployment's requests: with real processes, and the split by counting."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.kernel.serving.room import PROJECT, Room, wait_until

from modelworks.contract.errors import Conflict, InvalidRequest, ModelNotFound, NotFound
from modelworks.kernel.serving.schemas import CanaryCreate
from modelworks.kernel.serving.target import falls_to_canary


def start(room: Room, model: str, share: float = 0.3, name: str = "toy") -> Any:
    with room.db.transaction() as session:
        return room.service.start_canary(session, PROJECT, name, CanaryCreate(model=model, share=share))


def end(room: Room, name: str = "toy") -> Any:
    with room.db.transaction() as session:
        return room.service.end_canary(session, PROJECT, name)


async def until(room: Room, name: str, state: str) -> Any:
    return await asyncio.to_thread(
        wait_until, lambda: ((found := room.get(name)).state == state and found) or None, f"{name} is {state}"
    )


async def gone(room: Room, name: str) -> None:
    def look() -> bool:
        try:
            room.get(name)
        except NotFound:
            return True
        return False

    await asyncio.to_thread(wait_until, look, f"{name} is gone")


async def answered(room: Room, user: str) -> str:
    async with room.pool.acquire(PROJECT, "toy", split_by=user) as route:
        return str((await room.post(route, "/invoke", {"text": "x"}))["text"])


def test_the_share_is_what_was_asked_for_and_the_same_again() -> None:
    users = [f"user {number}" for number in range(20_000)]
    for share in (0.01, 0.1, 0.5):
        found = {user for user in users if falls_to_canary("dep_1", user, share)}
        # Four standard deviations of a binomial distribution; the hash makes it the same each time.
        assert abs(len(found) - share * len(users)) < 4 * (share * (1 - share) * len(users)) ** 0.5
        assert found == {user for user in users if falls_to_canary("dep_1", user, share)}
        # A share that grows takes nobody back, and another deployment's canary has other users.
        assert found <= {user for user in users if falls_to_canary("dep_1", user, share + 0.2)}
        assert found != {user for user in users if falls_to_canary("dep_2", user, share)}


async def test_a_candidate_answers_its_share_until_it_is_promoted(room: Room) -> None:
    first, second = room.register("old "), room.register("new ")
    room.alias("greeter@v1", "prod")
    room.apply(model="greeter@prod")
    await until(room, "toy", "ready")
    users = [f"u{number}" for number in range(60)]
    deployment_id = room.get().id
    expected = {user: "new x" if falls_to_canary(deployment_id, user, 0.3) else "old x" for user in users}
    assert set(expected.values()) == {"new x", "old x"}

    canary = start(room, "greeter@v2")
    assert (canary.name, canary.canary_of, canary.share, canary.model) == ("toy.canary", "toy", 0.3, second.id)
    # While it loads, the deployment answers everybody.
    assert await answered(room, next(user for user in users if expected[user] == "new x")) in ("old x", "new x")
    await until(room, "toy.canary", "ready")
    for _ in range(2):
        assert {user: await answered(room, user) for user in users} == expected
    async with room.pool.acquire(PROJECT, "greeter@prod", split_by=next(u for u in users if expected[u] == "new x")) as route:
        assert route.version_id == second.id, "a reference of the deployment's is split like its name"
    mixed = Counter([(await room.invoke(text="x"))["text"] for _ in range(60)])
    assert set(mixed) == {"old x", "new x"}, "requests that say nothing of themselves are split by chance"

    # The alias moves: no request fails, and the canary goes by itself once the deployment has its version.
    failures: list[Exception] = []
    stopping = asyncio.Event()

    async def load() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            try:
                assert await answered(room, f"w{number}") in ("old x", "new x")
            except Exception as error:
                failures.append(error)

    asking = asyncio.create_task(load())
    room.alias("greeter@v2", "prod")
    await gone(room, "toy.canary")
    assert room.get().version_id == second.id
    stopping.set()
    await asking
    assert failures == []
    assert {await answered(room, user) for user in users[:10]} == {"new x"}
    assert first.id != second.id


async def test_a_canary_that_is_ended_gives_its_share_back(room: Room) -> None:
    room.register("old ")
    room.register("new ")
    room.apply(model="greeter@v1")
    await until(room, "toy", "ready")
    start(room, "greeter@v2", 0.99)
    await until(room, "toy.canary", "ready")
    assert "new x" in {await answered(room, f"u{number}") for number in range(20)}
    assert start(room, "greeter@v2", 0.01).share == 0.01, "the share can be changed"
    end(room)
    assert {await answered(room, f"u{number}") for number in range(20)} <= {"old x", "new x"}
    await gone(room, "toy.canary")
    # It is hidden from that moment; its share goes back with the reconciler's next turn.
    for _ in range(200):
        found = {await answered(room, f"u{number}") for number in range(20)}
        if found == {"old x"}:
            break
        await asyncio.sleep(0.05)
    assert found == {"old x"}
    with pytest.raises(NotFound) as refused:
        end(room)
    assert refused.value.error_code == "no_canary"


async def test_a_canary_that_fails_takes_nothing(room: Room) -> None:
    room.register("old ")
    room.register("new ")
    room.apply(model="greeter@v1")
    await until(room, "toy", "ready")
    start(room, "greeter@v2", 0.99)
    await until(room, "toy.canary", "ready")
    with room.db.transaction() as session:
        room.service.stop(session, PROJECT, "toy.canary")
    await until(room, "toy.canary", "stopped")
    assert {await answered(room, f"u{number}") for number in range(20)} == {"old x"}
    room.remove("toy")
    await gone(room, "toy.canary")


async def test_what_can_have_no_canary(room: Room) -> None:
    room.register("old ")
    room.register("new ")
    room.apply(model="greeter@v1")
    for model, name, error in (
        ("greeter@v9", "toy", NotFound),
        ("nobody", "toy", ModelNotFound),
        ("greeter@v2", "nothing", NotFound),
    ):
        with pytest.raises(error):
            start(room, model, name=name)
    start(room, "greeter@v2")
    with pytest.raises(InvalidRequest, match="cannot have a canary"):
        start(room, "greeter@v2", name="toy.canary")
    end(room)
    await gone(room, "toy.canary")
    room.apply(name="toy.canary", model="greeter@v1")
    with pytest.raises(Conflict, match="already"):
        start(room, "greeter@v2")
