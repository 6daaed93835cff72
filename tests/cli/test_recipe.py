"""`train --recipe`: what it refuses before anything is read or sent."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer


def test_a_recipe_names_its_own_task_and_data(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    done = cli("train", "text-generation", "--recipe", str(tmp_path / "x.toml"))
    assert done.code != 0
    assert "names its task, data and parameters itself" in done.err


def test_a_recipe_that_is_missing_and_a_scale_that_is_wrong_are_said(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    assert "There is no recipe" in cli("train", "--recipe", str(tmp_path / "x.toml")).err
    assert "The scale 2 is not" in cli("train", "--recipe", str(tmp_path / "x.toml"), "--scale", "2").err
    assert not server.asked


def test_without_a_recipe_a_task_and_a_name_are_needed(cli: Cli, server: FakeServer) -> None:
    assert "modelworks train TASK --name NAME" in cli("train", "text-generation").err
