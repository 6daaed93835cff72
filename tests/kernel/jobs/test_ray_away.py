"""A cluster that does not answer: runs wait for it, and say why."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import Unavailable
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.jobs import Status, Supervisor
from modelworks.kernel.jobs.executors.ray import RayExecutor
from modelworks.kernel.jobs.store import RunRow

pytestmark = pytest.mark.cluster
pytest.importorskip("ray", reason="needs Ray (extra cluster)")


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_run_waits_for_a_cluster_that_is_away(rooms: Rooms, nobody: str) -> None:
    executor = RayExecutor(nobody, "http://127.0.0.1:1")
    supervisor = Supervisor(rooms.jobs, executor, rooms.db, rooms.settings, rooms.events, SystemClock())
    run = rooms.submit()
    for _ in range(rooms.settings.max_attempts + 1):
        with rooms.db.transaction() as session:
            session.get_one(RunRow, run.id).not_before = None
        assert supervisor.tick(), "there is something to come back for"
        assert rooms.get(run.id).state == "queued"
    with rooms.db.reading() as session:
        reasons = [event.data.get("reason", "") for event in rooms.jobs.events(session, PROJECT, run.id)]
    assert any(nobody in reason and "does not answer" in reason for reason in reasons)
    with rooms.db.transaction() as session:
        rooms.jobs.cancel(session, PROJECT, run.id)
    assert rooms.get(run.id).state == "cancelled"


@pytest.fixture
def agentless() -> Iterator[str]:
    """A dashboard that is up before the nodes' agents are: it refuses every job as Ray's does then."""

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith("/api/version")
            body = json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})
            self._answer(200 if found else 404, body if found else "job does not exist")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(500, "No available agent to submit job, please try again later.")

        def _answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_waits_for_a_cluster_that_is_coming_up(rooms: Rooms, agentless: str) -> None:
    executor = RayExecutor(agentless, "http://127.0.0.1:1")
    supervisor = Supervisor(rooms.jobs, executor, rooms.db, rooms.settings, rooms.events, SystemClock())
    run = rooms.submit()
    for _ in range(rooms.settings.max_attempts + 1):
        with rooms.db.transaction() as session:
            session.get_one(RunRow, run.id).not_before = None
        supervisor.tick()
        assert rooms.get(run.id).state == "queued", rooms.get(run.id).error
    with rooms.db.reading() as session:
        reasons = [event.data.get("reason", "") for event in rooms.jobs.events(session, PROJECT, run.id)]
    assert any("No available agent" in reason for reason in reasons)


def test_a_running_attempt_is_not_taken_for_dead_while_the_cluster_is_away(rooms: Rooms, nobody: str) -> None:
    executor = RayExecutor(nobody, "http://127.0.0.1:1")
    supervisor = Supervisor(rooms.jobs, executor, rooms.db, rooms.settings, rooms.events, SystemClock())
    run = rooms.submit()
    with rooms.db.transaction() as session:
        rooms.jobs.attempts.begin(session, run.id, (), "ray", remote=True)
        rooms.jobs.attempts.record_handle(session, run.id, 1, f"{run.id}-1")
    with pytest.raises(Unavailable):
        executor.poll(f"{run.id}-1")
    for _ in range(3):
        supervisor.tick()
    assert (rooms.get(run.id).state, rooms.get(run.id).attempt) == ("running", 1)
    with rooms.db.transaction() as session:
        rooms.jobs.cancel(session, PROJECT, run.id)
        rooms.jobs.attempts.ended(session, run.id, 1, Status("exited"), None)
