"""What a stream of a response tells, event by event.

Source: OpenAI's reference of streaming events of responses, and the types of its official client.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from modelworks.kernel.gateway.answers.form import Answer
from modelworks.kernel.gateway.answers.responses import Item, OutputText, Refusal, ResponseObject, Thought


class _Event(Answer):
    sequence_number: int


class _InOutput(_Event):
    output_index: int


class _OfItem(_InOutput):
    item_id: str


class _OfPart(_OfItem):
    content_index: int


class ResponseState(_Event):
    """The whole response as it stands: once at the beginning, when it is worked on, and at its end."""

    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class ItemEvent(_InOutput):
    """An item begins, or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    item: Item


class PartEvent(_OfPart):
    """A part of a message, or of thoughts, begins or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: Annotated[OutputText | Refusal | Thought, Field(discriminator="type")]


class TextDelta(_OfPart):
    """More of a text."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[dict[str, Any]]


class TextDone(_OfPart):
    """The text as a whole."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[dict[str, Any]]


class AnnotationAdded(_OfPart):
    """What the text so far cites."""

    type: Literal["response.output_text.annotation.added"]
    annotation_index: int
    annotation: dict[str, Any]


class OtherDelta(_OfPart):
    """More of a refusal, or of thoughts."""

    type: Literal["response.refusal.delta", "response.reasoning_text.delta"]
    delta: str


class RefusalDone(_OfPart):
    """The refusal as a whole."""

    type: Literal["response.refusal.done"]
    refusal: str


class ThoughtDone(_OfPart):
    """The thoughts as a whole."""

    type: Literal["response.reasoning_text.done"]
    text: str


class CallDelta(_OfItem):
    """More of what a tool is called with."""

    type: Literal[
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.custom_tool_call_input.delta",
    ]
    delta: str


class FunctionCallDone(_OfItem):
    """The arguments of a function as a whole."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class McpCallDone(_OfItem):
    """The arguments of a tool of a server elsewhere as a whole."""

    type: Literal["response.mcp_call_arguments.done"]
    arguments: str


class CustomCallDone(_OfItem):
    """The input of a custom tool as a whole."""

    type: Literal["response.custom_tool_call_input.done"]
    input: str


class ToolState(_OfItem):
    """How far a tool is that the server uses."""

    type: Literal[
        "response.mcp_list_tools.in_progress",
        "response.mcp_list_tools.completed",
        "response.mcp_call.in_progress",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
    ]


class ResponseEvent(
    RootModel[
        Annotated[
            ResponseState
            | ItemEvent
            | PartEvent
            | TextDelta
            | TextDone
            | AnnotationAdded
            | OtherDelta
            | RefusalDone
            | ThoughtDone
            | CallDelta
            | FunctionCallDone
            | McpCallDone
            | CustomCallDone
            | ToolState,
            Field(discriminator="type"),
        ]
    ]
):
    """One event of a streamed response; its `type` is also the name of the server-sent event."""
