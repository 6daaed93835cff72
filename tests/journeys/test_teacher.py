"""A deployed model writes a data set, through the command line, and another model learns it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.language_model import train_and_deploy
from tests.journeys.platform_process import PlatformProcess

NAME = "lab/teacher"
QUESTIONS = ["Where is the river?", "Who is there?", "What now?", "Which gate?"]

pytestmark = pytest.mark.xdist_group("teacher")


def modelworks(platform: PlatformProcess, *arguments: str) -> Any:
    """What the command line prints as JSON."""
    environment = {**os.environ, "MODELWORKS_URL": platform.url, "MODELWORKS_API_KEY": platform.key}
    command = [sys.executable, "-m", "modelworks.cli", *arguments, "-o", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_what_a_deployed_teacher_says_is_learnt(tmp_path: Path) -> None:
    questions = tmp_path / "questions"
    questions.mkdir()
    records = [{"messages": [{"role": "user", "content": question}]} for question in QUESTIONS]
    (questions / "q.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with PlatformProcess(tmp_path / "home") as platform, platform.client() as ours:
        train_and_deploy(ours, NAME, tmp_path / "text")
        teacher = ours.models.get(NAME)["version"]["id"]
        told = modelworks(
            platform, "data", "label", str(questions), "--teacher", NAME, "--name", "told",
            "-p", "max_tokens=12", "-p", "keep_truncated=true",
        )  # fmt: skip
        # So small a model may have nothing to say.
        assert (told["samples"], told["labelled"] + told.get("empty", 0), told["outputs"]) == (4, 4, ["told@v1"])
        # Metered like anybody's requests, under a key that bears the run's name and is over.
        labelled = next(run for run in ours.runs.list().data if run["verb"] == "label")
        (key,) = [each for each in ours.keys.list().data if each["name"] == labelled["id"]]
        assert key["revoked_at"] is not None
        used = {each["key"]: each for each in modelworks(platform, "usage", "--by", "key")["data"]}
        assert used[key["id"]]["num_requests"] == 4
        assert used[key["id"]]["completion_tokens"] == told["completion_tokens"]
        # The version that answered is in the lineage of what is learnt from it.
        run = ours.runs.submit(
            verb="train",
            task="text-generation",
            inputs={"base": NAME, "train": "told"},
            name="student",
            params={"method": "supervised", "steps": 2, "validation_fraction": 0, "num_threads": 1},
        )
        assert ours.runs.wait(run["id"], poll_s=0.2)["state"] == "succeeded"
        assert teacher in json.dumps(ours.lineage.graph(run["id"], direction="up"))
