"""train, evaluate, jobs, logs, cancel, resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, Asked, FakeServer, page, sse

CAPABILITIES = page(
    [
        {"name": "text", "tasks": [{"name": "text-generation", "trainable": True, "evaluable": True}]},
        {
            "name": "vision",
            "tasks": [
                {"name": "object-detection", "trainable": True, "evaluable": False},
                {"name": "image-segmentation", "trainable": True, "evaluable": False},
            ],
        },
    ]
)
RUN: dict[str, Any] = {
    "id": "run_1",
    "verb": "train",
    "task": "text-generation",
    "state": "succeeded",
    "attempt": 1,
    "max_attempts": 5,
    "inputs": {"train": {"kind": "dataset", "ref": "corpus", "version_id": "ds_1"}},
    "progress": {"done": 10, "total": 40, "what": "steps"},
    "outputs": [{"name": "base", "number": 1}],
    "created_at": "2026-01-01T00:00:00Z",
}
EVENTS = [
    {"seq": 1, "type": "state", "data": {"state": "running"}},
    {"type": "metrics", "data": {"step": 10, "metrics": {"loss": 2.5, "lr": 0.001}}},
    {"type": "progress", "data": {"done": 10, "total": 40, "what": "steps"}},
    {"seq": 2, "type": "checkpoint", "data": {"num_files": 2}},
]


@pytest.fixture
def runs(server: FakeServer) -> FakeServer:
    server.on("GET", "/api/capabilities", CAPABILITIES)
    server.on("POST", "/api/runs", Answer({"id": "run_1", "state": "queued"}, 201))
    server.on("GET", "/api/runs/run_1", RUN)
    server.on("GET", "/api/runs/run_1/events", lambda _: Answer(sse(*EVENTS)))
    return server


def test_train_sends_what_was_asked_for(cli: Cli, runs: FakeServer) -> None:
    done = cli(
        *(
            "train",
            "text-generation",
            "--name",
            "base",
            "--data",
            "corpus",
            "--data",
            "validation=held-out@v2",
            "--base",
            "qwen",
        ),
        *(
            "-p",
            "steps=100",
            "-p",
            "preset=tiny",
            "-p",
            "optimizer.lr=3e-4",
            "-p",
            "tags=[1,2]",
            "--seed",
            "7",
            "--resource",
            "cpu=2",
            "--workers",
            "2",
        ),
    )
    assert (done.code, done.out) == (0, "run_1\n")
    assert "modelworks jobs run_1 -f" in done.err
    assert runs.calls("POST", "/api/runs")[0].json == {
        "verb": "train",
        "capability": "text",
        "task": "text-generation",
        "output_name": "base",
        "inputs": {"base": "qwen", "train": "corpus", "validation": "held-out@v2"},
        "params": {"steps": 100, "preset": "tiny", "optimizer": {"lr": 3e-4}, "tags": [1, 2]},
        "seed": 7,
        "resources": {"cpu": 2, "workers": 2},
    }


def test_the_plan_says_what_the_workers_occupy(cli: Cli, runs: FakeServer) -> None:
    occupied = {"cpu": 1.0, "memory_bytes": 2 << 30, "gpu": 0, "workers": 2}
    runs.on("POST", "/api/runs", {"id": "run_1", "state": "queued", "verb": "train", "resources": occupied})
    done = cli("train", "text", "--name", "base", "--data", "corpus", "--workers", "2", "--dry-run")
    assert "2 workers, each 1 cores, 2.0 GiB" in done.out


def test_a_capability_names_its_only_task(cli: Cli, runs: FakeServer) -> None:
    assert cli("train", "text", "--name", "base", "--data", "corpus", "-o", "json").json["id"] == "run_1"
    assert runs.calls("POST", "/api/runs")[0].json["task"] == "text-generation"
    done = cli("train", "vision", "--name", "x")
    assert done.code == 1
    assert "vision/object-detection, vision/image-segmentation" in done.err
    done = cli("evaluate", "object-detection", "m", "--data", "d")
    assert "No evaluable task" in done.err
    assert len(runs.calls("POST", "/api/runs")) == 1


def test_a_folder_is_uploaded_first(cli: Cli, runs: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    done = cli("train", "text", "--name", "base", "--data", str(folder), "--dry-run")
    assert done.code == 0
    assert "would be uploaded" in done.err
    sent = runs.calls("POST", "/api/runs")[0]
    assert (sent.query, sent.json["inputs"]) == ({"dry_run": "true"}, {"train": ""})
    runs.on("HEAD", "/api/blobs/.*", Answer(status=404))
    runs.on("PUT", "/api/blobs", lambda asked: {"digest": asked.headers["x-content-sha256"], "num_bytes": 5})
    runs.on("POST", "/api/datasets", {"id": "ds_9"})
    assert cli("train", "text", "--name", "base", "--data", str(folder)).code == 0
    assert runs.calls("POST", "/api/datasets")[0].json["name"] == "texts"
    assert runs.calls("POST", "/api/runs")[1].json["inputs"] == {"train": "ds_9"}
    done = cli("train", "text", "--name", "base", "--data", str(tmp_path / "typo"))
    assert (done.code, len(runs.calls("POST", "/api/runs"))) == (1, 2)


def test_wrong_pairs_are_refused_before_anything_is_sent(cli: Cli, runs: FakeServer) -> None:
    for pair in ("steps", "=1", "a=1 -p a.b=2"):
        options = [part for item in pair.split(" -p ") for part in ("-p", item)]
        done = cli("train", "text", "--name", "base", *options)
        assert done.code == 1, pair
    assert cli("train", "text", "--name", "base", "--data", "a", "--data", "b").code == 1
    assert runs.calls("POST", "/api/runs") == []


def test_follow_shows_loss_and_the_result(cli: Cli, runs: FakeServer) -> None:
    done = cli("train", "text", "--name", "base", "--data", "corpus", "--follow")
    assert done.code == 0
    for text in ("state running", "checkpoint num_files=2", "loss 2.5", "10/40 steps (25 %)", "Run run_1 succeeded."):
        assert text in done.err
    assert "base@v1" in done.out


def test_follow_tells_a_failure_and_exits_with_1(cli: Cli, runs: FakeServer) -> None:
    error = {"class": "InvalidData", "message": "a.txt, line 3: not UTF-8.", "hint": "Convert it."}
    runs.on("GET", "/api/runs/run_1", {**RUN, "state": "failed", "error": error})
    done = cli("jobs", "run_1", "--follow", "-o", "json")
    assert (done.code, done.json["state"]) == (1, "failed")
    assert "Run run_1 failed: a.txt, line 3: not UTF-8. Convert it." in done.err
    runs.on("GET", "/api/runs/run_1", {**RUN, "state": "cancelled"})
    assert cli("jobs", "run_1", "-f", "-o", "name").code == 1


def test_ctrl_c_leaves_the_run_going(runs: FakeServer) -> None:
    def endless(_: Asked) -> Iterator[bytes]:
        yield from sse(EVENTS[0], done=False)
        while True:
            yield b": keep-alive\n\n"
            time.sleep(0.02)

    runs.on("GET", "/api/runs/run_1/events", endless)
    command = [sys.executable, "-m", "modelworks.cli", "jobs", "run_1", "-f"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "state running\n"
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "Run run_1 goes on." in err
    assert "Traceback" not in err
    assert runs.calls("POST", "/api/runs/run_1/cancel") == []


def test_evaluate(cli: Cli, runs: FakeServer) -> None:
    done = cli("evaluate", "text", "base@v1", "--data", "held-out", "-p", "window=512", "-o", "name")
    assert (done.code, done.out) == (0, "run_1\n")
    sent = runs.calls("POST", "/api/runs")[0].json
    assert (sent["verb"], sent["inputs"]) == ("evaluate", {"model": "base@v1", "test": "held-out"})
    assert sent["params"] == {"window": 512}


def test_jobs_lists_and_shows(cli: Cli, runs: FakeServer) -> None:
    runs.on("GET", "/api/runs", page([RUN]))
    row = cli("jobs", "--state", "succeeded").out.splitlines()[1]
    assert row.split()[:4] == ["run_1", "train", "text-generation", "succeeded"]
    assert runs.asked[-1].query["state"] == "succeeded"
    assert cli("jobs", "-o", "name").out == "run_1\n"
    shown = cli("jobs", "run_1").out
    assert "train=corpus" in shown
    assert "1 of 5" in shown


def test_logs_cancel_resume(cli: Cli, runs: FakeServer) -> None:
    runs.on("GET", "/api/runs/run_1/logs", lambda _: Answer([b"step 1\nst", b"ep 2\n"]))
    assert cli("logs", "run_1", "-f").out == "step 1\nstep 2\n"
    assert runs.asked[-1].query == {"follow": "true"}
    runs.on("POST", "/api/runs/run_1/cancel", {**RUN, "state": "running"})
    assert cli("cancel", "run_1").code == 0
    runs.on("POST", "/api/runs/run_1/resume", {**RUN, "state": "queued"})
    assert cli("resume", "run_1").out == "run_1\n"
    assert cli("resume", "run_1", "-f").code == 0


def test_a_dry_run_says_what_a_training_needs(cli: Cli, server: FakeServer) -> None:
    estimate = {"memory_bytes": 3 << 30, "parts": {"weights": 1 << 30, "optimiser": 2 << 30, "logits": 0}, "seconds": 8000.0}
    estimate["notes"] = ["1 of 9 training samples give away samples of the data set 'test'."]
    server.on("GET", "/api/capabilities", lambda _: page([{"name": "text", "tasks": [{"name": "t", "trainable": True}]}]))
    server.on("POST", "/api/runs", lambda _: Answer({**RUN, "estimate": estimate}, 201))
    done = cli("train", "t", "--name", "x", "--dry-run", "--force")
    assert done.code == 0, done.err
    assert "about 3.0 GiB (optimiser 2.0 GiB, weights 1.0 GiB)" in done.out
    assert "roughly 2 hours" in done.out
    assert "give away samples" in done.out
    assert server.asked[-1].json["force"] is True
    assert "- 1 of 9 training samples" in cli("train", "t", "--name", "x").err
