"""The wire form of Anthropic's messages: what is asked for, and what of it a chat can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import orjson
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.kernel.gateway.schemas import Wire

Block = dict[str, Any]

#: Fields that would make another answer than the one given here.
_REFUSED: Final = {
    "container": "Leave it out: no code is run on the server.",
    "context_management": "Leave it out: nothing is edited or compacted on the server.",
    "mcp_servers": "Leave it out, and call tools in your own program.",
}
_TEXT_ONLY: Final = "Send text, or the URL or the data of an image."


class Metadata(Wire):
    user_id: str | None = None


class OutputConfig(Wire):
    """The form of the answer, and how much work it is worth."""

    effort: str | None = None
    format: dict[str, Any] | None = None

    @field_validator("format")
    @classmethod
    def _schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and not (value.get("type") == "json_schema" and isinstance(value.get("schema"), dict)):
            raise PydanticCustomError("output_format", "must be of the type json_schema, with a schema")
        return value


class Turn(Wire):
    role: Literal["user", "assistant", "system"]
    content: Any

    @field_validator("content")
    @classmethod
    def _text_or_blocks(cls, value: Any) -> Any:
        return _texts_or_blocks(value)


class TokensCount(Wire):
    """POST /v1/messages/count_tokens."""

    model: str = Field(min_length=1)
    messages: list[Turn] = Field(min_length=1, max_length=100_000)
    system: Any = Field(default=None, description="A text, or a list of text blocks.")
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=512)
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = Field(
        default=None, description="Turned on or off where the model's template can; a budget is not kept to."
    )
    output_config: OutputConfig | None = None

    @field_validator("system")
    @classmethod
    def _text_or_blocks(cls, value: Any) -> Any:
        return None if value is None else _texts_or_blocks(value)


class MessageCreate(TokensCount):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    metadata: Metadata | None = None
    stop_sequences: list[str] | None = Field(default=None, max_length=16)
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)


def _texts_or_blocks(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(block, dict) for block in value)):
        return value
    raise PydanticCustomError("content_type", "must be a text or a list of content blocks")


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Raise UnsupportedParameter for a field that cannot be honoured, naming it."""
    for name, hint in _REFUSED.items():
        if body.get(name):
            raise UnsupportedParameter(f"The parameter {name!r} is not supported.", hint=hint, param=name)


#: What a chat calls fields of a message, for errors.
CHAT_NAMES: Final = {
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "parameters": "input_schema",
}


