"""Chat through the official client and over the bare wire."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError
from tests.kernel.gateway.conftest import Stage, chunk, hello, parsed, usage

from modelworks.contract.generation import GenerationInput

HI: Any = [{"role": "user", "content": "Hi"}]


def logprob(text: str, value: float, top: list[tuple[str, float]] = []) -> dict[str, Any]:  # noqa: B006 - never changed
    return {
        "token_id": 1,
        "text": text,
        "bytes": list(text.encode()),
        "logprob": value,
        "top": [{"token_id": 2, "text": t, "bytes": list(t.encode()), "logprob": v, "top": []} for t, v in top],
    }


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
    [record] = stage.used()
    assert record.request_id == answer._request_id
    assert (record.endpoint, record.model, record.version_id) == ("/v1/chat/completions", "tiny", "mdl_01")
    assert (record.status, record.prompt_tokens, record.completion_tokens) == (200, 5, 2)
    assert record.time_to_first_token_ms is not None
    assert record.time_to_first_token_ms <= record.duration_ms
    assert not record.streamed
    assert not record.aborted


async def test_a_streamed_chat_gives_the_same_text(stage: Stage) -> None:
    texts, roles, finishes = [], [], []
    async for event in await stage.client.chat.completions.create(model="tiny", messages=HI, stream=True):
        [choice] = event.choices
        texts.append(choice.delta.content or "")
        roles.append(choice.delta.role)
        finishes.append(choice.finish_reason)
        assert event.usage is None
    assert "".join(texts) == "Hello world"
    assert roles == ["assistant", None, None, None]
    assert finishes == [None, None, None, "stop"]
    [record] = stage.used()
    assert (record.streamed, record.status, record.prompt_tokens, record.completion_tokens) == (True, 200, 5, 2)


async def test_the_usage_chunk_comes_last_and_only_when_asked_for(stage: Stage) -> None:
    events = [
        event
        async for event in await stage.client.chat.completions.create(
            model="tiny", messages=HI, stream=True, stream_options={"include_usage": True}
        )
    ]
    assert events[-1].choices == []
    assert events[-1].usage is not None
    assert events[-1].usage.total_tokens == 7
    assert all(event.usage is None and event.choices for event in events[:-1])
    blocks = await stage.events("/v1/chat/completions", {"model": "tiny", "messages": HI})
    assert blocks[-1] == "data: [DONE]"
    assert not any('"usage"' in block for block in blocks)


async def test_a_stream_says_that_it_must_not_be_cached_or_collected(stage: Stage) -> None:
    _, _, headers = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": HI, "stream": True})
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"].startswith("req_")
    assert int(headers["openai-processing-ms"]) >= 0


async def test_parameters_reach_the_engine(stage: Stage) -> None:
    await stage.client.chat.completions.create(
        model="tiny",
        messages=HI,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        n=1,
        stop="END",
        presence_penalty=0.1,
        frequency_penalty=0.2,
        max_completion_tokens=11,
        max_tokens=99,
        logit_bias={"42": -100},
        logprobs=True,
        top_logprobs=2,
        tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        tool_choice="auto",
        extra_body={"top_k": 3, "repetition_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}},
    )
    [sent] = stage.replica.requests
    assert sent == {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "n": 1,
        "stop": ["END"],
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "max_tokens": 11,
        "logit_bias": {"42": -100.0},
        "logprobs": True,
        "top_logprobs": 2,
        "top_k": 3,
        "repetition_penalty": 1.1,
        "template_args": {"enable_thinking": False},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert GenerationInput.model_validate(sent).logit_bias == {42: -100.0}


async def test_max_tokens_alone_limits_too_and_nothing_is_invented(stage: Stage) -> None:
    await stage.client.chat.completions.create(model="tiny", messages=HI, max_tokens=3, stop=["a", "b"])
    await stage.client.chat.completions.create(model="tiny", messages=HI)
    assert stage.replica.requests[0] == {"messages": HI, "max_tokens": 3, "stop": ["a", "b"]}
    assert stage.replica.requests[1] == {"messages": HI}


async def test_roles_and_parts_reach_the_engine_as_text(stage: Stage) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
        {"role": "tool", "content": "42", "tool_call_id": "c"},
    ]
    await stage.client.chat.completions.create(model="tiny", messages=messages)
    sent = stage.replica.requests[0]["messages"]
    assert [message["role"] for message in sent] == ["system", "developer", "user", "assistant", "tool"]
    assert sent[1]["content"] == "one\ntwo"
    assert sent[2]["name"] == "ann"
    assert "content" not in sent[3]
    assert sent[3]["tool_calls"][0]["id"] == "c"
    assert sent[4]["tool_call_id"] == "c"
    GenerationInput.model_validate(stage.replica.requests[0])


async def test_several_choices_are_kept_apart(stage: Stage) -> None:
    stage.replica.answer(
        chunk(usage=usage(3, 0)),
        chunk("a", index=0),
        chunk("x", index=1),
        chunk("y", index=1, finish_reason="length"),
        chunk("b", index=0, finish_reason="stop", usage=usage(3, 4)),
    )
    answer = await stage.client.chat.completions.create(model="tiny", messages=HI, n=2)
    assert [(choice.message.content, choice.finish_reason) for choice in answer.choices] == [("ab", "stop"), ("xy", "length")]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    texts, roles = ["", ""], [0, 0]
    async for event in await stage.client.chat.completions.create(model="tiny", messages=HI, n=2, stream=True):
        choice = event.choices[0]
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role is not None
    assert texts == ["ab", "xy"]
    assert roles == [1, 1]


async def test_log_probabilities_have_bytes_and_alternatives(stage: Stage) -> None:
    stage.replica.answer(
        chunk(usage=usage(1, 0)),
        chunk("你", logprobs=[logprob("你", -0.5, [("我", -1.5)])]),
        chunk(finish_reason="stop", usage=usage(1, 1)),
    )
    answer = await stage.client.chat.completions.create(model="tiny", messages=HI, logprobs=True, top_logprobs=1)
    assert answer.choices[0].logprobs is not None
    [entry] = answer.choices[0].logprobs.content or []
    assert (entry.token, entry.logprob, entry.bytes) == ("你", -0.5, list("你".encode()))
    assert [(top.token, top.logprob, top.bytes) for top in entry.top_logprobs] == [("我", -1.5, list("我".encode()))]
    events = [
        event
        async for event in await stage.client.chat.completions.create(
            model="tiny", messages=HI, logprobs=True, top_logprobs=1, stream=True
        )
    ]
    streamed = [event.choices[0].logprobs for event in events if event.choices[0].logprobs]
    assert [found.content for found in streamed] == [[entry]]
    plain = await stage.client.chat.completions.create(model="tiny", messages=HI)
    assert plain.choices[0].logprobs is None


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "invalid_value"),
        ({"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "missing_required_parameter"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools.0.function.name", "invalid_value"),
        ({"tools": [{"function": {"name": "a"}}] * 2}, "tools.1.function.name", "invalid_value"),
        (
            {"tools": [{"function": {"name": "a"}}], "tool_choice": {"type": "function", "function": {"name": "b"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"guided_regex": "a+"}, "guided_regex", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]},
            "messages.1.role",
            "invalid_value",
        ),
        ({"messages": [{"content": "a"}]}, "messages.0.role", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "invalid_type"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}
                ]
            },
            "messages.0.content.0",
            "unsupported_parameter",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text", "invalid_type"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_with_its_place(
    stage: Stage, more: dict[str, Any], param: str, code: str
) -> None:
    status, body, headers = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": HI, **more})
    assert status == 400
    error = body["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert error["message"]
    assert headers["x-should-retry"] == "false"
    assert stage.replica.requests == []
    [record] = stage.used()
    assert (record.status, record.error_code) == (400, code)


async def test_unknown_fields_and_explicit_nulls_are_ignored(stage: Stage) -> None:
    status, _, _ = await stage.post(
        "/v1/chat/completions",
        {
            "model": "tiny",
            "messages": HI,
            **dict.fromkeys(("temperature", "n", "stop", "tools", "stream", "seed", "max_tokens", "logprobs")),
            "service_tier": "auto",
            "store": False,
            "metadata": {"a": "b"},
            "prompt_cache_key": "k",
            "safety_identifier": "s",
            "verbosity": "low",
            "reasoning_effort": "low",
            "stream_options": {"include_usage": True},
            "response_format": {"type": "text"},
            "tool_choice": "none",
            "something_new": 1,
        },
    )
    assert status == 200
    assert stage.replica.requests == [{"messages": HI}]


async def test_the_replicas_refusal_is_the_callers_answer_streamed_or_not(stage: Stage) -> None:
    wire = {
        "class": "ContextLengthExceeded",
        "message": "The prompt has 600 tokens.",
        "hint": "Shorten it.",
        "param": "messages",
        "code": "context_length_exceeded",
        "retry_after_s": None,
    }
    stage.replica.refusal = (400, wire)
    for stream in (False, True):
        with pytest.raises(BadRequestError) as caught:
            await stage.client.chat.completions.create(model="tiny", messages=HI, stream=stream)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
        assert caught.value.type == "invalid_request_error"
    assert [record.error_code for record in stage.used()] == ["context_length_exceeded"] * 2


async def test_an_error_in_the_replicas_first_line_is_still_a_status(stage: Stage) -> None:
    stage.replica.answer({"error": {"class": "UnsupportedParameter", "message": "No logit_bias.", "param": "logit_bias"}})
    status, body, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": HI, "stream": True})
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "unsupported_parameter", "logit_bias")


async def test_a_model_for_another_task_is_refused_with_the_way_to_it(stage: Stage) -> None:
    stage.deploy("eyes", task="object-detection")
    status, body, _ = await stage.post("/v1/chat/completions", {"model": "eyes", "messages": HI})
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "model_not_supported", "model")
    assert "/v1/tasks/object-detection" in body["error"]["message"]


async def test_a_version_of_a_deployment_can_be_asked_by_its_reference(stage: Stage) -> None:
    answer = await stage.client.chat.completions.create(model="tiny@v1", messages=HI)
    assert answer.model == "tiny@v1"


async def test_lines_cut_anywhere_by_the_network_are_put_together(stage: Stage) -> None:
    import orjson

    whole = b"".join(orjson.dumps(each) + b"\n" for each in hello())
    stage.replica.answer(*[whole[start : start + 7] for start in range(0, len(whole), 7)])
    answer = await stage.client.chat.completions.create(model="tiny", messages=HI)
    assert answer.choices[0].message.content == "Hello world"


async def test_a_token_without_text_yet_makes_no_event(stage: Stage) -> None:
    stage.replica.answer(
        chunk(usage=usage(1, 0)), chunk("", token_ids=[7]), chunk("你", token_ids=[8], finish_reason="stop", usage=usage(1, 2))
    )
    blocks = parsed(await stage.events("/v1/chat/completions", {"model": "tiny", "messages": HI}))
    contents = [block["choices"][0]["delta"].get("content") for block in blocks[:-1]]
    assert contents == ["", "你", None]


async def test_the_form_of_an_answer_reaches_the_engine(stage: Stage) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for asked, expected in [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"json_schema": {"type": "object"}, "strict": False, "place": "response_format"}),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}},
            {"json_schema": schema, "strict": True, "place": "response_format.json_schema.schema"},
        ),
    ]:
        await stage.client.chat.completions.create(model="tiny", messages=HI, response_format=asked)  # type: ignore[arg-type]
        found = GenerationInput.model_validate(stage.replica.requests[-1]).answer_form
        assert (None if found is None else found.model_dump()) == expected
