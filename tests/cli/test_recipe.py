"""`train --recipe`: what it refuses before anything is read or sent."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer


def test_a_recipe_names_its_own_task_and_data(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    done = cli("train", "text-generation", "--recipe", str(tmp_path / "x.toml"))
    assert done.code != 0
    assert "names its task and data itself" in done.err


def test_a_recipe_that_is_missing_and_a_scale_that_is_wrong_are_said(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    assert "There is no recipe" in cli("train", "--recipe", str(tmp_path / "x.toml")).err
    assert "The scale 2 is not" in cli("train", "--recipe", str(tmp_path / "x.toml"), "--scale", "2").err
    assert not server.asked


def test_without_a_recipe_a_task_and_a_name_are_needed(cli: Cli, server: FakeServer) -> None:
    assert "modelworks train TASK --name NAME" in cli("train", "text-generation").err


def test_a_dry_run_says_what_each_source_gives_and_sends_nothing(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(
            f"Text number {number} is about the number {number * number} and about no other."
        )
    (tmp_path / "recipe.toml").write_text(
        """
        name = "small"
        summary = "A test"
        licence = "mit"
        text = { held_out = 0.2 }
        stage = [{ name = "reading", data = "text" }]
        [[source]]
        name = "notes"
        root = "recipe"
        files = ["*.txt"]
        language = "en"
        licence = "MIT"
        origin = "us"
        min_chars = 9
        """
    )
    done = cli("train", "--recipe", str(tmp_path / "recipe.toml"), "--dry-run", "--keep", str(tmp_path / "kept"), "-o", "json")
    refused = cli("train", "--recipe", str(tmp_path / "recipe.toml"), "-p", "writing.steps=1", "--dry-run")
    assert "no stage 'writing'" in refused.err
    assert "stages: reading" in refused.err
    assert "names its stage" in cli("train", "--recipe", str(tmp_path / "recipe.toml"), "-p", "reading=1", "--dry-run").err
    (row,) = done.json
    assert row["documents"] + row["held_out_documents"] == 40
    assert row["licence"] == "MIT"
    assert (tmp_path / "kept/data/train/data.jsonl").is_file()
    assert not server.asked
