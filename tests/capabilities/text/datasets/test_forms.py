import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.capabilities.text.datasets import (
    ChatSample,
    Fault,
    PreferenceSample,
    PromptSample,
    TextSample,
    read_chat,
    read_preferences,
    read_prompts,
)
from modelworks.capabilities.text.datasets.files import Record
from modelworks.capabilities.text.datasets.forms import read_samples, understand
from modelworks.capabilities.text.datasets.samples import record_of
from modelworks.contract.errors import InvalidData

USER = {"role": "user", "content": "What is 2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def read(value: Any) -> Any:
    sample, faults = understand(Record(value, "f.jsonl", 3))
    assert not faults, faults
    assert sample is not None
    return sample


def codes(value: Any) -> list[tuple[str, str | None]]:
    _, faults = understand(Record(value, "f.jsonl", 3))
    assert all((fault.file, fault.line) == ("f.jsonl", 3) and fault.hint for fault in faults)
    return [(fault.code, fault.field) for fault in faults]


def test_openai_chat_with_tools_and_weights() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "4"}
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0}
    sample = read({"messages": [{"role": "system", "content": "Be brief."}, USER, calling, result, ANSWER], "tools": [TOOL]})
    assert isinstance(sample, ChatSample)
    assert sample.weights == [0, 0, 0, 0, 1]
    assert sample.messages[2] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert sample.messages[3] == result
    assert sample.tools == [TOOL]
    assert (sample.source, sample.line) == ("f.jsonl", 3)


def test_a_prompt_with_what_its_answers_are_judged_by() -> None:
    record = {"messages": [USER], "reference_answer": "4", "steps": [{"n": 1}]}
    sample = read(record)
    assert isinstance(sample, PromptSample)
    assert (sample.messages, sample.item, record_of(sample)) == ([USER], record, record)
    # Without anything to judge by it is a conversation that lacks its answer, and with an answer it is one.
    assert codes({"messages": [USER], "id": 7})[0] == ("no_answer", "messages")
    assert isinstance(read({"messages": [USER, ANSWER], "reference_answer": "4"}), ChatSample)
    assert codes({"messages": [{"role": "system", "content": "x"}], "want": 1}) == [("role_order", "messages")]
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert codes({"messages": [USER], "want": deep}) == [("too_deep", None)]


def test_prompts_and_conversations_are_not_mixed(tmp_path: Path) -> None:
    lines = [{"messages": [USER], "reference_answer": "4"}, {"messages": [USER, ANSWER]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    with pytest.raises(InvalidData, match="line 2: a sample of kind 'chat' among prompts"):
        list(read_prompts(tmp_path))
    with pytest.raises(InvalidData, match="line 1: a sample of kind 'prompt' among conversations"):
        list(read_chat(tmp_path))
    # A grader that looks at the answer alone needs nothing beside the messages.
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [USER]}), "utf-8")
    assert [sample.item for sample in read_prompts(tmp_path)] == [{"messages": [USER]}]


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}]
    assert read({"messages": [{"role": "user", "content": parts}, ANSWER]}).messages[0] == USER


