"""The command line of vLLM, as documented, and a stand-in that is really started with it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
parser.add_argument("--enable-auto-tool-choice", action="store_true")
parser.add_argument("--tool-call-parser", choices=["hermes", "llama3_json", "mistral"])
parser.add_argument("--enable-lora", action=argparse.BooleanOptionalAction)
parser.add_argument("--max-loras", type=int, default=1)
parser.add_argument("--max-cpu-loras", type=int)
parser.add_argument("--max-lora-rank", type=int, choices=[8, 16, 32, 64, 128, 256, 320, 512], default=16)
told = vars(parser.parse_args()) | {{"offline": os.environ.get("HF_HUB_OFFLINE")}}
told["updating"] = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING")
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


def told_to_the_stand_in(options: ServeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a process that is started with the command understands."""
    program = tmp_path / "vllm"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("MODELWORKS_VLLM_PYTHON", str(tmp_path / "python"))
    said = command(MODEL, options)
    argv = [word.replace("{port}", "0") for word in said.argv]
    with subprocess.Popen(argv, env={**os.environ, **said.env}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            told: dict[str, Any] = httpx.get(f"http://127.0.0.1:{port}{said.health_path}").json()
        finally:
            process.terminate()
    return told


def test_a_stand_in_starts_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_to_the_stand_in(ServeOptions(precision="f32"), tmp_path, monkeypatch)
    assert told["model"] == "/models/chat"
    assert told["served_model_name"] == MODEL.ref
    assert told["dtype"] == "float32"
    assert told["enable_prefix_caching"] is True
    assert told["offline"] == "1"
    # Room for adapters costs memory of the accelerator: it is kept where it is asked for.
    assert (told["enable_lora"], told["updating"]) == (None, None)
    assert command(MODEL, ServeOptions()).adapters is None


def test_room_for_adapters_is_kept_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_to_the_stand_in(ServeOptions(max_adapters=4, max_adapter_rank=64), tmp_path, monkeypatch)
    assert (told["enable_lora"], told["updating"]) == (True, "True")
    assert (told["max_loras"], told["max_cpu_loras"], told["max_lora_rank"]) == (4, 5, 64)
    assert command(MODEL, ServeOptions(max_adapters=1)).adapters is not None


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        ("{{ tools }} <tool_call>", "hermes"),
        ("[TOOL_CALLS] [", "mistral"),
        ('{"name": name, "parameters": dictionary} ipython', "llama3_json"),
        ("{{ messages }}", None),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_calls_are_read_in_the_way_of_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, parser: str | None, alone: bool
) -> None:
    if alone:
        (tmp_path / "chat_template.jinja").write_text(template)
    else:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    monkeypatch.setenv("MODELWORKS_VLLM_PYTHON", "/opt/vllm/bin/python")
    argv = command(MODEL.model_copy(update={"path": tmp_path}), None).argv
    assert ("--enable-auto-tool-choice" in argv) == (parser is not None)
    assert parser is None or argv[argv.index("--tool-call-parser") + 1] == parser


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
