"""Fixtures of the serving room: toy tasks, a model with several versions, and the whole room running."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.serving.room import TOYS, Room

from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Base, Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService, refresh
from modelworks.kernel.serving import Reconciler, ReplicaPool, ServingService
from modelworks.kernel.serving.backends.local import LocalBackend
from modelworks.kernel.serving.backends.remote import RemoteBackend
from modelworks.kernel.storage import BlobStore


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy capability is installed, here and in every process that is started."""
    monkeypatch.syspath_prepend(str(TOYS))
    monkeypatch.setenv("PYTHONPATH", str(TOYS))
    refresh()
    yield
    monkeypatch.undo()
    refresh()


@pytest.fixture
def make_room(settings: Settings, toys: None, tmp_path: Path) -> Iterator[Callable[..., Room]]:
    """Builds the room; called twice with the same database it is the next server on it."""
    made: list[Room] = []

    def make(**changes: Any) -> Room:
        db = Database(f"sqlite:///{settings.home / 'modelworks.db'}")
        Base.metadata.create_all(db.engine)
        events, clock = Events(), SystemClock()
        blobs = BlobStore(str(settings.home / "blobs"))
        catalog = CatalogService(db, blobs, clock, events, settings)
        service = ServingService(db, catalog, clock, events, settings)
        pool = ReplicaPool(max_queue=changes.pop("max_queue", 256))
        local = LocalBackend({"MODELWORKS_REPLICA_GRACE_S": "5"})
        backends = {"predictor": local, "openai": local, "upstream": RemoteBackend(lambda url: None), **changes}
        reconciler = Reconciler(db, catalog, clock, events, settings, pool, backends)
        room = Room(settings, db, events, blobs, catalog, service, pool, reconciler)
        made.append(room)
        return room

    yield make
    for room in made:
        room.reconciler.close()
        room.db.dispose()


@pytest.fixture
async def room(make_room: Callable[..., Room]) -> AsyncIterator[Room]:
    """The room, running."""
    made = make_room()
    await made.pool.start()
    made.reconciler.start()
    yield made
    await made.pool.close()
