"""The older completions: forms of the prompt, echo, the older log-probabilities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.kernel.gateway.conftest import Stage, chunk, parsed, usage

from modelworks.contract.generation import GenerationInput


def token(data: bytes, value: float, top: list[tuple[bytes, float]] = []) -> dict[str, Any]:  # noqa: B006 - never changed
    return {
        "token_id": 1,
        "text": data.decode("utf-8", "replace"),
        "bytes": list(data),
        "logprob": value,
        "top": [token(each, number) for each, number in top],
    }


async def test_a_text_is_continued(stage: Stage) -> None:
    answer = await stage.client.completions.create(model="tiny", prompt="Say", max_tokens=4, seed=3, stop=["."])
    assert answer.choices[0].text == "Hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7
    assert stage.replica.requests == [{"prompt": "Say", "max_tokens": 4, "seed": 3, "stop": ["."]}]
    [record] = stage.used()
    assert (record.endpoint, record.prompt_tokens, record.completion_tokens) == ("/v1/completions", 5, 2)


async def test_a_streamed_text_is_the_same(stage: Stage) -> None:
    events = [
        event
        async for event in await stage.client.completions.create(
            model="tiny", prompt="Say", stream=True, stream_options={"include_usage": True}
        )
    ]
    assert "".join(event.choices[0].text for event in events[:-1]) == "Hello world"
    assert events[-2].choices[0].finish_reason == "stop"
    assert events[-1].choices == []
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 2


async def test_the_default_length_is_openais(stage: Stage) -> None:
    await stage.client.completions.create(model="tiny", prompt="a")
    assert stage.replica.requests[0]["max_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("one", [{"prompt": "one"}]),
        (["one", "two"], [{"prompt": "one"}, {"prompt": "two"}]),
        ([1, 2, 3], [{"prompt_ids": [1, 2, 3]}]),
        ([[1, 2], [3]], [{"prompt_ids": [1, 2]}, {"prompt_ids": [3]}]),
    ],
)
async def test_the_four_forms_of_a_prompt(stage: Stage, prompt: Any, expected: list[dict[str, Any]]) -> None:
    async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk(usage=usage(3, 0))
        name = str(request.get("prompt") or request.get("prompt_ids"))
        if name in ("one", "[1, 2]"):
            # The first prompt is answered last.
            await asyncio.sleep(0.02)
        yield chunk(f"<{name}>", finish_reason="stop", usage=usage(3, 1))

    stage.replica.lines = lines
    answer = await stage.client.completions.create(model="tiny", prompt=prompt)
    asked = sorted(
        ({key: request[key] for key in request if key != "max_tokens"} for request in stage.replica.requests), key=str
    )
    assert asked == sorted(expected, key=str)
    for request in stage.replica.requests:
        GenerationInput.model_validate(request)
    names = [f"<{next(iter(each.values()))}>" for each in expected]
    assert [choice.text for choice in answer.choices] == names
    assert [choice.index for choice in answer.choices] == list(range(len(names)))
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3 * len(names), len(names))
    texts = [""] * len(names)
    async for event in await stage.client.completions.create(model="tiny", prompt=prompt, stream=True):
        texts[event.choices[0].index] += event.choices[0].text
    assert texts == names
    assert [record.prompt_tokens for record in stage.used()] == [3 * len(names)] * 2


async def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(stage: Stage) -> None:
    async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk(usage=usage(1, 0))
        for index in range(2):
            yield chunk(f"{request['prompt']}{index}", index=index, finish_reason="stop")

    stage.replica.lines = lines
    answer = await stage.client.completions.create(model="tiny", prompt=["a", "b"], n=2)
    assert [choice.text for choice in answer.choices] == ["a0", "a1", "b0", "b1"]


async def test_one_failing_prompt_ends_the_others(stage: Stage) -> None:
    async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk(usage=usage(1, 0))
        if request["prompt"] == "bad":
            yield {"error": {"class": "InvalidRequest", "message": "No.", "param": "prompt"}}
        else:
            await asyncio.Event().wait()

    stage.replica.lines = lines
    status, body, _ = await stage.post("/v1/completions", {"model": "tiny", "prompt": ["slow", "bad", "slow too"]})
    assert (status, body["error"]["param"]) == (400, "prompt")
    await asyncio.wait_for(stage.replica.hung_up.wait(), 5)


async def test_echo_is_the_engines_to_give(stage: Stage) -> None:
    await stage.client.completions.create(model="tiny", prompt="Say", echo=True)
    assert stage.replica.requests[0]["echo"] is True


async def test_the_older_log_probabilities(stage: Stage) -> None:
    # A character of three bytes in two tokens: both have its offset.
    stage.replica.answer(
        chunk(usage=usage(1, 0)),
        chunk("a", logprobs=[token(b"a", -0.1, [(b"b", -1.0)])]),
        chunk("", token_ids=[2], logprobs=[token(b"\xe4\xbd", -0.2, [(b"c", -2.0)])]),
        chunk("你z", token_ids=[3, 4], logprobs=[token(b"\xa0", -0.3, [(b"d", -3.0)]), token(b"z", -0.4, [(b"e", -4.0)])]),
        chunk(finish_reason="stop", usage=usage(1, 4)),
    )
    answer = await stage.client.completions.create(model="tiny", prompt="Say", logprobs=1)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens == ["a", "bytes:\\xe4\\xbd", "bytes:\\xa0", "z"]
    assert found.token_logprobs == [-0.1, -0.2, -0.3, -0.4]
    assert found.text_offset == [0, 1, 1, 2]
    assert found.top_logprobs is not None
    assert found.top_logprobs[0] == {"a": -0.1, "b": -1.0}
    assert stage.replica.requests[0]["logprobs"] is True
    assert stage.replica.requests[0]["top_logprobs"] == 1
    blocks = parsed(await stage.events("/v1/completions", {"model": "tiny", "prompt": "Say", "logprobs": 1}))
    streamed = [block["choices"][0]["logprobs"] for block in blocks[:-1]]
    assert [part["text_offset"] for part in streamed if part] == [[0], [1], [1, 2]]


async def test_the_prompts_log_probabilities_come_before_the_answers(stage: Stage) -> None:
    """The lists as evaluation harnesses read them: one entry per token of the prompt, the first of them unknown."""
    first = {**token(b"Say", 0.0), "logprob": None}
    stage.replica.answer(
        chunk(usage=usage(2, 0)),
        chunk("Say it"),
        chunk("", token_ids=[], logprobs=[first, token(b" it", -0.5, [(b" it", -0.5)])]),
        chunk("!", logprobs=[token(b"!", -0.1, [(b"!", -0.1)])], finish_reason="length", usage=usage(2, 1)),
    )
    asked: dict[str, Any] = {"model": "tiny", "prompt": [[7, 8]], "max_tokens": 1, "logprobs": 1, "echo": True}
    answer = await stage.client.completions.create(**asked)
    (choice,) = answer.choices
    assert choice.text == "Say it!"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["Say", " it", "!"]
    assert choice.logprobs.token_logprobs == [None, -0.5, -0.1]
    assert choice.logprobs.top_logprobs == [None, {" it": -0.5}, {"!": -0.1}]
    assert choice.logprobs.text_offset == [0, 3, 6]
    await stage.client.completions.create(**{**asked, "max_tokens": 0})
    assert stage.replica.requests[-1]["max_tokens"] == 0


async def test_log_probabilities_of_the_chosen_token_alone(stage: Stage) -> None:
    stage.replica.answer(chunk("a", logprobs=[token(b"a", -0.1)], finish_reason="stop", usage=usage(1, 1)))
    answer = await stage.client.completions.create(model="tiny", prompt="Say", logprobs=0)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.token_logprobs == [-0.1]
    assert answer.choices[0].logprobs.top_logprobs == [None]
    assert stage.replica.requests[0]["top_logprobs"] == 0


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "invalid_type"),
        ({"prompt": [1, "a"]}, "prompt", "invalid_type"),
        ({"prompt": [[]]}, "prompt", "invalid_type"),
        ({"prompt": [True]}, "prompt", "invalid_type"),
        ({"prompt": ["a"] * 129}, "prompt", "invalid_value"),
        ({"suffix": "tail", "echo": True}, "echo", "unsupported_parameter"),
        ({"best_of": 3}, "best_of", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"echo": "yes"}, "echo", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -1, "echo": True}, "max_tokens", "invalid_value"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_with_its_place(
    stage: Stage, more: dict[str, Any], param: str, code: str
) -> None:
    status, body, _ = await stage.post("/v1/completions", {"model": "tiny", "prompt": "a", **more})
    assert (status, body["error"]["param"], body["error"]["code"]) == (400, param, code)
    assert stage.replica.requests == []


async def test_a_missing_prompt_is_named(stage: Stage) -> None:
    for model in ("tiny", "remote/gpt"):
        status, body, _ = await stage.post("/v1/completions", {"model": model})
        assert (status, body["error"]["param"], body["error"]["code"]) == (400, "prompt", "missing_required_parameter")


async def test_a_suffix_reaches_the_engine_and_an_empty_one_is_none(stage: Stage) -> None:
    for suffix, expected in (("tail", "tail"), ("", None)):
        await stage.client.completions.create(model="tiny", prompt="head", suffix=suffix)
        assert GenerationInput.model_validate(stage.replica.requests[-1]).suffix == expected
