"""One transaction is one change: whole, seen by nobody before its end, safe after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from modelworks.contract.errors import IntegrityFailed, StorageFull, Unavailable
from modelworks.kernel.base.database import Base, Database


class Local(DeclarativeBase):
    """Tables of these tests alone."""

    type_annotation_map = Base.type_annotation_map


class Note(Local):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int]
    at: Mapped[datetime | None]
    tags: Mapped[list[str] | None]


@pytest.fixture
def db(empty_database: Database) -> Database:
    Local.metadata.create_all(empty_database.engine)
    with empty_database.transaction() as session:
        session.add(Note(id=1, count=0))
    return empty_database


def count(db: Database) -> int:
    with db.reading() as session:
        return session.scalars(select(Note.count)).one()


def test_a_block_that_raises_changes_nothing(db: Database) -> None:
    def change_and_fail() -> None:
        with db.transaction() as session:
            session.get_one(Note, 1).count = 5
            session.flush()
            session.connection().exec_driver_sql("CREATE TABLE half (id INTEGER)")
            raise KeyError("broken")

    with pytest.raises(KeyError):
        change_and_fail()
    assert count(db) == 0
    with db.engine.connect() as connection:
        assert "half" not in inspect(connection).get_table_names()


def test_writing_is_one_transaction_too(db: Database) -> None:
    with db.writing() as connection:
        connection.execute(text("UPDATE notes SET count = 1"))

    def change_and_fail() -> None:
        with db.writing() as connection:
            connection.execute(text("UPDATE notes SET count = 2"))
            connection.execute(text("INSERT INTO notes (id, count) VALUES (1, 1)"))

    with pytest.raises(IntegrityError):
        change_and_fail()
    assert count(db) == 1


def test_ddl_outside_a_session_is_one_transaction_too(db: Database) -> None:
    def create_and_fail() -> None:
        with db.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
            raise KeyError("broken")

    with pytest.raises(KeyError):
        create_and_fail()
    with db.engine.connect() as connection:
        assert "half" not in inspect(connection).get_table_names()


def test_writers_at_once_lose_nothing(db: Database) -> None:
    def add() -> None:
        for _ in range(10):
            with db.transaction() as session:
                note = session.scalars(select(Note).with_for_update()).one()
                note.count += 1

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(db) == 60


def test_a_reader_keeps_its_view_and_holds_up_no_writer(db: Database) -> None:
    with db.reading() as reader:
        before = reader.scalars(select(Note.count)).one()
        with db.transaction() as writer:
            writer.get_one(Note, 1).count = 7
        assert reader.scalars(select(Note.count)).one() == before
    assert count(db) == 7


def test_times_come_back_in_utc(db: Database) -> None:
    moment = datetime(2026, 5, 1, 10, 30, 15, 123456, tzinfo=timezone(timedelta(hours=8)))
    with db.transaction() as session:
        note = session.get_one(Note, 1)
        note.at, note.tags = moment, ["模型", "b"]
    with db.reading() as session:
        found = session.get_one(Note, 1)
    assert found.at == moment
    assert found.at is not None
    assert found.at.tzinfo is UTC
    assert found.tags == ["模型", "b"]


def test_times_without_a_zone_are_refused(db: Database) -> None:
    def store() -> None:
        with db.transaction() as session:
            session.get_one(Note, 1).at = datetime(2026, 5, 1)

    with pytest.raises(StatementError, match="without a time zone"):
        store()


def test_a_commit_survives_kill_9(db: Database) -> None:
    code = textwrap.dedent(
        """
        import sys, time
        from sqlalchemy import text
        from modelworks.kernel.base.database import Database
        db = Database(sys.argv[1])
        for number in range(1, 100000):
            with db.transaction() as session:
                session.execute(text("UPDATE notes SET count = :n"), {"n": number})
            print(number, flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code, db.url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        last = process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    for line in process.stdout:
        last = line if line.endswith("\n") else last
    process.wait()
    process.stdout.close()
    assert count(db) >= int(last)


def test_sqlite_enforces_foreign_keys_in_wal_mode(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with db.engine.connect() as connection:
        for pragma, value in (("foreign_keys", 1), ("journal_mode", "wal"), ("busy_timeout", 30000)):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value
    db.dispose()


def test_what_was_deleted_can_be_had_out_of_the_files(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/db.sqlite")
    Local.metadata.create_all(db.engine)
    secret = "the recipe needs nine herbs"

    def is_there() -> bool:
        return any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())

    with db.transaction() as session:
        # More than a page holds, too.
        session.add_all(Note(id=number, count=0, tags=[secret] * number * 100) for number in (1, 5))
    with db.transaction() as session:
        session.get_one(Note, 1).tags = []
        session.delete(session.get_one(Note, 5))
    assert is_there()
    with db.reading() as session:
        session.scalar(select(Note.id))
        assert not db.scrub(), "somebody reads"
    assert db.scrub()
    assert not is_there()
    with db.transaction() as session:
        session.add(Note(id=2, count=0))
    with db.reading() as session:
        assert [*session.scalars(select(Note.id))] == [1, 2], "it goes on"
    db.dispose()


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)
    db = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(IntegrityFailed, match="damaged") as caught, db.reading() as session:
        session.execute(text("SELECT 1"))
    assert "backups" in (caught.value.hint or "")
    db.dispose()


def test_a_missing_folder_and_an_absent_server_are_said(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/nowhere/x.db", "postgresql+psycopg://nobody@127.0.0.1:9/none"):
        db = Database(url)
        with pytest.raises(Unavailable) as caught, db.reading() as session:
            session.execute(text("SELECT 1"))
        assert caught.value.hint
        db.dispose()


def test_a_full_disk_is_said_and_nothing_changed(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'x.db'}")
    Local.metadata.create_all(db.engine)

    def fill() -> None:
        with db.transaction() as session:
            # SQLite's own limit answers exactly as a full disk does.
            session.connection().exec_driver_sql("PRAGMA max_page_count=10")
            session.add_all([Note(count=1, tags=["x" * 1000]) for _ in range(200)])

    with pytest.raises(StorageFull, match="full"):
        fill()
    with db.reading() as session:
        assert list(session.scalars(select(Note))) == []
    db.dispose()


def test_a_writer_waits_for_another_in_short_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(f"sqlite:///{tmp_path / 'x.db'}")
    Local.metadata.create_all(db.engine)
    other = Database(db.url)
    holding = other.transaction()
    holding.__enter__()
    steps: list[float] = []

    def sleep(seconds: float) -> None:
        steps.append(seconds)
        if len(steps) == 4:
            holding.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", sleep)
    with db.transaction() as session:
        session.add(Note(count=1))
        assert session.connection().exec_driver_sql("PRAGMA busy_timeout").scalar() == 30000
    assert len(steps) == 4, "it went on as soon as the other had ended"
    assert max(steps) < 0.1
    for database in (db, other):
        database.dispose()


def test_a_writer_that_never_ends_is_said(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'x.db'}")
    Local.metadata.create_all(db.engine)
    other = Database(db.url)
    with other.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=1")
        connection.rollback()

    def write_meanwhile() -> None:
        with db.transaction(), other.transaction() as session:
            session.add(Note(count=1))

    with pytest.raises(Unavailable, match="locked") as caught:
        write_meanwhile()
    assert caught.value.retry_after_s is not None
    for database in (db, other):
        database.dispose()
