"""The wire form of evals and their runs: what is asked for. Answers are rendered as plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.contract.template import Template
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.schemas import Metadata, Wire

#: Items that stand in the request itself; more belong into a file.
MAX_INLINE_ITEMS: Final = 1000
MAX_CRITERIA: Final = 64
#: What OpenAI takes where nothing is said; it makes a run repeatable.
DEFAULT_SEED: Final = 42
_PAST: Final = "Requests and their answers are not kept on this platform, so there are none to choose from."
_GIVE_ITEMS: Final = "Give the items: store them as a file with the purpose evals, or send them as file_content."

M = TypeVar("M", bound=BaseModel)


class _Labelled(Wire):
    name: str | None = Field(default=None, max_length=512, pattern=r"^[^\x00]*$")
    metadata: Metadata | None = None


class EvalCreate(_Labelled):
    """POST /v1/evals."""

    data_source_config: dict[str, Any] = Field(description='{"type": "custom", "item_schema": {…}, "include_sample_schema": …}')
    testing_criteria: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_CRITERIA, description="Graders.")


class EvalUpdate(_Labelled):
    """POST /v1/evals/{eval_id}."""


class CustomSource(Wire):
    """What an item looks like, and whether the answers come from a model."""

    item_schema: dict[str, Any]
    include_sample_schema: bool = False


class EvalRunCreate(_Labelled):
    """POST /v1/evals/{eval_id}/runs."""

    data_source: dict[str, Any] = Field(description='{"type": "jsonl" | "completions" | "responses", "source": {…}, …}')


class InlineRow(Wire):
    """One item in the request."""

    item: dict[str, Any]
    sample: dict[str, Any] | None = None


class InlineSource(Wire):
    """Items in the request itself."""

    content: list[InlineRow] = Field(min_length=1, max_length=MAX_INLINE_ITEMS)


class FileSource(Wire):
    """Items in a file with the purpose `evals`: one {"item": {…}, "sample": {…}} per line."""

    id: str = Field(min_length=1, max_length=64)


class Turn(Wire):
    """A message of a template."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Any

    @field_validator("content")
    @classmethod
    def _is_text(cls, value: Any) -> str:
        text = text_of(value)
        try:
            variables = Template.parse(text).variables
        except InvalidRequest as error:
            raise PydanticCustomError("invalid_template", "{reason}", {"reason": error.message}) from error
        for variable in variables:
            if variable.namespace != "item":
                raise PydanticCustomError(
                    "template_namespace", "{name} is not known before the model has answered", {"name": f"{{{{{variable}}}}}"}
                )
        return text


class Turns(Wire):
    """Messages with `{{item.…}}` in them."""

    template: list[Turn] = Field(min_length=1)


class Reference(Wire):
    """Messages that stand in the item."""

    item_reference: str = Field(pattern=r"^item\.[^\s.]+(\.[^\s.]+)*$")


