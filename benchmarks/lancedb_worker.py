"""LanceDB's plain hybrid search, run by the Python of an environment that has it; see `retrieval.py`.

    python benchmarks/lancedb_worker.py FOLDER --language en [--hnsw] [--limit 10]

FOLDER holds passages.json, queries.json (lists of texts), passages.npy and queries.npy (float32). Prints one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--language", choices=("en", "zh"), required=True, help="its words, or its grams of two characters")
    parser.add_argument("--hnsw", action="store_true", help="build an HNSW index instead of looking at every vector")
    parser.add_argument("--limit", type=int, default=10)
    asked = parser.parse_args()
    passages = json.loads((asked.folder / "passages.json").read_text("utf-8"))
    queries = json.loads((asked.folder / "queries.json").read_text("utf-8"))
    vectors_pd, vectors_qd = np.load(asked.folder / "passages.npy"), np.load(asked.folder / "queries.npy")
    width = vectors_pd.shape[1]
    started, started_wall = time.process_time(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors_pd.reshape(-1)), width)
        rows = pa.table({"row": pa.array(range(len(passages))), "text": pa.array(passages), "vector": column})
        table = lancedb.connect(place).create_table("passages", rows)
        if asked.language == "zh":
            table.create_fts_index("text", base_tokenizer="ngram", ngram_min_length=2, ngram_max_length=2, stem=False)
        else:
            table.create_fts_index("text")
        if asked.hnsw:
            table.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_HNSW_SQ", num_partitions=1)
        built, built_wall = time.process_time() - started, time.monotonic() - started_wall
        size = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
        ranked, spent, refused = [], [], 0
        for text, vector in zip(queries, vectors_qd, strict=True):
            started = time.process_time()
            try:
                search = table.search(query_type="hybrid", vector_column_name="vector", fts_columns="text")
                hits = search.vector(vector).text(text).distance_type("cosine").limit(asked.limit).to_arrow()
                ranked.append(hits.column("row").to_pylist())
            except Exception:
                refused += 1
                ranked.append([])
            spent.append(1000 * (time.process_time() - started))
    # Not what getrusage says: that begins with the memory of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(
        json.dumps(
            {
                "ranked": ranked,
                "build_cpu_s": built,
                "build_wall_s": built_wall,
                "bytes": size,
                "memory_mib": int(status["VmHWM"].split()[0]) >> 10,
                "cpu_ms_p50": statistics.median(spent),
                "cpu_ms_p90": statistics.quantiles(spent, n=10)[-1] if len(spent) > 1 else spent[0],
                "refused": refused,
            }
        )
    )


if __name__ == "__main__":
    main()
