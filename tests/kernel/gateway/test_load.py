"""More requests than a deployment can answer, over HTTP: who waits, who is refused and in which form, and what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from tests.kernel.gateway.conftest import Stage, chunk, parsed, usage

HI: Any = [{"role": "user", "content": "Hi"}]
CHAT: Any = {"model": "tiny", "messages": HI}


class Gated:
    """Answers of the replica end when they are let go; who asked is noted in the order of arrival."""

    def __init__(self, stage: Stage, capacity: int) -> None:
        self.order: list[str] = []
        self.open = asyncio.Event()
        self._stage = stage
        for slot in stage.table[stage.project_id, "tiny"].slots:
            slot.capacity = capacity
        stage.replica.lines = self._lines

    async def _lines(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        self.order.append(request["messages"][0]["content"])
        await self.open.wait()
        yield chunk("a", finish_reason="stop", usage=usage(1, 1))

    async def until(self, *, answering: int, waiting: int) -> None:
        async with asyncio.timeout(5):
            while len(self.order) < answering or sum(self._stage.pool.waiting().values()) != waiting:
                await asyncio.sleep(0.005)


def other_key(stage: Stage) -> str:
    with stage.db.transaction() as session:
        return stage.access.create_key(session, stage.project_id, "other", scopes=["inference"])[1]


async def ask(stage: Stage, text: str, secret: str | None = None, **more: Any) -> tuple[int, Any, Any]:
    headers = {"authorization": f"Bearer {secret or stage.secret}"}
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}
    async with stage.http.post(stage.url + "/v1/chat/completions", json=body, headers=headers) as response:
        return response.status, await response.read(), response.headers


async def test_one_request_of_a_key_is_answered_among_fifty_of_another(stage: Stage) -> None:
    gated = Gated(stage, capacity=2)
    many = [asyncio.create_task(ask(stage, "many")) for _ in range(50)]
    await gated.until(answering=2, waiting=48)
    one = asyncio.create_task(ask(stage, "one", other_key(stage)))
    await gated.until(answering=2, waiting=49)
    gated.open.set()
    assert {status for status, *_ in await asyncio.gather(one, *many)} == {200}
    # Two were being answered, and one of the many may have been next already.
    assert gated.order.index("one") <= 3
    assert len(stage.used()) == 51


async def test_what_does_not_fit_is_refused_in_each_clients_form(stage: Stage) -> None:
    stage.pool._room._max_queue = 1
    gated = Gated(stage, capacity=1)
    first = asyncio.create_task(ask(stage, "first"))
    await gated.until(answering=1, waiting=0)
    second = asyncio.create_task(ask(stage, "second"))
    await gated.until(answering=1, waiting=1)
    with pytest.raises(openai.InternalServerError) as refused:
        await stage.client.chat.completions.create(**CHAT)
    assert refused.value.status_code == 503
    assert refused.value.code == "model_overloaded"
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert refused.value.response.headers["x-should-retry"] == "true"
    async with anthropic.AsyncAnthropic(base_url=stage.url, api_key=stage.secret, max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError) as overloaded:
            await client.messages.create(model="tiny", max_tokens=5, messages=HI)
    assert overloaded.value.status_code == 529
    body: Any = overloaded.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "overloaded_error"
    assert overloaded.value.response.headers["retry-after"]
    gated.open.set()
    assert [(await each)[0] for each in (first, second)] == [200, 200]
    refusals = [record for record in stage.used() if record.status == 503]
    assert [(record.error_code, record.prompt_tokens, record.completion_tokens) for record in refusals] == [
        ("model_overloaded", 0, 0)
    ] * 2


@pytest.mark.signs_of_life
async def test_a_stream_that_waits_says_so_and_is_answered_in_the_end(stage: Stage) -> None:
    gated = Gated(stage, capacity=1)
    first = asyncio.create_task(ask(stage, "first"))
    await gated.until(answering=1, waiting=0)
    waits = asyncio.create_task(stage.events("/v1/chat/completions", CHAT))
    await gated.until(answering=1, waiting=1)
    await asyncio.sleep(0.4)
    gated.open.set()
    blocks = await waits
    assert blocks[0] == ": loading"
    assert blocks[-1] == "data: [DONE]"
    assert (await first)[0] == 200


@pytest.mark.signs_of_life
async def test_a_stream_that_waited_in_vain_ends_with_the_reason(stage: Stage) -> None:
    stage.pool._room._queue_wait_s = 0.4
    gated = Gated(stage, capacity=1)
    first = asyncio.create_task(ask(stage, "first"))
    await gated.until(answering=1, waiting=0)
    *_, last = parsed(await stage.events("/v1/chat/completions", CHAT))
    assert last["error"]["code"] == "model_overloaded"
    gated.open.set()
    assert (await first)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_the_queue_is_never_asked_for_and_pays_nothing(stage: Stage, stream: bool) -> None:
    gated = Gated(stage, capacity=1)
    first = asyncio.create_task(ask(stage, "first"))
    await gated.until(answering=1, waiting=0)
    leaves = asyncio.create_task(ask(stage, "leaves", stream=stream))
    await gated.until(answering=1, waiting=1)
    leaves.cancel()
    [record] = await stage.used_soon(1)
    assert (record.status, record.aborted, record.prompt_tokens, record.completion_tokens) == (499, True, 0, 0)
    assert stage.pool.waiting() == {}
    gated.open.set()
    assert (await first)[0] == 200
    assert gated.order == ["first"]


async def test_several_prompts_of_one_request_never_wait_for_each_other(stage: Stage) -> None:
    for slot in stage.table[stage.project_id, "tiny"].slots:
        slot.capacity = 1
    asked: Any = {"model": "tiny", "prompt": ["a", "b", "c"], "max_tokens": 4}
    async with asyncio.timeout(10):
        both = await asyncio.gather(*(stage.post("/v1/completions", asked) for _ in range(2)))
    assert [status for status, *_ in both] == [200, 200]
    assert [len(body["choices"]) for _, body, _ in both] == [3, 3]
