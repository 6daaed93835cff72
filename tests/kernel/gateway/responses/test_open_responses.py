"""The cases of the Open Responses compliance suite (openresponses.org, specification of 2026-04-24), over the bare wire."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.responses.test_responses import FUNCTION, call_delta, events_of, upstream_events

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}
MAYBE_TEXT = {"type": ["string", "null"]}
#: What the specification asks of every response; of these only those that say so may be null.
RESOURCE: dict[str, Any] = {
    "object": {"const": "response"},
    "id": TEXT,
    "created_at": COUNT,
    "completed_at": {"type": ["integer", "null"]},
    "status": {"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
    "incomplete_details": {"type": ["object", "null"]},
    "model": TEXT,
    "previous_response_id": MAYBE_TEXT,
    "instructions": {"type": ["string", "array", "null"]},
    "output": {"type": "array", "items": {"type": "object", "required": ["type", "id", "status"]}},
    "error": {"type": ["object", "null"]},
    "tools": {"type": "array"},
    "tool_choice": {"type": ["string", "object"]},
    "truncation": {"enum": ["auto", "disabled"]},
    "parallel_tool_calls": {"type": "boolean"},
    "text": {"type": "object", "required": ["format"]},
    "top_p": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "top_logprobs": COUNT,
    "temperature": NUMBER,
    "reasoning": {"type": ["object", "null"]},
    "usage": {
        "type": ["object", "null"],
        "required": ["input_tokens", "output_tokens", "total_tokens", "input_tokens_details", "output_tokens_details"],
        "properties": {
            "input_tokens_details": {"type": "object", "required": ["cached_tokens"]},
            "output_tokens_details": {"type": "object", "required": ["reasoning_tokens"]},
        },
    },
    "max_output_tokens": {"type": ["integer", "null"]},
    "max_tool_calls": {"type": ["integer", "null"]},
    "store": {"type": "boolean"},
    "background": {"type": "boolean"},
    "service_tier": TEXT,
    "metadata": {"type": "object"},
    "safety_identifier": MAYBE_TEXT,
    "prompt_cache_key": MAYBE_TEXT,
}
RESPONSE = Draft202012Validator({"type": "object", "required": list(RESOURCE), "properties": RESOURCE})


def turn(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text}


def text_of(response: dict[str, Any]) -> str:
    [message] = [item for item in response["output"] if item["type"] == "message"]
    [part] = message["content"]
    assert set(part) >= {"type", "text", "annotations", "logprobs"}
    assert part["type"] == "output_text"
    return str(part["text"])


CASES: list[tuple[str, list[dict[str, Any]]]] = [
    ("basic text", [turn("user", "Say hello in three words.")]),
    ("system prompt", [turn("system", "You are a pirate."), turn("user", "Say hello.")]),
    ("several turns", [turn("user", "I am Ann."), turn("assistant", "Hello Ann."), turn("user", "Who am I?")]),
]


@pytest.mark.parametrize(("case", "given"), CASES, ids=[case for case, _ in CASES])
async def test_a_response_is_whole_and_completed(stage: Stage, case: str, given: list[dict[str, Any]]) -> None:
    status, answer, _ = await stage.post("/v1/responses", {"model": "tiny", "input": given})
    assert status == 200, answer
    RESPONSE.validate(answer)
    assert (answer["status"], answer["error"], answer["incomplete_details"]) == ("completed", None, None)
    assert answer["completed_at"] >= answer["created_at"]
    assert text_of(answer)
    assert [message["role"] for message in stage.replica.requests[-1]["messages"]] == [each["role"] for each in given]


async def test_a_stream_ends_with_the_whole_response(stage: Stage) -> None:
    blocks = await stage.events("/v1/responses", {"model": "tiny", "input": "Count to three."})
    events = events_of(blocks)
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        if "response" in event:
            RESPONSE.validate(event["response"])
    last = events[-1]["response"]
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == text_of(last)
    assert {event["item_id"] for event in events if "item_id" in event} == {last["output"][0]["id"]}


async def test_a_tool_is_called(stage: Stage) -> None:
    arguments = '{"city": "Ulm"}'
    stage.upstream.pieces = upstream_events(call_delta(0, arguments, id="call_1", name="weather"), finish="tool_calls")
    status, answer, _ = await stage.post(
        "/v1/responses", {"model": "remote/gpt", "input": [turn("user", "How is the weather in Ulm?")], "tools": [FUNCTION]}
    )
    assert status == 200, answer
    RESPONSE.validate(answer)
    [call] = answer["output"]
    assert (call["type"], call["name"], call["arguments"], call["status"]) == (
        "function_call",
        "weather",
        arguments,
        "completed",
    )
    assert call["call_id"]
    assert call["id"] != call["call_id"]


async def test_an_image_is_handed_to_a_model_that_may_see_it(stage: Stage) -> None:
    image = "data:image/png;base64,iVBORw0KGgo="
    content = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": image}]
    asked = {"input": [{"type": "message", "role": "user", "content": content}]}
    stage.upstream.pieces = upstream_events({"role": "assistant", "content": "A heart."})
    status, answer, _ = await stage.post("/v1/responses", {"model": "remote/gpt", **asked})
    assert status == 200, answer
    RESPONSE.validate(answer)
    assert text_of(answer) == "A heart."
    # One that reads text only says so, with the place.
    status, answer, _ = await stage.post("/v1/responses", {"model": "tiny", **asked})
    assert (status, answer["error"]["param"]) == (400, "input.0.content.1")
