"""Answers of the routes in Anthropic's form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

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


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"] | None


class Message(Answer):
    """The answer to messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: MessageUse


class CountedTokens(Answer):
    """How many tokens messages would be."""

    input_tokens: int


class MessageStart(Answer):
    """The message before its first block."""

    type: Literal["message_start"]
    message: Message


class BlockStart(Answer):
    """A block begins, empty."""

    type: Literal["content_block_start"]
    index: int
    content_block: Block


class TextPiece(Answer):
    """More of what is said."""

    type: Literal["text_delta"]
    text: str


class ThoughtPiece(Answer):
    """More of what is thought."""

    type: Literal["thinking_delta"]
    thinking: str


class InputPiece(Answer):
    """More of a call's input, as the text of a JSON object."""

    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(Answer):
    """A block goes on."""

    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[TextPiece | ThoughtPiece | InputPiece, Field(discriminator="type")]


class BlockStop(Answer):
    """A block is complete."""

    type: Literal["content_block_stop"]
    index: int


class Ending(Answer):
    """Why the message ends."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Answer):
    """The end of the message, with what it used."""

    type: Literal["message_delta"]
    delta: Ending
    usage: MessageUse


class MessageStop(Answer):
    """Nothing follows."""

    type: Literal["message_stop"]


class Ping(Answer):
    """The connection is alive."""

    type: Literal["ping"]


class Failure(Answer):
    """Why there is no more of the message; `param` and `code` are additions."""

    type: str
    message: str
    param: str | None
    code: str


class MessageFailed(Answer):
    """The message breaks off."""

    type: Literal["error"]
    error: Failure
    request_id: str | None


class MessageEvent(
    RootModel[
        Annotated[
            MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping | MessageFailed,
            Field(discriminator="type"),
        ]
    ]
):
    """One event of a streamed message; its `type` is also the name of the server-sent event."""
