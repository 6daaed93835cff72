"""The items of responses and conversations: checked and given ids as they come in, made the turns of a chat as they go on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import orjson

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.kernel.base.ids import Prefix, new_id
from modelworks.kernel.gateway.generation.chat_reading import OUTPUT
from modelworks.kernel.gateway.responses.item_forms import check_fields, check_kind

Item = dict[str, Any]

#: Item types and the prefix of their ids.
PREFIXES: Final[dict[str, Prefix]] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "file_search_call": "fs",
    "mcp_list_tools": "mcpl",
    "mcp_call": "mcp",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
}
#: The tool with which a model searches files: its type, and the name of its function.
SEARCH: Final = "file_search"
REFERENCE: Final = "item_reference"
_ID: Final = re.compile(r"[\w.:-]{1,64}")
_OUTPUTS: Final = ("function_call_output", "custom_tool_call_output")
_CALLS: Final = ("function_call", "custom_tool_call")
_OF_CALLS: Final = ("async", "caller", "name", "namespace")
#: The texts that an item must have, by type.
_NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
    "function_call_output": ("call_id",),
    "custom_tool_call_output": ("call_id",),
    "mcp_list_tools": ("server_label",),
    "mcp_call": ("server_label", "name", "arguments"),
    "mcp_approval_request": ("server_label", "name", "arguments"),
    "mcp_approval_response": ("approval_request_id",),
}
#: What items of remote tools may hold beside those.
_KEPT: Final[dict[str, tuple[str, ...]]] = {
    "file_search_call": ("queries", "results"),
    "mcp_list_tools": ("tools", "error"),
    "mcp_call": ("output", "error", "approval_request_id"),
    "mcp_approval_response": ("approve", "reason"),
}
_OF_RESULTS: Final = ("attributes", "file_id", "filename", "score", "text")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")


def function_name(label: str, tool: str) -> str:
    """Under which name a chat offers a tool of a server: at most 64 letters, digits, _ and -, and no other's."""
    plain = f"{label}__{_UNFIT.sub('_', tool)}"
    if len(plain) <= 64 and _UNFIT.search(tool) is None:
        return plain
    return f"{plain[:55]}_{sha256(f'{label}/{tool}'.encode()).hexdigest()[:8]}"


