"""Attempts as Ray jobs: scheduled on any node of a cluster that has the cores, memory and accelerators they ask for.

The worker fetches its spec from this server and ships its journal back, both over HTTP with a token of its own; blobs go
through the storage. So a node needs the package, the server's address and access to the storage, and no file of ours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from modelworks.contract.capability import Resources
from modelworks.contract.errors import MissingExtra, Unavailable
from modelworks.kernel.jobs.executors import Launch, Status
from modelworks.kernel.jobs.shipping import ATTEMPT, RUN, TOKEN, URL

Answer = TypeVar("Answer")

#: The journal tells the end of a run at once; asking the cluster only serves to notice a death.
_POLL_S = 2.0
#: Read by the node's shell.
_ENTRYPOINT = 'exec "${MODELWORKS_PYTHON:-$MODELWORKS_SERVER_PYTHON}" -P -m modelworks.kernel.jobs.worker'
#: How long a cluster that does not answer is left alone.
_AWAY_S = 5.0
_MAX_DETAIL_CHARS = 500
#: What the process occupies that leads several workers: enough to be placed on a node that works, too little to be in the way.
_LEADER = Resources(cpu=0.1, memory_bytes=512 << 20)
#: Refusals of a cluster that is coming up or has just lost nodes: it will take the job later, so the run is not to blame.
_NOT_YET = ("No available agent", "status code 502", "status code 503", "status code 504")


class RayExecutor:
    """Runs each attempt through Ray's Jobs API. A handle is the submission id, `run id-attempt`.

    Args:
        address: the cluster's dashboard, `http://host:8265`.
        server_url: how the cluster's nodes reach this server.
        python: the interpreter on the nodes, which `MODELWORKS_PYTHON` in a node's own environment overrides; by default
            the path of this server's, as on nodes made of the same image.
        env: further environment of the workers.
        grace_s: how long a run may take to stop by itself before its job is stopped.
    """

    name = "ray"
    remote = True

    def __init__(
        self,
        address: str,
        server_url: str,
        *,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        grace_s: float = 30.0,
    ) -> None:
        self._address = address
        self._server_url = server_url
        self._python = python
        self._env = dict(env or {})
        self._grace_s = grace_s
        self._client: Any = None
        self._away_until = 0.0
        self._away_reason = ""
        self._seen: dict[str, tuple[float, Status, str]] = {}

    def start(self, launch: Launch) -> str:
        """Submit the job; raises Unavailable while the cluster does not answer, MissingExtra without Ray."""
        handle = f"{launch.run_id}-{launch.attempt}"
        wanted = launch.resources
        # Of several workers each gets its place from Ray Train; the attempt's process only leads them.
        own = wanted if wanted.workers == 1 else _LEADER
        environment = {
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(max(1, int(wanted.cpu))),
            URL: self._server_url,
            RUN: launch.run_id,
            ATTEMPT: str(launch.attempt),
            TOKEN: launch.token,
            "MODELWORKS_SERVER_PYTHON": self._python,
        }
        self._ask(
            lambda client: client.submit_job(
                entrypoint=_ENTRYPOINT,
                submission_id=handle,
                entrypoint_num_cpus=own.cpu,
                entrypoint_num_gpus=own.gpu or None,
                entrypoint_memory=own.memory_bytes,
                runtime_env={"env_vars": environment | self._env | dict(launch.env)},
                metadata={"run_id": launch.run_id, "attempt": str(launch.attempt)},
            )
        )
        return handle

    def find(self, run_id: str, attempt: int) -> str | None:
        handle = f"{run_id}-{attempt}"
        return None if self._look(handle)[1] == "UNKNOWN" else handle

    def poll(self, handle: str) -> Status:
        """Raises Unavailable while the cluster does not answer: that says nothing about the run."""
        return self._look(handle)[0]

    def cancel(self, handle: str, elapsed_s: float) -> None:
        """The worker hears it with the answer to its next entries; one that waits for a place or does not listen is stopped."""
        if self._look(handle)[1] == "PENDING" or elapsed_s >= self._grace_s:
            self.kill(handle)

    def kill(self, handle: str) -> None:
        if self._look(handle)[0].state == "running":
            self._ask(lambda client: client.stop_job(handle))
            self._seen.pop(handle, None)

    def limits_silence(self, handle: str) -> bool:
        return self._look(handle)[1] == "RUNNING"

    def sweep(self, active: Collection[tuple[str, int]]) -> None:
        """Nothing to do: a worker that is no longer wanted is told so by the server and ends itself."""

    def cleanup(self, handle: str) -> None:
        """Take the ended job off the cluster's list; the log is here already."""
        self._seen.pop(handle, None)
        self._ask(lambda client: client.delete_job(handle), missing=False)

    def _look(self, handle: str) -> tuple[Status, str]:
        """What the cluster says, at most `_POLL_S` old: (status, the cluster's own word for it)."""
        seen = self._seen.get(handle)
        if seen is not None and time.monotonic() - seen[0] < _POLL_S:
            return seen[1], seen[2]
        info = self._ask(lambda client: client.get_job_info(handle), missing=None)
        if info is None:
            status, word = Status("exited", None, "the cluster no longer knows it"), "UNKNOWN"
        else:
            word = str(info.status.value)
            status = Status("running") if not info.status.is_terminal() else _ended(info, word)
        self._seen[handle] = (time.monotonic(), status, word)
        return status, word

    def _ask(self, question: Callable[[Any], Answer], **missing: Answer) -> Answer:
        """Put a question to the cluster; `missing` is the answer where it does not know the job."""
        if time.monotonic() < self._away_until:
            raise self._away()
        try:
            if self._client is None:
                self._client = _connect(self._address)
            return question(self._client)
        except OSError as error:
            self._client = None
            raise self._away_for(error) from error
        except RuntimeError as error:
            # The client reports every refusal as a RuntimeError with the HTTP status in its text.
            if missing and ("404" in str(error) or "does not exist" in str(error)):
                return missing["missing"]
            if any(sign in str(error) for sign in _NOT_YET):
                raise self._away_for(error) from error
            raise Unavailable(f"The Ray cluster at {self._address} refused: {_first_line(error)}.") from error

    def _away_for(self, error: Exception) -> Unavailable:
        # Every question would wait for its time limit; a pause keeps the other runs' affairs going.
        self._away_until = time.monotonic() + _AWAY_S
        self._away_reason = _first_line(error)
        return self._away()

    def _away(self) -> Unavailable:
        return Unavailable(
            f"The Ray cluster at {self._address} does not answer: {self._away_reason}.",
            hint="Check MODELWORKS_RAY_ADDRESS and whether the cluster is up.",
            retry_after_s=_AWAY_S,
        )


def _connect(address: str) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError as error:
        raise MissingExtra.of("ray", "cluster") from error
    return JobSubmissionClient(address)


def _ended(info: Any, word: str) -> Status:
    message = _first_line(info.message or "")[:_MAX_DETAIL_CHARS]
    return Status("exited", info.driver_exit_code, message or word.lower())


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
