"""Which form a record has, and how it becomes a sample: OpenAI's, ShareGPT's, Alpaca's, pairs of answers, plain text.

A record says by its fields what it is, so files of different forms may lie in one data set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.datasets.conversation import (
    Complaints,
    check_calls,
    check_order,
    checked_string,
    read_arguments,
    read_messages,
    read_tools,
    read_weights,
)
from modelworks.capabilities.text.datasets.files import Record, list_files, read_records
from modelworks.capabilities.text.datasets.samples import (
    ChatSample,
    Fault,
    Message,
    PreferenceSample,
    PromptSample,
    Sample,
    TextSample,
    record_of,
)

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "function_call": "function_call",
    "tool_call": "function_call",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_MAY_BE_PACKED = (
    "messages",
    "conversations",
    "input",
    "preferred_output",
    "non_preferred_output",
    "prompt",
    "completion",
    "chosen",
    "rejected",
)
#: Schemas are shallow; what is deeper is meant to break whoever walks through it.
_MAX_DEPTH = 100
_TURN_FIELDS = frozenset({"role", "from", "messages"})
#: What a conversation's record has beside its messages; a prompt's has more: what its answers are judged by.
_CHAT_FIELDS = frozenset({"messages", "tools", "functions", "parallel_tool_calls", "id", "source"})
_FORMS_HINT = (
    'Known forms: {"messages": […]}, {"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}, '
    '{"prompt": …, "chosen": …, "rejected": …}, {"conversations": […]}, {"instruction": …, "output": …}, '
    '{"prompt": …, "completion": …}, {"text": …}, and for graders {"messages": […], "reference_answer": …}.'
)


def read_samples(folder: Path, *, prompts: bool = False) -> Iterator[Sample | Fault]:
    """Every sample and every fault of a data set, in the order of its files; `prompts` as of `understand`."""
    for file, name in list_files(folder):
        for record in read_records(file, name):
            if isinstance(record, Fault):
                yield record
            else:
                sample, faults = understand(record, prompts=prompts)
                yield from faults
                if sample is not None:
                    yield sample


def understand(record: Record, *, prompts: bool = False) -> tuple[Sample | None, list[Fault]]:
    """The sample that a record stands for (None where it has an error), and what is wrong with it.

    Messages that end without an answer are a prompt where the record says more (what answers are judged by), or where `prompts`
    are wanted; else they are a conversation that lacks its answer.
    """
    complaints = Complaints(record.source, record.line)
    value = record.value
    if not isinstance(value, dict):
        complaints.add(None, "wrong_type", "The record is not an object.", _FORMS_HINT)
        return None, complaints.faults
    reader = _reader_of(value)
    if reader is None:
        fields = ", ".join(sorted(map(str, value))[:8]) or "none"
        complaints.add(None, "unknown_form", f"The fields ({fields[:200]}) fit no known form.", _FORMS_HINT)
        return None, complaints.faults
    value = _unpacked(value)
    if reader is _openai_chat and _ends_open(value) and (prompts or set(value) - _CHAT_FIELDS):
        reader = _prompt
    sample = reader(value, complaints)
    if complaints.is_usable:
        _check_writable(sample, complaints)
    return (sample if complaints.is_usable else None), complaints.faults


def _check_writable(sample: Sample, complaints: Complaints) -> None:
    """A sample can be written as JSON again: tables hold more types than that, and tools are taken as they are."""
    tools = None if isinstance(sample, TextSample) else sample.tools
    for field, value in (("tools", tools), (None, sample.item if isinstance(sample, PromptSample) else None)):
        if _is_deeper(value, _MAX_DEPTH):
            what = "The record is" if field is None else "The tools are"
            complaints.add(field, "too_deep", f"{what} nested more than {_MAX_DEPTH} deep.", "Make it flatter.")
            return
    try:
        json.dumps(record_of(sample), ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        complaints.add(
            None, "half_surrogate", "There is half a surrogate pair.", "Remove the \\ud8xx escape that has no partner."
        )
    except (TypeError, ValueError) as error:
        complaints.add(None, "wrong_type", f"The record is not JSON: {error}.", "Use text, numbers, lists and objects only.")


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    while level and depth >= 0:
        depth -= 1
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _reader_of(value: dict[str, Any]) -> Callable[[dict[str, Any], Complaints], Sample] | None:
    fields = set(value)
    if fields & {"preferred_output", "non_preferred_output"}:
        return _openai_preference
    if fields & {"chosen", "rejected"}:
        return _preference
    if "messages" in fields:
        return _openai_chat
    if "conversations" in fields:
        return _sharegpt
    if "instruction" in fields:
        return _alpaca
    if {"prompt", "completion"} <= fields:
        return _completion
    return _text if "text" in fields else None


def _unpacked(value: dict[str, Any]) -> dict[str, Any]:
    """The record with messages taken out of strings of JSON: a table's cell can hold a list in no other way."""
    unpacked = dict(value)
    for key in _MAY_BE_PACKED:
        each = value.get(key)
        if isinstance(each, str) and each.lstrip()[:1] in ("[", "{"):
            try:
                inner = json.loads(each)
            except (ValueError, RecursionError):
                continue  # then it is a text that begins like JSON
            turns = inner if isinstance(inner, list) else [inner]
            if turns and all(isinstance(turn, dict) and not _TURN_FIELDS.isdisjoint(turn) for turn in turns):
                unpacked[key] = inner
    return unpacked


