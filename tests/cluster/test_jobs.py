"""The same runs on a cluster: any node, and another one when it is lost."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.conftest import RayCluster
from tests.kernel.jobs.http_server import Server
from tests.kernel.jobs.rooms import TOY, Rooms, make_rooms
from tests.kernel.serving.room import wait_until

from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Base, Database
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery
from modelworks.kernel.jobs import RunRecord, Supervisor
from modelworks.kernel.jobs.executors.ray import RayExecutor

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PATIENCE_S = 240.0


@pytest.fixture
def rooms(ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    """Rooms whose runs go to the cluster."""
    monkeypatch.syspath_prepend(str(TOY))
    discovery.refresh()
    settings = Settings(home=tmp_path / "home", executor="ray", ray_address=ray_cluster.dashboard_url)
    settings.prepare_home()
    db = Database(settings.effective_database_url)
    made = make_rooms(settings, db)
    Base.metadata.create_all(db.engine)
    server = Server(made)
    python_path = os.pathsep.join(filter(None, [str(TOY), os.environ.get("PYTHONPATH")]))
    executor = RayExecutor(ray_cluster.dashboard_url, server.url, env={"PYTHONPATH": python_path}, grace_s=5.0)
    made.supervisor = Supervisor(made.jobs, executor, db, settings, made.events, SystemClock())
    made.supervisor.start()
    yield made
    made.supervisor.stop()
    server.stop()
    db.dispose()
    discovery.refresh()
    ray_cluster.restore()


def until(rooms: Rooms, run_id: str, is_reached: Callable[[RunRecord], bool]) -> RunRecord:
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached(run := rooms.get(run_id)):
        assert not run.is_over, f"{run.model_dump_json(indent=1)}\n{rooms.log(run_id)}"
        assert time.monotonic() < deadline, f"{run.model_dump_json(indent=1)}\n{rooms.log(run_id)}"
        time.sleep(0.2)
    return run


def node_of(cluster: RayCluster, handle: str) -> str:
    from ray.job_submission import JobSubmissionClient

    info = JobSubmissionClient(cluster.dashboard_url).get_job_info(handle)
    assert info.driver_node_id is not None
    return str(info.driver_node_id)


def test_a_run_whose_node_is_lost_goes_on_from_its_checkpoint_on_another(
    rooms: Rooms, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    params = {"steps": 5, "wait_at": 4, "wait_for": str(gate)}
    run = rooms.submit(params=params, inputs={"train": rooms.dataset()}, seed=5)
    until(rooms, run.id, lambda run: run.progress is not None and run.progress["done"] == 3)
    first = node_of(ray_cluster, f"{run.id}-1")
    assert first in ray_cluster.worker_ids
    ray_cluster.lose(first)
    until(rooms, run.id, lambda run: run.attempt == 2 and run.state == "running")
    gate.touch()
    done = until(rooms, run.id, lambda run: run.is_over)
    assert done.state == "succeeded", f"{done.error}\n{rooms.log(run.id)}"
    assert done.attempt == 2
    # The cluster hands the last lines on a moment after the end.
    wait_until(lambda: "resuming at step 2" in rooms.log(run.id), "the log of the second attempt")
    assert rooms.metrics(run.id)["loss"].keys() == {1, 2, 3, 4, 5}
    assert [output.name for output in done.outputs] == ["counter"]


def test_a_run_on_the_cluster_is_cancelled_and_an_impossible_one_explains_itself(rooms: Rooms, tmp_path: Path) -> None:
    waiting = rooms.submit(params={"wait_at": 2, "wait_for": str(tmp_path / "never")})
    failing = rooms.submit(params={"raise_at": 2})
    until(rooms, waiting.id, lambda run: run.progress is not None)
    with rooms.db.transaction() as session:
        rooms.jobs.cancel(session, waiting.project_id, waiting.id)
    assert until(rooms, waiting.id, lambda run: run.is_over).state == "cancelled"
    done = until(rooms, failing.id, lambda run: run.is_over)
    assert done.error is not None
    assert done.error["message"] == "ValueError: step 2 is impossible"
    assert "Traceback" in rooms.log(failing.id)


def test_workers_on_two_nodes_share_a_run_and_all_of_them_hear_that_it_is_cancelled(
    rooms: Rooms, ray_cluster: RayCluster
) -> None:
    # A node has two cores, so that each gets one worker.
    run = rooms.submit(
        task="toy-together",
        inputs={"train": rooms.dataset()},
        params={"steps": 100_000, "pause_s": 0.05},
        resources={"workers": 2, "cpu": 1.5},
    )
    until(rooms, run.id, lambda run: run.progress is not None and run.progress["done"] >= 3)
    with rooms.db.transaction() as session:
        rooms.jobs.cancel(session, run.project_id, run.id)
    done = until(rooms, run.id, lambda run: run.is_over)
    # On a busy machine a node may miss its heartbeats: then another attempt was under way.
    assert (done.state, done.has_checkpoint) == ("cancelled", True), rooms.log(run.id)
    assert rooms.metrics(run.id)["total"][3] == 27.0
    nodes = set(re.findall(r"ip=([0-9.]+), pid=(\d+)\) world_rank", rooms.log(run.id)))
    assert len(nodes) >= 2
