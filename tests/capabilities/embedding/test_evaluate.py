"""Retrieval measured: the figures, the words beside the vectors, the samples behind them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.capabilities.embedding.conftest import local, write_pairs

from modelworks.capabilities.embedding.capability import capability
from modelworks.capabilities.embedding.data import read_collection
from modelworks.capabilities.embedding.evaluate import evaluate_encoder, evaluate_ranker
from modelworks.capabilities.embedding.mining import WordIndex, terms, top
from modelworks.capabilities.embedding.schemas import EvaluateParams, RankingEvaluateParams
from modelworks.capabilities.embedding.scores import METRICS, fused_by_rank, fused_by_score, interval, measure
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.testing import FakeRun

FEW: Any = {"bootstrap_samples": 200, "num_threads": 1}


def test_the_measures_are_those_of_trec_eval() -> None:
    relevant = {"a": 2.0, "b": 1.0, "x": 1.0}
    found = measure(["c", "a", "d", "b"], relevant)
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    assert found["ndcg_at_10"] == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert found["recall_at_5"] == pytest.approx(2 / 3)
    assert found["mrr_at_10"] == 0.5
    assert measure([], relevant) == {"ndcg_at_10": 0.0, "recall_at_5": 0.0, "mrr_at_10": 0.0}
    assert measure([*"cdefghijkl", "a"], relevant)["mrr_at_10"] == 0.0


def test_an_interval_holds_the_mean_and_narrows_with_samples() -> None:
    chance = np.random.default_rng(0)
    few, many = chance.random(20), chance.random(2000)
    (low, high), (low_many, high_many) = interval(few, 500, 1), interval(many, 500, 1)
    assert low < few.mean() < high
    assert high_many - low_many < (high - low) / 3
    assert interval(few, 500, 1) == (low, high)


def test_two_rankings_become_one() -> None:
    assert fused_by_rank([1, 2, 3], [3, 1], 0.5)[:2] == [1, 3]
    assert fused_by_rank([1, 2], [3, 4], 1.0)[:2] == [1, 2]
    assert fused_by_score({1: 9.0, 2: 5.0}, {2: 0.3, 3: 0.1}, 0.4) == [2, 1, 3]
    assert fused_by_score({}, {2: 0.3}, 0.5) == [2]


def test_terms_are_words_and_neighbouring_characters() -> None:
    assert terms("The Ｒiver, 2026!") == ["the", "river", "2026"]
    assert terms("北京API天") == ["北", "京", "北京", "api", "天"]


def test_words_find_the_passage_that_has_them() -> None:
    index = WordIndex(["the cat sat", "a dog ran to the park", "北京的天气很好", "上海的河流"])
    assert index.best("dog in a park", 2)[0] == 1
    assert index.best("天气怎么样", 5) == [2]
    assert index.best("unknown words", 5) == []
    assert WordIndex(["!!!"]).best("x", 3) == []
    # Lucene's form: idf ln(1 + (N - n + 0.5) / (n + 0.5)), with the factor (k1 + 1) left out.
    [score] = [score for score in index.scores("cat") if score > 0]
    mean = (3 + 6 + 13 + 9) / 4
    assert score == pytest.approx(math.log(1 + 3.5 / 1.5) / (1 + 1.5 * (0.25 + 0.75 * 3 / mean)), rel=0.05)


def test_the_highest_come_first_and_of_equals_the_earlier() -> None:
    assert top(np.array([0.0, 2.0, 1.0, 2.0, 0.5]), 3) == [1, 3, 2]
    assert top(np.array([0.0, 1.0]), 5) == [1]


def test_each_query_is_a_sample_and_the_report_has_intervals(encoder: Path, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "test")
    run = FakeRun(tmp_path / "run", models={"model": local(encoder)}, datasets={"test": data})
    found = evaluate_encoder(run, EvaluateParams(**FEW))
    samples, report = (saved.path for saved in run.saved)
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    assert [row["sample"] for row in rows] == [f"pairs.jsonl:{number}" for number in range(1, 49)]
    assert np.mean([row["values"]["fused_ndcg_at_10"][0] for row in rows]) == pytest.approx(found["fused_ndcg_at_10"])
    table = json.loads(report.read_text("utf-8"))
    assert (table["num_queries"], table["num_passages"]) == (48, 48)
    for name, cell in table["metrics"].items():
        assert cell["low"] <= cell["value"] <= cell["high"], name
        assert cell["value"] == pytest.approx(found[name])
    assert table["differences"]["ndcg_at_10 - bm25_ndcg_at_10"]["value"] == pytest.approx(
        found["ndcg_at_10"] - found["bm25_ndcg_at_10"]
    )
    # The words decide here; vectors by chance do not.
    assert found["bm25_ndcg_at_10"] > 0.9 > found["ndcg_at_10"]


def test_vectors_can_be_measured_cut_and_words_weighed(encoder: Path, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "test")

    def found(**more: Any) -> Any:
        run = FakeRun(tmp_path / "run", models={"model": local(encoder)}, datasets={"test": data})
        return evaluate_encoder(run, EvaluateParams(**FEW, **more))

    assert found(dimensions=8)["ndcg_at_10"] != found()["ndcg_at_10"]
    for fusion in ("rrf", "weighted"):
        words, vectors = (found(fusion=fusion, dense_weight=weight) for weight in (0.0, 1.0))
        assert words["fused_mrr_at_10"] == pytest.approx(words["bm25_mrr_at_10"])
        assert vectors["fused_mrr_at_10"] == pytest.approx(vectors["mrr_at_10"])
    with pytest.raises(InvalidRequest, match="32 dimensions, not 33"):
        found(dimensions=33)


def test_a_reranker_is_measured_by_what_it_adds(ranker: Path, encoder: Path, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "test")
    for models in ({"model": local(ranker)}, {"model": local(ranker), "retriever": local(encoder)}):
        run = FakeRun(tmp_path / f"run{len(models)}", models=models, datasets={"test": data})
        found = evaluate_ranker(run, RankingEvaluateParams(**FEW, depth=4))
        assert set(found) == set(capability.tasks[1].metrics)
        assert found["gain_ndcg_at_10"] == pytest.approx(found["ndcg_at_10"] - found["found_ndcg_at_10"])
        # Weights by chance: four passages in an order by chance.
        assert found["found_ndcg_at_10"] > found["ndcg_at_10"] > 0.3


def write_beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": "p1", "title": "Cats", "text": "sleep"}, {"_id": "p2", "text": "dogs run"}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in corpus))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "cats"}\n{"_id": "q2", "text": "birds"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp1\t2\nq1\tp2\t0\nq2\tp2\t0\n")
    return folder


def test_beirs_layout_is_read_with_its_grades(tmp_path: Path) -> None:
    found = read_collection(write_beir(tmp_path / "beir"))
    assert found.passages == {"p1": "Cats\nsleep", "p2": "dogs run"}
    assert found.queries == {"q1": "cats"}
    assert found.relevant == {"q1": {"p1": 2.0}}


def test_a_judgement_of_nothing_is_named(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "beir")
    (folder / "qrels" / "test.tsv").write_text("q1\tp9\t1\n")
    with pytest.raises(InvalidData, match="line 1: there is no passage 'p9'"):
        read_collection(folder)


def test_words_find_real_chinese_passages() -> None:
    shared = Path(os.environ.get("MODELWORKS_SHARED", Path(__file__).parents[4] / "shared"))
    folder = shared / "data" / "04-docqa" / "retrieval-zh-cmrc-trial"
    if not folder.is_dir():
        pytest.skip(f"the test data {folder} are not there")
    found = read_collection(folder)
    assert (len(found.passages), len(found.queries)) == (256, 1002)
    passages = list(found.passages)
    index = WordIndex(list(found.passages.values()))
    queries = list(found.queries)[::10]
    scores = [
        measure([passages[each] for each in index.best(found.queries[query], 10)], found.relevant[query]) for query in queries
    ]
    assert np.mean([each["ndcg_at_10"] for each in scores]) > 0.85
    assert tuple(scores[0]) == METRICS