def _ends_open(value: dict[str, Any]) -> bool:
    messages = value["messages"]
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") != "assistant"


def _prompt(value: dict[str, Any], complaints: Complaints) -> PromptSample:
    messages = read_messages(value["messages"], "messages", complaints)
    tools = read_tools(value.get("tools"), "tools", complaints)
    for message in messages:
        message.pop("weight", None)
    if complaints.is_usable:
        check_order(messages, "messages", complaints, is_prompt=True)
    return PromptSample(messages, tools, value, complaints.file, complaints.line)


def _openai_chat(value: dict[str, Any], complaints: Complaints) -> ChatSample:
    messages = read_messages(value["messages"], "messages", complaints)
    return _chat(messages, read_tools(value.get("tools"), "tools", complaints), "messages", complaints)


def _chat(messages: list[Message], tools: list[dict[str, Any]] | None, field: str, complaints: Complaints) -> ChatSample:
    weights = read_weights(messages, field, complaints)
    if complaints.is_usable:  # an order without the broken messages would bring faults of its own
        check_order(messages, field, complaints)
        if not any(weights):
            complaints.add(field, "nothing_to_learn", "No message of the assistant has a weight.", "Give one of them weight 1.")
    check_calls(messages, tools, complaints)
    return ChatSample(messages, tools, weights, complaints.file, complaints.line)


def _openai_preference(value: dict[str, Any], complaints: Complaints) -> PreferenceSample:
    given = value.get("input")
    if not isinstance(given, dict):
        complaints.add("input", "missing_field", "There is no input.", 'Give {"messages": […]}.')
        given = {"messages": [{"role": "user", "content": "?"}]}
    messages = read_messages(given.get("messages"), "input.messages", complaints)
    chosen = read_messages(value.get("preferred_output"), "preferred_output", complaints)
    rejected = read_messages(value.get("non_preferred_output"), "non_preferred_output", complaints)
    tools = read_tools(given.get("tools"), "input.tools", complaints)
    fields = ("input.messages", "preferred_output", "non_preferred_output")
    return _pair(messages, chosen, rejected, tools, fields, complaints)


def _preference(value: dict[str, Any], complaints: Complaints) -> PreferenceSample:
    chosen, rejected = (_turns(value.get(key), key, "assistant", complaints) for key in ("chosen", "rejected"))
    tools = read_tools(value.get("tools"), "tools", complaints)
    field: str | None = next(
        (key for key in ("prompt", "conversations", "messages", "question", "instruction") if key in value), None
    )
    if field is None:  # both are whole conversations: what they share is the prompt
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        messages, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not messages:
            complaints.add("prompt", "missing_field", "The two answers have no prompt in common.", 'Add "prompt".')
        field = "chosen"
    elif field == "instruction":
        messages = _asked(value, complaints)
    else:
        messages = _turns(value[field], field, "user", complaints)
        if field == "conversations":
            messages = [*_system_of(value, complaints), *messages]
    return _pair(messages, chosen, rejected, tools, (field, "chosen", "rejected"), complaints)


def _turns(value: Any, field: str, role: str, complaints: Complaints) -> list[Message]:
    """Messages out of a text, one message, or a list of them, in OpenAI's or ShareGPT's form."""
    if isinstance(value, str):
        return read_messages([{"role": role, "content": value}], field, complaints)
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(each, dict) and "from" in each for each in value):
        return _spoken(value, field, complaints)
    return read_messages(value, field, complaints)


def _pair(
    messages: list[Message],
    chosen: list[Message],
    rejected: list[Message],
    tools: list[dict[str, Any]] | None,
    fields: tuple[str, str, str],
    complaints: Complaints,
) -> PreferenceSample:
    for message in (*messages, *chosen, *rejected):
        message.pop("weight", None)
    if complaints.is_usable:
        check_order(messages, fields[0], complaints, is_prompt=True)
        for answer, field in ((chosen, fields[1]), (rejected, fields[2])):
            if answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
                complaints.add(
                    field, "role_order", "The answer is not the assistant's.", "Begin and end with an assistant message."
                )
        if chosen == rejected:
            complaints.add(
                fields[2],
                "same_answers",
                "The rejected answer is the chosen one.",
                "Remove the record: there is nothing to prefer.",
            )
    check_calls([*messages, *chosen, *rejected], tools, complaints)
    return PreferenceSample(messages, tools, chosen, rejected, complaints.file, complaints.line)


