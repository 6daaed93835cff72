"""Encoders of other families, as their publishers save them: the same numbers as transformers computes text by text."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.capabilities.embedding.conftest import local, tokenizer, write_random_encoder
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    MPNetConfig,
    XLMRobertaConfig,
)

from modelworks.capabilities.embedding.capability import capability
from modelworks.capabilities.embedding.encoder import read_card
from modelworks.capabilities.embedding.schemas import EmbeddingTrainParams, RankingTrainParams, ServeOptions
from modelworks.capabilities.embedding.serve import TransformersEmbedder, TransformersRanker
from modelworks.contract.errors import ContextLengthExceeded, UnsupportedArchitecture
from modelworks.contract.retrieval import EmbeddingInput, RankingInput
from modelworks.kernel.catalog.pulling import FetchedSource, PullParams, _metadata
from modelworks.kernel.catalog.sources.source import SourceInfo

ONE = ServeOptions(num_threads=1)
TEXTS = ["river", "what is the river of the north like", "北方的河流怎么样？"]
SIZE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**SIZE),
    "xlm-roberta": XLMRobertaConfig(**SIZE, pad_token_id=1),
    "distilbert": DistilBertConfig(vocab_size=512, dim=16, hidden_dim=16, n_layers=1, n_heads=2, max_position_embeddings=40),
    "mpnet": MPNetConfig(**SIZE, pad_token_id=1),
}


def write(folder: Path, config: Any, kind: Any = AutoModel) -> Path:
    torch.manual_seed(2)
    kind.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_an_encoder_without_further_files_is_the_mean_of_its_tokens(family: str, tmp_path: Path) -> None:
    folder = write(tmp_path / family, CONFIGS[family])
    made = TransformersEmbedder(local(folder), ONE)
    found = np.array(made.predict(EmbeddingInput(texts=TEXTS)).embeddings)
    positions = 38 if family in ("xlm-roberta", "mpnet") else 40
    with pytest.raises(ContextLengthExceeded, match=f"reads {positions}"):
        made.predict(EmbeddingInput(texts=["river " * 60]))
    cut = made.predict(EmbeddingInput(texts=["river " * 60], truncate=True))
    made.close()
    assert cut.prompt_tokens == positions
    model = AutoModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            mean = model(input_ids=tokenizer()(text, return_tensors="pt").input_ids).last_hidden_state[0].mean(0)
        assert np.abs((mean / mean.norm()).numpy() - vector).max() < 1e-5


@pytest.mark.parametrize("num_labels", [1, 2])
def test_segments_are_told_apart_and_two_classes_are_one_score(num_labels: int, tmp_path: Path) -> None:
    config = BertConfig(**SIZE, num_labels=num_labels)
    folder = write(tmp_path / "bert", config, AutoModelForSequenceClassification)
    made = TransformersRanker(local(folder, "text-ranking"), ONE)
    found = made.predict(RankingInput(query=TEXTS[0], documents=TEXTS)).scores
    made.close()
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    for text, score in zip(TEXTS, found, strict=True):
        pair = tokenizer()(TEXTS[0], text, return_tensors="pt", return_token_type_ids=True)
        assert pair.token_type_ids.max() == 1
        with torch.no_grad():
            logits = model(**pair).logits[0]
        wanted = logits.sigmoid()[0] if num_labels == 1 else logits.softmax(0)[1]
        assert score == pytest.approx(float(wanted), abs=1e-5)


def test_a_head_of_more_classes_is_no_reranker(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert", BertConfig(**SIZE, num_labels=3), AutoModelForSequenceClassification)
    with pytest.raises(UnsupportedArchitecture, match="3 classes"):
        TransformersRanker(local(folder, "text-ranking"), ONE)


def test_code_of_a_folder_never_runs(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert", CONFIGS["bert"])
    config = AutoConfig.from_pretrained(folder)
    config.auto_map = {"AutoModel": "evil.Model"}
    config.save_pretrained(folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    made = TransformersEmbedder(local(folder), ONE)
    made.close()
    assert not (tmp_path / "ran").exists()
    assert read_card(folder).pooling == "mean"


def test_what_the_files_are_goes_before_a_tag_of_a_hub(tmp_path: Path) -> None:
    folder = write_random_encoder(tmp_path / "model")
    info = SourceInfo(uri="hf://a/b", licence=None, size_bytes=1, files=[], skipped=[], task="sentence-similarity", name="b")
    fetched = FetchedSource(path=folder, info=info, licence=None, card="", task=info.task, skipped=[])
    params = PullParams(source="hf://a/b")
    assert _metadata(params, fetched, {"task": "feature-extraction"})["task"] == "feature-extraction"
    assert _metadata(params, fetched, {})["task"] == "sentence-similarity"


def test_every_parameter_of_the_presets_is_one() -> None:
    text = resources.files(capability.package).joinpath("presets.toml").read_text("utf-8")
    for preset in tomllib.loads(text)["preset"]:
        assert ("source" in preset) != ("params" in preset)
        kind = RankingTrainParams if preset["task"] == "text-ranking" else EmbeddingTrainParams
        kind.model_validate(preset.get("params", {}))
