"""A deployed model writes the answers of a data set."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelworks.capabilities.text.datasets import read_chat
from modelworks.capabilities.text.label import label, read_prompts
from modelworks.capabilities.text.schemas import LabelParams
from modelworks.contract.deployment import Answer
from modelworks.contract.errors import Cancelled, ContextLengthExceeded, InvalidData, PermissionDenied, Unavailable
from modelworks.testing.fake_run import FakeRun

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


class Oracle:
    """Says what it was asked in capitals, and remembers what that was."""

    name = "oracle"

    def __init__(self, answer: Callable[[str], Answer] | None = None) -> None:
        self._answer = answer or (lambda question: Answer(content=question.upper(), finish_reason="stop", completion_tokens=2))
        self._lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []

    def complete(self, messages: Any, *, tools: Any = None, **sampling: Any) -> Answer:
        with self._lock:
            self.asked.append({"messages": list(messages), "tools": tools, **sampling})
        return self._answer(str(messages[-1]["content"]))

    @property
    def questions(self) -> list[str]:
        return sorted(each["messages"][-1]["content"] for each in self.asked)


def write(folder: Path, *records: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def asking(*texts: str) -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": text}]} for text in texts]


def run_of(tmp_path: Path, oracle: Oracle, *records: Any, **known: Any) -> FakeRun:
    data = write(tmp_path / "data", *records)
    return FakeRun(tmp_path / "run", datasets={"data": data}, deployments={"teacher": oracle}, **known)


def lines_of(run: FakeRun) -> list[dict[str, Any]]:
    (saved,) = run.saved
    return [json.loads(line) for line in (saved.path / "labelled.jsonl").read_text().splitlines()]


def test_every_form_is_a_question(tmp_path: Path) -> None:
    user = {"role": "user", "content": "one"}
    folder = write(
        tmp_path / "data",
        {"messages": [user]},
        {"messages": [user, {"role": "assistant", "content": "old"}]},
        {"messages": [user, {"role": "assistant", "content": "old"}, {"role": "user", "content": "two"}]},
        {"prompt": "three"},
        {"instruction": "four", "output": "old"},
        {"instruction": "five"},
        {"text": "six"},
        {"prompt": "seven", "chosen": "good", "rejected": "bad"},
    )
    assert [prompt.messages[-1]["content"] for prompt in read_prompts(folder)] == [
        "one", "one", "two", "three", "four", "five", "six", "seven",
    ]  # fmt: skip
    assert len(list(read_prompts(folder))[2].messages) == 3


def test_a_broken_record_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    oracle = Oracle()
    run = run_of(tmp_path, oracle, *asking("one"), {"messages": [{"role": "robot", "content": "x"}]})
    with pytest.raises(InvalidData, match=r'samples.jsonl, line 2, field "messages.0.role"'):
        label(run, LabelParams())
    assert oracle.asked == []


def test_only_the_teachers_answer_is_learnt_and_the_order_stays(tmp_path: Path) -> None:
    earlier = [{"role": "user", "content": "zero"}, {"role": "assistant", "content": "nought"}]
    oracle = Oracle()
    run = run_of(tmp_path, oracle, {"messages": [*earlier, *asking("b")[0]["messages"]]}, *asking("a", "c", "d"))
    counts = label(run, LabelParams(concurrency=3))
    assert counts == {"samples": 4, "labelled": 4, "prompt_tokens": 0, "completion_tokens": 8}
    assert [line["messages"][-1]["content"] for line in lines_of(run)] == ["B", "A", "C", "D"]
    first = next(iter(read_chat(run.saved[0].path)))
    assert first.weights == [0, 0, 0, 1]
    assert run.saved[0].kind == "dataset"
    assert run.saved[0].metadata["labelled_by"] == "oracle"


def test_a_prompt_for_the_teacher_alone_is_not_kept(tmp_path: Path) -> None:
    oracle = Oracle()
    own = {"role": "system", "content": "mine"}
    run = run_of(tmp_path, oracle, *asking("a"), {"messages": [own, *asking("b")[0]["messages"]]})
    label(run, LabelParams(system_prompt="Be short.", temperature=0.5, top_p=0.9, max_tokens=7, concurrency=1))
    assert [each["messages"][0] for each in oracle.asked] == [{"role": "system", "content": "Be short."}] * 2
    assert [len(each["messages"]) for each in oracle.asked] == [2, 2]
    assert [(each["temperature"], each["top_p"], each["max_tokens"], each["seed"]) for each in oracle.asked] == [
        (0.5, 0.9, 7, 0),
        (0.5, 0.9, 7, 1),
    ]
    assert [line["messages"][0] for line in lines_of(run)] == [{"role": "user", "content": "a"}, own]


def test_calls_of_tools_are_kept(tmp_path: Path) -> None:
    oracle = Oracle(lambda _: Answer(tool_calls=[CALL], finish_reason="tool_calls"))
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    run = run_of(tmp_path, oracle, {**asking("a")[0], "tools": [tool]})
    label(run, LabelParams())
    assert oracle.asked[0]["tools"] == [tool]
    (sample,) = read_chat(run.saved[0].path)
    assert sample.messages[-1]["tool_calls"] == [CALL]


def odd(question: str) -> Answer:
    if question == "long":
        raise ContextLengthExceeded("The prompt has 900 tokens, more than 256.")
    if question == "cut":
        return Answer(content="half", finish_reason="length")
    return Answer(content="" if question == "empty" else "yes", finish_reason="stop")


def test_what_has_no_usable_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    run = run_of(tmp_path, Oracle(odd), *asking("long", "cut", "empty", "fine"))
    counts = label(run, LabelParams())
    assert {name: counts[name] for name in ("empty", "labelled", "refused", "truncated")} == dict.fromkeys(
        ("empty", "labelled", "refused", "truncated"), 1
    )
    assert [line["messages"][0]["content"] for line in lines_of(run)] == ["fine"]


def test_answers_that_were_cut_off_are_kept_where_that_is_wished(tmp_path: Path) -> None:
    run = run_of(tmp_path, Oracle(odd), *asking("cut"))
    label(run, LabelParams(keep_truncated=True))
    assert lines_of(run)[0]["messages"][-1]["content"] == "half"


def test_nothing_usable_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"1 refused \(the first: samples.jsonl, line 1: The prompt has 900 tokens"):
        label(run_of(tmp_path, Oracle(odd), *asking("long")), LabelParams())


def test_a_forbidden_deployment_is_no_refused_sample(tmp_path: Path) -> None:
    def forbid(_question: str) -> Answer:
        raise PermissionDenied("The API key may not use the model.")

    with pytest.raises(PermissionDenied):
        label(run_of(tmp_path, Oracle(forbid), *asking("a")), LabelParams())


def failing_at(word: str, error: Exception) -> Callable[[str], Answer]:
    def answer(question: str) -> Answer:
        if question == word:
            raise error
        return Answer(content=question.upper(), finish_reason="stop")

    return answer


@pytest.mark.parametrize("error", [Unavailable("gone"), Cancelled("stop")], ids=["away", "cancelled"])
def test_a_later_attempt_asks_only_the_rest(tmp_path: Path, error: Exception) -> None:
    words = ["a", "b", "c", "d"]
    first = run_of(tmp_path, Oracle(failing_at("c", error)), *asking(*words))
    with pytest.raises(type(error)):
        label(first, LabelParams(concurrency=1))
    second_oracle = Oracle()
    second = run_of(tmp_path, second_oracle, *asking(*words), resume_from=first.checkpoints[-1].path)
    label(second, LabelParams(concurrency=2))
    assert second_oracle.questions == ["c", "d"]
    assert [line["messages"][-1]["content"] for line in lines_of(second)] == ["A", "B", "C", "D"]


def test_no_more_questions_than_wished_are_open_at_a_time(tmp_path: Path) -> None:
    gate, most = threading.Semaphore(3), []

    def answer(question: str) -> Answer:
        most.append(gate.acquire(blocking=False))
        threading.Event().wait(0.02)
        gate.release()
        return Answer(content=question, finish_reason="stop")

    label(run_of(tmp_path, Oracle(answer), *asking(*map(str, range(12)))), LabelParams(concurrency=3))
    assert most == [True] * 12


def test_max_samples_asks_the_first(tmp_path: Path) -> None:
    oracle = Oracle()
    label(run_of(tmp_path, oracle, *asking("a", "b", "c")), LabelParams(max_samples=2))
    assert oracle.questions == ["a", "b"]
