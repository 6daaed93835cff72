"""Brings a database to this version's tables: backup first, then every step in one transaction, or nothing at all.

`python -m modelworks.kernel.base.migration revision "message"` writes the next script from the rooms' tables (for developers);
`… upgrade` does what it reads for `revision.upgrade_apart`.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import structlog
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError
from sqlalchemy import Connection, MetaData, inspect, text

from modelworks.contract.errors import Conflict, ModelworksError
from modelworks.kernel.base.database import BEGIN_OPTION, Base, Database, UtcDateTime
from modelworks.kernel.base.revision import SCRIPTS, MigrationReport, current, head

log = structlog.get_logger(__name__)

KEEP_BACKUPS = 5
#: First half of PostgreSQL's advisory lock; the second is a hash of the schema.
_LOCK_CLASS = 0x4D57_4D47


def upgrade(db: Database, home: Path, *, scripts: Path = SCRIPTS) -> MigrationReport:
    """Bring the database to `head`; at head nothing is done. Two processes at once wait for each other.

    A database with content is backed up into `home/backups` first; the newest five backups are kept. On PostgreSQL the backup
    is made by `pg_dump`; where that is missing or too old for the server, the rows of all tables are copied into a schema
    `modelworks_backup_…` of the same database: enough to undo a bad migration, no protection against the loss of the server.

    Args:
        scripts: folder of the Alembic scripts.

    Raises:
        Conflict: code `migration_failed` (nothing was changed) or `database_newer` (made by a newer version of the code).
        Unavailable, IntegrityFailed: the database cannot be reached, or its file is damaged.
    """
    target = head(scripts)
    if current(db) == target:
        return MigrationReport(target, target, (), None)
    script = ScriptDirectory.from_config(_config(scripts))
    with _one_at_a_time(db):
        before = current(db)
        if before == target:
            return MigrationReport(before, target, (), None)
        steps = _steps(script, before, target)
        backup = _backup(db, home)
        try:
            with _migrating(db) as connection:
                if MigrationContext.configure(connection).get_current_revision() != before:
                    raise RuntimeError("another program changed the database while its backup was made")
                config = _config(scripts)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except Exception as error:
            reason = getattr(error, "orig", None) or error  # the database's own words, without the statement
            change = f"from revision {before or 'empty'} to {target}"
            raise Conflict(
                f"The database could not be brought {change}: {reason}. Nothing was changed.",
                hint=f"The previous version of Modelworks still works with it. {_where(backup)} Report this with the log.",
                code="migration_failed",
            ) from error
    log.info("database migrated", from_revision=before, to_revision=target, backup=backup)
    return MigrationReport(before, target, steps, backup)


def differences(db: Database, metadata: MetaData) -> list[Any]:
    """What the migrated database lacks compared with the rooms' tables, or has too much; empty when they are equal."""
    with db.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))


def load_metadata() -> MetaData:
    """The tables of every room, found by their `store.py`: this floor knows no room by name."""
    for store in sorted(Path(__file__).parents[1].glob("*/store.py")):
        importlib.import_module(f"modelworks.kernel.{store.parent.name}.store")
    return Base.metadata


def new_revision(message: str, *, scripts: Path = SCRIPTS) -> Path:
    """Write the next script: what leads from the scripts so far to the rooms' tables. Read it before you keep it."""
    with tempfile.TemporaryDirectory() as folder, _disposing(Database(f"sqlite:///{folder}/draft.db")) as db:
        upgrade(db, Path(folder), scripts=scripts)
        scripted = ScriptDirectory.from_config(_config(scripts)).walk_revisions()
        number = 1 + max((int(script.revision) for script in scripted), default=0)  # numbers may have gaps
        with db.engine.connect() as connection:
            config = _config(scripts)
            config.attributes.update(connection=connection, metadata=load_metadata(), render_item=_render_item)
            made = command.revision(config, message, autogenerate=True, rev_id=f"{number:04d}")
    if made is None or isinstance(made, list):
        raise RuntimeError("Alembic wrote no script")
    return Path(made.path)


@contextmanager
def _disposing(db: Database) -> Iterator[Database]:
    try:
        yield db
    finally:
        db.dispose()


def _render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    # Scripts must not import our code, which changes after they are written.
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def _config(scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.set_main_option("path_separator", "os")
    return config


def _steps(script: ScriptDirectory, before: str | None, target: str | None) -> tuple[str, ...]:
    try:
        revisions = list(script.iterate_revisions(target, before))
    except (CommandError, RevisionError) as error:
        raise Conflict(
            f"The database has revision {before}, which this version of Modelworks does not know.",
            hint="It was made by a newer version: install that one, or start from a backup that fits this one.",
            code="database_newer",
        ) from error
    return tuple(revision.revision for revision in reversed(revisions))


def _where(backup: str | None) -> str:
    return f"A backup is at {backup}." if backup else "The database was empty."


@contextmanager
def _one_at_a_time(db: Database) -> Iterator[None]:
    if not db.is_sqlite:
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            lock = {"class": _LOCK_CLASS}
            connection.execute(text("SELECT pg_advisory_lock(:class, hashtext(current_schema()))"), lock)
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:class, hashtext(current_schema()))"), lock)
        return
    path = _sqlite_path(db)
    if path is None:
        yield
        return
    with path.with_name(f"{path.name}.migrate-lock").open("ab") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


