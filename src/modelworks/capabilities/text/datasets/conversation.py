"""What a conversation may look like: roles and their order, tools, calls and results, in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from modelworks.capabilities.text.datasets.samples import Fault, Message, Severity

#: Longer messages are files that someone pasted, and no context holds them.
MAX_MESSAGE_CHARS = 10_000_000
ROLES = ("system", "developer", "user", "assistant", "tool")


class Complaints:
    """Collects the faults of one record."""

    def __init__(self, file: str, line: int) -> None:
        self.file = file
        self.line = line
        self.faults: list[Fault] = []

    def add(self, field: str | None, code: str, message: str, hint: str, severity: Severity = "error") -> None:
        """Note one fault."""
        self.faults.append(Fault(self.file, self.line, field, code, message, hint, severity))

    @property
    def is_usable(self) -> bool:
        """Whether there is no error among them."""
        return all(fault.severity == "warning" for fault in self.faults)


def read_messages(value: Any, field: str, complaints: Complaints) -> list[Message]:
    """Messages with string contents and tool calls in OpenAI's form; what is wrong is noted and left out."""
    if not isinstance(value, list) or not value:
        complaints.add(field, "missing_field", "There is no list of messages.", 'Give a list of {"role": …, "content": …}.')
        return []
    return [
        message
        for position, each in enumerate(value)
        if (message := _read_message(each, f"{field}.{position}", complaints)) is not None
    ]


def _read_message(value: Any, field: str, complaints: Complaints) -> Message | None:
    if not isinstance(value, dict):
        complaints.add(field, "wrong_type", "The message is not an object.", 'Write {"role": …, "content": …}.')
        return None
    role = value.get("role")
    if role not in ROLES:
        shown = "is missing" if role is None else f"is {_short(role)}"
        complaints.add(f"{field}.role", "unknown_role", f"The role {shown}.", f"Use one of: {', '.join(ROLES)}.")
        return None
    message: Message = {"role": role, "content": _read_content(value.get("content"), f"{field}.content", complaints)}
    calls = value.get("tool_calls")
    if calls:
        if role == "assistant":
            message["tool_calls"] = read_calls(calls, f"{field}.tool_calls", complaints)
        else:
            complaints.add(
                f"{field}.tool_calls", "role_order", f"A {role} message calls tools.", "Only the assistant calls tools."
            )
    if role == "tool" and isinstance(value.get("tool_call_id"), str):
        message["tool_call_id"] = value["tool_call_id"]
    if isinstance(value.get("name"), str):
        message["name"] = value["name"]
    if not message["content"].strip():
        if role == "assistant" and not message.get("tool_calls"):
            complaints.add(
                f"{field}.content",
                "empty_assistant",
                "The assistant says nothing and calls nothing.",
                "Give the answer that is to be learnt, or remove the message.",
            )
        elif role == "user":
            complaints.add(f"{field}.content", "empty_message", "The user says nothing.", "Remove it.", "warning")
    if "weight" in value:
        message["weight"] = value["weight"]
    return message


def _read_content(value: Any, field: str, complaints: Complaints) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _checked_text(value, field, complaints)
    if isinstance(value, list):
        pieces = []
        for position, part in enumerate(value):
            if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                pieces.append(_checked_text(part["text"], f"{field}.{position}.text", complaints))
            else:
                complaints.add(
                    f"{field}.{position}", "wrong_type", "This part is not text.", "A language model learns from text only."
                )
        return "".join(pieces)
    complaints.add(field, "wrong_type", f"The content is {_type_of(value)}, not text.", "Write it as a string.")
    return ""


def checked_string(record: dict[str, Any], key: str, complaints: Complaints, *, optional: bool = False) -> str:
    """A field that has to be text; empty where it is not, which is noted."""
    value = record.get(key)
    if isinstance(value, str):
        return _checked_text(value, key, complaints)
    if value is None and optional:
        return ""
    if value is None:
        complaints.add(key, "missing_field", "The field is missing.", f'Add "{key}", or remove the record.')
    else:
        complaints.add(key, "wrong_type", f"The field is {_type_of(value)}, not text.", "Write it as a string.")
    return ""


