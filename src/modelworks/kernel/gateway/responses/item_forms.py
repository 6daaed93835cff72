"""What items, their parts and tools may hold beside their text: of another kind it is refused with its place.

Most of it says something to the caller alone. It is kept and shown again, so that nobody's program finds a field gone that it
sent; a field that asks for what is not done here is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.schemas import Wire

_Form = TypeVar("_Form", bound=BaseModel)


class _Bytes(Wire):
    token: str
    logprob: float
    bytes: list[int] | None = None


class Entry(_Bytes):
    """A token of an earlier answer with its log-probability."""

    top_logprobs: list[_Bytes] | None = None


class ItemFields(Wire):
    """Optional fields of items and of their parts."""

    id: str | None = None
    status: str | None = None
    phase: str | None = None
    name: str | None = None
    namespace: str | None = None
    detail: str | None = None
    image_url: str | None = None
    encrypted_content: str | None = None
    is_async: bool | None = Field(default=None, alias="async")
    caller: dict[str, str] | None = None
    prompt_cache_breakpoint: dict[str, str] | None = None
    annotations: list[dict[str, Any]] | None = None
    logprobs: list[Entry] | None = None


class _FileCitation(Wire):
    file_id: str
    filename: str | None = None
    index: int


class _UrlCitation(Wire):
    start_index: int
    end_index: int
    title: str | None = None
    url: str


class _ContainerCitation(Wire):
    container_id: str
    file_id: str
    filename: str | None = None
    start_index: int
    end_index: int


class _FilePath(Wire):
    file_id: str
    index: int


_ANNOTATIONS: Final[dict[Any, type[Wire]]] = {
    "file_citation": _FileCitation,
    "url_citation": _UrlCitation,
    "container_file_citation": _ContainerCitation,
    "file_path": _FilePath,
}


class _Listed(Wire):
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None


class _ListTools(Wire):
    tools: list[_Listed] | None = None
    error: str | None = None


class _RemoteCall(Wire):
    output: str | None = None
    approval_request_id: str | None = None


class _RemoteError(Wire):
    """Of a call: what the protocol, HTTP or the tool said."""

    type: Literal["mcp_protocol_error", "mcp_tool_execution_error", "http_error"]
    code: int | None = None
    message: str | None = None
    content: Any = None


class _Approval(Wire):
    reason: str | None = None


class _Result(Wire):
    attributes: dict[str, str | float | bool] | None = None
    file_id: str | None = None
    filename: str | None = None
    score: float | None = None
    text: str | None = None


class _SearchCall(Wire):
    queries: list[str]
    results: list[_Result] | None = None


_OF_KINDS: Final[dict[str, type[Wire]]] = {
    "file_search_call": _SearchCall,
    "mcp_list_tools": _ListTools,
    "mcp_call": _RemoteCall,
    "mcp_approval_response": _Approval,
}


class OwnTool(Wire):
    """Optional fields of a tool that the caller's own program answers."""

    description: str | None = None
    strict: bool | None = None
    output_schema: dict[str, Any] | None = None
    is_async: bool | None = Field(default=None, alias="async")
    defer_loading: bool | None = None
    allowed_callers: list[Literal["direct", "programmatic"]] | None = None


class _RemoteChoice(Wire):
    server_label: str
    name: str | None = None


def check_fields(thing: Mapping[str, Any], place: str) -> None:
    """Check what an item or a part may hold beside its text; raises InvalidRequest with the place."""
    _read(ItemFields, thing, place)
    for number, each in enumerate(thing.get("annotations") or ()):
        where = f"{place}.annotations.{number}"
        kind = each.get("type")
        form = _ANNOTATIONS.get(kind) if isinstance(kind, str) else None
        if form is None:
            raise InvalidRequest(
                f"{where}.type: must be {', '.join(_ANNOTATIONS)}.", param=f"{where}.type", code="invalid_value"
            )
        _read(form, each, where)


def check_kind(item: Mapping[str, Any], kind: str, place: str) -> None:
    """Check the fields of one type of items; raises InvalidRequest with the place."""
    if (form := _OF_KINDS.get(kind)) is not None:
        _read(form, item, place)
    error = item.get("error")
    if kind == "mcp_call" and error is not None and not isinstance(error, str):
        _read(_RemoteError, error, f"{place}.error")


def check_tool(tool: Mapping[str, Any], place: str) -> None:
    """Check an own tool's optional fields.

    Raises:
        InvalidRequest: one of the wrong kind.
        UnsupportedParameter: one that asks for what is not done: tools that are found later, or called by programs.
    """
    found = _read(OwnTool, tool, place)
    asked = {
        "async": (found.is_async, "Leave it out: an answer ends with its calls, and goes on with their outputs."),
        "defer_loading": (found.defer_loading, "Leave it out: the model is told of every tool at once."),
        "allowed_callers": (found.allowed_callers == ["programmatic"], "Let the model call it: allow direct."),
    }
    for name, (wanted, hint) in asked.items():
        if wanted:
            raise UnsupportedParameter(f"{place}.{name}: is not supported.", hint=hint, param=f"{place}.{name}")


def check_remote_choice(choice: Mapping[str, Any]) -> None:
    """Check a `tool_choice` that names a server; raises InvalidRequest."""
    _read(_RemoteChoice, choice, "tool_choice")


def _read(form: type[_Form], given: Any, place: str) -> _Form:
    try:
        return form.model_validate(given)
    except ValidationError as error:
        raise from_validation(error, prefix=f"{place}." if isinstance(given, Mapping) else place) from error
