"""Conversations through the official client, alone and as what responses go on with."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, NotFoundError
from tests.kernel.gateway.conftest import Stage, chunk, usage
from tests.kernel.gateway.rooms import openai_client

from modelworks.contract.errors import Unavailable


async def texts(stage: Stage, conversation_id: str) -> list[str]:
    items = stage.client.conversations.items.list(conversation_id, order="asc", limit=2)
    return [part.text for item in [item async for item in items] if item.type == "message" for part in item.content]


async def test_a_conversation_is_made_changed_and_deleted(stage: Stage) -> None:
    made = await stage.client.conversations.create(
        metadata={"topic": "a"}, items=[{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    )
    assert made.id.startswith("conv_")
    assert (await stage.client.conversations.update(made.id, metadata={"topic": "b"})).metadata == {"topic": "b"}
    assert (await stage.client.conversations.retrieve(made.id)).metadata == {"topic": "b"}
    assert await texts(stage, made.id) == ["one", "two"]
    gone = await stage.client.conversations.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    with pytest.raises(NotFoundError) as caught:
        await stage.client.conversations.retrieve(made.id)
    assert caught.value.code == "conversation_not_found"
    assert (await stage.client.conversations.create()).metadata == {}


async def test_items_are_added_looked_at_and_taken_out(stage: Stage) -> None:
    made = await stage.client.conversations.create(items=[{"role": "user", "content": "0"}])
    items: Any = [{"role": "user", "content": str(number)} for number in range(1, 6)]
    added = await stage.client.conversations.items.create(made.id, items=items)
    assert [added.first_id, added.last_id] == [added.data[0].id, added.data[-1].id]
    assert await texts(stage, made.id) == ["0", "1", "2", "3", "4", "5"]
    newest = await stage.client.conversations.items.list(made.id, limit=2)
    assert [item.id for item in newest.data] == [added.data[4].id, added.data[3].id]
    wanted = await stage.client.conversations.items.retrieve(added.data[1].id, conversation_id=made.id)
    assert wanted.id == added.data[1].id
    assert (await stage.client.conversations.items.delete(wanted.id, conversation_id=made.id)).id == made.id
    assert await texts(stage, made.id) == ["0", "1", "3", "4", "5"]
    with pytest.raises(NotFoundError):
        await stage.client.conversations.items.retrieve(wanted.id, conversation_id=made.id)
    # The same item once more is another item.
    again: Any = [{"id": added.data[2].id, "role": "user", "content": "3"}]
    twice = await stage.client.conversations.items.create(made.id, items=again)
    assert twice.data[0].id != added.data[2].id
    with pytest.raises(BadRequestError) as caught:
        await stage.client.conversations.items.create(made.id, items=[{"type": "item_reference", "id": "msg_1"}])
    assert caught.value.param == "items"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_reads_its_conversation_and_adds_its_turn(stage: Stage, stream: bool) -> None:
    made = await stage.client.conversations.create(items=[{"role": "user", "content": "one"}])
    fields: Any = {"model": "tiny", "input": "two", "instructions": "Be brief.", "conversation": made.id, "store": False}
    if stream:
        async with stage.client.responses.stream(**fields) as events:
            answer: Any = await events.get_final_response()
    else:
        answer = await stage.client.responses.create(**fields)
    assert answer.conversation.id == made.id
    assert [turn["content"] for turn in stage.replica.requests[0]["messages"]] == ["Be brief.", "one", "two"]
    assert await texts(stage, made.id) == ["one", "two", "Hello world"]
    newest = await stage.client.conversations.items.list(made.id, limit=1)
    assert newest.data[0].id == answer.output[0].id
    await stage.client.responses.create(model="tiny", input="three", conversation={"id": made.id})
    assert [turn["content"] for turn in stage.replica.requests[1]["messages"]] == ["one", "two", "Hello world", "three"]


async def test_a_failed_response_adds_nothing(stage: Stage) -> None:
    made = await stage.client.conversations.create(items=[{"role": "user", "content": "one"}])
    stage.replica.answer(chunk(usage=usage(5, 0)), chunk("Hel"), {"error": Unavailable("Gone.").to_wire()})
    await stage.events("/v1/responses", {"model": "tiny", "input": "two", "conversation": made.id})
    assert await texts(stage, made.id) == ["one"]


async def test_another_project_sees_nothing_of_a_conversation(stage: Stage) -> None:
    made = await stage.client.conversations.create(items=[{"role": "user", "content": "one"}])
    [item] = (await stage.client.conversations.items.list(made.id)).data
    with stage.db.transaction() as session:
        project_id = stage.access.create_project(session, "other").id
        secret = stage.access.create_key(session, project_id, "other", scopes=["inference"])[1]
    stage.deploy("theirs", project_id=project_id)
    async with openai_client(stage.url, secret) as other:
        tries = [
            other.conversations.retrieve(made.id),
            other.conversations.update(made.id, metadata={}),
            other.conversations.delete(made.id),
            other.conversations.items.create(made.id, items=[{"role": "user", "content": "x"}]),
            other.conversations.items.retrieve(item.id, conversation_id=made.id),
            other.conversations.items.delete(item.id, conversation_id=made.id),
            other.responses.create(model="theirs", input="Hi", conversation=made.id),
            other.responses.create(model="theirs", input=[{"type": "item_reference", "id": item.id or ""}]),
        ]
        for each in tries:
            with pytest.raises(NotFoundError):
                await each
        with pytest.raises(NotFoundError):
            await other.conversations.items.list(made.id)
    assert await texts(stage, made.id) == ["one"]
