"""Judging in a process of its own, so that no schema and no grader of a client can hold up the server."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from modelworks.contract.errors import InvalidRequest, ModelworksError, UnsupportedParameter
from modelworks.contract.grading import GraderOpener, Grading, ModelAnswer, parse_grader
from modelworks.kernel.catalog import find_task, resolve_import
from modelworks.kernel.gateway.evals.items import Row
from modelworks.kernel.gateway.generation.language import LANGUAGE_TASK

_WORKER: Final = Path(__file__).with_name("grading_worker.py")
#: A line of the pipe: one item with its answer.
_MAX_LINE_BYTES: Final = 256 << 20
#: How long a batch of items may take, and then each of them; the models that graders ask are not counted.
TIME_LIMIT_S: Final = 120.0

#: Answers a grader's question to a model: name, messages, sampling.
AskModel = Callable[[str, list[dict[str, Any]], dict[str, Any]], Awaitable[ModelAnswer]]


class GraderLost(Exception):
    """The process ended or was ended in the middle of an item; the text says why."""


def grader_path() -> str:
    """The import path of what opens graders.

    Raises:
        UnsupportedParameter: no installed capability judges answers.
    """
    _, task = find_task(None, LANGUAGE_TASK)
    if task.grader is None:
        raise UnsupportedParameter(
            "testing_criteria: no installed capability judges answers.",
            hint="Install one whose task names a grader.",
            param="testing_criteria",
        )
    return task.grader


def open_criterion(values: Any, param: str) -> Grading:
    """Check one criterion completely.

    Raises:
        InvalidRequest, UnsupportedParameter: it is wrong; `param` names the field below `param`.
    """
    opener: GraderOpener = resolve_import(grader_path())  # type: ignore[assignment]
    spec = parse_grader(values, param)
    try:
        return opener(spec, ask=_nobody)
    except InvalidRequest as error:
        field = (error.param or "grader").removeprefix("grader")
        message = error.message
        if message.startswith("grader"):
            message = param + message.removeprefix("grader")
        raise type(error)(message, hint=error.hint, param=f"{param}{field}", code=error.error_code) from error


def _nobody(model: str, messages: Any, sampling: Any) -> ModelAnswer:
    raise InvalidRequest("A criterion that is only checked asks no model.")


class GraderProcess:
    """One process; one request at a time. Started at its first use, and again after it was lost.

    Args:
        time_limit_s: how long a batch may take, and each of its items where it took longer.
    """

    def __init__(self, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._process: asyncio.subprocess.Process | None = None

    async def first_fault(self, schema: Mapping[str, Any], rows: Sequence[Row]) -> tuple[int, str, str] | None:
        """The first item that does not match the schema: its place, the field, what is wrong.

        Raises:
            GraderLost: the check did not end in time.
        """
        try:
            reply = await self._exchange({"op": "check", "schema": schema, "rows": [[row.seq, row.item] for row in rows]})
        except BaseException:
            await self.close()
            raise
        fault = reply["fault"]
        return None if fault is None else (int(fault[0]), str(fault[1]), str(fault[2]))

    async def grade(
        self, criteria: Sequence[Mapping[str, Any]], rows: Sequence[Row], ask: AskModel
    ) -> list[list[dict[str, Any]]]:
        """A wire form of `Grade` for each row and criterion, in their order.

        Raises:
            GraderLost: one of the rows was too much for the process.
        """
        asked = {"op": "grade", "graders": criteria, "rows": [[row.seq, row.item, row.sample or {}] for row in rows]}
        try:
            reply = await self._exchange(asked)
            while "ask" in reply:
                reply = await self._exchange(await _answer(reply["ask"], ask))
        except BaseException:
            # Given up in the middle: what comes next out of the pipe would answer another question.
            await self.close()
            raise
        found: list[list[dict[str, Any]]] = reply["grades"]
        return found

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _exchange(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a line and read the next."""
        try:
            process = self._process or await self._start()
            assert process.stdin is not None  # noqa: S101 - both are pipes
            assert process.stdout is not None  # noqa: S101
            async with asyncio.timeout(self._time_limit_s):
                process.stdin.write(orjson.dumps(message) + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError as error:
            await self.close()
            raise GraderLost(f"it took longer than {self._time_limit_s:g} s") from error
        except (ConnectionError, ValueError) as error:
            await self.close()
            raise GraderLost("the process that judges has ended") from error
        if not line.endswith(b"\n"):
            await self.close()
            raise GraderLost("the process that judges has ended")
        found: dict[str, Any] = orjson.loads(line)
        return found

    async def _start(self) -> asyncio.subprocess.Process:
        # -P: the folder of the script holds names of Python's own modules.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            str(_WORKER),
            grader_path(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
        )
        return self._process


async def _answer(wanted: Mapping[str, Any], ask: AskModel) -> dict[str, Any]:
    try:
        found = await ask(wanted["model"], wanted["messages"], wanted["sampling"])
    except ModelworksError as error:
        return {"error": error.to_wire()}
    return {"answer": found.model_dump()}
