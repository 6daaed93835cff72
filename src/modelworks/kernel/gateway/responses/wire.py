"""The wire form of responses and conversations: what is asked for, and what of it a chat can be asked."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.kernel.gateway.responses.item_forms import check_remote_choice, check_tool
from modelworks.kernel.gateway.responses.items import SEARCH
from modelworks.kernel.gateway.schemas import CacheOptions, Metadata, StreamOptions, Wire

#: What `include` may name. Log-probabilities and results of searches occur here; the others are about tools that are refused.
Includable = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
LOGPROBS: Final = "message.output_text.logprobs"
MAX_ITEMS: Final = 10_000
#: Fields that would make another answer than the one given here.
_REFUSED: Final = {
    "access_programs": "Leave it out.",
    "background_options": "Leave it out: with background alone the response is worked on until it is done.",
    "context_management": "Leave it out: nothing is compacted. With truncation 'auto' the oldest turns are left out.",
    "image": "Leave it out: images are handed on as they are.",
    "moderation": "Leave it out.",
    "personality": "Say in instructions how the model shall speak.",
    "prompt": "Send the text itself in instructions and input: prompts are not kept on the server.",
}
_TOOLS_HINT: Final = (
    "There are function and custom, which your own program calls, and mcp and file_search, which the server calls."
)


class Reasoning(Wire):
    """How much a model may think, where it can be told."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = Field(default=None, description="The former name of summary.")
    context: str | None = None
    mode: str | None = None


class TextConfig(Wire):
    """The form of the text."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    @field_validator("format")
    @classmethod
    def _known(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        kind = "text" if value is None else value.get("type")
        if kind not in ("text", "json_object", "json_schema"):
            raise PydanticCustomError("format_type", "type must be text, json_object or json_schema")
        if kind == "json_schema" and not (isinstance((value or {}).get("name"), str) and "schema" in (value or {})):
            raise PydanticCustomError("format_schema", "a json_schema needs a name and a schema")
        if value is not None and not isinstance(value.get("description") or "", str):
            raise PydanticCustomError("format_description", "description must be a text")
        return value


class ConversationId(Wire):
    id: str


class _Context(Wire):
    """What the model reads."""

    model: str = Field(min_length=1)
    input: Any = Field(default=None, description="A text, or a list of items: messages, function calls and their outputs.")
    instructions: str | None = Field(default=None, description="A system message; not carried on to the next response.")
    previous_response_id: str | None = Field(default=None, description="Goes on where that response ended.")
    conversation: Any = Field(default=None, description="A conversation (or its id) to go on with; the turn is added to it.")
    tools: list[dict[str, Any]] | None = Field(
        default=None, max_length=512, description="function, custom, mcp or file_search."
    )
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @field_validator("conversation", mode="after")
    @classmethod
    def _id(cls, value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, dict) and isinstance(value.get("id"), str):
            return str(value["id"])
        raise PydanticCustomError("conversation_type", "must be an id or an object with an id")

    @field_validator("input", mode="after")
    @classmethod
    def _text_or_items(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            if len(value) > MAX_ITEMS:
                raise PydanticCustomError("input_length", "may hold at most 10000 items")
            return value
        raise PydanticCustomError("input_type", "must be a text or a list of items")


class ResponseCreate(_Context):
    """POST /v1/responses."""

    stream: bool | None = None
    background: bool | None = Field(default=None, description="Answer at once, and work on; poll GET /v1/responses/{id}.")
    store: bool | None = Field(
        default=None, description="Whether the response can be fetched and gone on with; true by default."
    )
    metadata: Metadata | None = None
    include: list[Includable] | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = Field(default=None, ge=1, description="Of tools that the server calls.")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    service_tier: str | None = None
    safety_identifier: str | None = Field(default=None, max_length=512)
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    prompt_cache_options: CacheOptions | None = None
    prompt_cache_retention: str | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class InputTokensCount(_Context):
    """POST /v1/responses/input_tokens."""


class ConversationCreate(Wire):
    """POST /v1/conversations."""

    items: list[dict[str, Any]] | None = Field(default=None, max_length=20, description="The first items.")
    metadata: Metadata | None = None


class ConversationUpdate(Wire):
    """POST /v1/conversations/{conversation_id}."""

    metadata: Metadata | None


class ItemsCreate(Wire):
    """POST /v1/conversations/{conversation_id}/items."""

    items: list[dict[str, Any]] = Field(min_length=1, max_length=20)


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Raise UnsupportedParameter for a field that cannot be honoured, naming it."""
    for name, hint in _REFUSED.items():
        if body.get(name):
            raise UnsupportedParameter(f"The parameter {name!r} is not supported.", hint=hint, param=name)


def check_context(asked: _Context) -> None:
    """Raise InvalidRequest for fields that contradict each other, and where there is nothing to answer."""
    if asked.previous_response_id is not None and asked.conversation is not None:
        raise InvalidRequest(
            "previous_response_id and conversation cannot go together.",
            hint="A conversation holds its own history: leave previous_response_id out.",
            param="previous_response_id",
            code="invalid_value",
        )
    if asked.input in (None, "", []) and asked.previous_response_id is None and asked.conversation is None:
        raise InvalidRequest(
            "The parameter 'input' is missing.",
            hint="Give a text or a list of items.",
            param="input",
            code="missing_required_parameter",
        )


