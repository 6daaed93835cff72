"""Deployments whose engine speaks OpenAI's protocol itself: what goes on, what comes back, what is recorded."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import AsyncIterator
from typing import Any, cast

import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernel.gateway.conftest import Stage, parsed

from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.proxy import Relay

HI: Any = [{"role": "user", "content": "Hi"}]
CHAT: Any = {"model": "remote/gpt", "messages": HI}
ANSWER = {
    "id": "x1",
    "object": "chat.completion",
    "created": 1,
    "model": "upstream/name",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
}


def event(content: str | None = None, *, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "x1", "model": "upstream/name", "choices": [choice], **more}) + b"\n\n"


USAGE = b"data: " + orjson.dumps({"id": "x1", "model": "upstream/name", "choices": [], "usage": ANSWER["usage"]}) + b"\n\n"
DONE = b"data: [DONE]\n\n"


async def test_a_chat_goes_on_under_the_upstreams_name_and_comes_back_under_ours(stage: Stage) -> None:
    stage.upstream.body = orjson.dumps(ANSWER)
    answer = await stage.client.chat.completions.create(
        **CHAT,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        tool_choice="required",
        extra_body={"anything": 1},
    )
    assert answer.choices[0].message.content == "yes"
    assert answer.model == "remote/gpt"
    [(path, sent, headers)] = stage.upstream.requests
    assert path == "/v1/chat/completions"
    assert sent["model"] == "upstream/name"
    assert sent["tool_choice"] == "required"
    assert sent["anything"] == 1
    # The caller's key stays here; the deployment's goes on.
    assert headers["Authorization"] == "Bearer replica-token"
    assert stage.secret not in str(headers)
    [record] = stage.used()
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.reasoning_tokens) == (7, 3, 4, 2)
    assert (record.model, record.deployment_id, record.status) == ("remote/gpt", "dep_remote/gpt", 200)


async def test_completions_go_to_their_own_path(stage: Stage) -> None:
    stage.upstream.body = orjson.dumps({**ANSWER, "object": "text_completion", "choices": [{"index": 0, "text": "yes"}]})
    answer = await stage.client.completions.create(model="remote/gpt", prompt=[[1, 2], [3]])
    assert answer.choices[0].text == "yes"
    assert stage.upstream.requests[0][0] == "/v1/completions"
    assert stage.upstream.requests[0][1]["prompt"] == [[1, 2], [3]]


async def test_a_stream_is_passed_on_and_metered_without_the_caller_asking(stage: Stage) -> None:
    stage.upstream.pieces = [event("he"), event("llo") + event(finish="stop"), USAGE, DONE]
    blocks = await stage.events("/v1/chat/completions", CHAT)
    assert blocks[-1] == "data: [DONE]"
    bodies = parsed(blocks[:-1])
    assert "".join(body["choices"][0]["delta"].get("content", "") for body in bodies) == "hello"
    assert {body["model"] for body in bodies} == {"remote/gpt"}
    assert all(body["choices"] for body in bodies)
    assert stage.upstream.requests[0][1]["stream_options"] == {"include_usage": True}
    [record] = stage.used()
    assert (record.prompt_tokens, record.completion_tokens, record.streamed) == (7, 3, True)
    assert record.time_to_first_token_ms is not None


async def test_a_caller_who_asked_gets_the_usage_chunk(stage: Stage) -> None:
    stage.upstream.pieces = [event("he"), event(finish="stop"), USAGE, DONE]
    events = [
        each
        async for each in await stage.client.chat.completions.create(
            **CHAT, stream=True, stream_options={"include_usage": True}
        )
    ]
    assert events[-1].usage is not None
    assert events[-1].usage.total_tokens == 10
    assert events[-1].model == "remote/gpt"


@pytest.mark.parametrize("size", [7, 40, 100])
async def test_events_cut_anywhere_arrive_whole(stage: Stage, size: int) -> None:
    whole = b": hello\r\n\r\n" + (event("你好") + event(finish="stop") + USAGE + DONE).replace(b"\n\n", b"\r\n\r\n")
    stage.upstream.pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    blocks = await stage.events("/v1/chat/completions", CHAT)
    assert blocks[0] == ": hello"
    assert parsed(blocks)[1]["choices"][0]["delta"]["content"] == "你好"
    assert blocks[-1] == "data: [DONE]"
    assert len([block for block in blocks if block.startswith("data: {")]) == 2
    [record] = stage.used()
    assert record.completion_tokens == 3


class Cut:
    """A response whose body arrives in the given pieces."""

    status = 200

    def __init__(self, pieces: list[bytes]) -> None:
        self.content = self
        self._pieces = pieces

    async def iter_any(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


class Sink:
    """Takes what would be sent to the caller."""

    def __init__(self) -> None:
        self.comment = b""
        self.taken: list[bytes] = []

    async def send(self, data: bytes) -> None:
        self.taken.append(data)


def relayed(pieces: list[bytes]) -> tuple[bytes, Meter]:
    meter = Meter(cast(Any, None), cast(Any, None), {}, "/v1/chat/completions")
    meter.model = "ours"
    sink = Sink()
    relay = Relay(meter, "upstream/name", include_usage=False)
    asyncio.run(relay.run(cast(Any, Cut(pieces)), cast(Any, sink)))
    # What is sent at once must be whole events: a keep-alive may come in between.
    assert all(data.endswith((b"\n\n", b"\r\n\r\n")) for data in sink.taken)
    return b"".join(sink.taken), meter


@given(
    texts=st.lists(st.text(max_size=8), min_size=1, max_size=4),
    separator=st.sampled_from([b"\n\n", b"\r\n\r\n"]),
    cuts=st.sets(st.integers(min_value=1, max_value=900)),
)
@settings(max_examples=60, deadline=None)
def test_where_the_network_cuts_changes_nothing(texts: list[str], separator: bytes, cuts: set[int]) -> None:
    whole = b"".join([*(event(text) for text in texts), event(finish="stop"), USAGE, DONE]).replace(b"\n\n", separator)
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    pieces = [whole[start:end] for start, end in itertools.pairwise(edges)]
    found, meter = relayed(pieces)
    at_once, _ = relayed([whole])
    assert found == at_once
    bodies = [orjson.loads(block[6:]) for block in found.split(separator) if block]
    assert [body["choices"][0]["delta"].get("content") for body in bodies] == [*texts, None]
    assert {body["model"] for body in bodies} == {"ours"}
    assert (meter.tallies[0].prompt_tokens, meter.tallies[0].completion_tokens) == (7, 3)


async def test_text_that_looks_like_the_protocol_is_left_alone(stage: Stage) -> None:
    tricky = '{"model":"upstream/name","usage":{"prompt_tokens":99},"error":1} data: [DONE]'
    stage.upstream.pieces = [event(tricky), event(finish="stop"), USAGE, DONE]
    texts = [
        each.choices[0].delta.content or "" async for each in await stage.client.chat.completions.create(**CHAT, stream=True)
    ]
    assert "".join(texts) == tricky
    [record] = stage.used()
    assert (record.status, record.prompt_tokens) == (200, 7)


async def test_tool_calls_pass_through_unchanged(stage: Stage) -> None:
    delta = {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]}
    piece = (
        b"data: "
        + orjson.dumps({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]})
        + b"\n\n"
    )
    stage.upstream.pieces = [piece, DONE]
    [first] = [each async for each in await stage.client.chat.completions.create(**CHAT, stream=True)]
    [call] = first.choices[0].delta.tool_calls or []
    assert (call.index, call.id, call.function and call.function.arguments) == (0, "c1", '{"a": 1}')


async def test_a_refusal_of_the_request_keeps_the_upstreams_words(stage: Stage) -> None:
    stage.upstream.status = 400
    stage.upstream.body = b'{"error":{"message":"n must be 1","type":"invalid_request_error","param":"n","code":"bad_n"}}'
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await stage.client.chat.completions.create(**CHAT, stream=stream)
        assert (caught.value.code, caught.value.param) == ("bad_n", "n")
    assert [(record.status, record.error_code) for record in stage.used()] == [(400, "bad_n")] * 2


async def test_a_refusal_of_us_is_not_the_callers_fault(stage: Stage) -> None:
    stage.upstream.status = 401
    stage.upstream.body = b'{"error":{"message":"Incorrect API key"}}'
    with pytest.raises(openai.InternalServerError) as caught:
        await stage.client.chat.completions.create(**CHAT)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_failed")


async def test_a_busy_upstream_passes_its_waiting_time_on(stage: Stage) -> None:
    stage.upstream.status = 429
    stage.upstream.headers = {"retry-after": "12"}
    status, body, headers = await stage.post("/v1/chat/completions", CHAT)
    assert (status, body["error"]["code"], headers["retry-after"]) == (429, "rate_limit_exceeded", "12")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b""])
async def test_an_answer_that_is_none_is_an_error(stage: Stage, body: bytes) -> None:
    stage.upstream.body = body
    status, found, _ = await stage.post("/v1/chat/completions", CHAT)
    assert (status, found["error"]["code"]) == (502, "upstream_failed")


async def test_an_upstream_cannot_fill_the_memory(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announced or not, packed or not, refused or not, in one piece or as an event that never ends."""
    monkeypatch.setattr("modelworks.kernel.gateway.proxy.MAX_ANSWER_BYTES", 100_000)
    packed = gzip.compress(b" " * 5_000_000)
    for status, body, headers in (
        (200, b" " * 200_000, {}),
        (500, b"x" * 200_000, {}),
        (200, packed, {"content-encoding": "gzip"}),
    ):
        stage.upstream.status, stage.upstream.body, stage.upstream.headers = status, body, headers
        answered, found, _ = await stage.post("/v1/chat/completions", CHAT)
        assert (answered, found["error"]["code"]) == (502, "upstream_failed")
        assert "in one answer" in found["error"]["message"]
    stage.upstream.status, stage.upstream.headers = 200, {}
    stage.upstream.pieces = [b"data: " + b"x" * 60_000, b"x" * 60_000, None]
    answered, found, _ = await stage.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert (answered, found["error"]["code"]) == (502, "upstream_failed")


