"""Graders written in Python: `def grade(sample, item) -> float`, in the sandbox, many answers to a process."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from modelworks.capabilities.text.grading.verdict import Failed, scored
from modelworks.capabilities.text.sandbox import Outcome, run_python
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.grading import Case, Grade, PythonGrader

#: For one answer. A process that shows no verdict for so long is ended, and the answer that it was at has none.
TIMEOUT_S = 10.0
MEMORY_BYTES = 512 << 20
#: Answers that one process is given: starting it costs more than most graders do.
_BATCH = 64

# What a grader prints is kept away from the verdicts, one line each, which are written as soon as they are known.
_PROGRAM = """
import json, sys, traceback
given = json.loads(sys.stdin.read())
verdicts, sys.stdout = sys.stdout, sys.stderr
space = {"__name__": "grader"}
def reason(error):
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == "grader.py"]
    return "".join(traceback.format_exception_only(error)).strip()[-500:] + (f" (line {lines[-1]})" if lines else "")
broken = None
try:
    exec(compile(given["source"], "grader.py", "exec"), space)
except BaseException as error:
    broken = reason(error)
for sample, item in given["cases"]:
    if broken is not None:
        verdict = {"error": broken}
    else:
        try:
            value = space["grade"](sample, item)
            if isinstance(value, str) or float(value) != float(value):
                raise TypeError(f"grade returned {value!r}, not a number")
            verdict = {"score": float(value)}
        except BaseException as error:
            verdict = {"error": reason(error)}
    verdicts.write(json.dumps(verdict) + "\\n")
    verdicts.flush()
"""


class PythonCode:
    """See `PythonGrader`.

    Raises:
        InvalidRequest: the source is no Python, or defines no function `grade` of two arguments.
    """

    templates = ()

    def __init__(self, spec: PythonGrader, param: str) -> None:
        _check_source(spec.source, f"{param}.source")
        self._source = spec.source
        self._threshold = spec.pass_threshold

    def grade(self, cases: Sequence[Case]) -> list[Grade]:
        grades: list[Grade] = []
        while len(grades) < len(cases):
            waiting = cases[len(grades) : len(grades) + _BATCH]
            outcome, verdicts = self._run(waiting)
            grades += [self._grade(verdict) for verdict in verdicts[: len(waiting)]]
            if not verdicts:
                grades.append(_without_verdict(outcome))
            # Otherwise there was progress: the one that the process ended at begins the next batch.
        return grades

    def _run(self, cases: Sequence[Case]) -> tuple[Outcome, list[dict[str, Any]]]:
        given = {"source": self._source, "cases": [[case.sample.values(), case.item] for case in cases]}
        outcome = run_python(_PROGRAM, stdin=json.dumps(given), timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES)
        verdicts = []
        for line in outcome.stdout.splitlines():
            try:
                verdict = json.loads(line)
            except ValueError:
                break
            if not isinstance(verdict, dict):
                break
            verdicts.append(verdict)
        return outcome, verdicts

    def _grade(self, verdict: dict[str, Any]) -> Grade:
        score = verdict.get("score")
        if isinstance(score, int | float):
            return scored(float(score), self._threshold)
        return _runtime(str(verdict.get("error", "it wrote something else than a verdict"))).grade()


def _runtime(reason: str) -> Failed:
    return Failed(
        f"The Python grader failed: {reason}.", python_grader_runtime_error=True, python_grader_runtime_error_details=reason
    )


def _without_verdict(outcome: Outcome) -> Grade:
    if outcome.status == "refused":
        return Failed(
            f"The Python grader was not run: {outcome.stderr.strip()[-300:]}",
            python_grader_server_error=True,
            python_grader_server_error_type="sandbox_unavailable",
        ).grade()
    reasons = {
        "timeout": f"it took more than {TIMEOUT_S:g} s",
        "memory": f"it needed more than {MEMORY_BYTES >> 20} MiB",
    }
    return _runtime(
        reasons.get(outcome.status, f"its process ended: {outcome.stderr.strip()[-300:] or 'without a word'}")
    ).grade()


def _check_source(source: str, param: str) -> None:
    def wrong(what: str) -> InvalidRequest:
        return InvalidRequest(
            f"{param}: {what}.", hint="Define: def grade(sample, item) -> float.", param=param, code="invalid_grader_source"
        )

    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise wrong(f"line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise wrong(str(error) or "it is nested too deeply") from error
    found = next((each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == "grade"), None)
    if found is None:
        raise wrong("it defines no function grade at its top level")
    arguments = found.args
    taken = len(arguments.posonlyargs) + len(arguments.args)
    needed = taken - len(arguments.defaults)
    if not (needed <= 2 <= taken or (arguments.vararg and needed <= 2)) or any(each is None for each in arguments.kw_defaults):
        raise wrong("grade must take two arguments, the sample and the item")
