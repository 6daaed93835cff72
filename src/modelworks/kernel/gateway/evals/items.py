"""The items of an eval's run: read from a file, made into messages, counted, and shown in OpenAI's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import orjson
from pydantic import ValidationError

from modelworks.contract.errors import InvalidData
from modelworks.contract.grading import Sample
from modelworks.contract.template import Template
from modelworks.kernel.gateway.evals.wire import Reference, Turns
from modelworks.kernel.gateway.files.service import seconds
from modelworks.kernel.gateway.store import EvalItemRow, EvalRunRow
from modelworks.kernel.gateway.tuning.training_file import MAX_LINE_BYTES, lines_of

MAX_ITEMS: Final = 100_000
#: States of an item that is done.
DONE: Final = ("pass", "fail", "error")
_ID: Final = "outputitem_"
_BOM: Final = b"\xef\xbb\xbf"
_TOKENS: Final = ("prompt_tokens", "completion_tokens", "cached_tokens", "total_tokens")


@dataclass(frozen=True, slots=True)
class Row:
    """One item as it came: its line or place (from 1), its content, and the answer where it holds one."""

    seq: int
    item: dict[str, Any]
    sample: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the criteria say of one item: pass, fail or error, and the result of each where it was judged."""

    seq: int
    state: str
    results: Sequence[dict[str, Any]] = ()


def rows_of_file(file: BinaryIO) -> Iterator[Row]:
    """The items of a file of the purpose `evals`, line by line.

    Raises:
        InvalidData: a line that is no item; the message names line and field.
    """
    count = 0
    for number, line in lines_of(file):
        if line is None:
            raise _fault(number, f"it is longer than {MAX_LINE_BYTES} bytes")
        if number == 1:
            line = line.removeprefix(_BOM)
        if not line.strip():
            continue
        count += 1
        if count > MAX_ITEMS:
            raise _fault(number, f"a run takes {MAX_ITEMS} items at most; split the file")
        yield _row(number, line)
    if count == 0:
        raise _fault(1, "the file holds no item")


def _row(number: int, line: bytes) -> Row:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _fault(number, f"it is not JSON ({error.msg}, column {error.colno})") from error
    if not isinstance(found, dict) or not isinstance(found.get("item"), dict):
        raise _fault(number, 'it is not {"item": {…}}')
    sample = found.get("sample")
    if sample is not None and not isinstance(sample, dict):
        raise _fault(number, "sample: it is not an object")
    return Row(number, found["item"], answered(sample))


def answered(sample: dict[str, Any] | None) -> dict[str, Any] | None:
    """A sample that came with its item; the text of its first choice is its `output_text` where it has none."""
    choices = None if sample is None else sample.get("choices")
    if sample is None or "output_text" in sample or not isinstance(choices, list) or not choices:
        return sample
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    return {**sample, "output_text": text} if isinstance(text, str) else sample


def sample_fault(row: Row) -> tuple[str, str] | None:
    """The first field of a given sample that criteria could not read, and what is wrong with it; None: all is well."""
    given = row.sample or {}
    try:
        Sample.model_validate({name: given[name] for name in Sample.model_fields if given.get(name) is not None})
    except ValidationError as error:
        first = error.errors()[0]
        return ".".join(["sample", *(str(part) for part in first["loc"])]), first["msg"]
    return None


def _fault(number: int, what: str) -> InvalidData:
    return InvalidData(f"line {number}: {what}.", hint='Each line holds {"item": {…}}, with "sample" where it is answered.')


# -- messages ------------------------------------------------------------------------------------------------------------


def messages_of(source: Turns | Reference, row: Row) -> list[dict[str, Any]]:
    """The messages of one item.

    Raises:
        InvalidData: the item lacks a field that the template names, or holds no messages where it should; the message names
            the field and the item.
    """
    try:
        if isinstance(source, Turns):
            return [
                {"role": turn.role, "content": Template.parse(turn.content).fill(item=row.item)} for turn in source.template
            ]
        (variable,) = Template.parse(f"{{{{{source.item_reference}}}}}").variables
        found = variable.value({"item": row.item})
    except InvalidData as error:
        raise InvalidData(f"item {row.seq}: {error.message}", hint=error.hint, code=error.error_code) from error
    if not isinstance(found, list) or not found or not all(_is_message(each) for each in found):
        raise InvalidData(
            f"item {row.seq}: {source.item_reference} is no list of messages with role and content.",
            hint="Correct the item, or use a template.",
            code="invalid_item",
        )
    return found


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value


