"""Grids of one's own → a model → its skill → a forecast request → a run → a grid, through a real server."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from tests.capabilities.weather.tiny_grids import TINY, waves, write_waves
from tests.journeys.platform_process import PlatformProcess


def test_a_forecast_request_becomes_a_run_and_a_grid(tmp_path: Path) -> None:
    data = write_waves(
        tmp_path / "data",
        {"train": {"num_days": 200}, "initial": {"num_days": 8, "seed": 3, "start": "2005-01-01"}},
    )
    with PlatformProcess(tmp_path / "home") as platform, platform.client() as client:
        for name, folder in data.items():
            client.datasets.add(f"waves-{name}", folder)
        inputs = {"train": "waves-train"}
        training = client.runs.submit(
            verb="train", capability="weather", task="weather-forecast", inputs=inputs, params=TINY, name="waves"
        )
        done = client.runs.wait(training["id"], poll_s=0.2)
        assert done["state"] == "succeeded", done

        headers = {"Authorization": f"Bearer {platform.key}"}
        url = f"{platform.url}/v1/tasks/weather-forecast"
        point = {"name": "here", "latitude": 47.5, "longitude": -12.5}
        wanted = {"steps": 5, "members": 2, "points": [point], "exports": ["netcdf"], "num_threads": 1}
        body = {"model": "waves", "inputs": {"initial": "waves-initial"}, "input": wanted}
        answer = httpx.post(url, json=body, headers=headers, timeout=30)
        assert answer.status_code == 202, answer.text
        run = client.runs.wait(answer.json()["run"]["id"], poll_s=0.2)
        assert run["state"] == "succeeded", run
        assert run["progress"]["done"] == run["progress"]["total"] == 10
        result = run["result"]
        assert (result["start"][:10], [each[:10] for each in result["times"]][-1]) == ("2005-01-08", "2005-01-13")
        assert result["files"] == ["forecast.nc", "forecast.zarr", "map"]
        (series,) = result["series"]
        assert all(98_000 < value < 105_000 for value in series["values"])
        (grid,) = run["outputs"]
        assert grid["kind"] == "grid"

        refused = httpx.post(url, json={**body, "input": {**wanted, "steps": 0}}, headers=headers, timeout=30)
        assert refused.status_code == 400
        wrong = httpx.post(url, json={**body, "input": {**wanted, "channels": ["z500"]}}, headers=headers, timeout=30)
        failed = client.runs.wait(wrong.json()["run"]["id"], poll_s=0.2)
        assert failed["state"] == "failed"
        assert "does not forecast z500" in failed["error"]["message"]


@pytest.mark.slow
@pytest.mark.thorough
def test_a_region_is_learnt_finer_and_a_forecast_with_it(tmp_path: Path) -> None:
    days, region = waves(120), np.arange(56.0, 44.0, -1.0)
    fine = days.interp(latitude=region, longitude=np.arange(-20.0, 1.0)).astype("float32")
    fine.msl.attrs = days.msl.attrs
    sets = {"fine": fine, "coarse": days, "initial": waves(8, seed=3, start="2005-01-01")}
    with PlatformProcess(tmp_path / "home") as platform, platform.client() as client:
        for name, data in sets.items():
            (tmp_path / name).mkdir()
            data.to_netcdf(tmp_path / name / "a.nc")
            client.datasets.add(name, tmp_path / name)

        def done(verb: str, task: str, inputs: dict[str, str], **more: Any) -> dict[str, Any]:
            run = client.runs.submit(verb=verb, capability="weather", task=task, inputs=inputs, **more)
            found = client.runs.wait(run["id"], poll_s=0.2)
            assert found["state"] == "succeeded", found
            return found

        pairs = {"train": "fine", "coarse": "coarse"}
        done("train", "weather-downscaling", pairs, params={"preset": "tiny", "block_days": 5}, name="region")
        done("evaluate", "weather-downscaling", {"model": "region", "test": "fine", "coarse": "coarse"})

        headers = {"Authorization": f"Bearer {platform.key}"}
        body = {"model": "region", "inputs": {"coarse": "initial"}, "input": {"exports": ["netcdf"]}}
        url = f"{platform.url}/v1/tasks/weather-downscaling"
        answer = httpx.post(url, json=body, headers=headers, timeout=30)
        assert answer.status_code == 202, answer.text
        run = client.runs.wait(answer.json()["run"]["id"], poll_s=0.2)
        assert run["state"] == "succeeded", run
        assert run["result"]["size"] == [12, 21]
        assert run["result"]["files"] == ["downscaled.nc", "downscaled.zarr", "map"]

        inputs = {"initial": "initial", "downscaling": "model:region"}
        forecast = done("batch", "weather-forecast", inputs, params={"method": "persistence", "steps": 2})
        assert {"region.zarr", "region-map", "forecast.zarr"} <= set(forecast["result"]["files"])
        wrong = {"coarse": "fine", "model": "region"}
        failed = client.runs.submit(verb="batch", capability="weather", task="weather-downscaling", inputs=wrong)
        ended = client.runs.wait(failed["id"], poll_s=0.2)
        assert ended["state"] == "failed"
        assert "The coordinate latitude of the data" in ended["error"]["message"]


class Journal:
    """What an attempt says while it goes on; held open, so that it stays readable once the attempt's folder is cleared."""

    def __init__(self, home: Path, run_id: str, attempt: int) -> None:
        path = home / "runs" / run_id / str(attempt) / "journal.jsonl"
        deadline = time.monotonic() + 120
        while not path.exists():
            assert time.monotonic() < deadline, f"attempt {attempt} never began"
            time.sleep(0.005)
        self._file = path.open("rb")
        self._begun = b""

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """All complete entries of a type so far."""
        self._begun += self._file.read()
        lines = self._begun[: self._begun.rfind(b"\n") + 1].splitlines()
        return [entry["data"] for entry in map(json.loads, lines) if entry["type"] == kind]

    def pid(self) -> int:
        """The worker's process."""
        deadline = time.monotonic() + 60
        while not (started := self.entries("started")):
            assert time.monotonic() < deadline, "the attempt never began"
            time.sleep(0.005)
        return int(started[0]["pid"])


