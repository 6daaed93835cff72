"""`quantise` and `export`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, FakeServer, page, sse

CAPABILITIES = page([{"name": "text", "tasks": [{"name": "text-generation", "quantisable": True, "exportable": True}]}])
LOSS = {"full": 2.0, "quantised": 2.25, "low": 0.2, "high": 0.3}
VARIANTS = [
    {"name": "full", "num_bytes": 4096, "tokens_per_cpu_s": 100.4, "logit_difference": 0.0, "metrics": {"test": {"loss": 2.0}}},
    {
        "name": "int4",
        "num_bytes": 1024,
        "tokens_per_cpu_s": 250.0,
        "logit_difference": 0.125,
        "metrics": {"test": {"loss": 2.25}},
        "differences": {"test": {"loss": LOSS}},
    },
]
RUN: dict[str, Any] = {
    "id": "run_1",
    "verb": "quantise",
    "task": "text-generation",
    "state": "succeeded",
    "outputs": [{"name": "chat-int4", "number": 3}],
    "result": {"variants": VARIANTS},
}


@pytest.fixture
def models(server: FakeServer) -> FakeServer:
    server.on("GET", "/api/capabilities", CAPABILITIES)
    server.on("GET", "/api/models/.*", {"version": {"name": "chat", "task": "text-generation"}})
    server.on("POST", "/api/runs", Answer({"id": "run_1", "state": "queued"}, 201))
    server.on("GET", "/api/runs/run_1", RUN)
    server.on("GET", "/api/runs/run_1/events", lambda _: Answer(sse({"seq": 1, "type": "state", "data": {"state": "running"}})))
    return server


def test_quantise_sends_what_was_asked_for_and_prints_the_table(cli: Cli, models: FakeServer) -> None:
    done = cli("quantise", "chat@v2", "--to", "int4", "--data", "held-out", "--data", "task=chats", "-p", "speed_tokens=8")
    assert done.code == 0
    (sent,) = models.calls("POST", "/api/runs")
    assert sent.json["verb"] == "quantise"
    assert sent.json["inputs"] == {"base": "chat@v2", "test": "held-out", "task": "chats"}
    assert sent.json["params"] == {"to": ["int4"], "speed_tokens": 8}
    assert sent.json["output_name"] == "chat"
    heading, full, int4 = done.out.splitlines()
    assert heading.split() == ["VARIANT", "SIZE", "TOKENS/CPU-S", "LARGEST", "LOGIT", "DIFFERENCE", "TEST", "LOSS", "MADE"]
    assert full.split() == ["full", "4.0", "KiB", "100", "0", "2", "-"]
    assert int4.split() == ["int4", "1.0", "KiB", "250", "0.125", "2.25", "chat-int4@v3"]
    assert "int4 test loss: +0.25 [+0.2, +0.3]" in done.err


def test_quantise_for_programs(cli: Cli, models: FakeServer) -> None:
    assert cli("quantise", "chat", "-o", "json").json["result"]["variants"] == VARIANTS
    assert cli("quantise", "chat", "-o", "name").out == "run_1\n"
    assert cli("quantise", "chat", "--detach", "-o", "json").json == {"id": "run_1", "state": "queued"}
    assert cli("quantise", "chat", "--dry-run", "--name", "small").code == 0
    assert models.calls("POST", "/api/runs")[-1].query == {"dry_run": "true"}
    assert models.calls("POST", "/api/runs")[-1].json["output_name"] == "small"
    done = cli("quantise", "chat", "--to", ",")
    assert done.code == 1
    assert "--to int8,int4" in done.err


BYTES = b"GGUF and more"
DIGEST = "sha256:" + hashlib.sha256(BYTES).hexdigest()
MEANING = {"digest": "sha256:1", "recorded": "sha256:1", "agrees": "exactly"}


@pytest.fixture
def exports(models: FakeServer) -> FakeServer:
    made = {"id": "art_1", "files": [{"path": path, "digest": DIGEST, "num_bytes": 13} for path in ("README.md", "model.gguf")]}
    result = {"format": "gguf", "meaning": MEANING}
    models.on("GET", "/api/runs/run_1", {**RUN, "verb": "export", "outputs": [{"version_id": "art_1"}], "result": result})
    models.on("GET", "/api/versions/art_1", made)
    models.on("GET", "/api/blobs/.*", lambda _: Answer(BYTES))
    return models


def test_export_writes_a_folder_or_one_file(cli: Cli, exports: FakeServer, tmp_path: Path) -> None:
    done = cli("export", "chat@v2", str(tmp_path / "out"), "--to", "gguf", "--kind", "q8_0")
    assert done.code == 0
    sent = exports.calls("POST", "/api/runs")[-1].json
    assert (sent["verb"], sent["inputs"], sent["output_name"]) == ("export", {"model": "chat@v2"}, "chat-gguf")
    assert sent["params"] == {"to": "gguf", "kind": "q8_0"}
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["README.md", "model.gguf"]
    assert "it agrees: exactly" in done.err
    done = cli("export", "chat", str(tmp_path / "m.gguf"), "--to", "gguf", "-o", "json")
    assert (tmp_path / "m.gguf").read_bytes() == BYTES
    assert done.json["files"] == [str(tmp_path / "m.gguf")]
    assert done.json["meaning"] == MEANING


def test_export_overwrites_nothing(cli: Cli, exports: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("mine")
    for place in (tmp_path / "m.gguf", tmp_path):
        done = cli("export", "chat", str(place), "--to", "gguf")
        assert done.code == 1
        assert "is there already" in done.err
    assert not exports.asked
    assert cli("export", "chat", str(tmp_path / "new"), "--to", "hf", "--dry-run").code == 0
    assert not (tmp_path / "new").exists()
