"""Search in a data space's index as it grows, beside bm25s with a matrix, and LanceDB's hybrid: CPU time and memory.

    python benchmarks/space_retrieval.py [--shared ../shared] [--lancedb-python PYTHON] [--sizes 5000 50000]

Passages put together from sentences of the collections of `retrieval.py`, both languages, real questions; vectors of 384
numbers. Each system builds and answers in a process of its own, asked one query at a time: CPU time of all of its threads.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from judgements import all_collections

_CJK = re.compile(r"[\u3400-\u9fff]")


def write_passages(folder: Path, passages: dict[str, str]) -> Path:
    """Passages as the parser leaves them: each a document of its own."""
    from modelworks.contract.passages import ParsedDocument, Passage

    (folder / "passages").mkdir(parents=True)
    lines = []
    for number, text in enumerate(passages.values()):
        passage = Passage(id=f"d{number}:0", document_id=f"d{number}", ordinal=0, text=text)
        (folder / "passages" / f"d{number}.jsonl").write_text(passage.model_dump_json() + "\n", "utf-8")
        document = ParsedDocument(id=f"d{number}", name="x", digest="0", parser="0", state="parsed", num_passages=1)
        lines.append(document.model_dump_json() + "\n")
    (folder / "documents.jsonl").write_text("".join(lines), "utf-8")
    return folder


def built(folder: Path, data: Path, encoder: Any) -> Path:
    from modelworks.capabilities.retrieval.schemas import BuildParams
    from modelworks.capabilities.retrieval.train import build_index
    from modelworks.testing import FakeRun

    run = FakeRun(folder, datasets={"passages": data}, deployments={} if encoder is None else {"encoder": encoder})
    build_index(run, BuildParams())
    return run.saved[0].path


def plain_terms(text: str) -> list[str]:
    """How the peers' own examples count words; of Chinese every character, since they have nothing for it."""
    return re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", text.lower())


