"""JSON Schemas before they constrain an answer: whatever cannot be honoured is refused by name and place.

What is accepted is what llguidance turns into a grammar without loss (JSON Schema 2020-12 but for the keywords in `_REFUSED`).
The vocabulary is that of the specification: https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for

from modelworks.contract.errors import InvalidRequest, MissingExtra, UnsupportedParameter
from modelworks.contract.generation import AnswerForm

#: Keywords that no grammar here can hold an answer to.
_REFUSED = frozenset(
    {
        *("not", "if", "then", "else", "dependencies", "dependentRequired", "dependentSchemas", "propertyNames"),
        *("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties"),
        *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "extends", "disallow", "divisibleBy"),
    }
)
#: Values of refused keywords that ask for nothing.
_IDLE: Mapping[str, tuple[Any, ...]] = {"uniqueItems": (False,), "minContains": (0,), "$recursiveAnchor": (False,)}
_FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
_ONE, _MANY, _NAMED = "one", "many", "named"
#: Keywords whose value is a schema, a list of schemas or schemas by name.
_INNER: Mapping[str, str] = {
    **dict.fromkeys(("additionalProperties", "items", "additionalItems"), _ONE),
    **dict.fromkeys(("prefixItems", "anyOf", "oneOf", "allOf"), _MANY),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _NAMED),
}
#: Beside these, an object's `properties` are not all that is said of it.
_COMPOSING = frozenset({"$ref", "anyOf", "oneOf", "allOf", "patternProperties", "minProperties", "maxProperties"})
_MAX_CHARS = 200_000
#: Levels of JSON. The grammar is built by recursion in native code, where too deep ends the process.
_MAX_DEPTH = 96
#: A space after comma and colon, and no other: a model that may add white space may do so for ever.
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Schema = dict[str, Any]


def prepared(form: AnswerForm) -> Schema:
    """The schema as a grammar wants it: checked, formats that are only notes taken out, objects closed.

    An object whose schema lists `properties` and says nothing of others has those and no others: every answer of the closed
    schema is one of the open one, and a model does not invent names.

    Raises:
        InvalidRequest: it is no JSON Schema, or nothing can satisfy it.
        UnsupportedParameter: it is one that an answer cannot be held to.
        Both name the place, such as `response_format.json_schema.schema.properties.x.pattern`.
    """
    text = _text(form.json_schema, form.place)
    found: Schema = json.loads(_prepared(text, form.strict, form.place))
    return found


def _text(schema: Schema, place: str) -> str:
    depth = _depth(schema)
    if depth > _MAX_DEPTH:
        raise InvalidRequest(
            f"{place}: the schema is {depth} levels deep, more than {_MAX_DEPTH}.",
            hint="Name inner schemas under $defs and refer to them.",
            param=place,
            code="schema_too_large",
        )
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > _MAX_CHARS:
        raise InvalidRequest(
            f"{place}: the schema has {len(text)} characters, more than {_MAX_CHARS}.", param=place, code="schema_too_large"
        )
    return text


def _depth(value: Any) -> int:
    """Levels of nesting, without recursion."""
    deepest, pending = 0, [(value, 1)]
    while pending:
        each, level = pending.pop()
        deepest = max(deepest, level)
        if isinstance(each, dict):
            pending.extend((inner, level + 1) for inner in each.values())
        elif isinstance(each, list):
            pending.extend((inner, level + 1) for inner in each)
    return deepest


@lru_cache(maxsize=256)
def _prepared(text: str, strict: bool, place: str) -> str:
    """Checking costs milliseconds, and the same form is asked for again and again."""
    schema: Schema = json.loads(text)
    _check_form(schema, place)
    closes = not any(_composes(each) for each, _ in _schemas(schema, place))
    for each, where in _schemas(schema, place):
        _check(each, where, strict=strict, is_root=each is schema)
        if closes and _is_open(each):
            each["additionalProperties"] = False
    fault = _fault(schema)
    if fault:
        where, said = _deepest(schema, schema, place, fault)
        raise _refusal(said, where)
    return json.dumps(schema, ensure_ascii=False)


def _check_form(schema: Schema, place: str) -> None:
    """Refuse what is no JSON Schema of the version that it names."""
    kind = validator_for(schema, default=Draft202012Validator)
    error = best_match(kind(kind.META_SCHEMA).iter_errors(schema))
    if error is not None:
        where = ".".join([place, *map(str, error.absolute_path)])
        raise InvalidRequest(
            f"{where}: {_short(error.message)}", hint="See https://json-schema.org.", param=where, code="invalid_json_schema"
        )


def _schemas(schema: Any, place: str) -> Iterator[tuple[Schema, str]]:
    """A schema and all inside it that are objects, each with its place."""
    pending = [(schema, place)]
    while pending:
        each, where = pending.pop()
        if isinstance(each, dict):
            yield each, where
            pending.extend(_inner(each, where))


def _inner(schema: Schema, place: str) -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = []
    for keyword, kind in _INNER.items():
        value, where = schema.get(keyword), f"{place}.{keyword}"
        if kind == _NAMED and isinstance(value, dict):
            found += [(each, f"{where}.{name}") for name, each in value.items()]
        elif isinstance(value, list):
            found += [(each, f"{where}.{number}") for number, each in enumerate(value)]
        elif kind == _ONE and value is not None:
            found.append((value, where))
    return found


def _check(schema: Schema, place: str, *, strict: bool, is_root: bool) -> None:
    for keyword, value in schema.items():
        where = f"{place}.{keyword}"
        if keyword in _REFUSED and value not in _IDLE.get(keyword, ()):
            raise _unsupported(where, f"answers cannot be held to the keyword {keyword!r}.")
        if keyword in ("$id", "id") and not is_root and isinstance(value, str):
            raise _unsupported(where, "only the outermost schema may have an address of its own.")
        if keyword == "$ref" and not str(value).startswith("#"):
            raise _unsupported(where, f"a schema elsewhere ({_short(str(value))}) is not fetched.")
    for keyword in _REFUSED & schema.keys():
        del schema[keyword]
    unknown = schema.get("format")
    if unknown is not None and unknown not in _FORMATS:
        if strict:
            raise _unsupported(f"{place}.format", f"{_short(str(unknown))!r} is none of {', '.join(sorted(_FORMATS))}.")
        del schema["format"]
    if "pattern" in schema:
        _check_pattern(schema["pattern"], f"{place}.pattern")
    for pattern in schema.get("patternProperties", {}):
        _check_pattern(pattern, f"{place}.patternProperties.{pattern}")
    if int(schema.get("minProperties", 0)) > 1 and schema.get("additionalProperties") is not False:
        # Names that the schema does not list could be written twice, and would count once.
        raise _unsupported(f"{place}.minProperties", "more than 1 needs additionalProperties false.")


def _check_pattern(pattern: str, place: str) -> None:
    fault = _fault({"type": "string", "pattern": pattern})
    if fault:
        raise _refusal(fault, place)


def _composes(schema: Schema) -> bool:
    """Whether what is said of an object is spread over several schemas, so that none of them knows all its properties."""
    return "allOf" in schema or ("properties" in schema and not _COMPOSING.isdisjoint(schema))


def _is_open(schema: Schema) -> bool:
    properties: Schema = schema.get("properties", {})
    return bool(properties) and "additionalProperties" not in schema and set(schema.get("required", ())) <= properties.keys()


def _fault(schema: Schema) -> str:
    """Why there is no grammar of a schema; empty where there is one."""
    try:
        # Here, so that answers without a form do not need it.
        from llguidance import LLMatcher
    except ImportError as error:
        raise MissingExtra.of(error.name or "llguidance", "text") from error
    is_error, said = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_json_schema(schema, overrides=LAYOUT))
    return " ".join(said[0].split()) if is_error else ""


def _deepest(schema: Schema, root: Schema, place: str, fault: str) -> tuple[str, str]:
    """The innermost schema that is refused for the same reason, and that reason."""
    named: Schema = {keyword: root[keyword] for keyword in ("$defs", "definitions") if keyword in root}
    for inner, where in _inner(schema, place):
        if isinstance(inner, dict) and _fault({**named, **inner}) == fault:
            return _deepest(inner, root, where, fault)
    return place, fault


def _refusal(said: str, place: str) -> InvalidRequest | UnsupportedParameter:
    if said.startswith(("Unimplemented", "oneOf constraints", "Unknown format")) or "not supported" in said:
        return _unsupported(place, _short(said))
    return InvalidRequest(f"{place}: {_short(said)}", hint="Change the schema.", param=place, code="invalid_json_schema")


def _unsupported(place: str, said: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"{place}: {said}", hint="Leave it out and check the answer yourself.", param=place, code="unsupported_schema"
    )


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"
