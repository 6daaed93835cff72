"""What a data space finds, beside BM25, a dense index of MiniLM and LanceDB's hybrid, over the same questions in one run.

    python benchmarks/retrieval.py [--shared ../shared] [--lancedb-python PYTHON] [--only NAME ...]

Collections: XQuAD in English and Chinese, Cranfield, the trial part of CMRC 2018, and the sections of the product documentation
in both languages, looked for by title and heading, which are not part of the text (weak judgements: one section, though others
may answer too). Every passage is searched.

Encoders: all-MiniLM-L6-v2 for English, starter-embed of this repository for Chinese, which MiniLM never learnt; LanceDB is
given the same vectors. BM25 is there twice: bm25s with words as its own examples split them (of Chinese every character), and
with the terms that our index counts. LanceDB needs an environment of its own: give its interpreter; without it, it is left out
and a line says so. nDCG@10 and recall@5 with 95 % intervals by the bootstrap over questions; "ahead" is the paired difference
of our hybrid search, and a star says that its interval is above 0.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from judgements import Collection, all_collections, minilm
from space_retrieval import built, lancedb, plain_terms, write_passages

_METRICS = ("ndcg_at_10", "recall_at_5")
_STARTER = Path(__file__).resolve().parent.parent / "starter" / "weights" / "starter-embed"
_OURS = "ours, hybrid"
_RESAMPLES = 2000


class Encoder:
    """The encoder as a run would ask it, without a server; what was encoded once is kept."""

    def __init__(self, name: str, path: Path) -> None:
        from modelworks.capabilities.embedding.schemas import ServeOptions
        from modelworks.capabilities.embedding.serve import Embedder
        from modelworks.contract.run import LocalModel

        model = LocalModel(ref="model@v1", version_id="mdl_1", path=path, digest="sha256:" + "0" * 64)
        self.name = name
        self._model = Embedder(model, ServeOptions(num_threads=1))
        self._kept: dict[tuple[str, str], list[float]] = {}

    def embed(self, texts: Sequence[str], *, kind: str = "document") -> Any:
        from modelworks.contract.deployment import Vectors
        from modelworks.contract.retrieval import EmbeddingInput

        missing = [text for text in dict.fromkeys(texts) if (kind, text) not in self._kept]
        for first in range(0, len(missing), 64):
            batch = missing[first : first + 64]
            answer = self._model.predict(EmbeddingInput(texts=batch, truncate=True, kind=kind))
            self._kept.update(zip(((kind, text) for text in batch), answer.embeddings, strict=True))
        return Vectors(vectors=[self._kept[kind, text] for text in texts], version_id="mdl_1")


def bm25(passages: Sequence[str], terms: Callable[[str], list[str]]) -> Callable[[str], list[int]]:
    """Rankings of ten by bm25s."""
    import bm25s

    words = bm25s.BM25()
    words.index([terms(text) for text in passages], show_progress=False)

    def ranking(query: str) -> list[int]:
        ids = words.retrieve([terms(query)], k=min(10, len(passages)), show_progress=False)[0][0]
        return [int(each) for each in ids]

    return ranking


def nearest(passages_nd: Any, queries_qd: Any) -> list[list[int]]:
    """Rankings of ten by cosine."""
    return [np.argsort(-(passages_nd @ query_d), kind="stable")[:10].tolist() for query_d in queries_qd]


def rankings(
    collection: Collection, language: str, encoders: dict[str, Encoder], python: Path | None, folder: Path
) -> dict[str, list[list[int]]]:
    """What each system finds for each question: places of passages, best first."""
    from modelworks.capabilities.retrieval.search import Index
    from modelworks.capabilities.retrieval.terms import terms
    from modelworks.contract.passages import SearchInput

    passages, queries, _ = collection
    texts, asked = list(passages.values()), list(queries.values())
    found: dict[str, list[list[int]]] = {}
    for name, split in (("bm25s", plain_terms), ("bm25s, our terms", terms)):
        ranking = bm25(texts, split)
        found[name] = [ranking(text) for text in asked]
    own = encoders["all-MiniLM-L6-v2" if language == "en" else "starter-embed"]
    vectors: Any = None
    for encoder in dict.fromkeys((encoders["all-MiniLM-L6-v2"], own)):
        vectors = tuple(
            np.asarray(encoder.embed(each, kind=kind).vectors, np.float32)
            for each, kind in ((texts, "document"), (asked, "query"))
        )
        found[f"dense, {encoder.name}"] = nearest(*vectors)
    if python is not None:
        found["LanceDB, hybrid"] = lancedb(python, folder / "lancedb", texts, asked, vectors, language)["ranked"]
    data = write_passages(folder / "data", passages)
    for name, each, rerank in (("ours, words", None, True), ("ours, not reranked", own, False), (_OURS, own, True)):
        index = Index(built(folder / name, data, each), rerank=rerank)
        if name == _OURS:
            weight = index.card.dense_weight_unspaced if language == "zh" else index.card.dense_weight
            print(f"{folder.name}: meaning by {own.name} weighs {weight:g} beside words.", file=sys.stderr, flush=True)
        questions = (
            SearchInput(queries=[text], vectors=None if each is None else [vector.tolist()], limit=10)
            for text, vector in zip(asked, vectors[1], strict=True)
        )
        hits = [index.search(question).hits[0] for question in questions]
        found[name] = [[int(hit.passage.document_id[1:]) for hit in ten] for ten in hits]
    return found


def measured(collection: Collection, ranked: dict[str, list[list[int]]]) -> dict[str, dict[str, Any]]:
    """Of each system the values of each metric, one for each question."""
    from modelworks.capabilities.retrieval.evaluate import measure

    passages, queries, relevant = collection
    ids = list(passages)
    found: dict[str, dict[str, Any]] = {}
    for system, lists in ranked.items():
        rows = [measure([ids[at] for at in ten], relevant[query]) for query, ten in zip(queries, lists, strict=True)]
        found[system] = {metric: np.array([row[metric] for row in rows]) for metric in _METRICS}
    return found


def interval(values_n: Any) -> tuple[float, float, float]:
    """Mean and its 95 % interval."""
    chance = np.random.default_rng(0)
    means = values_n[chance.integers(0, len(values_n), (_RESAMPLES, len(values_n)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(values_n.mean()), float(low), float(high)


def cell(values_n: Any) -> str:
    value, low, high = interval(values_n)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def ahead(values_n: Any) -> str:
    """A paired difference, with a star where it is above chance."""
    return f"{cell(values_n)}{' *' if interval(values_n)[1] > 0 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--lancedb-python", type=Path, help="the Python of an environment with lancedb 0.40")
    parser.add_argument("--only", nargs="+", default=[], help="names of collections, such as xquad-en")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    encoders = {"all-MiniLM-L6-v2": Encoder("all-MiniLM-L6-v2", minilm()), "starter-embed": Encoder("starter-embed", _STARTER)}
    if asked.lancedb_python is None:
        print("LanceDB is left out: no --lancedb-python.")
    with tempfile.TemporaryDirectory() as name:
        sets = all_collections(asked.shared, Path(name) / "collections")
        print("| collection | questions | passages | system | nDCG@10 | recall@5 | nDCG@10, ahead | recall@5, ahead |")
        print("|---|---|---|---|---|---|---|---|")
        for key, collection in sets.items():
            if asked.only and key not in asked.only:
                continue
            language = "zh" if key.endswith("zh") else "en"
            values = measured(collection, rankings(collection, language, encoders, asked.lancedb_python, Path(name) / key))
            for system, columns in values.items():
                cells = [cell(columns[metric]) for metric in _METRICS]
                cells += ["" if system == _OURS else ahead(values[_OURS][metric] - columns[metric]) for metric in _METRICS]
                print(f"| {key} | {len(collection[1])} | {len(collection[0])} | {system} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
