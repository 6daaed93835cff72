"""Chat through the official client and over the bare wire."""

from __future__ import annotations

import pytest
from openai import APIError, BadRequestError

from modelworks.contract.generation import GenerationInput
from tests.kernel.gateway.conftest import Stage, chunk, hello, usage

HI = [{"role": "user", "content": "Hi"}]


async def test_a_chat_is_answered_with_usage(stage: Stage) -> None:
    answer = await stage.client.chat.completions.create(model="tiny", messages=HI)
    assert answer.choices[0].message.content == "Hello world"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "tiny"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 2, 7)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer._request_id is not None
    [record] = stage.used()
    assert record.request_id == answer._request_id
    assert (record.endpoint, record.model, record.version_id) == ("/v1/chat/completions", "tiny", "mdl_01")
    assert (record.status, record.prompt_tokens, record.completion_tokens) == (200, 5, 2)
    assert record.time_to_first_token_ms is not None
    assert record.time_to_first_token_ms <= record.duration_ms
    assert not record.streamed
    assert not record.aborted
