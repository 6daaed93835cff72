"""Programming problems: does the code that a model writes pass the tests? Run in the sandbox; pass@k.

Read are HumanEval's form (Chen et al. 2021, "Evaluating Large Language Models Trained on Code": `prompt`, `test`,
`entry_point`), that of HumanEvalPack (Muennighoff et al. 2023) with it, and QuixBugs (Lin et al. 2017: `buggy`,
`json_testcases`), a function with one wrong line that is to be written anew.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.evaluation.likelihood import Measure
from modelworks.capabilities.text.evaluation.records import read_json_lines
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.evaluation.writing import Writer
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.sandbox import Outcome, active_layers, run_python
from modelworks.capabilities.text.schemas import MeasureParams
from modelworks.capabilities.text.training.rows import conversation_rows
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.generation import Message
from modelworks.contract.run import Run

#: The values of k for which pass@k is given, where there are so many samples.
PASS_AT = (1, 10, 100)
#: Where a completed function ends, as the problems' authors have it.
STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\nassert ", "\n```")
#: At how high a temperature several samples are drawn.
_TEMPERATURE = 0.8
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)

#: Compares as QuixBugs does: what a generator gives as a list, and numbers that are nearly the same.
_CHECK_CASES = """
def check(candidate):
    import json
    import math
    for arguments, wanted in json.loads({cases!r}):
        found = candidate(*arguments if isinstance(arguments, list) else [arguments])
        found = json.loads(json.dumps(found, default=list))
        if isinstance(wanted, float) and isinstance(found, (int, float)):
            assert math.isclose(found, wanted, rel_tol=0.01, abs_tol=1e-9)
        else:
            assert found == wanted
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """A function to be written. `prompt` ends where its body begins; `instruction` asks for it in a chat."""

    name: str
    prompt: str
    instruction: str
    entry_point: str
    test: str
    solution: str | None


def read_problems(folder: Path) -> Iterator[Problem]:
    """The problems of a data set, without those of QuixBugs that have no test cases as JSON.

    Raises:
        InvalidData: a line is no problem; with file, line and field.
    """
    for name, record in read_json_lines(folder):
        if "buggy" in record:
            problem = _repair(name, record)
            if problem is not None:
                yield problem
        else:
            yield _completion(name, record)


def measure_problems(
    run: Run, folder: Path, params: MeasureParams, prompt_format: PromptFormat, measure: Measure, writer: Writer
) -> SampleReport:
    """Let the model write `samples_per_problem` programs for each problem and run each against the problem's tests.

    The likelihood is that of the given solution, or of the problem's text where there is none.

    Raises:
        InvalidData: a problem is malformed.
        InvalidRequest: nothing on this machine isolates code, and a weaker sandbox is not allowed.
    """
    if not params.allow_weaker_sandbox and active_layers() is None:
        raise InvalidRequest(
            "Nothing on this machine isolates the code that the model writes, so it is not run.",
            hint="Evaluate on Linux with namespaces or Landlock; where you trust the model, set allow_weaker_sandbox=true.",
            code="no_sandbox",
        )
    problems = list(islice(read_problems(folder), params.max_documents))
    report = SampleReport()
    num_samples = params.samples_per_problem
    temperature = params.temperature if params.temperature is not None else _TEMPERATURE if num_samples > 1 else 0.0
    for done, problem in enumerate(problems):
        outcomes, first = [], ""
        for sample in range(num_samples):
            run.raise_if_cancelled()
            answer = _write(problem, params, prompt_format, writer, temperature, run.seed * 1_000_003 + sample)
            first = first or answer
            outcomes.append(_passes(problem, answer, params))
        num_right = sum(passed for passed, _ in outcomes)
        nats, num_tokens, num_bytes = _likelihood(problem, params, prompt_format, measure)
        report.add(
            problem.name,
            nats=nats,
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            scores={f"pass_at_{k}": pass_at(k, num_samples, num_right) for k in PASS_AT if k <= num_samples},
            detail={"answer": first, "passed": num_right, "of": num_samples, "outcome": _told(outcomes[0][1])},
        )
        run.progress(done + 1, len(problems), "problems")
    return report


def pass_at(k: int, num_samples: int, num_right: int) -> float:
    """How probably one of `k` samples is right: the unbiased estimate from `num_samples` (Chen et al. 2021, equation 1)."""
    wrong = num_samples - num_right
    if wrong < k:
        return 1.0
    missed = 1.0
    for each in range(wrong + 1, num_samples + 1):
        missed *= 1.0 - k / each
    return 1.0 - missed


def program_of(problem: Problem, answer: str, mark: str) -> str:
    """The program that prints `mark` where the answer passes the tests: a completion of the prompt, or a chat's answer.

    The mark comes last and is drawn anew each time, so that code which ends the program early has not passed.
    """
    written = problem.prompt + answer
    block = _BLOCK.search(answer)
    code = block[1] if block else answer
    if re.search(rf"^(?:async )?def {re.escape(problem.entry_point)}\b", code, re.MULTILINE):
        # A whole function: what stands before it in the prompt (imports, functions to build on) belongs to it.
        before, found, _ = problem.prompt.rpartition(f"def {problem.entry_point}")
        written = (before if found else "") + "\n" + code
    elif block:
        written = problem.prompt + code
    has_call = re.search(r"^check\(", problem.test, re.MULTILINE)
    call = "" if has_call else f"check({problem.entry_point})\n"
    return f"{written}\n\n{problem.test}\n{call}print({mark!r})\n"


