"""Entries are taken in once and in order, from the attempt that is running and from no other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import AuthenticationFailed, Conflict, NotFound
from modelworks.kernel.jobs.executors import Launch, Status
from modelworks.kernel.jobs.journal import JournalEntry


def entry(seq: int, type_: str = "metrics", attempt: int = 1, **data: Any) -> JournalEntry:
    data = data or {"step": seq, "values": {"loss": float(seq)}}
    return JournalEntry(seq=seq, attempt=attempt, time=datetime.now(UTC), type=type_, data=data)


def begun(rooms: Rooms, **wish: Any) -> Launch:
    run = rooms.submit(**wish)
    with rooms.db.transaction() as session:
        launch = rooms.jobs.attempts.begin(session, run.id, (), "local", remote=True)
    assert launch is not None
    return launch


def test_the_same_entries_again_change_nothing(rooms: Rooms) -> None:
    launch = begun(rooms)
    receive = rooms.jobs.attempts.receive
    entries = [entry(1, "started", pid=1, host="h"), entry(2), entry(3, "checkpoint", files=[], step=2)]
    assert receive(launch.run_id, 1, entries[:2]).journal_seq == 2
    assert receive(launch.run_id, 1, entries).journal_seq == 3
    assert receive(launch.run_id, 1, entries).journal_seq == 3
    assert rooms.event_types(launch.run_id).count("started") == 1
    assert rooms.event_types(launch.run_id).count("checkpoint") == 1
    assert rooms.metrics(launch.run_id) == {"loss": {2: 2.0}}


def test_a_gap_is_not_jumped(rooms: Rooms) -> None:
    launch = begun(rooms)
    reply = rooms.jobs.attempts.receive(launch.run_id, 1, [entry(1), entry(3)])
    assert reply.journal_seq == 1
    assert rooms.metrics(launch.run_id) == {"loss": {1: 1.0}}


def test_an_attempt_whose_place_was_taken_is_told_to_stop(rooms: Rooms) -> None:
    launch = begun(rooms)
    attempts = rooms.jobs.attempts
    with rooms.db.transaction() as session:
        attempts.ended(session, launch.run_id, 1, Status("exited", -9, "signal SIGKILL"), None)
        second = attempts.begin(session, launch.run_id, (), "local", remote=True)
    assert second is not None
    assert second.attempt == 2
    reply = attempts.receive(launch.run_id, 1, [entry(1)])
    assert reply.stale
    assert rooms.metrics(launch.run_id) == {}
    with rooms.db.transaction() as session:
        with pytest.raises(Conflict):
            attempts.check_token(session, launch.run_id, 1, launch.token)
        with pytest.raises(AuthenticationFailed):
            attempts.check_token(session, launch.run_id, 2, launch.token)
        attempts.check_token(session, launch.run_id, 2, second.token)
        # What is heard late of the first attempt's end does not touch the second.
        attempts.ended(session, launch.run_id, 1, Status("exited"), None)
    assert rooms.get(launch.run_id).state == "running"


def test_a_worker_that_missed_the_answer_to_its_last_entry_is_not_stale(rooms: Rooms) -> None:
    launch = begun(rooms, verb="batch", params={"text": "x"}, output_name=None)
    last = [entry(1, "finished", result={"total": 1})]
    assert rooms.jobs.attempts.receive(launch.run_id, 1, last).journal_seq == 1
    reply = rooms.jobs.attempts.receive(launch.run_id, 1, last)
    assert (reply.journal_seq, reply.stale) == (1, False)
    assert rooms.jobs.attempts.receive(launch.run_id, 1, [*last, entry(2)]).stale
    assert rooms.get(launch.run_id).state == "succeeded"


def test_a_cancellation_reaches_the_worker_with_the_answer(rooms: Rooms) -> None:
    launch = begun(rooms)
    with rooms.db.transaction() as session:
        rooms.jobs.cancel(session, PROJECT, launch.run_id)
    assert rooms.jobs.attempts.receive(launch.run_id, 1, []).cancel


def test_an_attempt_that_dies_while_it_is_cancelled_is_cancelled(rooms: Rooms) -> None:
    launch = begun(rooms)
    with rooms.db.transaction() as session:
        rooms.jobs.cancel(session, PROJECT, launch.run_id)
        rooms.jobs.attempts.ended(session, launch.run_id, 1, Status("exited", -9, "signal SIGKILL"), None)
    run = rooms.get(launch.run_id)
    assert (run.state, run.error) == ("cancelled", None)


def test_a_result_whose_files_are_not_stored_fails_the_run_and_registers_nothing(rooms: Rooms) -> None:
    launch = begun(rooms)
    missing = {"path": "config.json", "digest": "sha256:" + "0" * 64, "num_bytes": 1}
    entries = [entry(1, "saved", kind="model", files=[missing], metadata={}), entry(2, "finished", result=None)]
    reply = rooms.jobs.attempts.receive(launch.run_id, 1, entries)
    run = rooms.get(launch.run_id)
    assert run.state == "failed"
    assert run.error is not None
    assert run.error["code"] == "blob_not_found"
    assert reply.journal_seq == 1
    with rooms.db.reading() as session, pytest.raises(NotFound):
        rooms.catalog.resolve(session, PROJECT, "counter")


def test_registration_is_all_or_nothing(rooms: Rooms) -> None:
    launch = begun(rooms)
    stored = rooms.blobs.put(b"{}")
    good = {"path": "config.json", "digest": stored.digest, "num_bytes": stored.num_bytes}
    entries = [
        entry(1, "saved", kind="model", files=[good], metadata={}),
        entry(2, "saved", kind="Not A Kind", files=[good], metadata={}),
        entry(3, "finished", result=None),
    ]
    rooms.jobs.attempts.receive(launch.run_id, 1, entries)
    run = rooms.get(launch.run_id)
    assert (run.state, run.outputs) == ("failed", [])
    with rooms.db.reading() as session, pytest.raises(NotFound):
        rooms.catalog.resolve(session, PROJECT, "counter")


# One database for all examples: each has a run of its own.
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_delivery_of_the_same_journal_gives_the_same_run(rooms: Rooms, data: st.DataObject) -> None:
    launch = begun(rooms, verb="batch", params={"text": "x"}, output_name=None)
    journal = [
        entry(1, "started", pid=1, host="h"),
        *(entry(seq) for seq in range(2, 7)),
        entry(7, "finished", result={"total": 1}),
    ]
    # Pieces come repeatedly, overlapping and out of order, as after lost answers; the sender goes on from the last answer.
    for _ in range(data.draw(st.integers(0, 5))):
        start = data.draw(st.integers(0, 6))
        rooms.jobs.attempts.receive(launch.run_id, 1, journal[start : start + data.draw(st.integers(1, 4))])
    seq = 0
    while seq < len(journal):
        seq = rooms.jobs.attempts.receive(launch.run_id, 1, journal[seq : seq + 3]).journal_seq
    assert rooms.get(launch.run_id).state == "succeeded"
    assert rooms.metrics(launch.run_id) == {"loss": {step: float(step) for step in range(2, 7)}}
    assert rooms.event_types(launch.run_id) == ["state", "state", "started", "finished", "state"]