@contextmanager
def _migrating(db: Database) -> Iterator[Connection]:
    with db.engine.connect() as connection:
        if not db.is_sqlite:
            with connection.begin():
                yield connection
            return
        raw: Any = connection.connection.dbapi_connection
        # A table that is made anew would take the rows that refer to it along; this works outside a transaction only.
        raw.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.execution_options(**{BEGIN_OPTION: "BEGIN IMMEDIATE"}).begin():
                yield connection
                if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                    raise RuntimeError(f"{len(broken)} rows refer to rows that would not exist, the first in {broken[0][0]!r}")
        finally:
            raw.execute("PRAGMA foreign_keys=ON")


def _sqlite_path(db: Database) -> Path | None:
    name = db.engine.url.database
    return Path(name).absolute() if name and name != ":memory:" else None


def _backup(db: Database, home: Path) -> str | None:
    """Where the backup is; None when there is nothing to save."""
    with db.engine.connect() as connection:
        if not inspect(connection).get_table_names():
            return None
    folder = home / "backups"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if db.is_sqlite:
            path = _sqlite_path(db)
            return None if path is None else str(_backup_sqlite(db, folder, path.stem, stamp))
        return _backup_postgres(db, folder, stamp)
    except Exception as error:
        raise Conflict(
            f"The database must be migrated, but its backup in {folder} failed: {error}. Nothing was changed.",
            hint="Free some space or repair the folder's rights, and start again.",
            code="migration_failed",
        ) from error


def _backup_sqlite(db: Database, folder: Path, name: str, stamp: str) -> Path:
    target = folder / f"{name}-{stamp}.db"
    draft = target.with_suffix(".part")
    try:
        with db.engine.connect() as connection, closing(sqlite3.connect(draft)) as copy:
            raw: Any = connection.connection.dbapi_connection
            raw.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, whole in itself
            if (verdict := copy.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise RuntimeError(f"the copy is damaged: {verdict}")
        draft.chmod(0o600)
        _sync(draft)
        draft.replace(target)
        _sync(folder)
    finally:
        draft.unlink(missing_ok=True)
    _keep_newest(folder, f"{name}-*.db")
    return target


def _backup_postgres(db: Database, folder: Path, stamp: str) -> str:
    dumped = _dump_postgres(db, folder / f"modelworks-{stamp}.dump") if shutil.which("pg_dump") else None
    if dumped is not None:
        _keep_newest(folder, "modelworks-*.dump")
        return str(dumped)
    with db.engine.begin() as connection:
        name = f"modelworks_backup_{stamp.lower()}"
        quote = connection.dialect.identifier_preparer.quote
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        for table in inspect(connection).get_table_names():
            connection.exec_driver_sql(f"CREATE TABLE {name}.{quote(table)} AS TABLE {quote(table)}")
        copies = sorted(item for item in inspect(connection).get_schema_names() if item.startswith("modelworks_backup_"))
        for old in copies[:-KEEP_BACKUPS]:
            connection.exec_driver_sql(f"DROP SCHEMA {old} CASCADE")
    return f"schema {name}"


def _dump_postgres(db: Database, target: Path) -> Path | None:
    draft = target.with_suffix(".part")
    with db.engine.connect() as connection:
        schema = connection.scalar(text("SELECT current_schema()"))
    url = db.engine.url
    given = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database, **url.query}
    conninfo = " ".join(f"{key}='{_escaped(str(value))}'" for key, value in given.items() if value is not None)
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    arguments = ["pg_dump", "--format=custom", f"--schema={schema}", f"--file={draft}", f"--dbname={conninfo}", "--no-password"]
    try:
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            log.warning("pg_dump failed; the tables are copied into a schema instead", reason=done.stderr.strip()[-500:])
            return None
        draft.chmod(0o600)
        _sync(draft)
        draft.replace(target)
        _sync(target.parent)
        return target
    finally:
        draft.unlink(missing_ok=True)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_newest(folder: Path, pattern: str) -> None:
    for old in sorted(folder.glob(pattern))[:-KEEP_BACKUPS]:
        old.unlink(missing_ok=True)


def _upgrade_as_told() -> None:
    # The answer has standard output to itself.
    beside = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING), logger_factory=beside)
    order = json.load(sys.stdin)
    try:
        with _disposing(Database(order["url"])) as db:
            said = asdict(upgrade(db, Path(order["home"])))
    except ModelworksError as error:
        said = {"error": error.to_wire()}
    json.dump(said, sys.stdout)


def main(arguments: list[str]) -> int:
    """`upgrade`, for the server; `revision "message"`, for developers."""
    if arguments == ["upgrade"]:
        _upgrade_as_told()
        return 0
    if len(arguments) != 2 or arguments[0] != "revision":
        sys.stderr.write('Usage: python -m modelworks.kernel.base.migration revision "message"\n')
        return 2
    sys.stdout.write(f"{new_revision(arguments[1])}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
