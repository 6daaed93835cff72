"""Tools and thoughts from the official client to a real engine and back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Literal

import anthropic
import openai
import pydantic
import pytest
from tests.capabilities.text.conftest import NO_END
from tests.kernel.gateway.conftest import Stage, stage  # noqa: F401 - a fixture
from tests.kernel.gateway.rooms import serve

from modelworks.capabilities.text.capability import capability
from modelworks.capabilities.text.serve import TransformersGenerator
from modelworks.contract import LocalModel
from modelworks.kernel.serving.worker import Replica

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "move",
            "parameters": {"type": "object", "properties": {"to": {"enum": ["a", "雨", '"']}}, "required": ["to"]},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
ASKED: dict[str, Any] = {"model": "caller", "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "seed": 4}


@pytest.fixture
async def caller(stage: Stage, speaking_model: LocalModel) -> AsyncIterator[Stage]:  # noqa: F811
    """The model that calls tools, deployed as `caller`."""
    replica = Replica(capability.tasks[0], lambda: TransformersGenerator(speaking_model), "replica-token")
    replica.load()
    async with AsyncExitStack() as stack:
        stage.deploy("caller", urls=[await serve(replica, stack)])
        yield stage
    replica.close()


async def streamed(stage: Stage, **asked: Any) -> tuple[dict[str, Any], str | None]:  # noqa: F811
    """A streamed answer put together by the rules of the wire, each of them held."""
    message: dict[str, Any] = {"content": None, "tool_calls": []}
    finish = None
    async for event in await stage.client.chat.completions.create(**{**ASKED, **asked}, stream=True):
        [choice] = event.choices
        assert finish is None
        if choice.delta.content is not None:
            message["content"] = (message["content"] or "") + choice.delta.content
        for piece in choice.delta.tool_calls or []:
            if piece.id is not None:
                assert piece.index == len(message["tool_calls"])
                assert piece.type == "function"
                message["tool_calls"].append({"name": piece.function.name, "arguments": ""})
            else:
                assert piece.function.name is None
            message["tool_calls"][piece.index]["arguments"] += piece.function.arguments
        finish = choice.finish_reason
    return message, finish


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"move", "now"}),
        ({"type": "function", "function": {"name": "move"}}, {"move"}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOLS[1]]}},
            {"now"},
        ),
    ],
)
async def test_calls_are_the_same_whole_and_streamed(caller: Stage, choice: Any, names: set[str]) -> None:
    for parallel in (True, False):
        asked = {"tool_choice": choice, "parallel_tool_calls": parallel}
        answer = await caller.client.chat.completions.create(**{**ASKED, **asked})
        [found] = answer.choices
        assert found.message.content is None
        calls = found.message.tool_calls or []
        assert parallel or (len(calls), found.finish_reason) == (1, "tool_calls")
        assert len({call.id for call in calls}) == len(calls)
        for call in calls[: None if found.finish_reason == "tool_calls" else -1]:
            assert call.function.name in names
            given = json.loads(call.function.arguments)
            assert given == {} if call.function.name == "now" else given["to"] in ("a", "雨", '"')
        message, finish = await streamed(caller, **asked)
        assert finish == found.finish_reason
        assert message["content"] is None
        assert message["tool_calls"] == [call.function.model_dump() for call in calls]


async def test_a_conversation_goes_on_after_a_call(caller: Stage) -> None:
    first = await caller.client.chat.completions.create(**ASKED, tool_choice="required", parallel_tool_calls=False)
    said = first.choices[0].message
    assert said.tool_calls is not None
    messages = [*ASKED["messages"], said, {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "done"}]
    answer = await caller.client.chat.completions.create(**{**ASKED, "messages": messages}, tool_choice="none", max_tokens=4)
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert first.usage is not None
    assert answer.usage.prompt_tokens > 0


async def test_thoughts_are_apart_from_content_and_counted(caller: Stage) -> None:
    asked: dict[str, Any] = {"model": "caller", "messages": ASKED["messages"], "seed": 4, "max_tokens": 8}
    asked["logit_bias"] = {str(token): bias for token, bias in NO_END.items()}
    thinking = {"chat_template_kwargs": {"think": True}}
    answer = await caller.client.chat.completions.create(**asked, extra_body=thinking)
    message = answer.choices[0].message.model_dump()
    assert message["content"] == ""
    assert message["reasoning_content"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == answer.usage.completion_tokens
    events = await caller.client.chat.completions.create(**asked, extra_body=thinking, stream=True)
    pieces = [event.choices[0].delta.model_dump().get("reasoning_content") async for event in events]
    assert "".join(piece or "" for piece in pieces) == message["reasoning_content"]
    [record, _] = caller.used()
    assert record.reasoning_tokens == answer.usage.completion_tokens


async def test_a_schema_of_arguments_that_cannot_be_kept_is_a_400(caller: Stage) -> None:
    bad = [TOOLS[1], {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"pattern": "(["}}}}}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await caller.client.chat.completions.create(**{**ASKED, "tools": bad}, stream=stream)
        assert caught.value.param == "tools.1.function.parameters.properties.x.pattern"


class Place(pydantic.BaseModel):
    to: Literal["a", "b"]


async def test_responses_have_the_same_calls_and_forms(caller: Stage) -> None:
    tools: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
    asked: dict[str, Any] = {"model": "caller", "input": "Hi", "parallel_tool_calls": False, "store": False}
    choice: Any = {"type": "function", "name": "move"}
    answer = await caller.client.responses.create(**asked, tools=tools, tool_choice=choice)
    [call] = answer.output
    assert call.type == "function_call"
    assert call.name == "move"
    assert json.loads(call.arguments)["to"] in ("a", "雨", '"')
    parsed = await caller.client.responses.parse(**asked, text_format=Place)
    assert parsed.output_parsed is not None
    bad: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"properties": {"x": {"not": {}}}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        await caller.client.responses.create(**asked, text=bad)
    assert caught.value.param == "text.format.schema.properties.x.not"


async def test_messages_have_the_same_calls(caller: Stage) -> None:
    tools: Any = [{"name": "move", "input_schema": TOOLS[0]["function"]["parameters"]}]
    asked: dict[str, Any] = {
        "model": "caller",
        "max_tokens": 60,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": tools,
    }
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    async with anthropic.AsyncAnthropic(base_url=caller.url, api_key=caller.secret, max_retries=0) as client:
        answer = await client.messages.create(**asked, tool_choice=choice)
        async with client.messages.stream(**asked, tool_choice=choice) as stream:
            streamed = await stream.get_final_message()
    for message in (answer, streamed):
        assert message.stop_reason == "tool_use"
        [block] = message.content
        assert block.type == "tool_use"
        assert block.name == "move"
        assert block.input["to"] in ("a", "雨", '"')


async def test_langchain_calls_tools_whole_and_streamed(caller: Stage) -> None:
    from langchain_anthropic import ChatAnthropic
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    asked: Any = {"base_url": f"{caller.url}/v1", "api_key": caller.secret, "model": "caller", "max_retries": 0}
    theirs: Any = {"base_url": caller.url, "api_key": caller.secret, "model_name": "caller", "max_retries": 0}
    for model in (
        ChatOpenAI(**asked, seed=4),
        ChatOpenAI(**asked, use_responses_api=True),
        ChatAnthropic(**theirs, max_tokens_to_sample=200),
    ):
        bound = model.bind_tools([TOOLS[0]], tool_choice="move", parallel_tool_calls=False)
        said = await bound.ainvoke("Hi")
        [call] = said.tool_calls
        assert (call["name"], call["args"]["to"] in ("a", "雨", '"')) == ("move", True)
        pieces = [piece async for piece in bound.astream("Hi")]
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += piece
        [streamed_call] = whole.tool_calls
        assert (streamed_call["name"], streamed_call["args"]["to"] in ("a", "雨", '"')) == ("move", True)
        answer = ToolMessage("done", tool_call_id=call["id"])
        after = await model.ainvoke([HumanMessage("Hi"), said, answer], **{"max_tokens": 4})
        assert not after.tool_calls
