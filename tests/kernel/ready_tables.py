"""Databases that have every table already: making sixty tables takes longer than most tests that want them."""

from __future__ import annotations

import secrets
import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from modelworks.kernel.base.database import Base, Database

# What TRUNCATE leaves as it is and every change of a table does not: the tables' columns as they were written down, their
# constraints, triggers and indices.
_SHAPE = text(
    """
    SELECT coalesce(md5(string_agg(part, ',' ORDER BY part)), '') FROM (
        SELECT concat('column ', c.oid, ' ', a.attnum, ' ', a.xmin) AS part
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = to_regnamespace(:schema)
        UNION ALL SELECT concat('constraint ', k.oid) FROM pg_constraint k WHERE k.connamespace = to_regnamespace(:schema)
        UNION ALL SELECT concat('trigger ', t.oid)
            FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid WHERE c.relnamespace = to_regnamespace(:schema)
        UNION ALL SELECT concat('index ', i.indexrelid)
            FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid WHERE c.relnamespace = to_regnamespace(:schema)
    ) AS parts
    """
)
# By size, not by rows: where rows have been, the next test's would not lie in the order in which it wrote them.
_USED = text(
    "SELECT quote_ident(relname) FROM pg_class"
    " WHERE relnamespace = to_regnamespace(:schema) AND relkind = 'r' AND pg_relation_size(oid) > 0"
)


def open_sqlite(path: Path) -> Database:
    """A new SQLite database in the file `path` with the tables of every room that was imported."""
    path.write_bytes(_sqlite_file(len(Base.metadata.tables)))
    return Database(f"sqlite:///{path}")


@cache
def _sqlite_file(_tables: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tables.db"
        database = Database(f"sqlite:///{path}")
        Base.metadata.create_all(database.engine)
        database.dispose()
        return path.read_bytes()


def in_schema(url: str, name: str) -> str:
    """The URL of a PostgreSQL schema."""
    return make_url(url).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)


class ReadySchemas:
    """PostgreSQL schemas with the tables of every room that was imported and without a row; each is used again and again.

    Every test sees a name of its own, so that whatever an earlier one left running finds nothing under the name it knows.

    Args:
        url: the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.admin: Engine = create_engine(url)
        self._shapes: dict[str, tuple[int, str]] = {}
        #: Those that wait, ready.
        self.spare: list[str] = []

    def take(self) -> str:
        """The name of a schema that nobody else uses."""
        name = f"test_{secrets.token_hex(8)}"
        while self.spare:
            spare = self.spare.pop()
            if self._shapes[spare][0] == len(Base.metadata.tables):
                with self.admin.begin() as connection:
                    connection.execute(text(f"ALTER SCHEMA {spare} RENAME TO {name}"))
                self._shapes[name] = self._shapes.pop(spare)
                return name
            self.drop(spare)
        with self.admin.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {name}"))
        database = Database(in_schema(self.url, name))
        Base.metadata.create_all(database.engine)
        database.dispose()
        with self.admin.begin() as connection:
            self._shapes[name] = (len(Base.metadata.tables), _shape(connection, name))
        return name

    def give_back(self, name: str) -> None:
        """Empty a schema for the next one; it is dropped where its tables were changed or somebody still holds them."""
        spare = f"spare_{secrets.token_hex(8)}"
        try:
            with self.admin.begin() as connection:
                connection.execute(text("SET LOCAL lock_timeout = '2s'"))
                used = connection.scalars(_USED, {"schema": name}).all()
                if used:
                    tables = ", ".join(f"{name}.{table}" for table in used)
                    connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
                is_same = _shape(connection, name) == self._shapes[name][1]
                if is_same:
                    connection.execute(text(f"ALTER SCHEMA {name} RENAME TO {spare}"))
        except OperationalError:
            is_same = False
        if not is_same:
            self.drop(name)
            return
        self._shapes[spare] = self._shapes.pop(name)
        self.spare.append(spare)

    def drop(self, name: str) -> None:
        """Take a schema away with all that is in it."""
        drop_schema(self.admin, name)
        self._shapes.pop(name, None)

    def close(self) -> None:
        """Drop what is left."""
        for name in self.spare:
            self.drop(name)
        self.spare.clear()
        self.admin.dispose()


def drop_schema(admin: Engine, name: str) -> None:
    """Drop a schema that a test had, although a thread of the test may still be reading."""
    for attempt in range(3):
        try:
            with admin.begin() as connection:
                connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
            break
        except OperationalError:
            # PostgreSQL ends one of the two, and once it is this one.
            if attempt == 2:
                raise


def _shape(connection: Connection, schema: str) -> str:
    return str(connection.scalar(_SHAPE, {"schema": schema}))
