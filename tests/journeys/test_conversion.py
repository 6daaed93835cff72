"""A trained model made smaller, served, taken elsewhere and back, and trained again, on a running platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.journeys.language_model import submit_training
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.client import Modelworks

NAME = "lab/line"
#: Rows that can be quantised: multiples of 32.
SIZES = {"num_kv_heads": 2, "steps": 20, "context_length": 128}
#: One platform serves all of them.
pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.xdist_group("conversion")]


class Line:
    """A platform with one trained model."""

    def __init__(self, platform: PlatformProcess, ours: Modelworks, folder: Path) -> None:
        self.platform, self.ours, self.folder = platform, ours, folder
        self.run = self.wait(submit_training(ours, NAME, folder / "text", **SIZES))

    def wait(self, run: dict[str, Any]) -> dict[str, Any]:
        done = self.ours.runs.wait(run["id"], poll_s=0.2)
        assert done["state"] == "succeeded", done
        return done

    def submit(self, verb: str, **known: Any) -> dict[str, Any]:
        return self.wait(self.ours.runs.submit(verb=verb, **known))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    root = tmp_path_factory.mktemp("line")
    with PlatformProcess(root / "home") as platform, platform.client() as ours:
        yield Line(platform, ours, root)


def test_training_again_gives_the_same_bytes(line: Line) -> None:
    asked = line.ours.runs.reproduce(line.run["id"])
    assert asked["differences"] == []
    found = line.wait(asked["run"])["result"]
    assert found["equal"], found
    assert {"model 1/model.safetensors", "model 1/tokenizer.json"} <= {file["path"] for file in found["files"]}
    assert found["environment"] == []
    environment = line.ours.runs.get(line.run["id"])["environment"]
    assert {"torch", "transformers", "safetensors", "modelworks"} <= environment["libraries"].keys()
    assert environment["threads"]["torch"] == 1
    assert len(line.ours.models.get(NAME)["versions"]) == 1


def test_a_smaller_version_is_a_child_that_answers(line: Line) -> None:
    params = {"to": ["int4"], "max_documents": 5, "num_threads": 1, "speed_tokens": 4}
    run = line.submit(
        "quantise", task="text-generation", inputs={"base": NAME, "test": f"{NAME}-text"}, params=params, name=NAME
    )
    assert [each["name"] for each in run["result"]["variants"]] == ["full", "int4"]
    assert {(made["kind"], made["name"]) for made in run["outputs"]} >= {("model", f"{NAME}-int4")}
    full, small = line.ours.models.get(NAME)["version"], line.ours.models.get(f"{NAME}-int4")["version"]
    assert small["num_bytes"] < full["num_bytes"]
    assert (small["level"], small["task"], small["metadata"]["parent"]) == (full["level"], full["task"], f"{NAME}@v1")
    assert small["metrics"]["perplexity"] > 1
    assert [parent["node"]["name"] for parent in line.ours.lineage.tree(f"{NAME}-int4")["parents"]] == [NAME]
    line.ours.deployments.apply("small", model=f"{NAME}-int4")
    wait_until_ready(line.ours, "small")
    theirs = openai.OpenAI(base_url=f"{line.platform.url}/v1", api_key=line.platform.key, max_retries=0, timeout=60)
    said = theirs.chat.completions.create(model="small", messages=[{"role": "user", "content": "Hello"}], max_tokens=5)
    assert said.usage is not None
    assert said.usage.completion_tokens > 0


def test_out_as_gguf_and_back_it_means_the_same(line: Line) -> None:
    run = line.submit("export", task="text-generation", inputs={"model": NAME}, params={"to": "gguf"}, name=f"{NAME}-gguf")
    meaning = run["result"]["meaning"]
    assert meaning["agrees"] == "exactly"
    made = line.ours.models.version(run["outputs"][0]["version_id"])
    assert made["kind"] == "export"
    (file,) = [each for each in made["files"] if each["path"] == "model.gguf"]
    place = line.ours.blobs.download(file["digest"], line.folder / "out" / "model.gguf")
    back = line.submit("pull", params={"source": place.as_uri()}, name="lab/back")
    version = line.ours.models.version(back["outputs"][0]["version_id"])
    assert version["metadata"]["meaning"] == meaning
    assert version["task"] == "text-generation"
    blocked = line.ours.models.remove(NAME, dry_run=True)["blocked_by"]
    assert not any(f"{NAME}-gguf" in reason for reason in blocked), "an export does not keep its model from being removed"
