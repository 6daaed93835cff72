"""Kill -9 in the middle: of a worker, and of the whole server while it trains and streams. Nothing is lost, nothing doubled."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.client import Modelworks
from modelworks.contract.errors import ModelworksError
from modelworks.testing.distribution import install_pure
from modelworks.testing.tiny_data import write_text

TOYS = Path(__file__).parents[1] / "capabilities" / "toys"
STEPS = 40


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return install_pure(TOYS, tmp_path / "site")


def start_training(client: Modelworks, folder: Path) -> str:
    """A run of `STEPS` steps or a few more, of a tenth of a second each."""
    text = write_text(folder / "text", documents=6, sentences_each=10)
    words = sum(len(file.read_text().split()) for file in text.iterdir())
    client.datasets.add("corpus", text)
    run = client.runs.submit(
        verb="train",
        capability="toys",
        task="toy-spelling",
        inputs={"train": "corpus"},
        params={"words_per_step": max(1, words // STEPS), "pause_s": 0.1},
        name="words",
    )
    return str(run["id"])


def wait_for(what: Callable[[], bool], *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def steps(client: Modelworks, run_id: str) -> list[int]:
    return [point["step"] for point in client.runs.metrics(run_id).data if point["name"] == "known"]


def workers(run_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "modelworks.kernel.jobs.worker" in words and any(run_id in word for word in words):
            found.append(process)
    return found


def check_whole(client: Modelworks, run: dict[str, Any], attempt: int) -> None:
    assert run["state"] == "succeeded", run
    assert run["attempt"] == attempt
    logged = steps(client, run["id"])
    assert sorted(logged) == list(range(1, max(logged) + 1)), "a step is missing or was counted twice"
    assert max(logged) >= STEPS
    assert len(client.models.list().data) == 1
    assert client.models.list().data[0]["num_versions"] == 1


def test_a_killed_worker_is_followed_by_an_attempt_from_the_checkpoint(tmp_path: Path, site: Path) -> None:
    with PlatformProcess(tmp_path / "home", site=site) as platform, platform.client() as client:
        run_id = start_training(client, tmp_path)
        wait_for(lambda: len(steps(client, run_id)) > 5)
        for process in workers(run_id):
            process.kill()
        check_whole(client, client.runs.wait(run_id, poll_s=0.2), attempt=2)
        kinds = [event["type"] for event in client.runs.events(run_id, follow=False)]
        assert kinds.count("started") == 2


def test_a_killed_server_finds_its_run_and_its_deployments_again(tmp_path: Path, site: Path) -> None:
    platform = PlatformProcess(tmp_path / "home", site=site)
    with platform:
        with platform.client() as client:
            client.deployments.apply("countdown", task="toy-countdown", capability="toys")
            wait_until_ready(client, "countdown")
            run_id = start_training(client, tmp_path)
            wait_for(lambda: len(steps(client, run_id)) > 5)
            stream = client.tasks.stream("toy-countdown", "countdown", {"start": 1000, "pause_s": 0.02})
            assert next(stream)["value"] == 1000
            (worker,) = workers(run_id)
            platform.kill()
            with pytest.raises(ModelworksError):
                list(stream)
        assert worker.is_running(), "the run goes on without the server"
        platform.start()
        with platform.client() as client:
            check_whole(client, client.runs.wait(run_id, poll_s=0.2), attempt=1)
            wait_until_ready(client, "countdown")
            values = [step["value"] for step in client.tasks.stream("toy-countdown", "countdown", {"start": 2})]
            assert values == [2, 1, 0]
            requests = client.usage.requests().data
            assert [request["model"] for request in requests].count("countdown") >= 1