async def test_an_error_in_the_middle_becomes_ours(stage: Stage) -> None:
    stage.upstream.pieces = [event("he"), b'data: {"error":{"message":"CUDA died","code":500}}\n\n', DONE]
    blocks = await stage.events("/v1/chat/completions", CHAT)
    assert "data: [DONE]" not in blocks
    error = parsed(blocks)[-1]["error"]
    assert error["code"] == "upstream_failed"
    assert "CUDA died" in error["message"]
    [record] = stage.used()
    assert (record.status, record.error_code) == (502, "upstream_failed")


@pytest.mark.parametrize("pieces", [[event("he")], [event("he"), ConnectionResetError()], [event("he"), event("llo")[:-9]]])
async def test_a_stream_that_breaks_off_never_looks_complete(stage: Stage, pieces: list[Any]) -> None:
    stage.upstream.pieces = pieces
    blocks = await stage.events("/v1/chat/completions", CHAT)
    assert "data: [DONE]" not in blocks
    assert parsed(blocks)[-1]["error"]["code"] == "replica_lost"
    assert len(blocks) == 2


@pytest.mark.parametrize("tail", [[], [b"data: [DONE]"], [b"data: [DONE]\n"]])
async def test_servers_that_end_carelessly_are_forgiven(stage: Stage, tail: list[bytes]) -> None:
    stage.upstream.pieces = [event("he"), event(finish="stop"), USAGE, *tail]
    blocks = await stage.events("/v1/chat/completions", CHAT)
    assert blocks[-1] == "data: [DONE]"
    assert [record.status for record in stage.used()] == [200]


