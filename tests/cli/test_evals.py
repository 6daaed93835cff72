"""`evals ls | show | create | run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, page

EVAL: dict[str, Any] = {
    "id": "eval_1",
    "name": "quiz",
    "testing_criteria": [{"name": "exact"}, {"name": "near"}],
    "created_at": 0,
}
CRITERIA = [{"testing_criteria": "exact", "passed": 2, "failed": 1}]
USAGE = [{"model_name": "m", "total_tokens": 27}]


def made(**known: Any) -> dict[str, Any]:
    counts = {"total": 3, "passed": 2, "failed": 1, "errored": 0}
    run = {"id": "evalrun_1", "eval_id": "eval_1", "name": "", "model": "m", "status": "completed", "error": None}
    return {**run, "result_counts": counts, "per_testing_criteria_results": CRITERIA, "per_model_usage": USAGE, **known}


def item(number: int, **sample: Any) -> dict[str, Any]:
    result = {"name": "exact", "score": 0.25, "passed": False}
    sample = {"output": [{"content": "yes"}], "error": None, **sample}
    return {"id": f"o_{number}", "datasource_item_id": number, "status": "fail", "results": [result], "sample": sample}


def test_evals_and_runs_are_listed(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/v1/evals", page([EVAL]))
    server.on("GET", "/v1/evals/eval_1/runs", page([made(), made(id="evalrun_2", status="in_progress")]))
    done = cli("evals", "ls")
    assert done.code == 0
    for text in ("eval_1", "quiz", "exact, near"):
        assert text in done.out
    assert cli("evals", "ls", "-o", "name").out == "eval_1\n"
    assert server.asked[0].query == {"limit": "100", "order": "desc"}
    assert "in_progress" in cli("evals", "show", "eval_1").out
    assert cli("evals", "show", "eval_1", "-o", "name").out == "evalrun_1\nevalrun_2\n"


def test_a_run_is_shown_with_its_criteria_and_items(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/v1/evals/eval_1/runs/evalrun_1", made())
    error = {"code": "invalid_item", "message": "item 2: it has no field."}
    server.on("GET", "/v1/evals/eval_1/runs/evalrun_1/output_items", page([item(1), item(2, output=[], error=error)]))
    done = cli("evals", "show", "eval_1", "evalrun_1")
    for text in ("completed", "total=3, passed=2, failed=1", "m=27", "CRITERION", "exact"):
        assert text in done.out
    done = cli("evals", "show", "eval_1", "evalrun_1", "--items", "fail")
    for text in ("yes", "exact: 0.25", "item 2: it has no field."):
        assert text in done.out
    assert server.asked[-1].query == {"limit": "100", "status": "fail"}
    assert cli("evals", "show", "eval_1", "evalrun_1", "-o", "json").json == made()
    assert cli("evals", "show", "eval_1", "--items", "fail").code == 2
    assert cli("evals", "show", "eval_1", "evalrun_1", "--items", "some").code == 2


def test_an_eval_is_made_from_json(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    server.on("POST", "/v1/evals", EVAL)
    file = tmp_path / "quiz.json"
    file.write_text('{"name": "quiz"}')
    assert cli("evals", "create", f"@{file}", "-o", "name").out == "eval_1\n"
    assert server.asked[-1].json == {"name": "quiz"}
    assert cli("evals", "create", "-", "--dry-run", piped='{"name": "quiz"}').json == {"name": "quiz"}
    assert len(server.asked) == 1
    for wrong in ("{", "[]"):
        done = cli("evals", "create", wrong)
        assert (done.code, "hint: " in done.err) == (2, True)


def test_a_file_is_stored_and_a_model_asked(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_bytes(b'{"item": {"question": "a"}}\n')
    server.on("POST", "/v1/files", {"id": "file_1"})
    server.on("POST", "/v1/evals/eval_1/runs", made(status="queued"))
    answers = [made(status="in_progress"), made()]
    server.on("GET", "/v1/evals/eval_1/runs/evalrun_1", lambda _: answers.pop(0))
    wish = ("evals", "run", "eval_1", "--data", str(file), "--model", "m", "--system", "Be short.", "--temperature", "0")
    source = {
        "type": "completions",
        "source": {"type": "file_id", "id": "file_1"},
        "model": "m",
        "input_messages": {
            "type": "template",
            "template": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "{{item.question}}"}],
        },
        "sampling_params": {"temperature": 0.0},
    }
    planned = cli(*wish, "--dry-run").json
    assert planned["data_source"] == {**source, "source": {"type": "file_id", "id": str(file)}}
    assert server.asked == []
    done = cli(*wish, "--name", "first", "-f")
    assert done.code == 0
    assert "file_1" in done.err
    stored, queued = server.asked[:2]
    assert b'name="purpose"\r\n\r\nevals\r\n' in stored.body
    assert file.read_bytes() in stored.body
    assert queued.json == {"name": "first", "data_source": source}
    assert answers == []


def test_a_run_that_does_not_complete_is_a_failure(cli: Cli, server: FakeServer) -> None:
    failed = made(status="failed", error={"code": "invalid_item", "message": "line 2: it is not JSON."})
    server.on("POST", "/v1/evals/eval_1/runs", made(status="queued"))
    server.on("GET", "/v1/evals/eval_1/runs/evalrun_1", failed)
    done = cli("evals", "run", "eval_1", "--data", "file_1", "-f")
    assert done.code == 1
    assert "line 2: it is not JSON." in done.out
    assert "is failed" in done.err
    assert json.loads(server.asked[0].body)["data_source"] == {"type": "jsonl", "source": {"type": "file_id", "id": "file_1"}}
    done = cli("evals", "run", "eval_1", "--data", "nothing.jsonl")
    assert "There is no file nothing.jsonl" in done.err
