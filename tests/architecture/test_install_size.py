"""Law 2: `pip install modelworks` is small and complete: the base install alone imports and runs the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.sources import PROJECT

LIMIT_BYTES = 30 * 1000**2
UNREACHABLE = (
    "No matching distribution found",
    "Could not find a version",
    "ConnectionError",
    "NewConnectionError",
    "Temporary failure",
)


def pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--retries", "1", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE) and not os.environ.get("CI"):
        pytest.skip(f"the package index cannot be reached, so nothing can be installed: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree with the base dependencies only, in a folder of its own."""
    folder = tmp_path_factory.mktemp("base")
    pip("wheel", "--no-deps", "--wheel-dir", str(folder / "dist"), str(PROJECT))
    (wheel,) = (folder / "dist").glob("modelworks-*.whl")
    target = folder / "site"
    pip("install", "--no-compile", "--constraint", str(PROJECT / "constraints.txt"), "--target", str(target), str(wheel))
    return target


def alone(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with that folder and the standard library only."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed),
        "HOME": str(installed.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [sys.executable, "-S", *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_base_is_small(installed: Path) -> None:
    size = sum(path.stat().st_size for path in installed.rglob("*") if path.is_file())
    assert 1_000_000 < size < LIMIT_BYTES, f"{size / 1e6:.1f} MB"


def test_the_base_imports_and_its_command_line_speaks(installed: Path) -> None:
    done = alone(
        installed, "-c", "import modelworks.client, modelworks.cli, modelworks.testing, sys; print(modelworks.__file__)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    assert "deploy" in alone(installed, "-m", "modelworks.cli", "--help").stdout


def test_what_the_base_lacks_is_a_sentence_that_names_the_extra(installed: Path) -> None:
    done = alone(installed, "-m", "modelworks.cli", "serve")
    assert done.returncode != 0
    assert "modelworks[server]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_wheel_brings_data_files(installed: Path) -> None:
    package = installed / "modelworks"
    assert (package / "py.typed").exists()
    assert (package / "testing" / "template" / "files" / "pyproject.toml.tmpl").exists()
    for capability in (path for path in (package / "capabilities").iterdir() if path.is_dir()):
        assert (capability / "presets.toml").exists()
        assert (capability / "README.md").exists()
    assert list((package / "kernel" / "base" / "migrations" / "versions").glob("0001*.py"))
