"""Calls of functions: read them from what a model wrote, and compare them with the calls that are right.

The comparison is the AST rule of the Berkeley Function Calling Leaderboard (Patil et al. 2025), categories simple, multiple,
parallel, parallel multiple and irrelevance, for Python: a truth gives, for each parameter, every value that is right, and the
empty text among them where the parameter may be left out.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: What the rule's names for types are in Python.
_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "number": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "object": dict,
    "any": str,
}
#: Left out when texts are compared, as case is.
_IGNORED = re.compile(r"[ ,./\-_*^]")
_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
_FENCED = re.compile(r"\A\s*```(?:json|python)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)
#: Longer answers hold no calls that anybody meant.
_MAX_CHARS = 100_000

#: function name -> parameter -> values that are right
Truth = Mapping[str, Mapping[str, Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def calls_in(text: str) -> list[Call]:
    """The calls that an answer consists of; none where it is something else.

    Read are `<tool_call>{"name": …, "arguments": {…}}</tool_call>` (anywhere in the answer), the same objects as JSON, alone or
    in an array, and Python calls with named arguments, alone or in a list: `[now(zone="UTC")]`.
    """
    if len(text) > _MAX_CHARS:
        return []
    if tagged := _TAGGED.findall(text):
        found = [_from_json(each) for each in tagged]
        return [call for calls in found for call in calls or []] if all(calls is not None for calls in found) else []
    if fenced := _FENCED.match(text):
        text = fenced[1]
    found_json = _from_json(text)
    return _from_python(text) if found_json is None else found_json


def _from_json(text: str) -> list[Call] | None:
    """None where the text is no JSON of calls."""
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return None
    calls = [_call(each) for each in (loaded if isinstance(loaded, list) else [loaded])]
    kept = [call for call in calls if call is not None]
    return kept if len(kept) == len(calls) else None


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    value = value["function"] if isinstance(value.get("function"), dict) else value
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return Call(name, arguments) if isinstance(name, str) and name and isinstance(arguments, dict) else None


def _from_python(text: str) -> list[Call]:
    try:
        body = ast.parse(text.strip(), mode="eval").body
        nodes = body.elts if isinstance(body, ast.List | ast.Tuple) else [body]
        calls = [_python_call(node) for node in nodes]
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return calls


def _python_call(node: ast.expr) -> Call:
    """Raises ValueError for anything but a call with named arguments."""
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("no call with named arguments")
    name = ast.unparse(node.func)
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise ValueError("no name of a function")
    return Call(name, {str(keyword.arg): _value(keyword.value) for keyword in node.keywords})


def _value(node: ast.expr) -> Any:
    """A literal's value; of a variable or an expression its text."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def fault_of(calls: Sequence[Call], truths: Sequence[Truth], functions: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with calls, in words; None where they are right. No truth means that no function fits, and none is called.

    Args:
        truths: the calls that are right, in any order, each of them once.
        functions: the functions on offer, with `name` and `parameters` as JSON Schema (or with Python's names of types).
    """
    if len(calls) != len(truths):
        return f"{len(calls)} calls instead of {len(truths)}"
    known = {str(function["name"]): function for function in functions}
    faults = [[_fault_of_call(call, truth, known) for call in calls] for truth in truths]
    if _can_be_matched([[fault is None for fault in row] for row in faults]):
        return None
    if len(calls) == 1:
        return faults[0][0]
    for truth, row in zip(truths, faults, strict=True):
        if None not in row:
            return f"no call is that of {next(iter(truth))}: {'; '.join(str(fault) for fault in row)}"
    return "two calls are the same one of those that are right"


def _can_be_matched(fits: Sequence[Sequence[bool]]) -> bool:
    """Whether each row can have a column of its own that fits it (augmenting paths, Kuhn 1955).

    The leaderboard gives each truth the first call that fits it, by which calls can be wrong in one order and right in another.
    """
    row_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in row_of or place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))


def _fault_of_call(call: Call, truth: Truth, functions: Mapping[str, Mapping[str, Any]]) -> str | None:
    ((name, right),) = truth.items()
    if call.name != name:
        return f"{call.name} is called instead of {name}"
    schema = functions[name].get("parameters", {}) if name in functions else {}
    details = schema.get("properties", {})
    missing = next((each for each in schema.get("required", ()) if each not in call.arguments), None)
    if missing is not None:
        return f"{missing} is missing"
    for parameter, value in call.arguments.items():
        if parameter not in details or parameter not in right:
            return f"{parameter} is not asked for"
        if not _is_right(value, right[parameter], details[parameter]):
            return f"{parameter} is {value!r}"
    left_out = next((each for each, values in right.items() if each not in call.arguments and "" not in values), None)
    return None if left_out is None else f"{left_out} is missing"


def _is_right(value: Any, right: Sequence[Any], detail: Mapping[str, Any]) -> bool:
    described = str(detail.get("type", "any"))
    wanted = _TYPES.get(described, str)
    nested = _TYPES.get(str(detail.get("items", {}).get("type"))) if wanted is list else None
    if isinstance(value, tuple):
        value = list(value)
    if wanted is float and type(value) is int:
        value = float(value)
    has_type, is_variable = _check_type(value, right, wanted, nested)
    if not has_type:
        return False
    if not is_variable:
        if wanted is dict:
            return any(_is_right_object(value, each) for each in right if each != "")
        if wanted is list and nested is dict:
            return any(
                len(each) == len(value) and all(map(_is_right_object, value, each)) for each in right if isinstance(each, list)
            )
        if wanted in (str, list):
            return _plain(value) in [_plain(each) for each in right]
    return value in right


def _check_type(value: Any, right: Sequence[Any], wanted: type, nested: type | None) -> tuple[bool, bool]:
    """Whether the value's type is one that is right, and whether the truth is of another type than described (a variable)."""
    given = next((type(each) for each in right if each != ""), None)
    is_variable = given is not None and given is not wanted
    if type(value) is wanted:
        if nested is None:
            return True, is_variable
        items: Any = value  # a list, since only that has a nested type
        for each in right:
            if not isinstance(each, list) or all(_check_type(item, each, nested, None)[0] for item in items):
                return True, is_variable
        return False, is_variable
    return given is not None and type(value) is given, True


def _is_right_object(value: Any, right: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(right, dict):
        return False
    if any(key not in right or _plain(each) not in [_plain(one) for one in right[key]] for key, each in value.items()):
        return False
    return all(key in value or "" in each for key, each in right.items())


def _plain(value: Any) -> Any:
    """What texts are compared as, alone and in lists: without case, spaces and punctuation that nobody means."""
    if isinstance(value, list):
        return [_plain(each) if isinstance(each, str) else each for each in value]
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def example_of(truth: Truth, functions: Sequence[Mapping[str, Any]]) -> Call:
    """A call that is right: of each parameter the first value; left out are those that may be, if that is named first."""
    ((name, right),) = truth.items()
    function: Mapping[str, Any] = next((each for each in functions if each["name"] == name), {})
    schema = function.get("parameters", {})
    known = {key: values for key, values in right.items() if key in schema.get("properties", {})}  # some truths name others too
    return Call(name, _first_of_each(known, schema.get("required", ())))


def _first_of_each(right: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    found = {}
    for key, values in right.items():
        listed = list(values) if isinstance(values, list) else [values]
        given = [value for value in listed if value != ""]
        if given and (listed[0] != "" or key in required):
            found[key] = _first(given[0])
    return found


def _first(value: Any) -> Any:
    """In objects of a truth, each key has its own list of right values."""
    if isinstance(value, list):
        return [_first(each) for each in value]
    return _first_of_each(value) if isinstance(value, dict) else value
