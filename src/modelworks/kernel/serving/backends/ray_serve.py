"""Replicas on a Ray cluster: one Serve application per deployment, made of the same application as a local replica.

We speak to the cluster through its REST interface alone, so the server needs no Ray of its own. That interface replaces the
whole list of applications at once; applications that others declared there are declared again as they are.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import structlog

from modelworks.contract.errors import Unavailable, from_wire
from modelworks.kernel.serving.backends.local import write_spec
from modelworks.kernel.serving.schemas import ReplicaSpec, ReplicaStatus

log = structlog.get_logger(__name__)

_TIMEOUT_S = 30.0
#: Starting Serve itself takes a while on the first application.
_FIRST_TIMEOUT_S = 180.0
#: All replicas of the cluster are looked at together, at most so often.
_LOOK_EVERY_S = 1.0
#: How a replica's own error stands in what Serve tells.
ERROR_MARK = "modelworks-error "
_OUR_ERROR = re.compile(rf"{ERROR_MARK}(\{{.*\}})")
_BUILDER = "modelworks.kernel.serving.backends.ray_app:build_application"


@dataclass(slots=True)
class _Application:
    spec: ReplicaSpec
    declared: dict[str, Any]
    stop_at: float | None = None
    submitted: bool = False
    #: It has answered once: from then on Serve keeps it answering while it repairs or declares anew.
    ready: bool = False


class RayServeBackend:
    """Declares applications on a cluster.

    Args:
        address: the Ray dashboard, `http://host:8265`.
        proxy_url: Serve's HTTP proxy as seen from here, `http://host:8000`.
        storage_url, storage_options: where replicas fetch models; the cluster's nodes must reach it. The options travel in
            the application's arguments, so the dashboard must be as private as the storage.
        env: environment variables of the replicas.
    """

    scales = True
    outlives = True
    needs_folder = False

    def __init__(
        self,
        address: str,
        proxy_url: str,
        storage_url: str,
        storage_options: dict[str, Any],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._address = address.rstrip("/")
        self._proxy_url = proxy_url.rstrip("/")
        self._storage = {"url": storage_url, "options": storage_options}
        self._env = dict(env or {})
        self._applications: dict[str, _Application] = {}
        self._lock = threading.Lock()
        self._details: dict[str, Any] = {}
        self._looked_at = float("-inf")
        self._http = httpx.Client(base_url=self._address, timeout=_TIMEOUT_S, trust_env=False)

    def start(self, spec: ReplicaSpec) -> str:
        spec.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_spec(spec)
        handle = f"modelworks-{spec.replica_id}"
        with self._lock:
            self._applications[handle] = _Application(spec, self._declare(handle, spec))
        return handle

    def adopt(self, spec: ReplicaSpec, handle: str) -> None:
        with self._lock:
            self._applications[handle] = _Application(spec, self._declare(handle, spec), submitted=True)

    def poll(self, handle: str) -> ReplicaStatus:
        with self._lock:
            application = self._applications.get(handle)
            if application is None:
                return ReplicaStatus(state="stopped")
            try:
                if application.stop_at is not None or not application.submitted:
                    self._submit()
                details = self._look()
            except httpx.HTTPError as error:
                log.warning("the Ray cluster does not answer", address=self._address, error=str(error))
                if application.ready and application.stop_at is None:
                    # The dashboard is away; the proxy and the replicas may well go on answering.
                    return self._ready(handle)
                return ReplicaStatus(state="starting", error=f"The Ray cluster at {self._address} does not answer: {error}.")
            if application.stop_at is not None:
                if handle not in details:
                    del self._applications[handle]
                    return ReplicaStatus(state="stopped")
                return ReplicaStatus(state="starting")
        return self._status(handle, application, details.get(handle))

    def stop(self, handle: str, drain_s: float) -> None:
        with self._lock:
            application = self._applications.get(handle)
            if application is not None:
                # Serve itself waits for requests in flight before it ends a replica.
                application.stop_at = time.monotonic()

    def forget(self, handle: str) -> None:
        with self._lock:
            try:
                self._submit(without=handle)
            except httpx.HTTPError as error:
                log.warning("an application of an earlier server stays on the cluster", application=handle, error=str(error))

    def close(self) -> None:
        """Applications live on: the next server takes them over."""
        self._http.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _status(self, handle: str, application: _Application, details: dict[str, Any] | None) -> ReplicaStatus:
        state = None if details is None else details.get("status")
        message = "" if details is None else str(details.get("message") or "")
        if state == "DEPLOY_FAILED" or (details is None and application.ready):
            with self._lock:
                self._applications.pop(handle, None)
                self._looked_at = float("-inf")
            self.forget(handle)
            inner = [str(each.get("message") or "") for each in ((details or {}).get("deployments") or {}).values()]
            return _failure("\n".join([message or "the application is gone from the cluster", *inner]).strip())
        if state == "RUNNING" or application.ready:
            application.ready = True
            return self._ready(handle)
        return ReplicaStatus(state="starting", error=message or None)

    def _ready(self, handle: str) -> ReplicaStatus:
        return ReplicaStatus(state="ready", url=f"{self._proxy_url}/{handle}")

    def _look(self) -> dict[str, Any]:
        if time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            answer = self._http.get("/api/serve/applications/")
            answer.raise_for_status()
            self._details = answer.json().get("applications") or {}
            self._looked_at = time.monotonic()
        return self._details

    def _submit(self, without: str | None = None) -> None:
        """Declare the applications that are wanted, beside those of others."""
        self._looked_at = float("-inf")
        present = self._look()
        wanted = {name: each.declared for name, each in self._applications.items() if each.stop_at is None}
        gone = {name for name, each in self._applications.items() if each.stop_at is not None} | {without}
        if not any(name not in present for name in wanted) and not any(name in present for name in gone):
            self._mark_submitted()
            return
        deleting = {name for name, details in present.items() if details.get("status") == "DELETING"}
        for name, details in present.items():
            declared = details.get("deployed_app_config")
            if name not in wanted and name not in gone and name not in deleting and declared:
                wanted[name] = declared
        if {name for name in present if name not in deleting} != set(wanted):
            body: dict[str, Any] = {"applications": list(wanted.values())}
            if not present:
                body |= self._proxy_options()
            answer = self._http.put("/api/serve/applications/", json=body, timeout=_FIRST_TIMEOUT_S)
            if answer.status_code == 400:
                raise Unavailable(f"Ray Serve refuses the applications: {answer.text[:1000]}")
            answer.raise_for_status()
        self._looked_at = float("-inf")
        self._mark_submitted()

    def _mark_submitted(self) -> None:
        for application in self._applications.values():
            application.submitted = True

    def _proxy_options(self) -> dict[str, Any]:
        """Where Serve's proxy listens: only heeded when Serve is not running yet.

        One proxy, on the head: requests go to one address alone, and a proxy on every node comes and goes with the replicas
        there, ending connections that were just made where nodes share an address.
        """
        url = httpx.URL(self._proxy_url)
        host = "127.0.0.1" if url.host in ("127.0.0.1", "localhost") else "0.0.0.0"  # noqa: S104 - the cluster's own network
        return {"proxy_location": "HeadOnly", "http_options": {"host": host, "port": url.port or 8000}}

    def _declare(self, handle: str, spec: ReplicaSpec) -> dict[str, Any]:
        return {
            "name": handle,
            "route_prefix": f"/{handle}",
            "import_path": _BUILDER,
            "args": {"spec": spec.model_dump(mode="json"), "storage": self._storage},
            "runtime_env": {"env_vars": self._env} if self._env else {},
        }


def _failure(message: str) -> ReplicaStatus:
    """Serve tells a traceback; what the replica itself said stands in it (`ray_app.make_replica`)."""
    said = _OUR_ERROR.findall(message)
    if said:
        with contextlib.suppress(ValueError):
            error = from_wire(json.loads(said[-1]))
            hint = f" {error.hint}" if error.hint else ""
            return ReplicaStatus(state="failed", error=f"{error.message}{hint}", permanent=not error.retryable)
    return ReplicaStatus(state="failed", error=f"Ray Serve: {message[-4000:]}")
