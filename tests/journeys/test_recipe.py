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

import httpx
import openai
import pytest
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.client import Modelworks

STARTER = Path(__file__).resolve().parents[2] / "starter"

pytestmark = pytest.mark.xdist_group("recipe")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    root = tmp_path_factory.mktemp("recipe")
    (root / "site").mkdir()
    with PlatformProcess(root / "home", site=root / "site") as platform:
        yield platform


def train(platform: PlatformProcess, recipe: str = "starter-lm", *more: str) -> tuple[Any, str]:
    file = str(STARTER / f"{recipe}.toml")
    done = command(platform, "train", "--recipe", file, "--scale", "0.01", "--available", *more, "-o", "json")
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
    comes_by_wheel(platform, client, name, "starter-lm")
    theirs = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0, timeout=60)
    said = theirs.chat.completions.create(model="starter-lm", messages=[{"role": "user", "content": "你好"}], max_tokens=5)
    assert said.usage is not None
    assert said.usage.completion_tokens > 0


def comes_by_wheel(platform: PlatformProcess, client: Modelworks, trained: str, name: str, *more: str) -> None:
    """Pack the model that a recipe made, pull it by one word and deploy it."""
    root = platform.home.parent
    made = client.models.get(trained)["version"]
    for file in made["files"]:
        client.blobs.download(file["digest"], root / name / file["path"])
    packer = [sys.executable, str(STARTER / "distribution.py"), str(root / name), "--version", "0.1"]
    packed = subprocess.run(
        [*packer, "--out", str(root / "dist"), *more],
        capture_output=True,
        text=True,
        check=True,
    )
    with zipfile.ZipFile(packed.stdout.strip()) as wheel:
        wheel.extractall(root / "site")
    command(platform, "pull", name, "-y")
    version = client.models.get(name)["version"]
    assert (version["licence"], version["source"]) == ("cc-by-sa-4.0", f"package://{name}")
    assert version["metadata"]["revision"] == "0.1"
    assert version["card"] == made["card"]
    client.deployments.apply(name, model=name)
    wait_until_ready(client, name)


@pytest.mark.thorough
def test_the_encoder_and_the_reranker_that_grows_on_it_come_by_wheel_and_answer(platform: PlatformProcess) -> None:
    encoder, _ = train(platform, "starter-embed")
    assert (encoder["task"], encoder["metadata"]["dimensions"]) == ("feature-extraction", [16, 32])
    assert "| question | 0 |" in encoder["card"]
    ranker, _ = train(platform, "starter-rerank")
    assert (ranker["task"], ranker["level"]) == ("text-ranking", "L0")
    with platform.client() as client:
        assert "starter-embed-scale-0.01" in json.dumps(client.lineage.tree("starter-rerank-scale-0.01"))
        comes_by_wheel(platform, client, "starter-embed-scale-0.01", "starter-embed", "--bf16")
        comes_by_wheel(platform, client, "starter-rerank-scale-0.01", "starter-rerank", "--bf16")
    theirs = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0, timeout=60)
    texts = ["Open a file for reading.", "打开文件"]
    one, two = theirs.embeddings.create(model="starter-embed", input=texts, dimensions=16).data
    assert len(one.embedding) == len(two.embedding) == 16
    assert sum(value * value for value in one.embedding) == pytest.approx(1.0, abs=1e-3)
    answer = httpx.post(
        f"{platform.url}/v1/rerank",
        headers={"Authorization": f"Bearer {platform.key}"},
        json={"model": "starter-rerank", "query": "read a file", "documents": texts},
        timeout=60,
    ).json()
    assert sorted(each["index"] for each in answer["results"]) == [0, 1]
    assert answer["results"][0]["relevance_score"] >= answer["results"][1]["relevance_score"]
