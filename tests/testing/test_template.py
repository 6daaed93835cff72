"""The template becomes a project that keeps the contract, with no other file touched."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.contract import ENTRY_POINT_GROUP
from modelworks.contract.errors import Conflict, InvalidData, InvalidRequest
from modelworks.testing.distribution import install_pure
from modelworks.testing.template import render
from modelworks.testing.template.__main__ import main


@pytest.mark.slow
@pytest.mark.thorough
def test_the_rendered_project_passes_its_own_tests(tmp_path: Path) -> None:
    project = render("sixteenth", tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", "."],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rendered_capability_is_discovered_once_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = install_pure(render("river-gauge", tmp_path / "project"), tmp_path / "site")
    monkeypatch.syspath_prepend(target)
    points = [point for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP) if point.name == "river-gauge"]
    assert len(points) == 1
    capability = points[0].load()
    assert capability.name == "river-gauge"
    assert capability.task("text-classification").predictor == "river_gauge.serve:Classifier"


def test_no_placeholder_is_left(tmp_path: Path) -> None:
    project = render("ticket-topic", tmp_path / "project")
    files = [path for path in project.rglob("*") if path.is_file()]
    assert {"capability.py", "schemas.py", "presets.toml", "data.py", "train.py", "evaluate.py", "serve.py"} <= {
        f.name for f in files
    }
    for path in files:
        assert "<<" not in path.read_text(encoding="utf-8"), path
        assert path.suffix != ".tmpl"


@pytest.mark.parametrize("name", ["", "Ticket", "a_b", "-a", "a--b", "1st", "class", "../a"])
def test_a_name_that_cannot_be_a_capability_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name a capability"):
        render(name, tmp_path / "project")
    assert not (tmp_path / "project").exists()


def test_a_folder_with_content_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(Conflict):
        render("ticket-topic", tmp_path)
    assert main(["ticket-topic", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_command_line_names_the_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelworks.testing.template", "ticket-topic", str(tmp_path / "new")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "new")
    assert (tmp_path / "new" / "src" / "ticket_topic" / "capability.py").exists()


def test_a_project_without_a_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    with pytest.raises(InvalidData, match=r"pyproject\.toml"):
        install_pure(tmp_path, tmp_path / "site")
