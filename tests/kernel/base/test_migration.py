"""Migrations: backup first, all or nothing, one process at a time, and the scripts lead to the rooms' tables."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from modelworks.contract.errors import Conflict
from modelworks.kernel.base import migration
from modelworks.kernel.base.database import Database

FIRST = """
import sqlalchemy as sa
from alembic import op
revision = "0001"
down_revision = None
def upgrade():
    op.create_table("parent", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20)))
    op.create_table(
        "child",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.Integer, sa.ForeignKey("parent.id", ondelete="CASCADE"), nullable=False),
    )
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision = "0002"
down_revision = "0001"
def upgrade():
    with op.batch_alter_table("parent", recreate="auto") as batch:
        batch.alter_column("name", new_column_name="title", existing_type=sa.String(20))
        batch.add_column(sa.Column("note", sa.String(20), nullable=False, server_default="-"))
"""


class Scripts:
    """A throwaway folder of migrations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "versions").mkdir(parents=True)
        for name in ("env.py", "script.py.mako"):
            shutil.copy(migration.SCRIPTS / name, folder / name)

    def add(self, number: int, body: str) -> None:
        (self.folder / "versions" / f"{number:04d}_step.py").write_text(textwrap.dedent(body))

    def add_failing(self, number: int, statement: str = 'raise RuntimeError("the step broke")') -> None:
        self.add(
            number,
            f"""
import os, signal, time
import sqlalchemy as sa
from alembic import op
revision = "{number:04d}"
down_revision = "{number - 1:04d}"
def upgrade():
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("DELETE FROM child")
    {statement}
""",
        )


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    made = Scripts(tmp_path / "50% scripts")
    made.add(1, FIRST)
    return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def filled(empty_database: Database, scripts: Scripts, home: Path) -> Database:
    """A database at revision 0001 with rows."""
    report = migration.upgrade(empty_database, home, scripts=scripts.folder)
    assert (report.from_revision, report.to_revision, report.applied, report.backup) == (None, "0001", ("0001",), None)
    with empty_database.transaction() as session:
        session.execute(text("INSERT INTO parent (id, name) VALUES (1, 'one')"))
        session.execute(text("INSERT INTO child (id, parent_id) VALUES (1, 1)"))
    return empty_database


def rows(db: Database) -> tuple[int, int]:
    with db.reading() as session:
        return tuple(session.scalar(text(f"SELECT count(*) FROM {table}")) for table in ("parent", "child"))  # type: ignore[return-value]


def assert_untouched(db: Database) -> None:
    assert migration.current(db) == "0001"
    assert rows(db) == (1, 1)
    with db.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version", "child", "parent"}
    with db.transaction() as session:
        session.execute(text("INSERT INTO parent (id, name) VALUES (2, 'two')"))


def test_at_head_nothing_is_done(filled: Database, scripts: Scripts, home: Path) -> None:
    report = migration.upgrade(filled, home, scripts=scripts.folder)
    assert (report.applied, report.backup) == ((), None)
    assert not (home / "backups").exists()


def test_a_step_keeps_the_rows_and_what_refers_to_them(filled: Database, scripts: Scripts, home: Path) -> None:
    scripts.add(2, SECOND)
    report = migration.upgrade(filled, home, scripts=scripts.folder)
    assert (report.from_revision, report.to_revision, report.applied) == ("0001", "0002", ("0002",))
    assert rows(filled) == (1, 1)
    with filled.transaction() as session:
        assert session.execute(text("SELECT title, note FROM parent")).one() == ("one", "-")
        # Foreign keys are enforced again afterwards.
        session.execute(text("DELETE FROM parent"))
    assert rows(filled) == (0, 0)


def test_the_backup_is_the_database_as_it_was(filled: Database, scripts: Scripts, home: Path) -> None:
    scripts.add(2, SECOND)
    backup = migration.upgrade(filled, home, scripts=scripts.folder).backup
    assert backup is not None
    if filled.is_sqlite:
        copy = sqlite3.connect(backup)
        assert copy.execute("SELECT name FROM parent").fetchall() == [("one",)]
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        copy.close()
        assert Path(backup).stat().st_mode & 0o777 == 0o600
        assert [path.name for path in (home / "backups").iterdir()] == [Path(backup).name]
    elif backup.startswith("schema "):
        with filled.reading() as session:
            assert session.scalar(text(f"SELECT name FROM {backup.removeprefix('schema ')}.parent")) == "one"
    else:
        assert Path(backup).read_bytes().startswith(b"PGDMP")


