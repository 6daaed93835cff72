"""data validate, data clean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, FakeServer, page

GOOD = json.dumps({"prompt": "What is 2+2?", "completion": "4"})
TASK = {"name": "text-generation", "validates_data": True, "cleans_data": True, "labels_data": True}
RUN: dict[str, Any] = {"id": "run_1", "verb": "validate", "state": "succeeded", "outputs": []}
REPORT: dict[str, Any] = {
    "num_files": 1,
    "num_bytes": 2048,
    "samples": {"chat": 7},
    "num_errors": 1,
    "num_warnings": 0,
    "faults_by_code": {"not_json": 1},
    "faults": [
        {"file": "a.jsonl", "line": 3, "field": None, "code": "x", "severity": "error", "message": "Bad.", "hint": "Mend."}
    ],
    "size": {
        "unit": "tokens", "total": 70, "learnt": 30, "shortest": 9, "median": 10, "p95": 11, "longest": 12,
        "is_estimate": False,
    },
    "epochs": 2,
    "cost": 140,
    "is_complete": True,
    "notes": ["A note."],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "talks"
    made.mkdir()
    (made / "a.jsonl").write_text(f"{GOOD}\n{GOOD[:-1]}\n{GOOD}\n")
    return made


def test_a_folder_is_checked_here_and_nothing_is_sent(cli: Cli, server: FakeServer, folder: Path) -> None:
    done = cli("data", "validate", str(folder), "-p", "epochs=3")
    assert done.code == 1
    assert "a.jsonl  2     -      error     Not JSON" in done.out
    assert "1 errors, 1 warnings" in done.out
    assert "in 3 epochs" in done.out
    assert "estimated from characters" in done.err
    assert server.asked == []


def test_a_proper_folder_exits_with_0(cli: Cli, folder: Path) -> None:
    (folder / "a.jsonl").write_text(GOOD)
    done = cli("data", "validate", str(folder), "-o", "json")
    assert done.code == 0
    assert (done.json["samples"], done.json["faults"]) == ({"chat": 1}, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "epochs=0"), "epochs"),
        (("-p", "epoch=1"), "Known parameters: context_length, epochs"),
        (("--task", "dreaming"), "Choose with --task one of: "),
        (("--model", "base@default"), "name the folder of a model"),
    ],
)
def test_wrong_arguments_are_refused(cli: Cli, folder: Path, arguments: tuple[str, ...], said: str) -> None:
    done = cli("data", "validate", str(folder), *arguments)
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err


def test_of_several_tasks_the_usual_one_is_meant(cli: Cli, server: FakeServer) -> None:
    ranking = {**TASK, "name": "text-ranking"}
    server.on("POST", "/api/runs", lambda _: Answer({**RUN, "state": "queued"}, 201))
    server.on("GET", "/api/runs/run_1", lambda _: {**RUN, "result": REPORT})
    for tasks, arguments, chosen in (
        ([ranking, TASK], (), "text-generation"),
        ([ranking, TASK], ("--task", "text-ranking"), "text-ranking"),
        ([ranking], (), "text-ranking"),
    ):
        server.on("GET", "/api/capabilities", lambda _, tasks=tasks: page([{"name": "text", "tasks": tasks}]))
        cli("data", "validate", "talks@v2", *arguments)
        assert [each.json["task"] for each in server.asked if each.method == "POST"][-1] == chosen
    others = [ranking, {**TASK, "name": "feature-extraction"}]
    server.on("GET", "/api/capabilities", lambda _: page([{"name": "text", "tasks": others}]))
    assert "Choose with --task one of: feature-extraction, text-ranking" in cli("data", "validate", "talks@v2").err


def test_a_reference_is_checked_by_a_run(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/capabilities", lambda _: page([{"name": "text", "tasks": [TASK]}]))
    server.on("POST", "/api/runs", lambda _: Answer({**RUN, "state": "queued"}, 201))
    server.on("GET", "/api/runs/run_1", lambda _: {**RUN, "result": REPORT})
    done = cli("data", "validate", "talks@v2", "--model", "base", "-p", "epochs=2")
    asked = next(each.json for each in server.asked if each.method == "POST")
    assert (asked["verb"], asked["task"], asked["inputs"]) == (
        "validate", "text-generation", {"data": "talks@v2", "model": "base"},
    )  # fmt: skip
    assert asked["params"] == {"epochs": 2}
    assert done.code == 1
    assert "70 tokens, of which 30 are learnt" in done.out
    assert "A note." in done.err


ESTIMATE: dict[str, Any] = {
    "memory_bytes": 3 << 30, "parts": {"weights": 1 << 30}, "seconds": 7200.0, "notes": ["Two samples leak."],
}  # fmt: skip


def test_a_reference_is_estimated_for_a_training_that_is_not_queued(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/capabilities", lambda _: page([{"name": "text", "tasks": [TASK]}]))

    def run(request: Any) -> Answer:
        estimated = request.json["verb"] == "train"
        return Answer({**RUN, "estimate": ESTIMATE} if estimated else {**RUN, "state": "queued"}, 201)

    server.on("POST", "/api/runs", run)
    server.on("GET", "/api/runs/run_1", lambda _: {**RUN, "result": REPORT})
    arguments = ("data", "validate", "talks@v2", "--for", "base", "-t", "method=lora", "-p", "epochs=2")
    done = cli(*arguments)
    trained, checked = (each for each in server.asked if each.method == "POST")
    assert trained.json["inputs"] == {"base": "base", "train": "talks@v2"}
    assert trained.json["params"] == {"method": "lora", "epochs": 2}
    assert trained.json["force"] is True
    assert trained.query.get("dry_run") == "true" or trained.json.get("dry_run") is True
    assert checked.json["inputs"] == {"data": "talks@v2", "model": "base"}
    assert "about 3.0 GiB (weights 1.0 GiB)" in done.out
    assert "roughly 2 hours" in done.out
    assert "Two samples leak." in done.err
    shown = cli(*arguments, "-o", "json").json
    assert shown["training"] == {"base": "base", "params": {"method": "lora", "epochs": 2}, "estimate": ESTIMATE}
    assert shown["cost"] == 140


def test_a_folder_is_estimated_here(cli: Cli, server: FakeServer, folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 1000, "num_attention_heads": 2, "head_dim": 32}
    (model / "config.json").write_text(json.dumps({**config, "intermediate_size": 128, "max_position_embeddings": 128}))
    wanted = ("--for", str(model), "-t", "method=lora", "-t", "packing=false", "-o", "json")
    few, many = (cli("data", "validate", str(folder), *wanted, "-t", f"batch_size={size}") for size in (1, 2))
    few_parts, many_parts = (each.json["training"]["estimate"]["parts"] for each in (few, many))
    assert 2 * few_parts["activations"] == many_parts["activations"]
    assert few.json["training"]["params"] == {"method": "lora", "packing": False, "batch_size": 1}
    told = cli("data", "validate", str(folder), "--for", str(model), "-t", "method=lora")
    assert "Memory" in told.out
    assert f"{model}, method lora" in told.out
    for arguments, said in (
        (("--for", str(model), "-t", "method=lora", "-t", "epochs=0"), "epochs"),
        (("--for", "base@v1"), "with --for"),
        (("-t", "method=lora"), "Give --for MODEL"),
    ):
        done = cli("data", "validate", str(folder), *arguments)
        assert done.code == 1
        assert said in done.err
        assert "Traceback" not in done.err
    assert server.asked == []


def test_a_run_that_failed_gives_its_error(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/capabilities", lambda _: page([{"name": "text", "tasks": [TASK]}]))
    server.on("POST", "/api/runs", lambda _: Answer({**RUN, "state": "queued"}, 201))
    error = {"class": "InvalidData", "message": "It is broken.", "hint": "Mend it."}
    server.on("GET", "/api/runs/run_1", lambda _: {**RUN, "state": "failed", "error": error})
    done = cli("data", "validate", "talks")
    assert done.code == 1
    assert "It is broken." in done.err


def test_a_dry_run_of_cleaning_shows_what_would_go(cli: Cli, server: FakeServer, folder: Path) -> None:
    done = cli("data", "clean", str(folder), "--dry-run")
    assert done.code == 0
    assert "duplicate" in done.out
    assert "a.jsonl:1" in done.out
    assert "1 train" in done.out
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]
    assert server.asked == []


def test_cleaning_needs_a_name_and_runs_on_the_server(cli: Cli, server: FakeServer) -> None:
    assert "Give --name" in cli("data", "clean", "talks").err
    assert server.asked == []
    report = {"num_read": 3, "kept": {"train": 2}, "removed": {"duplicate": 1}, "preview": [], "notes": []}
    server.on("GET", "/api/capabilities", lambda _: page([{"name": "text", "tasks": [TASK]}]))
    server.on("POST", "/api/runs", lambda _: Answer({**RUN, "state": "queued"}, 201))
    made = [{"name": "tidy", "number": 1}]
    server.on("GET", "/api/runs/run_1", lambda _: {**RUN, "result": report, "outputs": made})
    done = cli("data", "clean", "talks", "--name", "tidy", "--test", "exam")
    asked = next(each.json for each in server.asked if each.method == "POST")
    assert (asked["verb"], asked["inputs"], asked["output_name"]) == ("clean", {"data": "talks", "test": "exam"}, "tidy")
    assert done.code == 0
    assert "tidy@v1" in done.out


def test_a_deployment_labels_a_data_set(cli: Cli, server: FakeServer) -> None:
    made = {"kind": "dataset", "name": "told", "version_id": "ds_1", "number": 2}
    server.on("GET", "/api/capabilities", lambda _: page([{"name": "text", "tasks": [TASK]}]))
    server.on("POST", "/api/runs", lambda _: Answer({**RUN, "state": "queued"}, 201))
    server.on("GET", "/api/runs/run_1", lambda _: {**RUN, "result": {"samples": 3, "refused": 1}, "outputs": [made]})
    done = cli("data", "label", "talks@v2", "--teacher", "lab/big", "--name", "told", "-p", "max_tokens=9", "--seed", "4")
    assert done.code == 0, done.err
    asked = next(each.json for each in server.asked if each.method == "POST")
    assert (asked["verb"], asked["inputs"], asked["params"], asked["seed"], asked["output_name"]) == (
        "label", {"data": "talks@v2", "teacher": "deployment:lab/big"}, {"max_tokens": 9}, 4, "told",
    )  # fmt: skip
    assert "told@v2" in done.out
    assert "Refused  1" in done.out


def test_a_dry_run_of_labelling_asks_nobody(cli: Cli, server: FakeServer, folder: Path) -> None:
    server.on("GET", "/api/capabilities", lambda _: page([{"name": "text", "tasks": [TASK]}]))
    wish = {
        **RUN,
        "verb": "label",
        "task": "text-generation",
        "inputs": {"data": {"ref": "talks"}},
        "params": {"max_tokens": 9},
    }
    server.on("POST", "/api/runs", lambda _: Answer(wish, 201))
    done = cli("data", "label", "talks@v1", "--teacher", "big", "--name", "told", "--dry-run")
    assert done.code == 0, done.err
    assert [each.query for each in server.asked if each.method == "POST"] == [{"dry_run": "true"}]
    assert "talks" in done.out
    local = cli("data", "label", str(folder), "--teacher", "big", "--name", "told", "--dry-run")
    assert local.code == 1
    assert "Add it first" in local.err
