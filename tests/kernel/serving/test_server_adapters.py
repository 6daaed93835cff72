"""Adapters beside a server that speaks OpenAI's protocol: loaded by the process above it, asked for by `model`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
from tests.kernel.serving.room import PROJECT, Room, wait_until
from tests.kernel.serving.test_adapters import adapters, add, remove, state, trained

from modelworks.contract.errors import Unavailable
from modelworks.kernel.catalog import Version
from modelworks.kernel.serving import reconciler as reconciler_module


async def ask(room: Room, name: str, **request: Any) -> dict[str, Any]:
    """One request as the gateway relays it."""
    async with room.pool.acquire(PROJECT, name, 30.0) as route:
        assert route.kind == "openai"
        return await room.post(route, "/chat/completions", request | {"model": route.upstream_model})


@pytest.fixture
def base(room: Room) -> Version:
    version = room.register("base ")
    room.apply(model="greeter", engine="hosting-openai")
    return version


async def test_they_answer_beside_the_base_and_are_described(room: Room, base: Version) -> None:
    ours = trained(room, "polite", "please ", base)
    add(room, "polite")
    told = await ask(room, "polite")
    assert (told["greeting"], told["model"]) == ("please ", ours.id)
    # The token of the process above opens its port for adapters: the server itself never sees it.
    assert told["authorization"] is None
    assert (await ask(room, "toy"))["model"] == "inner-name"
    assert (await ask(room, "polite@v1"))["greeting"] == "please "
    await state(room, "polite", "ready")
    shown = {model.name: model for model in room.pool.snapshot(PROJECT)}
    assert (shown["polite"].kind, shown["polite"].root, shown["polite"].parent) == ("openai", "polite@v1", "toy")
    await asyncio.to_thread(wait_until, lambda: room.get().holds_adapters, "it says that it holds adapters")
    with room.db.reading() as session:
        assert room.service.adapters.host_of(session, PROJECT, "polite") == "toy"


async def test_requests_run_on_while_others_are_loaded_and_unloaded(room: Room, base: Version) -> None:
    trained(room, "polite", "please ", base)
    trained(room, "rude", "now ", base)
    add(room, "polite")
    await ask(room, "polite")
    under_way = [asyncio.create_task(ask(room, name, delay_s=1.5)) for name in ("polite", "toy")]
    await asyncio.sleep(0.2)
    add(room, "rude")
    assert (await ask(room, "rude"))["greeting"] == "now "
    remove(room, "polite")
    await asyncio.to_thread(wait_until, lambda: room.pool.peek(PROJECT, "polite") is None, "it is taken out of the table")
    assert (await ask(room, "toy"))["adapters"] == ["now ", "please "]
    assert not any(task.done() for task in under_way)
    assert [(await task)["status"] for task in under_way] == [200, 200]
    while (await ask(room, "toy"))["adapters"] != ["now "]:
        await asyncio.sleep(0.05)


async def test_they_come_back_with_a_killed_server(room: Room, base: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "BACKOFF_S", (0.05, 60.0))
    trained(room, "polite", "please ", base)
    add(room, "polite")
    before = (await ask(room, "polite"))["pid"]
    psutil.Process(before).kill()
    after: dict[str, Any] = {"pid": before}
    while after["pid"] == before:
        with contextlib.suppress(aiohttp.ClientError):
            after = await ask(room, "polite")
    assert after["greeting"] == "please "


async def test_a_refused_one_shows_its_reason(room: Room, base: Version) -> None:
    trained(room, "empty", "zero", base)
    add(room, "empty")
    assert (await state(room, "empty", "failed")).last_error == "empty@v1 changes nothing. Train it."
    with pytest.raises(Unavailable, match="changes nothing"):
        await ask(room, "empty")
    assert (await ask(room, "toy"))["adapters"] == []


async def test_only_who_knows_the_token_loads(room: Room, base: Version) -> None:
    await ask(room, "toy")
    [folder] = (room.settings.home / "serving").iterdir()
    port = json.loads((folder / "status.json").read_text())["adapters_port"]
    for headers in ({}, {"Authorization": "Bearer guess"}):
        answer = httpx.post(f"http://127.0.0.1:{port}/adapters", json={}, headers=headers, trust_env=False)
        assert answer.status_code == 401
    token = json.loads((folder / "spec.json").read_text())["token"]
    answer = httpx.post(
        f"http://127.0.0.1:{port}/adapters", json={}, headers={"Authorization": f"Bearer {token}"}, trust_env=False
    )
    assert (answer.status_code, answer.json()) == (200, {"refused": {}})


async def test_a_server_without_room_for_them_says_so(room: Room) -> None:
    base = room.register("base ")
    trained(room, "polite", "please ", base)
    room.apply(model="greeter", engine="fake-openai")
    add(room, "polite")
    assert "holds no adapters" in str((await state(room, "polite", "failed")).last_error)
    assert adapters(room)["polite"].version_id is None
