"""A cluster that does not answer: runs wait for it, and say why."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import Unavailable
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.jobs import RayExecutor, Status, Supervisor
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
