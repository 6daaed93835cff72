"""Law 1: imports run downwards only."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.sources import PACKAGE, PROJECT

LINTER = Path(sys.executable).parent / "lint-imports"


def lint(config: Path, source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            str(LINTER),
            "--config",
            str(config),
            "--no-logo",
            "--cache-dir",
            str(source / ".cache"),
        ],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's sources alone, where nothing installed can shadow them."""
    shutil.copytree(PACKAGE, tmp_path / "modelworks", ignore=shutil.ignore_patterns("__pycache__", "*.tmpl"))
    return tmp_path


def test_imports_run_downwards(copy: Path) -> None:
    done = lint(PROJECT / "pyproject.toml", copy)
    assert done.returncode == 0, done.stdout + done.stderr


#: file → a statement that breaks a law, and the module whose import must be reported.
UPWARD = {
    "contract/tasks.py": ("import modelworks.kernel.catalog.store", "modelworks.kernel.catalog.store"),
    "contract/errors.py": ("import fastapi", "fastapi"),
    "kernel/storage/blobs.py": ("import modelworks.kernel.access.store", "modelworks.kernel.access.store"),
    "kernel/catalog/store.py": ("from modelworks.kernel.jobs import store", "modelworks.kernel.jobs.store"),
    "kernel/gateway/generation/chat.py": (
        "import modelworks.capabilities.text.schemas",
        "modelworks.capabilities.text.schemas",
    ),
    "capabilities/text/schemas.py": ("from modelworks.kernel.base import ids", "modelworks.kernel.base.ids"),
    "client/accounts.py": ("import sqlalchemy", "sqlalchemy"),
    "kernel/base/clock.py": ("import modelworks.testing.fake_run", "modelworks.testing.fake_run"),
}


def test_every_upward_import_is_found(copy: Path) -> None:
    for file, (statement, _) in UPWARD.items():
        target = copy / "modelworks" / file
        target.write_text(f"{target.read_text()}\n\n{statement}\n")
    done = lint(PROJECT / "pyproject.toml", copy)
    assert done.returncode == 1, done.stdout + done.stderr
    said = " ".join(done.stdout.split())  # long names are broken over lines
    for file, (_, imported) in UPWARD.items():
        importer = "modelworks." + file.removesuffix(".py").replace("/", ".")
        assert f"{importer} -> {imported}" in said, f"{importer} may import {imported}:\n{done.stdout}"
