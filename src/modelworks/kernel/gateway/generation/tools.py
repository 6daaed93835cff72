"""Tools that a chat's model may call, as OpenAI writes them: what was asked for, before an engine sees it.

The schemas of arguments are the engine's to judge, which holds the calls to them.
"""

from __future__ import annotations

import re
from typing import Any

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.kernel.gateway.schemas import ChatRequest

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def tools_of(request: ChatRequest) -> dict[str, Any]:
    """What of a `GenerationInput` says which tools may be called and how; nothing where none may.

    With `tool_choice` "none", the model is not told of the tools at all.

    Raises:
        InvalidRequest: a tool without a name, or two of one; a choice that names none of them.
        UnsupportedParameter: a tool that is no function.
    """
    names = [_name(tool, number) for number, tool in enumerate(request.tools or ())]
    doubled = next((number for number, name in enumerate(names) if name in names[:number]), None)
    if doubled is not None:
        place = f"tools.{doubled}.function.name"
        raise InvalidRequest(f"{place}: {names[doubled]!r} is the name of two tools.", param=place, code="invalid_value")
    required, chosen = _choice(request.tool_choice)
    if request.tool_choice == "none":
        return {}
    if not names:
        if required or chosen:
            raise InvalidRequest(
                "tool_choice asks for a call, and there are no tools.",
                hint="Give tools, or leave tool_choice out.",
                param="tool_choice",
                code="invalid_value",
            )
        return {}
    for name in chosen or ():
        if name not in names:
            raise InvalidRequest(
                f"tool_choice names the tool {name!r}, which is not among tools.", param="tool_choice", code="invalid_value"
            )
    found: dict[str, Any] = {"tools": request.tools}
    if required:
        found["tool_choice"] = "required"
    if chosen is not None:
        found["callable_tools"] = chosen
    if request.parallel_tool_calls is not None:
        found["parallel_tool_calls"] = request.parallel_tool_calls
    return found


def _name(tool: dict[str, Any], number: int) -> str:
    kind = tool.get("type", "function")
    if kind != "function":
        raise UnsupportedParameter(
            f"tools.{number}.type: tools of the type {str(kind)[:40]!r} are not supported.",
            hint="Offer functions.",
            param=f"tools.{number}.type",
        )
    function = tool.get("function")
    place = f"tools.{number}.function"
    if not isinstance(function, dict):
        missing = function is None
        raise InvalidRequest(
            f"The parameter {place!r} is missing." if missing else f"{place}: must be an object.",
            param=place,
            code="missing_required_parameter" if missing else "invalid_type",
        )
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{place}.name: must be 1 to 64 letters, digits, dots, dashes or underscores.",
            param=f"{place}.name",
            code="invalid_value",
        )
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest(f"{place}.parameters: must be an object.", param=f"{place}.parameters", code="invalid_type")
    for field, kind_of, said in (("description", str, "a text"), ("strict", bool, "true or false")):
        if function.get(field) is not None and not isinstance(function[field], kind_of):
            raise InvalidRequest(f"{place}.{field}: must be {said}.", param=f"{place}.{field}", code="invalid_type")
    return name


def _choice(wanted: Any) -> tuple[bool, list[str] | None]:
    """Whether a call is required, and the names of the tools that may be called (None: all)."""
    if wanted is None or wanted in ("auto", "none"):
        return False, None
    if wanted == "required":
        return True, None
    if isinstance(wanted, dict):
        if wanted.get("type") == "function" and (name := _chosen(wanted)):
            return True, [name]
        allowed = wanted.get("allowed_tools", wanted)
        if wanted.get("type") == "allowed_tools" and isinstance(allowed, dict) and isinstance(allowed.get("tools"), list):
            chosen = [_chosen(each) for each in allowed["tools"]]
            if chosen and all(chosen) and allowed.get("mode", "auto") in ("auto", "required"):
                return allowed.get("mode") == "required", [name for name in chosen if name]
    raise InvalidRequest(
        "tool_choice: must be auto, none, required, a function or allowed_tools.",
        hint='Write {"type": "function", "function": {"name": "…"}} or {"type": "allowed_tools", "allowed_tools": '
        '{"mode": "auto" | "required", "tools": […]}}.',
        param="tool_choice",
        code="invalid_value",
    )


def _chosen(named: Any) -> str | None:
    """The name in either of the two forms: of chat completions and of responses."""
    inner = named.get("function", named) if isinstance(named, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) and name else None
