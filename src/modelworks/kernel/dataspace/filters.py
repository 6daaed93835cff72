"""OpenAI's filters over attributes: a comparison, or several joined by and/or.

Form: https://platform.openai.com/docs/api-reference/vector-stores/search (ComparisonFilter, CompoundFilter).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from modelworks.contract.errors import InvalidRequest

Test = Callable[[Mapping[str, Any]], bool]

_MAX_DEPTH: Final = 8
_MAX_TESTS: Final = 256
_TYPES: Final = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or")


def compiled(filters: Any, param: str = "filters") -> Test:
    """A filter as a function of a document's attributes.

    A document without the attribute passes `ne` and `nin` only. Texts and numbers are never equal, and have no order.

    Raises:
        InvalidRequest: it has another form; `param` names the field.
    """
    return _compiled(filters, param, 0, [0])


def _compiled(filters: Any, param: str, depth: int, seen: list[int]) -> Test:
    if not isinstance(filters, Mapping):
        raise _wrong("it is not an object", param)
    seen[0] += 1
    if depth > _MAX_DEPTH or seen[0] > _MAX_TESTS:
        raise _wrong("it has too many parts", param)
    kind = filters.get("type")
    if kind in ("and", "or"):
        parts = filters.get("filters")
        if not isinstance(parts, list) or not parts:
            raise _wrong("a list of filters is missing", f"{param}.filters")
        tests = [_compiled(part, f"{param}.filters.{place}", depth + 1, seen) for place, part in enumerate(parts)]
        joined = all if kind == "and" else any
        return lambda attributes: joined(test(attributes) for test in tests)
    if kind not in _TYPES:
        raise _wrong(f"{str(kind)[:40]!r} is none of {', '.join(_TYPES)}", f"{param}.type")
    key, value = filters.get("key"), filters.get("value")
    if not isinstance(key, str) or not key:
        raise _wrong("the name of an attribute is missing", f"{param}.key")
    if kind in ("in", "nin"):
        if not isinstance(value, list) or not all(_is_plain(each) for each in value):
            raise _wrong("a list of texts, numbers or booleans is missing", f"{param}.value")
    elif not _is_plain(value):
        raise _wrong("a text, a number or a boolean is missing", f"{param}.value")
    return _comparison(kind, key, value)


def _comparison(kind: str, key: str, value: Any) -> Test:
    def equal(one: Any, other: Any) -> bool:
        return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)

    def ordered(one: Any) -> bool:
        return not isinstance(one, bool) and not isinstance(value, bool) and isinstance(one, str) == isinstance(value, str)

    tests: dict[str, Callable[[Any], bool]] = {
        "eq": lambda found: equal(found, value),
        "ne": lambda found: not equal(found, value),
        "gt": lambda found: ordered(found) and found > value,
        "gte": lambda found: ordered(found) and found >= value,
        "lt": lambda found: ordered(found) and found < value,
        "lte": lambda found: ordered(found) and found <= value,
        "in": lambda found: any(equal(found, each) for each in value),
        "nin": lambda found: not any(equal(found, each) for each in value),
    }
    test, when_absent = tests[kind], kind in ("ne", "nin")
    return lambda attributes: test(attributes[key]) if key in attributes else when_absent


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def _wrong(what: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param}: {what}.",
        hint='Write {"type": "eq", "key": "year", "value": 2024}, or {"type": "and", "filters": [...]}.',
        param=param,
        code="invalid_filter",
    )
