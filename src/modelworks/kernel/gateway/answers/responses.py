"""Answers of the routes of responses and conversations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from modelworks.kernel.gateway.answers.form import Answer

ItemStatus = Literal["in_progress", "completed", "incomplete", "failed"]


class _Shown(Answer):
    """What a caller said of an item, shown again."""

    phase: str | None = None
    namespace: str | None = None
    caller: dict[str, str] | None = None
    is_async: bool | None = Field(default=None, alias="async")


class InputText(Answer):
    """A text that was given."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: dict[str, str] | None = None


class InputImage(Answer):
    """An image that was given."""

    type: Literal["input_image"]
    image_url: str
    detail: str
    prompt_cache_breakpoint: dict[str, str] | None = None


class OutputText(Answer):
    """A text that was answered, with what it cites."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[dict[str, Any]] | None = None


class Refusal(Answer):
    """Why nothing is answered."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[InputText | InputImage | OutputText | Refusal, Field(discriminator="type")]


class MessageItem(_Shown):
    """A turn."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["user", "assistant", "system", "developer"]
    content: list[Part]


class Thought(Answer):
    """A piece of reasoning, or of its summary."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Answer):
    """What was thought before the answer."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Thought]
    content: list[Thought]
    encrypted_content: str | None = None


class FunctionCallItem(_Shown):
    """A call that the model asks for."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class FunctionOutputItem(_Shown):
    """What a call gave."""

    id: str
    type: Literal["function_call_output"]
    status: ItemStatus
    call_id: str
    output: str | list[Part]
    name: str | None = None


class CustomCallItem(_Shown):
    """A call whose input is plain text."""

    id: str
    type: Literal["custom_tool_call"]
    status: ItemStatus
    call_id: str
    name: str
    input: str


class CustomOutputItem(_Shown):
    """What it gave."""

    id: str
    type: Literal["custom_tool_call_output"]
    status: ItemStatus
    call_id: str
    output: str | list[Part]
    name: str | None = None


class SearchResult(Answer):
    """A passage that a search of files gave."""

    attributes: dict[str, str | float | bool] | None
    file_id: str | None
    filename: str | None
    score: float | None
    text: str | None


class FileSearchItem(Answer):
    """A search of files that the model asked for, made here; its passages where `include` asks for them."""

    id: str
    type: Literal["file_search_call"]
    status: ItemStatus
    queries: list[str]
    results: list[SearchResult] | None


class McpListItem(Answer):
    """The tools of a server elsewhere."""

    id: str
    type: Literal["mcp_list_tools"]
    server_label: str
    tools: list[dict[str, Any]] | None
    error: Any


class McpCallItem(Answer):
    """A call of such a tool, made here, and what it gave."""

    id: str
    type: Literal["mcp_call"]
    status: ItemStatus
    server_label: str
    name: str
    arguments: str
    output: str | None
    error: Any
    approval_request_id: str | None


class McpRequestItem(Answer):
    """A call that waits for approval."""

    id: str
    type: Literal["mcp_approval_request"]
    server_label: str
    name: str
    arguments: str


class McpResponseItem(Answer):
    """The approval, or that there is none."""

    id: str
    type: Literal["mcp_approval_response"]
    approval_request_id: str
    approve: bool
    reason: str | None


Item = Annotated[
    MessageItem
    | ReasoningItem
    | FunctionCallItem
    | FunctionOutputItem
    | CustomCallItem
    | CustomOutputItem
    | FileSearchItem
    | McpListItem
    | McpCallItem
    | McpRequestItem
    | McpResponseItem,
    Field(discriminator="type"),
]


class CacheWrites(Answer):
    """Nothing is billed for filling a cache."""

    ttl_30m_tokens: int
    ttl_12h_tokens: int


class InputDetails(Answer):
    """What of the input was remembered."""

    cached_tokens: int
    cache_write_tokens: int
    cache_write_tokens_details: CacheWrites


class OutputDetails(Answer):
    """What of the answer was thought."""

    reasoning_tokens: int


class ResponseUse(Answer):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(Answer):
    """Why a response failed."""

    code: str
    message: str
    type: str
    param: str | None


class Named(Answer):
    """An id."""

    id: str


class Incomplete(Answer):
    """Why a response ends early."""

    reason: str


class ResponseObject(Answer):
    """A response: what it was asked for and what it gave."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    completed_at: int | None
    conversation: Named | None
    error: ResponseError | None
    frequency_penalty: float
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_diagnostics: dict[str, str] | None
    prompt_cache_key: str | None
    prompt_cache_options: dict[str, Any] | None
    prompt_cache_retention: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUse | None
    user: str | None
    grounding: dict[str, Any] | None = Field(default=None, description="Of a data space: what its answer rests on.")


class CountedInput(Answer):
    """How many tokens a response would read."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class Conversation(Answer):
    """Items, one after the other."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]
