"""A Ray cluster of three nodes on this machine: a head that only coordinates, and two nodes that work."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

_PATIENCE_S = 180.0
_MIB = 1 << 20
_ENVIRONMENT = {
    # A loaded machine takes its time to start a node.
    "RAY_raylet_start_wait_time_s": "200",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Nodes share one machine: none of them may end work because another has filled the memory.
    "RAY_memory_monitor_refresh_ms": "0",
    # Tests that only ask for a place must not wait for it in front of an empty machine.
    "RAY_JOB_START_TIMEOUT_SECONDS": "300",
}


@dataclass
class RayCluster:
    """Addresses of the cluster, and a way to lose a node."""

    #: Of the control service, for `ray.init(address=…)`.
    address: str
    #: For the Jobs API.
    dashboard_url: str
    #: Session folder and logs.
    folder: Path
    _cluster: Any
    _node_args: dict[str, Any]
    _workers: list[Any] = field(default_factory=list)

    @property
    def worker_ids(self) -> list[str]:
        """Ids of the living working nodes."""
        return [node.node_id for node in self._workers]

    def lose(self, node_id: str) -> None:
        """Kill a working node with everything that runs on it, as a power cut would."""
        [node] = [node for node in self._workers if node.node_id == node_id]
        self._workers.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def add(self) -> str:
        """Add a working node; returns its id."""
        node = self._cluster.add_node(wait=False, dashboard_agent_listen_port=_free_port(), **self._node_args)
        self._workers.append(node)
        return str(node.node_id)

    def restore(self) -> None:
        """Two working nodes again, for the next test."""
        while len(self._workers) < 2:
            self.add()

    def remove_applications(self) -> None:
        """Take every application of Serve off the cluster."""
        url = f"{self.dashboard_url}/api/serve/applications/"
        deadline = time.monotonic() + _PATIENCE_S
        while found := httpx.get(url, timeout=30).json()["applications"]:
            if any(details["status"] != "DELETING" for details in found.values()):
                httpx.put(url, json={"applications": []}, timeout=120).raise_for_status()
            assert time.monotonic() < deadline, "applications are still on the cluster"
            time.sleep(0.5)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """The cluster, started once; a test that loses a node calls `restore`."""
    pytest.importorskip("ray", reason="needs Ray (extra cluster)")
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    # Paths of sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="mwray", dir="/tmp"))
    # Ray notes the address there, wherever the cluster's own files lie, and does not make the folder.
    Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray").mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        port = _free_port()
        head = {
            "num_cpus": 0,
            "memory": 256 * _MIB,
            "object_store_memory": 80 * _MIB,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            # By default all agents on a machine want one port, and a head without its agent takes no jobs.
            "dashboard_agent_listen_port": _free_port(),
            "temp_dir": str(folder),
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            node_args = {"num_cpus": 2, "memory": 3072 * _MIB, "object_store_memory": 80 * _MIB, "temp_dir": str(folder)}
            made = RayCluster(cluster.address, f"http://127.0.0.1:{port}", folder, cluster, node_args)
            made.restore()
            _wait_until_jobs_are_taken(made.dashboard_url)
            yield made
        finally:
            with contextlib.suppress(Exception):
                cluster.shutdown()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def proxy_url() -> str:
    """Where Serve's proxy is to listen: the first deployment on the cluster decides it."""
    return f"http://127.0.0.1:{_free_port()}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_jobs_are_taken(url: str) -> None:
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            client = JobSubmissionClient(url)
            # Not only listed but taken: that needs the head's agent, which comes up last.
            job = client.submit_job(entrypoint="true")
            while not client.get_job_status(job).is_terminal():
                time.sleep(0.2)
            client.delete_job(job)
            return
        except Exception as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the Jobs API at {url} does not answer") from error
            time.sleep(1.0)
