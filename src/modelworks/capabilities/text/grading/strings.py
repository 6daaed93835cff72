"""Graders that compare two texts."""

from __future__ import annotations

from collections.abc import Sequence

from modelworks.capabilities.text.grading.similarity import check_metric, similarity
from modelworks.capabilities.text.grading.verdict import filled, one_by_one, scored
from modelworks.contract.grading import Case, Grade, StringCheckGrader, TextSimilarityGrader
from modelworks.contract.template import Template


class StringCheck:
    """See `StringCheckGrader`."""

    def __init__(self, spec: StringCheckGrader) -> None:
        self._operation = spec.operation
        self._input, self._reference = self.templates = (Template.parse(spec.input), Template.parse(spec.reference))

    def grade(self, cases: Sequence[Case]) -> list[Grade]:
        return one_by_one(cases, self._judge)

    def _judge(self, case: Case) -> Grade:
        text, reference = filled(self._input, case), filled(self._reference, case)
        if self._operation == "eq":
            found = text == reference
        elif self._operation == "ne":
            found = text != reference
        elif self._operation == "like":
            found = reference in text
        else:
            found = reference.casefold() in text.casefold()
        return scored(float(found), 1.0)


class TextSimilarity:
    """See `TextSimilarityGrader`.

    Raises:
        UnsupportedParameter: the metric is not offered.
        MissingExtra: its library is not installed.
    """

    def __init__(self, spec: TextSimilarityGrader, param: str) -> None:
        check_metric(spec.evaluation_metric, param)
        self._metric = spec.evaluation_metric
        self._threshold = spec.pass_threshold
        self._input, self._reference = self.templates = (Template.parse(spec.input), Template.parse(spec.reference))

    def grade(self, cases: Sequence[Case]) -> list[Grade]:
        return one_by_one(cases, self._judge)

    def _judge(self, case: Case) -> Grade:
        return scored(similarity(self._metric, filled(self._input, case), filled(self._reference, case)), self._threshold)