def _checked_text(text: str, field: str, complaints: Complaints) -> str:
    if len(text) > MAX_MESSAGE_CHARS:
        complaints.add(
            field,
            "message_too_long",
            f"The text has {len(text):,} characters; at most {MAX_MESSAGE_CHARS:,} are taken.",
            "Split it, or leave out what was pasted by mistake.",
        )
        return text[:1]
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        complaints.add(
            field,
            "half_surrogate",
            f"Half a surrogate pair at character {error.start}.",
            "Remove the \\ud8xx escape that has no partner.",
        )
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def read_calls(value: Any, field: str, complaints: Complaints) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form; arguments must be a string that holds a JSON object."""
    if not isinstance(value, list):
        complaints.add(field, "tool_call_broken", "The tool calls are not a list.", "Write a list of calls.")
        return []
    calls = []
    for position, call in enumerate(value):
        here = f"{field}.{position}"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            complaints.add(
                f"{here}.function.name",
                "tool_call_broken",
                "The call does not name a function.",
                'Write {"id": …, "type": "function", "function": {"name": …, "arguments": "{…}"}}.',
            )
            continue
        arguments = read_arguments(function.get("arguments"), f"{here}.function.arguments", complaints)
        id = call.get("id")
        if not isinstance(id, str) or not id:
            complaints.add(f"{here}.id", "tool_call_broken", "The call has no id.", "Give each call of a record its own id.")
            id = f"call_{position}"
        calls.append({"id": id, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return calls


def read_arguments(value: Any, field: str, complaints: Complaints, *, objects: bool = False) -> str:
    """Arguments as a string of JSON; `{}` where they are none, which is noted. `objects`: the form has them as objects."""
    if isinstance(value, dict):
        if not objects:
            complaints.add(field, "tool_arguments_object", "The arguments are an object.", "Write them as a string.", "warning")
        try:
            value = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            value = f"({error})"  # no JSON, which is noted below
    parsed: Any = None
    reason = f"they are {_type_of(value)}"
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
            reason = f"they hold {_type_of(parsed)}, not an object"
        except (ValueError, RecursionError) as error:
            reason = str(error)
    if not isinstance(parsed, dict):
        complaints.add(
            field,
            "tool_arguments_not_json",
            f"The arguments of the call are not JSON: {reason}.",
            'Write an object of JSON as a string, as in "{\\"city\\": \\"Paris\\"}".',
        )
        return "{}"
    return str(value)


def read_tools(value: Any, field: str, complaints: Complaints) -> list[dict[str, Any]] | None:
    """Declared tools in OpenAI's form, from a list or a string of JSON that holds one; bare functions are wrapped."""
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            complaints.add(field, "tools_not_json", f"The tools are not JSON: {error}.", "Write a list of functions as JSON.")
            return None
        if not value:
            return None
    if not isinstance(value, list):
        complaints.add(field, "tools_broken", f"The tools are {_type_of(value)}, not a list.", "Write a list of functions.")
        return None
    tools = []
    for position, tool in enumerate(value):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        parameters = function.get("parameters", {}) if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not isinstance(parameters, dict):
            complaints.add(
                f"{field}.{position}",
                "tools_broken",
                "The tool is not a function with a name and parameters.",
                'Write {"type": "function", "function": {"name": …, "parameters": {…}}}.',
            )
            continue
        tools.append({"type": "function", "function": function})
    return tools or None


