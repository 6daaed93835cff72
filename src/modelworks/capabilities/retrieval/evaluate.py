"""Measure searches query by query: what an index finds, against judgements of its passages or documents."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.retrieval.data import Questions, read_questions
from modelworks.capabilities.retrieval.schemas import EvaluateParams
from modelworks.capabilities.retrieval.search import Index
from modelworks.contract.errors import InvalidData
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.passages import SearchInput
from modelworks.contract.run import Run

METRICS = ("ndcg_at_10", "recall_at_5", "mrr_at_10")
#: So many passages are asked for; a document counts where its first passage stands.
_DEPTH = 50
#: Found ids that a sample's detail names.
_SHOWN = 5


def evaluate_index(run: Run, params: EvaluateParams) -> Mapping[str, float]:
    """Measure the index of role "model" on the questions of role "test" (see `data.read_questions`).

    With a deployment of role "encoder", that of the index, queries are searched by meaning too; without, by words alone.

    Returns:
        `ndcg_at_10`, `recall_at_5` and `mrr_at_10`; the report `retrieval.json` has them with 95 % intervals.

    Raises:
        InvalidData: the questions have a fault, or judge what the index does not have. InvalidRequest: the encoder is another.
    """
    index = Index(run.model("model").path)
    questions = read_questions(run.dataset("test").path)
    by_document = _is_by_document(index, questions)
    names = list(questions.queries)[: params.max_queries]
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    samples = []
    encoder = run.deployment("encoder") if run.has_input("encoder") and index.vectors is not None else None
    for first in range(0, len(names), params.batch_size):
        run.raise_if_cancelled()
        batch = names[first : first + params.batch_size]
        texts = [questions.queries[name] for name in batch]
        vectors = None if encoder is None else encoder.embed(texts, kind="query").vectors
        for place, name in enumerate(batch):
            asked = SearchInput(queries=[texts[place]], vectors=None if vectors is None else [vectors[place]], limit=_DEPTH)
            hits = [hit.passage for hit in index.search(asked).hits[0]]
            found = list(dict.fromkeys(hit.document_id if by_document else hit.id for hit in hits))
            measured = measure(found, questions.relevant[name])
            for metric, value in measured.items():
                values[metric].append(value)
            detail = {"query": texts[place], "found": found[:_SHOWN], "relevant": sorted(questions.relevant[name])[:_SHOWN]}
            pairs = {metric: (value, 1.0) for metric, value in measured.items()}
            samples.append(SampleResult(sample=name, values=pairs, detail=detail))
        run.progress(first + len(batch), len(names), "queries")
    file = run.workdir / SAMPLES_FILE
    file.write_text("".join(each.model_dump_json() + "\n" for each in samples), "utf-8")
    run.save(file, kind="report")
    columns = {name: np.array(column) for name, column in values.items()}
    report = {
        "object": "retrieval_report",
        "num_queries": len(names),
        "num_passages": len(index.passages),
        "judged": "documents" if by_document else "passages",
        "by_meaning": encoder is not None,
        "metrics": {name: _cell(column, params, run.seed) for name, column in columns.items()},
    }
    file = run.workdir / "retrieval.json"
    file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    run.save(file, kind="report")
    return {name: float(column.mean()) for name, column in columns.items()}


def measure(ranking: Sequence[str], relevant: Mapping[str, float]) -> dict[str, float]:
    """Metrics of one query's ranking, as trec_eval computes them.

    nDCG@10 (Järvelin & Kekäläinen 2002) with the grades as gains, recall@5, and the reciprocal rank of the first relevant
    id among ten.

    Args:
        ranking: ids, the best first.
        relevant: id -> grade above 0; not empty.
    """
    gained = sum(relevant.get(each, 0.0) / math.log2(place + 2) for place, each in enumerate(ranking[:10]))
    best = sorted(relevant.values(), reverse=True)[:10]
    first = next((place for place, each in enumerate(ranking[:10], start=1) if each in relevant), None)
    return {
        "ndcg_at_10": gained / sum(grade / math.log2(place + 2) for place, grade in enumerate(best)),
        "recall_at_5": sum(each in relevant for each in ranking[:5]) / len(relevant),
        "mrr_at_10": 0.0 if first is None else 1.0 / first,
    }


def _is_by_document(index: Index, questions: Questions) -> bool:
    """Whether documents are judged, not passages; raises where what is judged is neither."""
    judged = {each for grades in questions.relevant.values() for each in grades}
    if judged <= set(index.passages.documents):
        return True
    known = {index.passages.at(row).id for row in range(len(index.passages))}
    missing = sorted(judged - known)
    if missing:
        raise InvalidData(
            f"{len(missing)} of {len(judged)} judged ids are no passages of the index, such as {missing[0]!r}.",
            hint="Judge ids of passages (document:ordinal), or ids of documents alone.",
        )
    return False


def _cell(values_n: NDArray[np.float64], params: EvaluateParams, seed: int) -> dict[str, Any]:
    """The mean with its 95 % interval, by the bootstrap's percentiles (Efron 1979)."""
    chance = np.random.default_rng(seed % (1 << 63))
    means = [float(values_n[chance.integers(0, len(values_n), len(values_n))].mean()) for _ in range(params.bootstrap_samples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return {"value": float(values_n.mean()), "low": float(low), "high": float(high)}
