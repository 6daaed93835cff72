"""The audit chain: every change in its own transaction, one order for all writers, and no tampering unseen."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from modelworks.chain import Head, entry_hash, find_break
from modelworks.contract.errors import Conflict
from modelworks.kernel.access import AccessService, AuditLog
from modelworks.kernel.access.store import AuditRow, KeyRow, ProjectRow
from modelworks.kernel.base.changes import AUTHOR, Author
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id


@pytest.fixture
def audit(database: Database, clock: FixedClock) -> AuditLog:
    return AuditLog(database, clock)


@pytest.fixture
def access(audit: AuditLog, clock: FixedClock, events: Events) -> AccessService:
    return AccessService(audit.db, clock, events)


@pytest.fixture
def author() -> Iterator[Author]:
    token = AUTHOR.set(Author("key", "key_boss"))
    yield AUTHOR.get()
    AUTHOR.reset(token)


def entries(audit: AuditLog) -> list[dict[str, Any]]:
    with audit.db.reading() as session:
        return [entry.model_dump() for entry in audit.list_entries(session, limit=1000)[0]]


def holds(audit: AuditLog, known: Head | None = None) -> bool:
    with audit.db.reading() as session:
        return audit.verify(session, known=known)[1] is None


def test_a_change_is_recorded_with_who_what_and_both_digests(access: AccessService, audit: AuditLog, author: Author) -> None:
    with audit.db.transaction() as session:
        project = access.create_project(session, "plant")
        key, _ = access.create_key(session, project.id, "robot", scopes=["read"])
    with audit.db.transaction() as session:
        access.revoke_key(session, project.id, key.id)
        access.revoke_key(session, project.id, key.id)  # changes nothing, and so leaves no entry
    made, robot, revoked = entries(audit)
    assert [(e["action"], e["noun"], e["subject"]) for e in (made, robot, revoked)] == [
        ("created", "project", project.id),
        ("created", "api_key", key.id),
        ("updated", "api_key", key.id),
    ]
    assert (revoked["author_kind"], revoked["author_id"], revoked["project_id"]) == ("key", "key_boss", project.id)
    assert (made["before"], robot["before"], revoked["before"]) == (None, None, robot["after"])
    assert revoked["fields"] == ["revoked_at"]
    assert revoked["after"] not in (None, robot["after"])
    assert holds(audit)


def test_nothing_is_left_of_what_was_rolled_back(access: AccessService, audit: AuditLog) -> None:
    with pytest.raises(Conflict), audit.db.transaction() as session:  # noqa: PT012 - the first of them succeeds
        access.create_project(session, "gone")
        access.create_project(session, "gone")
    assert entries(audit) == []
    with audit.db.transaction() as session:
        first = access.create_project(session, "plant")
        with pytest.raises(Conflict):
            access.create_project(session, "plant")  # a savepoint that is rolled back
        second = access.create_project(session, "office")
    assert [entry["subject"] for entry in entries(audit)] == [first.id, second.id]


def test_several_changes_of_a_row_in_one_transaction_are_one(access: AccessService, audit: AuditLog) -> None:
    with audit.db.transaction() as session:
        project = access.create_project(session, "plant")
        key, _ = access.create_key(session, project.id, "robot", scopes=["read"])
        access.revoke_key(session, project.id, key.id)
    assert [(entry["action"], entry["subject"]) for entry in entries(audit)] == [("created", project.id), ("created", key.id)]
    with audit.db.transaction() as session:
        row = session.get_one(ProjectRow, project.id)
        row.name = "other"
        session.flush()
        row.name = "plant"
    assert len(entries(audit)) == 2


def test_statements_over_many_rows_are_seen(access: AccessService, audit: AuditLog) -> None:
    with audit.db.transaction() as session:
        project = access.create_project(session, "plant")
        keys = [access.create_key(session, project.id, f"robot {n}", scopes=["read"])[0].id for n in range(3)]
    with audit.db.transaction() as session:
        session.execute(update(KeyRow).where(KeyRow.id.in_(keys[:2])).values(name="renamed"))
    with audit.db.transaction() as session:
        session.execute(delete(KeyRow).where(KeyRow.project_id == project.id))
    found = entries(audit)
    created = {entry["subject"]: entry["after"] for entry in found if entry["action"] == "created"}
    changed = {entry["subject"]: entry for entry in found if entry["action"] == "updated"}
    assert set(changed) == set(keys[:2])
    assert all(entry["before"] == created[subject] and entry["fields"] == ["name"] for subject, entry in changed.items())
    gone = {entry["subject"]: entry for entry in found if entry["action"] == "deleted"}
    assert set(gone) == set(keys)
    assert gone[keys[0]]["before"] == changed[keys[0]]["after"]
    assert gone[keys[2]]["before"] == created[keys[2]]
    assert all(entry["after"] is None and entry["project_id"] == project.id for entry in gone.values())


def test_the_change_fails_where_its_entry_cannot_be_written(access: AccessService, audit: AuditLog) -> None:
    with audit.db.transaction() as session:
        access.create_project(session, "plant")
    with audit.db.writing() as connection:  # the chain's next number is taken: the entry cannot be stored
        connection.execute(AuditRow.__table__.update().values(seq=2))
    with pytest.raises(Exception, match=r"(?i)unique"), audit.db.transaction() as session:
        access.create_project(session, "office")
    with audit.db.reading() as session:
        assert [project.name for project in access.list_projects(session)] == ["plant"]


def test_writers_at_the_same_time_make_one_chain(audit: AuditLog, clock: FixedClock) -> None:
    failures: list[BaseException] = []

    def write(worker: int) -> None:
        try:
            AUTHOR.set(Author("user", f"usr_{worker}"))
            for number in range(6):
                with audit.db.transaction() as session:
                    session.add(ProjectRow(id=new_id("prj"), name=f"{worker}-{number}", created_at=clock.now()))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = entries(audit)
    assert [entry["seq"] for entry in found] == list(range(1, 37))
    assert {entry["author_id"] for entry in found} == {f"usr_{worker}" for worker in range(6)}
    assert holds(audit)


@pytest.fixture
def chain(access: AccessService, audit: AuditLog) -> list[dict[str, Any]]:
    for name in "abcdefgh":
        with audit.db.transaction() as session:
            access.create_project(session, name)
    return entries(audit)


def test_tampering_is_found_and_placed(chain: list[dict[str, Any]]) -> None:
    end, broken = find_break(chain)
    assert (end.seq, end.hash, broken) == (8, chain[-1]["hash"], None)
    for name in ("author_id", "subject", "after", "created_at", "request_id", "fields", "action", "previous", "hash"):
        forged = [dict(entry) for entry in chain]
        forged[4][name] = "f" * 64
        end, broken = find_break(forged)
        assert (end.seq, broken and broken.seq) == (4, 5), name
    for edit, seq in (
        (chain[:3] + chain[4:], 4),  # removed
        ([*chain[:2], chain[3], chain[2], *chain[4:]], 3),  # moved
        ([*chain[:4], chain[3], *chain[4:]], 5),  # said twice
        (chain[1:], 1),
    ):
        assert find_break(edit)[1] is not None
        assert find_break(edit)[1].seq == seq  # type: ignore[union-attr]
    incomplete = [dict(entry) for entry in chain]
    del incomplete[6]["author_kind"]
    assert find_break(incomplete)[1].seq == 7  # type: ignore[union-attr]


def test_a_noted_head_finds_what_the_chain_alone_cannot_show(chain: list[dict[str, Any]]) -> None:
    noted = Head(6, chain[5]["hash"])
    assert find_break(chain, known=noted)[1] is None
    assert find_break(chain[:5])[1] is None, "a shorter chain holds by itself"
    cut = find_break(chain[:5], known=noted)[1]
    assert cut is not None
    assert (cut.seq, "cut off" in cut.reason) == (6, True)
    # Somebody who may write everything makes the chain anew from the third entry on.
    forged: list[dict[str, Any]] = [dict(entry) for entry in chain]
    forged[2]["author_id"] = "somebody else"
    for earlier, entry in itertools.pairwise(forged):
        entry["previous"] = earlier["hash"]
        entry["hash"] = entry_hash(entry)
    assert find_break(forged)[1] is None
    anew = find_break(forged, known=noted)[1]
    assert anew is not None
    assert (anew.seq, "anew" in anew.reason) == (6, True)


def test_tampering_in_the_database_is_found(chain: list[dict[str, Any]], audit: AuditLog) -> None:
    noted = Head(8, chain[-1]["hash"])
    assert holds(audit, noted)
    with audit.db.writing() as connection:
        connection.execute(AuditRow.__table__.delete().where(AuditRow.__table__.c.seq == 8))
    with audit.db.reading() as session:
        end, broken = audit.verify(session)
    assert broken is not None, "the end of the chain is stored beside it"
    assert (end.seq, broken.seq) == (7, 8)
    with audit.db.writing() as connection:
        connection.execute(AuditRow.__table__.update().where(AuditRow.__table__.c.seq == 3).values(subject="x"))
    with audit.db.reading() as session:
        end, broken = audit.verify(session)
    assert broken is not None
    assert (end.seq, broken.seq) == (2, 3)


def test_the_chain_goes_on_after_a_restart(chain: list[dict[str, Any]], database: Database, tmp_path: Path) -> None:
    assert len(chain) == 8
    other = Database(database.url)
    try:
        again = AuditLog(other, FixedClock())
        with other.transaction() as session:
            AccessService(other, FixedClock(), Events()).create_project(session, "later")
        assert [entry["seq"] for entry in entries(again)] == list(range(1, 10))
        assert holds(again)
    finally:
        other.dispose()