def read_weights(messages: Sequence[Message], field: str, complaints: Complaints) -> list[float]:
    """One weight per message, taken out of the messages: 1 for an assistant's unless it says 0, else 0."""
    weights = []
    for position, message in enumerate(messages):
        given = message.pop("weight", None)
        is_assistant = message["role"] == "assistant"
        if given is not None and (isinstance(given, bool) or given not in (0, 1)):
            complaints.add(f"{field}.{position}.weight", "wrong_weight", f"The weight is {_short(given)}.", "Use 0 or 1.")
            given = None
        elif given == 1 and not is_assistant:
            complaints.add(
                f"{field}.{position}.weight",
                "wrong_weight",
                f"A {message['role']} message has weight 1.",
                "Only an assistant's messages are learnt; leave the weight out.",
            )
            given = None
        weights.append(float(is_assistant if given is None else given))
    return weights


def check_order(messages: Sequence[Message], field: str, complaints: Complaints, *, is_prompt: bool = False) -> None:
    """Roles in an order that chat templates take: system first, then user and assistant in turn, results after calls.

    Args:
        is_prompt: the last message must be one that an assistant answers, instead of an assistant's.
    """
    open_calls: list[str] = []
    before: str | None = None
    for position, message in enumerate(messages):
        role, here = message["role"], f"{field}.{position}"

        def wrong(text: str, hint: str, severity: Severity = "error", here: str = here) -> None:
            complaints.add(here, "role_order", text, hint, severity)

        if role in ("system", "developer"):
            if before not in (None, "system", "developer"):
                wrong(f"A {role} message comes after the conversation has begun.", "Put it first.")
        elif role == "tool":
            _match_result(message, open_calls, here, complaints)
        else:
            if open_calls:
                count = len(open_calls)
                wrong(f"{count} tool {'call has' if count == 1 else 'calls have'} no result yet.", "Put the results first.")
                open_calls.clear()
            if role == "assistant":
                if before in (None, "system", "developer"):
                    wrong("The assistant speaks before the user.", "Begin with a user message.")
                elif before == "assistant":
                    wrong("Two assistant messages follow each other.", "Join them; many templates refuse this.", "warning")
                open_calls = [call["id"] for call in message.get("tool_calls") or []]
                if len(set(open_calls)) < len(open_calls):
                    wrong("Two calls have the same id.", "Give each call its own id.")
            elif before == "user":
                wrong("Two user messages follow each other.", "Join them; many templates refuse this.", "warning")
        before = role
    if before is None:
        return
    if not is_prompt and before != "assistant":
        complaints.add(field, "no_answer", f"The last message is the {before}'s.", "End with the answer to be learnt.")
    elif is_prompt and before not in ("user", "tool"):
        complaints.add(field, "role_order", f"The prompt ends with a {before} message.", "End it with what is to be answered.")


def _match_result(message: Message, open_calls: list[str], field: str, complaints: Complaints) -> None:
    id = message.get("tool_call_id")
    if id is None:
        complaints.add(
            f"{field}.tool_call_id", "tool_result_without_call", "The result names no call.", "Give the id of its call."
        )
    elif id not in open_calls:
        complaints.add(
            f"{field}.tool_call_id",
            "tool_result_without_call",
            f"No call before it has the id {_short(id)}.",
            "Put the result right after the assistant message with its call.",
        )
    else:
        open_calls.remove(id)


def check_calls(messages: Sequence[Message], tools: list[dict[str, Any]] | None, complaints: Complaints) -> None:
    """Every called function is declared, where tools are declared."""
    called = {call["function"]["name"] for message in messages for call in message.get("tool_calls") or []}
    declared = {tool["function"]["name"] for tool in tools or []}
    for name in sorted(called - declared):
        complaints.add(
            "tools", "undeclared_tool", f"The function {_short(name)} is called but not declared.", "Declare it.", "warning"
        )


def _type_of(value: Any) -> str:
    names = {"NoneType": "nothing", "bool": "true or false", "dict": "an object", "list": "a list", "str": "text"}
    return names.get(type(value).__name__, "a number")


def _short(value: Any) -> str:
    return repr(value)[:60]
