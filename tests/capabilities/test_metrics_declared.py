"""A task says which metrics its evaluator gives, and an evaluator is held to it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from modelworks.contract.capability import Task
from modelworks.contract.errors import InvalidData


class Nothing(BaseModel):
    """Neither input nor output matters here."""


def task(**known: Any) -> Task:
    return Task(name="tell-apart", input=Nothing, output=Nothing, predictor="a:b", evaluator="a:c", **known)


def test_optional_metrics_may_be_there_and_the_others_must() -> None:
    declared = task(metrics=("loss",), optional_metrics=("accuracy",), lower_is_better=("loss",))
    declared.check_metrics({"loss": 1.0})
    declared.check_metrics({"loss": 1.0, "accuracy": 0.5})
    for wrong in ({}, {"accuracy": 0.5}, {"loss": 1.0, "f1": 0.5}):
        with pytest.raises(InvalidData, match="as optional accuracy") as refused:
            declared.check_metrics(wrong)
        assert refused.value.error_code == "metrics_mismatch"


@pytest.mark.parametrize(
    ("known", "problem"),
    [
        ({"metrics": ("loss",), "optional_metrics": ("loss",)}, "twice"),
        ({"metrics": ("loss", "loss")}, "twice"),
        ({"metrics": ("loss",), "lower_is_better": ("los",)}, "los"),
        ({"optional_metrics": ("accuracy",)}, "together"),
    ],
)
def test_a_contradictory_declaration_is_refused(known: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        task(**known)
