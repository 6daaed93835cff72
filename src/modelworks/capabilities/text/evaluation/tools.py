"""Calls of functions: does a model call the right function with the right arguments, and none where none fits?

Read is the form of the Berkeley Function Calling Leaderboard: `question` (a list of turns, each a list of messages), `function`
and `ground_truth`, in the record itself or, under the same `id`, in a file of the same name in the folder `possible_answer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.datasets.samples import text_of
from modelworks.capabilities.text.evaluation.calls import Truth, calls_in, example_of, fault_of
from modelworks.capabilities.text.evaluation.likelihood import Measure
from modelworks.capabilities.text.evaluation.records import read_json_lines
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.evaluation.writing import Writer
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import MeasureParams
from modelworks.capabilities.text.training.rows import conversation_rows
from modelworks.contract.errors import InvalidData
from modelworks.contract.generation import Message
from modelworks.contract.run import Run

#: Where the leaderboard's data have the right answers.
ANSWERS = "possible_answer"
#: The leaderboard's names of types in JSON Schema.
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_TYPES = frozenset({*_JSON_TYPES, "string", "integer", "number", "boolean", "array", "object"})


@dataclass(frozen=True, slots=True)
class Request:
    """Messages, the functions on offer, and the calls that are right: none where no function fits."""

    name: str
    messages: list[dict[str, Any]]
    functions: list[dict[str, Any]]
    truths: list[Truth]


def read_requests(folder: Path) -> Iterator[Request]:
    """The requests of a data set.

    Raises:
        InvalidData: a record is malformed, of a kind that is not measured (several turns, another language than Python), or has
            no right answer; with file, line and field.
    """
    answers = {
        str(record.get("id")): record.get("ground_truth") for name, record in read_json_lines(folder) if _is_answer(name)
    }
    for name, record in read_json_lines(folder):
        if not _is_answer(name):
            yield _request(name, record, answers)


def measure_requests(
    run: Run, folder: Path, params: MeasureParams, prompt_format: PromptFormat, measure: Measure, writer: Writer
) -> SampleReport:
    """Let the model answer each request and compare its calls with those that are right.

    A model whose template has no place for tools is told of the functions in a system message. The likelihood is that of the
    right calls as the template writes them, or of the request's text where no call is right.

    Raises:
        InvalidData: a record is malformed, or the template refuses the messages.
    """
    requests = list(islice(read_requests(folder), params.max_documents))
    has_place = "tools" in str(prompt_format.tokenizer.chat_template)
    report = SampleReport()
    for done, request in enumerate(requests):
        run.raise_if_cancelled()
        tools = [_tool(function) for function in request.functions] if has_place else None
        messages = request.messages if has_place else [_told(request.functions), *_without_system(request.messages)]
        turns = [Message.model_validate(message) for message in messages]
        answer = writer.answer(prompt_format.encoder.render(turns, tools).ids())
        calls = calls_in(answer)
        fault = fault_of(calls, request.truths, request.functions)
        right = [example_of(truth, request.functions) for truth in request.truths]
        nats, num_tokens, num_bytes = _likelihood(request, messages, tools, right, prompt_format, measure)
        report.add(
            request.name,
            nats=nats,
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            scores={"tool_accuracy": float(fault is None)},
            detail={"answer": answer, **({} if fault is None else {"fault": fault})},
        )
        run.progress(done + 1, len(requests), "requests")
    return report


def _likelihood(
    request: Request,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    right: Sequence[Any],
    prompt_format: PromptFormat,
    measure: Measure,
) -> tuple[float, int, int]:
    if not right:
        asked = text_of(request.messages)
        ids = [int(token) for token in prompt_format.tokenizer(asked, verbose=False)["input_ids"]]
        return (*measure(ids), len(asked.encode()))
    plain = [{"name": call.name, "arguments": call.arguments} for call in right]
    text = json.dumps(plain, ensure_ascii=False)
    answer: dict[str, Any] = {"role": "assistant", "content": text}
    if tools is not None:
        listed = [
            {
                "id": f"call_{place}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for place, call in enumerate(right)
        ]
        answer = {"role": "assistant", "content": "", "tool_calls": listed}
    weights = [*[0.0] * len(messages), 1.0]
    rows = conversation_rows(prompt_format, [*messages, answer], tools, weights, request.name)
    measured = [measure(row.ids, [weight > 0 for weight in row.weights]) for row in rows]
    return sum(nats for nats, _ in measured), sum(tokens for _, tokens in measured), len(text.encode())


def _told(functions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The system message that names the functions."""
    asked = files("modelworks.capabilities.text").joinpath("prompts", "call_functions.md").read_text("utf-8")
    listed = "\n".join(json.dumps(_tool(function)["function"], ensure_ascii=False) for function in functions)
    return {"role": "system", "content": asked.split("---\n", 2)[2] + listed}


def _without_system(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Templates take one system message, at the start: others become the user's."""
    return [{**message, "role": "user"} if message["role"] == "system" else message for message in messages]


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    """A function as OpenAI writes it."""
    return {"type": "function", "function": {**function, "parameters": _json_schema(function.get("parameters", {}))}}


def _json_schema(value: Any) -> Any:
    if isinstance(value, list):
        return [_json_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _JSON_TYPES.get(each, each) if key == "type" and isinstance(each, str) else _json_schema(each)
        for key, each in value.items()
    }


def _is_answer(name: str) -> bool:
    return ANSWERS in name.split("/")[:-1]


def _request(name: str, record: dict[str, Any], answers: dict[str, Any]) -> Request:
    def wrong(fault: str, hint: str | None = None) -> InvalidData:
        return InvalidData(f"{name}: {fault}.", hint=hint)

    questions, functions = record.get("question"), record.get("function")
    if "initial_config" in record or (isinstance(questions, list) and len(questions) > 1):
        raise wrong("several turns with functions that are carried out are not measured", "Leave the multi_turn files out.")
    if not (isinstance(questions, list) and questions and isinstance(questions[0], list) and questions[0]):
        raise wrong('field "question" is no list of turns, each a list of messages')
    messages = questions[0]
    if not all(isinstance(each, dict) and isinstance(each.get("content"), str) and each.get("role") for each in messages):
        raise wrong('field "question": a message has no role or no text')
    if not (isinstance(functions, list) and all(isinstance(each, dict) and each.get("name") for each in functions)):
        raise wrong('field "function" is no list of functions with names')
    for function in functions:
        properties = (function.get("parameters") or {}).get("properties") or {}
        strange = next((str(each.get("type")) for each in properties.values() if each.get("type") not in _TYPES), None)
        if strange is not None:
            raise wrong(
                f'field "function": the type {strange!r} is not one of Python', "Leave the files for Java and JavaScript out."
            )
    truths = record.get("ground_truth", answers.get(str(record.get("id"))))
    if truths is None and "irrelevance" not in f"{name} {record.get('id')}":
        raise wrong('field "ground_truth" is missing', f"Add it, or the folder {ANSWERS}; an empty list means that none fits.")
    if not all(isinstance(each, dict) and len(each) == 1 for each in truths or []):
        raise wrong('field "ground_truth" is no list of objects, each with one function')
    return Request(name, messages, functions, list(truths or []))
