"""A recipe at one per cent, from the files of this machine to a model with a card, and not a second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.platform_process import PlatformProcess

RECIPE = Path(__file__).resolve().parents[2] / "starter" / "starter-lm.toml"

pytestmark = pytest.mark.xdist_group("recipe")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    with PlatformProcess(tmp_path_factory.mktemp("recipe") / "home") as platform:
        yield platform


def train(platform: PlatformProcess, *more: str) -> tuple[Any, str]:
    command = [sys.executable, "-m", "modelworks.cli", "train", "--recipe", str(RECIPE), "--scale", "0.01", "--available"]
    environment = {**os.environ, "MODELWORKS_URL": platform.url, "MODELWORKS_API_KEY": platform.key, "MODELWORKS_LANG": "en"}
    # Python's own library is on every machine; what else is there would only take longer.
    environment["MODELWORKS_SHARED"] = str(platform.home / "nothing")
    done = subprocess.run([*command, *more, "-o", "json"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_recipe_makes_a_model_with_its_licences_and_not_twice(platform: PlatformProcess) -> None:
    made, said = train(platform)
    assert made["name"] == "starter-lm-scale-0.01"
    assert made["licence"] == "cc-by-sa-4.0"
    assert "| python-library | py |" in made["card"]
    assert "PSF-2.0" in made["card"]
    files = {file["path"] for file in made["files"]}
    assert {"README.md", "recipe.toml", "recipe-manifest.json", "tokenizer.json", "config.json"} <= files
    assert made["metadata"]["recipe"] == "starter-lm"
    assert "is queued" in said
    with platform.client() as client:
        runs = len(client.runs.list().data)
        assert "starter-lm-scale-0.01-text" in json.dumps(client.lineage.tree("starter-lm-scale-0.01"))
        again, said = train(platform)
        assert "has made it already" in said
        assert again["id"] == made["id"]
        rows, _ = train(platform, "--dry-run")
        assert "python-library" in {row["name"] for row in rows if not row["missing"]}
        assert len(client.runs.list().data) == runs