async def test_a_caller_who_leaves_ends_the_upstreams_work(stage: Stage) -> None:
    stage.upstream.pieces = [event("a"), event("b"), None]
    stream = await stage.client.chat.completions.create(**CHAT, stream=True)
    seen = ""
    async for each in stream:
        seen += each.choices[0].delta.content or ""
        if seen == "ab":
            break
    await stream.close()
    await asyncio.wait_for(stage.upstream.hung_up.wait(), 5)
    [record] = await stage.used_soon(1)
    # No usage chunk came: the events stand in for the tokens.
    assert (record.status, record.aborted, record.completion_tokens) == (499, True, 2)


@pytest.mark.signs_of_life
async def test_keep_alives_fill_an_upstreams_silence_between_events(stage: Stage) -> None:
    stage.upstream.pieces = [event("a")[:20], None]
    headers = {"authorization": f"Bearer {stage.secret}"}
    async with stage.http.post(stage.url + "/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers) as response:
        # Half an event is held back, so that a comment cannot fall into it.
        assert await asyncio.wait_for(response.content.readline(), 5) == b": keep-alive\n"


@pytest.mark.parametrize("messages", [None, [], "Hi"])
async def test_a_request_without_messages_is_refused_here(stage: Stage, messages: Any) -> None:
    status, body, _ = await stage.post("/v1/chat/completions", {"model": "remote/gpt", "messages": messages})
    assert (status, body["error"]["param"]) == (400, "messages")
    assert stage.upstream.requests == []
