"""A deployment with the engine vllm and adapters, whole: reconciler, process above vLLM, a process in vLLM's place."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from tests.capabilities.text.training.test_vllm_adapters import StandIn
from tests.kernel.serving.room import PROJECT, Room, build_room
from tests.kernel.serving.test_adapters import add, remove, state

from modelworks.contract import LocalModel
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import Version
from modelworks.kernel.serving import reconciler as reconciler_module
from modelworks.testing.fake_run import FakeRun

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

#: In vLLM's place: takes the documented arguments, and has its requests answered by the test's own stand-in. As with vLLM, what
#: was loaded is gone with the process.
PROGRAM = """#!{python}
import argparse, http.server, os, urllib.error, urllib.request
parser = argparse.ArgumentParser()
parser.add_argument("verb", choices=["serve"])
parser.add_argument("model")
for name in ("served-model-name", "host", "port", "dtype", "max-num-seqs", "max-loras", "max-cpu-loras", "max-lora-rank"):
    parser.add_argument("--" + name)
parser.add_argument("--enable-prefix-caching", action="store_true")
parser.add_argument("--enable-lora", action="store_true")
told = parser.parse_args()
def relay(path, body):
    try:
        with urllib.request.urlopen(urllib.request.Request("{url}" + path.removeprefix("/v1"), body)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
relay("/v1/started", b"{{}}")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200 if self.path == "/health" else 404, b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        updating = told.enable_lora and os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True"
        self.reply(*(relay(self.path, body) if updating or "lora" not in self.path else (404, b"")))
    def reply(self, status, data):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Pid", str(os.getpid()))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((told.host, int(told.port)), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    server = StandIn(model)
    program = tmp_path / "environment" / "vllm"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, url=server.url))
    program.chmod(0o755)
    monkeypatch.setenv("MODELWORKS_VLLM_PYTHON", str(program.with_name("python")))
    yield server
    server.close()


@pytest.fixture
async def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    monkeypatch.setattr(reconciler_module, "BACKOFF_S", (0.05, 60.0))
    settings = Settings(home=tmp_path / "home")
    settings.prepare_home()
    made = build_room(settings)
    await made.pool.start()
    made.reconciler.start()
    yield made
    await made.pool.close()
    made.reconciler.close()
    made.db.dispose()


def registered(room: Room, name: str, path: Path, metadata: dict[str, Any]) -> Version:
    with room.db.transaction() as session:
        return room.catalog.register_folder(
            session, PROJECT, kind="model", name=name, path=path, task="text-generation", metadata=metadata
        )


async def ask(room: Room, name: str, prompt: list[int]) -> tuple[int, dict[str, float]]:
    """The process that answers, and the likeliest tokens that it says."""
    async with room.pool.acquire(PROJECT, name, 60.0) as route:
        asked = {"model": route.upstream_model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 5}
        asked["return_tokens_as_token_ids"] = True
        async with room.pool.http.post(f"{route.base_url}/completions", json=asked, headers=route.headers) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return int(response.headers["X-Pid"]), answer["choices"][0]["logprobs"]["top_logprobs"][0]


async def test_adapters_answer_come_back_with_the_process_and_are_refused_where_they_change_nothing(
    room: Room, stand_in: StandIn, model: LocalModel, lora: FakeRun
) -> None:
    base = registered(room, "base", model.path, dict(model.metadata))
    stand_in.serve(base.ref)
    trained = lora.saved[0].model()
    record = trained.metadata["adapter"] | {"base": base.ref, "base_digest": base.digest}
    ours = registered(room, "tickets", trained.path, dict(trained.metadata) | {"adapter": record})
    room.apply("lm", model="base", engine="vllm", options={"precision": "f32", "max_adapters": 1})
    add(room, "tickets", deployment="lm")
    prompt = trained.metadata["probe"]["ids"]
    first, tuned = await ask(room, "tickets", prompt)
    assert tuned != (await ask(room, "lm", prompt))[1]
    assert list(stand_in.adapters) == [ours.id]
    psutil.Process(first).kill()
    pid = first
    while pid == first:
        with contextlib.suppress(aiohttp.ClientError):
            pid, again = await ask(room, "tickets", prompt)
    assert again == tuned
    assert [path for path, name in stand_in.calls if "load_lora" in path and name == ours.id] == ["/v1/load_lora_adapter"] * 2
    remove(room, "tickets")
    while stand_in.adapters:
        await asyncio.sleep(0.05)
    stand_in.fault = "ignores"
    add(room, "tickets", "empty", deployment="lm")
    assert "changes nothing in vLLM" in str((await state(room, "empty", "failed")).last_error)
    assert stand_in.adapters == {}
    assert (await ask(room, "lm", prompt))[0] == pid
