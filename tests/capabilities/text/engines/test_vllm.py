"""The command line of vLLM, as documented, and a stand-in that is really started with it."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from modelworks.capabilities.text.engines.vllm import command
from modelworks.capabilities.text.schemas import ServeOptions
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidRequest, MissingExtra, UnsupportedParameter

MODEL = LocalModel(ref="acme/chat@v3", version_id="mdl_X", path=Path("/models/chat"), digest="sha256:0")

#: Parses the arguments as vLLM documents them, binds the port and answers /health once with what it was told.
STAND_IN = """#!{python}
import argparse, http.server, json, os
parser = argparse.ArgumentParser()
parser.add_argument("verb", choices=["serve"])
parser.add_argument("model")
parser.add_argument("--served-model-name")
parser.add_argument("--host")
parser.add_argument("--port", type=int)
parser.add_argument("--dtype", choices=["auto", "half", "float16", "bfloat16", "float", "float32"])
parser.add_argument("--max-model-len", type=int)
parser.add_argument("--max-num-seqs", type=int)
parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
told = vars(parser.parse_args()) | {{"offline": os.environ.get("HF_HUB_OFFLINE")}}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())
    def log_message(self, *args): pass
server = http.server.HTTPServer((told["host"], told["port"]), Handler)
print(server.server_port, flush=True)
server.handle_request()
"""


def test_the_command_line_is_the_documented_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_VLLM_PYTHON", "/opt/vllm/bin/python")
    said = command(MODEL, ServeOptions(precision="bf16", context_length=4096, max_batch=64, prefix_caching=False))
    assert said.argv == (
        *("/opt/vllm/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", "/models/chat"),
        *("--served-model-name", "acme/chat@v3", "--host", "127.0.0.1", "--port", "{port}"),
        *("--dtype", "bfloat16", "--max-num-seqs", "64", "--no-enable-prefix-caching", "--max-model-len", "4096"),
    )
    assert (said.model, said.health_path, said.api_path) == ("acme/chat@v3", "/health", "/v1")
    assert "--max-model-len" not in command(MODEL, None).argv


def test_a_stand_in_starts_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vllm"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("MODELWORKS_VLLM_PYTHON", str(tmp_path / "python"))
    said = command(MODEL, ServeOptions(precision="f32"))
    argv = [word.replace("{port}", "0") for word in said.argv]
    with subprocess.Popen(argv, env={**os.environ, **said.env}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            told = httpx.get(f"http://127.0.0.1:{port}{said.health_path}").json()
        finally:
            process.terminate()
    assert told["model"] == "/models/chat"
    assert told["served_model_name"] == said.model
    assert told["dtype"] == "float32"
    assert told["enable_prefix_caching"] is True
    assert told["offline"] == "1"


def test_what_vllm_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELWORKS_VLLM_PYTHON", "/opt/vllm/bin/python")
    with pytest.raises(UnsupportedParameter, match="int8"):
        command(MODEL, ServeOptions(precision="int8"))
    with pytest.raises(UnsupportedParameter, match="u8"):
        command(MODEL, ServeOptions(kv_cache_precision="u8"))
    with pytest.raises(InvalidRequest, match="needs a model"):
        command(None, None)
    monkeypatch.delenv("MODELWORKS_VLLM_PYTHON")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="not found") as caught:
        command(MODEL, None)
    assert "MODELWORKS_VLLM_PYTHON" in (caught.value.hint or "")
