"""Attempts as processes of this machine, each the head of its own session, which outlive the server."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import psutil

from modelworks.contract.errors import StorageFull, Unavailable
from modelworks.kernel.base.settings import without_secrets
from modelworks.kernel.jobs.executors import Launch, Status
from modelworks.kernel.jobs.folder import AttemptFolder

#: Each holds a line `oom_kill N`: of this container, and of the whole machine.
OUT_OF_MEMORY_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
_RUN = "MODELWORKS_RUN_ID"
_ATTEMPT = "MODELWORKS_RUN_ATTEMPT"
#: So long a process may be without its environment.
_NEWBORN_S = 2.0


class LocalExecutor:
    """A supervised subprocess per attempt.

    A handle is `pid:start time:boot:run/attempt`: a later server recognises the process by it and never mistakes another
    process that was given the same pid.

    Args:
        home: the platform's home folder.
        grace_s: how long a run may take to stop by itself before SIGTERM, and again before SIGKILL.
        python: the interpreter of the workers.
    """

    name = "local"
    remote = False

    def __init__(self, home: Path, *, grace_s: float = 10.0, python: str = sys.executable) -> None:
        self._home = home
        self._grace_s = grace_s
        self._python = python
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        #: By handle: how many processes the machine had ended for want of memory before, and the largest memory seen.
        self._kills: dict[str, int] = {}
        self._peaks: dict[str, int] = {}

    def start(self, launch: Launch) -> str:
        """Start the worker; raises StorageFull or Unavailable where the machine cannot."""
        folder = AttemptFolder.of(self._home, launch.run_id, launch.attempt)
        kills = _memory_kills()
        try:
            folder.create()
            folder.write_spec(launch.spec)
            with folder.log.open("ab") as log:
                child = subprocess.Popen(
                    [self._python, "-P", "-m", "modelworks.kernel.jobs.worker", str(folder.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder.work,
                    env=self._environment(launch),
                    start_new_session=True,
                )
        except OSError as error:
            folder.remove_private()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"The disk that holds the work folder of the run is full ({self._home}).",
                    hint="Free some space and resume the run.",
                ) from error
            raise Unavailable(f"The worker of the run could not be started: {error.strerror}.") from error
        self._children[child.pid] = child
        handle = _handle(child.pid, launch.run_id, launch.attempt)
        self._kills[handle] = kills
        return handle

    def find(self, run_id: str, attempt: int) -> str | None:
        """Look for the worker among this machine's processes by its environment."""
        deadline = time.monotonic() + _NEWBORN_S
        while True:
            has_newborn = False
            for process in psutil.process_iter():
                environment = None if process.pid == os.getpid() else _environment_of(process)
                if environment == {} and _is_newborn(process):
                    has_newborn = True
                elif environment and _names(environment, run_id, attempt):
                    with contextlib.suppress(OSError):
                        if os.getsid(process.pid) == process.pid:
                            return _handle(process.pid, run_id, attempt)
            if not has_newborn or time.monotonic() > deadline:
                return None
            time.sleep(0.01)

    def poll(self, handle: str) -> Status:
        pid = _pid(handle)
        kills = self._kills.setdefault(handle, _memory_kills())
        child = self._children.get(pid)
        code = None if child is None else child.poll()
        if code is None and (child is not None or _is_alive(handle)):
            if (peak := _peak(pid)) is not None:
                self._peaks[handle] = peak
            return Status("running")
        # An adopted worker's exit code is not told to us; that it is gone while the machine was out of memory says enough.
        ran_out = code in (None, -signal.SIGKILL) and _memory_kills() > kills
        return Status("exited", code, "" if code is None else _describe(code), ran_out, self._peaks.get(handle))

    def cancel(self, handle: str, elapsed_s: float) -> None:
        """A file first, then SIGTERM to the whole session, then SIGKILL."""
        folder = self._folder(handle)
        if not folder.cancel.exists():
            with contextlib.suppress(OSError):
                folder.cancel.touch()
        if elapsed_s >= 2 * self._grace_s:
            self._signal(handle, signal.SIGKILL)
        elif elapsed_s >= self._grace_s:
            self._signal(handle, signal.SIGTERM)

    def kill(self, handle: str) -> None:
        self._signal(handle, signal.SIGKILL)

    def limits_silence(self, handle: str) -> bool:
        return True

    def cleanup(self, handle: str) -> None:
        """End what the worker left running, and delete its folder but the log."""
        run_id, attempt = _run_of(handle)
        self._kills.pop(handle, None)
        self._peaks.pop(handle, None)
        child = self._children.pop(_pid(handle), None)
        if child is not None:
            child.poll()
        for process in psutil.process_iter():
            if process.pid != os.getpid() and _belongs(process, run_id, attempt):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self._folder(handle).remove_private()

    def sweep(self, active: Collection[tuple[str, int]]) -> None:
        """Delete what attempts left that ended while no server was there to clean up."""
        for path in (self._home / "runs").glob("*/*"):
            if path.is_dir() and path.name.isdigit() and (path.parent.name, int(path.name)) not in active:
                AttemptFolder(path).remove_private()

    def _folder(self, handle: str) -> AttemptFolder:
        run_id, attempt = _run_of(handle)
        return AttemptFolder.of(self._home, run_id, attempt)

    def _environment(self, launch: Launch) -> dict[str, str]:
        environment = without_secrets(os.environ)
        threads = str(max(1, int(launch.resources.cpu)))
        environment |= {
            "PYTHONUNBUFFERED": "1",
            # A run computes on the cores that it asked for; whoever set these knows better.
            "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", threads),
            # A run that asked for no accelerator sees none.
            "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in launch.devices),
            _RUN: launch.run_id,
            _ATTEMPT: str(launch.attempt),
        }
        return environment | dict(launch.env)

    def _signal(self, handle: str, number: signal.Signals) -> None:
        # The process is a session and group leader, so its pid names the group; checked to be still the same process.
        if _is_alive(handle):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(_pid(handle), number)


