"""The exact wire forms, held by files: a change of a form shows as a change of its file.

After a change on purpose: `MODELWORKS_TEST_WRITE_GOLDEN=1 pytest tests/kernel/gateway/test_golden.py`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.gateway.conftest import Stage, chunk, usage
from tests.kernel.gateway.generation.test_completions import token

from modelworks.contract.errors import Unavailable

FOLDER = Path(__file__).parents[2] / "golden" / "gateway"
CHAT: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
TEXT: Any = {"model": "tiny", "prompt": "Hi"}
RESPONSE: Any = {"model": "tiny", "input": "Hi"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat-logprobs": ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 1}),
    "chat-stream": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "chat-stream-logprobs-usage": (
        "/v1/chat/completions",
        {**CHAT, "stream": True, "logprobs": True, "top_logprobs": 1, "stream_options": {"include_usage": True}},
    ),
    "completion": ("/v1/completions", TEXT),
    "completion-logprobs": ("/v1/completions", {**TEXT, "logprobs": 1}),
    "completion-stream-usage": ("/v1/completions", {**TEXT, "stream": True, "stream_options": {"include_usage": True}}),
    "response": ("/v1/responses", RESPONSE),
    "response-stream": ("/v1/responses", {**RESPONSE, "stream": True, "include": ["message.output_text.logprobs"]}),
    "message": ("/v1/messages", {**CHAT, "max_tokens": 9}),
    "message-stream": ("/v1/messages", {**CHAT, "max_tokens": 9, "stream": True}),
    "message-error": ("/v1/messages", CHAT),
    "error-type": ("/v1/chat/completions", {**CHAT, "max_tokens": "many"}),
    "error-model": ("/v1/chat/completions", {**CHAT, "model": "tini"}),
    "error-route": ("/v1/unknown", {}),
}


def normalised(raw: str) -> Any:
    """JSON, or the blocks of a stream, with what differs from time to time replaced."""
    raw = re.sub(r"(chatcmpl|cmpl|msg|req|resp)_[0-9A-Z]{26}", r"\1_ID", raw)
    raw = re.sub(r'"(created|created_at|completed_at)":\d+', r'"\1":0', raw)
    # An event's name is that of its body.
    raw = re.sub(r"^event: [a-z_.]+\n", "", raw, flags=re.MULTILINE)
    if raw.startswith("{"):
        return json.loads(raw)
    return [json.loads(block[6:]) if block.startswith("data: {") else block for block in raw.strip().split("\n\n")]


def compare(name: str, found: Any) -> None:
    file = FOLDER / f"{name}.json"
    if os.environ.get("MODELWORKS_TEST_WRITE_GOLDEN"):
        file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(CASES))
async def test_a_wire_form_is_as_written_down(stage: Stage, name: str) -> None:
    stage.replica.answer(
        chunk(usage=usage(5, 0, cached=2)),
        chunk("你", logprobs=[token("你".encode(), -0.25, [("我".encode(), -1.5)])]),
        chunk("!", logprobs=[token(b"!", -0.5, [(b"?", -2.0)])], finish_reason="stop", usage=usage(5, 2, cached=2)),
    )
    path, body = CASES[name]
    _, raw, _ = await stage.post(path, body)
    compare(name, normalised(raw.decode() if isinstance(raw, bytes) else json.dumps(raw, separators=(",", ":"))))


async def test_an_error_in_the_middle_is_as_written_down(stage: Stage) -> None:
    stage.replica.answer(chunk("a"), {"error": Unavailable("Out of blocks.", hint="Wait.").to_wire()})
    _, raw, _ = await stage.post("/v1/chat/completions", {**CHAT, "stream": True})
    compare("chat-stream-error", normalised(raw.decode()))