def chat_fields(asked: _Context) -> dict[str, Any]:
    """Tools, form and sampling as a chat asks for them.

    Raises:
        UnsupportedParameter: a tool of another type than function and custom, or a custom tool with a grammar.
        InvalidRequest: a tool without a name, a choice that names no tool.
    """
    found: dict[str, Any] = {}
    own = [_tool(tool, f"tools.{at}") for at, tool in enumerate(asked.tools or ()) if tool.get("type") not in ("mcp", SEARCH)]
    if own:
        found["tools"] = own
    if is_remote(asked.tool_choice):
        if asked.tool_choice["type"] == "mcp":
            check_remote_choice(asked.tool_choice)
        elif not any(tool.get("type") == SEARCH for tool in asked.tools or ()):
            raise InvalidRequest(
                f"tool_choice names {SEARCH}, which is not among tools.", param="tool_choice", code="invalid_value"
            )
    elif asked.tool_choice is not None:
        found["tool_choice"] = _choice(asked.tool_choice)
    if asked.tools and asked.parallel_tool_calls is not None:
        found["parallel_tool_calls"] = asked.parallel_tool_calls
    if asked.text is not None and asked.text.format is not None and asked.text.format["type"] != "text":
        wanted = asked.text.format
        found["response_format"] = {"type": wanted["type"]}
        if wanted["type"] == "json_schema":
            found["response_format"]["json_schema"] = {key: value for key, value in wanted.items() if key != "type"}
    if asked.text is not None and asked.text.verbosity is not None:
        found["verbosity"] = asked.text.verbosity
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        found["reasoning_effort"] = asked.reasoning.effort
    if isinstance(asked, ResponseCreate):
        found |= _sampling(asked)
    return found


def _sampling(asked: ResponseCreate) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, theirs in (
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("max_output_tokens", "max_tokens"),
        ("user", "user"),
        ("safety_identifier", "safety_identifier"),
    ):
        value = getattr(asked, name)
        if value is not None:
            found[theirs] = value
    if asked.top_logprobs or LOGPROBS in (asked.include or ()):
        found["logprobs"] = True
        found["top_logprobs"] = asked.top_logprobs or 0
    return found


#: What a chat calls fields of a response, for errors.
CHAT_NAMES: Final = {
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
}


def custom_tools(tools: list[dict[str, Any]] | None) -> frozenset[str]:
    """The names of the tools whose input is plain text."""
    return frozenset(str(tool["name"]) for tool in tools or () if tool.get("type") == "custom" and "name" in tool)


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise UnsupportedParameter(f"{place}: tools of the type {kind!r} are not supported.", hint=_TOOLS_HINT, param=place)
    check_tool(tool, place)
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{place}.name: a tool needs a name.", param=f"{place}.name", code="missing_required_parameter")
    function: dict[str, Any] = {"name": name}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    if kind == "function":
        parameters = tool.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise InvalidRequest(
                f"{place}.parameters: must be a JSON schema.", param=f"{place}.parameters", code="invalid_type"
            )
        function["parameters"] = parameters if parameters is not None else {"type": "object", "properties": {}}
        if tool.get("strict") is not None:
            function["strict"] = tool["strict"]
    else:
        form = tool.get("format")
        if isinstance(form, dict) and form.get("type", "text") not in ("text", "grammar"):
            where = f"{place}.format.type"
            raise InvalidRequest(f"{where}: must be text.", param=where, code="invalid_value")
        if form is not None and not (isinstance(form, dict) and form.get("type", "text") == "text"):
            raise UnsupportedParameter(
                f"{place}.format: a custom tool with a grammar is not supported.",
                hint="Take the format text, or a function with a JSON schema.",
                param=f"{place}.format",
            )
        # A text is a function of one parameter: every engine that can call functions can call it.
        function["parameters"] = {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
            "additionalProperties": False,
        }
    return {"type": "function", "function": function}


def is_remote(choice: Any) -> bool:
    """Whether `tool_choice` names what the server calls itself, which is known better when its tools are."""
    return isinstance(choice, dict) and choice.get("type") in ("mcp", SEARCH)


def _is_search(tool: dict[str, Any]) -> bool:
    return tool.get("type") == SEARCH


def _choice(choice: Any) -> Any:
    if isinstance(choice, str):
        if choice in ("none", "auto", "required"):
            return choice
    elif isinstance(choice, dict):
        kind = choice.get("type")
        if kind in ("function", "custom") and isinstance(choice.get("name"), str):
            return {"type": "function", "function": {"name": choice["name"]}}
        if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
            tools = [SEARCH if _is_search(tool) else tool.get("name") for tool in choice["tools"] if isinstance(tool, dict)]
            if len(tools) == len(choice["tools"]) and all(isinstance(name, str) for name in tools):
                named = [{"type": "function", "function": {"name": name}} for name in tools]
                return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": named}}
        if isinstance(kind, str) and kind not in ("function", "custom", "allowed_tools"):
            raise UnsupportedParameter(
                f"tool_choice: tools of the type {kind!r} are not supported.", hint=_TOOLS_HINT, param="tool_choice"
            )
    raise InvalidRequest(
        "tool_choice: must be 'none', 'auto', 'required', or name a tool.",
        hint='To name one: {"type": "function", "name": "…"}.',
        param="tool_choice",
        code="invalid_value",
    )
