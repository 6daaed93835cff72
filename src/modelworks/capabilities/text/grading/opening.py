"""From a grader's description to one that is ready; the door of this package."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from modelworks.capabilities.text.grading.asking import LabelModel, ScoreModel
from modelworks.capabilities.text.grading.formula import Formula
from modelworks.capabilities.text.grading.python_code import PythonCode
from modelworks.capabilities.text.grading.strings import StringCheck, TextSimilarity
from modelworks.capabilities.text.grading.verdict import Failed, scored
from modelworks.contract.grading import (
    Ask,
    Case,
    Grade,
    Grader,
    Grading,
    LabelModelGrader,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
)
from modelworks.contract.template import Template


def open_grader(spec: Grader, *, ask: Ask | None = None) -> Grading:
    """See `contract.grading.GraderOpener`.

    Raises:
        InvalidRequest: a formula or a source is wrong. UnsupportedParameter: a measure that is not offered.
        MissingExtra: a measure's library is not installed.
    """
    return _Timed(_open(spec, ask, "grader"))


def _open(spec: Grader, ask: Ask | None, param: str) -> Grading:
    if isinstance(spec, StringCheckGrader):
        return StringCheck(spec)
    if isinstance(spec, TextSimilarityGrader):
        return TextSimilarity(spec, param)
    if isinstance(spec, PythonGrader):
        return PythonCode(spec, param)
    if isinstance(spec, ScoreModelGrader):
        return ScoreModel(spec, ask)
    if isinstance(spec, LabelModelGrader):
        return LabelModel(spec, ask)
    return _Multi(spec, ask, param)


class _Timed:
    """Notes how long each verdict took, on average where several were found together."""

    def __init__(self, grading: Grading) -> None:
        self._grading = grading
        self.templates = grading.templates

    def grade(self, cases: Sequence[Case]) -> list[Grade]:
        started = time.monotonic()
        grades = self._grading.grade(cases)
        each_s = (time.monotonic() - started) / max(1, len(grades))
        return [grade.model_copy(update={"duration_s": each_s}) for grade in grades]


class _Multi:
    """See `MultiGrader`."""

    def __init__(self, spec: MultiGrader, ask: Ask | None, param: str) -> None:
        self._parts: Mapping[str, Grading] = {
            name: _open(part, ask, f"{param}.graders.{name}") for name, part in spec.graders.items()
        }
        self._formula = Formula(spec.calculate_output, self._parts.keys(), f"{param}.calculate_output")
        self._threshold = spec.pass_threshold
        self.templates: tuple[Template, ...] = tuple(each for part in self._parts.values() for each in part.templates)

    def grade(self, cases: Sequence[Case]) -> list[Grade]:
        columns = {name: part.grade(cases) for name, part in self._parts.items()}
        return [self._together({name: column[row] for name, column in columns.items()}) for row in range(len(cases))]

    def _together(self, parts: Mapping[str, Grade]) -> Grade:
        scores = {name: part.score for name, part in parts.items()}
        usage: dict[str, int] = {}
        for part in parts.values():
            for model, number in part.token_usage.items():
                usage[model] = usage.get(model, 0) + number
        failed = next(((name, part) for name, part in parts.items() if part.is_failure), None)
        if failed is not None:
            name, part = failed
            found = Grade(message=f"{name}: {part.message}", errors=part.errors)
        else:
            # An answer that one of them could not read has no points from that one, and keeps those of the others.
            try:
                found = scored(self._formula(scores), self._threshold)
            except (ArithmeticError, ValueError) as error:
                found = Failed(f"The formula has no value: {error}.", formula_parse_error=True).grade()
            found.errors.sample_parse_error = any(part.errors.sample_parse_error for part in parts.values())
        return found.model_copy(update={"sub_scores": scores, "token_usage": usage})
