"""What a run needs to have answers judged: the deployment that its grader asks, and records that have what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from modelworks.contract.deployment import Deployment
from modelworks.contract.errors import InvalidData, InvalidRequest, Unavailable
from modelworks.contract.generation import Message, Sampling
from modelworks.contract.grading import Grader, Grading, ModelAnswer, models_of
from modelworks.contract.run import Run


class JudgeDoor:
    """The judging model of a grader: the deployment of the run's role "judge"."""

    def __init__(self, judge: Deployment) -> None:
        self._judge = judge
        #: Why it could not be asked, where that may pass: then the run is to be tried again, not the model to be blamed.
        self.away: Unavailable | None = None

    @classmethod
    def of(cls, run: Run, grader: Grader) -> Self | None:
        """The door, where the grader asks a model.

        Raises:
            InvalidRequest: the run was not given that model.
        """
        for name in models_of(grader):
            judge = run.deployment("judge") if run.has_input("judge") else None
            if judge is None or judge.name != name:
                given = "none is given" if judge is None else f"the input judge is {judge.name!r}"
                raise InvalidRequest(
                    f"The grader asks the model {name!r}, and {given}.",
                    hint=f"Give the run the input judge: deployment:{name} (evaluate --judge {name}).",
                    param="inputs.judge",
                )
            return cls(judge)
        return None

    def __call__(self, model: str, messages: Sequence[Message], sampling: Sampling) -> ModelAnswer:
        fields = sampling.model_dump(exclude_none=True, include={"max_tokens", "temperature", "top_p", "seed"})
        try:
            answer = self._judge.complete([message.model_dump(exclude_none=True) for message in messages], **fields)
        except Unavailable as error:
            self.away = error
            raise
        return ModelAnswer(text=answer.content or "", num_tokens=answer.prompt_tokens + answer.completion_tokens)


def check_item(grading: Grading, item: Mapping[str, Any], source: str, line: int) -> None:
    """See that a record has what the templates of a grader read of it, before anything is answered.

    Raises:
        InvalidData: it has not (`missing_variable`); the message names file, line and the step that leads nowhere.
    """
    wanted = [each for template in grading.templates for each in template.variables if each.namespace == "item"]
    for variable in wanted:
        try:
            variable.value({"item": item})
        except InvalidData as error:
            raise InvalidData(
                f"{source}, line {line}: the grader reads {error.message}",
                hint="Add the field to the record, or correct the grader.",
                code="missing_variable",
            ) from error
