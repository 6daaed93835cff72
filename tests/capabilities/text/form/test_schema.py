"""Which schemas an answer can be held to, and what is said of the others."""

from typing import Any

import numpy as np
import pytest

from modelworks.capabilities.text.form.constraint import GrammarDesk
from modelworks.capabilities.text.form.plan import Plan
from modelworks.capabilities.text.form.schema import prepared
from modelworks.capabilities.text.tokenizer import train_tokenizer
from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.contract.generation import AnswerForm

PLACE = "response_format.json_schema.schema"


def form(schema: dict[str, Any], *, strict: bool = False) -> AnswerForm:
    return AnswerForm(json_schema=schema, strict=strict, place=PLACE)


def of(name: str, schema: Any) -> dict[str, Any]:
    """An object with one property."""
    return {"type": "object", "properties": {name: schema}, "required": [name]}


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "quux"}, "type"),
        (of("x", {"type": "dict"}), "properties.x.type"),
        (of("x", {"type": "string", "pattern": "(["}), "properties.x.pattern"),
        (of("x", {"type": "string", "maxLength": -1}), "properties.x.maxLength"),
        ({"type": "object", "required": "x"}, "required"),
        ({"type": "object", "properties": {"x": 5}}, "properties.x"),
        ({"type": "array", "items": {"$ref": "#/$defs/none"}}, "items"),
        (of("x", {"type": "integer", "minimum": 3, "maximum": 2}), ""),
        (of("x", {"type": "integer", "exclusiveMinimum": True}), "properties.x.exclusiveMinimum"),
        ({"enum": []}, ""),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, ""),
    ],
)
def test_a_schema_that_is_none_is_refused_with_its_place(schema: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(form(schema))
    assert not isinstance(caught.value, UnsupportedParameter)
    assert caught.value.param == (f"{PLACE}.{where}" if where else PLACE)
    assert (caught.value.status, caught.value.error_code) == (400, "invalid_json_schema")


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"not": {"type": "string"}}, "not"),
        (of("x", {"type": "array", "uniqueItems": True}), "properties.x.uniqueItems"),
        (of("x", {"if": {}, "then": {}}), "properties.x.if"),
        ({"$defs": {"a": {"propertyNames": {"minLength": 1}}}, "$ref": "#/$defs/a"}, "$defs.a.propertyNames"),
        ({"anyOf": [{"type": "null"}, {"contains": {}}]}, "anyOf.1.contains"),
        (of("x", {"type": "string", "pattern": "(?=a)b"}), "properties.x.pattern"),
        (of("x", {"$ref": "https://example.com/other.json"}), "properties.x.$ref"),
        (of("x", {"$id": "https://example.com/x.json", "type": "string"}), "properties.x.$id"),
        (of("x", {"oneOf": [{"type": "string"}, {"minLength": 2}]}), "properties.x"),
        ({"type": "object", "minProperties": 2, "additionalProperties": {"type": "integer"}}, "minProperties"),
        ({"type": "object", "patternProperties": {"^(?!a)": {}}}, "patternProperties.^(?!a)"),
    ],
)
def test_a_keyword_that_cannot_be_kept_is_refused_with_its_place(schema: dict[str, Any], where: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        prepared(form(schema))
    assert caught.value.param == f"{PLACE}.{where}"
    assert caught.value.error_code == "unsupported_schema"


def test_a_format_nobody_knows_is_a_note_unless_all_must_count() -> None:
    schema = of("x", {"type": "string", "format": "uint32", "title": "X", "default": {"not": 1}})
    assert prepared(form(schema))["properties"]["x"] == {"type": "string", "title": "X", "default": {"not": 1}}
    with pytest.raises(UnsupportedParameter) as caught:
        prepared(form(schema, strict=True))
    assert caught.value.param == f"{PLACE}.properties.x.format"
    assert prepared(form(of("x", {"type": "string", "format": "date"}), strict=True))["properties"]["x"]["format"] == "date"


def test_objects_are_closed_where_that_leaves_something_out_but_adds_nothing() -> None:
    inner = of("y", {"type": "integer"})
    assert prepared(form(of("x", inner)))["properties"]["x"]["additionalProperties"] is False
    assert "additionalProperties" not in prepared(form({"type": "object"}))
    assert prepared(form({**inner, "additionalProperties": {"type": "string"}}))["additionalProperties"] == {"type": "string"}
    # A name that only `required` knows, and properties that two schemas share between them.
    assert "additionalProperties" not in prepared(form({**inner, "required": ["z"]}))
    both = {"allOf": [of("x", {"type": "integer"}), of("y", {"type": "integer"})]}
    assert all("additionalProperties" not in each for each in prepared(form(both))["allOf"])


def test_what_is_too_large_or_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    for schema in (deep, {"enum": ["x" * 200_001]}):
        with pytest.raises(InvalidRequest) as caught:
            prepared(form(schema))
        assert (caught.value.param, caught.value.error_code) == (PLACE, "schema_too_large")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
        {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(8)]} for i in range(8)]},
        {"type": "string", "pattern": "(.*a){50}"},
        {"type": "string", "pattern": "(a{1000}){1000}"},
        {"type": "string", "allOf": [{"pattern": f"^.{{0,50}}{c}.{{3,40}}$"} for c in "abcdefgh"]},
        {"type": "string", "minLength": 10**8},
        {"type": "array", "minItems": 10**7, "items": {"type": "integer"}},
        {"type": "integer", "multipleOf": 999_999_937},
        {"type": "number", "multipleOf": 1e-7, "minimum": 0.1, "maximum": 1e300},
        {"enum": [f"value {number}" for number in range(3000)]},
    ],
    ids=range(12),
)
def test_hostile_schemas_are_followed_or_refused(schema: dict[str, Any], vocabulary: GrammarDesk) -> None:
    """Each within the limits of the grammar's own: none takes the process with it."""
    try:
        follower = vocabulary.follower(Plan(form=prepared(form(schema))).grammar({}), {2}, PLACE)
        for _ in range(30):
            token = int(np.flatnonzero(follower.allowed(380))[-1])
            if token == 2 or follower.take(token):
                break
    except InvalidRequest as refused:
        place = refused.param or ""
        assert place.startswith(PLACE)


@pytest.fixture(scope="module")
def vocabulary() -> GrammarDesk:
    return GrammarDesk(train_tokenizer(['{"a": "b"} abc'] * 20, 380, "", 128), 380)
