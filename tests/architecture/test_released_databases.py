"""Law 6: every released database still opens after the migrations, with every row."""

import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.architecture.sources import PROJECT
from tests.fixtures.make_database import make

from modelworks.kernel.base import migration
from modelworks.kernel.base.database import Base, Database

FIXTURES = sorted((PROJECT / "tests" / "fixtures" / "databases").glob("*.db"))


def rows(path: Path) -> dict[str, int]:
    connection = sqlite3.connect(path)
    try:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
    finally:
        connection.close()


def test_every_release_has_its_database() -> None:
    releases = re.findall(r"^## (\d+\.\d+\.\d+)", (PROJECT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert releases
    assert {path.stem for path in FIXTURES} == set(releases), "run tests/fixtures/make_database.py at a release"


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_a_released_database_opens_with_every_row(fixture: Path, tmp_path: Path) -> None:
    check(fixture, tmp_path)


def test_a_database_of_today_can_be_made_and_opens(tmp_path: Path) -> None:
    make(tmp_path / "release" / "today.db")
    check(tmp_path / "release" / "today.db", tmp_path)
    with pytest.raises(FileExistsError, match="never made again"):
        make(tmp_path / "release" / "today.db")


def test_a_lost_row_is_found(tmp_path: Path) -> None:
    make(tmp_path / "today.db")
    with sqlite3.connect(tmp_path / "today.db") as connection:
        connection.execute("DELETE FROM usage_requests")
    connection.close()
    with pytest.raises(AssertionError, match="a row in each table"):
        check(tmp_path / "today.db", tmp_path)


def check(fixture: Path, tmp_path: Path) -> None:
    before = rows(fixture)
    assert before.pop("alembic_version") == 1
    assert before
    assert all(before.values()), "a fixture has a row in each table"
    copy = Path(shutil.copy(fixture, tmp_path / "modelworks.db"))
    db = Database(f"sqlite:///{copy}")
    try:
        migration.upgrade(db, tmp_path)
        migration.load_metadata()
        assert migration.current(db) == migration.head()
        assert migration.differences(db, Base.metadata) == []
    finally:
        db.dispose()
    after = rows(copy)
    assert {name: after.get(name) for name in before} == before, "a migration that drops or renames a table says so here"
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