class _Sampling(Wire):
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_completions_tokens: int | None = Field(default=None, ge=1, description="An older name of max_completion_tokens.")
    seed: int | None = None
    reasoning_effort: str | None = None
    tools: list[dict[str, Any]] | None = None

    @field_validator("temperature", "top_p", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return float(value) if type(value) is int else value


class CompletionsSampling(_Sampling):
    """How answers are sampled, in chat's words."""

    response_format: dict[str, Any] | None = None

    def chat_fields(self) -> dict[str, Any]:
        """The fields of a chat request, as far as they are given."""
        return _given(self, tools=self.tools, response_format=self.response_format)


class ResponsesSampling(_Sampling):
    """How answers are sampled, in the words of responses."""

    text: dict[str, Any] | None = None

    def chat_fields(self) -> dict[str, Any]:
        """The fields of a chat request that mean the same."""
        tools = None if self.tools is None else [_chat_tool(number, tool) for number, tool in enumerate(self.tools)]
        form = (self.text or {}).get("format")
        if isinstance(form, Mapping) and form.get("type") == "json_schema":
            form = {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}
        return _given(self, tools=tools, response_format=form)


class ModelSource(Wire):
    """What the data sources `completions` and `responses` share."""

    model: str = Field(min_length=1, max_length=256)
    input_messages: dict[str, Any]


def text_of(value: Any) -> str:
    """The text of a message's content: a string, a text part, or a list of these.

    Raises:
        PydanticCustomError: it holds something else than text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return "\n".join(text_of(part) for part in value)
    if isinstance(value, Mapping) and value.get("type") in ("input_text", "output_text", "text"):
        if isinstance(value.get("text"), str):
            return str(value["text"])
        raise PydanticCustomError("text_type", "a part of type text needs its text")
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        raise PydanticCustomError(
            "content_part", "a part of type {kind} is not offered; the models here read text", {"kind": value["type"]}
        )
    raise PydanticCustomError("content_type", "must be a string, a text part, or a list of them, not empty")


def parse_at(place: str, kind: type[M], value: Any) -> M:
    """`value` as `kind`; raises InvalidRequest whose `param` begins with `place`."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        loc = error.errors()[0]["loc"]
        raise from_validation(error, prefix=f"{place}." if loc else place) from error


def source_config(asked: dict[str, Any]) -> CustomSource:
    """The form of the items.

    Raises:
        UnsupportedParameter: the items would come from requests of the past.
        InvalidRequest: it is malformed.
    """
    kind = asked.get("type")
    if kind in ("logs", "stored_completions"):
        raise UnsupportedParameter(
            f"data_source_config.type: {kind!r} is not offered. {_PAST}",
            hint="Use the type custom with an item_schema.",
            param="data_source_config.type",
        )
    _require_kind("data_source_config.type", kind, ("custom",))
    return parse_at("data_source_config", CustomSource, asked)


def items_source(data_source: dict[str, Any]) -> InlineSource | FileSource:
    """Where a run's items come from.

    Raises:
        UnsupportedParameter: from requests of the past.
        InvalidRequest: it is malformed.
    """
    source, place = data_source.get("source"), "data_source.source"
    if not isinstance(source, dict):
        raise InvalidRequest(f"The parameter {place!r} is missing.", param=place, code="missing_required_parameter")
    kind = source.get("type")
    if kind in ("stored_completions", "responses", "logs"):
        raise UnsupportedParameter(f"{place}.type: {kind!r} is not offered. {_PAST}", hint=_GIVE_ITEMS, param=f"{place}.type")
    _require_kind(f"{place}.type", kind, ("file_content", "file_id"))
    if kind == "file_content":
        return parse_at(place, InlineSource, source)
    return parse_at(place, FileSource, source)


def asked_model(data_source: dict[str, Any]) -> tuple[ModelSource, Turns | Reference, dict[str, Any]] | None:
    """Which model is asked what, with the fields of the chat request beside its messages; None: the items hold the answers.

    Raises:
        InvalidRequest: it is malformed.
    """
    kind = data_source.get("type")
    _require_kind("data_source.type", kind, ("jsonl", "completions", "responses"))
    if kind == "jsonl":
        return None
    source = parse_at("data_source", ModelSource, data_source)
    place = "data_source.input_messages"
    _require_kind(f"{place}.type", source.input_messages.get("type"), ("template", "item_reference"))
    messages: Turns | Reference
    if source.input_messages["type"] == "template":
        messages = parse_at(place, Turns, source.input_messages)
    else:
        messages = parse_at(place, Reference, source.input_messages)
    given, place = data_source.get("sampling_params") or {}, "data_source.sampling_params"
    if kind == "completions":
        fields = parse_at(place, CompletionsSampling, given).chat_fields()
    else:
        fields = parse_at(place, ResponsesSampling, given).chat_fields()
    return source, messages, {"model": source.model, **fields}


def _given(params: _Sampling, **more: Any) -> dict[str, Any]:
    limit = params.max_completion_tokens or params.max_completions_tokens
    found = {
        "temperature": 1.0 if params.temperature is None else params.temperature,
        "top_p": 1.0 if params.top_p is None else params.top_p,
        "seed": DEFAULT_SEED if params.seed is None else params.seed,
        "max_completion_tokens": limit,
        "reasoning_effort": params.reasoning_effort,
        **more,
    }
    return {name: value for name, value in found.items() if value is not None}


def _chat_tool(number: int, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        place = f"data_source.sampling_params.tools.{number}.type"
        raise UnsupportedParameter(
            f"{place}: {tool.get('type')!r} is not offered.", hint="Only functions can be given.", param=place
        )
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _require_kind(place: str, kind: Any, known: tuple[str, ...]) -> None:
    if kind is None:
        raise InvalidRequest(f"The parameter {place!r} is missing.", param=place, code="missing_required_parameter")
    if kind not in known:
        raise InvalidRequest(
            f"{place}: {str(kind)[:80]!r} is unknown.",
            hint=f"Known are: {', '.join(known)}.",
            param=place,
            code="invalid_value",
        )
