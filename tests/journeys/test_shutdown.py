"""A server that is told to stop while it answers: what is under way is finished, what is new is refused, and it ends well."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from tests.journeys.platform_process import PlatformProcess
from tests.journeys.slow_upstream import SlowUpstream

from modelworks.kernel.gateway.middleware import Edge
from modelworks.kernel.gateway.shutdown import Drain, DrainingServer

CHAT: dict[str, Any] = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}]}


class Streaming:
    """A streamed answer, read in a thread; `text` grows."""

    def __init__(self, platform: PlatformProcess) -> None:
        self.text = ""
        self.begun = threading.Event()
        self.failed: Exception | None = None
        self._asked = (platform.url, platform.key)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        url, key = self._asked
        headers = {"authorization": f"Bearer {key}"}
        body = {**CHAT, "stream": True}
        try:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60) as response:
                for line in response.iter_lines():
                    self.text += line + "\n"
                    if "begun" in line:
                        self.begun.set()
        except httpx.HTTPError as error:
            self.failed = error

    def read_to_end(self) -> str:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.text


@pytest.fixture
def upstream() -> Iterator[SlowUpstream]:
    with SlowUpstream() as made:
        yield made


def deploy(platform: PlatformProcess, upstream: SlowUpstream) -> None:
    with platform.client() as client:
        client.deployments.apply("slow", base_url=upstream.url)


def recorded(home: Path) -> list[tuple[int, int]]:
    with contextlib.closing(sqlite3.connect(home / "modelworks.db")) as database:
        return [*database.execute("SELECT status, aborted FROM usage_requests ORDER BY id")]


def until(look: Any, what: str) -> Any:
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def test_an_answer_under_way_is_finished_and_new_ones_are_refused(tmp_path: Path, upstream: SlowUpstream) -> None:
    with PlatformProcess(tmp_path / "home", egress_allow='["127.0.0.1"]', log_level="warning") as platform:
        deploy(platform, upstream)
        streaming = Streaming(platform)
        assert streaming.begun.wait(30)
        process = platform.process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{platform.url}/readyz").status_code == 503, "readyz tells")
        assert httpx.get(f"{platform.url}/readyz").json()["problems"]["server"]
        assert httpx.get(f"{platform.url}/healthz").status_code == 200
        refused = httpx.post(
            f"{platform.url}/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {platform.key}"}
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_stopping")
        assert refused.headers["connection"] == "close"
        assert refused.headers["retry-after"]
        assert process.poll() is None
        upstream.let_go.set()
        assert streaming.read_to_end().rstrip().endswith("data: [DONE]")
        assert process.wait(30) == 0
    assert recorded(platform.home) == [(200, 0)]


def test_a_second_signal_ends_at_once_and_loses_no_record(tmp_path: Path, upstream: SlowUpstream) -> None:
    with PlatformProcess(tmp_path / "home", egress_allow='["127.0.0.1"]', log_level="warning") as platform:
        deploy(platform, upstream)
        streaming = Streaming(platform)
        assert streaming.begun.wait(30)
        process = platform.process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{platform.url}/readyz").status_code == 503, "readyz tells")
        process.send_signal(signal.SIGTERM)
        # Far less than the thirty seconds that the answer might have gone on.
        assert process.wait(15) == 128 + signal.SIGTERM
        assert "[DONE]" not in streaming.read_to_end()
    assert recorded(platform.home) == [(503, 1)]


async def test_answers_are_broken_off_when_the_time_is_over() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("answer")

    async def quiesce() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("background")

    drain = Drain()
    config = uvicorn.Config(
        Edge(app, max_body_bytes=100, drain=drain),
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=0,
    )
    server = DrainingServer(config, drain, limit_s=0.2, quiesce=quiesce)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient() as http, http.stream("GET", f"http://127.0.0.1:{port}/") as response:
            assert response.status_code == 200
            server.handle_exit(signal.SIGTERM, None)
            with pytest.raises(httpx.HTTPError):
                _ = [piece async for piece in response.aiter_bytes()]
        await serving
    assert sorted(ended) == ["answer", "background"]
    assert drain.in_flight == 0
