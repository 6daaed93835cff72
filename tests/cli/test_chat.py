"""chat and run."""

from __future__ import annotations

import builtins
import json
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
from tests.cli.fake_server import Answer, Asked, FakeServer, page, refusal, sse

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def delta(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    fields = more if content is None else {"content": content, **more}
    return {"id": "c", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


@pytest.fixture
def model(server: FakeServer) -> FakeServer:
    chunks = [
        delta(role="assistant"),
        delta(reasoning_content="hm"),
        delta("你"),
        delta("好\n"),
        delta(finish="stop"),
        {"id": "c", "choices": [], "usage": USAGE},
    ]
    server.on("POST", "/v1/chat/completions", lambda _: Answer(sse(*chunks)))
    return server


def test_one_question_streams_the_answer_to_stdout(cli: Cli, model: FakeServer) -> None:
    done = cli("chat", "m", "hi", "-s", "Be kind.", "--max-tokens", "5", "--seed", "1", "--stop", "###", "--temperature", "0")
    assert (done.code, done.out, done.err) == (0, "你好\n\n", "")
    assert model.asked[0].json == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "seed": 1,
        "stop": ["###"],
        "temperature": 0.0,
    }


def test_the_question_comes_from_a_pipe_or_a_file(cli: Cli, model: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "question.txt").write_text("from a file", encoding="utf-8")
    for arguments, asked in ((["m"], "piped"), (["m", "-"], "piped"), (["m", f"@{tmp_path / 'question.txt'}"], "from a file")):
        assert cli("chat", *arguments, piped="piped").code == 0
        assert model.asked[-1].json["messages"] == [{"role": "user", "content": asked}]
    done = cli("chat", "m", piped=b"caf\xe9")
    assert done.code == 1
    assert "not UTF-8: byte 3 is 0xe9" in done.err


def test_json_holds_the_whole_answer(cli: Cli, model: FakeServer) -> None:
    answer = cli("chat", "m", "hi", "-o", "json").json
    assert answer == {"content": "你好\n", "finish_reason": "stop", "usage": USAGE, "stopped": False}


def test_an_answer_that_was_cut_off_says_so(cli: Cli, server: FakeServer) -> None:
    server.on("POST", "/v1/chat/completions", Answer(sse(delta("half"), delta(finish="length"))))
    done = cli("chat", "m", "hi")
    assert (done.code, done.out) == (0, "half\n")
    assert "length limit" in done.err


def test_an_unknown_model(cli: Cli, server: FakeServer) -> None:
    server.on("POST", "/v1/chat/completions", refusal(404, "model_not_found", "There is no model m.", "Deployed: base."))
    done = cli("chat", "m", "hi")
    assert (done.code, done.out) == (1, "")
    assert "Deployed: base." in done.err


def test_a_conversation_remembers_forgets_and_survives_a_failure(
    cli: Cli, model: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["first", "", "/clear", "second", "third", "/exit"])
    monkeypatch.setattr(builtins, "input", lambda _prompt: next(lines))
    answers = [Answer(sse(delta("one"))), refusal(503, "unavailable", "Loading."), Answer(sse(delta("two")))]
    model.on("POST", "/v1/chat/completions", lambda _: answers.pop(0))
    done = cli("chat", "m", "-s", "Be kind.", typed="")
    assert (done.code, done.out) == (0, "one\ntwo\n")
    assert "error: Loading." in done.err
    system = {"role": "system", "content": "Be kind."}
    # /clear keeps the instructions; the failed turn is not part of the next request.
    assert model.asked[1].json["messages"] == [system, {"role": "user", "content": "second"}]
    assert model.asked[2].json["messages"] == [system, {"role": "user", "content": "third"}]


def test_a_typed_line_that_is_not_utf8_is_not_sent_and_ends_nothing(
    cli: Cli, model: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["caf\udce9", "café 你好", "/exit"])
    monkeypatch.setattr(builtins, "input", lambda _prompt: next(lines))
    done = cli("chat", "m", typed="")
    assert (done.code, done.out) == (0, "你好\n\n")
    assert "not UTF-8" in done.err
    assert [asked.json["messages"][-1]["content"] for asked in model.asked] == ["café 你好"]


def test_ctrl_c_while_the_command_is_loaded_is_no_traceback() -> None:
    interrupting = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'modelworks.cli.app':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from modelworks.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", interrupting], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_stops_the_generation_and_keeps_what_came(server: FakeServer) -> None:
    def endless(_: Asked) -> Iterator[bytes]:
        for piece in sse(*(delta("word ") for _ in range(2000)), done=False):
            yield piece + b":" + b" " * 2000 + b"\n\n"
            time.sleep(0.01)

    server.on("POST", "/v1/chat/completions", endless)
    command = [sys.executable, "-m", "modelworks.cli", "chat", "m", "hi"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"word "
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.endswith(b"\n")
    assert b"[stopped]" in err
    assert b"Traceback" not in err
    assert server.hung_up.wait(10)


def test_run_in_every_mode(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    tasks = [{"id": "classify", "mode": "sync"}, {"id": "speak", "mode": "stream"}, {"id": "forecast", "mode": "job"}]
    server.on("GET", "/v1/tasks", page(tasks))
    server.on("POST", "/v1/tasks/classify", {"label": "好"})
    done = cli("run", "classify", "m", "--input", '{"text": "a"}')
    assert (done.code, done.json) == (0, {"label": "好"})
    assert server.asked[-1].json == {"model": "m", "input": {"text": "a"}}
    server.on("POST", "/v1/tasks/speak", Answer([b'{"n": 1}\n{"n', b'": 2}\n']))
    (tmp_path / "input.json").write_text('{"text": "b"}')
    done = cli("run", "speak", "m", "--input", f"@{tmp_path / 'input.json'}")
    assert [json.loads(line)["n"] for line in done.out.splitlines()] == [1, 2]
    assert server.asked[-1].headers["accept"] == "application/x-ndjson"
    server.on("POST", "/v1/tasks/forecast", Answer({"run": {"id": "run_1"}}, 202))
    assert cli("run", "forecast", "m", "-i", "-", "-o", "name", piped="{}").out == "run_1\n"


def test_run_prints_schemas_and_refuses_what_is_not_json(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/v1/tasks/classify/schema", {"input": {}, "output": {}})
    assert cli("run", "classify", "--schema").json == {"input": {}, "output": {}}
    done = cli("run", "classify", "m", "--input", "{oops")
    assert done.code == 1
    assert "not JSON" in done.err
    assert "line 1 column 2" in done.err
    assert cli("run", "classify", "m").code == 2
