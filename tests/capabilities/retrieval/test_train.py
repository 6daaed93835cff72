"""Building: what becomes of passages, what is taken over, and what an interruption costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.capabilities.retrieval.conftest import TEXTS, Encoder, built, hits, ids, write_passages

from modelworks.capabilities.retrieval.layout import counted_text, encoded_text
from modelworks.capabilities.retrieval.schemas import BuildParams
from modelworks.capabilities.retrieval.search import Index
from modelworks.capabilities.retrieval.train import build_index
from modelworks.contract.errors import Conflict, InvalidData, Unavailable
from modelworks.contract.passages import IndexFacts, Passage, Place
from modelworks.testing import FakeRun
from modelworks.testing.fake_run import digest_of

NUM_PASSAGES = sum(map(len, TEXTS.values()))


def test_the_version_says_what_it_holds(tmp_path: Path) -> None:
    encoder = Encoder()
    [saved] = built(tmp_path, encoder=encoder, name="our index").saved
    assert saved.metadata["task"] == "passage-retrieval"
    facts = IndexFacts.model_validate(saved.metadata["index"])
    assert facts == IndexFacts(
        num_documents=4, num_passages=NUM_PASSAGES, encoder="encoder", encoder_version="mdl_a", dimensions=64
    )
    assert json.loads((saved.path / "index.json").read_text())["facts"] == facts.model_dump()
    for file in saved.path.glob("*.npy"):
        np.load(file, allow_pickle=False)


def test_blocks_make_no_difference(tmp_path: Path, hybrid: Path) -> None:
    by_twos = built(tmp_path, encoder=Encoder(), block_passages=2, batch_size=1, concurrency=3).saved[0].path
    assert digest_of(by_twos) == digest_of(hybrid)


def test_an_interrupted_build_asks_only_for_the_rest_and_ends_the_same(tmp_path: Path, hybrid: Path) -> None:
    data = write_passages(tmp_path / "data")
    params = BuildParams(block_passages=2, batch_size=1, concurrency=1)
    first_encoder = Encoder()

    def fail(asked: int) -> None:
        if asked > 5:
            raise Unavailable("The encoder is away.")

    first_encoder.before = fail
    first = FakeRun(tmp_path, datasets={"passages": data}, deployments={"encoder": first_encoder})
    with pytest.raises(Unavailable):
        build_index(first, params)
    assert not first.saved
    encoder = Encoder()
    second = FakeRun(
        tmp_path, datasets={"passages": data}, deployments={"encoder": encoder}, resume_from=first.checkpoints[-1].path
    )
    build_index(second, params)
    # Two of the three blocks that were begun are whole; before anything it is asked which version answers.
    assert len(encoder.asked) == 1 + NUM_PASSAGES - 4
    assert digest_of(second.saved[0].path) == digest_of(hybrid)


def test_vectors_of_passages_that_did_not_change_are_taken_over(tmp_path: Path, hybrid: Path) -> None:
    changed = {**TEXTS, "pump": [*TEXTS["pump"][:2], "A new sentence about oil."], "more": ["A second one."]}
    del changed["zh"]
    data = write_passages(tmp_path / "data", changed)

    def rebuilt(encoder: Encoder) -> FakeRun:
        run = FakeRun(
            tmp_path / (encoder.version_id or ""),
            datasets={"passages": data},
            models={"previous": hybrid},
            deployments={"encoder": encoder},
        )
        build_index(run, BuildParams())
        return run

    same, other = Encoder(), Encoder("mdl_b")
    run = rebuilt(same)
    assert sorted(same.asked[1:]) == ["A new sentence about oil.", "A second one."]
    assert run.saved[0].metadata["metrics"]["num_taken_over"] == 5
    fresh = built(tmp_path / "fresh", changed, encoder=Encoder()).saved[0].path
    assert digest_of(run.saved[0].path) == digest_of(fresh)
    rebuilt(other)
    assert len(other.asked) == 1 + 7


def test_an_earlier_index_that_cannot_be_read_changes_nothing(tmp_path: Path, hybrid: Path) -> None:
    damaged = shutil.copytree(hybrid, tmp_path / "damaged")
    (damaged / "vectors.npy").write_bytes(b"")
    for number, previous in enumerate((damaged, write_passages(tmp_path / "no-index"))):
        encoder = Encoder()
        run = FakeRun(
            tmp_path / str(number),
            datasets={"passages": write_passages(tmp_path / f"data{number}")},
            models={"previous": previous},
            deployments={"encoder": encoder},
        )
        build_index(run, BuildParams())
        assert len(encoder.asked) == 1 + NUM_PASSAGES
        assert digest_of(run.saved[0].path) == digest_of(hybrid)


def test_an_encoder_that_changes_meanwhile_begins_anew(tmp_path: Path) -> None:
    encoder = Encoder()

    def change(asked: int) -> None:
        if asked == 4:
            encoder.version_id = "mdl_b"

    encoder.before = change
    index = built(tmp_path, encoder=encoder, block_passages=2, batch_size=1, concurrency=1).saved[0]
    assert index.metadata["index"]["encoder_version"] == "mdl_b"
    assert ids(hits(Index(index.path, dense_weight=1.0), "vacation", encoder))[0] == "handbook:0"


def test_an_encoder_that_keeps_changing_is_a_conflict(tmp_path: Path) -> None:
    encoder = Encoder()

    def change(asked: int) -> None:
        encoder.version_id = f"mdl_{asked}"

    encoder.before = change
    with pytest.raises(Conflict, match="one version after another"):
        built(tmp_path, encoder=encoder)


def test_an_index_of_nothing_finds_nothing(tmp_path: Path) -> None:
    for name, texts in (("none", {}), ("empty", {"a": []}), ("signs", {"a": ["!!!"]})):
        saved = built(tmp_path / name, texts, encoder=Encoder()).saved[0]
        assert hits(Index(saved.path), "anything") == []
        assert saved.metadata["index"]["num_documents"] == len(texts)


def test_headings_are_searched_with_the_text(tmp_path: Path) -> None:
    passage = Passage(
        id="a:0", document_id="a", ordinal=0, text="Two weeks ahead.", place=Place(headings=("Staff", "Holidays", "Request"))
    )
    assert encoded_text(passage, "Handbook", 2) == "Holidays > Request\nTwo weeks ahead."
    assert encoded_text(passage, "Handbook", 0) == "Two weeks ahead."
    bare = passage.model_copy(update={"place": Place()})
    assert encoded_text(bare, "Handbook", 2) == "Handbook\nTwo weeks ahead."
    begun = passage.model_copy(update={"text": "# Request\nTwo weeks ahead."})
    assert encoded_text(begun, None, 1) == "# Request\nTwo weeks ahead."
    texts = {"a": ["Two weeks ahead."], "b": ["Three weeks ahead."]}
    run = FakeRun(tmp_path, datasets={"passages": write_passages(tmp_path / "data", texts, place=passage.place)})
    build_index(run, BuildParams())
    assert ids(hits(Index(run.saved[0].path), "holiday three")) == ["b:0", "a:0"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("documents.jsonl", None, "has no documents.jsonl"),
        ("documents.jsonl", "{}", 'documents.jsonl, line 1, field "id"'),
        ("passages/zh.jsonl", None, "passages/zh.jsonl is missing"),
        ("passages/zh.jsonl", "{", "passages/zh.jsonl, line 1"),
        ("passages/zh.jsonl", '{"id":"a:0","document_id":"a","ordinal":0,"text":"x"}', "no passage of the document 'zh'"),
        ("passages/zh.jsonl", '{"id":"zh:0","document_id":"zh","ordinal":0,"text":"x"}\n' * 2, "ordinal 0 comes after 0"),
        ("passages/zh.jsonl", '{"id":"zh:0","document_id":"zh","ordinal":0,"text":"x"}', "has 3 passages"),
    ],
)
def test_a_fault_of_the_data_is_named(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    data = write_passages(tmp_path / "data")
    (data / file).unlink()
    if content is not None:
        (data / file).write_text(content, "utf-8")
    with pytest.raises(InvalidData, match=message):
        build_index(FakeRun(tmp_path, datasets={"passages": data}), BuildParams())


def test_an_id_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    data = write_passages(tmp_path / "data")
    lines = (data / "documents.jsonl").read_text("utf-8").replace('"id":"zh"', '"id":"../zh"')
    (data / "documents.jsonl").write_text(lines, "utf-8")
    with pytest.raises(InvalidData, match="no id of a document"):
        build_index(FakeRun(tmp_path, datasets={"passages": data}), BuildParams())


def test_the_name_of_a_document_is_searched_by_words_and_encoded_with_none(tmp_path: Path) -> None:
    passage = Passage(id="a:0", document_id="a", ordinal=0, text="Two weeks ahead.")
    assert counted_text(passage, "2023_Q3 staff.v2.pdf", "Handbook", 2) == "2023_Q3 staff.v2\nHandbook\nTwo weeks ahead."
    encoder = Encoder()
    texts = {"handbook-2023": ["Two weeks ahead."], "handbook-2024": ["Two weeks ahead."]}
    index = Index(built(tmp_path, texts, encoder=encoder).saved[0].path)
    assert ids(hits(index, "weeks ahead, 2024"))[0] == "handbook-2024:0"
    assert not any("handbook" in text for text in encoder.asked)
