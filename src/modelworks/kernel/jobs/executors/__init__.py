"""Where attempts run: one protocol, one implementation per file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from modelworks.contract.capability import Resources
from modelworks.kernel.jobs.schemas import LaunchSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One attempt, ready to start."""

    run_id: str
    attempt: int
    spec: LaunchSpec
    resources: Resources
    #: Indices of the accelerators that the attempt may use; empty where the executor chooses itself.
    devices: tuple[int, ...] = ()
    #: Secret with which a remote worker reports to the server.
    token: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """What an executor sees of an attempt from outside."""

    state: Literal["running", "exited"]
    #: None where nobody could see it (adopted or lost); negative: the signal that ended it.
    exit_code: int | None = None
    detail: str = ""
    #: The machine ended it because memory ran out, and the most that it had taken, where that was seen.
    out_of_memory: bool = False
    peak_bytes: int | None = None


class Executor(Protocol):
    """Starts attempts and watches them from outside. Called from one thread."""

    #: Recorded with each run.
    name: str
    #: True: the worker ships its journal over HTTP. False: its folder is on this machine.
    remote: bool

    def start(self, launch: Launch) -> str:
        """Start an attempt; returns a handle that a later server process understands too.

        Raises:
            ModelworksError: it could not be started.
        """
        ...

    def find(self, run_id: str, attempt: int) -> str | None:
        """The handle of an attempt that was started, but whose handle was not recorded because the server died; or None."""
        ...

    def poll(self, handle: str) -> Status: ...

    def cancel(self, handle: str, elapsed_s: float) -> None:
        """Ask the attempt to stop, more firmly the longer it has been asked. Called again and again until it has exited."""
        ...

    def kill(self, handle: str) -> None:
        """End the attempt and everything it started, at once."""
        ...

    def limits_silence(self, handle: str) -> bool:
        """Whether a silent attempt is a dead one: not while it still waits for a place on a cluster."""
        ...

    def sweep(self, active: Collection[tuple[str, int]]) -> None:
        """Free what attempts other than the `active` ones (run id, attempt) left while no server was there."""
        ...

    def cleanup(self, handle: str) -> None:
        """Free what an exited attempt leaves behind (processes, work folder); its log stays."""
        ...


__all__ = ["Executor", "Launch", "Status"]
