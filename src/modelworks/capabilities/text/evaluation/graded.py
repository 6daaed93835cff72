"""Answers of a model judged by a grader: the mean reward and its interval, each sample's reward for comparisons."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from modelworks.capabilities.text.datasets import ChatSample, PromptSample
from modelworks.capabilities.text.datasets.reading import read_answerable
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.grading.judge_door import JudgeDoor, check_item
from modelworks.capabilities.text.grading.opening import open_grader
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.grading import Case, Grade, Grader, Grading, Sample
from modelworks.contract.run import Run

_log = logging.getLogger(__name__)
#: Answers that are judged between two looks at whether the run is cancelled.
_AT_A_TIME = 64
_NUM_RESAMPLES = 10_000
#: What of an error's text is kept with a sample.
_MAX_MESSAGE_CHARS = 500


class Judge:
    """Judges answers by a grader, on behalf of a run."""

    def __init__(self, run: Run, grading: Grading, door: JudgeDoor | None) -> None:
        self._run = run
        self._grading = grading
        self._door = door
        self._names: list[str] = []
        self._cases: list[Case] = []

    @classmethod
    def of(cls, run: Run, grader: Grader) -> Self:
        """A judge that is ready.

        Raises:
            InvalidRequest: the run was not given the model that the grader asks (`inputs.judge`).
        """
        door = JudgeDoor.of(run, grader)
        return cls(run, open_grader(grader, ask=door), door)

    def read(self, folder: Path, most: int | None) -> Iterator[tuple[ChatSample | PromptSample, Mapping[str, Any]]]:
        """Conversations and prompts with the records that they are judged with, each of which has what the grader reads.

        A record without a `reference_answer` gets the given answer, if it is a text, as that.

        Raises:
            InvalidData: a fault of the data set, or a record lacks what the grader reads; names file and line.
        """
        for sample, record in islice(read_answerable(folder), most):
            item = dict(record)
            given = sample.messages[-1].get("content") if isinstance(sample, ChatSample) else None
            if isinstance(given, str):
                item.setdefault("reference_answer", given)
            check_item(self._grading, item, sample.source, sample.line)
            yield sample, item

    def note(self, name: str, answer: str, item: Mapping[str, Any]) -> None:
        """Keep the answer to the sample of that name, to be judged with the others."""
        self._names.append(name)
        self._cases.append(Case(Sample(output_text=answer), item))

    def finish(self, report: SampleReport) -> None:
        """Judge what was kept, and add it to a report.

        `reward`: the grader's score, a mean over the answers that it could judge, `reward_low` and `reward_high` its 95 %
        interval (percentile bootstrap over samples, Efron 1979). `pass_rate`: the share that reaches the threshold.
        `grader_failures`: the share on which the grader itself failed; these have no reward.

        Raises:
            InvalidRequest: the grader failed on all of them (`grader_failed`). Unavailable: the model that it asks stayed away.
        """
        if not self._cases:
            return
        grades: list[Grade] = []
        for start in range(0, len(self._cases), _AT_A_TIME):
            self._run.raise_if_cancelled()
            grades += self._grading.grade(self._cases[start : start + _AT_A_TIME])
            if self._door is not None and self._door.away is not None:
                raise self._door.away
            self._run.progress(len(grades), len(self._cases), "answers judged")
        failed = [grade for grade in grades if grade.is_failure]
        if failed:
            _tell(failed, len(grades))
        for name, grade in zip(self._names, grades, strict=True):
            detail: dict[str, Any] = {"reward": grade.score, "label": grade.label, "sub_scores": grade.sub_scores}
            scores = {"reward": grade.score, "pass_rate": float(grade.passed)}
            if grade.message is not None:
                detail["grader_error"] = grade.message[:_MAX_MESSAGE_CHARS]
            if grade.is_failure:
                del detail["reward"]
                scores = {}
            report.add_scores(name, scores, {key: value for key, value in detail.items() if value not in (None, {})})
        low, high = interval([grade.score for grade in grades if not grade.is_failure])
        report.note(reward_low=low, reward_high=high, grader_failures=len(failed) / len(grades))


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Where the mean of values like these lies, by the percentile bootstrap; the same values give the same numbers."""
    given = np.asarray(values, np.float64)
    chance = np.random.default_rng(0)
    # Some rows at a time: all of them at once would take gigabytes for a large test set.
    means = np.concatenate([chance.choice(given, (_NUM_RESAMPLES // 100, len(given))).mean(axis=1) for _ in range(100)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _tell(failed: Sequence[Grade], number: int) -> None:
    reason = (failed[0].message or "it gave no reason").rstrip(".")
    if len(failed) == number:
        raise InvalidRequest(
            f"The grader failed on all of {number} answers: {reason}.",
            hint="Try it with POST /v1/fine_tuning/alpha/graders/run on a record of the data set.",
            param="params.grader",
            code="grader_failed",
        )
    _log.warning("the grader failed on %d of %d answers: %s", len(failed), number, reason)
