"""`space:NAME` on /v1/responses, through the official client: annotations as events, and the kept response."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.spaces.library import Library

WARRANTY = "How long does the warranty of the X200 last?"


async def test_citations_are_told_after_the_text_and_kept_with_it(written: Library) -> None:
    client = written.stage.client
    written.writes("The warranty of the X200 lasts 24 months [1]. It costs 300 euros. The drawer holds 250 sheets of paper.")
    events: list[Any] = []
    async with client.responses.stream(model="space:handbooks", input=WARRANTY) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    kinds = [event.type for event in events]
    added = [event for event in events if event.type == "response.output_text.annotation.added"]
    assert [event.annotation_index for event in added] == [0, 1]
    assert kinds.index("response.output_text.annotation.added") > max(
        at for at, kind in enumerate(kinds) if kind == "response.output_text.delta"
    )
    text = final.output[0].content[0]
    assert text.text == "The warranty of the X200 lasts 24 months. [1] The drawer holds 250 sheets of paper. [2]"
    assert [each.type for each in text.annotations] == ["file_citation", "file_citation"]
    assert [text.text[each.index : each.index + 3] for each in text.annotations] == ["[1]", "[2]"]
    assert text.annotations[0].filename == "x200.pdf"
    kept = await client.responses.retrieve(final.id)
    assert kept.output[0].to_dict()["content"][0]["annotations"] == [each.to_dict() for each in text.annotations]
    assert kept.model_extra is not None
    assert kept.model_extra["grounding"]["status"] == "answered"
    assert final.usage is not None
    assert final.usage.input_tokens == 7


async def test_a_response_goes_on_from_the_one_before(library: Library) -> None:
    client = library.stage.client
    first = await client.responses.create(model="space:handbooks", input="What is the X200?")
    second = await client.responses.create(
        model="space:handbooks", input="And how long is its warranty?", previous_response_id=first.id
    )
    assert "24 months" in second.output_text
    assert "X200" in library.asked[-1].queries[0]


async def test_it_is_made_in_the_background_too_and_its_tokens_cannot_be_counted_before(stage: Stage, library: Library) -> None:
    promised = await stage.client.responses.create(model="space:handbooks", input=WARRANTY, background=True)
    assert promised.status == "queued"
    status, body, _ = await stage.post("/v1/responses/input_tokens", {"model": "space:handbooks", "input": "Hi"})
    assert (status, body["error"]["code"]) == (400, "unsupported_parameter")
    status, body, _ = await stage.post("/v1/responses", {"model": "space:no", "input": "Hi", "background": True})
    assert (status, body["error"]["code"]) == (404, "space_not_found")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_anthropic_client_can_ask_it_as_well(library: Library, stream: bool) -> None:
    body = {**library.body(WARRANTY), "max_tokens": 100, "stream": stream}
    _, found, _ = await library.stage.post("/v1/messages", body)
    assert "24 months" in (found.decode() if stream else found["content"][0]["text"])