def test_openai_preference() -> None:
    sample = read(
        {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [{**ANSWER, "content": "5"}]}
    )
    assert isinstance(sample, PreferenceSample)
    assert (sample.messages, sample.chosen, sample.rejected) == ([USER], [ANSWER], [{**ANSWER, "content": "5"}])


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "What is 2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "5"}]},
        {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "5"}]},
        {"instruction": "What is 2+2?", "input": "", "chosen": "4", "rejected": "5"},
        {
            "conversations": [{"from": "human", "value": "What is 2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
    ],
    ids=["strings", "messages", "whole conversations", "alpaca", "sharegpt"],
)
def test_every_form_of_a_pair_is_the_same_sample(value: dict[str, Any]) -> None:
    sample = read(value)
    assert (sample.messages, sample.chosen) == ([USER], [ANSWER])
    assert sample.rejected == [{"role": "assistant", "content": "5"}]


def test_sharegpt_calls_and_observations_get_matching_ids() -> None:
    sample = read(
        {
            "conversations": [
                {"from": "human", "value": "Add."},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                {"from": "observation", "value": "4"},
                {"from": "gpt", "value": "4"},
            ],
            "tools": json.dumps([{"name": "add", "parameters": {"type": "object"}}]),
            "system": "Be brief.",
        }
    )
    assert [message["role"] for message in sample.messages] == ["system", "user", "assistant", "tool", "assistant"]
    call = sample.messages[2]["tool_calls"][0]
    assert call["function"] == {"name": "add", "arguments": '{"a": 2}'}
    assert sample.messages[3]["tool_call_id"] == call["id"]
    assert sample.tools == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    assert sample.weights == [0, 0, 1, 0, 1]


def test_alpaca_with_history_learns_the_last_answer_only() -> None:
    sample = read(
        {"instruction": "Translate.", "input": '{"a": 1}', "output": "x", "history": [["hi", "hello"]], "system": "S"}
    )
    assert [message["content"] for message in sample.messages] == ["S", "hi", "hello", 'Translate.\n{"a": 1}', "x"]
    assert sample.weights == [0, 0, 0, 0, 1]


def test_prompt_and_completion_and_text() -> None:
    assert read({"prompt": "What is 2+2?", "completion": "4"}).messages == [USER, ANSWER]
    assert read({"text": "Once."}) == TextSample("Once.", "f.jsonl", 3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1], ("wrong_type", None)),
        ({"sentence": "x"}, ("unknown_form", None)),
        ({"messages": []}, ("missing_field", "messages")),
        ({"messages": [USER, "x", ANSWER]}, ("wrong_type", "messages.1")),
        ({"messages": [{"role": "wizard", "content": "x"}, ANSWER]}, ("unknown_role", "messages.0.role")),
        ({"messages": [{"content": "x"}, ANSWER]}, ("unknown_role", "messages.0.role")),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, ("empty_assistant", "messages.1.content")),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, ("empty_assistant", "messages.1.content")),
        ({"messages": [USER, {"role": "assistant", "content": 4}]}, ("wrong_type", "messages.1.content")),
        ({"messages": [USER, ANSWER, {"role": "system", "content": "x"}, ANSWER]}, ("role_order", "messages.2")),
        ({"messages": [ANSWER]}, ("role_order", "messages.0")),
        ({"messages": [USER, USER, ANSWER]}, ("role_order", "messages.1")),
        ({"messages": [USER, ANSWER, USER]}, ("no_answer", "messages")),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, ("nothing_to_learn", "messages")),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, ("wrong_weight", "messages.1.weight")),
        ({"messages": [{**USER, "weight": 1}, ANSWER]}, ("wrong_weight", "messages.0.weight")),
        (
            {"messages": [USER, {"role": "tool", "tool_call_id": "c9", "content": "4"}, ANSWER]},
            ("tool_result_without_call", "messages.1.tool_call_id"),
        ),
        ({"messages": [USER, ANSWER], "tools": "[{"}, ("tools_not_json", "tools")),
        ({"messages": [USER, ANSWER], "tools": [{"name": 3}]}, ("tools_broken", "tools.0")),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "add", "arguments": "{a"}}]},
                ]
            },
            ("tool_arguments_not_json", "messages.1.tool_calls.0.function.arguments"),
        ),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "add", "arguments": "[1]"}}]},
                ]
            },
            ("tool_arguments_not_json", "messages.1.tool_calls.0.function.arguments"),
        ),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}], "tools": []}, ("undeclared_tool", "tools")),
        ({"messages": [USER, {"role": "assistant", "content": "\ud800"}]}, ("half_surrogate", "messages.1.content")),
        ({"instruction": "x"}, ("missing_field", "output")),
        ({"instruction": "x", "output": ""}, ("empty_assistant", "output")),
        ({"instruction": "x", "output": "  "}, ("empty_assistant", "output")),
        ({"prompt": "x", "chosen": "4", "rejected": "4"}, ("same_answers", "rejected")),
        ({"prompt": "x", "chosen": "4"}, ("missing_field", "rejected")),
        ({"conversations": [{"from": "elf", "value": "x"}]}, ("unknown_role", "conversations.0.from")),
        ({"preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}, ("missing_field", "input")),
        ({"text": 3}, ("wrong_type", "text")),
    ],
    ids=lambda value: value[0] + ":" + str(value[1]) if isinstance(value, tuple) else "",
)
def test_a_fault_names_its_field(value: Any, expected: tuple[str, str | None]) -> None:
    assert expected in codes(value)


def test_a_message_of_ten_million_characters_is_refused() -> None:
    assert codes({"messages": [{"role": "user", "content": "x" * 10_000_001}, ANSWER]}) == [
        ("message_too_long", "messages.0.content")
    ]


def test_all_faults_of_a_record_are_reported() -> None:
    found = codes({"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": ""}], "tools": "["})
    assert [code for code, _ in found] == ["unknown_role", "empty_assistant", "tools_not_json"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "messages",
        "tools",
        "input",
        "preferred_output",
        "chosen",
        "rejected",
        "prompt",
        "conversations",
        "instruction",
        "output",
        "text",
    ]
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "user", "assistant", "tool", "x"]) | JSON,
        "from": st.sampled_from(["human", "gpt", "function_call", "observation"]) | JSON,
        "value": JSON,
        "content": JSON,
        "tool_calls": JSON | st.lists(st.fixed_dictionaries({"id": JSON, "function": JSON}), max_size=2),
        "tool_call_id": JSON,
        "weight": JSON,
    },
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(FIELDS, JSON | st.lists(MESSAGE, max_size=4) | MESSAGE, max_size=4) | JSON)
def test_no_record_breaks_the_reader_and_every_sample_reads_back_as_itself(value: Any) -> None:
    sample, faults = understand(Record(value, "f", 1))
    assert (sample is None) == any(fault.severity == "error" for fault in faults)
    if sample is not None:
        again, _ = understand(Record(json.loads(json.dumps(record_of(sample))), "f", 1))
        assert again == sample


