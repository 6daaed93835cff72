"""The database: SQLite by default, PostgreSQL by URL. One request or one job step is one transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import JSON, Connection, DateTime, Engine, MetaData, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator

from modelworks.contract.errors import IntegrityFailed, StorageFull, Unavailable
from modelworks.kernel.base.changes import Sink, observe

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

#: Execution option that says how SQLite begins a transaction: "BEGIN" (read first) or "BEGIN IMMEDIATE" (write lock at once).
BEGIN_OPTION = "modelworks_begin"
#: The shortest step in which a writer waits for another one.
_STEP_S = 0.0005
_SCRUB_MS = 1000


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on both databases; SQLite stores them without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone was given to the database")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Declarative base of all rooms' tables; each room's tables live in its own `store.py`."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own form
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[Any]: JSON,
        list[str]: JSON,
        list[dict[str, Any]]: JSON,
    }


class Database:
    """Opens transactions. Sync by design: routes that use it run in worker threads, hot paths cache.

    Args:
        url: an SQLAlchemy URL; `sqlite:///path` or `postgresql+psycopg://…`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A read-write transaction: committed when the block ends, rolled back when it raises.

        Raises:
            StorageFull: the disk of the database is full.
            Unavailable: the database cannot be reached or stays locked.
        """
        with readable_failures(), self._sessions() as session, session.begin():
            if self.is_sqlite:
                # Take the write lock at once: upgrading a read lock later fails at once when another writer came first.
                session.connection(execution_options={BEGIN_OPTION: "BEGIN IMMEDIATE"})
            yield session

    def observe(self, sink: Sink) -> None:
        """Have `sink` see what every transaction changes in watched rows, before it commits; see `base/changes.py`."""
        observe(self._sessions, sink)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Like `transaction`, but a bare connection for statements that need no ORM (the cheapest way to write many rows)."""
        with readable_failures(), self.engine.connect() as connection:
            if self.is_sqlite:
                connection = connection.execution_options(**{BEGIN_OPTION: "BEGIN IMMEDIATE"})
            with connection.begin():
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only transaction with one consistent view; writers are not blocked by it."""
        with readable_failures(), self._sessions() as session, session.begin():
            if not self.is_sqlite:
                # PostgreSQL's default shows each statement the newest commits; one view needs a snapshot.
                session.connection(execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
            yield session

    def scrub(self) -> bool:
        """Have SQLite's log of changes emptied, which holds what was deleted until it is overwritten; whether that worked.

        It does not while others read or write for longer than a second. PostgreSQL has a vacuum of its own.
        """
        if not self.is_sqlite:
            return False
        connection = self.engine.raw_connection()
        try:
            cursor = connection.cursor()
            (timeout_ms,) = cursor.execute("PRAGMA busy_timeout").fetchone()
            cursor.execute(f"PRAGMA busy_timeout={_SCRUB_MS}")
            try:
                (is_busy, _, _) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError:
                return False
            finally:
                cursor.execute(f"PRAGMA busy_timeout={timeout_ms}")
                cursor.close()
        finally:
            connection.close()
        return not is_busy

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _sqlite_engine(url: str) -> Engine:
    # Values are hidden in errors: they are users' data and must not reach the log.
    arguments = {"timeout": 30.0, "check_same_thread": False}
    engine = create_engine(url, connect_args=arguments, pool_size=16, max_overflow=48, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # sqlite3's own transaction handling is switched off (it leaves DDL outside transactions): `_begin` says BEGIN.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=30000")
        cursor.execute("PRAGMA journal_mode=WAL")
        # NORMAL in WAL mode: a commit survives kill -9 of the process; a power cut may lose the last commits, never corrupt.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        # What is deleted is overwritten, not just let go: many builds of SQLite do so by default.
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        how = connection.get_execution_options().get(BEGIN_OPTION, "BEGIN")
        if how == "BEGIN":
            connection.exec_driver_sql(how)
        else:
            _begin_writing(connection, how)

    return engine


def _begin_writing(connection: Connection, how: str) -> None:
    """Take SQLite's write lock, at most as long as `busy_timeout` says.

    SQLite itself waits in steps of up to 100 ms for a lock that others hold for one: with several processes a third of their
    writers' time went there. Here the steps begin short and grow to a tenth of what has been waited.
    """
    driver = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    (timeout_ms,) = driver.execute("PRAGMA busy_timeout").fetchone()
    began = time.monotonic()
    driver.execute("PRAGMA busy_timeout=0")
    try:
        while (waited_s := time.monotonic() - began) < timeout_ms / 1000:
            try:
                driver.execute(how)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    break
                time.sleep(max(_STEP_S, waited_s / 10))
        connection.exec_driver_sql(how)  # whose error says what is wrong
    finally:
        driver.execute(f"PRAGMA busy_timeout={timeout_ms}")


def _postgres_engine(url: str) -> Engine:
    return create_engine(url, pool_size=16, max_overflow=48, pool_pre_ping=True, hide_parameters=True)


def insert_into(table: Any, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that may say what happens on a conflict, in the words of the database that is used.

    Args:
        dialect: SQLAlchemy's name of it: "sqlite" or "postgresql". The other one's is not loaded.
    """
    if dialect == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


@contextmanager
def readable_failures() -> Iterator[None]:
    """Turn the drivers' errors into ours: StorageFull, Unavailable, IntegrityFailed; what is a bug passes as it is."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("Every connection to the database is busy.", hint="Try again shortly.", retry_after_s=2) from error
    except DBAPIError as error:
        reason = str(error.orig)
        if "disk is full" in reason or "No space left" in reason:
            raise StorageFull(
                "The disk that holds the database is full; nothing was changed.", hint="Free some space and try again."
            ) from error
        if "malformed" in reason or "not a database" in reason:
            raise IntegrityFailed(
                f"The database file is damaged: {reason}.",
                hint="Stop the server and restore the newest file of the folder backups.",
            ) from error
        if "unable to open" in reason or "readonly database" in reason:
            raise Unavailable(
                f"The database file cannot be used: {reason}.", hint="Check that its folder exists and may be written."
            ) from error
        if error.connection_invalidated or (
            isinstance(error, OperationalError) and any(word in reason for word in ("locked", "connect", "terminating"))
        ):
            raise Unavailable(
                f"The database does not answer: {reason}. Nothing was changed.", hint="Try again shortly.", retry_after_s=2
            ) from error
        raise
