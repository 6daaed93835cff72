"""The four modes, each through a real server: an answer, a stream, a job and published files."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.client import Modelworks
from modelworks.contract.errors import InvalidRequest
from modelworks.testing.distribution import install_pure
from modelworks.testing.tiny_data import write_text

TOYS = Path(__file__).parents[1] / "capabilities" / "toys"

#: One platform serves all of them.
pytestmark = pytest.mark.xdist_group("four-modes")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    root = tmp_path_factory.mktemp("platform")
    with PlatformProcess(root / "home", site=install_pure(TOYS, root / "site")) as running:
        yield running


@pytest.fixture
def client(platform: PlatformProcess) -> Iterator[Modelworks]:
    with platform.client() as client:
        yield client


def train(client: Modelworks, task: str, name: str, folder: Path) -> dict:
    client.datasets.add(f"{name}-text", write_text(folder / name, documents=3, sentences_each=8))
    run = client.runs.submit(verb="train", capability="toys", task=task, inputs={"train": f"{name}-text"}, name=name)
    done = client.runs.wait(run["id"], poll_s=0.2)
    assert done["state"] == "succeeded", done
    return done


def test_all_tasks_are_listed_with_their_modes_and_schemas(client: Modelworks) -> None:
    modes = {task["id"]: task["mode"] for task in client.tasks.list().data}
    toys = {"toy-spelling": "sync", "toy-countdown": "stream", "toy-tide": "job", "toy-scene": "static"}
    assert toys.items() <= modes.items()
    schema = client.tasks.schema("toy-tide")
    assert schema["input"]["properties"]["hours"]["maximum"] == 1000


def test_a_training_without_its_data_is_refused_at_once(client: Modelworks) -> None:
    with pytest.raises(InvalidRequest, match="'train'") as refused:
        client.runs.submit(verb="train", capability="toys", task="toy-spelling", name="nothing")
    assert (refused.value.param, refused.value.error_code) == ("inputs.train", "missing_required_parameter")
    assert "nothing" not in {run["output_name"] for run in client.runs.list().data}


def test_sync(client: Modelworks, tmp_path: Path) -> None:
    train(client, "toy-spelling", "words", tmp_path)
    client.deployments.apply("speller", model="words", options={"ignore_case": False})
    wait_until_ready(client, "speller")
    answer = client.tasks.invoke("toy-spelling", "speller", {"text": "rain zzyzx"})
    assert "zzyzx" in answer["unknown"]
    with pytest.raises(InvalidRequest) as refused:
        client.tasks.invoke("toy-spelling", "speller", {"text": ""})
    assert refused.value.param == "input.text"
    tree = json.dumps(client.lineage.tree("words"))
    assert "words-text" in tree
    client.deployments.remove("speller")


def test_stream_and_a_client_that_goes_away(client: Modelworks, tmp_path: Path) -> None:
    client.deployments.apply("countdown", task="toy-countdown", capability="toys")
    wait_until_ready(client, "countdown")
    values = [step["value"] for step in client.tasks.stream("toy-countdown", "countdown", {"start": 4})]
    assert values == [4, 3, 2, 1, 0]
    with pytest.raises(InvalidRequest, match="fail at 2"):
        list(client.tasks.stream("toy-countdown", "countdown", {"start": 4, "fail_at": 2}))
    marker = tmp_path / "closed"
    slow = {"start": 1000, "pause_s": 0.05, "closed_file": str(marker)}
    stream = client.tasks.stream("toy-countdown", "countdown", slow)
    assert next(stream)["value"] == 1000
    stream.close()
    deadline = time.monotonic() + 20
    while not (marker.exists() and marker.read_text()):
        assert time.monotonic() < deadline, "the predictor went on although nobody listened"
        time.sleep(0.05)
    assert int(marker.read_text()) > 500
    client.deployments.remove("countdown")


def test_the_same_stream_from_another_engine(client: Modelworks) -> None:
    client.deployments.apply("threaded", task="toy-countdown", capability="toys", engine="threaded")
    wait_until_ready(client, "threaded")
    values = [step["value"] for step in client.tasks.stream("toy-countdown", "threaded", {"start": 2})]
    assert values == [2, 1, 0]
    client.deployments.remove("threaded")


def test_job(platform: PlatformProcess, client: Modelworks) -> None:
    headers = {"Authorization": f"Bearer {platform.key}"}
    answer = httpx.post(f"{platform.url}/v1/tasks/toy-tide", json={"input": {"hours": 25}}, headers=headers, timeout=30)
    assert answer.status_code == 202, answer.text
    run = answer.json()["run"]
    done = client.runs.wait(run["id"] if isinstance(run, dict) else run, poll_s=0.2)
    assert done["state"] == "succeeded", done
    assert done["result"]["highest_m"] == pytest.approx(1.0)
    assert done["progress"]["done"] == 25
    assert [output["kind"] for output in done["outputs"]] == ["table"]
    refused = httpx.post(f"{platform.url}/v1/tasks/toy-tide", json={"input": {"hours": 0}}, headers=headers, timeout=30)
    assert refused.status_code == 400
    assert "hours" in refused.json()["error"]["param"]


def test_static(platform: PlatformProcess, client: Modelworks, tmp_path: Path) -> None:
    train(client, "toy-scene", "bars", tmp_path)
    client.deployments.apply("scene", model="bars")
    assert wait_until_ready(client, "scene")["replicas"] == []
    headers = {"Authorization": f"Bearer {platform.key}"}
    page = httpx.get(f"{platform.url}/api/static/scene/index.html", headers=headers, timeout=30)
    assert page.status_code == 200
    assert not page.headers["content-type"].startswith("text/html"), "a page from a model would run with our origin's rights"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in page.headers["content-security-policy"]
    part = httpx.get(f"{platform.url}/api/static/scene/scene.json", headers={**headers, "Range": "bytes=0-3"}, timeout=30)
    assert (part.status_code, len(part.content)) == (206, 4)
    assert part.headers["content-type"] == "application/json"
    missing = httpx.get(f"{platform.url}/api/static/scene/../admin.key", headers=headers, timeout=30)
    assert missing.status_code == 404
    client.deployments.remove("scene")