# -- sums ----------------------------------------------------------------------------------------------------------------


def fresh_tally(num_criteria: int) -> dict[str, Any]:
    """The sums of a run before its first item."""
    return {"pass": 0, "fail": 0, "error": 0, "criteria": [[0, 0] for _ in range(num_criteria)], "usage": {}}


def add_usage(tally: dict[str, Any], model: str, usage: Mapping[str, Any]) -> None:
    """Count one request to a model; `usage` is OpenAI's usage object."""
    sums = tally["usage"].setdefault(model, {"invocation_count": 0, **dict.fromkeys(_TOKENS, 0)})
    sums["invocation_count"] += 1
    for name, number in item_usage(usage).items():
        sums[name] += number


def item_usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """The four figures that evals show of OpenAI's usage object."""
    flat = {**usage, "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)}
    return {name: int(flat.get(name) or 0) for name in _TOKENS}


def add_item(tally: dict[str, Any], state: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Count one item that is done: its results stand in the order of the criteria."""
    tally[state] += 1
    for sums, result in zip(tally["criteria"], results, strict=False):
        if result.get("error") is None:
            sums[0 if result["passed"] else 1] += 1


# -- what clients see ----------------------------------------------------------------------------------------------------


def item_id(run_id: str, seq: int) -> str:
    """The id of an output item: it names its run and its place."""
    return f"{_ID}{run_id.rpartition('_')[2]}_{seq}"


def place_of(run_id: str, wanted: str) -> int | None:
    """The place of an output item in its run; None where the id is none of that run."""
    start, _, number = wanted.rpartition("_")
    if not number.isdecimal() or len(number) > 9 or start != item_id(run_id, 0).rpartition("_")[0]:
        return None
    return int(number)


def item_object(run: EvalRunRow, row: EvalItemRow) -> dict[str, Any]:
    """OpenAI's output item."""
    return {
        "id": item_id(run.id, row.seq),
        "object": "eval.run.output_item",
        "created_at": seconds(row.done_at or run.created_at),
        "run_id": run.id,
        "eval_id": run.eval_id,
        "status": row.state,
        "datasource_item_id": row.seq,
        "datasource_item": row.item,
        "results": [_result(result) for result in row.results],
        "sample": _sample(row.sample or {}, run.model),
    }


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: result[name] for name in ("name", "type", "score", "passed")}
    shown["sample"] = result.get("sample")
    if result.get("error") is not None:
        shown["error"] = result["error"]
    return shown


def _sample(sample: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """OpenAI's sample of what the criteria saw; fields that a given answer lacks have their neutral value."""
    choices = sample.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    usage = sample.get("usage") if isinstance(sample.get("usage"), dict) else {}
    answer = sample.get("output_text")
    return {
        "input": sample.get("input") or [],
        "output": [] if answer is None else [{"role": "assistant", "content": answer}],
        "finish_reason": sample.get("finish_reason") or first.get("finish_reason") or "",
        "model": sample.get("model") or model or "",
        "usage": item_usage(usage or {}),
        "error": sample.get("error"),
        "seed": sample.get("seed") or 0,
        "temperature": sample.get("temperature") or 0.0,
        "top_p": sample.get("top_p") or 0.0,
        "max_completion_tokens": sample.get("max_completion_tokens"),
    }


def sampled(messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The namespace `sample` of a chat completion.

    Args:
        messages: what was asked.
        body: the other fields of the request.
        answer: OpenAI's chat completion.
    """
    choice = answer["choices"][0]
    message = choice["message"]
    found = {
        "model": answer["model"],
        "choices": answer["choices"],
        "output_text": message.get("content") or "",
        "finish_reason": choice["finish_reason"],
        "input": [{"role": each["role"], "content": _shown(each.get("content"))} for each in messages],
        "usage": answer.get("usage") or {},
        **{name: body[name] for name in ("seed", "temperature", "top_p", "max_completion_tokens") if name in body},
    }
    if message.get("tool_calls"):
        found["output_tools"] = message["tool_calls"]
    return found


def _shown(content: Any) -> str:
    return content if isinstance(content, str) else orjson.dumps(content).decode()
