"""Calls of functions, read from answers and compared by the leaderboard's rule, piece by piece and on its own data."""

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelworks.capabilities.text.evaluation.calls import Call, calls_in, example_of, fault_of
from modelworks.capabilities.text.evaluation.tools import read_requests
from modelworks.contract.errors import InvalidData

ADD = Call("math.add", {"a": 1, "b": [2, 3]})


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "math.add", "arguments": {"a": 1, "b": [2, 3]}}\n</tool_call>',
        'I will add.\n<tool_call>{"name": "math.add", "arguments": {"a": 1, "b": [2, 3]}}',
        '{"name": "math.add", "parameters": {"a": 1, "b": [2, 3]}}',
        '[{"type": "function", "function": {"name": "math.add", "arguments": "{\\"a\\": 1, \\"b\\": [2, 3]}"}}]',
        '```json\n[{"name": "math.add", "arguments": {"a": 1, "b": [2, 3]}}]\n```',
        "math.add(a=1, b=[2, 3])",
        " [math.add(a=1, b=[2, 3])]\n",
    ],
)
def test_a_call_is_read_in_every_form_that_models_write(text: str) -> None:
    assert calls_in(text) == [ADD]


def test_several_calls_and_variables() -> None:
    assert calls_in("[f(x=1), g(y='two', z=today)]") == [Call("f", {"x": 1}), Call("g", {"y": "two", "z": "today"})]
    two = '<tool_call>{"name": "f"}</tool_call> and <tool_call>{"name": "g", "arguments": {}}</tool_call>'
    assert calls_in(two) == [Call("f"), Call("g")]


@pytest.mark.parametrize(
    "text",
    ["", "No function fits.", "42", "[]", '"f"', "f(1)", "f(**x)", "(lambda: 1)()", "x = f(a=1)", '{"name": 3}', "[f(x=1), 2]"],
)
def test_everything_else_is_no_call(text: str) -> None:
    assert calls_in(text) == []


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "f(x=" + "(" * 5_000, "<tool_call>" * 3_000, "\0", "f(x=" + "9" * 5_000 + ")", "x" * 200_000]
)
def test_answers_that_are_meant_to_break_the_reader_are_no_calls(text: str) -> None:
    assert calls_in(text) == []


def function(**properties: Any) -> list[dict[str, Any]]:
    return [{"name": "f", "parameters": {"type": "dict", "properties": properties, "required": ["x"]}}]


@pytest.mark.parametrize(
    ("detail", "right", "good", "bad"),
    [
        ({"type": "integer"}, [5], [5], [6, 5.0, "5", True]),
        ({"type": "float"}, [5.0, 5], [5, 5.0], [5.5, "5.0", True]),
        ({"type": "boolean"}, [True], [True], [1, "True", False]),
        ({"type": "string"}, ["New York", "NYC"], ["new york", "New-York", "N.Y.C."], ["York", 5]),
        ({"type": "array", "items": {"type": "string"}}, [["a b", "c"]], [["AB", "c"]], [["c", "a b"], ["a b"], "a b"]),
        ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [[1, 2]], [[1.0, 2], ["1", "2"], [2, 1]]),
        ({"type": "tuple", "items": {"type": "float"}}, [[1.5, 2.5]], [[1.5, 2.5], (1.5, 2.5)], [[1.5]]),
        ({"type": "dict"}, [{"a": [1], "b": ["x y", ""]}], [{"a": 1}, {"a": 1, "b": "XY"}], [{"a": 2}, {"b": "xy"}]),
        ({"type": "dict"}, [{"a": [1]}], [{"a": 1}], [{"a": 1, "c": 1}, {}, []]),
        ({"type": "array", "items": {"type": "dict"}}, [[{"a": [1]}, {"a": [2]}]], [[{"a": 1}, {"a": 2}]], [[{"a": 1}]]),
        ({"type": "array", "items": {"type": "dict"}}, [[{"a": [1]}]], [[{"a": 1}]], [[{"a": 2}], [], [1]]),
        ({"type": "integer"}, ["count"], ["count"], [3]),  # the truth is a variable
    ],
)  # fmt: skip
def test_values_are_right_by_type_and_by_what_may_differ(
    detail: Any, right: list[Any], good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        assert fault_of([Call("f", {"x": value})], [{"f": {"x": right}}], function(x=detail)) is None, value
    for value in bad:
        assert fault_of([Call("f", {"x": value})], [{"f": {"x": right}}], function(x=detail)) is not None, value


def test_what_may_be_left_out_and_what_not() -> None:
    functions = function(x={"type": "integer"}, y={"type": "integer"})
    truth = [{"f": {"x": [1], "y": [2, ""]}}]
    assert fault_of([Call("f", {"x": 1})], truth, functions) is None
    assert fault_of([Call("f", {"x": 1, "y": 2})], truth, functions) is None
    assert fault_of([Call("f", {"x": 1, "y": 3})], truth, functions) == "y is 3"
    assert fault_of([Call("f", {"y": 2})], truth, functions) == "x is missing"
    assert fault_of([Call("f", {"x": 1, "z": 1})], truth, functions) == "z is not asked for"
    assert fault_of([Call("f", {"x": 1})], [{"f": {"x": [1], "y": [2]}}], functions) == "y is missing"
    assert fault_of([Call("g", {"x": 1})], truth, functions) == "g is called instead of f"
    assert fault_of([], truth, functions) == "0 calls instead of 1"
    assert fault_of([], [], functions) is None
    assert fault_of([Call("f", {"x": 1})], [], functions) == "1 calls instead of 0"


def test_the_order_of_calls_does_not_matter() -> None:
    functions = function(x={"type": "integer"})
    truths = [{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}]
    one, two = Call("f", {"x": 1}), Call("f", {"x": 2})
    assert fault_of([one, two], truths, functions) is None
    assert fault_of([two, one], truths, functions) is None
    assert fault_of([two, two], truths, functions) is not None
    assert fault_of([one, one], truths, functions) is None


CATEGORIES = {"simple_python": 400, "multiple": 200, "parallel": 200, "parallel_multiple": 200, "irrelevance": 240}


@pytest.fixture(scope="module")
def leaderboard() -> Path:
    shared = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[5] / "shared")
    folder = shared / "data" / "03-toolcall" / "bfcl_v4"
    if not folder.is_dir():
        pytest.skip("the shared data bfcl_v4 are not on this machine (MODELWORKS_SHARED names their folder)")
    return folder