def lancedb(python: Path, folder: Path, passages: Any, queries: Any, vectors: Any, language: str, *more: str) -> Any:
    folder.mkdir(parents=True)
    (folder / "passages.json").write_text(json.dumps(passages), "utf-8")
    (folder / "queries.json").write_text(json.dumps(queries), "utf-8")
    np.save(folder / "passages.npy", vectors[0])
    np.save(folder / "queries.npy", vectors[1])
    worker = Path(__file__).parent / "lancedb_worker.py"
    done = subprocess.run([python, worker, folder, "--language", language, *more], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"LanceDB failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


class Numbers:
    """In place of an encoder: vectors by chance, so that only the index is measured."""

    name = "numbers"

    def embed(self, texts: Sequence[str], *, kind: str = "document") -> Any:
        from modelworks.contract.deployment import Vectors

        return Vectors(vectors=random_vectors(len(texts), len(texts[0])).tolist(), version_id="mdl_1")


def random_vectors(count: int, seed: int) -> Any:
    found = np.random.default_rng(seed).standard_normal((count, 384), np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def speed_material(shared: Path, folder: Path, size: int) -> tuple[list[str], list[str]]:
    """Passages of four sentences drawn by chance, of one language each, and real questions."""
    sets = all_collections(shared, folder)
    chance = np.random.default_rng(size)
    sentences: dict[bool, list[str]] = {False: [], True: []}
    for texts, _, _ in sets.values():
        for text in texts.values():
            for each in re.split(r"(?<=[.!?。！？])\s*", text):
                if 20 <= len(each) <= 400:
                    sentences[bool(_CJK.search(each))].append(each)
    passages = []
    for number in range(size):
        pool = sentences[number % 2 == 1]
        passages.append(" ".join(pool[each] for each in chance.integers(0, len(pool), 4)))
    questions = [text for _, queries, _ in sets.values() for text in list(queries.values())[:40]]
    return passages, questions


def measure_ours(folder: Path) -> dict[str, Any]:
    """Builds, opens and asks our index; run in a process of its own."""

    passages = json.loads((folder / "passages.json").read_text("utf-8"))
    data = write_passages(folder / "data", {str(number): text for number, text in enumerate(passages)})
    started = time.process_time()
    path = built(folder / "run", data, Numbers())
    return {
        "build_cpu_s": time.process_time() - started,
        "bytes": sum(file.stat().st_size for file in path.iterdir()),
        "build_mib": memory()["memory_mib"],
        "path": str(path),
    }


def ask_ours(path: Path, folder: Path) -> dict[str, Any]:
    """Asks our index as a replica does; run in a process of its own."""
    started = time.process_time()
    from modelworks.capabilities.retrieval.schemas import ServeOptions
    from modelworks.capabilities.retrieval.serve import PassageIndex
    from modelworks.contract.passages import SearchInput
    from modelworks.contract.run import LocalModel

    model = LocalModel(ref="index@v1", version_id="mdl_1", path=path, digest="sha256:" + "0" * 64)
    replica = PassageIndex(model, ServeOptions())
    found: dict[str, Any] = {"open_cpu_s": time.process_time() - started}
    queries = json.loads((folder / "queries.json").read_text("utf-8"))
    vectors = random_vectors(len(queries), 1).tolist()
    count = sum(1 for _ in (path / "documents.txt").open())
    allowed = [f"d{number}" for number in range(0, count, 2)]
    for kind, documents, with_vectors in (("hybrid", None, True), ("words", None, False), ("filtered", allowed, True)):
        spent = []
        for text, vector in zip(queries, vectors, strict=True):
            asked = SearchInput(queries=[text], vectors=[vector] if with_vectors else None, documents=documents, limit=10)
            started = time.process_time()
            replica.predict(asked)
            spent.append(1000 * (time.process_time() - started))
        found[f"{kind}_ms_p50"] = statistics.median(spent)
        found[f"{kind}_ms_p90"] = statistics.quantiles(spent, n=10)[-1]
    return found | memory()


def measure_plain(folder: Path) -> dict[str, Any]:
    """bm25s with a matrix of float32: what a page of code would do; run in a process of its own."""
    import bm25s

    passages = json.loads((folder / "passages.json").read_text("utf-8"))
    queries = json.loads((folder / "queries.json").read_text("utf-8"))
    started = time.process_time()
    words = bm25s.BM25()
    words.index([plain_terms(text) for text in passages], show_progress=False)
    vectors_pd = np.load(folder / "passages.npy")
    built_s = time.process_time() - started
    spent = []
    for text, vector in zip(queries, np.load(folder / "queries.npy"), strict=True):
        started = time.process_time()
        scores = words.get_scores(plain_terms(text))
        cosines = vectors_pd @ vector
        for found in (scores, cosines):
            np.argpartition(-found, 100)
        spent.append(1000 * (time.process_time() - started))
    return {
        "build_cpu_s": built_s,
        "hybrid_ms_p50": statistics.median(spent),
        "hybrid_ms_p90": statistics.quantiles(spent, n=10)[-1],
        **memory(),
    }


def memory() -> dict[str, int]:
    """The largest memory of this process, and how much of what it has now are mapped files, which others may share."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"memory_mib": int(lines["VmHWM"].split()[0]) >> 10, "mapped_mib": int(lines["RssFile"].split()[0]) >> 10}


def in_process(*arguments: Any) -> Any:
    """One of the functions above in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=False, env={**os.environ}
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def speed(shared: Path, python: Path | None, folder: Path, sizes: Sequence[int]) -> None:
    print("\n| passages | system | build CPU s | on disk MiB | memory MiB | CPU ms p50 / p90: hybrid | words | filtered |")
    print("|---|---|---|---|---|---|---|---|")
    for size in sizes:
        place = folder / f"speed-{size}"
        place.mkdir()
        passages, queries = speed_material(shared, place / "collections", size)
        (place / "passages.json").write_text(json.dumps(passages), "utf-8")
        (place / "queries.json").write_text(json.dumps(queries), "utf-8")
        vectors = random_vectors(size, 0), random_vectors(len(queries), 1)
        np.save(place / "passages.npy", vectors[0])
        np.save(place / "queries.npy", vectors[1])
        made = in_process("--measure-ours", place)
        ours = in_process("--ask-ours", made["path"], place)
        row = [
            f"{made['build_cpu_s']:.1f}",
            f"{made['bytes'] / 2**20:.0f}",
            f"{ours['memory_mib']}, {ours['mapped_mib']} of it mapped files (build {made['build_mib']})",
        ]
        row += [f"{ours[f'{kind}_ms_p50']:.1f} / {ours[f'{kind}_ms_p90']:.1f}" for kind in ("hybrid", "words", "filtered")]
        print(f"| {size} | ours (opened in {ours['open_cpu_s']:.2f} CPU s, imports included) | {' | '.join(row)} |", flush=True)
        plain = in_process("--measure-plain", place)
        timing = f"{plain['hybrid_ms_p50']:.1f} / {plain['hybrid_ms_p90']:.1f}"
        print(
            f"| {size} | bm25s + float32 | {plain['build_cpu_s']:.1f} | - | {plain['memory_mib']} | {timing} | | |", flush=True
        )
        if python is not None:
            for name, more in (("LanceDB, flat", ()), ("LanceDB, HNSW", ("--hnsw",))):
                answer = lancedb(python, place / name, passages, queries, vectors, "zh", *more)
                timing = f"{answer['cpu_ms_p50']:.1f} / {answer['cpu_ms_p90']:.1f}"
                cells = [f"{answer['build_cpu_s']:.1f}", f"{answer['bytes'] / 2**20:.0f}", str(answer["memory_mib"]), timing]
                print(f"| {size} | {name} | {' | '.join(cells)} | | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--lancedb-python", type=Path, help="the Python of an environment with lancedb 0.40")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--measure-ours", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure-plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ask-ours", type=Path, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure_ours is not None:
        print(json.dumps(measure_ours(asked.measure_ours)))
        return
    if asked.measure_plain is not None:
        print(json.dumps(measure_plain(asked.measure_plain)))
        return
    if asked.ask_ours is not None:
        print(json.dumps(ask_ours(*asked.ask_ours)))
        return
    with tempfile.TemporaryDirectory() as name:
        speed(asked.shared, asked.lancedb_python, Path(name), asked.sizes)


if __name__ == "__main__":
    main()
