"""The normal form of training data: what every file format is turned into, with the file and line it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Message = dict[str, Any]
Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class ChatSample:
    """One conversation to learn answers from.

    `messages` and `tools` are in OpenAI's form: contents are strings, a tool call's arguments are a string of JSON. `weights`
    has one number per message: 0 where nothing is learnt from it. `source` is the file's path inside the data set.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    weights: list[float]
    source: str
    line: int


@dataclass(frozen=True, slots=True)
class PreferenceSample:
    """A prompt (`messages`) and two ways to go on, of which `chosen` is the better one."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    chosen: list[Message]
    rejected: list[Message]
    source: str
    line: int


@dataclass(frozen=True, slots=True)
class TextSample:
    """A text to be continued."""

    text: str
    source: str
    line: int


@dataclass(frozen=True, slots=True)
class PromptSample:
    """A prompt without an answer, and the whole record (`item`): what a grader judges answers by lies beside the messages."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    item: dict[str, Any]
    source: str
    line: int


Sample = ChatSample | PreferenceSample | PromptSample | TextSample
SampleKind = Literal["chat", "preference", "prompt", "text"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at one place. An error makes the sample unusable; a warning does not."""

    file: str
    line: int | None
    field: str | None
    code: str
    message: str
    hint: str
    severity: Severity = "error"

    @property
    def place(self) -> str:
        """`file, line 3, field "x"`."""
        parts = [self.file]
        if self.line is not None:
            parts.append(f"line {self.line}")
        if self.field:
            parts.append(f'field "{self.field}"')
        return ", ".join(parts)


def kind_of(sample: Sample) -> SampleKind:
    """Which of the four forms a sample has."""
    if isinstance(sample, ChatSample):
        return "chat"
    if isinstance(sample, PromptSample):
        return "prompt"
    return "preference" if isinstance(sample, PreferenceSample) else "text"


def messages_of(sample: Sample) -> list[Message]:
    """Every message of a sample, those of both answers of a preference included; none for a text."""
    if isinstance(sample, ChatSample | PromptSample):
        return sample.messages
    return [*sample.messages, *sample.chosen, *sample.rejected] if isinstance(sample, PreferenceSample) else []


def text_of(messages: Sequence[Message]) -> str:
    """What is said in messages, one piece per line: contents, then names and arguments of tool calls."""
    pieces: list[str] = []
    for message in messages:
        if message.get("content"):
            pieces.append(message["content"])
        pieces.extend(f"{call['function']['name']} {call['function']['arguments']}" for call in message.get("tool_calls") or [])
    return "\n".join(pieces)


def words_of(sample: Sample) -> str:
    """The whole text of a sample, for finding copies of it."""
    return sample.text if isinstance(sample, TextSample) else text_of(messages_of(sample))


def digest_of(sample: Sample) -> bytes:
    """SHA-256 of what a sample says, wherever it is written."""
    return hashlib.sha256(json.dumps(record_of(sample), sort_keys=True).encode()).digest()


def record_of(sample: Sample) -> dict[str, Any]:
    """A sample as the line of JSON that is read back as the same sample (OpenAI's forms, or {"text": …})."""
    if isinstance(sample, TextSample):
        return {"text": sample.text}
    if isinstance(sample, PromptSample):
        return sample.item
    if isinstance(sample, PreferenceSample):
        prompt: dict[str, Any] = {"messages": sample.messages}
        if sample.tools is not None:
            prompt["tools"] = sample.tools
        return {"input": prompt, "preferred_output": sample.chosen, "non_preferred_output": sample.rejected}
    messages = []
    for message, weight in zip(sample.messages, sample.weights, strict=True):
        is_default = weight == (1.0 if message["role"] == "assistant" else 0.0)
        messages.append(message if is_default else {**message, "weight": int(weight)})
    record: dict[str, Any] = {"messages": messages}
    if sample.tools is not None:
        record["tools"] = sample.tools
    return record
