"""Measure retrieval query by query: vectors, words and both together; and what a reranker adds to what was found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelworks.capabilities.embedding.data import Collection, read_collection
from modelworks.capabilities.embedding.encoder import (
    EncoderCard,
    PairScorer,
    Row,
    RowMaker,
    TextEncoder,
    chunks,
    load_encoder,
    load_ranker,
    read_card,
    uses_segments,
)
from modelworks.capabilities.embedding.engine import Compute, torch_compute
from modelworks.capabilities.embedding.mining import WordIndex, top
from modelworks.capabilities.embedding.schemas import EvaluateParams, RankingEvaluateParams
from modelworks.capabilities.embedding.scores import METRICS, fused_by_rank, fused_by_score, interval, measure
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.run import Run

#: So many of each ranking are fused.
_FUSED_DEPTH = 100
#: Passages that a sample's detail names.
_SHOWN = 5


def evaluate_encoder(run: Run, params: EvaluateParams) -> Mapping[str, float]:
    """Measure the model of role "model" on the collection of role "test": its vectors, BM25, and the two fused.

    Every passage is searched. Texts longer than the model reads are cut here, and counted in the report.

    Returns:
        `ndcg_at_10`, `recall_at_5` and `mrr_at_10` of the vectors, and the same with `bm25_` and `fused_` before them. The
        report `retrieval.json` has them with 95 % intervals, and the paired differences to BM25.

    Raises:
        InvalidData: the collection has a fault. InvalidRequest: dimensions that the model does not have.
    """
    _set_threads(params)
    card = read_card(run.model("model").path)
    collection = read_collection(run.dataset("test").path)
    queries = list(collection.queries)[: params.max_queries]
    passages = list(collection.passages)
    search = _Search.of(run, card, params, collection, queries)
    table = _Table("", "bm25_", "fused_")
    for place, query in enumerate(queries):
        run.raise_if_cancelled()
        dense, words, fused = search.rankings(place)
        rankings = {"": dense, "bm25_": words, "fused_": fused}
        table.add(
            query,
            {name: [passages[index] for index in found] for name, found in rankings.items()},
            collection,
        )
        run.progress(place + 1, len(queries), "queries")
    further = {"num_passages": len(passages), "num_cut": search.num_cut, "fusion": params.fusion}
    return table.save(run, params, against="bm25_", further=further)


def evaluate_ranker(run: Run, params: RankingEvaluateParams) -> Mapping[str, float]:
    """Measure the model of role "model" on the collection of role "test": the found passages in its order.

    Found are the best `depth` by BM25, or by BM25 fused with the vectors of the encoder of role "retriever" where one is given.

    Returns:
        `ndcg_at_10`, `recall_at_5` and `mrr_at_10` of the new order, the same with `found_` before them of the old one, and
        `gain_ndcg_at_10`, the mean difference.

    Raises:
        InvalidData: the collection has a fault.
    """
    _set_threads(params)
    card = read_card(run.model("model").path)
    collection = read_collection(run.dataset("test").path)
    queries = list(collection.queries)[: params.max_queries]
    passages = list(collection.passages)
    retriever = read_card(run.model("retriever").path) if run.has_input("retriever") else None
    search = _Search.of(run, retriever, params, collection, queries)
    scorer = torch_compute(PairScorer(load_ranker(card)).eval(), "f32")
    maker = RowMaker(card.folder, with_segments=uses_segments(card))
    texts = maker.ids([collection.passages[passage] for passage in passages])
    table = _Table("", "found_")
    cut = 0
    for place, query in enumerate(queries):
        run.raise_if_cancelled()
        found = search.rankings(place)[-1][: params.depth]
        [asked] = maker.ids([collection.queries[query]])
        # At least half of the input is the passage's.
        asked = asked[: (card.max_length - maker.num_pair_special) // 2]
        room = card.max_length - maker.num_pair_special - len(asked)
        cut += sum(len(texts[index]) > room for index in found)
        rows = [maker.pair(asked, texts[index][:room]) for index in found]
        scores = _computed(scorer, rows, params.batch_tokens)[:, 0] if rows else np.zeros(0)
        order = sorted(range(len(found)), key=lambda each: (-scores[each], each))
        rankings = {"": [found[each] for each in order], "found_": found}
        table.add(query, {name: [passages[index] for index in each] for name, each in rankings.items()}, collection)
        run.progress(place + 1, len(queries), "queries")
    table.add_difference("gain_ndcg_at_10", "ndcg_at_10", "found_ndcg_at_10")
    further = {"num_passages": len(passages), "num_cut": cut, "depth": params.depth}
    return table.save(run, params, against="found_", further=further)


class _Search:
    """Rankings of all passages for each query: by vectors (where there is an encoder), by words, and by both."""

    def __init__(self, collection: Collection, queries: Sequence[str], params: EvaluateParams) -> None:
        self._params = params
        self._texts = [collection.queries[query] for query in queries]
        self._words = WordIndex(list(collection.passages.values()))
        self._cosines_qp: NDArray[np.float32] | None = None
        self.num_cut = 0

    @classmethod
    def of(
        cls, run: Run, card: EncoderCard | None, params: EvaluateParams, collection: Collection, queries: Sequence[str]
    ) -> _Search:
        """Compute the vectors; told as progress, stopped when asked."""
        found = cls(collection, queries, params)
        if card is None:
            return found
        length = params.dimensions or card.dimensions[-1]
        if length > card.dimensions[-1]:
            raise InvalidRequest(
                f"dimensions: this model's vectors have {card.dimensions[-1]} dimensions, not {length}.", param="dimensions"
            )
        compute = torch_compute(TextEncoder(load_encoder(card), card.pooling).eval(), "f32")
        maker = RowMaker(card.folder)
        room = card.max_length - maker.num_special

        def vectors(texts: Sequence[str], names: Sequence[str]) -> NDArray[np.float32]:
            prompt = next((card.prompts[name] for name in names if name in card.prompts), "")
            ids = maker.ids([prompt + text for text in texts])
            found.num_cut += sum(len(each) > room for each in ids)
            rows = [maker.single(each[:room]) for each in ids]
            whole = _computed(compute, rows, params.batch_tokens, run)[:, :length]
            unit: NDArray[np.float32] = whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)
            return unit

        passages_pd = vectors(list(collection.passages.values()), ("document", "passage"))
        found._cosines_qp = vectors(found._texts, ("query",)) @ passages_pd.T
        return found

    def rankings(self, place: int) -> tuple[list[int], list[int], list[int]]:
        """Passages for a query, the best first: by vectors, by words, by both (by words alone without an encoder)."""
        by_words = self._words.scores(self._texts[place])
        words = top(by_words, _FUSED_DEPTH)
        if self._cosines_qp is None:
            return [], words, words
        # A cosine may be negative; only the order counts for `top`.
        cosines = self._cosines_qp[place] + 2
        dense = top(cosines, _FUSED_DEPTH)
        weight = self._params.dense_weight
        if self._params.fusion == "rrf":
            return dense, words, fused_by_rank(dense, words, weight)
        by_dense = {index: float(cosines[index]) for index in dense}
        return dense, words, fused_by_score(by_dense, {index: float(by_words[index]) for index in words}, weight)


class _Table:
    """What each query gives in each metric, by the prefix of a ranking's name."""

    def __init__(self, *prefixes: str) -> None:
        self._prefixes = prefixes
        self._samples: list[tuple[str, dict[str, float], dict[str, Any]]] = []

    def add(self, query: str, rankings: Mapping[str, Sequence[str]], collection: Collection) -> None:
        """Measure the rankings of one query."""
        relevant = collection.relevant[query]
        values = {
            prefix + name: value for prefix in self._prefixes for name, value in measure(rankings[prefix], relevant).items()
        }
        detail = {
            "query": collection.queries[query],
            "found": list(rankings[""][:_SHOWN]),
            "relevant": sorted(relevant)[:_SHOWN],
        }
        self._samples.append((query, values, detail))

    def add_difference(self, name: str, first: str, second: str) -> None:
        """A metric that is the difference of two."""
        for _, values, _ in self._samples:
            values[name] = values[first] - values[second]

    def save(self, run: Run, params: EvaluateParams, *, against: str, further: Mapping[str, Any]) -> dict[str, float]:
        """Save the samples and the report; returns the means."""
        lines = (
            SampleResult(sample=query, values={name: (value, 1.0) for name, value in values.items()}, detail=detail)
            for query, values, detail in self._samples
        )
        file = run.workdir / SAMPLES_FILE
        file.write_text("".join(line.model_dump_json() + "\n" for line in lines), "utf-8")
        run.save(file, kind="report")
        columns = {name: np.array([values[name] for _, values, _ in self._samples]) for name in self._samples[0][1]}
        differences = {
            f"{prefix}{name} - {against}{name}": columns[prefix + name] - columns[against + name]
            for prefix in self._prefixes
            if prefix != against
            for name in METRICS
        }
        report = {
            "object": "retrieval_report",
            "num_queries": len(self._samples),
            **further,
            "metrics": {name: self._cell(values, params, run.seed) for name, values in columns.items()},
            "differences": {name: self._cell(values, params, run.seed) for name, values in differences.items()},
        }
        _write(run, run.workdir / "retrieval.json", report)
        return {name: float(values.mean()) for name, values in columns.items()}

    def _cell(self, values_n: NDArray[np.floating[Any]], params: EvaluateParams, seed: int) -> dict[str, float]:
        low, high = interval(values_n, params.bootstrap_samples, seed)
        return {"value": float(values_n.mean()), "low": low, "high": high}


def _computed(compute: Compute, rows: Sequence[Row], batch_tokens: int, run: Run | None = None) -> NDArray[np.float32]:
    """The numbers of rows in their order."""
    done, found = 0, list[NDArray[np.float32] | None]([None] * len(rows))
    for chunk in chunks([len(row.ids) for row in rows], batch_tokens):
        numbers = compute([rows[index] for index in chunk])
        for place, index in enumerate(chunk):
            found[index] = numbers[place]
        done += len(chunk)
        if run is not None:
            run.raise_if_cancelled()
            run.progress(done, len(rows), "texts")
    return np.stack([each for each in found if each is not None])


def _set_threads(params: EvaluateParams) -> None:
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)


def _write(run: Run, file: Path, report: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    run.save(file, kind="report")