_SAID = st.text(min_size=1).filter(str.strip)
TALK = st.lists(st.tuples(_SAID, _SAID, st.booleans()), min_size=1, max_size=3)


@settings(max_examples=80, deadline=None)
@given(TALK)
def test_every_proper_conversation_is_read(talk: list[tuple[str, str, bool]]) -> None:
    messages = []
    for question, answer, learnt in [*talk, ("q", "a", True)]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "weight": int(learnt)}]
    sample = read({"messages": messages})
    assert [message["content"] for message in sample.messages] == [message["content"] for message in messages]
    assert sample.weights == [float(message.get("weight", 0)) for message in messages]


def test_the_readers_stop_at_the_first_error_and_name_its_place(tmp_path: Path) -> None:
    good = json.dumps({"messages": [USER, ANSWER]})
    (tmp_path / "a.jsonl").write_text(f"{good}\n{good[:-3]}\n{good}\n")
    samples = read_chat(tmp_path)
    assert next(samples).line == 1
    with pytest.raises(InvalidData, match=r"a\.jsonl, line 2: Not JSON"):
        next(samples)


def test_the_readers_want_one_kind(tmp_path: Path) -> None:
    pair = {"prompt": "x", "chosen": "a", "rejected": "b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(pair))
    assert [sample.chosen[0]["content"] for sample in read_preferences(tmp_path)] == ["a"]
    with pytest.raises(InvalidData, match="kind 'preference'"):
        list(read_chat(tmp_path))
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(InvalidData, match="The data set holds no conversations"):
        list(read_chat(tmp_path))


@pytest.mark.parametrize(
    ("path", "num_samples", "places"),
    [
        ("07-text/instruct/alpaca_en_demo.json.gz", 999, set()),
        ("07-text/instruct/dpo_zh_demo.json.gz", 300, set()),
        ("03-toolcall/glaive_toolcall_en_demo.json", 300, set()),
        ("03-toolcall/glaive_toolcall_zh_demo.json", 298, {"tool_result_without_call"}),
        ("07-text/pretrain/c4_demo.jsonl.gz", 300, set()),
    ],
)
def test_published_data_sets_are_read(shared_data: Path, path: str, num_samples: int, places: set[str]) -> None:
    found = list(read_samples(shared_data / path))
    assert {item.code for item in found if isinstance(item, Fault)} == places
    assert sum(not isinstance(item, Fault) for item in found) == num_samples


def test_packed_files_are_read_and_broken_packing_is_a_fault(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps({"text": "Once. " * 50}).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    (tmp_path / "b.jsonl.gz").write_bytes(packed[:-12])
    (tmp_path / "c.jsonl.gz").write_bytes(b"not packed at all")
    found = list(read_samples(tmp_path))
    assert [getattr(item, "code", "sample") for item in found] == ["sample", "bad_archive", "bad_archive"]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ('{"a": "\\ud800"}', "half_surrogate"),
        ('{"a": ' + "[" * 300 + "]" * 300 + "}", "too_deep"),
    ],
    ids=["half a pair", "deep"],
)
def test_tools_that_could_not_be_written_again_are_faults(tmp_path: Path, parameters: str, code: str) -> None:
    talk = json.dumps([USER, ANSWER])
    line = f'{{"messages": {talk}, "tools": [{{"name": "f", "parameters": {parameters}}}]}}'
    (tmp_path / "a.jsonl").write_text(line)
    assert [getattr(item, "code", "sample") for item in read_samples(tmp_path)] == [code]


def test_types_that_only_tables_know_are_faults() -> None:
    parameters = {"a": b"bytes"}
    assert codes({"messages": [USER, ANSWER], "tools": [{"name": "f", "parameters": parameters}]}) == [("wrong_type", None)]
    parameters = {"a": float("nan")}
    assert codes({"messages": [USER, ANSWER], "tools": [{"name": "f", "parameters": parameters}]}) == [("wrong_type", None)]


def test_arguments_that_are_an_object_are_taken_with_a_warning_unless_they_hold_what_json_does_not() -> None:
    def calling(arguments: Any) -> dict[str, Any]:
        call = {"id": "c1", "function": {"name": "add", "arguments": arguments}}
        return {"messages": [USER, {"role": "assistant", "tool_calls": [call]}], "tools": [TOOL]}

    field = "messages.1.tool_calls.0.function.arguments"
    sample, faults = understand(Record(calling({"a": 2}), "f", 1))
    assert isinstance(sample, ChatSample)
    assert sample.messages[1]["tool_calls"] == [CALL]
    assert [(fault.code, fault.severity) for fault in faults] == [("tool_arguments_object", "warning")]
    assert ("tool_arguments_not_json", field) in codes(calling({"a": b"bytes"}))
