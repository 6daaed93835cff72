"""Which migration a database is at and which one this code needs, read without Alembic.

Alembic takes some 10 MB for good, and a server needs it at few of its starts: one that must migrate has another process do it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import inspect, text

from modelworks.contract.errors import Conflict, from_wire
from modelworks.kernel.base.database import Database, readable_failures

SCRIPTS = Path(__file__).with_name("migrations")
_LINKS = re.compile(r"""^(revision|down_revision) = (?:["'](\w+)["']|None)$""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a migration did. `backup` says where the backup is: a path, or `schema NAME` on PostgreSQL without pg_dump."""

    from_revision: str | None
    to_revision: str | None
    applied: tuple[str, ...]
    backup: str | None


def head(scripts: Path = SCRIPTS) -> str | None:
    """The revision that this version of the code needs: the script that no other one follows; None without scripts."""
    links = [dict(_LINKS.findall(path.read_text("utf-8"))) for path in (scripts / "versions").glob("[0-9]*.py")]
    ends = {link["revision"] for link in links} - {link["down_revision"] for link in links}
    if len(ends) > 1:
        raise RuntimeError(f"{scripts} has several newest migrations: {', '.join(sorted(ends))}")
    return next(iter(ends), None)


def current(db: Database) -> str | None:
    """The revision of the database; None while it is empty.

    Raises:
        Unavailable, IntegrityFailed: the database cannot be reached, or its file is damaged.
    """
    with readable_failures(), db.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return found


def upgrade(db: Database, home: Path, *, apart: bool) -> MigrationReport:
    """`migration.upgrade`, in a process of its own if wanted; Alembic is loaded only where there is something to do.

    Raises:
        ModelworksError: as `migration.upgrade`, `upgrade_apart`.
    """
    needed = head()
    if current(db) == needed:
        return MigrationReport(needed, needed, (), None)
    if apart:
        return upgrade_apart(db.engine.url.render_as_string(hide_password=False), home)
    from modelworks.kernel.base import migration

    return migration.upgrade(db, home)


def upgrade_apart(url: str, home: Path) -> MigrationReport:
    """`migration.upgrade` in a process of its own. When this one is killed, the other ends what it began.

    Raises:
        ModelworksError: as `migration.upgrade`; Conflict (`migration_failed`) as well where that process dies.
    """
    # The address may hold a password: other users see arguments, but not what is written to a pipe.
    order = json.dumps({"url": url, "home": str(home)})
    command = [sys.executable, "-m", "modelworks.kernel.base.migration", "upgrade"]
    done = subprocess.run(command, input=order, stdout=subprocess.PIPE, text=True, check=False)
    try:
        said = json.loads(done.stdout)
    except ValueError as error:
        raise Conflict(
            f"The process that migrates the database ended with {done.returncode} and said nothing of what it did.",
            hint="A migration is whole or not made at all. Start again; see the messages above and the free memory.",
            code="migration_failed",
        ) from error
    if "error" in said:
        raise from_wire(said["error"])
    return MigrationReport(**{**said, "applied": tuple(said["applied"])})