@pytest.mark.slow
def test_a_forecast_killed_between_two_steps_goes_on_at_the_next_one_with_the_same_bytes(tmp_path: Path) -> None:
    data = write_waves(
        tmp_path / "data",
        {"train": {"num_days": 200}, "initial": {"num_days": 8, "seed": 3, "start": "2005-01-01"}},
    )
    home = tmp_path / "home"
    steps, members = 14, 2
    with PlatformProcess(home) as platform, platform.client() as client:
        for name, folder in data.items():
            client.datasets.add(f"waves-{name}", folder)
        inputs = {"train": "waves-train"}
        training = client.runs.submit(
            verb="train", capability="weather", task="weather-forecast", inputs=inputs, params=TINY, name="waves"
        )
        assert client.runs.wait(training["id"], poll_s=0.2)["state"] == "succeeded"

        def begun() -> str:
            run = client.runs.submit(
                verb="batch",
                capability="weather",
                task="weather-forecast",
                inputs={"model": "waves", "initial": "dataset:waves-initial"},
                params={"steps": steps, "members": members, "num_threads": 1},
                seed=11,
            )
            return str(run["id"])

        def files(run: dict[str, Any]) -> dict[str, str]:
            (grid,) = run["outputs"]
            return {file["path"]: file["digest"] for file in client.models.version(grid["version_id"])["files"]}

        undisturbed = client.runs.wait(begun(), poll_s=0.2)
        assert undisturbed["state"] == "succeeded", undisturbed
        run_id = begun()
        first = Journal(home, run_id, 1)
        worker = psutil.Process(first.pid())
        # Past the first member's last step, so that noise and history of the second one are gone on with, too.
        while len(first.entries("checkpoint")) < steps + 3:
            assert worker.is_running()
            time.sleep(0.002)
        worker.send_signal(signal.SIGKILL)
        second = Journal(home, run_id, 2)
        done = client.runs.wait(run_id, poll_s=0.2)
        assert (done["state"], done["attempt"]) == ("succeeded", 2), done
        # Every step leaves a checkpoint: those of the first attempt are not taken again.
        kept = len(first.entries("checkpoint"))
        total = steps * members
        assert steps + 3 <= kept < total, "killed too late to prove anything"
        assert [each["done"] for each in second.entries("progress")] == list(range(kept + 1, total + 1))
        assert files(done) == files(undisturbed)
