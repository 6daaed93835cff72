"""A small collection of passages in two languages, and an encoder that knows a few synonyms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from modelworks.capabilities.retrieval.schemas import BuildParams
from modelworks.capabilities.retrieval.search import Index
from modelworks.capabilities.retrieval.terms import terms
from modelworks.capabilities.retrieval.train import build_index
from modelworks.contract.deployment import Answer, Vectors
from modelworks.contract.passages import Hit, ParsedDocument, Passage, Place, SearchInput
from modelworks.testing import FakeRun

Texts = Mapping[str, Sequence[str]]

TEXTS: dict[str, list[str]] = {
    "handbook": [
        "Holidays are requested in the portal two weeks ahead.",
        "Travel costs are paid back after the receipts were sent to accounting.",
        "The office is open from seven to nine in the evening.",
    ],
    "pump": [
        "Error MW-1042 means that the inlet pressure is too low. Call read_pressure() before a restart.",
        "The inlet filter is changed every 500 hours; the pump is stopped before.",
        "Before the pump is started again, the pressure must be read at the inlet.",
    ],
    "zh": [
        "年假需要提前两周在系统中申请，由部门经理批准。",
        "报销差旅费用时，请附上全部发票原件。",
        "水泵启动之前必须检查入口压力，压力过低会触发报警。",
    ],
    "empty": [],
}
SYNONYMS = {"vacation": "holiday", "leave": "holiday", "refund": "paid", "manometer": "pressure", "休假": "年假"}


class Encoder:
    """A deployment whose vectors are sums of numbers by chance, one for each term; synonyms have the same."""

    name = "encoder"

    def __init__(self, version_id: str | None = "mdl_a", *, dimensions: int = 64) -> None:
        self.version_id = version_id
        self.dimensions = dimensions
        self.asked: list[str] = []
        #: Called before each answer, with the number of texts that were asked for so far.
        self.before: Callable[[int], None] = lambda _: None

    def complete(self, messages: Any, *, tools: Any = None, **sampling: Any) -> Answer:
        raise AssertionError("an encoder does not chat")

    def embed(self, texts: Sequence[str], *, kind: Literal["query", "document"] = "document") -> Vectors:
        self.before(len(self.asked))
        self.asked += texts
        return Vectors(vectors=[self._vector(text).tolist() for text in texts], version_id=self.version_id)

    def _vector(self, text: str) -> Any:
        found = np.full(self.dimensions, 0.05)
        for term in terms(text):
            seed = hashlib.sha256(f"{self.version_id}{SYNONYMS.get(term, term)}".encode()).digest()
            found += np.random.default_rng(int.from_bytes(seed[:4], "big")).standard_normal(self.dimensions)
        return found / np.linalg.norm(found)


def write_passages(folder: Path, texts: Texts = TEXTS, **more: Any) -> Path:
    (folder / "passages").mkdir(parents=True)
    documents = []
    for document, each in texts.items():
        state: Any = "parsed" if each else "failed"
        documents.append(
            ParsedDocument(
                id=document, name=f"{document}.md", digest="sha256:0", parser="test", state=state, num_passages=len(each)
            )
        )
        made = [
            Passage(
                id=f"{document}:{number}",
                document_id=document,
                ordinal=number,
                text=text,
                section=(0, 1) if number < 2 else (2, 2),
                **{"place": Place(page=number + 1), **more},
            )
            for number, text in enumerate(each)
        ]
        if made:
            lines = "".join(passage.model_dump_json() + "\n" for passage in made)
            (folder / "passages" / f"{document}.jsonl").write_text(lines, "utf-8")
    lines = "".join(document.model_dump_json() + "\n" for document in documents)
    (folder / "documents.jsonl").write_text(lines, "utf-8")
    return folder


def built(root: Path, texts: Texts = TEXTS, *, encoder: Encoder | None = None, **params: Any) -> FakeRun:
    """A finished build of some texts."""
    data = root / "data"
    run = FakeRun(
        root,
        datasets={"passages": data if data.exists() else write_passages(data, texts)},
        deployments={} if encoder is None else {"encoder": encoder},
    )
    build_index(run, BuildParams(**params))
    return run


def hits(index: Index, query: str, encoder: Encoder | None = None, **more: Any) -> list[Hit]:
    vectors = None if encoder is None else encoder.embed([query], kind="query").vectors
    return index.search(SearchInput(queries=[query], vectors=vectors, **more)).hits[0]


def ids(found: Sequence[Hit]) -> list[str]:
    return [hit.passage.id for hit in found]


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of words alone."""
    return built(tmp_path_factory.mktemp("words")).saved[0].path


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of words and vectors."""
    return built(tmp_path_factory.mktemp("hybrid"), encoder=Encoder()).saved[0].path
