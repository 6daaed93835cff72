"""Samples in shards that know nothing of each other, samples that are new, and what readers said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.capabilities.document.samples.conftest import write_library
from tests.capabilities.document.samples.test_making import Teacher, records

from modelworks.capabilities.document.samples.making import make_samples
from modelworks.capabilities.document.samples.schemas import SampleRequest
from modelworks.capabilities.document.samples.splitting import shard_of
from modelworks.contract.errors import InvalidData
from modelworks.testing.fake_run import FakeRun, Saved, digest_of

TWO = SampleRequest(test_share=0.2, shards=2)


def made(root: Path, request: SampleRequest = TWO, **datasets: Path) -> tuple[dict[str, Saved], dict[str, Any]]:
    """What was saved by its part, and what was told."""
    run = FakeRun(root, datasets=datasets, deployments={"teacher": Teacher()})
    told = make_samples(run, request).model_dump()
    return {str(saved.metadata.get("part")): saved for saved in run.saved}, told


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return write_library(tmp_path / "passages")


def of(saved: Saved) -> set[str]:
    return {document_id for each in records(saved) for document_id in each["origin"]["documents"]}


def reword(library: Path, document_id: str, old: str, new: str) -> None:
    """Change a document's text, and its digest."""
    for path in (library / "passages" / f"{document_id}.jsonl", library / "documents.jsonl"):
        text = path.read_text("utf-8")
        path.write_text(text.replace(old, new).replace(f'"sha256:{document_id}"', f'"sha256:{document_id}-2"'), "utf-8")


def said(folder: Path, *lines: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "said.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines), "utf-8")
    return folder


def correction(document_id: str, text: str | None, question: str = "How much water do olives need?") -> dict[str, Any]:
    return {"question": question, "answer": "None [1].", "correction": text, "origin": {"documents": [document_id]}}


def test_each_shard_is_made_of_its_own_documents_alone(tmp_path: Path, library: Path) -> None:
    saved, told = made(tmp_path / "run", passages=library)
    assert list(saved) == ["None", "shard-1", "shard-2", "test"]
    whole, first, second, test = saved.values()
    assert (len(records(first)), len(records(second))) == tuple(told["shards"])
    assert told["num_samples"] == len(records(whole)) == sum(told["shards"])
    assert {file.name for file in whole.path.iterdir()} == {
        file.name for each in (first, second) for file in each.path.iterdir()
    }
    for at, shard in enumerate((first, second)):
        assert of(shard)
        assert {shard_of(document_id, 2) for document_id in of(shard)} == {at}, "not even as a passage beside another"
    assert not of(whole) & {each["origin"]["document_id"] for each in records(test)}


def test_a_change_in_one_shard_changes_no_byte_of_another(tmp_path: Path, library: Path) -> None:
    before, _ = made(tmp_path / "before", passages=library)
    at = shard_of("doc_3", 2)
    reword(library, "doc_3", "20 litres", "25 litres")
    previous = {"previous": before["None"].path, "previous_test": before["test"].path}
    after, told = made(tmp_path / "after", TWO.model_copy(update={"fresh": True}), passages=library, **previous)
    changed = [digest_of(before[part].path) != digest_of(after[part].path) for part in ("shard-1", "shard-2")]
    assert changed == [number == at for number in range(2)]
    assert [bool(number) for number in told["fresh"]] == changed
    new = records(after[f"shard-{at + 1}-new"])
    assert {each["origin"]["document_id"] for each in new} == {"doc_3"}
    assert f"shard-{2 - at}-new" not in after
    gone = TWO.model_copy(update={"without": ["doc_3"]})
    without, _ = made(tmp_path / "without", gone, passages=library)
    assert digest_of(without[f"shard-{2 - at}"].path) == digest_of(before[f"shard-{2 - at}"].path)
    assert "doc_3" not in str(records(without["None"]))


def test_without_shards_new_samples_are_told_apart_as_well(tmp_path: Path, library: Path) -> None:
    one = SampleRequest(test_share=0.2, fresh=True)
    before, told = made(tmp_path / "before", one, passages=library)
    assert (list(before), told["fresh"], told["shards"]) == (["None", "test"], [], [])
    previous = {"previous": before["None"].path, "previous_test": before["test"].path}
    same, told = made(tmp_path / "same", one, passages=library, **previous)
    assert (list(same), told["fresh"]) == (["None", "test"], [0])
    reword(library, "doc_3", "20 litres", "25 litres")
    after, told = made(tmp_path / "after", one, passages=library, **previous)
    assert told["fresh"] == [len(records(after["new"]))]
    assert {each["origin"]["document_id"] for each in records(after["new"])} == {"doc_3"}


def test_a_correction_is_learned_with_the_passage_that_it_stands_on(tmp_path: Path, library: Path) -> None:
    plain, _ = made(tmp_path / "plain", SampleRequest(test_share=0.2), passages=library)
    asked = next(each["origin"] for each in records(plain["None"]) if each["origin"]["document_id"] == "doc_3")
    given = said(
        tmp_path / "said",
        correction("doc_3", "Young olive trees need about 20 litres of water each week. [2]"),
        correction("doc_3", "The gardener is called Miriam and lives in Trieste."),
        correction("doc_nowhere", "It rains."),
        {**correction("doc_3", None, asked["question"]), "answer": f"{asked['answer']} [1]"},
    )
    request = SampleRequest(test_share=0.2, correction_repeats=3, fresh=True)
    previous = {"previous": plain["None"].path, "previous_test": plain["test"].path}
    saved, told = made(tmp_path / "run", request, passages=library, corrections=given, **previous)
    found = [each for each in records(saved["None"]) if each["origin"]["maker"] == "correction"]
    assert (told["makers"]["correction"], len(found)) == (3, 3)
    for each in found:
        assert each["origin"]["passage_id"] == "doc_3:0"
        number = each["origin"]["shown"].index("doc_3:0") + 1
        assert each["messages"][-1]["content"] == f"Young olive trees need about 20 litres of water each week. [{number}]"
        assert "How much water do olives need?" in each["messages"][1]["content"]
    assert {name: told["dropped"].get(name) for name in ("correction_unsupported", "correction_apart", "disagreed")} == {
        "correction_unsupported": 1,
        "correction_apart": 1,
        "disagreed": 1,
    }
    left = [each["origin"] for each in records(saved["None"]) if each["origin"]["question"] == asked["question"]]
    assert not [each for each in left if each["answer"] == asked["answer"]], "what a reader found wrong is not learned"
    assert {each["origin"]["maker"] for each in records(saved["new"])} <= {"correction", "refusal"}
    _, told = made(tmp_path / "closed", SampleRequest(without=["doc_3"]), passages=library, corrections=given)
    assert "correction" not in told["makers"], "nothing is learned of a document that not everybody may read"


def test_a_damaged_line_is_named(tmp_path: Path, library: Path) -> None:
    given = said(tmp_path / "said", {"question": "?"})
    with pytest.raises(InvalidData, match=r"said\.jsonl, line 1"):
        made(tmp_path / "run", SampleRequest(), passages=library, corrections=given)
