"""A space learns in shards on a whole platform; server and runs are killed, one is cancelled: nothing is doubled or left."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.journeys.language_model import train_and_deploy
from tests.journeys.platform_process import PlatformProcess
from tests.journeys.test_data_space import hold_worker, kill_workers

from modelworks.client import Modelworks

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TOPICS = ("pump", "valve", "rotor", "filter", "gauge", "boiler", "ladder", "crane", "turbine", "conveyor")
LEARNING: dict[str, Any] = {
    "shards": 2,
    "max_steps": 8,
    "max_samples": 40,
    "max_questions": 0,
    "max_answers": 0,
    "test_share": 0.3,
    "training": {"learning_rate": 0.01, "num_threads": 1},
}


def put_documents(client: Modelworks, folder: Path) -> None:
    folder.mkdir()
    for number, topic in enumerate(TOPICS):
        path = folder / f"{topic}.md"
        parts = [
            f"# The {topic}",
            f"## Service\n\nThe {topic} of hall {number} is serviced every {number + 3} months by the workshop.",
            f"## Colour\n\nA {topic} is a machine that the company paints in shade {700 + number} of the chart.",
            f"## Owner\n\nQuestions about the {topic} are answered by department {40 + number} on weekdays.",
        ]
        path.write_text("\n\n".join(parts) + "\n", "utf-8")
        client.spaces.put("manual", path, name=path.name)


def at_step(client: Modelworks, learning_id: str, *steps: str, run: str | None = None) -> dict[str, Any]:
    """The learning once it is at one of these steps, and its run has begun where one is named."""
    deadline = time.monotonic() + 240
    while True:
        found = client.spaces.learning("manual", learning_id)
        has_begun = run is None or (run in found["runs"] and client.runs.get(found["runs"][run])["state"] == "running")
        if found["step"] in steps and has_begun:
            return dict(found)
        assert found["state"] == "running", found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def over(client: Modelworks, learning_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 240
    while (found := client.spaces.learning("manual", learning_id))["state"] == "running":
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return dict(found)


def resume_workers(run_id: str) -> None:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if run_id in " ".join(process.cmdline()):
                process.resume()


def set_learning(client: Modelworks, **changed: Any) -> None:
    settings = client.spaces.get("manual")["settings"]
    settings = {**settings, "language_model": settings["language_model"] or "lm", "learning": {**LEARNING, **changed}}
    client.spaces.update("manual", settings=settings)


def test_a_model_is_learned_whatever_is_killed(tmp_path: Path) -> None:
    platform = PlatformProcess(tmp_path / "home")
    with platform, platform.client() as client:
        # Room for the rules of answering and a passage.
        train_and_deploy(client, "lm", tmp_path / "text", context_length=1024, block_length=128)
        client.spaces.create("manual")
        put_documents(client, tmp_path / "documents")
        client.spaces.wait("manual", poll_s=0.2)
        set_learning(client)
        before = {run["id"] for run in client.runs.list(limit=100).data}
        begun = client.spaces.learn("manual")
        training = at_step(client, begun["id"], "training")
        shard = training["runs"]["training 1"]
        hold_worker(shard)
        platform.kill()
        kill_workers(shard)
    with platform, platform.client() as client:
        # The server was killed, and a run with it; now a run alone.
        measuring = at_step(client, begun["id"], "measuring", run="measuring after test")
        kill_workers(measuring["runs"]["measuring after test"])
        done = over(client, begun["id"])
        assert done["state"] in ("succeeded", "refused"), done
        runs = [run for run in client.runs.list(limit=100).data if run["id"] not in before]
        assert {run["id"] for run in runs} == set(done["runs"].values()), "each run was submitted once"
        assert {run["state"] for run in runs} == {"succeeded"}
        assert client.runs.get(shard)["attempt"] >= 2
        space = client.spaces.get("manual")
        for name in ("shard-1", "shard-2", "model"):
            assert len(client.models.get(f"{space['deployment']}/{name}")["versions"]) == 1, name
        assert [each["way"] for each in done["shards"]] == ["anew", "anew"]
        assert space["settings"]["language_model"] == (done["model"] if done["state"] == "succeeded" else "lm")

        # The same again: nothing is trained, the shards are what they were.
        again = over(client, client.spaces.learn("manual")["id"])
        assert [each["way"] for each in again["shards"]] == ["kept", "kept"]
        same = [[each["adapter_version_id"] for each in learning["shards"]] for learning in (done, again)]
        assert same[0] == same[1]
        assert not [name for name in again["runs"] if name.startswith("training")]

        # Cancelled in the middle: it ends, and the space answers as before.
        answers_with = client.spaces.get("manual")["settings"]["language_model"]
        set_learning(client, shards=3)
        third = client.spaces.learn("manual")
        running = at_step(client, third["id"], "training")
        name = next(name for name in running["runs"] if name.startswith("training"))
        hold_worker(running["runs"][name])
        client.runs.cancel(running["runs"][name])
        resume_workers(running["runs"][name])
        assert over(client, third["id"])["state"] == "cancelled"
        deadline = time.monotonic() + 60
        while {client.runs.get(run_id)["state"] for run_id in running["runs"].values()} - {"cancelled", "succeeded"}:
            assert time.monotonic() < deadline, "the others end with it"
            time.sleep(0.1)
        assert client.spaces.get("manual")["settings"]["language_model"] == answers_with
