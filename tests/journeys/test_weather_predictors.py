"""Best tracks and a buoy's records → models → deployments → answers, and cyclones in a grid → a run, through a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.capabilities.weather.cyclone import tiny_tracks
from tests.capabilities.weather.cyclone.test_tracker import write_forecast
from tests.capabilities.weather.wave import tiny_waves
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.client import Modelworks
from modelworks.contract.errors import InvalidRequest


def done(client: Modelworks, verb: str, task: str, inputs: dict[str, str], **more: Any) -> dict[str, Any]:
    run = client.runs.submit(verb=verb, capability="weather", task=task, inputs=inputs, **more)
    ended = client.runs.wait(run["id"], poll_s=0.2)
    assert ended["state"] == "succeeded", ended
    return ended


def test_tracks_and_waves_are_trained_measured_deployed_and_asked(tmp_path: Path) -> None:
    tracks, waves = tiny_tracks.write(tmp_path / "tracks"), tiny_waves.write(tmp_path / "waves")
    small = {"preset": "tiny", "folds": 2, "num_trees": 5}
    with PlatformProcess(tmp_path / "home") as platform, platform.client() as client:
        for name, folders in (("tracks", tracks), ("waves", waves)):
            for role in ("train", "test"):
                client.datasets.add(f"{name}-{role}", folders[role])
        client.datasets.add("storms", write_forecast(tmp_path)["forecast"])
        cases = (("cyclone-track", "tracks", [24, 48]), ("wave-forecast", "waves", [1, 3]))
        for task, name, leads in cases:
            done(client, "train", task, {"train": f"{name}-train"}, params={**small, "leads_h": leads}, name=name)
            inputs = {"model": name, "test": f"{name}-test"}
            done(client, "evaluate", task, inputs, params={"bootstrap_samples": 100})
            client.deployments.apply(name, model=name)
            wait_until_ready(client, name)

        storm = tiny_tracks.storms(2003, 2003, per_season=1)
        track = client.tasks.invoke("cyclone-track", "tracks", {"track": tiny_tracks.hurdat(storm), "formats": ["atcf"]})
        assert [point["lead_h"] for point in track["points"]] == [24, 48]
        last = storm[0].fixes[-1]
        assert abs(track["points"][0]["latitude"] - last.latitude) < 10
        assert track["points"][1]["cone_km"] > track["points"][0]["cone_km"] > 0
        assert track["atcf"].count("\n") == 3
        with pytest.raises(InvalidRequest) as refused:
            client.tasks.invoke("cyclone-track", "tracks", {"fixes": [{"time": "2020-01-01", "latitude": 10, "longitude": 0}]})
        assert refused.value.param == "input.fixes"

        heights, periods = tiny_waves.heights(3, 5)
        records = [
            {"time": f"2019-06-{1 + hour // 24:02d}T{hour % 24:02d}:00:00Z", "hs_m": float(height), "tz_s": float(period)}
            for hour, (height, period) in enumerate(zip(heights, periods, strict=True))
        ]
        answer = client.tasks.invoke("wave-forecast", "waves", {"records": records})
        assert [point["lead_h"] for point in answer["points"]] == [1, 3]
        for point in answer["points"]:
            assert 0 < point["low_m"] <= point["hs_m"] <= point["high_m"]

        found = done(client, "batch", "cyclone-tracking", {"forecast": "storms", "model": "tracks"})
        assert len(found["result"]["tracks"]) == 1
        assert found["outputs"][0]["kind"] == "tracks"
