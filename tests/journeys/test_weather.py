"""Grids of one's own → a model → its skill → a forecast request → a run → a grid, through a real server."""

from __future__ import annotations

from pathlib import Path

import httpx
from tests.capabilities.weather.tiny_grids import TINY, write_waves
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
        assert result["files"] == ["forecast.nc", "forecast.zarr"]
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
