"""The job: two data sets that the text capability reads, split by document, each sample tied to its passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.capabilities.document.samples.conftest import write_library

from modelworks.capabilities.document.samples.making import make_samples
from modelworks.capabilities.document.samples.schemas import PromptForm, SampleRequest
from modelworks.capabilities.document.samples.support import share
from modelworks.capabilities.text.datasets import read_chat
from modelworks.contract.deployment import Answer
from modelworks.contract.errors import InvalidData, Unavailable
from modelworks.testing.fake_run import FakeRun, Saved


class Teacher:
    """Writes what it is told to for passages about some words, else nonsense."""

    name = "teacher"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def complete(self, messages: Any, **sampling: Any) -> Answer:
        text = str(messages[-1]["content"])
        self.asked.append(text)
        if "olive" in text:
            said = "Question: How much water do young olive trees need?\nAnswer: Young olive trees need 20 litres of water."
        elif "Backups" in text:
            said = "Question: How long are backups of the database kept?\nAnswer: They are kept for 90 days."
        else:
            said = "I would rather talk about the weather."
        return Answer(content=said, finish_reason="stop")


def made(tmp_path: Path, request: SampleRequest | None = None, **known: Any) -> tuple[FakeRun, dict[str, Any]]:
    data = tmp_path / "passages"
    if not data.exists():
        write_library(data)
    datasets = {"passages": data, **known.pop("datasets", {})}
    run = FakeRun(tmp_path / known.pop("name", "run"), datasets=datasets, **known)
    return run, make_samples(run, request or SampleRequest(test_share=0.34)).model_dump()


def records(saved: Saved) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(saved.path.glob("*.jsonl")) for line in file.read_text().splitlines()]


def test_two_data_sets_of_different_documents(tmp_path: Path) -> None:
    run, told = made(tmp_path)
    train, test = run.saved
    assert (train.kind, test.kind, test.metadata["part"]) == ("dataset", "dataset", "test")
    learnt, held = records(train), records(test)
    assert (len(learnt), len(held)) == (told["num_samples"], told["num_test_samples"])
    assert told["num_documents"] + told["num_test_documents"] == 6
    seen = {document_id for each in learnt for document_id in each["origin"]["documents"]}
    asked = {each["origin"]["document_id"] for each in held}
    assert seen
    assert asked
    assert not seen & asked, "nothing of a held-out document is learnt, not even as a passage beside another"
    assert all({name.partition(":")[0] for name in each["origin"]["shown"]} <= seen for each in learnt)
    for each in learnt:
        assert each["origin"]["digest"] == f"sha256:{each['origin']['document_id']}"
    assert [len(chat.messages) for chat in read_chat(train.path)] == [3] * len(learnt), "the text capability reads them"


def test_the_cited_passage_holds_the_answer_and_refusals_are_shown_none(tmp_path: Path) -> None:
    run, told = made(tmp_path, SampleRequest(test_share=0.34, refusal_share=0.4, passages=3))
    refusals = 0
    for each in [*records(run.saved[0]), *records(run.saved[1])]:
        question, answer = each["messages"][1]["content"], each["messages"][2]["content"]
        shown = dict(enumerate(question.partition("</passages>")[0].split("<passage number=")[1:], 1))
        origin = each["origin"]
        if origin["maker"] == "refusal":
            refusals += 1
            assert answer == "NOT IN THE DOCUMENTS"
            assert origin["passage_id"] not in origin["shown"]
            assert all(share(origin["answer"], text) < 0.5 for text in shown.values())
        else:
            number = int(answer[answer.rindex("[") + 1 : -1])
            assert origin["shown"][number - 1] == origin["passage_id"]
            assert answer == f"{origin['answer']} [{number}]"
            assert share(origin["answer"], shown[number]) == 1
    assert refusals == told["makers"]["refusal"] > 0


def test_the_same_seed_makes_the_same_files_and_documents_can_be_left_out(tmp_path: Path) -> None:
    first, _ = made(tmp_path, name="a")
    again, _ = made(tmp_path, name="b")
    assert [records(each) for each in first.saved] == [records(each) for each in again.saved]
    less, _ = made(tmp_path, SampleRequest(test_share=0.34, without=["doc_0"]), name="c")
    assert "doc_0" not in json.dumps([records(each) for each in less.saved])


def test_a_teachers_answer_is_taken_where_its_passage_says_so_and_not_asked_for_twice(tmp_path: Path) -> None:
    request = SampleRequest(test_share=0.34)
    teacher = Teacher()
    run, told = made(tmp_path, request, deployments={"teacher": teacher}, name="a")
    assert told["makers"]["teacher"] == 1
    assert told["dropped"]["unsupported"] == 1, "90 days are not in the passage"
    assert told["dropped"]["malformed"] == len(teacher.asked) - 2
    (taken,) = [each for saved in run.saved for each in records(saved) if each["origin"]["maker"] == "teacher"]
    assert taken["messages"][1]["content"].endswith("Question: How much water do young olive trees need?")
    further = Teacher()
    before = {"previous": run.saved[0].path, "previous_test": run.saved[1].path}
    _, again = made(tmp_path, request, deployments={"teacher": further}, datasets=before, name="b")
    assert again["makers"]["teacher"] == 1
    assert not any("olive" in text for text in further.asked)


def test_what_a_teacher_wrote_outlives_a_crash(tmp_path: Path) -> None:
    class Dying(Teacher):
        def complete(self, messages: Any, **sampling: Any) -> Answer:
            if len(self.asked) >= 3:
                raise Unavailable("It is gone.")
            return super().complete(messages, **sampling)

    first, second = Dying(), Teacher()
    run = FakeRun(tmp_path / "run", datasets={"passages": write_library(tmp_path / "passages")}, deployments={"teacher": first})
    with pytest.raises(Unavailable, match="gone"):
        make_samples(run, SampleRequest(test_share=0.34, concurrency=1))
    _, told = made(tmp_path, deployments={"teacher": second}, resume_from=run.checkpoints[-1].path, name="again")
    assert told["makers"]["teacher"] == 1
    assert not set(first.asked[:3]) & set(second.asked)


def test_too_little_to_learn_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="1 documents that may be learned from"):
        made(tmp_path, SampleRequest(without=[f"doc_{number}" for number in range(1, 6)]))
    with pytest.raises(InvalidData, match="it takes 5"):
        made(tmp_path, SampleRequest(makers=["table"]), name="b")


def test_both_languages_of_the_form_are_needed() -> None:
    with pytest.raises(ValueError, match="'zh'"):
        PromptForm(languages={"en": "English"})
