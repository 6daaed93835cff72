"""What a training will need is asked before it is queued; what happens where memory runs out all the same."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.jobs import JobSpec
from modelworks.kernel.jobs.executors import local
from modelworks.kernel.jobs.memory import is_out_of_memory, out_of_memory

GIB = 1 << 30


def train(rooms: Rooms, estimated_bytes: int | None, **known: Any) -> Any:
    params = {"steps": 2, "checkpoint_every": 1, "estimated_bytes": estimated_bytes} | known.pop("params", {})
    return rooms.submit("train", params=params, **known)


def test_the_estimate_is_told_and_kept_in_the_story(rooms: Rooms) -> None:
    rooms.dataset(text="one two")
    run = train(rooms, 3 * GIB, inputs={"train": "corpus"})
    assert run.estimate.memory_bytes == 3 * GIB
    assert run.estimate.parts["words"] == len("one two")
    assert run.estimate.seconds == 2 * 0.5
    assert run.resources["memory_bytes"] == 3 * GIB, "as much as it needs is set aside"
    with rooms.db.reading() as session:
        (told,) = [each for each in rooms.jobs.events(session, PROJECT, run.id) if each.type == "estimate"]
    assert told.data["memory_bytes"] == 3 * GIB


def test_a_small_training_keeps_what_its_task_declares(rooms: Rooms) -> None:
    assert train(rooms, 1 << 20).resources["memory_bytes"] == 64 << 20


@pytest.mark.parametrize(
    ("asked", "words"),
    [(None, "runs may occupy 8.0 GiB on this machine"), ({"memory_bytes": GIB}, "it may occupy 1.0 GiB, as `resources` says")],
)
def test_more_than_there_is_is_refused_with_what_to_change(rooms: Rooms, asked: dict[str, int] | None, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        train(rooms, 20 * GIB, resources=asked)
    assert (refused.value.error_code, refused.value.param) == ("exceeds_memory", "resources.memory_bytes")
    assert "20.0 GiB of memory (counter 20.0 GiB)" in refused.value.message
    assert "fewer steps; a smaller rate" in str(refused.value.hint)
    assert "--force" in str(refused.value.hint)
    assert train(rooms, 20 * GIB, resources=asked, force=True).state == "queued"


def test_a_dry_run_refuses_it_too_and_queues_nothing(rooms: Rooms) -> None:
    spec = JobSpec(
        verb="train", capability="toy", task="toy-count", output_name="x", params={"estimated_bytes": 2 * GIB, "steps": 4}
    )
    with rooms.db.transaction() as session:
        looked = rooms.jobs.submit(session, PROJECT, None, spec, dry_run=True)
    assert looked.estimate is not None
    assert looked.estimate.seconds == 2.0
    with rooms.db.reading() as session:
        assert rooms.jobs.list(session, PROJECT).data == []


def test_what_an_estimator_cannot_say_does_not_stop_the_run(rooms: Rooms) -> None:
    assert train(rooms, None).estimate is None
    assert train(rooms, None, params={"rate": 0.125}).estimate is None


def test_an_input_that_these_parameters_need_is_asked_for_at_once(rooms: Rooms) -> None:
    with pytest.raises(InvalidRequest) as refused:
        train(rooms, None, params={"rate": 0.25})
    assert refused.value.param == "inputs.base"


def test_a_data_set_whose_bytes_are_gone_is_named_before_the_run_is_queued(rooms: Rooms) -> None:
    version = rooms.dataset(text="one two")
    with rooms.db.reading() as session:
        (file,) = rooms.catalog.get_version(session, PROJECT, version).files
    rooms.blobs.delete(file.digest)
    with pytest.raises(NotFound):
        train(rooms, GIB, inputs={"train": "corpus"})


def test_a_run_that_gets_no_memory_says_how_much_it_had_and_what_to_change(rooms: Rooms) -> None:
    done = rooms.finish(train(rooms, 100 << 20, params={"hoard_at": 2, "steps": 4}).id)
    assert (done.state, done.attempt) == ("failed", 1), "it would only happen again"
    assert done.error is not None
    assert done.error["code"] == "out_of_memory"
    assert "It had taken" in done.error["message"]
    assert "estimated to need 100 MiB" in done.error["message"]
    assert done.error["hint"] == "Change what helps most: fewer steps; a smaller rate."


def test_a_run_that_the_machine_ends_for_want_of_memory_is_not_tried_again(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\nhigh 0\nmax 7\noom 0\noom_kill 3\n")
    monkeypatch.setattr(local, "OUT_OF_MEMORY_COUNTERS", (counter, tmp_path / "missing"))
    gate = tmp_path / "gate"
    run = train(rooms, 100 << 20, params={"wait_at": 2, "wait_for": str(gate), "steps": 3})
    rooms.at_step(run.id, 1)
    pid = rooms.worker_pid(run.id)
    counter.write_text("low 0\nhigh 0\nmax 8\noom 1\noom_kill 4\n")
    local.os.kill(pid, signal.SIGKILL)
    done = rooms.finish(run.id)
    assert (done.state, done.attempt) == ("failed", 1)
    assert done.error is not None
    assert done.error["code"] == "out_of_memory"
    assert "MiB" in done.error["message"]


def test_a_kill_without_want_of_memory_is_a_crash(rooms: Rooms) -> None:
    done = rooms.finish(train(rooms, None, params={"die_at": 2, "steps": 3}).id)
    assert (done.state, done.attempt) == ("succeeded", 2)


def test_what_torch_says_is_understood() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
    assert "It had taken 2.0 GiB and asked for 33554432.0 GiB more." in out_of_memory(2 * GIB, str(refused.value)).message
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))
