"""Fixtures of the serving room: toy tasks, a model with several versions, and the whole room running."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests.kernel.serving.room import TOYS, Room, build_room

from modelworks.kernel.base.database import Database
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import refresh
from modelworks.kernel.serving.backends import Backend


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy capability is installed, here and in every process that is started."""
    monkeypatch.syspath_prepend(str(TOYS))
    monkeypatch.setenv("PYTHONPATH", str(TOYS), prepend=os.pathsep)
    refresh()
    yield
    monkeypatch.undo()
    refresh()


@pytest.fixture
def make_room(settings: Settings, toys: None) -> Iterator[Callable[..., Room]]:
    """Builds the room; called twice it is the next server on the same database."""
    made: list[Room] = []

    def make(db: Database | None = None, **backends: Backend) -> Room:
        room = build_room(settings, db, **backends)
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
