"""Servers elsewhere: watched, authorised, and never a way into private networks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator

import aiohttp
import pytest
from tests.kernel.serving.room import PROJECT, TOYS, Room, wait_until

from modelworks.contract.errors import Unavailable
from modelworks.kernel.access import Sealer, SecretService
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.serving.backends.choice import make_backends
from modelworks.kernel.serving.backends.remote import RemoteBackend
from modelworks.kernel.serving.resolver import GuardedResolver


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch, toys: None) -> Iterator[str]:
    """A server that wants the key `secret`."""
    monkeypatch.setenv("TOY_KEY", "secret")
    server = subprocess.Popen([sys.executable, str(TOYS / "serving_toys" / "openai_server.py"), "0"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    server.kill()
    server.wait()
    server.stdout.close()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"egress_allow": ["127.0.0.1"]})


async def test_upstream_server_is_reached_with_its_key(room: Room, upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", "secret")
    room.apply(base_url=upstream, upstream_model="gpt-x", api_key_env="TOY_API_KEY")
    async with room.pool.acquire(PROJECT, "toy", 30) as route:
        assert (route.kind, route.engine, route.upstream_model) == ("openai", "upstream", "gpt-x")
        assert route.base_url == upstream
        assert route.headers == {"Authorization": "Bearer secret"}
        answer = await room.post(route, "/chat/completions", {"model": "gpt-x"})
    assert answer["model"] == "gpt-x"


async def test_the_key_may_be_a_sealed_secret_of_the_project(room: Room, upstream: str) -> None:
    secrets = SecretService(room.db, SystemClock(), Sealer.from_file(room.settings.effective_secret_key_file))
    with room.db.transaction() as session:
        secrets.put(session, PROJECT, "toy-server", "secret")
        secrets.put(session, "prj_other", "theirs", "secret")
    applied = room.apply(base_url=upstream, upstream_model="gpt-x", api_key_secret="toy-server")
    assert (applied.api_key_env, applied.api_key_secret) == (None, "toy-server")
    async with room.pool.acquire(PROJECT, "toy", 30) as route:
        assert route.headers == {"Authorization": "Bearer secret"}
    room.apply(base_url=upstream, api_key_secret="theirs")

    def told() -> bool:
        return any("no secret 'theirs'" in (replica.last_error or "") for replica in room.get().replicas)

    await asyncio.to_thread(wait_until, told, "the secret of another project does not exist")


@pytest.mark.parametrize(("key", "words"), [(None, "TOY_API_KEY is not set"), ("wrong", "refuses our key (HTTP 401)")])
async def test_refused_key_is_told(
    room: Room, upstream: str, monkeypatch: pytest.MonkeyPatch, key: str | None, words: str
) -> None:
    if key is not None:
        monkeypatch.setenv("TOY_API_KEY", key)
    room.apply(base_url=upstream, api_key_env="TOY_API_KEY")

    def told() -> bool:
        return any(words in (replica.last_error or "") for replica in room.get().replicas)

    await asyncio.to_thread(wait_until, told, "the reason is told")
    if key is not None:
        with pytest.raises(Unavailable, match="refuses our key"):
            await room.invoke(text="")


async def test_absent_upstream_server_is_told(room: Room) -> None:
    room.apply(base_url="http://127.0.0.1:9/v1")

    def told() -> bool:
        return any("does not answer" in (replica.last_error or "") for replica in room.get().replicas)

    await asyncio.to_thread(wait_until, told, "the reason is told")


def test_probe_refuses_what_became_private(settings: Settings, make_room: Callable[..., Room]) -> None:
    room = make_room()
    room.apply(base_url="http://127.0.0.1:9/v1")
    made = make_room(upstream=RemoteBackend([]))
    made.reconciler.start()
    wait_until(lambda: room.get().state == "failed", "it is refused")
    assert "not on the public network" in (room.get().last_error or "")


async def test_name_that_leads_into_a_private_network_is_refused_when_connecting() -> None:
    for allow, words in (([], "public network"), (["localhost"], "refused")):
        connector = aiohttp.TCPConnector(resolver=GuardedResolver(allow))
        async with aiohttp.ClientSession(connector=connector) as client:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await client.get("http://localhost:9/")
            assert words in f"{caught.value.os_error} {type(caught.value.os_error).__name__}".lower()


def test_back_ends_follow_the_settings(settings: Settings) -> None:
    local = make_backends(settings)
    assert local["predictor"] is local["openai"]
    changes = {"serving_backend": "ray-serve", "ray_address": "http://h:8265", "ray_serve_url": "http://h:8000"}
    ray = make_backends(settings.model_copy(update=changes))
    assert ray["predictor"].outlives
    assert not ray["openai"].outlives
    with pytest.raises(Exception, match="where the cluster is"):
        make_backends(settings.model_copy(update=changes | {"ray_serve_url": None}))
