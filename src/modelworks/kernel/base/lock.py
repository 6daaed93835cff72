"""One server per database and per home folder; the operating system or the database frees the lock when the server dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from modelworks.contract.errors import Conflict, Unavailable
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.settings import Settings

#: First half of PostgreSQL's advisory lock; the second is a hash of the schema.
_LOCK_CLASS = 0x4D57_5356
_HINT = "Stop that server first, or give this one its own MODELWORKS_HOME and MODELWORKS_DATABASE_URL."


class ServerLock:
    """Held from `acquire` to `release` or the end of the process, kill -9 included.

    Locks a file in the home folder and the database: a file beside an SQLite database (a copy of the home folder may name the
    same database), an advisory lock on PostgreSQL, held by a connection of its own.
    """

    def __init__(self, settings: Settings, db: Database) -> None:
        self._db = db
        self._paths = [settings.home / "server.lock"]
        if db.is_sqlite and db.engine.url.database not in (None, "", ":memory:"):
            database = Path(str(db.engine.url.database)).resolve()
            self._paths.append(database.with_name(f"{database.name}.server-lock"))
        self._files: list[IO[str]] = []
        self._connection: Connection | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Conflict: another server holds it; the message names its process and host. Code `server_running`.
            Unavailable: no database answers at the URL. Code `database_unreachable`.
        """
        try:
            for path in self._paths:
                self._lock_file(path)
            if not self._db.is_sqlite:
                self._lock_postgres()
        except DBAPIError as error:
            self.release()
            reason = " ".join(str(error.orig).split()).rstrip(".?")
            raise Unavailable(
                f"The database at {self._db.engine.url.render_as_string(hide_password=True)} cannot be used: {reason}.",
                hint="Start it, or correct MODELWORKS_DATABASE_URL: address, name of the database, user and password.",
                code="database_unreachable",
            ) from error
        except BaseException:
            self.release()
            raise

    def renew(self) -> None:
        """See to it that the lock is still held: PostgreSQL drops it with the connection, when it is restarted for example.

        Raises:
            Conflict: another server took it meanwhile.
            Unavailable: the database does not answer; nobody can hold the lock there now.
        """
        if self._connection is None:
            return
        try:
            self._connection.execute(text("SELECT 1"))
            return
        except DBAPIError:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
        try:
            self._lock_postgres()
        except OperationalError as error:
            raise Unavailable("The database does not answer.", hint="Start it.", retry_after_s=2) from error

    def release(self) -> None:
        """Let go; without `acquire` this does nothing."""
        for file in self._files:
            file.close()
        self._files.clear()
        if self._connection is not None:
            # Closed, not returned to the pool: the lock belongs to the connection.
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def _lock_file(self, path: Path) -> None:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read()
            file.close()
            raise Conflict(
                f"A server uses {path.parent} already: {_described(holder)}.", hint=_HINT, code="server_running"
            ) from error
        file.seek(0)
        file.truncate()
        json.dump(
            {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}, file
        )
        file.flush()
        self._files.append(file)

    def _lock_postgres(self) -> None:
        connection = self._db.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection = connection
        name = f"modelworks process {os.getpid()} on {socket.gethostname()}"[:63]
        connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": name})
        lock = {"class": _LOCK_CLASS}
        if connection.scalar(text("SELECT pg_try_advisory_lock(:class, hashtext(current_schema()))"), lock):
            return
        holder = connection.scalar(
            text(
                "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
                " WHERE l.locktype = 'advisory' AND l.granted AND l.classid = :class"
                " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                " AND l.objid::bigint = hashtext(current_schema())::bigint & 4294967295"
            ),
            lock,
        )
        raise Conflict(
            f"A server uses this PostgreSQL database already: {holder or 'another process'}.", hint=_HINT, code="server_running"
        )


def _described(content: str) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
