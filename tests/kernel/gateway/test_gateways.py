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

    def stream(self, body: Any, path: str = "/v1/chat/completions") -> http.client.HTTPResponse:
        self._send("POST", path, json.dumps({**body, "stream": True}))
        return self._connection.getresponse()

    def events(self, response_id: str) -> list[dict[str, Any]]:
        """Of a response in the background, from its first one to its last."""
        self._send("GET", f"/v1/responses/{response_id}?stream=true")
        return events_of(self._connection.getresponse())

    def _send(self, method: str, path: str, data: str | None = None) -> None:
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        self._connection.request(method, path, data, headers)


def events_of(response: http.client.HTTPResponse) -> list[dict[str, Any]]:
    assert (response.status, response.headers.get_all("x-request-id")) == (200, [response.headers["x-request-id"]])
    lines = response.read().decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


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


def events_begun(response: http.client.HTTPResponse, num: int) -> list[dict[str, Any]]:
    """The first events of a stream that goes on."""
    found: list[dict[str, Any]] = []
    while len(found) < num:
        line = response.readline()
        assert line, found
        if line.startswith(b"data: {"):
            found.append(json.loads(line.removeprefix(b"data: ")))
    return found


def responses_are_everywhere(first: Process, other: Process, upstream: SlowUpstream, waits: str, told: str) -> None:
    """What was asked of one process is worked on once, and seen, heard, stopped and gone on from in the other.

    Args:
        waits, told: responses in the background, asked of a process that was killed, under way; of `told` there are events.
    """
    for each in (first, other):
        assert [each.ask("GET", f"/v1/responses/{found}")[1]["status"] for found in (waits, told)] == ["in_progress"] * 2
    # Stopped through a process that has nothing to do with it.
    _, stopped = first.ask("POST", "/v1/responses", {"model": "slow", "input": "Hi", "background": True})
    until(lambda: upstream.num_asked == 3, "it is being answered", 30)
    assert other.ask("POST", f"/v1/responses/{stopped['id']}/cancel")[1]["status"] == "cancelled"
    assert first.ask("GET", f"/v1/responses/{stopped['id']}")[1]["status"] == "cancelled"
    used = until(lambda: first.ask("GET", "/api/usage/requests")[1]["data"], "the model is let go at once", SOON_S)
    assert [(each["endpoint"], each["aborted"]) for each in used] == [("/v1/responses", True)]

    upstream.let_go.set()
    for each in (other, first):
        found = until(
            lambda each=each: (got := each.ask("GET", f"/v1/responses/{waits}")[1])["status"] == "completed" and got,
            "it is answered",
        )
        assert found["output"][0]["content"][0]["text"] == "begun done"
    events = other.events(told)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert events == first.events(told)
    made = events_of(other.stream({"model": "slow", "input": "Hi", "background": True}, "/v1/responses"))
    assert [event["type"] for event in made] == [event["type"] for event in events]
    # Nothing was asked twice.
    assert upstream.num_asked == 4

    # A conversation and a chain of responses go from process to process.
    _, talk = other.ask("POST", "/v1/conversations", {"items": [{"role": "user", "content": "one"}]})
    previous: dict[str, Any] = {}
    for number, each in enumerate((other, first, other)):
        asked = {"model": "slow", "input": f"turn {number}"}
        _, spoken = each.ask("POST", "/v1/responses", {**asked, "conversation": talk["id"], "store": False})
        assert spoken["status"] == "completed", spoken
        _, found = each.ask("POST", "/v1/responses", {**asked, **previous})
        assert found["status"] == "completed", found
        previous = {"previous_response_id": found["id"]}
    for each in (first, other):
        items = each.ask("GET", f"/v1/conversations/{talk['id']}/items?order=asc&limit=100")[1]["data"]
        assert [item["content"][0]["text"] for item in items if item["role"] == "user"] == ["one", "turn 0", "turn 1", "turn 2"]
        given = each.ask("GET", f"/v1/responses/{found['id']}/input_items")[1]["data"]
        assert [item["content"][0]["text"] for item in given] == ["turn 2"]
    assert first.ask("DELETE", f"/v1/responses/{found['id']}")[1]["deleted"] is True
    assert other.ask("GET", f"/v1/responses/{found['id']}")[0] == 404
    # What changed through either process is one chain.
    assert other.ask("DELETE", f"/v1/conversations/{talk['id']}")[0] == 200
    upstream.let_go.clear()


def killed_over(platform: PlatformProcess, other: Process, upstream: SlowUpstream, held: dict[str, Any]) -> None:
    """A response that was asked of a further process is failed with its reason when the process that works on it is killed."""
    asked = upstream.num_asked
    _, promised = other.ask("POST", "/v1/responses", held)
    until(lambda: upstream.num_asked > asked, "it is being answered")
    left = further_of(platform)
    platform.kill()
    until(lambda: not left.is_running(), "the further process ends with the first one", 30)
    platform.start()
    for each in both(platform, further_of(platform)):
        found = until(
            lambda each=each: (got := each.ask("GET", f"/v1/responses/{promised['id']}")[1])["status"] == "failed" and got,
            "it is over",
        )
        assert "stopped" in found["error"]["message"]
    assert upstream.num_asked == asked + 1


@pytest.mark.parametrize("database", DATABASES)
def test_what_one_process_is_told_holds_in_the_other(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    more = {} if database == "sqlite" else {"database_url": request.getfixturevalue("postgres_schema")}
    platform = PlatformProcess(
        tmp_path / "home", egress_allow='["127.0.0.1"]', log_level="warning", gateways=2, shutdown_s=40, **more
    )
    with SlowUpstream() as upstream, platform:
        killed = further_of(platform)
        _, doomed = both(platform, killed)
        # A deployment is known wherever the next request arrives.
        assert doomed.ask("POST", "/api/deployments", {"name": "slow", "base_url": upstream.url})[0] == 200
        held = {"model": "slow", "input": "Hi", "background": True}
        status, promised = doomed.ask("POST", "/v1/responses", held)
        assert status == 200, promised
        told = events_begun(doomed.stream(held, "/v1/responses"), 3)
        until(lambda: upstream.num_asked == 2, "both are being answered", 30)
        killed.kill()
        until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE, "it is dead")
        # It is started again, and the server has gone on answering.
        further = further_of(platform)
        first, other = both(platform, further)
        responses_are_everywhere(first, other, upstream, promised["id"], told[0]["response"]["id"])

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

        if database == "sqlite":
            killed_over(platform, other, upstream, held)
            further = further_of(platform)
            first, other = both(platform, further)

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
