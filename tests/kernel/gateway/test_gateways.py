"""Two processes of one server on one port and one database: what one is told holds in the other."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.journeys.platform_process import PlatformProcess
from tests.journeys.slow_upstream import SlowUpstream
from tests.kernel.conftest import DATABASES

#: Less than keys are remembered for: what holds so soon was told, not forgotten.
SOON_S = 4.0


class Process:
    """A connection to one of the processes; the system has chosen which."""

    def __init__(self, platform: PlatformProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", int(platform.url.rpartition(":")[2]), timeout=60)
        self._key = platform.key
        self.ask("GET", "/healthz")
        self.port = self._connection.sock.getsockname()[1]

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        headers = {"authorization": f"Bearer {key or self._key}", "content-type": "application/json"}
        self._connection.request(method, path, data, headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read() or b"null")

    def stream(self, body: Any) -> http.client.HTTPResponse:
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}), headers)
        return self._connection.getresponse()


def until(look: Callable[[], Any], what: str, timeout_s: float = 90.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def listens(process: psutil.Process, platform: PlatformProcess) -> bool:
    port = int(platform.url.rpartition(":")[2])
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in process.net_connections("tcp"))


def further_of(platform: PlatformProcess) -> psutil.Process:
    assert platform.process is not None
    first = psutil.Process(platform.process.pid)

    def look() -> psutil.Process | None:
        try:
            found = [each for each in first.children() if "modelworks.server" in each.cmdline()]
            return next((each for each in found if listens(each, platform)), None)
        except psutil.Error:
            return None

    found: psutil.Process = until(look, "a further process")
    return found


def both(platform: PlatformProcess, further: psutil.Process) -> tuple[Process, Process]:
    """A connection to the first process, and one to the further one."""
    found: dict[bool, Process] = {}
    for _ in range(100):
        made = Process(platform)
        peers = {each.raddr.port for each in further.net_connections("tcp") if each.raddr}
        found.setdefault(made.port in peers, made)
        if len(found) == 2:
            return found[False], found[True]
    raise AssertionError("the system gives every connection to one process")


@pytest.mark.parametrize("database", DATABASES)
def test_what_one_process_is_told_holds_in_the_other(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    more = {} if database == "sqlite" else {"database_url": request.getfixturevalue("postgres_schema")}
    platform = PlatformProcess(
        tmp_path / "home", egress_allow='["127.0.0.1"]', log_level="warning", gateways=2, shutdown_s=40, **more
    )
    with SlowUpstream() as upstream, platform:
        killed = further_of(platform)
        killed.kill()
        until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE, "it is dead")
        # It is started again, and the server has gone on answering.
        further = further_of(platform)
        first, other = both(platform, further)

        # A deployment is known wherever the next request arrives.
        assert other.ask("POST", "/api/deployments", {"name": "slow", "base_url": upstream.url})[0] == 200
        chat = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        assert [each.ask("POST", "/v1/chat/completions", chat)[0] for each in (first, other)] == [200, 200]

        # A key that is revoked through one is refused by the other.
        for teller, hearer in ((first, other), (other, first)):
            _, made = teller.ask("POST", "/api/keys", {"name": "k", "scopes": ["inference"]})
            assert [each.ask("GET", "/v1/models", key=made["secret"])[0] for each in (first, other)] == [200, 200]
            assert teller.ask("DELETE", f"/api/keys/{made['id']}")[0] == 200
            until(
                lambda hearer=hearer, made=made: hearer.ask("GET", "/v1/models", key=made["secret"])[0] == 401,
                "the other process has heard of it",
                SOON_S,
            )

        # A budget is one, whoever is asked: exactly what it allows goes through, and no false refusal.
        _, used = first.ask("GET", "/api/usage")
        spent = used["total"]["prompt_tokens"] + used["total"]["completion_tokens"]
        most = len(json.dumps(chat)) + 2
        assert first.ask("PUT", "/api/budgets", {"metric": "tokens", "period": "day", "amount": spent + most + 25})[0] == 200
        until(lambda: other.ask("GET", "/api/budgets")[1]["data"], "the budget is there")
        codes = [(first, other)[number % 2].ask("POST", "/v1/chat/completions", chat)[0] for number in range(9)]
        assert codes in ([200] * 6 + [429] * 3, [200] * 6 + [403] * 3)
        _, used = other.ask("GET", "/api/usage")
        assert used["total"]["prompt_tokens"] + used["total"]["completion_tokens"] == spent + 30
        _, budgets = first.ask("GET", "/api/budgets")
        assert first.ask("DELETE", f"/api/budgets/{budgets['data'][0]['id']}")[0] in (200, 204)
        until(lambda: other.ask("POST", "/v1/chat/completions", chat)[0] == 200, "the budget is gone", 10)

        # An answer of the further process is finished when the server is told to stop.
        response = other.stream(chat)
        assert b"begun" in response.readline()
        assert platform.process is not None
        platform.process.send_signal(signal.SIGTERM)
        until(lambda: first.ask("GET", "/readyz")[0] == 503, "it stops")
        upstream.let_go.set()
        assert response.read().rstrip().endswith(b"data: [DONE]")
        assert platform.process.wait(60) == 0
        assert not further.is_running()
