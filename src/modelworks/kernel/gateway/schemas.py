"""The wire forms of OpenAI's language routes: what is asked for. Answers are rendered as plain dictionaries."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from modelworks.contract.generation import Role


class Wire(BaseModel):
    """Unknown fields are ignored; a string is never taken for a number."""

    model_config = ConfigDict(extra="ignore", strict=True)


_MAX_LABELS, _MAX_LABEL_KEY, _MAX_LABEL_VALUE = 16, 64, 512


def _small(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > _MAX_LABELS:
        raise PydanticCustomError("metadata_length", "may hold at most 16 pairs")
    for key, text in labels.items():
        if len(key) > _MAX_LABEL_KEY or len(text) > _MAX_LABEL_VALUE:
            raise PydanticCustomError("metadata_size", "keys have at most 64 characters, values at most 512")
    return labels


#: What clients pin to the things they create, within OpenAI's limits.
Metadata = Annotated[dict[str, str], AfterValidator(_small)]


class CalledFunction(BaseModel):
    # Templates show whatever else a call holds.
    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    arguments: str | None = None


class MessageCall(BaseModel):
    """A call that the assistant made before."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class ChatMessage(Wire):
    """One turn; `content` is text or a list of parts."""

    role: Role
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[MessageCall] | None = None
    tool_call_id: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _text_or_parts(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(part, dict) for part in value):
            return value
        raise PydanticCustomError("content_type", "must be a string or a list of content parts")


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(
        default=None, description="Pads the pieces of a chat to equal lengths; only where it is asked for."
    )


class CacheOptions(Wire):
    """Wishes for a cache of prompts: what can be reused here is reused without."""

    mode: str | None = None
    ttl: str | None = None
    prewarm: bool | None = None
    comparison_response_id: str | None = None


class Prediction(Wire):
    """What the answer is expected to be: it could be faster for it, and is never another."""

    type: Literal["content"]
    content: Any

    @field_validator("content", mode="after")
    @classmethod
    def _text_or_parts(cls, value: Any) -> Any:
        parts = value if isinstance(value, list) else [{"type": "text", "text": value}]
        if not all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
        ):
            raise PydanticCustomError("content_type", "must be a string, or a list of parts of the type text with a text")
        return value


class _Sampling(Wire):
    """The parameters that chat and completions share."""

    model: str = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, description="An extension; 0 and -1 mean off.")
    n: int | None = Field(default=None, ge=1, le=128)
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, description="An extension.")
    logit_bias: dict[str, float] | None = None
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _string_or_strings(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            if len(value) > 16:
                raise PydanticCustomError("stop_length", "may hold at most 16 strings")
            return value
        raise PydanticCustomError("stop_type", "must be a string or a list of strings")

    @field_validator("logit_bias", mode="after")
    @classmethod
    def _token_ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key, bias in (value or {}).items():
            if not key.isdecimal():
                raise PydanticCustomError("logit_bias_key", "keys must be token ids")
            if not -100 <= bias <= 100:
                raise PydanticCustomError("logit_bias_value", "values must lie between -100 and 100")
        return value


class ChatRequest(_Sampling):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    metadata: Metadata | None = None
    modalities: list[str] | None = None
    prediction: Prediction | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: CacheOptions | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: str | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="An extension: variables for the model's chat template."
    )


Prompt = str | list[str] | list[int] | list[list[int]]


class CompletionRequest(_Sampling):
    """POST /v1/completions."""

    prompt: Prompt
    max_tokens: int | None = Field(default=None, ge=0, description="0 only with echo: the prompt alone is read.")
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: int | None = Field(default=None, ge=1, le=128)

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_of_four_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            if all(isinstance(item, str) for item in value) or _are_ids(value):
                return value
            if all(isinstance(item, list) and item and _are_ids(item) for item in value):
                return value
        raise PydanticCustomError(
            "prompt_type", "must be a string, a list of strings, a list of token ids or a list of lists of token ids, not empty"
        )


def _are_ids(value: list[Any]) -> bool:
    return all(type(item) is int and item >= 0 for item in value)


class ModelObject(BaseModel):
    """A model that can be asked: an entry of GET /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    shutdown_date: str | None = Field(default=None, description="Always null: models stay until somebody takes them away.")
    task: str | None = None
    state: str | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


def inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of `model` with every reference replaced by what it names, for OpenAPI's `requestBody`.

    Recursive models stay references at the second visit, which OpenAPI readers show as a plain object. The caller may
    change what it gets.
    """
    found: dict[str, Any] = orjson.loads(_inline(model))
    return found


@cache
def _inline(model: type[BaseModel]) -> bytes:
    """Written down, so that nobody changes what the next one gets: models do not change, and making a schema takes long."""
    whole = model.model_json_schema()
    definitions: dict[str, Any] = whole.pop("$defs", {})

    def resolve(node: Any, seen: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [resolve(item, seen) for item in node]
        if not isinstance(node, dict):
            return node
        reference = node.get("$ref")
        if isinstance(reference, str):
            name = reference.rsplit("/", 1)[-1]
            if name in seen:
                return {"type": "object", "title": name}
            return resolve(definitions[name], (*seen, name))
        return {key: resolve(value, seen) for key, value in node.items()}

    return orjson.dumps(resolve(whole, ()))