def _sharegpt(value: dict[str, Any], complaints: Complaints) -> ChatSample:
    turns = value["conversations"]
    if isinstance(turns, list) and turns and all(isinstance(each, dict) and "role" in each for each in turns):
        messages = read_messages(turns, "conversations", complaints)
    elif isinstance(turns, list) and turns:
        messages = _spoken(turns, "conversations", complaints)
    else:
        complaints.add(
            "conversations", "missing_field", "There is no list of turns.", 'Give a list of {"from": …, "value": …}.'
        )
        messages = []
    messages = [*_system_of(value, complaints), *messages]
    return _chat(messages, read_tools(value.get("tools"), "tools", complaints), "conversations", complaints)


def _system_of(value: dict[str, Any], complaints: Complaints) -> list[Message]:
    text = checked_string(value, "system", complaints, optional=True)
    return [{"role": "system", "content": text}] if text else []


def _spoken(turns: list[Any], field: str, complaints: Complaints) -> list[Message]:
    """ShareGPT's turns as messages. Its calls have no ids: they get numbers, and results belong to them in order."""
    messages: list[Message] = []
    waiting: list[str] = []
    num_calls = 0
    for position, turn in enumerate(turns):
        here = f"{field}.{position}"
        if not isinstance(turn, dict):
            complaints.add(here, "wrong_type", "The turn is not an object.", 'Write {"from": …, "value": …}.')
            continue
        speaker = turn.get("from")
        role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
        if role is None:
            complaints.add(
                f"{here}.from",
                "unknown_role",
                "The speaker is missing." if speaker is None else f"The speaker is {repr(speaker)[:60]}.",
                "Use human, gpt, system, function_call or observation.",
            )
            continue
        if role == "function_call":
            calls = _spoken_calls(turn.get("value"), f"{here}.value", num_calls, complaints)
            num_calls += len(calls)
            waiting = [call["id"] for call in calls]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
            continue
        read = read_messages([{"role": role, "content": turn.get("value")}], here, complaints)
        for message in read:
            if role == "tool" and waiting:
                message["tool_call_id"] = waiting.pop(0)
            messages.append(message)
    return messages


def _spoken_calls(value: Any, field: str, first: int, complaints: Complaints) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            complaints.add(
                field,
                "tool_arguments_not_json",
                f"The call is not JSON: {error}.",
                'Write {"name": …, "arguments": {…}}.',
            )
            return []
    calls = []
    for offset, call in enumerate(value if isinstance(value, list) else [value]):
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            complaints.add(
                field, "tool_call_broken", "The call does not name a function.", 'Write {"name": …, "arguments": {…}}.'
            )
            continue
        arguments = call.get("arguments", {})
        arguments = read_arguments(arguments, f"{field}.arguments", complaints, objects=True)
        calls.append(
            {"id": f"call_{first + offset}", "type": "function", "function": {"name": call["name"], "arguments": arguments}}
        )
    return calls


def _asked(value: dict[str, Any], complaints: Complaints) -> list[Message]:
    """Alpaca's system, history and question."""
    messages = _system_of(value, complaints)
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        complaints.add("history", "wrong_type", "The history is not a list of pairs.", 'Write [["question", "answer"], …].')
        history = []
    for position, (question, answer) in enumerate(history):
        spoken = [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "weight": 0}]
        messages += read_messages(spoken, f"history.{position}", complaints)
    instruction = checked_string(value, "instruction", complaints)
    extra = checked_string(value, "input", complaints, optional=True)
    question = "\n".join(part for part in (instruction, extra) if part)
    return [*messages, {"role": "user", "content": question}]


def _alpaca(value: dict[str, Any], complaints: Complaints) -> ChatSample:
    return _answered(_asked(value, complaints), value, "output", complaints)


def _completion(value: dict[str, Any], complaints: Complaints) -> ChatSample:
    prompt = _turns(value["prompt"], "prompt", "user", complaints)
    if isinstance(value["completion"], str):
        return _answered(prompt, value, "completion", complaints)
    answer = read_messages(value["completion"], "completion", complaints)
    return _chat([*prompt, *answer], read_tools(value.get("tools"), "tools", complaints), "completion", complaints)


def _answered(messages: list[Message], value: dict[str, Any], field: str, complaints: Complaints) -> ChatSample:
    answer = checked_string(value, field, complaints)
    if not answer.strip() and complaints.is_usable:
        complaints.add(field, "empty_assistant", "The answer is empty.", "Give the answer that is to be learnt, or remove it.")
    messages = [*messages, {"role": "assistant", "content": answer}]
    return _chat(messages, None, field, complaints)


def _text(value: dict[str, Any], complaints: Complaints) -> TextSample:
    text = checked_string(value, "text", complaints)
    if not text.strip() and complaints.is_usable:
        complaints.add("text", "empty_text", "The text is empty.", "Remove the record.", "warning")
    return TextSample(text, complaints.file, complaints.line)
