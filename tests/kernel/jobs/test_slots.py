"""Who runs when, and on which accelerators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kernel.jobs.rooms import Rooms

from modelworks.contract.capability import Resources
from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.jobs.slots import Capacity, capacity

GIB = 1 << 30


class TestOrder:
    @pytest.fixture
    def tune(self) -> dict[str, Any]:
        return {"slots_cpu": 1.0}

    def test_runs_wait_for_room_and_start_in_order(self, rooms: Rooms, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        waits = {"steps": 1, "wait_at": 1, "wait_for": str(gate)}
        first = rooms.submit(params=waits)
        large = rooms.submit(params={"steps": 1}, resources={"cpu": 1.0})
        small = rooms.submit(params={"steps": 1})
        rooms.until(first.id, lambda run: run.state == "running")
        assert rooms.get(large.id).state == "queued", "half a core is taken"
        assert rooms.get(small.id).state == "queued", "it would fit, but must not overtake"
        gate.touch()
        for run in (first, large, small):
            assert rooms.finish(run.id).state == "succeeded"
        started = [rooms.get(run.id).started_at for run in (first, large, small)]
        assert started == sorted(started, key=str)


def test_what_could_never_run_is_refused_at_submission(rooms: Rooms) -> None:
    with pytest.raises(InvalidRequest, match="needs 10000 cores; runs may occupy 4") as refused:
        rooms.submit("batch", "toy-large")
    assert (refused.value.param, refused.value.error_code) == ("resources", "exceeds_capacity")
    with pytest.raises(InvalidRequest, match="accelerators"):
        rooms.submit(resources={"gpu": 1})
    with pytest.raises(InvalidRequest, match="bytes of memory"):
        rooms.submit(resources={"memory_bytes": 1 << 50})


def test_a_worker_sees_only_its_accelerators(rooms: Rooms) -> None:
    from modelworks.kernel.jobs.executors import Launch

    run = rooms.submit()
    with rooms.db.transaction() as session:
        launch = rooms.jobs.attempts.begin(session, run.id, (), "local", remote=False)
    assert launch is not None
    environment = rooms.executor._environment(launch)
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    known = {field: getattr(launch, field) for field in ("run_id", "attempt", "spec")}
    large = Launch(**known, resources=Resources(cpu=3.0, gpu=2.0), devices=(1, 3))
    assert rooms.executor._environment(large)["CUDA_VISIBLE_DEVICES"] == "1,3"


def test_the_servers_secrets_do_not_reach_the_worker(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_DATABASE_URL", "postgresql://user:hunter2@db/x")
    run = rooms.submit()
    with rooms.db.transaction() as session:
        launch = rooms.jobs.attempts.begin(session, run.id, (), "local", remote=False)
    assert launch is not None
    assert "hunter2" not in "".join(rooms.executor._environment(launch).values())


def test_the_default_is_the_machine(tmp_path: Path) -> None:
    slots = capacity(Settings(home=tmp_path))
    assert slots is not None
    assert slots.cpu >= 1
    assert slots.memory_bytes > 0
    assert capacity(Settings(home=tmp_path, executor="ray")) is None


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), st.booleans()),
        max_size=30,
    )
)
def test_devices_are_never_shared_beyond_one(steps: list[tuple[float, bool]]) -> None:
    slots = Capacity(cpu=100, memory_bytes=100 * GIB, gpu=3)
    running: list[tuple[tuple[int, ...], float]] = []
    for gpu, first_ends in steps:
        if first_ends and running:
            running.pop(0)
        wanted = Resources(gpu=gpu)
        if not slots.fits(wanted, [Resources(gpu=held) for _, held in running]):
            continue
        devices = slots.devices(wanted, running)
        if devices is None:
            continue
        assert len(devices) == (0 if gpu == 0 else max(1, int(gpu)))
        running.append((devices, gpu))
        for index in range(3):
            assert sum(held if held < 1 else 1.0 for indices, held in running if index in indices) <= 1.0
