"""The process that judges: `python -P grading_worker.py <grader of the task>`, JSON lines in and out.

Schemas and graders are written by clients: a pattern that never ends, or a text that takes minutes to compare, must hold up
this process and not the server. Run by its path, it imports the contract and the capability's grader, nothing of the server.

    → {"op": "check", "schema": {…}, "rows": [[3, {…}], …]}             ← {"fault": [3, "item.name", "…"]} or {"fault": null}
    → {"op": "grade", "graders": [{…}, …], "rows": [[3, {item}, {sample}], …]}    ← {"grades": [[{…}, …], …]}, by row
    ← {"ask": {"model": …, "messages": […], "sampling": {…}}}           → {"answer": {…}} or {"error": {…}}
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, cast

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from modelworks.contract.errors import InvalidRequest, ModelworksError, from_wire
from modelworks.contract.generation import Message, Sampling
from modelworks.contract.grading import Case, GraderOpener, Grading, ModelAnswer, Sample, parse_grader

_MAX_REASON_CHARS = 500


def check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Whether this is a JSON schema of objects.

    Raises:
        InvalidRequest: it is none; the message names the place in it.
    """
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        place = ".".join([param, *(str(part) for part in error.absolute_path)])
        raise InvalidRequest(
            f"{place}: it is no JSON schema: {error.message[:_MAX_REASON_CHARS]}.", param=place, code="invalid_value"
        ) from error


def first_fault(schema: Mapping[str, Any], rows: Sequence[tuple[int, Any]]) -> tuple[int, str, str] | None:
    """The first item that does not match: its place, the field and what is wrong with it; None: all match.

    References to other documents are not followed: nothing is fetched.
    """
    validator = validator_for(schema, default=Draft202012Validator)(dict(schema), registry=Registry())
    for seq, item in rows:
        try:
            error = next(validator.iter_errors(item), None)
        except Unresolvable as missing:
            return seq, "item", f"the schema refers to {missing.ref!r}, which is not in it"
        except RecursionError:
            return seq, "item", "it is nested too deeply"
        if error is not None:
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
            return seq, f"item{path}", error.message[:_MAX_REASON_CHARS]
    return None


class Line:
    """Both directions of the pipe to the server."""

    def __init__(self, source: BinaryIO, target: BinaryIO) -> None:
        self._target = target
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(source,), name="stdin", daemon=True).start()

    def _read(self, source: BinaryIO) -> None:
        for line in source:
            self._waiting.put(line)
        # The server has gone: nobody wants this any more, however far it is.
        os._exit(0)

    def receive(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self._waiting.get()))

    def send(self, message: Mapping[str, Any]) -> None:
        self._target.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._target.flush()

    def ask(self, model: str, messages: Sequence[Message], sampling: Sampling) -> ModelAnswer:
        """A contract's `Ask`: the server asks the deployment."""
        wanted = {
            "model": model,
            "messages": [message.model_dump(exclude_none=True) for message in messages],
            "sampling": sampling.model_dump(exclude_defaults=True),
        }
        self.send({"ask": wanted})
        reply = self.receive()
        if "error" in reply:
            raise from_wire(reply["error"])
        return ModelAnswer.model_validate(reply["answer"])


class Judge:
    """Graders that are ready, kept from one batch to the next."""

    def __init__(self, opener: GraderOpener, line: Line) -> None:
        self._opener = opener
        self._line = line
        self._open: dict[str, Grading] = {}

    def grades(self, graders: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[Any]]) -> list[list[dict[str, Any]]]:
        """What each grader says of each answer, as wire forms of `Grade`, by answer; a failure is one, too."""
        columns = [self._column(grader, rows) for grader in graders]
        return [list(verdicts) for verdicts in zip(*columns, strict=True)]

    def _column(self, grader: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        """All rows together: some graders start a process for each call."""
        try:
            found = self._ready(grader).grade([_case(item, sample) for _, item, sample in rows])
            return [grade.model_dump(exclude_defaults=True) for grade in found]
        except Exception as error:
            # One answer or one criterion that fails must not take the others with it.
            if len(rows) > 1:
                return [self._column(grader, [row])[0] for row in rows]
            message = error.message if isinstance(error, ModelworksError) else f"{type(error).__name__}: {error}"
            return [{"message": message[:_MAX_REASON_CHARS]}]

    def _ready(self, grader: Mapping[str, Any]) -> Grading:
        key = json.dumps(grader, sort_keys=True)
        if key not in self._open:
            self._open[key] = self._opener(parse_grader(dict(grader)), ask=self._line.ask)
        return self._open[key]


def _case(item: Mapping[str, Any], sample: Mapping[str, Any]) -> Case:
    known = {name: sample[name] for name in Sample.model_fields if sample.get(name) is not None}
    return Case(Sample.model_validate(known), item)


def main(path: str) -> None:
    """Work until the server closes the pipe."""
    # What libraries print must not end up between the lines.
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    module, _, attribute = path.partition(":")
    line = Line(sys.stdin.buffer, target)
    judge = Judge(cast(GraderOpener, getattr(importlib.import_module(module), attribute)), line)
    while True:
        asked = line.receive()
        if asked["op"] == "check":
            line.send({"fault": first_fault(asked["schema"], [(seq, item) for seq, item in asked["rows"]])})
            continue
        line.send({"grades": judge.grades(asked["graders"], asked["rows"])})


if __name__ == "__main__":
    main(sys.argv[1])
