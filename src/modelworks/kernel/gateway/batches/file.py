"""The files of a batch: questions line by line, what is wrong with them, and the lines of what was answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import orjson

from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.tuning.training_file import MAX_LINE_BYTES, lines_of

#: OpenAI's limits.
MAX_REQUESTS: Final = 50_000
MAX_FILE_BYTES: Final = 200 << 20
_MAX_ID_CHARS: Final = 512
#: Faults that are shown; whoever corrects them sees the next ones.
_MAX_FAULTS: Final = 100
_BOM: Final = b"\xef\xbb\xbf"
_TOKENS: Final = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class Question:
    """One request of a batch: its line (from 1), its caller's id, and its body as JSON."""

    seq: int
    custom_id: str
    model: str
    body: bytes


@dataclass(slots=True)
class Findings:
    """What a file of questions holds.

    `model` is the one that all of them ask, None where they differ. `faults` have the form of OpenAI's batch errors.
    """

    num_requests: int = 0
    model: str | None = None
    faults: list[dict[str, Any]] = field(default_factory=list)


def check(file: BinaryIO, endpoint: str) -> Findings:
    """Read every line of a file; the bodies are checked by the route when they are asked."""
    found, seen, models = Findings(), dict[str, int](), set[str]()
    for number, line in lines_of(file):
        if line is not None and not line.strip():
            continue
        found.num_requests += 1
        if found.num_requests > MAX_REQUESTS:
            found.faults.append(_fault("too_many_requests", number, f"A batch takes {MAX_REQUESTS} requests; split the file."))
            break
        read = _read(number, line, endpoint)
        if isinstance(read, Question):
            models.add(read.model)
            first = seen.setdefault(read.custom_id, number)
            if first == number:
                continue
            message = f"The custom_id {read.custom_id[:80]!r} stands in line {first} already."
            read = _fault("duplicate_custom_id", number, message, "custom_id")
        found.faults.append(read)
        if len(found.faults) >= _MAX_FAULTS:
            break
    if found.num_requests == 0:
        found.faults.append(_fault("empty_file", None, "The file holds no request."))
    found.model = models.pop() if len(models) == 1 else None
    return found


def questions(file: BinaryIO, endpoint: str) -> Iterator[Question]:
    """The questions of a file that `check` found nothing wrong with."""
    for number, line in lines_of(file):
        if line is not None and line.strip() and isinstance(read := _read(number, line, endpoint), Question):
            yield read


def _read(number: int, line: bytes | None, endpoint: str) -> Question | dict[str, Any]:
    if line is None:
        return _fault("line_too_long", number, f"The line is longer than {MAX_LINE_BYTES} bytes.")
    try:
        found = orjson.loads(line.removeprefix(_BOM) if number == 1 else line)
    except orjson.JSONDecodeError as error:
        return _fault("invalid_json_line", number, f"The line is not JSON ({error.msg}, column {error.colno}).")
    if not isinstance(found, dict):
        return _fault("invalid_json_line", number, "The line is not a JSON object.")
    for name in ("custom_id", "method", "url", "body"):
        if name not in found:
            return _fault("missing_required_parameter", number, f"The field {name!r} is missing.", name)
    custom_id, body = found["custom_id"], found["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_ID_CHARS:
        return _fault("invalid_value", number, f"custom_id: must be a text of 1 to {_MAX_ID_CHARS} characters.", "custom_id")
    if found["method"] != "POST":
        return _fault("invalid_method", number, "method: must be POST.", "method")
    if found["url"] != endpoint:
        return _fault("mismatched_endpoint", number, f"url: must be {endpoint}, the endpoint of the batch.", "url")
    if not isinstance(body, dict):
        return _fault("invalid_type", number, "body: must be an object.", "body")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return _fault("missing_required_parameter", number, "body.model: the name of a model is missing.", "body.model")
    for name in ("stream", "background"):
        if body.get(name):
            return _fault("invalid_value", number, f"body.{name}: a batch gives whole answers only.", f"body.{name}")
    return Question(number, custom_id, model, orjson.dumps(body))


def _fault(code: str, line: int | None, message: str, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "line": line, "message": message, "param": param}


# -- answers -------------------------------------------------------------------------------------------------------------


def answer_line(custom_id: str, status: int, request_id: str, body: Any) -> bytes:
    """A line of the output file, or of the error file where the status is none of success."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _line(custom_id, response, None)


def unasked_line(custom_id: str, code: str, message: str) -> bytes:
    """A line of the error file for a question that was never answered."""
    return _line(custom_id, None, {"code": code, "message": message})


def _line(custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    found = {"id": new_id("batch_req"), "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)


def add_usage(sums: Mapping[str, int], body: Any) -> dict[str, int]:
    """`sums` and the usage of one answer, whichever of OpenAI's two forms it has."""
    usage = body.get("usage") if isinstance(body, dict) else None
    took: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
    read = took.get("prompt_tokens_details") or took.get("input_tokens_details") or {}
    written = took.get("completion_tokens_details") or took.get("output_tokens_details") or {}
    one = {
        "input_tokens": took.get("prompt_tokens") or took.get("input_tokens") or 0,
        "cached_tokens": read.get("cached_tokens") or 0,
        "output_tokens": took.get("completion_tokens") or took.get("output_tokens") or 0,
        "reasoning_tokens": written.get("reasoning_tokens") or 0,
    }
    return {name: sums.get(name, 0) + one[name] for name in _TOKENS}


def usage_object(sums: Mapping[str, int]) -> dict[str, Any]:
    """OpenAI's usage of a batch."""
    used = {name: sums.get(name, 0) for name in _TOKENS}
    return {
        "input_tokens": used["input_tokens"],
        "input_tokens_details": {"cached_tokens": used["cached_tokens"]},
        "output_tokens": used["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": used["reasoning_tokens"]},
        "total_tokens": used["input_tokens"] + used["output_tokens"],
    }
