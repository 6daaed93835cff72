"""Responses in the background: polled, listened to, cancelled, and what a restart of the server makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError
from sqlalchemy import select
from tests.kernel.gateway.conftest import Stage, chunk, hello, usage
from tests.kernel.gateway.responses.test_responses import events_of

from modelworks.contract.errors import UpstreamFailed
from modelworks.kernel.gateway import ResponseSteps
from modelworks.kernel.gateway.store import ResponseRow

ASKED: Any = {"model": "tiny", "input": "Hi", "background": True}


@pytest.fixture
async def working(stage: Stage) -> AsyncIterator[Stage]:
    """The stage, with something that works in the background."""
    stage.steps.start()
    yield stage
    await stage.steps.stop()


async def polled(stage: Stage, response_id: str) -> Any:
    """The response once it is over."""
    for _ in range(400):
        found = await stage.client.responses.retrieve(response_id)
        if found.status not in ("queued", "in_progress"):
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("the response is not over")


def hold(stage: Stage) -> asyncio.Event:
    """Let the replica begin an answer and wait."""
    gate = asyncio.Event()

    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        first, *rest = hello()
        yield first
        yield chunk("Well. ")
        await gate.wait()
        for each in rest:
            yield each

    stage.replica.lines = lines
    return gate


async def test_a_response_is_answered_while_nobody_waits(working: Stage) -> None:
    gate = hold(working)
    promised = await working.client.responses.create(**ASKED, metadata={"a": "b"})
    assert (promised.status, promised.background, promised.output) == ("queued", True, [])
    await working.replica.asked.wait()
    assert (await working.client.responses.retrieve(promised.id)).status == "in_progress"
    with pytest.raises(BadRequestError) as caught:
        await working.client.responses.create(model="tiny", input="on", previous_response_id=promised.id)
    assert caught.value.code == "response_not_over"
    gate.set()
    found = await polled(working, promised.id)
    assert (found.status, found.output_text, found.metadata) == ("completed", "Well. Hello world", {"a": "b"})
    assert (found.created_at, found.usage.total_tokens) == (promised.created_at, 7)
    record = working.used()[-1]
    assert (record.endpoint, record.status, record.completion_tokens) == ("/v1/responses", 200, 2)
    listed = await working.client.responses.input_items.list(promised.id)
    assert len(listed.data) == 1
    after = await working.client.responses.create(model="tiny", input="on", previous_response_id=promised.id)
    assert after.status == "completed"


async def test_a_turn_in_the_background_is_added_to_its_conversation(working: Stage) -> None:
    made = await working.client.conversations.create(items=[{"role": "user", "content": "one"}])
    promised = await working.client.responses.create(**ASKED, conversation=made.id)
    await polled(working, promised.id)
    items = (await working.client.conversations.items.list(made.id, order="asc")).data
    assert [item.content[0].text for item in items if item.type == "message"] == ["one", "Hi", "Hello world"]


async def test_a_caller_may_leave_and_listen_again(working: Stage) -> None:
    gate = hold(working)
    stream = await working.client.responses.create(**ASKED, stream=True)
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    response_id = seen[0].response.id
    gate.set()
    later = await working.client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    rest = [event async for event in later]
    assert [event.sequence_number for event in [*seen, *rest]] == [*range(len(seen) + len(rest))]
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == "Well. Hello world"
    # Over, its events are still there for a while.
    _, raw, _ = await _get(working, f"/v1/responses/{response_id}?stream=true")
    assert len(events_of(raw.decode().split("\n\n"))) == len(seen) + len(rest)
    [record] = await working.used_soon(1)
    assert (record.status, record.streamed, record.aborted) == (200, True, False)


async def _get(stage: Stage, path: str) -> tuple[int, Any, Any]:
    async with stage.http.get(stage.url + path, headers={"authorization": f"Bearer {stage.secret}"}) as response:
        return response.status, await response.read(), response.headers


async def test_who_listens_to_what_is_taken_back_before_it_began_is_let_go(stage: Stage) -> None:
    listening = asyncio.create_task(stage.client.responses.create(**ASKED, stream=True))
    response_id = None
    while response_id is None:
        await asyncio.sleep(0.01)
        with stage.db.reading() as session:
            response_id = session.scalar(select(ResponseRow.id))
    assert (await stage.client.responses.cancel(response_id)).status == "cancelled"
    stage.steps.start()
    assert [event async for event in await asyncio.wait_for(listening, 10)] == []
    await stage.steps.stop()
    assert stage.replica.requests == []


async def test_what_was_not_streamed_has_no_events(working: Stage) -> None:
    promised = await working.client.responses.create(**ASKED)
    await polled(working, promised.id)
    with pytest.raises(BadRequestError) as caught:
        await working.client.responses.retrieve(promised.id, stream=True)
    assert caught.value.code == "not_streamed"


async def test_a_failure_is_kept_with_its_reason(working: Stage) -> None:
    working.replica.answer(chunk(usage=usage(5, 0)), {"error": UpstreamFailed("The engine broke.").to_wire()})
    promised = await working.client.responses.create(**ASKED)
    found = await polled(working, promised.id)
    assert (found.status, found.error.code, found.error.message) == ("failed", "server_error", "The engine broke.")
    assert [record.status for record in working.used()] == [502]


async def test_cancelling_stops_the_replica(working: Stage) -> None:
    hold(working)
    promised = await working.client.responses.create(**ASKED)
    await working.replica.asked.wait()
    cancelled = await working.client.responses.cancel(promised.id)
    assert (cancelled.id, cancelled.status) == (promised.id, "cancelled")
    await asyncio.wait_for(working.replica.hung_up.wait(), 5)
    assert (await working.client.responses.cancel(promised.id)).status == "cancelled"
    [record] = await working.used_soon(1)
    assert (record.status, record.aborted, record.completion_tokens) == (499, True, 1)
    assert (await working.client.responses.retrieve(promised.id)).status == "cancelled"


async def test_deleting_stops_it_too(working: Stage) -> None:
    hold(working)
    promised = await working.client.responses.create(**ASKED)
    await working.replica.asked.wait()
    await working.client.responses.delete(promised.id)
    await asyncio.wait_for(working.replica.hung_up.wait(), 5)
    with pytest.raises(NotFoundError):
        await working.client.responses.retrieve(promised.id)


async def test_what_cannot_be_done_is_refused_at_once(working: Stage) -> None:
    answer = await working.client.responses.create(model="tiny", input="Hi")
    with pytest.raises(BadRequestError) as caught:
        await working.client.responses.cancel(answer.id)
    assert caught.value.code == "not_in_background"
    for fields, param in (
        ({"store": False}, "store"),
        ({"model": "none"}, "model"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]}, "input.0.content.0"),
    ):
        status, body, _ = await working.post("/v1/responses", {**ASKED, **fields})
        assert (status in (400, 404), body["error"]["param"]) == (True, param)
    with working.db.reading() as session:
        assert [*session.scalars(select(ResponseRow.background))] == [False]


async def test_a_server_that_stops_leaves_the_work_to_the_next(stage: Stage) -> None:
    gate = hold(stage)
    stage.steps.start()
    promised = await stage.client.responses.create(**ASKED)
    streamed = await stage.client.responses.create(**ASKED, stream=True)
    first = await anext(aiter(streamed))
    assert first.type == "response.created"
    while len(stage.replica.requests) < 2:
        await asyncio.sleep(0.01)
    await stage.steps.stop()
    assert (await stage.client.responses.retrieve(promised.id)).status == "queued"
    # Its events were told: they cannot be told again in other words.
    failed = await stage.client.responses.retrieve(first.response.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "stopped" in failed.error.message
    gate.set()
    following = ResponseSteps(stage.responses, stage.gateway, stage.access.principal_of)
    following.start()
    assert (await polled(stage, promised.id)).output_text == "Well. Hello world"
    await following.stop()
    assert [(record.status, record.aborted) for record in stage.used()] == [(503, True), (503, True), (200, False)]


async def test_what_a_server_was_killed_over_is_failed(stage: Stage) -> None:
    promised = await stage.client.responses.create(**ASKED)
    with stage.db.transaction() as session:
        row = session.get(ResponseRow, promised.id)
        assert row is not None
        row.state = "in_progress"
    stage.steps.start()
    found = await polled(stage, promised.id)
    await stage.steps.stop()
    assert (found.status, found.error.code) == ("failed", "server_error")
    assert stage.replica.requests == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_key_that_was_revoked_meanwhile_asks_nothing(stage: Stage, stream: bool) -> None:
    with stage.db.transaction() as session:
        key, secret = stage.access.create_key(session, stage.project_id, "short", scopes=["inference"])
    client = stage.client.with_options(api_key=secret)
    asking = asyncio.create_task(client.responses.create(**ASKED, stream=stream))
    response_id = None
    while response_id is None:
        await asyncio.sleep(0.01)
        with stage.db.reading() as session:
            response_id = session.scalar(select(ResponseRow.id))
    with stage.db.transaction() as session:
        stage.access.revoke_key(session, stage.project_id, key.id)
    stage.steps.start()
    told = await asyncio.wait_for(asking, 10)
    if stream:
        assert [event.type async for event in told][-1] == "response.failed"
    found = await polled(stage, response_id)
    await stage.steps.stop()
    assert found.status == "failed"
    assert "revoked" in found.error.message
    assert stage.replica.requests == []
