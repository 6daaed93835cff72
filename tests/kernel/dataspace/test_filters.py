"""Filters over attributes, as OpenAI writes them."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.dataspace.filters import compiled

DOCUMENT = {"year": 2024, "team": "hr", "final": True, "ratio": 0.5}


def comparison(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        (comparison("eq", "team", "hr"), True),
        (comparison("eq", "year", 2024.0), True),
        (comparison("eq", "final", 1), False),
        (comparison("ne", "team", "it"), True),
        (comparison("ne", "absent", "x"), True),
        (comparison("eq", "absent", "x"), False),
        (comparison("gt", "year", 2023), True),
        (comparison("gte", "year", 2024), True),
        (comparison("lt", "ratio", 0.5), False),
        (comparison("lte", "team", "hz"), True),
        (comparison("gt", "team", 3), False),
        (comparison("gt", "final", 0), False),
        (comparison("in", "year", [2023, 2024]), True),
        (comparison("nin", "team", ["hr"]), False),
        (comparison("nin", "absent", ["hr"]), True),
        ({"type": "and", "filters": [comparison("eq", "team", "hr"), comparison("gt", "year", 2024)]}, False),
        ({"type": "or", "filters": [comparison("eq", "team", "it"), comparison("gt", "year", 2020)]}, True),
    ],
)
def test_a_filter_decides(filters: dict[str, Any], passes: bool) -> None:
    assert compiled(filters)(DOCUMENT) is passes


NESTED: dict[str, Any] = comparison("eq", "a", 1)
for _ in range(12):
    NESTED = {"type": "and", "filters": [NESTED]}


@pytest.mark.parametrize(
    ("filters", "param"),
    [
        ("team=hr", "filters"),
        (comparison("like", "team", "h"), "filters.type"),
        (comparison("eq", "", "h"), "filters.key"),
        (comparison("eq", "team", None), "filters.value"),
        (comparison("in", "team", "hr"), "filters.value"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "or", "filters": [comparison("eq", "team", {"a": 1})]}, "filters.filters.0.value"),
        ({"type": "and", "filters": [comparison("eq", "a", 1)] * 300}, "filters.filters.255"),
        (NESTED, "filters" + ".filters.0" * 9),
    ],
)
def test_another_form_is_refused_with_its_place(filters: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiled(filters)
    assert caught.value.param == param
