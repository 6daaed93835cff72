"""Revisions without Alembic, and the process that migrates for a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from modelworks.contract.errors import Conflict
from modelworks.kernel.base import revision
from modelworks.kernel.base.database import Database


def address(db: Database) -> str:
    return db.engine.url.render_as_string(hide_password=False)


def test_head_is_what_alembic_says() -> None:
    config = Config()
    config.set_main_option("script_location", str(revision.SCRIPTS))
    config.set_main_option("path_separator", "os")
    assert revision.head() == ScriptDirectory.from_config(config).get_current_head()


def test_two_ends_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    assert revision.head(tmp_path) is None
    for name, follows in (("0001", "None"), ("0002", '"0001"'), ("0003", '"0001"')):
        (tmp_path / "versions" / f"{name}.py").write_text(f'revision = "{name}"\ndown_revision = {follows}\n')
    with pytest.raises(RuntimeError, match="0002, 0003"):
        revision.head(tmp_path)


def test_another_process_migrates(empty_database: Database, tmp_path: Path) -> None:
    assert revision.current(empty_database) is None
    report = revision.upgrade_apart(address(empty_database), tmp_path)
    assert (report.from_revision, report.to_revision, report.backup) == (None, revision.head(), None)
    assert report.applied[-1] == revision.head() == revision.current(empty_database)
    assert revision.upgrade_apart(address(empty_database), tmp_path).applied == ()


def test_what_the_other_process_refuses_is_told(empty_database: Database, tmp_path: Path) -> None:
    revision.upgrade_apart(address(empty_database), tmp_path)
    with empty_database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match="9999") as caught:
        revision.upgrade_apart(address(empty_database), tmp_path)
    assert caught.value.error_code == "database_newer"
    assert caught.value.hint


def test_a_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Conflict, match="ended with 1") as caught:
        revision.upgrade_apart(f"sqlite:///{tmp_path}/some.db", tmp_path)
    assert caught.value.error_code == "migration_failed"


def test_a_server_that_stays_does_not_hold_alembic(tmp_path: Path) -> None:
    code = """
        import sys
        from modelworks.kernel.base.settings import load_settings
        from modelworks.server import create_app, create_platform
        platform = create_platform(load_settings(), is_lasting=True)
        create_app(platform)
        platform.close()
        print("alembic" in sys.modules, file=sys.stderr)
    """
    program = "\n".join(line.strip() for line in code.splitlines())
    environment = {**os.environ, "MODELWORKS_HOME": str(tmp_path), "MODELWORKS_LOG_LEVEL": "warning"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"
