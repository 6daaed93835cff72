"""Graders that ask a deployed model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from modelworks.capabilities.text.grading.verdict import Failed, filled, one_by_one, scored
from modelworks.contract.errors import Cancelled, ModelworksError
from modelworks.contract.generation import Message, Sampling
from modelworks.contract.grading import Ask, Case, Grade, GraderMessage, LabelModelGrader, ModelAnswer, ScoreModelGrader
from modelworks.contract.template import Template

#: Questions to a model at the same time.
_AT_A_TIME = 8
_OBJECT = re.compile(r"\{[^{}]*\}")


class _Judge:
    """Asks, and reads the answer."""

    def __init__(self, spec: ScoreModelGrader | LabelModelGrader, ask: Ask | None, instruction: str) -> None:
        self._model = spec.model
        self._ask = ask
        self._turns: list[tuple[GraderMessage, Template]] = [(turn, Template.parse(turn.content)) for turn in spec.input]
        self._instruction = instruction
        asked = spec.sampling_params if isinstance(spec, ScoreModelGrader) else None
        self._sampling = Sampling(
            max_tokens=None if asked is None else asked.max_completions_tokens,
            # A judge that says something else each time is no judge.
            temperature=0.0 if asked is None or asked.temperature is None else asked.temperature,
            top_p=None if asked is None else asked.top_p,
            seed=0 if asked is None or asked.seed is None else asked.seed,
        )
        self.templates = tuple(template for _, template in self._turns)

    def grade(self, cases: Sequence[Case]) -> list[Grade]:
        return one_by_one(cases, self._judge, at_a_time=_AT_A_TIME)

    def _judge(self, case: Case) -> Grade:
        answer = self._answer(case)
        try:
            grade = self._understood(answer.text)
        except Failed as failed:
            grade = failed.grade()
        grade.token_usage = {self._model: answer.num_tokens}
        return grade

    def _answer(self, case: Case) -> ModelAnswer:
        messages = [Message(role=turn.role, content=filled(template, case)) for turn, template in self._turns]
        # The last turn is what is answered: how to answer stands at its end.
        messages[-1].content = f"{messages[-1].content}\n\n{self._instruction}"
        if self._ask is None:
            raise Failed(
                f"The grader asks the model {self._model!r}, and nothing can be asked from here.",
                model_grader_server_error=True,
                model_grader_server_error_details="no door to a deployed model",
            )
        try:
            return self._ask(self._model, messages, self._sampling)
        except Cancelled:
            raise
        except ModelworksError as error:
            raise Failed(
                f"The model {self._model!r} gave no verdict: {error.message}",
                model_grader_server_error=True,
                model_grader_server_error_details=error.message,
            ) from error

    def _understood(self, text: str) -> Grade:
        raise Failed(f"The model {self._model!r} was not understood: {text[:100]!r}.", model_grader_parse_error=True)


class ScoreModel(_Judge):
    """See `ScoreModelGrader`. The model answers with a number, or with JSON whose field `result` is one."""

    def __init__(self, spec: ScoreModelGrader, ask: Ask | None) -> None:
        low, high = spec.range
        super().__init__(spec, ask, instruction("grade_score", low=low, high=high))
        self._low, self._high = low, high
        self._threshold = spec.pass_threshold

    def _understood(self, text: str) -> Grade:
        found = _result(text)
        try:
            score = float(found)
        except (TypeError, ValueError):
            return super()._understood(text)
        if not self._low <= score <= self._high:
            raise Failed(
                f"The model {self._model!r} gave {score:g}, which is not between {self._low:g} and {self._high:g}.",
                model_grader_parse_error=True,
            )
        return scored(score, self._threshold, (self._low + self._high) / 2)


class LabelModel(_Judge):
    """See `LabelModelGrader`. The model answers with a label, or with JSON whose field `result` is one."""

    def __init__(self, spec: LabelModelGrader, ask: Ask | None) -> None:
        super().__init__(spec, ask, instruction("grade_label", labels=json.dumps(spec.labels, ensure_ascii=False)))
        self._labels = {label.strip().casefold(): label for label in spec.labels}
        self._passing = frozenset(spec.passing_labels)

    def _understood(self, text: str) -> Grade:
        label = self._labels.get(str(_result(text)).strip().strip("\"'.").casefold())
        if label is None:
            return super()._understood(text)
        passes = label in self._passing
        return Grade(score=float(passes), passed=passes, label=label)


def _result(text: str) -> Any:
    """The last JSON object's field `result`; the whole text where there is none."""
    for found in reversed(_OBJECT.findall(text)):
        try:
            value = json.loads(found)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "result" in value:
            return value["result"]
    return text.strip()


def instruction(name: str, **values: Any) -> str:
    """A prompt of this capability, by its file's name, with `{{item.…}}` filled in."""
    return Template.parse(_prompt(name)).fill(item=values)


@cache
def _prompt(name: str) -> str:
    text = (resources.files("modelworks.capabilities.text") / "prompts" / f"{name}.md").read_text("utf-8")
    # Below the front matter.
    return text.split("---\n", 2)[2].strip()
