"""From pairs to an encoder that answers the official client: every call against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from tests.capabilities.embedding.conftest import SHAPE, pairs, write_pairs
from tests.capabilities.retrieval.conftest import write_passages
from tests.journeys.platform_process import PlatformProcess, wait_until_ready
from transformers import AutoTokenizer

from modelworks.client import Modelworks

ENCODER = "lab/encoder"
TRAINING: dict[str, Any] = {**SHAPE, "batch_size": 16, "learning_rate": 3e-3, "validation_fraction": 0.15}

#: One platform serves all of them.
pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.xdist_group("retrieval")]


class Stage:
    """A platform with an encoder that it trained and deployed."""

    def __init__(self, platform: PlatformProcess, ours: Modelworks, folder: Path) -> None:
        self.ours = ours
        self.openai = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0, timeout=60)
        ours.datasets.add("pairs", write_pairs(folder / "pairs"))
        run = ours.runs.submit(
            verb="train",
            capability="embedding",
            task="feature-extraction",
            inputs={"train": "pairs"},
            params={**TRAINING, "epochs": 30},
            name=ENCODER,
        )
        run = ours.runs.wait(run["id"], poll_s=0.2)
        assert run["state"] == "succeeded", run
        ours.deployments.apply("encoder", model=ENCODER, engine="transformers", options={"num_threads": 1})
        wait_until_ready(ours, "encoder")
        self.model = folder / "model"
        for file in ours.models.get(ENCODER)["version"]["files"]:
            ours.blobs.download(file["digest"], self.model / file["path"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("retrieval")
    with PlatformProcess(root / "home") as platform, platform.client() as ours:
        yield Stage(platform, ours, root)


def test_the_official_client_finds_passages_by_vectors_of_any_length(stage: Stage) -> None:
    for more in ({}, {"dimensions": 8}, {"encoding_format": "float"}):
        queries, passages = (
            stage.openai.embeddings.create(model="encoder", input=[each[key] for each in pairs()], **more)
            for key in ("query", "positive")
        )
        q, p = (np.array([each.embedding for each in answer.data]) for answer in (queries, passages))
        assert q.shape[1] == more.get("dimensions", SHAPE["hidden_size"])
        assert np.allclose(np.linalg.norm(q, axis=1), 1, atol=1e-5)
        assert ((q @ p.T).argmax(1) == np.arange(len(pairs()))).mean() > 0.9


def test_langchain_gets_the_same_vectors(stage: Stage) -> None:
    from langchain_openai import OpenAIEmbeddings

    theirs = OpenAIEmbeddings(
        model="encoder", base_url=str(stage.openai.base_url), api_key=stage.openai.api_key, check_embedding_ctx_length=False
    )
    texts = [pair["query"] for pair in pairs()][:3]
    ours = [each.embedding for each in stage.openai.embeddings.create(model="encoder", input=texts).data]
    assert np.allclose(theirs.embed_documents(texts), ours, atol=1e-6)
    assert np.allclose(theirs.embed_query(texts[0]), ours[0], atol=1e-6)


def test_ids_of_the_models_own_tokenizer_are_the_text_and_counted_as_it_counts(stage: Stage) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stage.model)
    text = pairs()[-1]["query"]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    by_text, by_ids = (stage.openai.embeddings.create(model="encoder", input=each) for each in (text, ids))
    assert np.allclose(by_text.data[0].embedding, by_ids.data[0].embedding, atol=1e-6)
    assert by_text.usage.prompt_tokens == by_ids.usage.prompt_tokens == len(tokenizer(text).input_ids)
    [row] = stage.ours.usage.requests(limit=1).data
    assert (row["endpoint"], row["prompt_tokens"]) == ("/v1/embeddings", by_ids.usage.prompt_tokens)


def test_what_is_too_long_is_refused_with_its_length_or_cut_when_asked(stage: Stage) -> None:
    with pytest.raises(openai.BadRequestError, match="this model reads 64") as caught:
        stage.openai.embeddings.create(model="encoder", input=["short", "river " * 200])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input.1")
    answer = stage.openai.embeddings.create(model="encoder", input="river " * 200, extra_body={"truncate": True})
    assert answer.usage.prompt_tokens == 64


def test_an_index_takes_its_vectors_from_the_deployment_and_is_searched_by_them(stage: Stage, tmp_path: Path) -> None:
    texts = {f"d{number}": [each["positive"]] for number, each in enumerate(pairs())}
    stage.ours.datasets.add("passages", write_passages(tmp_path / "passages", texts))

    def built(**inputs: str) -> Any:
        run = stage.ours.runs.submit(
            verb="train",
            capability="retrieval",
            task="passage-retrieval",
            inputs={"passages": "passages", "encoder": "deployment:encoder", **inputs},
            name="index",
        )
        run = stage.ours.runs.wait(run["id"], poll_s=0.2)
        assert run["state"] == "succeeded", run
        return stage.ours.models.get("index")["version"]

    first, second = built(), built(previous="index")
    encoder = stage.ours.models.get(ENCODER)["version"]["id"]
    facts = second["metadata"]["index"]
    assert (facts["encoder"], facts["encoder_version"], facts["num_passages"]) == ("encoder", encoder, len(texts))
    assert [each["metrics"]["num_taken_over"] for each in (first, second)] == [0, len(texts)]
    edges = stage.ours.lineage.graph(second["id"], direction="up")["edges"]
    used = {(edge["object_id"], edge["role"]) for edge in edges if edge["relation"] == "used"}
    assert {(encoder, "encoder"), (first["id"], "previous")} <= used
    stage.ours.deployments.apply("index", model="index")
    wait_until_ready(stage.ours, "index")
    asked = [each["query"] for each in pairs()[:12]]
    answer = stage.openai.embeddings.create(model="encoder", input=asked, extra_body={"input_type": "query"})
    assert answer.model_extra == {"system_fingerprint": encoder}
    vectors = [each.embedding for each in answer.data]
    hits = stage.ours.tasks.invoke("passage-retrieval", "index", {"queries": asked, "vectors": vectors, "limit": 2})["hits"]
    assert [each[0]["passage"]["id"] for each in hits] == [f"d{number}:0" for number in range(12)]
    assert all(each[0]["dense_rank"] for each in hits)
