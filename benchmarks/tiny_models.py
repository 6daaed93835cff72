"""Very small models for benchmarks that measure the server around them: trained and deployed by the platform itself."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from modelworks.client import Modelworks
from modelworks.testing.tiny_data import sentences, write_text

#: Some seconds of training: the path is the product's, only the size is not.
LANGUAGE: dict[str, Any] = {
    "preset": "custom",
    "vocab_size": 400,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "context_length": 2048,
    "block_length": 64,
    "batch_size": 4,
    "steps": 60,
    "warmup_steps": 5,
    "log_every": 10,
    "num_threads": 1,
}
ENCODER: dict[str, Any] = {
    "preset": "custom",
    "vocab_size": 400,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 32,
    "context_length": 64,
    "max_query_tokens": 32,
    "max_passage_tokens": 48,
    "num_threads": 1,
    "batch_size": 8,
    "epochs": 1,
}


def deploy_language(client: Modelworks, name: str, folder: Path, **changed: Any) -> None:
    """Train a language model and deploy it under the same name."""
    client.datasets.add(f"{name}-text", write_text(folder, documents=12, sentences_each=30))
    _train(client, "text", "text-generation", name, {**LANGUAGE, **changed})
    client.deployments.apply(name, model=name)
    wait_until_ready(client, name)


def deploy_encoder(client: Modelworks, name: str, folder: Path) -> None:
    """Train an embedding model and deploy it under the same name."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"query": text.partition(" ")[2], "positive": text}) for text in sorted(set(sentences(120)))]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    client.datasets.add(f"{name}-text", folder)
    _train(client, "embedding", "feature-extraction", name, ENCODER)
    client.deployments.apply(name, model=name, engine="transformers", options={"num_threads": 1})
    wait_until_ready(client, name)


def _train(client: Modelworks, capability: str, task: str, name: str, params: dict[str, Any]) -> None:
    run = client.runs.submit(
        verb="train", capability=capability, task=task, inputs={"train": f"{name}-text"}, name=name, params=params
    )
    run = client.runs.wait(run["id"], poll_s=0.5)
    if run["state"] != "succeeded":
        raise SystemExit(f"the training of {name} ended {run['state']}: {run.get('error')}")


def wait_until_ready(client: Modelworks, name: str, timeout_s: float = 180) -> None:
    """Wait until a deployment answers."""
    deadline = time.monotonic() + timeout_s
    while (deployment := client.deployments.get(name))["state"] != "ready":
        if deployment["state"] == "failed" or time.monotonic() > deadline:
            raise SystemExit(f"the deployment {name} does not become ready: {deployment}")
        time.sleep(0.2)
