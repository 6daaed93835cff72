"""A capability made from the template is discovered, trained, evaluated, deployed and invoked.

All of it lies in a folder of the test: the platform's own files are not touched.
"""

from pathlib import Path

import pytest
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.contract.errors import InvalidRequest
from modelworks.testing.distribution import install_pure
from modelworks.testing.template import render
from modelworks.testing.tiny_data import write_labelled


def test_from_the_template_to_an_answer(tmp_path: Path) -> None:
    site = install_pure(render("sixteenth", tmp_path / "project"), tmp_path / "site")
    with PlatformProcess(tmp_path / "home", site=site) as platform, platform.client() as client:
        found = {capability["name"]: capability for capability in client.server.capabilities().data}
        assert "sixteenth" in found
        schema = client.tasks.schema("text-classification")
        assert schema["metrics"] == ["accuracy", "macro_f1"]

        client.datasets.add("examples", write_labelled(tmp_path / "train", count=90))
        client.datasets.add("held-out", write_labelled(tmp_path / "test", count=30, seed=1))
        with pytest.raises(InvalidRequest) as refused:
            client.runs.submit(
                verb="train",
                capability="sixteenth",
                task="text-classification",
                inputs={"train": "examples"},
                params={"ngram_max": 99},
                name="topics",
            )
        assert "ngram_max" in str(refused.value.param)
        run = client.runs.submit(
            verb="train",
            capability="sixteenth",
            task="text-classification",
            inputs={"train": "examples"},
            params={"chunk_size": 30},
            name="topics",
        )
        trained = client.runs.wait(run["id"], poll_s=0.2)
        assert trained["state"] == "succeeded", trained
        assert {point["name"] for point in client.runs.metrics(run["id"]).data} == {"hits", "labels"}

        measuring = client.runs.submit(
            verb="evaluate",
            capability="sixteenth",
            task="text-classification",
            inputs={"model": "topics", "test": "dataset:held-out"},
        )
        measured = client.runs.wait(measuring["id"], poll_s=0.2)
        assert measured["state"] == "succeeded", measured
        version = client.models.get("topics")["version"]
        assert version["metrics"]["accuracy"] > 0.9

        client.deployments.apply("topics", model="topics")
        wait_until_ready(client, "topics")
        answer = client.tasks.invoke("text-classification", "topics", {"text": "鸡汤带着姜的香味"})
        assert answer["label"] == "kitchen"

        graph = client.lineage.graph(version["id"])
        assert {"used", "generated"} <= {edge["relation"] for edge in graph["edges"]}
