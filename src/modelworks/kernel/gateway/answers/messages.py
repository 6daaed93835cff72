"""Answers of the routes in Anthropic's form."""

from __future__ import annotations

from typing import Any, Literal

from modelworks.kernel.gateway.answers.form import Answer


class TextBlock(Answer):
    """What is said."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Answer):
    """What is thought before."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(Answer):
    """A call that the model asks for."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageUse(Answer):
    """Tokens; what was remembered is a figure of its own."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class Message(Answer):
    """The answer to messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: (
        Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"] | None
    )
    stop_sequence: str | None
    usage: MessageUse


class CountedTokens(Answer):
    """How many tokens messages would be."""

    input_tokens: int
