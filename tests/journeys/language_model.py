"""A very small language model, trained and deployed on a running platform by the platform itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.journeys.platform_process import wait_until_ready

from modelworks.client import Modelworks
from modelworks.testing.tiny_data import write_text

#: Some seconds of training: the path is the product's, only the size is not.
PARAMS: dict[str, Any] = {
    "preset": "custom",
    "vocab_size": 400,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "context_length": 256,
    "block_length": 64,
    "batch_size": 4,
    "steps": 60,
    "warmup_steps": 5,
    "log_every": 1,
    "checkpoint_every": 10,
    "num_threads": 1,
}


def submit_training(
    client: Modelworks, name: str, folder: Path, resources: dict[str, Any] | None = None, **changed: Any
) -> dict[str, Any]:
    """Add a data set and queue a training on it; returns the run."""
    client.datasets.add(f"{name}-text", write_text(folder, documents=12, sentences_each=30))
    return client.runs.submit(
        verb="train",
        capability="text",
        task="text-generation",
        inputs={"train": f"{name}-text"},
        name=name,
        params={**PARAMS, **changed},
        resources=resources,
    )


def train_and_deploy(client: Modelworks, name: str, folder: Path, **changed: Any) -> dict[str, Any]:
    """Train, deploy under the same name, wait until it answers; returns the finished run."""
    run = client.runs.wait(submit_training(client, name, folder, **changed)["id"], poll_s=0.2)
    assert run["state"] == "succeeded", run
    client.deployments.apply(name, model=name)
    wait_until_ready(client, name)
    return run