def checked(value: str | Sequence[Item] | None, place: str = "input") -> list[Item]:
    """Items as they are kept: each with an id, a type, a status, and content in parts.

    An `item_reference` stays one: see `references`.

    Raises:
        UnsupportedParameter: an item or a part of a type that no model here reads; `param` is its place.
        InvalidRequest: a field is missing or has the wrong type.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [_message({"role": "user", "content": value}, place)]
    return [_item(item, f"{place}.{number}") for number, item in enumerate(value)]


def _item(item: Item, place: str) -> Item:
    kind = item.get("type", "message" if "role" in item else REFERENCE if set(item) == {"id"} else None)
    if kind == REFERENCE:
        if not isinstance(item.get("id"), str):
            raise _missing(place, "id")
        return {"type": REFERENCE, "id": item["id"]}
    check_fields(item, place)
    if kind == "message":
        return _message(item, place)
    if not isinstance(kind, str) or kind not in PREFIXES:
        raise UnsupportedParameter(
            f"{place}: items of the type {kind!r} are not supported.",
            hint=f"Send {', '.join(PREFIXES)} or {REFERENCE}.",
            param=place,
        )
    for name in _NEEDED.get(kind, ()):
        if not isinstance(item.get(name), str):
            raise _missing(place, name)
    check_kind(item, kind, place)
    found: Item = {"id": _id_of(item, kind), "type": kind} | _echoed(item, kind)
    if kind == "reasoning":
        if item.get("encrypted_content") is not None:
            found["encrypted_content"] = item["encrypted_content"]
        found["summary"] = _thoughts(item.get("summary"), "summary_text", f"{place}.summary")
        found["content"] = _thoughts(item.get("content"), "reasoning_text", f"{place}.content")
    elif kind in _OUTPUTS:
        output = item.get("output")
        found["call_id"] = item["call_id"]
        found["output"] = output if isinstance(output, str) else _parts(output, "user", f"{place}.output")
    else:
        found |= {name: item[name] for name in _NEEDED.get(kind, ())}
        found |= {name: item.get(name) for name in _KEPT.get(kind, ())}
    if kind == "file_search_call" and item.get("results") is not None:
        found["results"] = [{name: each.get(name) for name in _OF_RESULTS} for each in item["results"]]
    if kind == "mcp_approval_response" and not isinstance(item.get("approve"), bool):
        raise InvalidRequest(f"{place}.approve: must be true or false.", param=f"{place}.approve", code="invalid_type")
    if not kind.startswith("mcp_") or kind == "mcp_call":
        found["status"] = "completed"
    return found


def _message(item: Item, place: str) -> Item:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise InvalidRequest(
            f"{place}.role: must be user, assistant, system or developer.", param=f"{place}.role", code="invalid_value"
        )
    content = item.get("content")
    if isinstance(content, str):
        kind = "output_text" if role == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    return {
        "id": _id_of(item, "message"),
        "type": "message",
        "status": "completed",
        "role": role,
        "content": _parts(content, role, f"{place}.content"),
    } | _echoed(item, "message")


def _echoed(item: Item, kind: str) -> Item:
    """What says something to the caller alone: it is kept, and shown again."""
    names = ("phase",) if kind == "message" else _OF_CALLS if kind in (*_OUTPUTS, *_CALLS) else ()
    return {name: item[name] for name in names if item.get(name) is not None}


def _parts(parts: Any, role: str, place: str) -> list[Item]:
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidRequest(f"{place}: must be a text or a list of content parts.", param=place, code="invalid_type")
    return [_part(part, role, f"{place}.{number}") for number, part in enumerate(parts)]


def _part(part: Item, role: str, place: str) -> Item:
    kind = part.get("type")
    check_fields(part, place)
    if kind in ("input_text", "output_text", "text") and isinstance(part.get("text"), str):
        if role != "assistant":
            return {"type": "input_text", "text": part["text"]} | _marked(part)
        entries = {"logprobs": part["logprobs"]} if part.get("logprobs") else {}
        return {"type": "output_text", "text": part["text"], "annotations": part.get("annotations") or []} | entries
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "refusal", "refusal": part["refusal"]}
    if kind == "input_image" and part.get("file_id") is not None:
        raise UnsupportedParameter(
            f"{place}.file_id: images that were uploaded are not supported.",
            hint="Send the image itself: its address, or a data URL, in image_url.",
            param=f"{place}.file_id",
        )
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "input_image", "image_url": part["image_url"], "detail": part.get("detail") or "auto"} | _marked(part)
    if kind in ("input_text", "output_text", "text", "refusal"):
        raise _missing(place, "refusal" if kind == "refusal" else "text")
    raise UnsupportedParameter(
        f"{place}: content of the type {kind!r} is not supported.", hint="Send text, or the URL of an image.", param=place
    )


def _marked(part: Item) -> Item:
    """Where the caller would have the prompt cached."""
    mark = part.get("prompt_cache_breakpoint")
    return {} if mark is None else {"prompt_cache_breakpoint": mark}


def _thoughts(parts: Any, kind: str, place: str) -> list[Item]:
    if parts is None:
        return []
    for number, part in enumerate(parts if isinstance(parts, list) else ()):
        if isinstance(part, dict) and part.get("type", kind) != kind:
            where = f"{place}.{number}.type"
            raise InvalidRequest(f"{where}: must be {kind}.", param=where, code="invalid_value")
    if not isinstance(parts, list) or not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise InvalidRequest(f"{place}: must be a list of parts with a text.", param=place, code="invalid_type")
    return [{"type": kind, "text": part["text"]} for part in parts]


def _id_of(item: Item, kind: str) -> str:
    """The id that the client gave it, as it had it from an answer; else a fresh one."""
    given = item.get("id")
    return given if isinstance(given, str) and _ID.fullmatch(given) else new_id(PREFIXES[kind])


def _missing(place: str, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{place}.{name}: must be there, and a text.", param=f"{place}.{name}", code="missing_required_parameter"
    )


def references(items: Sequence[Item]) -> list[str]:
    """The ids of the items that are only referred to."""
    return [item["id"] for item in items if item["type"] == REFERENCE]


def as_turns(items: Sequence[Item], places: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """A chat's messages, and the place in the caller's request that each came from.

    Calls and the text before them are one turn of the assistant, as chat templates have it; what it thought goes with the turn.

    Args:
        places: of the items.
    """
    turns: list[dict[str, Any]] = []
    found: list[str] = []
    thoughts: list[str] = []
    requests = {item["id"]: item for item in items if item["type"] == "mcp_approval_request"}

    def add(turn: dict[str, Any], place: str) -> None:
        turns.append(turn)
        found.append(place)

    for item, place in zip(items, places, strict=True):
        kind = item["type"]
        if kind == "reasoning":
            thoughts.extend(part["text"] for part in item.get("content") or item.get("summary") or ())
        elif kind in _OUTPUTS:
            output = item["output"] if isinstance(item["output"], str) else _content(item["output"])
            add(
                {"role": "tool", "tool_call_id": item["call_id"], "content": output},
                f"{place}{OUTPUT}" if "." in place else place,
            )
        elif kind == "message":
            turn: dict[str, Any] = {"role": item["role"], "content": _content(item["content"])}
            if item["role"] == "assistant" and thoughts:
                turn["reasoning_content"] = "\n".join(thoughts)
            thoughts = []
            add(turn, place)
        elif kind == "file_search_call":
            for turn in search_turns(item, "\n\n".join(_cited(each) for each in item.get("results") or ())):
                add(turn, place)
        elif kind.startswith("mcp_"):
            for turn in _remote_turns(item, requests):
                add(turn, place)
        else:
            if not turns or turns[-1]["role"] != "assistant":
                turn = {"role": "assistant", "content": None}
                if thoughts:
                    turn["reasoning_content"] = "\n".join(thoughts)
                add(turn, place)
            thoughts = []
            turns[-1].setdefault("tool_calls", []).append(_call(item))
    return turns, found


def _remote_turns(item: Item, requests: Mapping[str, Item]) -> list[dict[str, Any]]:
    """A call of a remote tool and what it gave, or that it was not allowed. Lists and open questions say nothing to a model."""
    if item["type"] == "mcp_call":
        return remote_turns(item)
    if item["type"] == "mcp_approval_response" and item["approve"] is False:
        asked = requests.get(item["approval_request_id"])
        if asked is not None:
            why = f" {item['reason']}" if isinstance(item.get("reason"), str) else ""
            return remote_turns({**asked, "output": f"The user did not allow this call.{why}", "error": None})
    return []


def remote_turns(item: Item) -> list[dict[str, Any]]:
    """The assistant's call of a remote tool and the tool's answer."""
    function = {"name": function_name(item["server_label"], item["name"]), "arguments": item["arguments"]}
    error = item.get("error")
    output = item.get("output") if error is None else f"Error: {_reason(error)}"
    return [
        {"role": "assistant", "content": None, "tool_calls": [{"id": item["id"], "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": item["id"], "content": output if isinstance(output, str) else ""},
    ]


def search_turns(item: Item, output: str) -> list[dict[str, Any]]:
    """The assistant's search of files and what it gave; nothing where that is not known any more."""
    if not output:
        return []
    function = {"name": SEARCH, "arguments": orjson.dumps({"queries": item["queries"]}).decode()}
    return [
        {"role": "assistant", "content": None, "tool_calls": [{"id": item["id"], "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": item["id"], "content": output},
    ]


def _cited(result: Mapping[str, Any]) -> str:
    return f"{result.get('filename') or ''}: {result.get('text') or ''}"


def _reason(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    content = error.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text")) for part in content if isinstance(part, dict))
    return str(error.get("message"))


def _call(item: Item) -> dict[str, Any]:
    arguments = item["arguments"] if item["type"] == "function_call" else orjson.dumps({"input": item["input"]}).decode()
    return {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": arguments}}


def _content(parts: Sequence[Item]) -> str | list[dict[str, Any]]:
    """One text as it is, anything else in a chat's parts."""
    if len(parts) == 1 and "text" in parts[0]:
        return str(parts[0]["text"])
    if not parts:
        return ""
    return [_chat_part(part) for part in parts]


def _chat_part(part: Item) -> dict[str, Any]:
    if part["type"] == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    if part["type"] == "input_image":
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part["detail"]}}
    return {"type": "text", "text": part["text"]}
