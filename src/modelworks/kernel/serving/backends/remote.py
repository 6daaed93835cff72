"""A server elsewhere that speaks OpenAI's protocol: nothing to start, only to look at from time to time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.base.egress import ask, check_url
from modelworks.kernel.serving.schemas import STORED, ReplicaSpec, ReplicaStatus

#: The value of a project's secret, by the project's id and the secret's name.
OpenSecret = Callable[[str, str], str]

PROBE_EVERY_S = 15.0
_PROBE_TIMEOUT_S = 5.0
_MAX_LIST_BYTES = 16 << 20


@dataclass(slots=True)
class _Upstream:
    spec: ReplicaSpec
    status: ReplicaStatus | None = None
    next_probe: float = 0.0


class RemoteBackend:
    """Watches upstream servers.

    Args:
        allow: private addresses that may be reached; see `egress.check_url`.
        open_secret: gives the value of a project's secret.
    """

    scales = True
    outlives = False
    needs_folder = False

    def __init__(self, allow: Sequence[str], open_secret: OpenSecret | None = None) -> None:
        self._allow = tuple(allow)
        self._open_secret = open_secret
        self._upstreams: dict[str, _Upstream] = {}
        self._lock = threading.Lock()

    def start(self, spec: ReplicaSpec) -> str:
        with self._lock:
            self._upstreams[spec.replica_id] = _Upstream(spec)
        return spec.replica_id

    def adopt(self, spec: ReplicaSpec, handle: str) -> None:
        """There is no state to take over: looking again is enough."""
        raise ModelworksError(f"The upstream {spec.base_url} of replica {handle} is looked at afresh, not taken over.")

    def poll(self, handle: str) -> ReplicaStatus:
        with self._lock:
            upstream = self._upstreams.get(handle)
        if upstream is None:
            return ReplicaStatus(state="stopped")
        if upstream.status is None or time.monotonic() >= upstream.next_probe:
            upstream.status = self._probe(upstream.spec)
            upstream.next_probe = time.monotonic() + PROBE_EVERY_S
        if upstream.status.state == "failed":
            with self._lock:
                self._upstreams.pop(handle, None)
        return upstream.status

    def stop(self, handle: str, drain_s: float) -> None:
        with self._lock:
            self._upstreams.pop(handle, None)

    def forget(self, handle: str) -> None:
        return

    def close(self) -> None:
        with self._lock:
            self._upstreams.clear()

    def _probe(self, spec: ReplicaSpec) -> ReplicaStatus:
        url = f"{spec.base_url}/models"
        try:
            check_url(url, self._allow)
            headers = upstream_headers(spec.api_key_env, spec.project_id, self._open_secret)
        except ModelworksError as error:
            hint = f" {error.hint}" if error.hint else ""
            return ReplicaStatus(state="failed", error=f"{error.message}{hint}", permanent=not error.retryable)
        try:
            # To the addresses that were checked, whatever the name says now; and no answer keeps the reconciler for long.
            code = ask(url, headers=headers, timeout_s=_PROBE_TIMEOUT_S, max_bytes=_MAX_LIST_BYTES, allow=self._allow).status
        except ModelworksError as error:
            return ReplicaStatus(state="failed", error=f"{spec.base_url} does not answer: {error.message}")
        if code in (401, 403):
            name = spec.api_key_env or ""
            where = f"the variable {name}" if name else "api_key_env (it is not given)"
            if name.startswith(STORED):
                where = f"the secret {name.removeprefix(STORED)}"
            return ReplicaStatus(
                state="failed", error=f"{spec.base_url} refuses our key (HTTP {code}). Check {where}.", permanent=True
            )
        if code >= 500:
            return ReplicaStatus(state="failed", error=f"{spec.base_url} answers GET /models with HTTP {code}.")
        # Not every server lists its models; one that answers at all is there.
        return ReplicaStatus(state="ready", url=spec.base_url, upstream_model=spec.upstream_model or spec.name)


def upstream_headers(api_key_env: str | None, project_id: str, open_secret: OpenSecret | None) -> dict[str, str]:
    """The authorisation for an upstream server, read from our environment or from a secret of the project.

    Raises:
        ModelworksError: the variable is not set, or there is no such secret, or it cannot be read.
    """
    if api_key_env is None:
        return {}
    if api_key_env.startswith(STORED) and open_secret is not None:
        return {"Authorization": f"Bearer {open_secret(project_id, api_key_env.removeprefix(STORED))}"}
    key = os.environ.get(api_key_env)
    if not key:
        raise ModelworksError(
            f"The environment variable {api_key_env} is not set where the server runs.",
            hint="Set it to the upstream server's key and start the server again.",
            code="upstream_key_missing",
        )
    return {"Authorization": f"Bearer {key}"}
