"""Cancel and resume."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import Conflict


def cancel(rooms: Rooms, run_id: str) -> None:
    with rooms.db.transaction() as session:
        rooms.jobs.cancel(session, PROJECT, run_id)


def resume(rooms: Rooms, run_id: str) -> None:
    with rooms.db.transaction() as session:
        rooms.jobs.resume(session, PROJECT, run_id)


def test_a_queued_run_is_cancelled_at_once(rooms: Rooms) -> None:
    run = rooms.submit()
    cancel(rooms, run.id)
    assert rooms.get(run.id).state == "cancelled"
    cancel(rooms, run.id)
    assert not rooms.supervisor.tick()
    assert rooms.get(run.id).attempt == 0


def test_a_running_run_stops_at_its_next_step_and_can_be_resumed(rooms: Rooms, tmp_path: Path) -> None:
    # However busy the machine is: no signal comes before the trainer has looked.
    rooms.executor._grace_s = 30.0
    gate = tmp_path / "gate"
    run = rooms.submit(params={"steps": 6, "wait_at": 4, "wait_for": str(gate)})
    rooms.at_step(run.id, 3)
    cancel(rooms, run.id)
    done = rooms.finish(run.id)
    assert (done.state, done.error, done.outputs) == ("cancelled", None, [])
    assert done.has_checkpoint
    assert "cancelled" in rooms.event_types(run.id), "the trainer itself saw it"
    gate.touch()
    resume(rooms, run.id)
    done = rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 2)
    assert "resuming at step 2" in rooms.log(run.id)
    assert done.cancel_requested_at is None


def test_a_run_that_does_not_listen_is_ended_with_all_its_processes(rooms: Rooms, tmp_path: Path) -> None:
    child_file = tmp_path / "child"
    run = rooms.submit(
        params={
            "steps": 6,
            "stubborn": True,
            "wait_at": 3,
            "wait_for": str(tmp_path / "never"),
            "child_pid_file": str(child_file),
        }
    )
    rooms.at_step(run.id, 2)
    pid = rooms.worker_pid(run.id)
    cancel(rooms, run.id)
    done = rooms.finish(run.id)
    assert done.state == "cancelled"
    assert "cancelled" not in rooms.event_types(run.id)
    for each in (pid, int(child_file.read_text())):
        assert not psutil.pid_exists(each) or psutil.Process(each).status() == psutil.STATUS_ZOMBIE


def test_a_failed_run_is_resumed_from_its_checkpoint(rooms: Rooms) -> None:
    run = rooms.submit(params={"raise_at": 4})
    assert rooms.finish(run.id).state == "failed"
    resume(rooms, run.id)
    done = rooms.finish(run.id)
    # The cause is still there, but it started where it had been.
    assert (done.state, done.attempt) == ("failed", 2)
    assert "resuming at step 2" in rooms.log(run.id)


def test_only_what_makes_sense_is_accepted(rooms: Rooms) -> None:
    run = rooms.submit(params={"steps": 1})
    with pytest.raises(Conflict, match="is queued"):
        resume(rooms, run.id)
    rooms.finish(run.id)
    with pytest.raises(Conflict, match="it has succeeded"):
        cancel(rooms, run.id)
    with pytest.raises(Conflict, match="is succeeded"):
        resume(rooms, run.id)
