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


def test_optional_metrics_may_be_there_beside_the_others_or_alone() -> None:
    declared = task(metrics=("loss",), optional_metrics=("accuracy",), lower_is_better=("loss",))
    declared.check_metrics({"loss": 1.0})
    declared.check_metrics({"loss": 1.0, "accuracy": 0.5})
    declared.check_metrics({"accuracy": 0.5})
    for wrong in ({}, {"f1": 0.5}, {"accuracy": 0.5, "f1": 0.5}, {"loss": 1.0, "f1": 0.5}):
        with pytest.raises(InvalidData, match="as optional accuracy") as refused:
            declared.check_metrics(wrong)
        assert refused.value.error_code == "metrics_mismatch"


def test_some_of_the_metrics_are_not_enough() -> None:
    declared = task(metrics=("loss", "perplexity"), optional_metrics=("accuracy",))
    for wrong in ({"loss": 1.0}, {"loss": 1.0, "accuracy": 0.5}):
        with pytest.raises(InvalidData, match="declares loss, perplexity"):
            declared.check_metrics(wrong)


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
