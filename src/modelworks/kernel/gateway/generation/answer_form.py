"""The form that an answer must have, as OpenAI's `response_format` says it.

Which schemas an answer can be held to is the engine's to judge; that there is one, and where it stands, is seen here.
"""

from __future__ import annotations

from typing import Any

from modelworks.contract.errors import InvalidRequest

#: Any object: what `json_object` asks for.
_OBJECT = {"type": "object"}


def answer_form(wanted: dict[str, Any] | None, place: str = "response_format") -> dict[str, Any] | None:
    """The JSON form of an `AnswerForm`, None where the answer is text.

    Args:
        wanted: `{"type": "text" | "json_object"}` or `{"type": "json_schema", "json_schema": {"name", "schema", "strict"}}`.
        place: where the caller wrote it.

    Raises:
        InvalidRequest: it is none of the three, or has no schema.
    """
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {"json_schema": _OBJECT, "place": place}
    if kind != "json_schema":
        raise InvalidRequest(
            f"{place}.type: must be text, json_object or json_schema, not {str(kind)[:40]!r}.",
            param=f"{place}.type",
            code="invalid_value",
        )
    named = wanted.get("json_schema")
    if not isinstance(named, dict):
        raise _missing(f"{place}.json_schema", named)
    schema = named.get("schema")
    if not isinstance(schema, dict):
        raise _missing(f"{place}.json_schema.schema", schema)
    for field in ("name", "description"):
        if named.get(field) is not None and not isinstance(named[field], str):
            where = f"{place}.json_schema.{field}"
            raise InvalidRequest(f"{where}: must be a text.", param=where, code="invalid_type")
    strict = named.get("strict")
    if strict is not None and not isinstance(strict, bool):
        where = f"{place}.json_schema.strict"
        raise InvalidRequest(f"{where}: must be true or false.", param=where, code="invalid_type")
    return {"json_schema": schema, "strict": bool(strict), "place": f"{place}.json_schema.schema"}


def _missing(place: str, value: Any) -> InvalidRequest:
    missing = value is None
    return InvalidRequest(
        f"The parameter {place!r} is missing." if missing else f"{place}: must be an object.",
        param=place,
        code="missing_required_parameter" if missing else "invalid_type",
    )