def test_postgres_without_pg_dump_copies_the_tables(
    filled: Database, scripts: Scripts, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    scripts.add(2, SECOND)
    backup = migration.upgrade(filled, home, scripts=scripts.folder).backup
    assert backup is not None
    if not filled.is_sqlite:
        schema = backup.removeprefix("schema ")
        with filled.transaction() as session:
            assert session.scalar(text(f"SELECT name FROM {schema}.parent")) == "one"
            session.execute(text(f"DROP SCHEMA {schema} CASCADE"))


def test_only_the_newest_five_backups_stay(filled: Database, scripts: Scripts, home: Path) -> None:
    made = []
    for number in range(2, 9):
        scripts.add(number, f'revision = "{number:04d}"\ndown_revision = "{number - 1:04d}"\ndef upgrade(): pass\n')
        made.append(migration.upgrade(filled, home, scripts=scripts.folder).backup)
    kept = sorted(str(path) for path in (home / "backups").iterdir())
    if kept:
        assert kept == made[-5:]


@pytest.mark.parametrize("statement", ['raise RuntimeError("the step broke")', 'op.execute("SELECT broke FROM nowhere")'])
def test_a_failing_step_changes_nothing(filled: Database, scripts: Scripts, home: Path, statement: str) -> None:
    scripts.add(2, SECOND)
    scripts.add_failing(3, statement)
    with pytest.raises(Conflict) as caught:
        migration.upgrade(filled, home, scripts=scripts.folder)
    error = caught.value
    assert error.error_code == "migration_failed"
    assert "broke" in error.message or "nowhere" in error.message
    assert "from revision 0001 to 0003" in error.message
    assert error.hint is not None
    assert "backup is at" in error.hint
    assert_untouched(filled)


def test_a_step_that_breaks_references_changes_nothing(filled: Database, scripts: Scripts, home: Path) -> None:
    statement = "UPDATE child SET parent_id = 9"
    scripts.add(
        2, f'from alembic import op\nrevision = "0002"\ndown_revision = "0001"\ndef upgrade(): op.execute("{statement}")\n'
    )
    with pytest.raises(Conflict):
        migration.upgrade(filled, home, scripts=scripts.folder)
    assert_untouched(filled)


def test_a_backup_that_fails_stops_the_migration(filled: Database, scripts: Scripts, home: Path) -> None:
    scripts.add(2, SECOND)
    home.mkdir()
    (home / "backups").write_text("in the way")
    with pytest.raises(Conflict, match="backup") as caught:
        migration.upgrade(filled, home, scripts=scripts.folder)
    assert caught.value.error_code == "migration_failed"
    assert_untouched(filled)


def test_a_newer_database_is_refused(filled: Database, scripts: Scripts, home: Path) -> None:
    with filled.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(Conflict, match="0999") as caught:
        migration.upgrade(filled, home, scripts=scripts.folder)
    assert caught.value.error_code == "database_newer"
    assert rows(filled) == (1, 1)


def test_kill_9_in_the_middle_changes_nothing(filled: Database, scripts: Scripts, home: Path) -> None:
    scripts.add(2, SECOND)
    scripts.add_failing(3, 'print("in the middle", flush=True); time.sleep(60)')
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from modelworks.kernel.base import migration
        from modelworks.kernel.base.database import Database
        migration.upgrade(Database(sys.argv[1]), Path(sys.argv[2]), scripts=Path(sys.argv[3]))
        """
    )
    arguments = [sys.executable, "-c", code, filled.url, str(home), str(scripts.folder)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    reached = process.stdout.readline().strip()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert reached == "in the middle"
    assert_untouched(filled)
    # And the next start, with a repaired script, is not held up by what the dead process held.
    (scripts.folder / "versions" / "0003_step.py").unlink()
    assert migration.upgrade(filled, home, scripts=scripts.folder).applied == ("0002",)


def test_two_at_once_wait_for_each_other(filled: Database, scripts: Scripts, home: Path) -> None:
    scripts.add(2, SECOND)
    reports: list[migration.MigrationReport] = []
    others = [Database(filled.url) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda db=db: reports.append(migration.upgrade(db, home, scripts=scripts.folder)))
        for db in others
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for db in others:
        db.dispose()
    assert sorted(report.applied for report in reports) == [(), (), ("0002",)]
    assert rows(filled) == (1, 1)


def test_the_scripts_lead_to_the_tables_of_the_rooms(empty_database: Database, home: Path) -> None:
    report = migration.upgrade(empty_database, home)
    assert report.to_revision == migration.head() == migration.current(empty_database)
    assert migration.differences(empty_database, migration.load_metadata()) == []


def test_a_new_revision_holds_what_the_tables_have_more(tmp_path: Path) -> None:
    made = Scripts(tmp_path / "scripts")
    path = migration.new_revision("first tables", scripts=made.folder)
    assert path.name == "0001_first_tables.py"
    written = path.read_text()
    assert "'usage_requests'" in written
    assert "modelworks" not in written.replace("modelworks_", "")
    again = migration.new_revision("nothing new", scripts=made.folder)
    assert again.name == "0002_nothing_new.py"
    assert "create_table" not in again.read_text()


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert migration.main(["nonsense"]) == 2
    assert "revision" in capsys.readouterr().err
