"""An index measured: by passages, by documents, with and without its encoder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.capabilities.retrieval.conftest import Encoder

from modelworks.capabilities.retrieval.evaluate import evaluate_index, measure
from modelworks.capabilities.retrieval.schemas import EvaluateParams
from modelworks.contract.errors import InvalidData
from modelworks.testing import FakeRun

QUERIES = {"q1": "vacation", "q2": "inlet filter", "q3": "发票"}


def write_questions(folder: Path, judged: str) -> Path:
    folder.mkdir(parents=True)
    lines = (json.dumps({"_id": key, "text": text}, ensure_ascii=False) + "\n" for key, text in QUERIES.items())
    (folder / "queries.jsonl").write_text("".join(lines), "utf-8")
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def evaluated(root: Path, index: Path, judged: str, **deployments: Any) -> tuple[dict[str, float], dict[str, Any]]:
    data = write_questions(root / "test", judged)
    run = FakeRun(root, models={"model": index}, datasets={"test": data}, deployments=deployments)
    found = dict(evaluate_index(run, EvaluateParams(bootstrap_samples=100, batch_size=2)))
    return found, json.loads(run.saved[1].path.read_text("utf-8"))


def test_the_measures_are_those_of_trec_eval() -> None:
    relevant = {"a": 2.0, "b": 1.0, "x": 1.0}
    found = measure(["c", "a", "d", "b"], relevant)
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    assert found["ndcg_at_10"] == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert found["recall_at_5"] == pytest.approx(2 / 3)
    assert found["mrr_at_10"] == 0.5
    assert measure([], relevant) == {"ndcg_at_10": 0.0, "recall_at_5": 0.0, "mrr_at_10": 0.0}


def test_what_words_miss_the_encoder_finds(hybrid: Path, tmp_path: Path) -> None:
    judged = "q1\thandbook:0\t1\nq2\tpump:1\t1\nq3\tzh:1\t1\n"
    alone, report = evaluated(tmp_path / "alone", hybrid, judged)
    assert alone["mrr_at_10"] == pytest.approx(2 / 3)
    assert (report["judged"], report["by_meaning"], report["num_queries"]) == ("passages", False, 3)
    both, report = evaluated(tmp_path / "both", hybrid, judged, encoder=Encoder())
    assert both["mrr_at_10"] == 1.0
    assert report["by_meaning"]
    assert report["metrics"]["ndcg_at_10"]["low"] <= both["ndcg_at_10"] <= report["metrics"]["ndcg_at_10"]["high"]


def test_documents_may_be_judged_instead_of_passages(words: Path, tmp_path: Path) -> None:
    found, report = evaluated(tmp_path, words, "q2\tpump\t1\nq3\tzh\t1\n")
    assert (report["judged"], report["num_queries"]) == ("documents", 2)
    assert found == {"ndcg_at_10": 1.0, "recall_at_5": 1.0, "mrr_at_10": 1.0}


@pytest.mark.parametrize(
    ("judged", "message"),
    [
        ("q1\tpump:9\t1\n", "'pump:9'"),
        ("q9\tpump:0\t1\n", "no query 'q9'"),
        ("q1 pump:0 1\n", "Separate|not query, passage"),
        ("q1\tpump:0\t0\n", "No query"),
    ],
)
def test_a_fault_of_the_questions_is_named(words: Path, tmp_path: Path, judged: str, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        evaluated(tmp_path, words, judged)
