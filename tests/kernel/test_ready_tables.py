"""Databases that are ready before a test begins are as those that are made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import ProgrammingError
from tests.kernel.ready_tables import ReadySchemas, in_schema, open_sqlite

from modelworks.kernel.access.store import ProjectRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Base, Database

NOW = FixedClock().now()


def write(database: Database, name: str) -> None:
    with database.transaction() as session:
        session.add(ProjectRow(id=f"prj_{name}", name=name, created_at=NOW))


def count(database: Database) -> int:
    with database.reading() as session:
        return session.query(ProjectRow).count()


def test_sqlite_has_every_table_and_no_row(tmp_path: Path) -> None:
    first, second = open_sqlite(tmp_path / "1.db"), open_sqlite(tmp_path / "2.db")
    write(first, "one")
    assert (count(first), count(second)) == (1, 0)
    made = Database(f"sqlite:///{tmp_path / 'made.db'}")
    Base.metadata.create_all(made.engine)
    statements = text("SELECT type, name, sql FROM sqlite_master ORDER BY type, name")
    with second.reading() as session, made.reading() as another:
        assert session.execute(statements).all() == another.execute(statements).all()
    for each in (first, second, made):
        each.dispose()


@pytest.mark.postgres
class TestPostgres:
    def test_the_next_one_finds_it_empty_under_another_name(self, ready_schemas: ReadySchemas) -> None:
        name = ready_schemas.take()
        database = Database(in_schema(ready_schemas.url, name))
        assert set(inspect(database.engine).get_table_names(schema=name)) == set(Base.metadata.tables)
        write(database, "one")
        ready_schemas.give_back(name)
        again = ready_schemas.take()
        assert again != name
        another = Database(in_schema(ready_schemas.url, again))
        assert count(another) == 0
        # What the first test left running does not reach the second one's rows.
        with pytest.raises(ProgrammingError):
            write(database, "late")
        assert count(another) == 0
        for each in (database, another):
            each.dispose()
        ready_schemas.give_back(again)

    @pytest.mark.parametrize(
        "change",
        [
            "ALTER TABLE projects ADD COLUMN more text",
            "ALTER TABLE projects ALTER COLUMN name DROP NOT NULL",
            "CREATE INDEX ix_more ON projects (created_at)",
            "DROP TABLE usage_requests",
        ],
    )
    def test_changed_tables_are_not_used_again(self, ready_schemas: ReadySchemas, change: str) -> None:
        name = ready_schemas.take()
        spare = list(ready_schemas.spare)
        database = Database(in_schema(ready_schemas.url, name))
        with database.transaction() as session:
            session.execute(text(change))
        database.dispose()
        ready_schemas.give_back(name)
        assert ready_schemas.spare == spare
        assert name not in inspect(ready_schemas.admin).get_schema_names()