def chosen(leaderboard: Path, target: Path, category: str) -> Path:
    """A data set of one category, with its answers where they belong."""
    name = f"BFCL_v4_{category}.json"
    (target / "possible_answer").mkdir(parents=True)
    (target / name).write_bytes((leaderboard / name).read_bytes())
    if (answers := leaderboard / "possible_answer" / name).is_file():
        (target / "possible_answer" / name).write_bytes(answers.read_bytes())
    return target


def spoilt(calls: list[Call]) -> Iterator[list[Call]]:
    """Calls that are wrong in one way each."""
    yield []
    yield [*calls, calls[0]]
    yield [Call(calls[0].name + "_", calls[0].arguments), *calls[1:]]
    yield [Call(calls[0].name, {**calls[0].arguments, "no_such": 1}), *calls[1:]]
    for parameter, value in calls[0].arguments.items():
        changed = copy.deepcopy(calls[0].arguments)
        changed[parameter] = "no such value" if not isinstance(value, str) else 12345
        yield [Call(calls[0].name, changed), *calls[1:]]


@pytest.mark.parametrize("category", CATEGORIES)
def test_right_answers_of_the_leaderboard_are_right_and_spoilt_ones_wrong(
    leaderboard: Path, tmp_path: Path, category: str
) -> None:
    requests = list(read_requests(chosen(leaderboard, tmp_path, category)))
    assert len(requests) == CATEGORIES[category]
    for request in requests:
        right = [example_of(truth, request.functions) for truth in request.truths]
        written = json.dumps([{"name": call.name, "arguments": call.arguments} for call in right]) if right else "None fits."
        assert calls_in(written) == right
        assert fault_of(right, request.truths, request.functions) is None, request.name
        assert fault_of(right[::-1], request.truths, request.functions) is None, request.name
        if not right:
            assert fault_of([Call(request.functions[0]["name"])], request.truths, request.functions), request.name
            continue
        for wrong in spoilt(right):
            assert fault_of(wrong, request.truths, request.functions), (request.name, wrong)


@pytest.mark.parametrize("category", ["simple_java", "simple_javascript", "multi_turn_base"])
def test_other_categories_are_refused_with_a_reason(leaderboard: Path, tmp_path: Path, category: str) -> None:
    with pytest.raises(InvalidData, match=r"not measured|is not one of Python"):
        list(read_requests(chosen(leaderboard, tmp_path, category)))


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"question": [], "function": []}, "question"),
        ({"question": [[{"role": "user"}]], "function": []}, "no text"),
        ({"question": [[{"role": "user", "content": "q"}]], "function": [{}]}, "function"),
        ({"question": [[{"role": "user", "content": "q"}]], "function": [{"name": "f"}]}, "ground_truth"),
        ({"question": [[{"role": "user", "content": "q"}]], "function": [{"name": "f"}], "ground_truth": [{}]}, "ground_truth"),
    ],
)
def test_a_malformed_record_is_named_with_its_line(tmp_path: Path, record: dict[str, Any], fault: str) -> None:
    good = {"question": [[{"role": "user", "content": "q"}]], "function": [{"name": "f"}], "ground_truth": []}
    (tmp_path / "calls.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(InvalidData, match=r"calls\.jsonl:2") as refused:
        list(read_requests(tmp_path))
    assert fault in refused.value.message
