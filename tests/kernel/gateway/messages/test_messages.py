"""Anthropic's messages through its official client, and over the bare wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import orjson
import pytest
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from tests.kernel.gateway.conftest import Stage, chunk, usage
from tests.kernel.gateway.responses.test_responses import call_delta, events_of, upstream_events
from tests.kernel.gateway.rooms import NO_TLS

from modelworks.contract.errors import ContextLengthExceeded, Unavailable

HI: Any = [{"role": "user", "content": "Hi"}]
TOOL: Any = {
    "name": "weather",
    "description": "Looks outside.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[AsyncAnthropic]:
    http = DefaultAsyncHttpxClient(verify=NO_TLS)
    async with AsyncAnthropic(base_url=stage.url, api_key=stage.secret, max_retries=0, http_client=http) as found:
        yield found


async def test_a_message_is_answered_with_usage(stage: Stage, client: AsyncAnthropic) -> None:
    stage.replica.answer(
        chunk(usage=usage(5, 0, cached=2)),
        chunk("Hello"),
        chunk(" world", finish_reason="stop", usage=usage(5, 2, cached=2)),
    )
    message = await client.messages.create(
        model="tiny",
        max_tokens=16,
        messages=HI,
        system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        stop_sequences=["END"],
        metadata={"user_id": "ann"},
        # The client has no names for these any more; programs still send them.
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 3},
    )
    assert [block.model_dump(exclude_none=True) for block in message.content] == [{"type": "text", "text": "Hello world"}]
    assert (message.role, message.model, message.stop_reason, message.stop_sequence) == ("assistant", "tiny", "end_turn", None)
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (3, 2, 2)
    assert message.id.startswith("msg_")
    [sent] = stage.replica.requests
    assert sent == {
        "messages": [{"role": "system", "content": "Be brief.\nBe kind."}, *HI],
        "max_tokens": 16,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "stop": ["END"],
    }
    [record] = stage.used()
    assert (record.endpoint, record.model, record.status) == ("/v1/messages", "tiny", 200)
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (5, 2, 2)
    assert message._request_id == record.request_id


async def test_a_streamed_message_is_the_same(stage: Stage, client: AsyncAnthropic) -> None:
    async with client.messages.stream(model="tiny", max_tokens=16, messages=HI) as stream:
        kinds = [event.type async for event in stream]
        message = await stream.get_final_message()
    assert [kind for kind in kinds if kind != "text"] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    whole = await client.messages.create(model="tiny", max_tokens=16, messages=HI)
    assert {**message.model_dump(), "id": ""} == {**whole.model_dump(), "id": ""}
    assert message.usage.input_tokens == 5
    [streamed, plain] = stage.used()
    assert (streamed.streamed, streamed.completion_tokens) == (True, 2)
    assert not plain.streamed


@pytest.mark.signs_of_life
async def test_silence_is_filled_with_pings(stage: Stage) -> None:
    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk(usage=usage(5, 0))
        await asyncio.sleep(0.4)
        yield chunk("A", finish_reason="stop", usage=usage(5, 1))

    stage.replica.lines = lines
    events = events_of(await stage.events("/v1/messages", {"model": "tiny", "max_tokens": 9, "messages": HI}))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-1] == "message_stop"


async def test_calls_and_their_results(stage: Stage, client: AsyncAnthropic) -> None:
    stage.upstream.pieces = upstream_events(
        {"role": "assistant", "reasoning_content": "hm"},
        {"content": "I look."},
        call_delta(0, "", id="call_a", name="weather"),
        call_delta(0, '{"city":'),
        call_delta(0, '"Ulm"}'),
        call_delta(1, "{}", id="call_b", name="weather"),
        finish="tool_calls",
    )
    fields: Any = {"model": "remote/gpt", "max_tokens": 16, "tools": [TOOL]}
    choice: Any = {"type": "any", "disable_parallel_tool_use": False}
    async with client.messages.stream(**fields, messages=HI, tool_choice=choice) as stream:
        message = await stream.get_final_message()
    assert message.stop_reason == "tool_use"
    thought, text, first, second = message.content
    assert (thought.type, text.type) == ("thinking", "text")
    assert first.type == "tool_use"
    assert second.type == "tool_use"
    assert (first.id, first.name, first.input) == ("call_a", "weather", {"city": "Ulm"})
    assert (second.id, second.input) == ("call_b", {})
    _, sent, _ = stage.upstream.requests[0]
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", True)
    function = {"name": "weather", "description": "Looks outside.", "parameters": TOOL["input_schema"]}
    assert sent["tools"] == [{"type": "function", "function": function}]
    whole = await client.messages.create(**fields, messages=HI)
    assert [block.model_dump() for block in whole.content] == [block.model_dump() for block in message.content]

    answers: Any = [
        {"type": "tool_result", "tool_use_id": "call_a", "content": [{"type": "text", "text": "rain"}]},
        {"type": "tool_result", "tool_use_id": "call_b", "content": "no city", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    turns: Any = [*HI, message.to_param(), {"role": "user", "content": answers}]
    await client.messages.create(**fields, messages=turns)
    sent = stage.upstream.requests[2][1]["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert (sent[1]["content"], sent[1]["reasoning_content"]) == ("I look.", "hm")
    assert [orjson.loads(call["function"]["arguments"]) for call in sent[1]["tool_calls"]] == [{"city": "Ulm"}, {}]
    assert sent[2:] == [
        {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_b", "content": "Error: no city"},
        {"role": "user", "content": "And now?"},
    ]


async def test_images_go_to_servers_that_may_read_them(stage: Stage, client: AsyncAnthropic) -> None:
    stage.upstream.pieces = upstream_events({"content": "A cat."})
    source: Any = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]
    turns: Any = [{"role": "user", "content": content}]
    await client.messages.create(model="remote/gpt", max_tokens=9, messages=turns)
    [image, text] = stage.upstream.requests[0][1]["messages"][0]["content"]
    assert image == {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    assert text == {"type": "text", "text": "What?"}
    with pytest.raises(anthropic.BadRequestError) as caught:
        await client.messages.create(model="tiny", max_tokens=9, messages=turns)
    assert "text only" in str(caught.value)


@pytest.mark.parametrize(("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")])
async def test_the_reason_why_it_stops(stage: Stage, client: AsyncAnthropic, finish: str, reason: str) -> None:
    stage.replica.answer(chunk(usage=usage(5, 0)), chunk("A", finish_reason=finish, usage=usage(5, 1)))
    message = await client.messages.create(model="tiny", max_tokens=1, messages=HI)
    assert message.stop_reason == reason


async def test_a_stop_sequence_is_named(stage: Stage, client: AsyncAnthropic) -> None:
    stage.replica.answer(chunk(usage=usage(5, 0)), chunk("A", finish_reason="stop", stopped_by="END", usage=usage(5, 2)))
    fields: Any = {"model": "tiny", "max_tokens": 9, "messages": HI, "stop_sequences": ["END"]}
    message = await client.messages.create(**fields)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    async with client.messages.stream(**fields) as stream:
        streamed = await stream.get_final_message()
    assert (streamed.stop_reason, streamed.stop_sequence) == ("stop_sequence", "END")
    # A chat says it as vLLM does, whole and streamed.
    whole: Any = await stage.client.chat.completions.create(model="tiny", messages=HI, stop="END")
    assert (whole.choices[0].finish_reason, whole.choices[0].stop_reason) == ("stop", "END")


async def test_a_stop_sequence_is_named_where_the_server_names_it(stage: Stage, client: AsyncAnthropic) -> None:
    pieces = upstream_events({"content": "A"})
    last = orjson.loads(pieces[1].removeprefix(b"data: "))
    last["choices"][0]["stop_reason"] = "END"
    stage.upstream.pieces = [pieces[0], b"data: " + orjson.dumps(last) + b"\n\n", *pieces[2:]]
    message = await client.messages.create(model="remote/gpt", max_tokens=9, messages=HI, stop_sequences=["END"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


async def test_a_limit_beyond_the_context_is_the_context(stage: Stage, client: AsyncAnthropic) -> None:
    async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
        if "max_tokens" in request:
            yield {"error": ContextLengthExceeded("Too many.", param="max_tokens").to_wire()}
            return
        yield chunk(usage=usage(5, 0))
        yield chunk("A", finish_reason="length", usage=usage(5, 1))

    stage.replica.lines = lines
    message = await client.messages.create(model="tiny", max_tokens=9_000, messages=HI)
    assert message.stop_reason == "model_context_window_exceeded"
    assert [record.status for record in stage.used()] == [200]
    stage.replica.refusal = (400, ContextLengthExceeded("Too long.", param="messages").to_wire())
    with pytest.raises(anthropic.BadRequestError):
        await client.messages.create(model="tiny", max_tokens=9, messages=HI)


async def test_thinking_is_turned_on_and_off_where_templates_can(stage: Stage, client: AsyncAnthropic) -> None:
    await client.messages.create(
        model="tiny", max_tokens=2000, messages=HI, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    await client.messages.create(model="tiny", max_tokens=9, messages=HI, thinking={"type": "disabled"})
    assert [sent["template_args"] for sent in stage.replica.requests] == [
        {"enable_thinking": True},
        {"enable_thinking": False},
    ]


async def test_tokens_are_counted(stage: Stage, client: AsyncAnthropic) -> None:
    stage.replica.answer(chunk(usage=usage(11, 0)), chunk(finish_reason="length", usage=usage(11, 0)))
    counted = await client.messages.count_tokens(model="tiny", messages=HI, system="Be brief.")
    assert counted.input_tokens == 11
    assert stage.replica.requests == [
        {"messages": [{"role": "system", "content": "Be brief."}, *HI], "max_tokens": 0, "echo": True}
    ]
    [record] = stage.used()
    assert (record.endpoint, record.status, record.prompt_tokens) == ("/v1/messages/count_tokens", 200, 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages.0.content.0.tool_use_id"),
        ({"messages": [*HI, {"role": "assistant", "content": "It"}]}, "messages.1.role"),
        ({"messages": [*HI, {"role": "assistant", "content": [{"type": "tool_use"}]}, *HI]}, "messages.1.content.0.id"),
        ({"system": [{"type": "image"}]}, "system.0"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"temperature": 1.5}, "temperature"),
        ({"mcp_servers": [{"name": "a"}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"model": "none"}, "model"),
    ],
)
async def test_what_cannot_be_is_refused_in_anthropics_form(stage: Stage, fields: dict[str, Any], param: str) -> None:
    asked = {"model": "tiny", "max_tokens": 9, "messages": HI, **fields}
    status, body, headers = await stage.post("/v1/messages", {key: value for key, value in asked.items() if value is not None})
    assert status in (400, 404), body
    assert (body["type"], body["error"]["param"]) == ("error", param)
    assert body["error"]["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert body["request_id"] == headers["request-id"] == headers["x-request-id"]
    assert headers["x-should-retry"] == "false"
    assert stage.replica.requests == []
    assert [record.status for record in stage.used()] == [status]


async def test_every_layer_fails_in_anthropics_form(stage: Stage, client: AsyncAnthropic) -> None:
    async with AsyncAnthropic(base_url=stage.url, api_key="mw-wrong", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as denied:
            await stranger.messages.create(model="tiny", max_tokens=9, messages=HI)
    assert isinstance(denied.value.body, dict)
    assert denied.value.body["error"]["type"] == "authentication_error"
    status, body, _ = await stage.post("/v1/messages", b"x" * 300_000)
    assert (status, body["error"]["type"]) == (413, "request_too_large")
    status, body, _ = await stage.post("/v1/messages/nothing", {})
    assert (status, body["type"], body["error"]["type"]) == (404, "error", "not_found_error")
    stage.replica.refusal = (503, Unavailable("Busy.", retry_after_s=2).to_wire())
    status, body, headers = await stage.post("/v1/messages", {"model": "tiny", "max_tokens": 9, "messages": HI})
    assert (status, body["error"]["type"], headers["retry-after"]) == (503, "overloaded_error", "2")
    # Elsewhere the form is OpenAI's, as before.
    status, body, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": []})
    assert "type" not in body
    assert body["error"]["param"] == "messages"


async def test_a_failure_in_the_middle_is_an_event(stage: Stage, client: AsyncAnthropic) -> None:
    stage.replica.answer(chunk(usage=usage(5, 0)), chunk("Hel"), {"error": Unavailable("Out of blocks.").to_wire()})
    with pytest.raises(anthropic.APIStatusError) as caught:
        async with client.messages.stream(model="tiny", max_tokens=9, messages=HI) as stream:
            await stream.until_done()
    assert "overloaded_error" in str(caught.value.body)
    blocks = await stage.events("/v1/messages", {"model": "tiny", "max_tokens": 9, "messages": HI})
    failed = events_of(blocks)[-1]
    assert (failed["type"], failed["error"]["message"]) == ("error", "Out of blocks.")
    assert [(record.status, record.completion_tokens) for record in stage.used()] == [(503, 1), (503, 1)]


async def test_a_call_that_is_no_json_is_not_passed_off_as_one(stage: Stage, client: AsyncAnthropic) -> None:
    stage.upstream.pieces = upstream_events(call_delta(0, '{"city":', id="a", name="weather"), finish="tool_calls")
    with pytest.raises(anthropic.InternalServerError):
        await client.messages.create(model="remote/gpt", max_tokens=9, messages=HI, tools=[TOOL])
    stage.upstream.pieces = upstream_events(call_delta(0, '{"city":', id="a", name="weather"), finish="length")
    message = await client.messages.create(model="remote/gpt", max_tokens=9, messages=HI, tools=[TOOL])
    assert message.stop_reason == "max_tokens"
    [call] = message.content
    assert call.type == "tool_use"
    assert call.input == {}


async def test_the_form_of_an_answer_is_asked_for(stage: Stage, client: AsyncAnthropic) -> None:
    stage.upstream.pieces = upstream_events({"content": '{"a":1}'})
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}
    await client.messages.create(
        model="remote/gpt",
        max_tokens=9,
        messages=HI,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    form = stage.upstream.requests[0][1]["response_format"]
    assert form == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
