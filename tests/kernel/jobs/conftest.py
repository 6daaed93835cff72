"""The rooms below and including jobs, and a toy capability for their workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kernel.jobs.rooms import TOY, Rooms, make_rooms

from modelworks.kernel.base.database import Database
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy capability, installed for this process and its workers."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TOY), os.environ.get("PYTHONPATH")])))
    monkeypatch.syspath_prepend(str(TOY))
    discovery.refresh()
    yield
    discovery.refresh()


@pytest.fixture
def tune() -> dict[str, Any]:
    """Settings that a test module wants otherwise; override the fixture."""
    return {}


@pytest.fixture
def rooms(settings: Settings, database: Database, toy: None, tune: dict[str, Any]) -> Iterator[Rooms]:
    made = make_rooms(
        Settings(**({"home": settings.home, "slots_cpu": 4, "slots_memory_bytes": 8 << 30, "max_attempts": 3} | tune)), database
    )
    yield made
    # No test leaves a process behind, whatever it did.
    with database.reading() as session:
        active = made.jobs.attempts.active(session)
    for run in active:
        if run.handle is not None:
            made.executor.kill(run.handle)
            made.executor.cleanup(run.handle)
