"""Training: what is learnt, from what, and in which steps."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.capabilities.embedding.conftest import SHAPE, pairs, write_pairs, write_random_encoder, write_random_ranker

from modelworks.capabilities.embedding import loop
from modelworks.capabilities.embedding.batches import ContrastiveSteps, Epochs, PairTable, RankingSteps
from modelworks.capabilities.embedding.data import Pair
from modelworks.capabilities.embedding.encoder import RowMaker
from modelworks.capabilities.embedding.schemas import EmbeddingTrainParams, RankingTrainParams, ServeOptions
from modelworks.capabilities.embedding.serve import TransformersEmbedder, TransformersRanker
from modelworks.capabilities.embedding.train import train_encoder, train_ranker
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.retrieval import EmbeddingInput, RankingInput
from modelworks.testing import FakeRun

LEARNING = {**SHAPE, "batch_size": 16, "learning_rate": 3e-3, "validation_fraction": 0.15, "log_every": 20}
SHORT = {"max_query_tokens": 20, "max_passage_tokens": 32}


def trained(root: Path, *, datasets: Any = None, models: Any = None, **more: Any) -> FakeRun:
    run = FakeRun(root / "run", datasets=datasets or {"train": write_pairs(root / "data")}, models=models)
    train_encoder(run, EmbeddingTrainParams(**{**LEARNING, **more}))
    return run


def model_of(run: FakeRun) -> Any:
    return next(saved for saved in run.saved if saved.kind == "model").model()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return trained(tmp_path_factory.mktemp("learnt"), epochs=30)


def test_held_out_passages_are_found_by_their_queries(learnt: FakeRun) -> None:
    metrics = model_of(learnt).metadata["metrics"]
    assert metrics["validation_mrr_at_10"] > 0.9
    assert metrics["loss"] < metrics["first_loss"] / 10
    embedder = TransformersEmbedder(model_of(learnt), ServeOptions(num_threads=1))
    known = pairs()
    for dimensions in (8, 32):
        queries, passages = (
            np.array(embedder.predict(EmbeddingInput(texts=[each[key] for each in known], dimensions=dimensions)).embeddings)
            for key in ("query", "positive")
        )
        hits = ((queries @ passages.T).argmax(1) == np.arange(len(known))).mean()
        assert hits > 0.9, f"cut to {dimensions} dimensions: {hits}"
    embedder.close()


def test_sentence_transformers_opens_what_was_trained(learnt: FakeRun) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers (extra dev) is not installed")
    model = model_of(learnt)
    texts = [pairs()[0]["query"], "北方的河流"]
    ours = TransformersEmbedder(model, ServeOptions(num_threads=1))
    found = np.array(ours.predict(EmbeddingInput(texts=texts)).embeddings)
    ours.close()
    assert np.abs(library.SentenceTransformer(str(model.path), device="cpu").encode(texts) - found).max() < 1e-5


def test_a_base_is_continued_with_its_tokenizer_and_a_level_up(learnt: FakeRun, tmp_path: Path) -> None:
    base = model_of(learnt)
    run = trained(tmp_path, models={"base": base}, epochs=1, learning_rate=1e-6)
    made = model_of(run)
    assert (made.metadata["level"], made.metadata["dimensions"]) == ("L1", [8, 16, 32])
    before, after = (load_file(model.path / "model.safetensors") for model in (base, made))
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)
    assert (made.path / "tokenizer.json").read_bytes() == (base.path / "tokenizer.json").read_bytes()


def test_cached_gradients_give_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for cached in (False, True):
        run = trained(tmp_path / str(cached), epochs=2, chunk_tokens=64, cached_gradients=cached)
        weights.append(load_file(model_of(run).path / "model.safetensors"))
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_that_is_slower_than_f32_is_told(
    fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "_multiplies_bf16", lambda: fast)
    trained(tmp_path, epochs=1, precision="bf16", max_steps=1)
    assert ("precision=f32 is many times as fast" in caplog.text) is not fast


def test_products_in_bf16_train_weights_in_f32_nearly_alike(tmp_path: Path) -> None:
    runs = {precision: trained(tmp_path / precision, epochs=2, precision=precision) for precision in ("f32", "bf16")}
    weights = {name: load_file(model_of(run).path / "model.safetensors") for name, run in runs.items()}
    assert {each.dtype for each in weights["bf16"].values()} == {torch.float32}
    assert any(not torch.equal(weights["f32"][name], weights["bf16"][name]) for name in weights["f32"])
    losses = [model_of(run).metadata["metrics"]["loss"] for run in runs.values()]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_documents_are_read_before_the_pairs(tmp_path: Path) -> None:
    documents = [{"title": f"about {place}", "text": f"The {place} is far away."} for place in ("hills", "lakes", "woods")]
    data = {"train": write_pairs(tmp_path / "pairs"), "documents": write_pairs(tmp_path / "documents", more=documents)}
    alone = trained(tmp_path / "alone", datasets={"train": data["train"]}, epochs=1)
    both = trained(tmp_path / "both", datasets=data, epochs=1, document_epochs=2)
    assert both.logs[-1].step == alone.logs[-1].step + 2
    assert "documents" in both.used


def test_training_ends_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    run = trained(tmp_path, epochs=100, patience=2, validate_every=1, learning_rate=0.3)
    assert run.logs[-1].step < 100 * 3
    measured = [point.metrics["validation_loss"] for point in run.logs if "validation_loss" in point.metrics]
    assert model_of(run).metadata["metrics"]["validation_loss"] == pytest.approx(min(measured), abs=1e-5)


def test_a_ranker_grows_on_an_encoder_and_puts_the_answer_first(learnt: FakeRun, tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", datasets={"train": write_pairs(tmp_path / "data")}, models={"base": model_of(learnt)})
    train_ranker(
        run, RankingTrainParams(**{**LEARNING, **SHORT, "batch_size": 8, "epochs": 40, "num_negatives": 3, "bce_weight": 0.0})
    )
    assert run.logs[-2].metrics["loss"] < run.logs[0].metrics["loss"] / 2
    model = model_of(run)
    assert (model.metadata["task"], model.metadata["level"]) == ("text-ranking", "L1")
    ranker = TransformersRanker(model, ServeOptions(num_threads=1))
    known = pairs()[:8]
    right = 0
    for pair in known:
        others = [each["positive"] for each in known if each is not pair]
        scores = ranker.predict(RankingInput(query=pair["query"], documents=[pair["positive"], *others])).scores
        right += scores[0] == max(scores)
    ranker.close()
    assert right >= 6
    assert model.metadata["metrics"]["validation_accuracy"] > 0.7


def test_what_does_not_fit_is_refused_before_a_step(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="32 dimensions, not 64"):
        trained(tmp_path / "a", dimensions=[64])
    with pytest.raises(InvalidRequest, match="positions"):
        trained(tmp_path / "b", max_passage_tokens=64)
    data = {"train": write_pairs(tmp_path / "data")}
    run = FakeRun(tmp_path / "c", datasets=data, models={"base": write_random_encoder(tmp_path / "base")})
    with pytest.raises(InvalidRequest, match="positions"):
        train_ranker(run, RankingTrainParams(**LEARNING))
    classes = write_random_ranker(tmp_path / "ranker")
    config = json.loads((classes / "config.json").read_text())
    assert config["architectures"] == ["ModernBertForSequenceClassification"]


def table(known: Sequence[Pair], maker: RowMaker, mine: Any = None) -> PairTable:
    return PairTable.of(known, maker, max_query_tokens=8, max_passage_tokens=8, mine=mine)


KNOWN = [
    Pair("q1", "a", (), "f", 1),
    Pair("q1", "b", (), "f", 2),
    Pair("q2", "a", ("c",), "f", 3),
    Pair("q3", "d", ("b", "a"), "f", 4),
]


def test_another_answer_to_a_query_is_no_negative_of_it(encoder: Path) -> None:
    made = table(KNOWN, RowMaker(encoder), mine=lambda passages, queries: [list(range(len(passages)))] * len(queries))
    names = ["a", "b", "d", "c"]
    assert [[names[each] for each in wrong] for wrong in made.mined] == [
        ["d", "c"],
        ["d", "c"],
        ["b", "d", "c"],
        ["a", "b", "c"],
    ]
    params = EmbeddingTrainParams(**{**SHAPE, "num_negatives": 1, "temperature": 1.0})
    steps = ContrastiveSteps(params, RowMaker(encoder), [2], [(made, 1)], made, 0)
    work = steps.validation()
    # Rows: four queries, then the passages a, b, d. Each query's vector equals one passage's.
    vectors = torch.eye(3)[torch.tensor([0, 1, 0, 2, 0, 1, 2])]
    loss, further = work.loss(vectors[:, :3] + 0.0)
    assert further["mrr_at_10"] == 1.0
    # With two dimensions the last query and passage d are zeros: all its cosines are 0.
    first = -np.log(np.e / (np.e + 1))
    second = -np.log(np.e / (np.e + 2))
    last = -np.log(1 / 3)
    assert float(loss) == pytest.approx((first + first + second + last) / 4, abs=1e-4)


def test_given_negatives_come_before_mined_ones(encoder: Path) -> None:
    made = table(KNOWN, RowMaker(encoder), mine=lambda passages, queries: [list(range(len(passages)))] * len(queries))
    draw = random.Random(0)
    assert sorted(made.negatives(3, 2, draw)) == [0, 1]
    assert made.negatives(2, 1, draw) == [3]
    assert len(made.negatives(2, 3, draw)) == 3
    ranking = RankingSteps(RankingTrainParams(**{**SHAPE, **SHORT, "num_negatives": 3}), RowMaker(encoder), made, made, 0)
    assert len(ranking.validation().rows) == 4 * 4


def test_every_epoch_reads_every_pair_once_with_passages_of_like_length_together(encoder: Path) -> None:
    known = [Pair(f"q{number}", "word " * (number % 40 + 1), (), "f", number) for number in range(200)]
    made = PairTable.of(known, RowMaker(encoder), max_query_tokens=8, max_passage_tokens=400)
    epochs = Epochs(made, 16, 2, seed=3)
    assert epochs.num_steps == 26
    batches = [epochs.batch(number) for number in range(26)]
    for epoch in (batches[:13], batches[13:]):
        assert sorted(pair for batch in epoch for pair in batch) == list(range(200))
    assert batches[:13] != batches[13:]
    assert epochs.batch(3) == batches[3]
    lengths = [[len(made.passages[made.passage[pair]]) for pair in batch] for batch in batches]
    assert np.mean([max(batch) - min(batch) for batch in lengths]) < max(map(max, lengths)) / 5