def _passes(problem: Problem, answer: str, params: MeasureParams) -> tuple[bool, Outcome]:
    mark = secrets.token_hex(16)
    outcome = run_python(
        program_of(problem, answer, mark),
        timeout_s=params.code_timeout_s,
        memory_bytes=params.code_memory_bytes,
        allow_weaker_sandbox=params.allow_weaker_sandbox,
    )
    return outcome.status == "ok" and outcome.stdout.endswith(f"{mark}\n"), outcome


def _told(outcome: Outcome) -> str:
    """The status, and the last line of the error."""
    last = outcome.stderr.strip().rpartition("\n")[2]
    return f"{outcome.status}: {last[:200]}" if last else outcome.status


def _write(
    problem: Problem, params: MeasureParams, prompt_format: PromptFormat, writer: Writer, temperature: float, seed: int
) -> str:
    if params.code_prompt == "chat":
        turns = [Message(role="user", content=problem.instruction)]
        ids = prompt_format.encoder.render(turns).ids()
        return writer.answer(ids, temperature=temperature, seed=seed)
    ids = [int(token) for token in prompt_format.tokenizer(problem.prompt, verbose=False)["input_ids"]]
    return writer.answer(ids, stops=STOPS, temperature=temperature, seed=seed)


def _likelihood(
    problem: Problem, params: MeasureParams, prompt_format: PromptFormat, measure: Measure
) -> tuple[float, int, int]:
    """Nats, tokens and bytes of the given solution after what the model was asked; of the prompt where there is none."""
    if params.code_prompt == "chat":
        answer = problem.solution or problem.prompt
        messages = [{"role": "user", "content": problem.instruction}, {"role": "assistant", "content": answer}]
        rows = conversation_rows(prompt_format, messages, None, [0.0, 1.0], problem.name)
        measured = [measure(row.ids, [weight > 0 for weight in row.weights]) for row in rows]
        return sum(nats for nats, _ in measured), sum(tokens for _, tokens in measured), len(answer.encode())
    asked = [int(token) for token in prompt_format.tokenizer(problem.prompt, verbose=False)["input_ids"]]
    if problem.solution is None:
        return (*measure(asked), len(problem.prompt.encode()))
    answered = prompt_format.tokenizer(problem.solution, add_special_tokens=False, verbose=False)["input_ids"]
    ids = [*asked, *(int(token) for token in answered)]
    wanted = [place >= len(asked) for place in range(len(ids))]
    return (*measure(ids, wanted), len(problem.solution.encode()))


def _completion(name: str, record: dict[str, Any]) -> Problem:
    texts = {key: record.get(key) for key in ("prompt", "test", "entry_point")}
    wrong = next((key for key, value in texts.items() if not isinstance(value, str) or not value.strip()), None)
    if wrong is not None:
        raise InvalidData(f'{name}: field "{wrong}" is missing or not a text.')
    prompt, test, entry_point = (str(value) for value in texts.values())
    if not entry_point.isidentifier():
        raise InvalidData(f'{name}: field "entry_point" is not the name of a function.')
    instruction = record.get("instruction")
    if not isinstance(instruction, str) or not instruction:
        instruction = (
            f"Complete this Python function. Answer with the whole function in one block of code.\n\n```python\n{prompt}```"
        )
    solution = record.get("canonical_solution")
    return Problem(name, prompt, instruction, entry_point, test, solution if isinstance(solution, str) and solution else None)


def _repair(name: str, record: dict[str, Any]) -> Problem | None:
    buggy, cases = record.get("buggy"), record.get("json_testcases")
    if not isinstance(buggy, str):
        raise InvalidData(f'{name}: field "buggy" is not a text.')
    if not cases:
        return None
    head = re.search(r"^def (\w+)\(.*\):[ \t]*$", buggy, re.MULTILINE)
    try:
        loaded = [json.loads(line) for line in str(cases).splitlines() if line.strip()]
    except ValueError as error:
        raise InvalidData(f'{name}: field "json_testcases": {error}.') from None
    if head is None or not all(isinstance(case, list) and len(case) == 2 for case in loaded):
        raise InvalidData(f'{name}: no function in "buggy", or "json_testcases" are no pairs of arguments and result.')
    before, function = buggy[: head.start()], buggy[head.start() :].partition('\n"""')[0].strip()
    told = "\n".join(f"# {line}" if line else "#" for line in function.splitlines())
    prompt = f"{before.strip()}\n# One line of this function is wrong:\n{told}\n# It should be:\n{head[0]}\n".lstrip()
    instruction = (
        "One line of this Python function is wrong. Answer with the whole corrected function in one block of code.\n\n"
        f"```python\n{buggy.strip()}\n```"
    )
    correct = record.get("correct")
    solution = None
    if isinstance(correct, str) and head[0] in correct:
        solution = correct.partition(head[0])[2].lstrip("\n").partition('\n"""')[0].rstrip() + "\n"
    return Problem(name, prompt, instruction, head[1], _CHECK_CASES.format(cases=json.dumps(loaded)), solution)
