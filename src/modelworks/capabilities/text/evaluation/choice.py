"""Multiple choice: the model answers with the choice that it finds likeliest per byte, so that long ones are not at a loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.evaluation.likelihood import Measure
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import EvaluateParams
from modelworks.capabilities.text.training.rows import conversation_rows
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import Run


@dataclass(frozen=True, slots=True)
class Question:
    """A question, what may be answered, and the place of the right choice."""

    name: str
    question: str
    choices: tuple[str, ...]
    right: int


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


def measure_questions(
    run: Run, folder: Path, params: EvaluateParams, prompt_format: PromptFormat, measure: Measure
) -> SampleReport:
    """Measure each question; loss and bits per byte are those of the right choice.

    Raises:
        InvalidData: a question is malformed, or the model's template refuses it.
    """
    questions = list(islice(read_questions(folder), params.max_documents))
    report = SampleReport()
    for done, each in enumerate(questions):
        run.raise_if_cancelled()
        measured = []
        for choice in each.choices:
            messages = [{"role": "user", "content": each.question}, {"role": "assistant", "content": choice}]
            (row,) = conversation_rows(prompt_format, messages, None, [0.0, 1.0], each.name)
            nats, num_tokens = measure(row.ids, [weight > 0 for weight in row.weights])
            measured.append((nats, num_tokens, len(choice.encode("utf-8"))))
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
    return Question(name, question, tuple(choices), _right(name, record.get("answer"), choices))


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
