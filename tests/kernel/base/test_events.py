"""Announcements, ids and the clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from modelworks.kernel.access.store import ProjectRow
from modelworks.kernel.base.clock import FixedClock, SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id


@pytest.fixture
def heard(events: Events) -> list[dict[str, Any]]:
    payloads: list[dict[str, Any]] = []
    events.subscribe("run.changed", lambda topic, payload: payloads.append(payload))
    return payloads


def test_subscribers_hear_their_topic_until_they_leave(events: Events, heard: list[dict[str, Any]]) -> None:
    other: list[str] = []
    leave = events.subscribe("run.changed", lambda topic, payload: other.append(topic))
    events.publish("run.changed", run_id="run_1")
    events.publish("key.changed", key_id="key_1")
    leave()
    leave()
    events.publish("run.changed", run_id="run_2")
    assert heard == [{"run_id": "run_1"}, {"run_id": "run_2"}]
    assert other == ["run.changed"]


def test_a_failing_subscriber_does_not_disturb_the_others(events: Events) -> None:
    heard: list[str] = []

    def fails(topic: str, payload: dict[str, Any]) -> None:
        raise RuntimeError("broken")

    events.subscribe("run.changed", fails)
    events.subscribe("run.changed", lambda topic, payload: heard.append(topic))
    events.publish("run.changed")
    assert heard == ["run.changed"]


def test_after_a_commit_it_is_announced_once(database: Database, events: Events, heard: list[dict[str, Any]]) -> None:
    with database.transaction() as session:
        events.publish_after_commit(session, "run.changed", run_id="run_1")
        with session.begin_nested():
            events.publish_after_commit(session, "run.changed", run_id="run_2")
        assert heard == []
    assert sorted(item["run_id"] for item in heard) == ["run_1", "run_2"]


def test_after_a_rollback_nothing_is_announced(database: Database, events: Events, heard: list[dict[str, Any]]) -> None:
    def fail() -> None:
        with database.transaction() as session:
            events.publish_after_commit(session, "run.changed", run_id="run_1")
            raise OperationalError("x", {}, Exception("broken"))

    with pytest.raises(OperationalError):
        fail()
    assert heard == []


def test_what_is_announced_can_be_read(database: Database, events: Events) -> None:
    found: list[bool] = []

    def look(topic: str, payload: dict[str, Any]) -> None:
        with database.reading() as other:
            found.append(other.get(ProjectRow, "prj_1") is not None)

    events.subscribe("project.changed", look)
    with database.transaction() as session:
        session.add(ProjectRow(id="prj_1", name="x", created_at=SystemClock().now()))
        events.publish_after_commit(session, "project.changed")
    assert found == [True]


def test_ids_name_their_kind_and_never_repeat() -> None:
    made = [new_id("run") for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(item.startswith("run_") and len(item) == 30 for item in made)
    assert made[0][:12] <= made[-1][:12]


def test_the_fixed_clock_moves_only_when_told() -> None:
    clock = FixedClock()
    before, started = clock.now(), clock.monotonic()
    assert clock.now() == before
    clock.advance(1.5)
    assert clock.now() - before == timedelta(seconds=1.5)
    assert clock.monotonic() - started == 1.5
    assert SystemClock().now().tzinfo is not None
    assert SystemClock().monotonic() <= SystemClock().monotonic()
