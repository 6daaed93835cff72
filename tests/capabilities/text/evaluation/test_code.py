"""Programming problems: what is a solution, how several samples are counted, and the problems' own answers."""

import gzip
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelworks.capabilities.text.evaluate import evaluate, form_of
from modelworks.capabilities.text.evaluation.code import Problem, pass_at, program_of, read_problems
from modelworks.capabilities.text.evaluation.writing import Writer
from modelworks.capabilities.text.sandbox import run_python
from modelworks.capabilities.text.schemas import EvaluateParams
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.contract.evaluation import SampleResult
from modelworks.testing.fake_run import FakeRun

DOUBLE = {
    "task_id": "x/0",
    "prompt": "import math\n\ndef half(x):\n    return x / 2\n\ndef double(x):\n    '''Twice x.'''\n",
    "canonical_solution": "    return half(x) * 4\n",
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
REPAIR = {
    "buggy": '\ndef plus(a, b):\n    return a - b\n\n"""\nAdds.\n"""\n',
    "correct": "\ndef plus(a, b):\n    return a + b\n",
    "json_testcases": "[[1, 2], 3]\n[[0, 0], 0]\n",
}


def write(folder: Path, *records: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "problems.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return folder


def only(folder: Path) -> Problem:
    (problem,) = read_problems(folder)
    return problem


def passes(problem: Problem, answer: str) -> bool:
    outcome = run_python(program_of(problem, answer, "the mark"), allow_weaker_sandbox=True, timeout_s=20)
    return outcome.status == "ok" and outcome.stdout.endswith("the mark\n")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("    return 2 * x\n", True),
        ("    return half(x) * 4", True),
        ("    return x\n", False),
        ("    return 2 *\n", False),
        ("    raise SystemExit(0)\n", False),
        ("    return 2 * x\n\nraise SystemExit\n", False),
        ("    return 2 * x\n\nimport os\nos._exit(0)\n", False),
        ("Sure:\n```python\ndef double(x):\n    return half(x) * 4\n```\nDone.", True),
        ("```\nimport cmath\n\ndef double(x):\n    return 2 * x", True),
        ("```python\n    return 2 * x\n```", True),
        ("```python\ndef double(x):\n    return 3 * x\n```", False),
        ("", False),
    ],
)
def test_an_answer_is_a_completion_or_a_block_of_code(tmp_path: Path, answer: str, expected: bool) -> None:
    assert passes(only(write(tmp_path, DOUBLE)), answer) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("    return a + b\n", True), ("    return a - b\n", False), ("```python\ndef plus(a, b):\n    return b + a\n```", True)],
)
def test_a_repair_is_run_on_its_cases(tmp_path: Path, answer: str, expected: bool) -> None:
    problem = only(write(tmp_path, REPAIR, {**REPAIR, "json_testcases": None}))
    assert problem.prompt.endswith("# It should be:\ndef plus(a, b):\n")
    assert "Adds" not in problem.prompt
    assert passes(problem, answer) is expected
    assert problem.solution == "    return a + b\n"


def test_pass_at_k_is_the_part_of_draws_with_a_right_one() -> None:
    for num_right in range(6):
        samples = [True] * num_right + [False] * (5 - num_right)
        for k in range(1, 6):
            draws = list(itertools.combinations(samples, k))
            assert pass_at(k, 5, num_right) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({**DOUBLE, "test": ""}, "test"),
        ({**DOUBLE, "prompt": None}, "prompt"),
        ({**DOUBLE, "entry_point": "x; import os"}, "entry_point"),
        ({**REPAIR, "buggy": 3}, "buggy"),
        ({**REPAIR, "json_testcases": "[1"}, "json_testcases"),
        ({**REPAIR, "json_testcases": "[1]"}, "json_testcases"),
        ({**REPAIR, "buggy": "x = 1"}, "buggy"),
    ],
)
def test_a_malformed_problem_is_named_with_its_line(tmp_path: Path, record: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidData, match=r"problems\.jsonl:2") as refused:
        list(read_problems(write(tmp_path, DOUBLE, record)))
    assert f'"{field}"' in refused.value.message


