"""A recipe at one per cent, from the files of this machine to a model with a card, and not a second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.client import Modelworks

RECIPE = Path(__file__).resolve().parents[2] / "starter" / "starter-lm.toml"

pytestmark = pytest.mark.xdist_group("recipe")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    root = tmp_path_factory.mktemp("recipe")
    (root / "site").mkdir()
    with PlatformProcess(root / "home", site=root / "site") as platform:
        yield platform


def train(platform: PlatformProcess, *more: str) -> tuple[Any, str]:
    done = command(platform, "train", "--recipe", str(RECIPE), "--scale", "0.01", "--available", *more, "-o", "json")
    return json.loads(done.stdout), done.stderr


def command(platform: PlatformProcess, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MODELWORKS_URL": platform.url, "MODELWORKS_API_KEY": platform.key, "MODELWORKS_LANG": "en"}
    # Python's own library is on every machine; what else is there would only take longer.
    environment["MODELWORKS_SHARED"] = str(platform.home / "nothing")
    done = subprocess.run(
        [sys.executable, "-m", "modelworks.cli", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


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
        assert len(client.runs.list().data) == runs
        ships(platform, client, made["name"])


def ships(platform: PlatformProcess, client: Modelworks, name: str) -> None:
    """The model goes into a wheel, and comes out of it by one word, to be deployed and asked."""
    root = platform.home.parent
    trained = client.models.get(name)["version"]
    for file in trained["files"]:
        client.blobs.download(file["digest"], root / "lm" / file["path"])
    packer = [sys.executable, str(RECIPE.parent / "distribution.py"), str(root / "lm"), "--name", "starter-lm"]
    packed = subprocess.run(
        [*packer, "--version", "0.1", "--out", str(root / "dist")],
        capture_output=True,
        text=True,
        check=True,
    )
    with zipfile.ZipFile(packed.stdout.strip()) as wheel:
        wheel.extractall(root / "site")
    command(platform, "pull", "starter-lm", "-y")
    version = client.models.get("starter-lm")["version"]
    assert (version["licence"], version["source"]) == ("cc-by-sa-4.0", "package://starter-lm")
    assert version["metadata"]["revision"] == "0.1"
    assert version["card"] == trained["card"]
    client.deployments.apply("starter-lm", model="starter-lm")
    wait_until_ready(client, "starter-lm")
    theirs = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0, timeout=60)
    said = theirs.chat.completions.create(model="starter-lm", messages=[{"role": "user", "content": "你好"}], max_tokens=5)
    assert said.usage is not None
    assert said.usage.completion_tokens > 0
