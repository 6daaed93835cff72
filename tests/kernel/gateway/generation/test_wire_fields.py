"""Fields of a chat that change nothing here are read all the same: of the wrong kind they are refused with their place."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.gateway.conftest import Stage, chunk, usage

HI: dict[str, Any] = {"role": "user", "content": "Hi"}

#: Field, a value that is taken, one that is not.
TAKEN: list[tuple[str, Any, Any]] = [
    ("metadata", {"a": "b"}, {"a": 1}),
    ("modalities", ["text"], "text"),
    ("prediction", {"type": "content", "content": "a"}, "a"),
    ("prediction", {"type": "content", "content": [{"type": "text", "text": "a"}]}, {"type": "content", "content": [1]}),
    ("prompt_cache_key", "a", 1),
    ("prompt_cache_options", {"mode": "auto"}, {"mode": 1}),
    ("prompt_cache_retention", "24h", 24),
    ("reasoning_effort", "low", 1),
    ("safety_identifier", "a", 1),
    ("service_tier", "auto", 1),
    ("store", True, "yes"),
    ("verbosity", "low", 1),
]


@pytest.mark.parametrize(("name", "good", "bad"), TAKEN, ids=[f"{each[0]}-{each[1]}" for each in TAKEN])
async def test_a_field_without_effect_is_taken_and_checked(stage: Stage, name: str, good: Any, bad: Any) -> None:
    asked = {"model": "tiny", "messages": [HI]}
    status, answer, _ = await stage.post("/v1/chat/completions", {**asked, name: good})
    assert status == 200, answer
    status, answer, _ = await stage.post("/v1/chat/completions", {**asked, name: bad})
    assert status == 400
    assert str(answer["error"]["param"]).startswith(name), answer


CALL: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "act", "arguments": "{}"}, "extra": 1}


async def test_earlier_calls_reach_the_model_as_they_came(stage: Stage) -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    status, answer, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": [HI, turn, HI]})
    assert status == 200, answer
    assert stage.replica.requests[-1]["messages"][1] == {"role": "assistant", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("turn", "place"),
    [
        ({"tool_calls": [{**CALL, "function": {"name": "act", "arguments": {}}}]}, "tool_calls.0.function.arguments"),
        ({"tool_calls": [{**CALL, "function": "act"}]}, "tool_calls.0.function"),
        ({"tool_calls": [{**CALL, "type": "custom"}]}, "tool_calls.0.type"),
        ({"refusal": 1}, "refusal"),
        ({"audio": {"id": "a"}}, "audio"),
        ({"function_call": {"name": "act", "arguments": "{}"}}, "function_call"),
        (
            {"content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": 1}}]},
            "content.0.prompt_cache_breakpoint",
        ),
    ],
    ids=str,
)
async def test_what_an_earlier_turn_cannot_hold_is_refused_with_its_place(
    stage: Stage, turn: dict[str, Any], place: str
) -> None:
    messages = [HI, {"role": "assistant", "content": "a", **turn}, HI]
    status, answer, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": messages})
    assert status == 400
    assert str(answer["error"]["param"]).startswith(f"messages.1.{place}"), answer


async def test_a_refusal_of_before_is_what_the_assistant_said(stage: Stage) -> None:
    turn = {"role": "assistant", "content": None, "refusal": "I will not."}
    status, _, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": [HI, turn, HI]})
    assert status == 200
    assert stage.replica.requests[-1]["messages"][1]["content"] == "I will not."


@pytest.mark.parametrize(
    ("path", "more", "place"),
    [
        ("/v1/chat/completions", {"moderation": {"model": "a"}}, "moderation"),
        (
            "/v1/chat/completions",
            {"tools": [{"type": "function", "function": {"name": "a", "strict": "yes"}}]},
            "tools.0.function.strict",
        ),
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"name": 1, "schema": {}}}},
            "response_format.json_schema.name",
        ),
        ("/v1/responses", {"access_programs": {"cyber": "a"}}, "access_programs"),
        ("/v1/responses", {"background_options": {"continuation_id": "a"}}, "background_options"),
        ("/v1/responses", {"image": {"context_compression": "a"}}, "image"),
        ("/v1/responses", {"prompt_cache_options": "a"}, "prompt_cache_options"),
        ("/v1/responses", {"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
        ("/v1/responses", {"reasoning": {"context": 1}}, "reasoning.context"),
        ("/v1/responses", {"input": [{"role": "user", "content": "a", "phase": 1}]}, "input.0.phase"),
        (
            "/v1/responses",
            {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": [1]}]}]},
            "input.0.content.0.annotations.0",
        ),
    ],
    ids=str,
)
async def test_what_would_change_the_answer_or_is_of_the_wrong_kind_is_refused(
    stage: Stage, path: str, more: dict[str, Any], place: str
) -> None:
    base: dict[str, Any] = {"messages": [HI]} if "chat" in path else {"input": "Hi"}
    status, answer, _ = await stage.post(path, {"model": "tiny", **base, **more})
    assert (status, answer["error"]["param"]) == (400, place), answer


async def test_an_answer_says_again_what_it_was_labelled_with_and_which_tier_did_the_work(stage: Stage) -> None:
    asked = {"model": "tiny", "messages": [HI], "metadata": {"a": "b"}, "service_tier": "priority"}
    _, answer, _ = await stage.post("/v1/chat/completions", asked)
    assert (answer["metadata"], answer["service_tier"]) == ({"a": "b"}, "default")
    assert answer["choices"][0]["message"]["annotations"] == []
    stream = await stage.client.chat.completions.create(model="tiny", messages=[HI], stream=True, service_tier="flex")  # type: ignore[list-item]
    assert {each.service_tier async for each in stream} == {"default"}
    _, plain, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": [HI]})
    assert not {"metadata", "service_tier"} & set(plain)


async def test_the_details_of_what_was_used_add_up(stage: Stage) -> None:
    _, answer, _ = await stage.post("/v1/chat/completions", {"model": "tiny", "messages": [HI]})
    used = answer["usage"]
    read, written = used["prompt_tokens_details"], used["completion_tokens_details"]
    assert read["text_tokens"] + read["audio_tokens"] + read["image_tokens"] == used["prompt_tokens"]
    assert written["text_tokens"] + written["audio_tokens"] == used["completion_tokens"]
    assert written["accepted_prediction_tokens"] == written["rejected_prediction_tokens"] == 0


async def test_a_padded_stream_tells_nobody_the_lengths_of_its_pieces(stage: Stage) -> None:
    stage.replica.answer(chunk("a"), chunk("much more of it"), chunk(finish_reason="stop", usage=usage(1, 2)))
    options = {"include_obfuscation": True}
    asked = {"model": "tiny", "messages": [HI], "stream": True}
    _, raw, _ = await stage.post("/v1/chat/completions", {**asked, "stream_options": options})
    pieces = [line for line in raw.decode().splitlines() if '"content":' in line and '"obfuscation":' in line]
    assert len(pieces) >= 2
    assert len({len(line) for line in pieces}) == 1
    _, raw, _ = await stage.post("/v1/chat/completions", asked)
    assert b"obfuscation" not in raw


async def test_a_mark_in_a_prediction_is_checked(stage: Stage) -> None:
    part = {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": 1}}
    asked = {"model": "tiny", "messages": [HI], "prediction": {"type": "content", "content": [part]}}
    status, answer, _ = await stage.post("/v1/chat/completions", asked)
    assert (status, answer["error"]["param"]) == (400, "prediction.content.0.prompt_cache_breakpoint.mode"), answer