def measured(root: Path, model: LocalModel, data: Path, **params: Any) -> tuple[dict[str, float], list[SampleResult]]:
    run = FakeRun(root / "run", models={"model": model}, datasets={"test": data})
    metrics = evaluate(run, EvaluateParams(num_threads=1, max_answer_tokens=8, allow_weaker_sandbox=True, **params))
    (saved,) = run.saved
    return dict(metrics), [SampleResult.model_validate_json(line) for line in saved.path.read_text("utf-8").splitlines()]


def test_a_model_is_measured_on_problems(tmp_path: Path, model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers are put into its mouth: a model of a test writes no programs."""
    answers = iter(["    return 2 * x\n", "    return 0\n", "```python\ndef plus(a, b):\n    return a + b\n```"])
    asked: list[tuple[str, ...]] = []

    def answer(_self: Writer, ids: Any, *, stops: Any = (), temperature: float, seed: int) -> str:
        asked.append(tuple(stops))
        assert temperature == 0.0
        return next(answers)

    monkeypatch.setattr(Writer, "answer", answer)
    data = write(tmp_path / "data", DOUBLE, DOUBLE, REPAIR)
    assert form_of(data) == "code"
    metrics, samples = measured(tmp_path, model, data)
    assert metrics["pass_at_1"] == pytest.approx(2 / 3)
    assert "pass_at_10" not in metrics
    assert {"loss", "perplexity", "bits_per_byte"} < set(metrics)
    assert [sample.values["pass_at_1"] for sample in samples] == [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0)]
    assert "AssertionError" in samples[1].detail["outcome"]
    assert all("\ndef " in stops for stops in asked)


def test_several_samples_differ_and_are_the_same_again(tmp_path: Path, model: LocalModel) -> None:
    data = write(tmp_path / "data", DOUBLE)
    metrics, samples = measured(tmp_path / "a", model, data, samples_per_problem=10, code_prompt="chat")
    assert set(metrics) >= {"pass_at_1", "pass_at_10"}
    assert samples[0].detail["of"] == 10
    assert measured(tmp_path / "b", model, data, samples_per_problem=10, code_prompt="chat")[1] == samples


def test_without_a_sandbox_nothing_is_measured(tmp_path: Path, model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.capabilities.text.evaluation.code.active_layers", lambda: None)
    run = FakeRun(tmp_path / "run", models={"model": model}, datasets={"test": write(tmp_path / "data", DOUBLE)})
    with pytest.raises(InvalidRequest, match="isolates") as refused:
        evaluate(run, EvaluateParams(num_threads=1))
    assert "allow_weaker_sandbox" in str(refused.value.hint)


@pytest.mark.parametrize("name", ["HumanEval.jsonl.gz", "humanevalpack_python_000-081.jsonl", "quixbugs_python.jsonl"])
def test_given_solutions_pass_and_given_bugs_do_not(tmp_path: Path, name: str) -> None:
    """Of each set every tenth; all of them were run when this was written."""
    shared = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[5] / "shared")
    file = shared / "data" / "01-code" / name
    if not file.is_file():
        pytest.skip(f"the shared data {name} are not on this machine (MODELWORKS_SHARED names their folder)")
    raw = gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
    records = [json.loads(line) for line in raw.splitlines()]
    problems = {problem.name: problem for problem in read_problems(file)}
    assert len(problems) == {"HumanEval.jsonl.gz": 164, "quixbugs_python.jsonl": 31}.get(name, 82)
    for number in range(10, len(records), 20):
        problem = problems.get(f"{name}:{number}")
        if problem is None:
            continue
        assert passes(problem, str(problem.solution)), problem.name
        record = records[number - 1]
        bug = record.get("buggy_solution") or (f"```\n{record['buggy']}```" if "buggy" in record else "    pass\n")
        assert not passes(problem, bug), problem.name
