"""Runs over HTTP: the routes, the streams, and a remote worker that has nothing but them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.kernel.jobs.http_server import Server
from tests.kernel.jobs.rooms import PATIENCE_S, PROJECT, Rooms

from modelworks.kernel.jobs.executors import Launch
from modelworks.kernel.jobs.shipping import EXIT_STALE


@pytest.fixture
def server(rooms: Rooms) -> Iterator[Server]:
    made = Server(rooms)
    yield made
    made.stop()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        yield client


WISH: dict[str, Any] = {"verb": "train", "task": "toy-count", "output_name": "counter"}


def test_the_life_of_a_run_over_http(rooms: Rooms, http: httpx.Client) -> None:
    assert http.post("/api/runs?dry_run=true", json=WISH).status_code == 201
    made = http.post("/api/runs", json=WISH | {"params": {"steps": 3}})
    assert made.status_code == 201
    run_id = made.json()["id"]
    listed = http.get("/api/runs").json()
    assert (listed["object"], [run["id"] for run in listed["data"]], listed["last_id"]) == ("list", [run_id], run_id)
    rooms.finish(run_id)
    run = http.get(f"/api/runs/{run_id}").json()
    assert (run["state"], run["outputs"][0]["name"]) == ("succeeded", "counter")
    assert [run["id"] for run in http.get("/api/runs?state=succeeded").json()["data"]] == [run_id]
    assert http.get("/api/runs?state=failed").json()["data"] == []
    points = http.get(f"/api/runs/{run_id}/metrics?name=loss").json()["data"]
    assert [(point["step"], point["value"]) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert "attempt 1 step 3" in http.get(f"/api/runs/{run_id}/logs").text
    refused = http.post(f"/api/runs/{run_id}/cancel")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")


def test_errors_have_the_envelope(http: httpx.Client) -> None:
    wrong = http.post("/api/runs", json=WISH | {"params": {"steps": -1}})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "params.steps")
    gone = http.get("/api/runs/run_nothing")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "run_not_found")
    for path in ("events", "logs", "metrics"):
        assert http.get(f"/api/runs/run_nothing/{path}").status_code == 404


def test_scopes_and_projects_are_kept_apart(rooms: Rooms, http: httpx.Client) -> None:
    run = rooms.submit()
    reading = {"x-scopes": "read"}
    assert http.get(f"/api/runs/{run.id}", headers=reading).status_code == 200
    assert http.post("/api/runs", json=WISH, headers=reading).status_code == 403
    assert http.post(f"/api/runs/{run.id}/cancel", headers=reading).status_code == 403
    assert http.get("/api/runs", headers={"x-scopes": "inference"}).status_code == 403
    other = {"x-project": "prj_other"}
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/logs"), ("GET", "/metrics"), ("POST", "/cancel")):
        assert http.request(method, f"/api/runs/{run.id}{path}", headers=other).status_code == 404
    assert rooms.get(run.id).state == "queued"


def test_only_an_administrator_has_the_server_read_its_own_files(http: httpx.Client) -> None:
    spec = {"verb": "pull", "params": {"source": "file:///usr/share", "kind": "dataset"}, "output_name": "mine"}
    admin = {"x-scopes": "read write admin"}
    for headers in ({}, {"x-platform": "1"}, admin):  # the admin of a project is not one of the machine
        refused = http.post("/api/runs", params={"dry_run": True}, json=spec, headers=headers)
        assert refused.status_code == 403
        assert "admin" in refused.json()["error"]["message"]
    accepted = http.post("/api/runs", params={"dry_run": True}, json=spec, headers=admin | {"x-platform": "1"})
    assert accepted.status_code == 201, accepted.text


def test_followers_see_the_story_to_its_end(rooms: Rooms, http: httpx.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = rooms.submit(params={"steps": 4, "wait_at": 3, "wait_for": str(gate), "noise": True})
    rooms.supervisor.start()
    seen: list[dict[str, Any]] = []
    has_kept_alive = False
    try:
        with http.stream("GET", f"/api/runs/{run.id}/events?follow=true") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: ")))
                elif line.startswith(":"):
                    has_kept_alive = True
                if has_kept_alive and any(event["type"] == "progress" and event["data"]["done"] == 2 for event in seen):
                    gate.touch()
        with http.stream("GET", f"/api/runs/{run.id}/logs?follow=true") as stream:
            log = stream.read()
    finally:
        rooms.supervisor.stop()
    assert has_kept_alive
    assert seen[-1]["data"] == {"state": "succeeded"}
    numbers = [event["seq"] for event in seen if "seq" in event]
    assert numbers == list(range(1, len(numbers) + 1))
    metrics = [event["data"] for event in seen if event["type"] == "metrics"]
    assert metrics[-1]["step"] == 4
    assert metrics[-1]["metrics"]["loss"] == 0.25
    assert b"noise \xff\xfe caf\xe9\n" in log
    again = http.get(f"/api/runs/{run.id}/events?after_seq={numbers[-2]}").text
    assert [line for line in again.splitlines() if line.startswith("id:")] == [f"id: {numbers[-1]}"]
    resumed = http.get(f"/api/runs/{run.id}/events", headers={"Last-Event-ID": str(numbers[-2])}).text
    assert resumed == again
    whole = http.get(f"/api/runs/{run.id}/events").text
    for strange in (b"\xb2", b"9" * 40, b"-1", b"soon"):
        answer = http.get(f"/api/runs/{run.id}/events", headers={b"Last-Event-ID": strange})
        assert (answer.status_code, answer.text) == (200, whole)


def test_logs_are_followed_over_attempts_while_they_grow(rooms: Rooms, http: httpx.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = rooms.submit(params={"steps": 4, "die_at": 3, "wait_at": 4, "wait_for": str(gate)})
    rooms.supervisor.start()
    text = ""
    try:
        with http.stream("GET", f"/api/runs/{run.id}/logs?follow=true") as stream:
            for piece in stream.iter_text():
                text += piece
                if "attempt 2 step 3" in text:
                    gate.touch()
    finally:
        rooms.supervisor.stop()
    assert text.index("attempt 1 step 2") < text.index("=== attempt 2 ===") < text.index("attempt 2 step 4")


class TestRemoteWorker:
    """A worker without a folder of the server: spec, journal, log and cancellation over HTTP."""

    def launched(self, rooms: Rooms, **wish: Any) -> Launch:
        run = rooms.submit(**wish)
        with rooms.db.transaction() as session:
            launch = rooms.jobs.attempts.begin(session, run.id, (), "ray", remote=True)
        assert launch is not None
        return launch

    def worker(self, server: Server, launch: Launch, **other: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "MODELWORKS_RUN_URL": server.url,
            "MODELWORKS_RUN_ID": launch.run_id,
            "MODELWORKS_RUN_ATTEMPT": str(launch.attempt),
            "MODELWORKS_RUN_TOKEN": launch.token,
        }
        return subprocess.Popen([sys.executable, "-m", "modelworks.kernel.jobs.worker"], env=environment | other)

    def watch(self, rooms: Rooms, run_id: str, step: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while (rooms.get(run_id).progress or {"done": 0})["done"] < step:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_it_does_the_whole_job_even_while_the_server_is_away(self, rooms: Rooms, server: Server, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        rooms.dataset()
        params = {"steps": 4, "wait_at": 3, "wait_for": str(gate), "noise": True}
        launch = self.launched(rooms, params=params, inputs={"train": "corpus"})
        process = self.worker(server, launch)
        self.watch(rooms, launch.run_id, 2)
        server.stop()
        gate.touch()
        # It works on while nobody listens, and waits with its result.
        stored = len(list(rooms.blobs.list()))
        deadline = time.monotonic() + PATIENCE_S
        while len(list(rooms.blobs.list())) < stored + 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.poll() is None
        server.start()
        assert process.wait(PATIENCE_S) == 0
        run = rooms.get(launch.run_id)
        assert run.state == "succeeded", run.error
        assert run.outputs[0].name == "counter"
        assert rooms.metrics(run.id)["loss"].keys() == {1, 2, 3, 4}
        log = (rooms.settings.home / "runs" / run.id / "1" / "log.txt").read_bytes()
        assert b"noise \xff\xfe" in log
        assert log.count(b"attempt 1 step") == 4

    def test_it_hears_of_a_cancellation(self, rooms: Rooms, server: Server, tmp_path: Path) -> None:
        launch = self.launched(rooms, params={"wait_at": 2, "wait_for": str(tmp_path / "never")})
        process = self.worker(server, launch)
        self.watch(rooms, launch.run_id, 1)
        with rooms.db.transaction() as session:
            rooms.jobs.cancel(session, PROJECT, launch.run_id)
        assert process.wait(PATIENCE_S) == 4
        assert rooms.get(launch.run_id).state == "cancelled"

    def test_it_gives_up_when_another_attempt_has_taken_its_place(self, rooms: Rooms, server: Server, tmp_path: Path) -> None:
        launch = self.launched(rooms, params={"wait_at": 2, "wait_for": str(tmp_path / "never")})
        process = self.worker(server, launch)
        self.watch(rooms, launch.run_id, 1)
        from modelworks.kernel.jobs.executors import Status

        with rooms.db.transaction() as session:
            rooms.jobs.attempts.ended(session, launch.run_id, 1, Status("exited"), None, why="its node was lost")
        assert process.wait(PATIENCE_S) == EXIT_STALE
        assert rooms.get(launch.run_id).state == "queued"

    def test_without_its_token_it_gets_nothing(self, rooms: Rooms, server: Server, http: httpx.Client) -> None:
        launch = self.launched(rooms)
        path = f"/internal/runs/{launch.run_id}"
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": launch.token}):
            for method, end in (("GET", "spec"), ("POST", "journal"), ("POST", "log")):
                query = {"attempt": "1", "offset": "0"}
                answer = http.request(method, f"{path}/{end}", params=query, headers=headers, json={"entries": []})
                assert answer.status_code == 401
        assert self.worker(server, launch, MODELWORKS_RUN_TOKEN="wrong").wait(PATIENCE_S) == EXIT_STALE
        right = {"Authorization": f"Bearer {launch.token}"}
        assert http.get(f"{path}/spec?attempt=1", headers=right).json()["run_id"] == launch.run_id
        assert http.get(f"{path}/spec?attempt=2", headers=right).status_code == 409

    def test_the_code_it_runs_does_not_see_the_token(self, rooms: Rooms, server: Server, tmp_path: Path) -> None:
        launch = self.launched(rooms, params={"wait_at": 2, "wait_for": str(tmp_path / "gate"), "print_environment": True})
        process = self.worker(server, launch)
        self.watch(rooms, launch.run_id, 1)
        assert psutil.pid_exists(process.pid)
        (tmp_path / "gate").touch()
        assert process.wait(PATIENCE_S) == 0
        log = (rooms.settings.home / "runs" / launch.run_id / "1" / "log.txt").read_text()
        assert "MODELWORKS_RUN_ID" in log
        assert launch.token not in log
