"""Replicas as processes of this machine: each in its own process group, tied to the server by a pipe."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import structlog

from modelworks.contract.errors import ModelworksError, from_wire
from modelworks.kernel.base.settings import without_secrets
from modelworks.kernel.serving.schemas import ReplicaSpec, ReplicaStatus

log = structlog.get_logger(__name__)

#: A ready replica is asked for its health so often, and given up after so long a silence.
HEALTH_EVERY_S = 5.0
HEALTH_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 2.0
_TAIL_BYTES = 2000


@dataclass(slots=True)
class _Process:
    spec: ReplicaSpec
    popen: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    kill_at: float | None = None
    ready: ReplicaStatus | None = None
    last_answer: float = 0.0
    next_probe: float = 0.0


class LocalBackend:
    """Starts `serving.worker` for predictors and `backends.supervised` for servers that speak OpenAI's protocol.

    Args:
        env: further environment variables of every replica.
    """

    scales = False
    outlives = False
    needs_folder = True

    def __init__(self, env: dict[str, str] | None = None) -> None:
        self._env = env or {}
        self._processes: dict[str, _Process] = {}
        self._lock = threading.Lock()

    def start(self, spec: ReplicaSpec) -> str:
        """Start the process. Returns `pid:start time`, which no later process will have."""
        spec.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        path = write_spec(spec)
        (spec.folder / "status.json").unlink(missing_ok=True)
        module = (
            "modelworks.kernel.serving.worker" if spec.kind == "predictor" else "modelworks.kernel.serving.backends.supervised"
        )
        with spec.log_path.open("ab") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, str(path)],
                # The replica reads from this pipe; it ends when we end. Nobody else inherits our end of it.
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**without_secrets(os.environ), "PYTHONUNBUFFERED": "1", **self._env},
                start_new_session=True,
            )
        handle = f"{popen.pid}:{_start_time(popen.pid)}"
        with self._lock:
            self._processes[handle] = _Process(spec, popen)
        return handle

    def adopt(self, spec: ReplicaSpec, handle: str) -> None:
        """Local replicas end with their server, so there is never one to take over."""
        raise ModelworksError(f"The local replica {spec.replica_id} of process {handle} cannot be taken over.")

    def poll(self, handle: str) -> ReplicaStatus:
        with self._lock:
            process = self._processes.get(handle)
        if process is None:
            return ReplicaStatus(state="stopped")
        code = process.popen.poll()
        if code is not None:
            return self._ended(handle, process, code)
        if process.kill_at is not None:
            if time.monotonic() >= process.kill_at:
                _kill_group(process.popen.pid)
            return ReplicaStatus(state="starting")
        status = _read_status(process.spec.folder)
        if process.ready is not None:
            return self._check_alive(process)
        found = _predictor_status(status) if process.spec.kind == "predictor" else self._server_status(process, status)
        if found.state == "ready":
            process.ready = found
            process.last_answer = time.monotonic()
            process.next_probe = process.last_answer + HEALTH_EVERY_S
        return found

    def stop(self, handle: str, drain_s: float) -> None:
        with self._lock:
            process = self._processes.get(handle)
        if process is None or process.kill_at is not None:
            return
        process.kill_at = time.monotonic() + drain_s
        if process.popen.poll() is None:
            process.popen.terminate()

    def forget(self, handle: str) -> None:
        pid, _, start_time = handle.partition(":")
        if pid.isdigit() and _start_time(int(pid)) == start_time:
            log.warning("a replica of an earlier server is still running and is killed", pid=pid)
            _kill_group(int(pid))

    def close(self) -> None:
        with self._lock:
            processes = list(self._processes.values())
            self._processes.clear()
        for process in processes:
            if process.popen.poll() is None:
                process.popen.terminate()
        deadline = time.monotonic() + 5.0
        for process in processes:
            try:
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("a replica does not end and is killed", replica=process.spec.replica_id)
            _kill_group(process.popen.pid)
            process.popen.wait()
            _close_pipe(process.popen)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _ended(self, handle: str, process: _Process, code: int) -> ReplicaStatus:
        # Children of the replica may be left in its group.
        _kill_group(process.popen.pid)
        _close_pipe(process.popen)
        with self._lock:
            self._processes.pop(handle, None)
        if process.kill_at is not None:
            return ReplicaStatus(state="stopped")
        status = _read_status(process.spec.folder)
        if status.get("state") == "failed" and isinstance(status.get("error"), dict):
            error = from_wire(status["error"])
            hint = f" {error.hint}" if error.hint else ""
            return ReplicaStatus(state="failed", error=f"{error.message}{hint}", permanent=not error.retryable)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return ReplicaStatus(state="failed", error=with_tail(f"The replica {how}.", process.spec.log_path))

    def _check_alive(self, process: _Process) -> ReplicaStatus:
        assert process.ready is not None  # noqa: S101 - the caller's condition
        now = time.monotonic()
        if now >= process.next_probe:
            process.next_probe = now + HEALTH_EVERY_S
            if _get_status(_health_url(process)) is not None:
                process.last_answer = time.monotonic()
            elif now - process.last_answer > HEALTH_TIMEOUT_S:
                _kill_group(process.popen.pid)
                silence = int(now - process.last_answer)
                log.warning("a replica is silent and is killed", replica=process.spec.replica_id, silence_s=silence)
        return process.ready

    def _server_status(self, process: _Process, status: dict[str, Any]) -> ReplicaStatus:
        if "command" not in status:
            return ReplicaStatus(state="starting")
        command = status["command"]
        base = f"http://127.0.0.1:{status['port']}"
        if _get_status(base + command["health_path"]) == 200:
            port = status["adapters_port"]
            return ReplicaStatus(
                state="ready",
                url=base + command["api_path"].rstrip("/"),
                upstream_model=command["model"],
                holds_adapters=port is not None,
                adapters_url=None if port is None else f"http://127.0.0.1:{port}/adapters",
            )
        if time.monotonic() - process.started > command["start_timeout_s"]:
            process.kill_at = time.monotonic()
            _kill_group(process.popen.pid)
            process.popen.wait()
            message = f"The server did not become healthy within {command['start_timeout_s']:.0f} seconds."
            return ReplicaStatus(state="failed", error=with_tail(message, process.spec.log_path))
        return ReplicaStatus(state="starting")


def write_spec(spec: ReplicaSpec) -> Path:
    """Write spec.json, readable by its owner alone; returns its path."""
    path = spec.folder / "spec.json"
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(spec.model_dump_json(), encoding="utf-8")
    temporary.replace(path)
    return path


def with_tail(message: str, log_path: Path) -> str:
    """The message, followed by the end of the replica's log."""
    try:
        with log_path.open("rb") as log_file:
            log_file.seek(max(0, log_path.stat().st_size - _TAIL_BYTES))
            tail = log_file.read().decode("utf-8", "replace").strip()
    except OSError:
        tail = ""
    return f"{message} The end of its log:\n{tail}" if tail else message


def _read_status(folder: Path) -> dict[str, Any]:
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _predictor_status(status: dict[str, Any]) -> ReplicaStatus:
    if status.get("state") == "ready":
        holds = bool(status.get("holds_adapters"))
        url = f"http://127.0.0.1:{status['port']}"
        return ReplicaStatus(state="ready", url=url, holds_adapters=holds, adapters_url=f"{url}/adapters")
    return ReplicaStatus(state="starting")


def _health_url(process: _Process) -> str:
    assert process.ready is not None  # noqa: S101 - the caller's condition
    if process.spec.kind == "predictor":
        return f"{process.ready.url}/health"
    status = _read_status(process.spec.folder)
    return f"http://127.0.0.1:{status['port']}{status['command']['health_path']}"


def _get_status(url: str) -> int | None:
    """The status with which a server on this machine answers, or None when it does not."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _start_time(pid: int) -> str:
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _close_pipe(popen: subprocess.Popen[bytes]) -> None:
    if popen.stdin is not None:
        popen.stdin.close()
