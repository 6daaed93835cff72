"""Where replicas run. A back end starts, watches and stops them; it decides nothing."""

from __future__ import annotations

from typing import Protocol

from modelworks.kernel.serving.schemas import ReplicaSpec, ReplicaStatus


class Backend(Protocol):
    """Called from the reconciler's threads; no method may take long."""

    #: One replica of ours stands for all `num_replicas` of a deployment: the back end scales by itself.
    scales: bool
    #: Its replicas outlive the server and can be taken over by the next one with `adopt`.
    outlives: bool
    #: The model must be materialised on this machine before `start`.
    needs_folder: bool

    def start(self, spec: ReplicaSpec) -> str:
        """Begin to start a replica; returns a handle that means it to this back end, also after a restart of the server."""
        ...

    def adopt(self, spec: ReplicaSpec, handle: str) -> None:
        """Take over a replica that an earlier server started (only where `outlives`)."""
        ...

    def poll(self, handle: str) -> ReplicaStatus:
        """How it is now; "stopped" once everything of it is gone after `stop`."""
        ...

    def stop(self, handle: str, drain_s: float) -> None:
        """Begin to stop it: it has `drain_s` seconds to finish what it is doing. `poll` says when it is gone."""
        ...

    def forget(self, handle: str) -> None:
        """Get rid of a replica that an earlier server left behind; one that is gone is no error."""
        ...

    def close(self) -> None:
        """The server ends: stop what does not outlive it, and wait for that."""
        ...


__all__ = ["Backend"]
