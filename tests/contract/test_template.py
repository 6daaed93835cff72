"""Texts with places for values: what is filled in, and what is refused."""

import pytest

from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.template import Template

ITEM = {
    "q": "What is 2+2?",
    "n": 4,
    "ok": True,
    "none": None,
    "答案": "四",
    "steps": [{"text": "add"}, ["x", "y"]],
    "0": "zero",
}
SAMPLE = {"output_text": "4", "output_json": {"result": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("no place", "no place"),
        ("{{item.q}}", "What is 2+2?"),
        ("<{{ item.n }}|{{item.ok}}|{{item.none}}>", "<4|true|>"),
        ("{{item.答案}}{{sample.output_text}}", "四4"),
        ("{{item.steps[0].text}} {{item.steps.1[1]}} {{item.0}}", "add y zero"),
        ("{{sample.output_json.result}}", "[1, 2]"),
        ("{{item.steps[0]}}", '{"text": "add"}'),
        ('{"a": {"b": "{{item.q}}"}}', '{"a": {"b": "What is 2+2?"}}'),
    ],
)
def test_values_are_filled_in(text: str, filled: str) -> None:
    assert Template.parse(text).fill(item=ITEM, sample=SAMPLE) == filled


def test_a_value_is_never_read_as_a_template() -> None:
    assert Template.parse("{{item.a}}").fill(item={"a": "{{item.b}}", "b": "no"}) == "{{item.b}}"


@pytest.mark.parametrize(
    "text", ["{{}}", "{{x}}", "{{user.name}}", "{{item.a()}}", "{{item['a']}}", "{{item.a|upper}}", "{{item..a}}"]
)
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no variable") as caught:
        Template.parse(f"a {text} b")
    assert caught.value.error_code == "invalid_template"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{{item.missing}}", "item has no field 'missing'; it has 0, n, none"),
        ("{{item.steps[7]}}", "item.steps is a list of 2 and has no place '7'"),
        ("{{item.q.length}}", "item.q is no object"),
        ("{{item.__class__}}", "item has no field '__class__'"),
        ("{{item.q.upper}}", "item.q is no object"),
        ("{{sample.output_tools}}", "sample has no field 'output_tools'"),
    ],
)
def test_what_is_not_there_is_named(text: str, why: str) -> None:
    with pytest.raises(InvalidData) as caught:
        Template.parse(text).fill(item=ITEM, sample=SAMPLE)
    assert why in caught.value.message
    assert caught.value.error_code == "missing_variable"
