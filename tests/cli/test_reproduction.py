"""`reproduce`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, FakeServer, sse

FILE = {"path": "model 1/config.json", "then": "sha256:" + "a" * 64, "now": "sha256:" + "a" * 64, "equal": True}
OTHER = {"path": "model 1/model.safetensors", "then": "sha256:" + "b" * 64, "now": None, "equal": False}
TORCH = {"what": "torch", "then": "2.12", "now": "2.13"}
SAME: dict[str, Any] = {"run_id": "run_0", "equal": True, "files": [FILE], "result_differs": [], "environment": []}


@pytest.fixture
def again(server: FakeServer) -> FakeServer:
    run = {"id": "run_1", "verb": "train", "task": "text-generation", "state": "queued", "repeats": "run_0"}
    server.on("POST", "/api/runs/run_0/reproduce", Answer({"run": run, "repeats": "run_0", "differences": []}, 201))
    server.on("GET", "/api/runs/run_1", {**run, "state": "succeeded", "result": SAME})
    server.on(
        "GET", "/api/runs/run_1/events", lambda _: Answer(sse({"seq": 1, "type": "environment", "data": {"python": "3"}}))
    )
    return server


def test_equal_bytes_end_with_0(cli: Cli, again: FakeServer) -> None:
    done = cli("reproduce", "run_0")
    assert done.code == 0
    assert done.out.splitlines()[1].split()[:3] == ["model", "1/config.json", "yes"]
    assert "gave the same bytes again" in done.err
    assert "environment" not in done.err, "too long for a line of the story"
    assert cli("reproduce", "run_0", "-o", "json").json == {**SAME, "run_id": "run_0", "reproduces": "run_0"}
    assert cli("reproduce", "run_0", "-o", "name").out == "run_1\n"


def test_other_bytes_end_with_1_and_the_reason(cli: Cli, again: FakeServer) -> None:
    found = {**SAME, "equal": False, "files": [FILE, OTHER], "environment": [TORCH], "result_differs": ["metrics"]}
    again.on("GET", "/api/runs/run_1", {"id": "run_1", "state": "succeeded", "result": found})
    done = cli("reproduce", "run_0")
    assert done.code == 1
    assert done.out.splitlines()[2].split()[2:] == ["no", "sha256:bbbbbbbbbbbb…", "-"]
    for text in ("torch was 2.12 and is 2.13", "- metrics", "did not give the same bytes again"):
        assert text in done.err
    assert cli("reproduce", "run_0", "-o", "json").code == 1


def test_what_differs_is_told_before_it_starts(cli: Cli, again: FakeServer) -> None:
    differences = [TORCH, {"what": "peft", "then": "0.21", "now": None}]
    answer = {"run": {"id": "run_1", "state": "queued"}, "repeats": "run_0", "differences": differences}
    again.on("POST", "/api/runs/run_0/reproduce", Answer(answer, 201))
    done = cli("reproduce", "run_0", "--dry-run")
    assert done.code == 0
    assert "peft was 0.21 and is absent" in done.err
    assert again.asked[-1].query == {"dry_run": "true"}
    assert cli("reproduce", "run_0", "--dry-run", "-o", "json").json == answer
    cli("reproduce", "run_0")
    assert again.calls("GET", "/api/runs/run_1")
