"""The server dies; its runs do not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.kernel.jobs.rooms import PATIENCE_S, Rooms

from modelworks.contract.errors import Unavailable
from modelworks.kernel.jobs.executors.local import LocalExecutor
from modelworks.kernel.jobs.schemas import RunRecord

REPOSITORY = Path(__file__).parents[3]


@contextmanager
def server(rooms: Rooms) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kernel.jobs.server_process", str(rooms.settings.home), rooms.db.url],
        env=environment,
        cwd=REPOSITORY,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def watch(rooms: Rooms, run_id: str, is_reached: Callable[[RunRecord], bool]) -> RunRecord:
    """Look until the server process has brought the run so far."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached(run := rooms.get(run_id)):
        assert time.monotonic() < deadline, run.model_dump_json(indent=1)
        time.sleep(0.05)
    return run


@pytest.mark.parametrize("ends", ["while no server is there", "under the new server"])
def test_a_run_survives_the_server_and_nothing_is_lost_or_doubled(rooms: Rooms, tmp_path: Path, ends: str) -> None:
    gate = tmp_path / "gate"
    run = rooms.submit(params={"steps": 6, "wait_at": 4, "wait_for": str(gate)}, inputs={"train": rooms.dataset()})
    with server(rooms) as process:
        watch(rooms, run.id, lambda run: run.progress is not None and run.progress["done"] == 3)
        worker = psutil.Process(rooms.worker_pid(run.id))
        process.kill()
        process.wait()
    assert worker.is_running(), "the worker does not depend on the server"
    supervisor = rooms.new_supervisor()
    if ends == "while no server is there":
        gate.touch()
        worker.wait(timeout=PATIENCE_S)
        assert rooms.get(run.id).state == "running", "nobody was there to see it"
    else:
        supervisor.tick()
        gate.touch()
    done = rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 1), rooms.log(run.id)
    assert rooms.log(run.id).count("attempt 1 step") == 6
    assert rooms.metrics(run.id)["loss"] == {step: 1.0 / step for step in range(1, 7)}
    assert len(done.outputs) == 1
    assert rooms.event_types(run.id).count("checkpoint") == 3
    assert rooms.event_types(run.id).count("started") == 1


def test_a_worker_that_dies_while_no_server_is_there_is_noticed(rooms: Rooms, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = rooms.submit(params={"steps": 5, "wait_at": 4, "wait_for": str(gate)})
    rooms.at_step(run.id, 3)
    worker = psutil.Process(rooms.worker_pid(run.id))
    worker.kill()
    rooms.new_supervisor()
    gate.touch()
    done = rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 2)
    assert "resuming at step 2" in rooms.log(run.id)


class _Died(BaseException):
    """The server ends here."""


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_server_that_dies_right_after_starting_a_worker_finds_it_again(
    rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    gate = tmp_path / "gate"
    run = rooms.submit(params={"wait_at": 1, "wait_for": str(gate)})

    def die(*_args: Any) -> None:
        raise _Died

    with monkeypatch.context() as dying:
        dying.setattr(rooms.jobs.attempts, "record_handle", die)
        with pytest.raises(_Died):
            rooms.supervisor.tick()
    assert rooms.get(run.id).state == "running"
    assert rooms.executor.find(run.id, 1) is not None
    if has_ended:
        gate.touch()
        while rooms.executor.find(run.id, 1) is not None:
            time.sleep(0.01)
    rooms.new_supervisor()
    gate.touch()
    done = rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 1)


def test_a_server_that_dies_right_before_starting_a_worker_starts_the_next_attempt(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rooms.submit()

    def die(*_args: Any) -> str:
        raise _Died

    with monkeypatch.context() as dying:
        dying.setattr(LocalExecutor, "start", die)
        with pytest.raises(_Died):
            rooms.supervisor.tick()
    rooms.new_supervisor()
    done = rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 2)


def test_entries_that_the_database_did_not_take_are_read_again(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rooms.submit()
    receive, failures = rooms.jobs.attempts.receive, iter([True, True])

    def flaky(*args: Any) -> Any:
        if next(failures, False):
            raise Unavailable("The database does not answer.")
        return receive(*args)

    monkeypatch.setattr(rooms.jobs.attempts, "receive", flaky)
    done = rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 1)
    assert rooms.metrics(run.id)["loss"].keys() == set(range(1, 7))


def test_a_process_that_got_the_pid_of_a_worker_is_left_alone(rooms: Rooms, tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        run = rooms.submit(params={"wait_at": 1, "wait_for": str(tmp_path / "gate")})
        rooms.supervisor.tick()
        rest = rooms.handle(run.id).split(":", 1)[1]
        executor = LocalExecutor(rooms.settings.home)
        assert executor.poll(f"{stranger.pid}:{rest}").state == "exited"
        executor.kill(f"{stranger.pid}:{rest}")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_worker_that_has_no_environment_yet_is_waited_for(
    rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """execve(2) lets the parent go on before the new process's environment can be read."""
    gate, right, looks = tmp_path / "gate", psutil.Process.environ, []

    def bare_at_first(process: psutil.Process) -> dict[str, str]:
        found: dict[str, str] = right(process)
        if found.get("MODELWORKS_RUN_ID") != run.id:
            return found
        looks.append(process.pid)
        return {} if len(looks) < 6 else found

    run = rooms.submit(params={"wait_at": 1, "wait_for": str(gate)})
    rooms.supervisor.tick()
    monkeypatch.setattr(psutil.Process, "environ", bare_at_first)
    assert rooms.executor.find(run.id, 1) == rooms.executor.find(run.id, 1) is not None
    assert len(looks) > 6
    gate.touch()
    assert rooms.finish(run.id).attempt == 1
