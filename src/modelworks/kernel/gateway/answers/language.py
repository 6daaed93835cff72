"""Answers of the language, embedding, ranking and moderation routes."""

from __future__ import annotations

from typing import Any, Literal

from modelworks.kernel.gateway.answers.form import Answer


class PromptDetails(Answer):
    """What of the prompt was remembered, and what it was."""

    cached_tokens: int
    text_tokens: int
    audio_tokens: int
    image_tokens: int
    cache_write_tokens: int


class CompletionDetails(Answer):
    """What of the answer was thought, and what it is."""

    reasoning_tokens: int
    text_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class TokenUsage(Answer):
    """Tokens as the engine counted them, with their price where there is one."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    cost: float | None = None


class TopToken(Answer):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenEntry(TopToken):
    """A token of the answer with its log-probability."""

    top_logprobs: list[TopToken]


class ChoiceLogprobs(Answer):
    """The tokens of a choice."""

    content: list[TokenEntry] | None
    refusal: list[TokenEntry] | None


class CalledFunction(Answer):
    """A function and its arguments as JSON."""

    name: str
    arguments: str


class ChatToolCall(Answer):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatAnswerMessage(Answer):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    annotations: list[dict[str, Any]]
    grounding: dict[str, Any] | None = None
    reasoning_content: str | None = None
    tool_calls: list[ChatToolCall] | None = None


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class ChatChoice(Answer):
    """One of the answers."""

    index: int
    message: ChatAnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | None = None


class ChatCompletion(Answer):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    service_tier: Literal["default"] | None = None
    metadata: dict[str, str] | None = None
    choices: list[ChatChoice]
    usage: TokenUsage


class FunctionPiece(Answer):
    """A piece of a call."""

    name: str | None = None
    arguments: str


class ToolCallPiece(Answer):
    """Id, type and name come once, with the first piece."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionPiece


class ChatDelta(Answer):
    """What is added to a choice."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: list[dict[str, Any]] | None = None
    grounding: dict[str, Any] | None = None
    tool_calls: list[ToolCallPiece] | None = None


class ChatChunkChoice(Answer):
    """The choice that goes on."""

    index: int
    delta: ChatDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | None = None


class ChatCompletionChunk(Answer):
    """An event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str | None
    service_tier: Literal["default"] | None = None
    choices: list[ChatChunkChoice]
    usage: TokenUsage | None = None
    obfuscation: str | None = None


class CompletionLogprobs(Answer):
    """Four lists, side by side."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One of the answers, or what is added to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Answer):
    """How a text goes on; an event of a streamed one has the same form."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None


class ReadUsage(Answer):
    """Tokens of what was read; nothing is written."""

    prompt_tokens: int
    total_tokens: int


class Embedding(Answer):
    """A vector; base64 holds little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(Answer):
    """Vectors in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    system_fingerprint: str | None
    usage: ReadUsage


class RankedDocument(Answer):
    """A document, the best first."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RankedUnits(Answer):
    """What Cohere's clients bill by."""

    search_units: int


class RankedTokens(Answer):
    """Tokens that were read."""

    input_tokens: int


class ApiVersion(Answer):
    """Of Cohere's protocol."""

    version: str


class RankingMeta(Answer):
    """Cohere's words for what was used."""

    api_version: ApiVersion
    billed_units: RankedUnits
    tokens: RankedTokens


class Ranking(Answer):
    """Documents by how well they answer the query."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RankedDocument]
    usage: ReadUsage
    meta: RankingMeta


class ModerationResult(Answer):
    """Which of OpenAI's categories a text falls into."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class JudgedUsage(Answer):
    """Tokens of all texts together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ModerationAnswer(Answer):
    """A result for each text, in their order."""

    id: str
    model: str
    results: list[ModerationResult]
    usage: JudgedUsage
