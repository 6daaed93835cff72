"""What follows when a worker dies, fails or falls silent."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms


def result(rooms: Rooms, name: str) -> dict[str, Any]:
    with rooms.db.reading() as session:
        version = rooms.catalog.resolve(session, PROJECT, name)
    config: dict[str, Any] = json.loads(rooms.blobs.read(version.files[0].digest, 1 << 20))
    return config


def test_a_killed_worker_goes_on_from_its_checkpoint_with_the_same_result(rooms: Rooms) -> None:
    undisturbed = rooms.submit(params={"steps": 6}, seed=3, output_name="undisturbed")
    killed = rooms.submit(params={"steps": 6, "die_at": 6}, seed=3, output_name="killed")
    rooms.finish(undisturbed.id)
    done = rooms.finish(killed.id)
    assert done.state == "succeeded", rooms.log(killed.id)
    assert done.attempt == 2
    log = rooms.log(killed.id)
    assert "attempt 1 step 5" in log
    assert "resuming at step 4" in log
    assert "attempt 2 step 4" not in log, "steps before the checkpoint are not repeated"
    assert result(rooms, "killed") == result(rooms, "undisturbed")
    assert rooms.metrics(killed.id) == rooms.metrics(undisturbed.id)


def test_a_worker_killed_from_outside_is_started_again_and_leaves_no_children(rooms: Rooms, tmp_path: Path) -> None:
    gate, child_file = tmp_path / "gate", tmp_path / "child"
    params = {"steps": 5, "wait_at": 4, "wait_for": str(gate), "child_pid_file": str(child_file)}
    run = rooms.submit(params=params)
    rooms.at_step(run.id, 3)
    first_child = int(child_file.read_text())
    os.kill(rooms.worker_pid(run.id), signal.SIGKILL)
    gate.touch()
    done = rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 2), rooms.log(run.id)
    for child in (first_child, int(child_file.read_text())):
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_run_that_always_crashes_at_the_same_place_is_given_up(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.jobs.attempts._MAX_PAUSE_S", 0.0)
    run = rooms.submit(params={"steps": 5, "die_at": 3, "die_attempts": 100})
    done = rooms.finish(run.id)
    assert done.state == "failed"
    assert done.error is not None
    assert done.error["code"] == "crashed_repeatedly"
    assert "SIGKILL" in done.error["message"]
    # The first attempt reached a checkpoint, and was the first of three that got no further.
    assert done.attempt == done.max_attempts == 3
    assert done.has_checkpoint


def test_progress_between_crashes_is_not_held_against_a_run(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rooms.submit(params={"steps": 4, "checkpoint_every": 1, "die_at": 3, "die_attempts": 1})
    with rooms.db.transaction() as session:
        from modelworks.kernel.jobs.store import RunRow

        session.get_one(RunRow, run.id).crashes = 2
    assert rooms.finish(run.id).state == "succeeded"


def test_an_exception_fails_at_once_with_its_text_and_the_traceback_in_the_log(rooms: Rooms) -> None:
    done = rooms.finish(rooms.submit(params={"raise_at": 2}).id)
    assert (done.state, done.attempt) == ("failed", 1)
    assert done.error is not None
    assert done.error["message"] == "ValueError: step 2 is impossible"
    assert done.error["code"] == "run_failed"
    assert "Traceback" in rooms.log(done.id)
    assert "work.py" in rooms.log(done.id)
    assert not done.outputs


def test_a_missing_library_fails_at_once_and_names_the_extra(rooms: Rooms) -> None:
    done = rooms.finish(rooms.submit(task="toy-heavy").id)
    assert (done.state, done.attempt) == ("failed", 1)
    assert done.error is not None
    assert done.error["code"] == "missing_extra"
    assert "a_library_that_nobody_has" in done.error["message"]
    assert "toycap[toys]" in done.error["hint"]


def test_what_may_go_away_by_itself_is_tried_again(rooms: Rooms) -> None:
    done = rooms.finish(rooms.submit(params={"unavailable_at": 2}).id)
    assert (done.state, done.attempt) == ("succeeded", 2)


def test_a_hard_exit_after_the_start_counts_as_a_crash(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.jobs.attempts._MAX_PAUSE_S", 0.0)
    done = rooms.finish(rooms.submit(params={"exit_at": 1}).id)
    assert done.state == "failed"
    assert done.error is not None
    assert "exit code 3" in done.error["message"]


def test_a_worker_that_cannot_start_fails_at_once(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms.executor, "_python", "/bin/false")
    done = rooms.finish(rooms.submit().id)
    assert (done.state, done.attempt) == ("failed", 1)
    assert done.error is not None
    assert done.error["code"] == "worker_not_started"


def test_an_interpreter_that_is_gone_is_tried_again_and_then_reported(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.jobs.attempts._MAX_PAUSE_S", 0.0)
    monkeypatch.setattr(rooms.executor, "_python", "/no/such/python")
    done = rooms.finish(rooms.submit().id)
    assert done.state == "failed"
    assert done.error is not None
    assert "could not be started" in done.error["message"]


def test_a_result_with_a_pickle_is_refused(rooms: Rooms) -> None:
    done = rooms.finish(rooms.submit(params={"pickle": True}).id)
    assert done.state == "failed"
    assert done.error is not None
    assert done.error["code"] == "unsafe_artifact"
    assert not done.outputs


def test_a_result_saved_before_the_checkpoint_is_kept_and_one_after_it_is_not_doubled(rooms: Rooms) -> None:
    done = rooms.finish(rooms.submit(params={"save_early": True, "die_at": 3}).id)
    assert (done.state, done.attempt) == ("succeeded", 2), rooms.log(done.id)
    assert [output.kind for output in done.outputs] == ["report", "model"]
    repeated = rooms.finish(rooms.submit(params={"save_early": True, "die_at": 1}, output_name="other").id)
    assert [output.kind for output in repeated.outputs] == ["report", "model"]


def test_a_log_that_is_not_utf_8_survives(rooms: Rooms) -> None:
    run = rooms.finish(rooms.submit(params={"noise": True}).id)
    assert run.state == "succeeded"
    path = rooms.settings.home / "runs" / run.id / "1" / "log.txt"
    assert b"noise \xff\xfe caf\xe9\n" in path.read_bytes()


class TestSilence:
    @pytest.fixture
    def tune(self) -> dict[str, Any]:
        return {"heartbeat_timeout_s": 3.0}

    def test_a_worker_that_falls_silent_is_ended_and_started_again(self, rooms: Rooms) -> None:
        done = rooms.finish(rooms.submit(params={"stop_at": 5}).id)
        assert (done.state, done.attempt) == ("succeeded", 2), rooms.log(done.id)
        with rooms.db.reading() as session:
            events = rooms.jobs.events(session, PROJECT, done.id)
        assert any("no sign of life" in event.data.get("reason", "") for event in events)


def test_a_full_disk_fails_the_run_with_the_reason(rooms: Rooms) -> None:
    done = rooms.finish(rooms.submit(params={"full_at": 4}).id)
    assert (done.state, done.attempt) == ("failed", 1), rooms.log(done.id)
    assert done.error is not None
    assert done.error["class"] == "StorageFull"
    assert "is full" in done.error["message"]
    assert rooms.metrics(done.id)["loss"].keys() == {1, 2, 3}
    assert done.has_checkpoint
