"""The first journey on a cluster: a model is trained, loses its node, goes on, is deployed through Serve and answers."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import httpx
import openai
import pytest
from tests.cluster.conftest import RayCluster
from tests.journeys.language_model import PARAMS, submit_training
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.capabilities.text.schemas import TrainParams
from modelworks.capabilities.text.train import train
from modelworks.client import Modelworks
from modelworks.testing.fake_run import FakeRun

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.thorough]

STEPS = 3000


def test_a_model_is_trained_and_deployed_on_the_cluster_although_a_node_is_lost(
    ray_cluster: RayCluster, proxy_url: str, tmp_path: Path
) -> None:
    settings = {
        "executor": "ray",
        "serving_backend": "ray-serve",
        "ray_address": ray_cluster.dashboard_url,
        "ray_serve_url": proxy_url,
    }
    with PlatformProcess(tmp_path / "home", **settings) as platform, platform.client() as client:
        run_id = submit_training(client, "far", tmp_path / "text", steps=STEPS, log_every=50, checkpoint_every=50)["id"]
        deadline = time.monotonic() + 240
        while not (run := client.runs.get(run_id))["has_checkpoint"]:
            assert run["state"] in ("queued", "running"), run
            assert time.monotonic() < deadline, run
            time.sleep(0.1)
        from ray.job_submission import JobSubmissionClient

        info = JobSubmissionClient(ray_cluster.dashboard_url).get_job_info(f"{run_id}-1")
        assert info.driver_node_id in ray_cluster.worker_ids
        ray_cluster.lose(info.driver_node_id)
        run = client.runs.wait(run_id, poll_s=0.5)
        assert run["state"] == "succeeded", run
        assert run["attempt"] == 2
        ray_cluster.restore()
        steps = [point["step"] for point in client.runs.metrics(run_id).data if point["name"] == "loss"]
        assert sorted(steps) == [1, *range(50, STEPS + 1, 50)]

        client.deployments.apply("far", model="far")
        wait_until_ready(client, "far", timeout_s=240)
        ask = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0, timeout=120)
        whole = ask.completions.create(model="far", prompt="The river", temperature=0, max_tokens=12)
        assert whole.choices[0].text
        parts = ask.completions.create(model="far", prompt="The river", temperature=0, max_tokens=12, stream=True)
        assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text
        client.deployments.remove("far")
        # The cluster is left as it was found: the next test may count what runs there.
        deadline = time.monotonic() + 300
        while httpx.get(f"{ray_cluster.dashboard_url}/api/serve/applications/", timeout=30).json()["applications"]:
            assert time.monotonic() < deadline, "the application is still on the cluster"
            time.sleep(0.5)


def test_two_workers_train_on_although_one_is_killed_and_have_the_curve_of_one_process(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    settings = {"executor": "ray", "ray_address": ray_cluster.dashboard_url}
    changed = {"steps": 400, "log_every": 20, "checkpoint_every": 20, "validate_every": 100}
    with PlatformProcess(tmp_path / "home", **settings) as platform, platform.client() as client:
        run_id = submit_training(client, "wide", tmp_path / "text", resources={"workers": 2}, strategy="fsdp", **changed)["id"]
        deadline = time.monotonic() + 240
        while not (run := client.runs.get(run_id))["has_checkpoint"]:
            assert run["state"] in ("queued", "running"), run
            assert time.monotonic() < deadline, run
            time.sleep(0.05)
        log = "\n".join(client.runs.logs(run_id))
        pids = {int(rank): int(pid) for pid, rank in re.findall(r"pid=(\d+)\) world_rank=(\d+)", log)}
        os.kill(pids[1], signal.SIGKILL)
        run = client.runs.wait(run_id, poll_s=0.5)
        assert (run["state"], run["attempt"]) == ("succeeded", 2), run
        assert [made["name"] for made in run["outputs"]] == ["wide"]
        found = _curve(client, run_id)
        files = client.models.get("wide")["version"]["files"]
        assert "model.safetensors" in {file["path"] for file in files}

    # The same by one process, on the same text.
    alone = FakeRun(tmp_path / "alone", datasets={"train": tmp_path / "text"})
    train(alone, TrainParams.model_validate({**PARAMS, **changed}))
    expected = {point.step: point.metrics["loss"] for point in alone.logs if "loss" in point.metrics}
    assert found.keys() == expected.keys()
    largest = max(abs(found[step] - value) / value for step, value in expected.items())
    print(f"largest relative difference of the loss: {largest:.1e}")
    assert largest < 1e-5


def _curve(client: Modelworks, run_id: str) -> dict[int, float]:
    return {point["step"]: point["value"] for point in client.runs.metrics(run_id).data if point["name"] == "loss"}
