"""Vectors and scores as clients get them."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.capabilities.embedding.conftest import local, write_random_encoder
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from modelworks.capabilities.embedding.encoder import Row, chunks, read_card
from modelworks.capabilities.embedding.engine import Batcher, strays
from modelworks.capabilities.embedding.schemas import ServeOptions
from modelworks.capabilities.embedding.serve import Embedder, TransformersEmbedder, TransformersRanker
from modelworks.contract.errors import ContextLengthExceeded, InvalidData, InvalidRequest, Unavailable, UnsupportedArchitecture
from modelworks.contract.retrieval import EmbeddingInput, RankingInput

ONE = ServeOptions(num_threads=1)
TEXTS = ["what is the river of the north like", "北方的河流怎么样？", "river"]


@pytest.fixture(scope="module")
def embedder(encoder: Path) -> Iterator[TransformersEmbedder]:
    made = TransformersEmbedder(local(encoder), ONE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def judge(ranker: Path) -> Iterator[TransformersRanker]:
    made = TransformersRanker(local(ranker, "text-ranking"), ONE)
    yield made
    made.close()


def embed(embedder: Embedder, **request: Any) -> np.ndarray[Any, Any]:
    return np.array(embedder.predict(EmbeddingInput(**request)).embeddings)


def test_a_vector_is_the_normalised_mean_of_the_tokens(embedder: TransformersEmbedder, encoder: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    answer = embedder.predict(EmbeddingInput(texts=TEXTS))
    wanted, count = [], 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        count += ids.shape[1]
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        wanted.append((mean / mean.norm()).numpy())
    assert np.abs(np.array(answer.embeddings) - np.array(wanted)).max() < 1e-5
    assert answer.prompt_tokens == count


def test_token_ids_give_what_their_text_gives(embedder: TransformersEmbedder, encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    texts, tokens = (embedder.predict(EmbeddingInput(**each)) for each in ({"texts": TEXTS}, {"token_ids": ids}))
    assert texts == tokens


def test_shorter_vectors_are_the_beginning_at_length_one(embedder: TransformersEmbedder) -> None:
    whole, short = embed(embedder, texts=TEXTS), embed(embedder, texts=TEXTS, dimensions=16)
    assert short.shape == (3, 16)
    assert np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    assert np.allclose(short, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("dimensions", [7, 33])
def test_dimensions_that_were_not_trained_are_refused(embedder: TransformersEmbedder, dimensions: int) -> None:
    with pytest.raises(InvalidRequest, match="8 to 32") as caught:
        embedder.predict(EmbeddingInput(texts=["a"], dimensions=dimensions))
    assert caught.value.param == "dimensions"


def test_base64_holds_little_endian_float32(embedder: TransformersEmbedder) -> None:
    [packed] = embedder.predict(EmbeddingInput(texts=TEXTS[:1], encoding_format="base64")).embeddings
    assert isinstance(packed, str)
    assert np.allclose(np.frombuffer(base64.b64decode(packed), "<f4"), embed(embedder, texts=TEXTS[:1])[0], atol=1e-7)


def test_a_long_text_is_refused_with_both_lengths_or_cut_when_asked(embedder: TransformersEmbedder, encoder: Path) -> None:
    long = "river " * 100
    count = len(AutoTokenizer.from_pretrained(encoder)(long, truncation=False).input_ids)
    with pytest.raises(ContextLengthExceeded, match=rf"{count} tokens.*reads 64") as caught:
        embedder.predict(EmbeddingInput(texts=["a", long]))
    assert caught.value.param == "texts.1"
    assert embedder.predict(EmbeddingInput(texts=[long], truncate=True)).prompt_tokens == 64
    assert embedder.predict(EmbeddingInput(texts=[long], max_tokens=5)).prompt_tokens == 7
    assert embedder.predict(EmbeddingInput(texts=[long], max_tokens=500)).prompt_tokens == 64


def test_an_unknown_token_is_named(embedder: TransformersEmbedder) -> None:
    with pytest.raises(InvalidRequest, match="no token 99999") as caught:
        embedder.predict(EmbeddingInput(token_ids=[[5], [6, 99999]]))
    assert caught.value.param == "token_ids.1"


def test_names_of_special_tokens_are_ordinary_text(embedder: TransformersEmbedder) -> None:
    answer = embedder.predict(EmbeddingInput(texts=["[SEP]"]))
    assert answer.prompt_tokens > 3


def test_prompts_of_a_model_go_before_queries_alone(tmp_path: Path) -> None:
    folder = write_random_encoder(tmp_path / "model", prompts={"query": "find the "})
    made = TransformersEmbedder(local(folder), ONE)
    try:
        plain, written = embed(made, texts=["river"], kind="query"), embed(made, texts=["find the river"])
        assert np.allclose(plain, written, atol=1e-6)
        assert np.allclose(embed(made, texts=["river"], kind="document"), embed(made, texts=["river"]), atol=1e-6)
        assert not np.allclose(plain, embed(made, texts=["river"]), atol=1e-3)
        near = made.predict(EmbeddingInput(query="river", texts=["find the river", "river"])).scores
        assert near is not None
        assert near[0] == pytest.approx(1, abs=1e-6)
        assert near[1] < 1 - 1e-4
    finally:
        made.close()


def test_a_query_gives_how_near_each_text_lies(embedder: TransformersEmbedder) -> None:
    query, *texts = TEXTS
    answer = embedder.predict(EmbeddingInput(query=query, texts=texts))
    vectors = embed(embedder, texts=TEXTS)
    assert answer.embeddings == []
    assert answer.scores == pytest.approx(list((1 + vectors[1:] @ vectors[0]) / 2), abs=1e-6)
    short = embed(embedder, texts=TEXTS, dimensions=8)
    assert embedder.predict(EmbeddingInput(query=query, texts=texts, dimensions=8)).scores == pytest.approx(
        list((1 + short[1:] @ short[0]) / 2), abs=1e-6
    )
    long = "river " * 100
    with pytest.raises(ContextLengthExceeded) as caught:
        embedder.predict(EmbeddingInput(query=long, texts=["a"], max_tokens=5))
    assert caught.value.param == "query"
    with pytest.raises(ContextLengthExceeded) as caught:
        embedder.predict(EmbeddingInput(query="a", texts=["a", long]))
    assert caught.value.param == "texts.1"
    assert embedder.predict(EmbeddingInput(query=long, texts=["a"], truncate=True)).scores is not None


def test_scores_are_the_sigmoid_of_the_head(judge: TransformersRanker, ranker: Path) -> None:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(ranker), AutoTokenizer.from_pretrained(ranker)
    answer = judge.predict(RankingInput(query=TEXTS[0], documents=TEXTS))
    wanted, count = [], 0
    for text in TEXTS:
        ids = tokenizer(TEXTS[0], text, return_tensors="pt").input_ids
        count += ids.shape[1]
        with torch.no_grad():
            wanted.append(float(model(input_ids=ids).logits[0, 0].sigmoid()))
    assert answer.scores == pytest.approx(wanted, abs=1e-5)
    assert answer.prompt_tokens == count


def test_long_documents_are_refused_or_cut_and_long_queries_refused(judge: TransformersRanker) -> None:
    long = "river " * 100
    with pytest.raises(ContextLengthExceeded) as caught:
        judge.predict(RankingInput(query="river", documents=["a", long]))
    assert caught.value.param == "documents.1"
    assert judge.predict(RankingInput(query="river", documents=[long], truncate=True)).prompt_tokens == 64
    with pytest.raises(ContextLengthExceeded) as caught:
        judge.predict(RankingInput(query=long, documents=["a"], truncate=True))
    assert caught.value.param == "query"


def test_openvino_computes_what_the_checkpoint_computes(encoder: Path, embedder: TransformersEmbedder) -> None:
    made = Embedder(local(encoder), ServeOptions(num_threads=1, precision="f32"))
    assert made.engine_name == "openvino f32"
    long = [*TEXTS, "garden " * 20]
    assert np.abs(embed(made, texts=long) - embed(embedder, texts=long)).max() < 1e-5
    made.close()


def test_what_computes_something_else_is_not_used() -> None:
    wanted = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert not strays(wanted * 3, wanted, "f32")
    assert strays(wanted + np.array([[0, 0.1], [0, 0]]), wanted, "f32")
    assert strays(wanted * np.nan, wanted, "bf16")
    assert strays(np.array([[0.5]]), np.array([[0.0]]), "bf16")
    assert not strays(np.array([[0.05]]), np.array([[0.0]]), "bf16")


def test_real_weights_give_what_sentence_transformers_gives(minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["A man is eating food.", "The new movie is awesome, and long. " * 5, "北京的天气"]
    made = TransformersEmbedder(local(minilm), ONE)
    answer = made.predict(EmbeddingInput(texts=texts))
    made.close()
    peer = SentenceTransformer(str(minilm), device="cpu")
    assert np.abs(np.array(answer.embeddings) - peer.encode(texts)).max() < 1e-5
    assert answer.prompt_tokens == sum(len(peer.tokenizer(text).input_ids) for text in texts)
    with pytest.raises(InvalidRequest, match="not trained for shorter"):
        made.predict(EmbeddingInput(texts=texts, dimensions=128))


def test_a_folder_of_another_task_is_refused(encoder: Path, ranker: Path) -> None:
    with pytest.raises(UnsupportedArchitecture, match="no head"):
        TransformersRanker(local(encoder), ONE)
    with pytest.raises(UnsupportedArchitecture, match="scores pairs"):
        TransformersEmbedder(local(ranker), ONE)


def copy_of(encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoder, tmp_path / "copy"))


def test_pickles_and_lost_weights_are_refused(encoder: Path, tmp_path: Path) -> None:
    folder = copy_of(encoder, tmp_path)
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidData, match="no weights in safetensors"):
        TransformersEmbedder(local(folder), ONE)
    (folder / "pytorch_model.bin").rename(weights)
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    lost = sorted(tensors)[3]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, weights, metadata={"format": "pt"})
    with pytest.raises(InvalidData, match="lack"):
        TransformersEmbedder(local(folder), ONE)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"model_type": "gpt2"}, "no encoder"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by 'max_tokens'"),
        ("modules.json", [{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}], "Dense"),
        ("modules.json", [{"type": "x.Pooling", "path": "../../etc"}], "outside"),
    ],
)
def test_what_is_not_understood_is_refused(encoder: Path, tmp_path: Path, file: str, content: Any, message: str) -> None:
    folder = copy_of(encoder, tmp_path)
    (folder / file).write_text(json.dumps(content), "utf-8")
    with pytest.raises((UnsupportedArchitecture, InvalidData), match=message):
        read_card(folder)


def test_pooling_is_read_in_both_of_its_forms(encoder: Path, tmp_path: Path) -> None:
    folder = copy_of(encoder, tmp_path)
    for said in ({"pooling_mode": "cls"}, {"pooling_mode_cls_token": True}):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(said), "utf-8")
        assert read_card(folder).pooling == "cls"
    made = TransformersEmbedder(local(folder), ONE)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        first = model(**tokenizer("river", return_tensors="pt")).last_hidden_state[0, 0]
    assert np.abs(embed(made, texts=["river"])[0] - (first / first.norm()).numpy()).max() < 1e-5
    made.close()


def test_rows_of_like_length_share_a_batch_within_its_tokens() -> None:
    lengths = [3, 50, 4, 3, 49, 7]
    found = chunks(lengths, 100)
    assert sorted(index for chunk in found for index in chunk) == list(range(6))
    assert all(len(chunk) * max(lengths[index] for index in chunk) <= 100 for chunk in found)
    assert sorted(found[0]) == [1, 4]
    assert chunks([500], 100) == [[0]]


def test_requests_that_wait_are_computed_together_and_fail_alone() -> None:
    gate, sizes = threading.Event(), []

    def compute(rows: Any) -> np.ndarray[Any, Any]:
        gate.wait(10)
        sizes.append(len(rows))
        if any(row.ids == [13] for row in rows):
            raise ValueError("thirteen")
        return np.array([[float(row.ids[0])] for row in rows])

    batcher = Batcher(compute, 1000)
    results: dict[int, Any] = {}

    def ask(number: int) -> None:
        try:
            results[number] = batcher.run([Row([number])])[0, 0]
        except ValueError as error:
            results[number] = str(error)

    first = threading.Thread(target=ask, args=(0,))
    first.start()
    others = [threading.Thread(target=ask, args=(number,)) for number in (1, 2, 3)]
    while batcher._queue:
        pass
    for each in others:
        each.start()
    while len(batcher._queue) < 3:
        pass
    gate.set()
    for each in (first, *others):
        each.join(10)
    assert results == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}
    assert sizes == [1, 3]
    ask(13)
    assert results[13] == "thirteen"
    batcher.close()
    with pytest.raises(Unavailable):
        batcher.run([Row([1])])