def _handle(pid: int, run_id: str, attempt: int) -> str:
    return f"{pid}:{_start_time(pid) or 0}:{_boot()}:{run_id}/{attempt}"


def _pid(handle: str) -> int:
    return int(handle.split(":", 1)[0])


def _run_of(handle: str) -> tuple[str, int]:
    run_id, _, attempt = handle.split(":", 3)[3].rpartition("/")
    return run_id, int(attempt)


def _is_alive(handle: str) -> bool:
    pid, started, boot, _ = handle.split(":", 3)
    return boot == _boot() and _start_time(int(pid)) == int(started)


def _start_time(pid: int) -> int | None:
    """Start of a process in ticks since boot; None where it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _peak(pid: int) -> int | None:
    """The most memory that a process has taken so far, in bytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return None if found is None else int(found) << 10


def _memory_kills() -> int:
    """How many processes the kernel of the machine has ended for want of memory, as far as it says."""
    most = 0
    for counter in OUT_OF_MEMORY_COUNTERS:
        with contextlib.suppress(OSError, ValueError):
            lines = (line.split() for line in counter.read_text().splitlines())
            most = max([most, *(int(words[1]) for words in lines if words[:1] == ["oom_kill"])])
    return most


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def _belongs(process: psutil.Process, run_id: str, attempt: int) -> bool:
    return _names(_environment_of(process) or {}, run_id, attempt)


def _names(environment: Mapping[str, str], run_id: str, attempt: int) -> bool:
    return environment.get(_RUN) == run_id and environment.get(_ATTEMPT) == str(attempt)


def _environment_of(process: psutil.Process) -> dict[str, str] | None:
    """A process's environment; None where it is gone or another user's."""
    try:
        return dict(process.environ())
    except (psutil.Error, OSError):
        return None


def _is_newborn(process: psutil.Process) -> bool:
    """Whether a process without an environment has begun just now: execve(2) sets it up after the parent goes on."""
    try:
        return time.time() - process.create_time() < _NEWBORN_S and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
