"""OpenAI's training files: JSON lines of conversations, pairs of answers, or prompts. Checked before anything is paid for.

What it means to learn from them is the capability's business; here stands what the form demands, with every fault found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, Final, Literal

import orjson

from modelworks.contract.errors import InvalidData
from modelworks.contract.template import Variable

Form = Literal["chat", "preference", "prompt"]

#: A longer line is a fault; it is passed over without being kept.
MAX_LINE_BYTES: Final = 32 << 20
#: Faults that are kept with their place; more are counted.
MAX_FAULTS: Final = 20
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong in which line (from 1) and field."""

    line: int
    field: str | None
    what: str

    def __str__(self) -> str:
        return f"line {self.line}{f', {self.field}' if self.field else ''}: {self.what}"


@dataclass(slots=True)
class Findings:
    """What a file holds and what is wrong with it."""

    num_examples: int = 0
    num_faults: int = 0
    faults: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Count a fault, and keep it while there are few."""
        self.num_faults += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)

    def summary(self) -> str:
        """The faults as one text, the first ones with their places."""
        shown = "; ".join(str(fault) for fault in self.faults)
        more = self.num_faults - len(self.faults)
        return shown + (f"; and {more} more" if more else "")


def check(file: BinaryIO, form: Form, variables: Sequence[Variable] = ()) -> Findings:
    """Read a whole file and say what is wrong with it, line by line. An empty file has a fault, too.

    Args:
        variables: what a grader reads of each prompt.
    """
    findings = Findings()
    looks: dict[Form, _Look] = {"chat": _chat, "preference": _preference, "prompt": partial(_prompt, variables=variables)}
    for number, line in lines_of(file):
        if line is None:
            findings.add(Fault(number, None, f"it is longer than {MAX_LINE_BYTES} bytes; split the example"))
            continue
        if number == 1 and line.startswith(_BOM):
            findings.add(Fault(1, None, "the file begins with a byte order mark; save it as UTF-8 without one"))
            line = line.removeprefix(_BOM)
        if not line.strip():
            continue
        findings.num_examples += 1
        for where, what in _look(line, looks[form]):
            findings.add(Fault(number, where, what))
    if findings.num_examples == 0:
        findings.add(Fault(1, None, "the file holds no example"))
    return findings


_Found = Iterator[tuple[str | None, str]]
_Look = Callable[[dict[str, Any]], _Found]


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) <= MAX_LINE_BYTES:
            yield number, line
            continue
        while not line.endswith(b"\n") and (line := file.readline(MAX_LINE_BYTES)):
            pass
        yield number, None


def _look(line: bytes, look: _Look) -> _Found:
    try:
        example = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode()
        except UnicodeDecodeError as fault:
            yield None, f"it is not UTF-8 (byte {fault.start + 1})"
            return
        yield None, f"it is not JSON ({error.msg}, column {error.colno})"
        return
    if not isinstance(example, dict):
        yield None, "it is not a JSON object"
        return
    yield from look(example)


def _chat(example: dict[str, Any]) -> _Found:
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages", "a list of messages is missing"
        return
    yield from _messages(messages, "messages")
    if messages and isinstance(messages[-1], dict) and messages[-1].get("role") != "assistant":
        yield "messages", "the last message is not from the assistant: there is no answer to learn"
    weights = [
        message.get("weight", 1) for message in messages if isinstance(message, dict) and message.get("role") == "assistant"
    ]
    if weights and not any(weights):
        yield "messages", "every answer has the weight 0: there is nothing to learn"
    yield from _tools(example.get("tools"), "tools")


def _prompt(example: dict[str, Any], variables: Sequence[Variable]) -> _Found:
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages", "a list of messages is missing"
    else:
        yield from _messages(messages, "messages")
        if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
            yield (
                "messages",
                "the last message is from the assistant; an answer to compare with is a field of its own",
            )
    yield from _tools(example.get("tools"), "tools")
    for variable in variables:
        try:
            variable.value({"item": example})
        except InvalidData as error:
            yield ".".join(variable.path) or None, f"the grader reads {error.message.rstrip('.')}"


def _preference(example: dict[str, Any]) -> _Found:
    given = example.get("input")
    messages = given.get("messages") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(messages, list) or not messages:
        yield "input.messages", "a list of messages is missing"
    else:
        yield from _messages(messages, "input.messages")
        yield from _tools(given.get("tools"), "input.tools")
        if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
            yield "input.messages", "the last message is from the assistant; the answers belong into the two outputs"
    for name in ("preferred_output", "non_preferred_output"):
        answers = example.get(name)
        if not isinstance(answers, list) or not answers:
            yield name, "a list of messages is missing"
            continue
        yield from _messages(answers, name)
        for position, message in enumerate(answers):
            if isinstance(message, dict) and message.get("role") not in ("assistant", "tool"):
                yield f"{name}.{position}.role", "an answer has the role assistant"
    if example.get("preferred_output") is not None and example.get("preferred_output") == example.get("non_preferred_output"):
        yield None, "both answers are the same: there is nothing to prefer"


def _messages(messages: list[Any], where: str) -> _Found:
    for position, message in enumerate(messages):
        at = f"{where}.{position}"
        if not isinstance(message, dict):
            yield at, "it is not a JSON object"
            continue
        role = message.get("role")
        if role not in _ROLES:
            yield f"{at}.role", f"{str(role)[:40]!r} is not a role; there are {', '.join(_ROLES)}"
            continue
        yield from _content(message, role, at)
        if "weight" in message and (role != "assistant" or message["weight"] not in (0, 1)):
            yield f"{at}.weight", "only answers of the assistant have a weight, which is 0 or 1"
        yield from _calls(message.get("tool_calls"), role, at)


def _content(message: dict[str, Any], role: str, at: str) -> _Found:
    content = message.get("content")
    if content is None:
        if role != "assistant" or not message.get("tool_calls"):
            yield f"{at}.content", "it is missing"
    elif isinstance(content, list):
        if not all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
        ):
            yield f"{at}.content", "a part is not text"
    elif not isinstance(content, str):
        yield f"{at}.content", "it is not a text"
    elif role == "assistant" and not content.strip() and not message.get("tool_calls"):
        yield f"{at}.content", "the answer is empty"


def _calls(calls: Any, role: str, at: str) -> _Found:
    if calls is None:
        return
    if role != "assistant" or not isinstance(calls, list):
        yield f"{at}.tool_calls", "only the assistant calls tools, and gives a list"
        return
    for position, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            yield f"{at}.tool_calls.{position}", "it names no function"
            continue
        try:
            orjson.loads(function.get("arguments", ""))
        except (orjson.JSONDecodeError, TypeError):
            yield f"{at}.tool_calls.{position}.function.arguments", "it is not a text of JSON"


def _tools(tools: Any, where: str) -> _Found:
    if tools is None:
        return
    if not isinstance(tools, list):
        yield where, "it is not a list"
        return
    for position, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            yield f"{where}.{position}", "it names no function"
