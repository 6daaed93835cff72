"""The README's two commands are those of the Makefile and of continuous integration."""

import os
import re
import subprocess

import pytest
from tests.architecture.sources import PROJECT

TARGETS = ("setup", "demo", "up", "test", "check", "docs", "bench")


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_installing_twice_installs_once() -> None:
    """The stamp depends on what defines the environment and on nothing else."""
    text = (PROJECT / "Makefile").read_text()
    assert re.search(r"^\$\(STAMP\): pyproject\.toml constraints\.txt$", text, flags=re.MULTILINE)
    # Weights are no part of the environment: they are installed when asked for.
    installs = [line for line in text.splitlines() if "pip install" in line and "dist/modelworks_starter" not in line]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
    assert '"torch==2.13.0"' in installs[0], "torch comes first, or something else may bring another one"


def test_the_readme_names_both_commands_and_ci_runs_the_test_one() -> None:
    readme = (PROJECT / "README.md").read_text()
    assert re.search(r"^    make demo$", readme, flags=re.MULTILINE)
    assert re.search(r"^    make test$", readme, flags=re.MULTILINE)
    script = PROJECT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^make test$", script.read_text(), flags=re.MULTILINE)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
