"""The gateway in front of the serving room's own replica application: both sides of the protocol are the product's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.rooms import serve

from modelworks.contract.capability import Task
from modelworks.contract.errors import ContextLengthExceeded
from modelworks.contract.generation import GenerationChunk, GenerationInput, GenerationUsage
from modelworks.kernel.serving.worker import Replica

TASK = Task(name="text-generation", mode="stream", input=GenerationInput, output=GenerationChunk, predictor="toy.serve:Echo")


class Echo:
    """Says the last message back, a word at a time; "wait" hangs in prefill, "hang" after the first word."""

    async def stream(self, request: GenerationInput) -> AsyncIterator[GenerationChunk]:
        words = ((request.messages[-1].content if request.messages else request.prompt) or "").split()
        if "wait" in words:
            await asyncio.Event().wait()
        if len(words) > 5:
            raise ContextLengthExceeded(f"The prompt has {len(words)} tokens, the context 5.", param="messages")
        yield GenerationChunk(usage=GenerationUsage(prompt_tokens=len(words)))
        for number, word in enumerate(words):
            yield GenerationChunk(text=word + " ", token_ids=[number])
            if "hang" in words:
                await asyncio.Event().wait()
        usage = GenerationUsage(prompt_tokens=len(words), completion_tokens=len(words))
        yield GenerationChunk(finish_reason="stop", usage=usage)


def says(text: str) -> Any:
    return {"model": "echo", "messages": [{"role": "user", "content": text}]}


@pytest.fixture
async def replica(stage: Stage) -> AsyncIterator[Replica]:
    made = Replica(TASK, Echo, "replica-token")
    made.load()
    async with AsyncExitStack() as stack:
        stage.deploy("echo", urls=[await serve(made, stack)])
        yield made
    made.close()


async def test_a_chat_whole_and_streamed(stage: Stage, replica: Replica) -> None:
    answer = await stage.client.chat.completions.create(**says("one two three"))
    assert answer.choices[0].message.content == "one two three "
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    texts = [
        each.choices[0].delta.content or ""
        async for each in await stage.client.chat.completions.create(**says("a b"), stream=True)
    ]
    assert "".join(texts) == "a b "
    completion = await stage.client.completions.create(model="echo", prompt=["x", "y z"], logit_bias={"5": 1})
    assert [choice.text for choice in completion.choices] == ["x ", "y z "]
    assert [record.completion_tokens for record in stage.used()] == [3, 2, 3]


async def test_a_prompt_too_long_is_a_400_streamed_or_not(stage: Stage, replica: Replica) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await stage.client.chat.completions.create(**says("1 2 3 4 5 6"), stream=stream)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


async def test_what_only_the_replica_can_judge_comes_back_with_its_place(stage: Stage, replica: Replica) -> None:
    status, body, _ = await stage.post("/v1/tasks/text-generation", {"model": "echo", "input": {"prompt": "a", "n": 0}})
    assert (status, body["error"]["param"]) == (400, "input.n")


@pytest.mark.parametrize(("text", "tokens"), [("wait", 0), ("hang on", 1)])
async def test_leaving_stops_the_predictor_in_prefill_and_in_decode(
    stage: Stage, replica: Replica, text: str, tokens: int
) -> None:
    asking = asyncio.create_task(stage.post("/v1/chat/completions", {**says(text), "stream": True}))
    while replica.stats()["in_flight"] == 0:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    asking.cancel()
    async with asyncio.timeout(5):
        while replica.stats()["aborted"] == 0:
            await asyncio.sleep(0.01)
    assert replica.stats()["aborted_tokens"] == tokens
    assert replica.stats()["in_flight"] == 0
    [record] = await stage.used_soon(1)
    assert (record.aborted, record.completion_tokens) == (True, tokens)
