"""What was recorded before there were accounts is in them afterwards, and they agree."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sqlalchemy import text

from modelworks.kernel.access.invoices import invoices, verify
from modelworks.kernel.base import migration
from modelworks.kernel.base.database import Database

SCRIPTS = Path(migration.__file__).parent / "migrations"
COLUMNS = (
    "id, created_at, project_id, key_id, endpoint, model, request_id, status, prompt_tokens, completion_tokens, cached_tokens, "
    "reasoning_tokens, duration_ms, streamed, aborted"
)


def before(revision: str, folder: Path) -> Path:
    """The scripts that a database had before a revision."""
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    follows = {}
    for script in (folder / "versions").glob("*.py"):
        found = dict(re.findall(r'^(revision|down_revision) = "(\w+)"', script.read_text(), flags=re.MULTILINE))
        follows[found["revision"]] = (found.get("down_revision"), script)
    gone = {revision}
    while more := {each for each, (previous, _) in follows.items() if previous in gone} - gone:
        gone |= more
    for each in gone:
        follows[each][1].unlink()
    return folder


def test_recorded_requests_are_posted_at_no_cost(empty_database: Database, tmp_path: Path) -> None:
    migration.upgrade(empty_database, tmp_path, scripts=before("0010", tmp_path / "scripts"))
    requests = [
        ("a", "2026-10-31 23:59:59.000000", 5, 2),
        ("b", "2026-11-01 00:00:00.000000", 7, 0),
        ("c", "2026-11-02 00:00:00", 0, 0),
    ]
    with empty_database.transaction() as session:
        for name, moment, prompt, completion in requests:
            values = f"'usg_{name}', '{moment}', 'prj_1', 'key_1', '/v1/x', 'chat', 'r', 200, {prompt}, {completion}, 0, 0, 1.0"
            flags = "false, false"
            zone = "" if empty_database.is_sqlite else "SET LOCAL TIME ZONE 'UTC'"
            if zone:
                session.execute(text(zone))
            session.execute(text(f"INSERT INTO usage_requests ({COLUMNS}) VALUES ({values}, {flags})"))
    assert "0010" in migration.upgrade(empty_database, tmp_path).applied
    with empty_database.reading() as session:
        found = verify(session)
        months = [(each.month, each.num_requests, each.prompt_tokens, each.cost) for each in invoices(session, "prj_1")]
    assert found.ok, found.first_difference
    assert (found.num_requests, found.num_entries) == (3, 4)
    assert months == [("2026-11", 2, 7, 0), ("2026-10", 1, 5, 0)]
