"""The weather page in headless Chromium, on a real server with a trained model and forecasts that were run."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import xarray as xr
from tests.capabilities.weather.cyclone import tiny_tracks
from tests.capabilities.weather.cyclone.test_tracker import write_forecast
from tests.capabilities.weather.tiny_grids import TINY, waves, write_waves
from tests.journeys.platform_process import PlatformProcess
from tests.kernel.gateway.publishing.browser import find_chromium, open_browser

from modelworks.capabilities.weather.grid.mapping import write_map
from modelworks.capabilities.weather.grid.writing import ForecastStore, Layout

#: How many different colours the map has.
COLOURS = """(() => { const map = document.getElementById('map'), found = new Set();
  const { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height);
  for (let at = 0; at < data.length; at += 400) found.add(data[at] + ',' + data[at + 1] + ',' + data[at + 2]);
  return found.size })()"""
PICTURE = "document.getElementById('map').toDataURL().length + ':' + document.getElementById('map').toDataURL().slice(-4000)"
FOREIGN = "performance.getEntriesByType('resource').filter((each) => !each.name.startsWith(location.origin + '/')).length"


def test_the_map_has_the_means_and_percentiles_of_the_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    latitudes, longitudes = np.arange(50.0, 20.0, -10), np.arange(0.0, 40.0, 10)
    layout = Layout(("msl", "z500"), np.datetime64("2020-01-01"), 6.0, 2, latitudes, longitudes, members=5)
    store = ForecastStore.create(tmp_path / "a.zarr", layout)
    states = rng.standard_normal((5, 2, 2, 3, 4)).astype("float32")
    for member in range(5):
        for step in range(2):
            store.write(step, states[member, step], member)
    assert write_map(store, tmp_path / "map") is None
    told = json.loads((tmp_path / "map" / "map.json").read_text())
    assert told["times"] == ["2020-01-01T06:00:00Z", "2020-01-01T12:00:00Z"]
    assert [each["level_hpa"] for each in told["channels"]] == [None, 500.0]
    fields = np.fromfile(tmp_path / "map" / "fields.f32", "<f4").reshape(2, 2, 3, 4)
    np.testing.assert_allclose(fields, states.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert told["channels"][1]["max"] == pytest.approx(float(fields[:, 1].max()))
    series = np.fromfile(tmp_path / "map" / "series.f32", "<f4").reshape(3, 4, 2, 4, 2)
    np.testing.assert_allclose(series[2, 1, 1, 3], np.quantile(states[:, :, 1, 2, 1], 0.9, axis=0), rtol=1e-5, atol=1e-6)
    assert "too large" in str(write_map(store, tmp_path / "none", max_values=10))
    assert not (tmp_path / "none").exists()


async def test_a_forecast_is_looked_at(tmp_path: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed: put it on the path, or name it in CHROMIUM")
    roles = {"train": {"num_days": 200}, "test": {"num_days": 60, "seed": 2}, "initial": {"num_days": 8, "seed": 3}}
    data = write_waves(tmp_path / "data", roles)
    windy = waves(3, seed=4)
    for name, speed in (("u10", 12.0), ("v10", 3.0)):
        windy[name] = xr.full_like(windy.msl, speed).assign_attrs(units="m s-1")
    (tmp_path / "data" / "windy").mkdir()
    windy.to_netcdf(tmp_path / "data" / "windy" / "a.nc")
    with PlatformProcess(tmp_path / "home") as platform, platform.client() as client:
        for name, folder in {**data, "windy": tmp_path / "data" / "windy"}.items():
            client.datasets.add(name, folder)

        def done(verb: str, inputs: dict[str, str], **more: object) -> None:
            wanted = {"capability": "weather", "task": "weather-forecast", "inputs": inputs, **more}
            run = client.runs.wait(client.runs.submit(verb=verb, **wanted)["id"], poll_s=0.2)  # type: ignore[arg-type]
            assert run["state"] == "succeeded", run

        done("train", {"train": "train"}, params=TINY, name="waves")
        done("evaluate", {"model": "waves", "test": "test"}, params={"steps": 3, "num_threads": 1})
        done("batch", {"initial": "windy"}, params={"method": "persistence", "steps": 2})
        done("batch", {"model": "waves", "initial": "initial"}, params={"steps": 4, "members": 3, "num_threads": 1})
        here = platform.url
        async with aiohttp.ClientSession() as http, open_browser(program, tmp_path / "profile", http) as browser:
            await browser.open(f"{here}/pages/weather/?language=en")
            await browser.until(here, "document.body.dataset.state", "door")
            await browser.look(
                here,
                f"document.getElementById('key').value = {platform.key!r}; document.getElementById('door').requestSubmit()",
            )
            await browser.until(here, "document.body.dataset.step", "0")
            colours = await browser.look(here, COLOURS)
            assert colours > 50, "a field with coastlines"
            before = await browser.look(here, PICTURE)
            slide = (
                "document.getElementById('time').value = 3; document.getElementById('time').dispatchEvent(new Event('input'))"
            )
            await browser.look(here, slide)
            await browser.until(here, "document.body.dataset.step", "3")
            assert await browser.look(here, PICTURE) != before
            assert "+96" in await browser.look(here, "document.getElementById('when').textContent")
            press = "document.getElementById('map').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }))"
            await browser.look(here, press)
            await browser.until(here, "document.querySelectorAll('#meteogram .curve, #meteogram .plume').length", 2)
            assert await browser.look(here, "document.querySelectorAll('#scorecard td.good').length") >= 1
            assert "not stated" in await browser.look(here, "document.getElementById('licence').textContent")
            await browser.look(here, "document.getElementById('language').click()")
            await browser.until(here, "document.documentElement.lang", "zh")
            await browser.until(here, "document.querySelector('#meteogram svg').textContent.includes('海平面气压')")
            await browser.look(here, "document.querySelector('#runs li:nth-child(2) button').click()")
            await browser.until(here, "[...document.getElementById('variable').options].some((each) => each.value === 'u10')")
            await browser.look(here, "document.getElementById('variable').value = 'u10'")
            await browser.look(here, "document.getElementById('variable').dispatchEvent(new Event('change'))")
            await browser.until(here, "document.body.dataset.channel", "u10")
            await browser.look(here, "document.getElementById('wind').click()")
            still = await browser.look(here, PICTURE)
            await browser.until(here, f"({PICTURE}) !== {still!r}")
            assert await browser.look(here, "document.getElementById('problem').textContent") == ""
            assert await browser.look(here, "document.getElementById('area-label').hidden"), "no region was made finer"
            assert await browser.look(here, FOREIGN) == 0
            kept = "Object.keys(localStorage).length + document.cookie.length"
            assert await browser.look(here, kept) == 0, "the key stays in the tab"


async def test_cyclones_are_drawn_and_forecasts_started_and_cancelled(tmp_path: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed: put it on the path, or name it in CHROMIUM")
    data = write_waves(tmp_path / "data", {"train": {"num_days": 200}, "initial": {"num_days": 8, "seed": 3}})
    data |= {"storms": write_forecast(tmp_path)["forecast"], "best-tracks": tiny_tracks.write(tmp_path / "tracks")["train"]}
    with PlatformProcess(tmp_path / "home") as platform, platform.client() as client:
        for name, folder in data.items():
            client.datasets.add(name, folder)

        def done(verb: str, task: str, inputs: dict[str, str], **more: object) -> None:
            run = client.runs.submit(verb=verb, capability="weather", task=task, inputs=inputs, **more)  # type: ignore[arg-type]
            ended = client.runs.wait(run["id"], poll_s=0.2)
            assert ended["state"] == "succeeded", ended

        small = {"preset": "tiny", "leads_h": [24, 48], "folds": 2, "num_trees": 5}
        done("train", "weather-forecast", {"train": "train"}, params=TINY, name="waves")
        done("train", "cyclone-track", {"train": "best-tracks"}, params=small, name="tracks")
        done("batch", "cyclone-tracking", {"forecast": "storms", "model": "tracks"})
        done("batch", "weather-forecast", {"initial": "storms"}, params={"method": "persistence", "steps": 3})
        here = platform.url
        async with aiohttp.ClientSession() as http, open_browser(program, tmp_path / "profile", http) as browser:

            async def do(script: str) -> None:
                await browser.look(here, f"(() => {{ {script}; return true }})()")

            async def change(element: str, value: str) -> None:
                script = f"const each = document.getElementById({element!r}); each.value = {value!r}"
                await do(f"{script}; each.dispatchEvent(new Event('change'))")

            await browser.open(f"{here}/pages/weather/?language=en")
            await browser.until(here, "document.body.dataset.state", "door")
            await do(
                f"document.getElementById('key').value = {platform.key!r}; document.getElementById('door').requestSubmit()"
            )
            await browser.until(here, "document.body.dataset.step", "0")

            bare = await browser.look(here, PICTURE)
            run_id = await browser.look(here, "document.getElementById('tracks').options[1].value")
            await change("tracks", run_id)
            # The track as it was found, as it is forecast, and a point and a circle for each of two lead times.
            await browser.until(here, "document.body.dataset.tracks", "6")
            told = "document.getElementById('tracks-told').textContent"
            assert await browser.look(here, told) == "1 cyclone; circles held the centre in 67 % of past cases"
            drawn = await browser.look(here, PICTURE)
            assert drawn != bare
            await change("tracks", "")
            await browser.until(here, "document.body.dataset.tracks", "0")
            assert await browser.look(here, PICTURE) == bare

            def begun(model: str, initial: str, steps: int, members: int) -> str:
                values = {"model": model, "initial": initial, "steps": steps, "members": members}
                sets = "; ".join(f"document.getElementById({name!r}).value = {value!r}" for name, value in values.items())
                return f"{sets}; document.getElementById('start').requestSubmit()"

            problem = "document.getElementById('problem').textContent"
            said = "document.getElementById('said').textContent"
            await do(begun("waves", "nowhere", 2, 0))
            await browser.until(here, f"{problem}.includes(\"'nowhere', but there is no such data set\")")
            assert await browser.look(here, said) == ""
            # Two thousand steps of a hundred members are not over before somebody has pressed Cancel.
            await do(begun("waves", "initial", 2000, 100))
            await browser.until(here, said, "The forecast was queued.")
            assert await browser.look(here, problem) == ""
            await browser.until(here, "document.querySelector('#runs li:first-child progress')?.value > 0")
            await do("document.querySelector('#runs li:first-child progress ~ button').click()")
            await browser.until(here, said, "The forecast is being cancelled.")
            await browser.until(here, "document.querySelector('#runs li:first-child small').textContent.includes('cancelled')")
            assert client.runs.list().data[0]["state"] == "cancelled"
            # One that ends is shown by itself.
            await do(begun("waves", "initial", 3, 0))
            await browser.until(here, "document.querySelector('#runs button[aria-current=true]').textContent.includes('waves')")
            assert await browser.look(here, FOREIGN) == 0


async def test_a_finer_region_is_looked_at_beside_the_whole_field(tmp_path: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed: put it on the path, or name it in CHROMIUM")
    days, region = waves(120), np.arange(56.0, 44.0, -1.0)
    fine = days.interp(latitude=region, longitude=np.arange(-20.0, 1.0)).astype("float32")
    fine.msl.attrs = days.msl.attrs
    sets = {"fine": fine, "coarse": days, "initial": waves(8, seed=3, start="2005-01-01")}
    with PlatformProcess(tmp_path / "home") as platform, platform.client() as client:
        for name, data in sets.items():
            (tmp_path / name).mkdir()
            data.to_netcdf(tmp_path / name / "a.nc")
            client.datasets.add(name, tmp_path / name)

        def done(verb: str, task: str, inputs: dict[str, str], **more: object) -> None:
            run = client.runs.submit(verb=verb, capability="weather", task=task, inputs=inputs, **more)  # type: ignore[arg-type]
            ended = client.runs.wait(run["id"], poll_s=0.2)
            assert ended["state"] == "succeeded", ended

        pairs = {"train": "fine", "coarse": "coarse"}
        done("train", "weather-downscaling", pairs, params={"preset": "tiny", "block_days": 5}, name="region")
        done("batch", "weather-downscaling", {"model": "region", "coarse": "initial"})
        inputs = {"initial": "initial", "downscaling": "model:region"}
        done("batch", "weather-forecast", inputs, params={"method": "persistence", "steps": 2})
        here = platform.url
        async with aiohttp.ClientSession() as http, open_browser(program, tmp_path / "profile", http) as browser:

            async def do(script: str) -> None:
                await browser.look(here, f"(() => {{ {script}; return true }})()")

            when, area = "document.getElementById('when').textContent", "document.getElementById('area')"
            await browser.open(f"{here}/pages/weather/?language=en")
            await browser.until(here, "document.body.dataset.state", "door")
            await do(
                f"document.getElementById('key').value = {platform.key!r}; document.getElementById('door').requestSubmit()"
            )
            await browser.until(here, "document.body.dataset.step", "0")
            whole = await browser.look(here, PICTURE)
            assert not await browser.look(here, "document.getElementById('area-label').hidden")
            await do(f"{area}.value = 'region-map'; {area}.dispatchEvent(new Event('change'))")
            await browser.until(here, f"({PICTURE}) !== {whole!r}")
            await browser.until(here, "document.getElementById('about').textContent.includes('downscaled')")
            assert await browser.look(here, f"{area}.value") == "region-map"
            assert "(+" in await browser.look(here, when)
            press = "document.getElementById('map').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter' }))"
            await do(press)
            await browser.until(here, "document.getElementById('place').textContent", "50°N 10°W")
            # What was made finer alone is no forecast: it has no lead time.
            await do("document.querySelector('#runs li:nth-child(2) button').click()")
            await browser.until(
                here, "document.querySelector('#runs li:nth-child(2) button').getAttribute('aria-current')", "true"
            )
            await browser.until(here, f"!{when}.includes('(+')")
            assert "made finer" in await browser.look(here, "document.querySelector('#runs li:nth-child(2) small').textContent")
            assert await browser.look(here, "document.getElementById('area-label').hidden")
            # A forecast that is begun here may be made finer, too.
            values = {"model": "region", "initial": "initial", "finer": "nowhere"}
            sets_them = "; ".join(f"document.getElementById({name!r}).value = {value!r}" for name, value in values.items())
            await do(f"{sets_them}; document.getElementById('start').requestSubmit()")
            await browser.until(here, "document.getElementById('problem').textContent.includes('nowhere')")
            assert await browser.look(here, FOREIGN) == 0
