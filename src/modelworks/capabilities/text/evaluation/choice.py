"""Multiple choice and preferences: which of several answers a model finds likeliest.

The likelihood is taken per byte, so that long answers are not at a loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.datasets import read_preferences
from modelworks.capabilities.text.datasets.samples import text_of
from modelworks.capabilities.text.evaluation.likelihood import Measure
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import MeasureParams
from modelworks.capabilities.text.training.rows import conversation_rows
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import Run


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation, several ways to go on (each one or more messages), and the place of the right one."""

    name: str
    messages: Sequence[dict[str, Any]]
    choices: Sequence[Sequence[dict[str, Any]]]
    right: int
    tools: Sequence[dict[str, Any]] | None = None


def read_questions(folder: Path) -> Iterator[Question]:
    """Questions from JSON lines: `{"question": …, "choices": […], "answer": 0 | "A" | "the choice"}`.

    Raises:
        InvalidData: a line is no such object; with file, line and field.
    """
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.jsonl"))
    for file in files:
        name = file.name if file == folder else file.relative_to(folder).as_posix()
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _question(f"{name}:{number}", line)


def read_pairs(folder: Path) -> Iterator[Question]:
    """Preference pairs as questions, of which the chosen answer is the right one; raises what `read_preferences` raises."""
    for pair in read_preferences(folder):
        yield Question(f"{pair.source}:{pair.line}", pair.messages, (pair.chosen, pair.rejected), 0, pair.tools)


def measure_questions(
    run: Run, asked: Iterator[Question], params: MeasureParams, prompt_format: PromptFormat, measure: Measure
) -> SampleReport:
    """Measure each question; loss and bits per byte are those of the right choice.

    Raises:
        InvalidData: a question is malformed, or the model's template refuses it.
    """
    questions = list(islice(asked, params.max_documents))
    report = SampleReport()
    for done, each in enumerate(questions):
        run.raise_if_cancelled()
        measured = []
        for choice in each.choices:
            weights = [*[0.0] * len(each.messages), *[1.0] * len(choice)]
            nats, num_tokens = 0.0, 0
            for row in conversation_rows(prompt_format, [*each.messages, *choice], each.tools, weights, each.name):
                row_nats, row_tokens = measure(row.ids, [weight > 0 for weight in row.weights])
                nats += row_nats
                num_tokens += row_tokens
            measured.append((nats, num_tokens, max(1, len(text_of(choice).encode("utf-8")))))
        chosen = min(range(len(measured)), key=lambda place: measured[place][0] / measured[place][2])
        nats, num_tokens, num_bytes = measured[each.right]
        report.add(
            each.name,
            nats=nats,
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            scores={"accuracy": float(chosen == each.right)},
            detail={"chosen": chosen},
        )
        run.progress(done + 1, len(questions), "questions")
    return report


def _question(name: str, line: str) -> Question:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InvalidData(f"{name}: not JSON ({error}).") from None
    if not isinstance(record, dict):
        raise InvalidData(f"{name}: not an object.")
    question, choices = record.get("question"), record.get("choices")
    if not isinstance(question, str) or not question:
        raise InvalidData(f'{name}: field "question" is missing or not a text.')
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(each, str) and each for each in choices):
        raise InvalidData(f'{name}: field "choices" is not a list of two texts or more.')
    answers = tuple([{"role": "assistant", "content": each}] for each in choices)
    return Question(name, [{"role": "user", "content": question}], answers, _right(name, record.get("answer"), choices))


def _right(name: str, answer: Any, choices: list[str]) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str):
        if choices.count(answer) == 1:
            return choices.index(answer)
        letter = ord(answer.upper()) - ord("A") if len(answer) == 1 else -1
        if 0 <= letter < len(choices):
            return letter
    raise InvalidData(
        f'{name}: field "answer" names none of the {len(choices)} choices.',
        hint="Give its place from 0, its letter, or itself.",
    )