def chat_fields(asked: TokensCount, *, templated: bool) -> dict[str, Any]:
    """Tools, form and sampling as a chat asks for them.

    Args:
        templated: whether the model's chat template may be given variables (`enable_thinking`).

    Raises:
        UnsupportedParameter: a tool that the server would have to run.
        InvalidRequest: a tool without a name, a choice that names none.
    """
    found: dict[str, Any] = {}
    if asked.tools:
        found["tools"] = [_tool(tool, f"tools.{number}") for number, tool in enumerate(asked.tools)]
    if asked.tool_choice is not None:
        found |= _choice(asked.tool_choice, has_tools=bool(asked.tools))
    if asked.thinking is not None and templated:
        found["chat_template_kwargs"] = {"enable_thinking": asked.thinking.get("type") != "disabled"}
    if asked.output_config is not None:
        if asked.output_config.effort is not None:
            found["reasoning_effort"] = asked.output_config.effort
        if asked.output_config.format is not None:
            form = {"name": "answer", "schema": asked.output_config.format["schema"], "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": form}
    if isinstance(asked, MessageCreate):
        found["max_tokens"] = asked.max_tokens
        for name in ("temperature", "top_p", "top_k"):
            if (value := getattr(asked, name)) is not None:
                found[name] = value
        if asked.stop_sequences:
            found["stop"] = asked.stop_sequences
        if asked.metadata is not None and asked.metadata.user_id:
            found["user"] = asked.metadata.user_id
    return found


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise UnsupportedParameter(
            f"{place}: tools of the type {tool['type']!r} are not supported.",
            hint="Describe the tool with a name and an input_schema, and run it in your own program.",
            param=place,
        )
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{place}.name: a tool needs a name.", param=f"{place}.name", code="missing_required_parameter")
    if not isinstance(schema, dict):
        raise InvalidRequest(
            f"{place}.input_schema: must be a JSON schema.", param=f"{place}.input_schema", code="invalid_type"
        )
    function: dict[str, Any] = {"name": name, "parameters": schema}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _choice(choice: dict[str, Any], *, has_tools: bool) -> dict[str, Any]:
    kind = choice.get("type")
    found: dict[str, Any] = {}
    if kind == "tool" and isinstance(choice.get("name"), str):
        found["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif kind in ("auto", "any", "none"):
        found["tool_choice"] = "required" if kind == "any" else kind
    else:
        raise InvalidRequest(
            "tool_choice: must be of the type auto, any, none, or tool with a name.", param="tool_choice", code="invalid_value"
        )
    if has_tools and choice.get("disable_parallel_tool_use") is not None:
        found["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
    return found


def as_turns(asked: TokensCount) -> tuple[list[dict[str, Any]], list[str]]:
    """A chat's messages, and the place in the caller's request that each came from.

    The results of tools are turns of their own, before what the user says with them.

    Raises:
        UnsupportedParameter: a block that no model here reads; `param` is its place.
        InvalidRequest: a block lacks something, or the last turn is the assistant's.
    """
    turns: list[dict[str, Any]] = []
    places: list[str] = []
    if asked.system:
        turns.append({"role": "system", "content": _plain(asked.system, "system")})
        places.append("system")
    for number, turn in enumerate(asked.messages):
        place = f"messages.{number}"
        if turn.role == "assistant":
            found = [_said(turn.content, place)]
        elif turn.role == "system":
            found = [{"role": "system", "content": _plain(turn.content, f"{place}.content")}]
        else:
            found = _asked(turn.content, place)
        turns.extend(found)
        places.extend([place] * len(found))
    if asked.messages[-1].role == "assistant":
        raise InvalidRequest(
            "The last message is the assistant's: an answer that was begun elsewhere cannot be gone on with.",
            hint="End with a message of the user; for a fixed form use output_config.format.",
            param=f"messages.{len(asked.messages) - 1}.role",
            code="invalid_value",
        )
    return turns, places


def _plain(content: str | Sequence[Block], place: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_text(block, f"{place}.{number}") for number, block in enumerate(content))


def _text(block: Block, place: str) -> str:
    if block.get("type") != "text":
        raise _unreadable(block, place)
    if not isinstance(block.get("text"), str):
        raise _missing(place, "text")
    return str(block["text"])


def _said(content: str | Sequence[Block], place: str) -> dict[str, Any]:
    """A turn of the assistant: thoughts, text and calls."""
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for number, block in enumerate(content):
        where = f"{place}.content.{number}"
        kind = block.get("type")
        if kind == "thinking" and isinstance(block.get("thinking"), str):
            thoughts.append(block["thinking"])
        elif kind == "tool_use":
            for name, wanted in (("id", str), ("name", str), ("input", dict)):
                if not isinstance(block.get(name), wanted):
                    raise _missing(where, name)
            function = {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()}
            calls.append({"id": block["id"], "type": "function", "function": function})
        elif kind != "redacted_thinking":
            # Redacted thoughts are for the eyes of another vendor's models.
            texts.append(_text(block, where))
    found: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts) if texts or not calls else None}
    if thoughts:
        found["reasoning_content"] = "\n".join(thoughts)
    if calls:
        found["tool_calls"] = calls
    return found


def _asked(content: str | Sequence[Block], place: str) -> list[dict[str, Any]]:
    """A turn of the user: results of tools, then text and images."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for number, block in enumerate(content):
        where = f"{place}.content.{number}"
        if block.get("type") == "tool_result":
            if not isinstance(block.get("tool_use_id"), str):
                raise _missing(where, "tool_use_id")
            results.append(
                {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _result(block, f"{where}.content")}
            )
        elif block.get("type") == "image":
            parts.append({"type": "image_url", "image_url": {"url": _image(block, where)}})
        else:
            parts.append({"type": "text", "text": _text(block, where)})
    if not parts:
        return results
    only_text = len(parts) == 1 and parts[0]["type"] == "text"
    return [*results, {"role": "user", "content": parts[0]["text"] if only_text else parts}]


def _result(block: Block, place: str) -> str:
    content = block.get("content")
    if content is None:
        text = ""
    elif isinstance(content, str) or (isinstance(content, list) and all(isinstance(each, dict) for each in content)):
        text = _plain(content, place)
    else:
        raise InvalidRequest(f"{place}: must be a text or a list of content blocks.", param=place, code="invalid_type")
    return f"Error: {text}" if block.get("is_error") else text


def _image(block: Block, place: str) -> str:
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    if source.get("type") == "url" and isinstance(source.get("url"), str):
        return str(source["url"])
    if source.get("type") == "base64" and isinstance(source.get("data"), str) and isinstance(source.get("media_type"), str):
        return f"data:{source['media_type']};base64,{source['data']}"
    raise _unreadable(block, place)


def _unreadable(block: Block, place: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"{place}: content of the type {block.get('type')!r} is not supported here.", hint=_TEXT_ONLY, param=place
    )


def _missing(place: str, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{place}.{name}: is missing or has the wrong type.", param=f"{place}.{name}", code="missing_required_parameter"
    )
