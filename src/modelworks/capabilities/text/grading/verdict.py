"""What every grader shares: a verdict per case, whatever happens to one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modelworks.contract.errors import InvalidData
from modelworks.contract.grading import Case, Grade, GradeErrors
from modelworks.contract.template import Template


class Failed(Exception):
    """A case without a score.

    Args:
        message: what went wrong, as a sentence.
        errors: the fields of `GradeErrors` that say so.
    """

    def __init__(self, message: str, **errors: Any) -> None:
        super().__init__(message)
        self.message = message
        self.errors = errors

    def grade(self) -> Grade:
        """The verdict that says so."""
        return Grade(message=self.message, errors=GradeErrors(**self.errors))


def filled(template: Template, case: Case) -> str:
    """The template's text for a case.

    Raises:
        Failed: the item lacks a variable, or the answer is not of the form that has it.
    """
    try:
        return template.fill(item=case.item, sample=case.sample.values())
    except InvalidData as error:
        is_answer = error.message.startswith("{{sample.")
        fault = {"sample_parse_error": True} if is_answer else {"invalid_variable_error": True}
        raise Failed(error.message, **fault) from error


def one_by_one(cases: Sequence[Case], judge: Callable[[Case], Grade], *, at_a_time: int = 1) -> list[Grade]:
    """A verdict per case; one that fails does not hold up the others.

    Args:
        at_a_time: cases that are judged side by side, in threads.
    """

    def settled(case: Case) -> Grade:
        try:
            return judge(case)
        except Failed as failed:
            return failed.grade()

    if at_a_time == 1 or len(cases) < 2:
        return [settled(case) for case in cases]
    with ThreadPoolExecutor(min(at_a_time, len(cases)), thread_name_prefix="judge") as threads:
        return list(threads.map(settled, cases))


def scored(score: float, threshold: float | None, middle: float = 0.5) -> Grade:
    """A verdict with a score; it passes from the threshold on, or from the middle of what the grader can give."""
    if not math.isfinite(score):
        return Failed(f"The score is {score}.", other_error=True).grade()
    return Grade(score=score, passed=score >= (middle if threshold is None else threshold))
