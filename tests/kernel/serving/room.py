"""The serving room with everything it needs, without an HTTP server in front; and waiting for what processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kernel.ready_tables import open_sqlite

from modelworks.contract.media import File
from modelworks.kernel.access import Sealer, SecretService
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService, Version
from modelworks.kernel.serving import Deployment, DeploymentSpec, Reconciler, ReplicaPool, Route, ServingService
from modelworks.kernel.serving.backends import Backend
from modelworks.kernel.serving.backends.local import LocalBackend
from modelworks.kernel.serving.backends.remote import RemoteBackend
from modelworks.kernel.storage import BlobStore

PROJECT = "prj_test"
TOYS = Path(__file__).parent / "toys"


@dataclass
class Room:
    """The serving room with everything it needs, without an HTTP server in front."""

    settings: Settings
    db: Database
    events: Events
    blobs: BlobStore
    catalog: CatalogService
    service: ServingService
    pool: ReplicaPool
    reconciler: Reconciler

    def register(self, greeting: str, name: str = "greeter", task: str = "echo", kind: str = "model") -> Version:
        info = self.blobs.put(greeting.encode())
        files = [File(path="greeting.txt", digest=info.digest, num_bytes=info.num_bytes)]
        with self.db.transaction() as session:
            return self.catalog.register(session, PROJECT, kind=kind, name=name, files=files, task=task, source=greeting)

    def alias(self, ref: str, alias: str) -> None:
        with self.db.transaction() as session:
            self.catalog.set_alias(session, PROJECT, ref, alias)

    def apply(self, name: str = "toy", **spec: Any) -> Deployment:
        with self.db.transaction() as session:
            return self.service.apply(session, PROJECT, DeploymentSpec(name=name, **spec))

    def get(self, name: str = "toy") -> Deployment:
        with self.db.reading() as session:
            return self.service.get(session, PROJECT, name)

    def remove(self, name: str = "toy") -> None:
        with self.db.transaction() as session:
            self.service.remove(session, PROJECT, name)

    async def invoke(self, name: str = "toy", wait_s: float = 30.0, **request: Any) -> dict[str, Any]:
        """One request as the gateway makes it; `status` is added to the answer."""
        async with self.pool.acquire(PROJECT, name, wait_s) as route:
            return await self.post(route, "/invoke", request)

    async def post(self, route: Route, path: str, request: dict[str, Any]) -> dict[str, Any]:
        async with self.pool.http.post(route.base_url + path, json=request, headers=route.headers) as response:
            answer: dict[str, Any] = await response.json()
            return answer | {"status": response.status}


def build_room(settings: Settings, db: Database | None = None, **backends: Backend) -> Room:
    """Wire the room as the server does, with short grace."""
    if db is None:
        db = open_sqlite(settings.home / "modelworks.db")
    events, clock = Events(), SystemClock()
    blobs = BlobStore(str(settings.home / "blobs"))
    catalog = CatalogService(db, blobs, clock, events, settings)
    service = ServingService(db, catalog, clock, events, settings)
    pool = ReplicaPool()
    local = LocalBackend({"MODELWORKS_REPLICA_GRACE_S": "1"})
    known: dict[str, Backend] = {"predictor": local, "openai": local}
    secrets = SecretService(db, clock, Sealer.from_file(settings.effective_secret_key_file))
    known["upstream"] = RemoteBackend(["127.0.0.1"], secrets.value)
    reconciler = Reconciler(db, catalog, clock, events, settings, pool, known | backends, open_secret=secrets.value)
    return Room(settings, db, events, blobs, catalog, service, pool, reconciler)


def wait_until(look: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Look until there is something to see."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
