"""Kill -9 of the server, of a run's worker and of a replica, at the worst moment: nothing accepted is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from tests.journeys.language_model import submit_training, train_and_deploy
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.client import Modelworks

#: Long enough to be hit in the middle, short enough for a test.
STEPS = 1000


def workers(run_id: str) -> list[psutil.Process]:
    """The processes of a run's attempts."""
    return [process for process in psutil.process_iter() if _mentions(process, "jobs.worker", run_id)]


def replicas(home: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _mentions(process, "serving.worker", str(home))]


def _mentions(process: psutil.Process, *words: str) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return all(word in line for word in words)


def wait_for_checkpoint(client: Modelworks, run_id: str, *, after_step: int = 0) -> int:
    """Wait until the run is in the middle and has something to go on from; returns the step it is at."""
    deadline = time.monotonic() + 120
    while True:
        run = client.runs.get(run_id)
        assert run["state"] in ("queued", "running", "validating_files"), run
        done = int((run["progress"] or {}).get("done", 0))
        if run["has_checkpoint"] and done > after_step:
            return done
        assert time.monotonic() < deadline, run
        time.sleep(0.05)


def losses(client: Modelworks, run_id: str) -> dict[int, float]:
    return {point["step"]: point["value"] for point in client.runs.metrics(run_id).data if point["name"] == "loss"}


def assert_whole(client: Modelworks, run_id: str, name: str) -> dict[str, Any]:
    """The run succeeded, its curve has no gap, and exactly one version came of it."""
    run = client.runs.wait(run_id, poll_s=0.2)
    assert run["state"] == "succeeded", run
    curve = losses(client, run_id)
    assert sorted(curve) == list(range(1, STEPS + 1))
    detail = client.models.get(name)
    assert [version["number"] for version in detail["versions"]] == [1]
    return run


@pytest.mark.slow
def test_training_survives_kills_of_server_and_worker(tmp_path: Path) -> None:
    platform = PlatformProcess(tmp_path / "home")
    with platform, platform.client() as client:
        run_id = submit_training(client, "long", tmp_path / "text", steps=STEPS, checkpoint_every=50)["id"]
        wait_for_checkpoint(client, run_id)
        (worker,) = workers(run_id)
        platform.kill()
    # The worker goes on without a server and is taken over by the next one. A quick one would be over before that is there.
    spent_s = worker.cpu_times().user
    while worker.cpu_times().user < spent_s + 0.2:
        time.sleep(0.02)
    worker.suspend()
    with platform, platform.client() as client:
        worker.resume()
        at = wait_for_checkpoint(client, run_id)
        assert client.runs.get(run_id)["attempt"] == 1
        worker.send_signal(signal.SIGKILL)
        wait_for_checkpoint(client, run_id, after_step=at)
        # Server and worker at once. The next attempt may not have begun yet; held still, it cannot end before it is killed.
        deadline = time.monotonic() + 60
        while client.runs.get(run_id)["attempt"] == 1 or not (doomed := workers(run_id)):
            assert time.monotonic() < deadline, "the killed worker has no successor"
            time.sleep(0.05)
        for process in doomed:
            process.suspend()
        platform.kill()
        for process in doomed:
            os.kill(process.pid, signal.SIGKILL)
    with platform, platform.client() as client:
        run = assert_whole(client, run_id, "long")
        assert run["attempt"] == 3
        assert not workers(run_id)


@pytest.mark.slow
def test_deployments_return_after_a_kill_in_mid_stream(tmp_path: Path) -> None:
    platform = PlatformProcess(tmp_path / "home")

    def ask(**fields: Any) -> Any:
        base = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0, timeout=60)
        return base.completions.create(model="m", prompt="The river", temperature=0, **fields)

    with platform, platform.client() as client:
        train_and_deploy(client, "m", tmp_path / "text", steps=20, context_length=4096)
        before = ask(max_tokens=20)
        stream = ask(max_tokens=4000, stream=True, n=4)
        next(iter(stream))
        platform.kill()
        with pytest.raises((openai.APIError, Exception), match=r"(?s).*"):
            for _ in stream:
                pass
        deadline = time.monotonic() + 20
        while replicas(tmp_path / "home"):
            assert time.monotonic() < deadline, "a replica outlived its server"
            time.sleep(0.1)
    with platform, platform.client() as client:
        wait_until_ready(client, "m")
        rows = client.usage.requests(limit=10).data
        assert [row["completion_tokens"] for row in rows][-1] == before.usage.completion_tokens
        assert ask(max_tokens=20).choices[0].text == before.choices[0].text
        # The replica alone: one request fails cleanly, the next ones are answered by its successor.
        (replica,) = replicas(tmp_path / "home")
        stream = ask(max_tokens=4000, stream=True, n=4)
        next(iter(stream))
        replica.send_signal(signal.SIGKILL)
        with pytest.raises(openai.APIError) as broken:
            for _ in stream:
                pass
        assert broken.value.code is not None
        assert ask(max_tokens=20).choices[0].text == before.choices[0].text


def test_a_second_server_on_the_same_home_is_refused(tmp_path: Path) -> None:
    with PlatformProcess(tmp_path / "home") as first:
        second = PlatformProcess(tmp_path / "home")
        with pytest.raises(RuntimeError, match=str(first.process.pid) if first.process else ""):
            second.start()
        second.stop()
