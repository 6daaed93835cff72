"""Streams under way: keep-alives, failures in the middle, callers that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import openai
import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs
from tests.kernel.gateway.conftest import FakeReplica, Stage, chunk, listen, parsed, usage

from modelworks.contract.errors import ModelworksError, Unavailable
from modelworks.kernel.base import telemetry
from modelworks.kernel.gateway import exchange
from modelworks.kernel.gateway.stream import ClientGone, UntilDisconnect

HI: Any = [{"role": "user", "content": "Hi"}]
CHAT: Any = {"model": "tiny", "messages": HI}


def hang_after(*chunks: Any) -> Any:
    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        for each in chunks:
            yield each
        await asyncio.Event().wait()

    return lines


@pytest.mark.signs_of_life
async def test_comments_keep_a_silent_stream_open(stage: Stage) -> None:
    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        await asyncio.sleep(0.4)
        yield chunk("a", usage=usage(1, 0))
        await asyncio.sleep(0.4)
        yield chunk("b", finish_reason="stop", usage=usage(1, 2))

    stage.replica.lines = lines
    blocks = await stage.events("/v1/chat/completions", CHAT)
    comments = [block.startswith(":") for block in blocks]
    assert {block for block in blocks if block.startswith(":")} == {": keep-alive"}
    # Before the first event (prefill) and between events.
    assert comments[0]
    assert any(comments[comments.index(False) + 1 :])
    assert blocks[-1] == "data: [DONE]"
    texts = [
        each.choices[0].delta.content or "" async for each in await stage.client.chat.completions.create(**CHAT, stream=True)
    ]
    assert "".join(texts) == "ab"


@pytest.mark.signs_of_life
async def test_while_a_model_loads_a_stream_says_so_and_then_answers(stage: Stage) -> None:
    stage.deploy("late", urls=[], state="loading")
    asking = asyncio.create_task(stage.events("/v1/chat/completions", {"model": "late", "messages": HI}))
    await asyncio.sleep(0.4)
    stage.deploy("late")
    blocks = await asking
    assert blocks[0] == ": loading"
    assert blocks[-1] == "data: [DONE]"


@pytest.mark.signs_of_life
async def test_a_failure_after_the_first_keep_alive_is_an_event(stage: Stage) -> None:
    stage.deploy("late", urls=[], state="loading")
    asking = asyncio.create_task(stage.events("/v1/chat/completions", {"model": "late", "messages": HI}))
    await asyncio.sleep(0.4)
    stage.deploy("late", urls=[], state="failed", last_error="No memory.")
    *_, last = parsed(await asking)
    assert last["error"]["code"] == "deployment_failed"
    [record] = stage.used()
    assert (record.status, record.error_code) == (503, "deployment_failed")


async def test_an_error_in_the_middle_is_an_event_and_ends_the_stream(stage: Stage) -> None:
    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk("a", usage=usage(4, 0))
        await asyncio.sleep(0.05)
        yield {"error": Unavailable("Out of blocks.", hint="Wait.").to_wire()}

    stage.replica.lines = lines
    blocks = parsed(await stage.events("/v1/chat/completions", CHAT))
    assert blocks[-1]["error"] == {
        "message": "Out of blocks. Wait.",
        "type": "server_error",
        "param": None,
        "code": "unavailable",
        "hint": "Wait.",
    }
    texts = []

    async def read() -> None:
        async for event in await stage.client.chat.completions.create(**CHAT, stream=True):
            texts.append(event.choices[0].delta.content or "")

    with pytest.raises(openai.APIError, match="Out of blocks") as caught:
        await read()
    assert "".join(texts) == "a"
    assert caught.value.code == "unavailable"
    record = stage.used()[-1]
    assert (record.status, record.error_code, record.prompt_tokens, record.completion_tokens) == (503, "unavailable", 4, 1)


async def test_a_bug_in_the_middle_is_an_event_without_its_text(stage: Stage) -> None:
    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk("a")
        # The first event has left before the fault comes.
        await asyncio.sleep(0.05)
        yield {"index": "secret"}

    stage.replica.lines = lines
    with capture_logs() as logs:
        *_, last = parsed(await stage.events("/v1/chat/completions", CHAT))
    assert [entry["event"] for entry in logs] == ["stream failed"]
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in last["error"]["message"]
    assert "req_" in last["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_replica_that_dies_in_the_middle_is_a_clean_error(stage: Stage, stream: bool) -> None:
    stage.replica.answer(chunk("a", usage=usage(1, 0)), ConnectionResetError())
    if stream:
        *_, last = parsed(await stage.events("/v1/chat/completions", CHAT))
        error = last["error"]
    else:
        status, body, _ = await stage.post("/v1/chat/completions", CHAT)
        error = body["error"]
        assert status == 502
    assert error["code"] == "replica_lost"
    [record] = stage.used()
    assert (record.status, record.error_code) == (502, "replica_lost")


@pytest.mark.parametrize(
    "lines",
    [[chunk("a", usage=usage(1, 0))], [chunk("a", usage=usage(1, 0)), b'{"index": 0, "text": "b", "finish_reason": "st']],
)
async def test_an_answer_cut_short_never_looks_complete(stage: Stage, lines: list[Any]) -> None:
    stage.replica.answer(*lines)
    status, body, _ = await stage.post("/v1/chat/completions", CHAT)
    assert (status, body["error"]["code"]) == (502, "replica_lost")
    blocks = await stage.events("/v1/chat/completions", CHAT)
    assert "data: [DONE]" not in blocks
    assert parsed(blocks)[-1]["error"]["code"] == "replica_lost"


async def test_an_unreachable_replica_is_passed_over(stage: Stage) -> None:
    stage.deploy("pair", urls=["http://127.0.0.1:9", stage.replica_url])
    for _ in range(4):
        answer = await stage.client.chat.completions.create(model="pair", messages=HI)
        assert answer.choices[0].message.content == "Hello world"
    stage.pool._room.load_wait_s = 0.05
    stage.deploy("lost", urls=["http://127.0.0.1:9"])
    with pytest.raises(openai.InternalServerError) as caught:
        await stage.client.chat.completions.create(model="lost", messages=HI)
    assert caught.value.status_code in (502, 503)


async def test_a_connection_that_breaks_before_any_answer_is_tried_again(stage: Stage) -> None:
    class Flaky(FakeReplica):
        async def stream(self, request: web.Request) -> web.StreamResponse:
            if not self.asked.is_set():
                self.asked.set()
                assert request.transport is not None
                request.transport.abort()
            return await super().stream(request)

    async with AsyncExitStack() as stack:
        url = await listen(Flaky().app(), stack)
        stage.deploy("pair", urls=[url, stage.replica_url])
        answer = await stage.client.chat.completions.create(model="pair", messages=HI)
        assert answer.choices[0].message.content == "Hello world"


async def test_a_request_that_brings_a_replica_down_is_not_carried_to_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poisoned(FakeReplica):
        async def stream(self, request: web.Request) -> web.StreamResponse:
            self.requests.append({})
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
            return web.StreamResponse()

    monkeypatch.setattr(exchange, "_STALE_S", 0.01)
    async with AsyncExitStack() as stack:
        poisoned = Poisoned()
        url = await listen(poisoned.app(), stack)
        stage.deploy("pair", urls=[url, url])
        status, body, _ = await stage.post("/v1/chat/completions", {"model": "pair", "messages": HI})
        assert (status, body["error"]["code"]) == (502, "replica_lost")
        assert len(poisoned.requests) == 1


async def test_a_server_that_stops_records_what_it_breaks_off(stage: Stage) -> None:
    stage.replica.lines = hang_after(chunk("a", usage=usage(3, 0)))

    async def never() -> Any:
        await asyncio.Event().wait()

    async def nowhere(_message: Any) -> None:
        return None

    for stream in (True, False):
        body = orjson.dumps({**CHAT, "stream": stream})
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive(messages: Any = messages) -> Any:
            for message in messages:
                return message
            return await never()

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "headers": [(b"x-api-key", stage.secret.encode()), (b"content-length", str(len(body)).encode())],
        }
        stage.replica.asked.clear()
        answering = asyncio.create_task(stage.app(scope, receive, nowhere))
        await stage.replica.asked.wait()
        await asyncio.sleep(0.05)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
    assert [(record.status, record.aborted, record.prompt_tokens) for record in stage.used()] == [(503, True, 3)] * 2


async def test_tokens_are_counted_for_prometheus(stage: Stage) -> None:
    stage.deploy("counted-here")
    await stage.client.chat.completions.create(model="counted-here", messages=HI)
    page = telemetry.metrics_response().decode()
    assert 'modelworks_tokens_total{deployment="counted-here",kind="prompt"} 5.0' in page
    assert 'modelworks_tokens_total{deployment="counted-here",kind="completion"} 2.0' in page


async def test_a_failed_answer_whose_record_fails_too_keeps_its_own_error(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(record: Any) -> None:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(stage.recorder, "record", full)
    with capture_logs() as logs:
        status, body, _ = await stage.post("/v1/chat/completions", {**CHAT, "n": 0})
    assert (status, body["error"]["param"]) == (400, "n")
    assert [entry["event"] for entry in logs] == ["usage of a failed request is not recorded"]


async def test_a_caller_who_leaves_in_prefill_stops_the_replica(stage: Stage) -> None:
    stage.replica.lines = hang_after()
    for stream in (True, False):
        stage.replica.hung_up.clear()
        stage.replica.asked.clear()
        asking = asyncio.create_task(stage.post("/v1/chat/completions", {**CHAT, "stream": stream}))
        await asyncio.wait_for(stage.replica.asked.wait(), 5)
        asking.cancel()
        await asyncio.wait_for(stage.replica.hung_up.wait(), 5)
    records = await stage.used_soon(2)
    assert [(record.status, record.aborted, record.streamed) for record in records] == [(499, True, True), (499, True, False)]
    assert [record.completion_tokens for record in records] == [0, 0]
    assert stage.table[(stage.project_id, "tiny")].slots[0].in_flight == 0


async def test_a_caller_who_leaves_in_decode_stops_the_replica_and_is_metered(stage: Stage) -> None:
    stage.replica.lines = hang_after(chunk(usage=usage(9, 0, cached=4)), chunk("a"), chunk("b", token_ids=[1, 2]))
    stream = await stage.client.chat.completions.create(**CHAT, stream=True)
    seen = ""
    async for event in stream:
        seen += event.choices[0].delta.content or ""
        if seen == "ab":
            break
    await stream.close()
    await asyncio.wait_for(stage.replica.hung_up.wait(), 5)
    [record] = await stage.used_soon(1)
    assert (record.status, record.aborted, record.prompt_tokens, record.completion_tokens) == (499, True, 9, 3)
    assert record.cached_tokens == 4
    assert record.time_to_first_token_ms is not None


async def test_a_caller_who_leaves_while_a_model_loads_is_forgotten(stage: Stage) -> None:
    stage.deploy("late", urls=[], state="loading")
    asking = asyncio.create_task(stage.post("/v1/chat/completions", {"model": "late", "messages": HI}))
    while not stage.pool.waiting():
        await asyncio.sleep(0.01)
    asking.cancel()
    [record] = await stage.used_soon(1)
    assert record.aborted
    assert not stage.pool.waiting()


async def test_the_record_is_there_before_the_last_byte(stage: Stage) -> None:
    for path, body in [("/v1/chat/completions", CHAT), ("/v1/completions", {"model": "tiny", "prompt": "a"})]:
        before = len(stage.used())
        headers = {"authorization": f"Bearer {stage.secret}"}
        async with stage.http.post(stage.url + path, json={**body, "stream": True}, headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    break
            with stage.db.reading() as session:
                assert len(stage.access.list_usage(session, stage.project_id)[0]) == before + 1


async def test_a_record_that_cannot_be_written_fails_the_answer(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(record: Any) -> None:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(stage.recorder, "record", full)
    status, body, _ = await stage.post("/v1/chat/completions", CHAT)
    assert (status, body["error"]["code"]) == (503, "unavailable")
    *_, last = parsed(await stage.events("/v1/chat/completions", CHAT))
    assert last["error"]["code"] == "unavailable"


async def test_until_disconnect_tells_leaving_from_cancelling() -> None:
    async def stays() -> Any:
        await asyncio.Event().wait()

    async def leaves() -> Any:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        async with UntilDisconnect(leaves):
            await asyncio.sleep(5)
    # The task goes on as if nothing had been cancelled.
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(ModelworksError):
        async with UntilDisconnect(stays):
            raise ModelworksError("as it was")

    async def cancelled_from_outside() -> None:
        async with UntilDisconnect(stays):
            await asyncio.sleep(5)

    outer = asyncio.create_task(cancelled_from_outside())
    await asyncio.sleep(0.01)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
