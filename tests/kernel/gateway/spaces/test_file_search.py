"""The tool `file_search` of `/v1/responses`, through the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import orjson
import pytest
from openai.types.responses import Response
from sqlalchemy import update
from tests.kernel.gateway.conftest import Stage, chunk, usage
from tests.kernel.gateway.spaces.library import Library

from modelworks.contract.passages import Passage
from modelworks.kernel.dataspace.schemas import SpaceCreate
from modelworks.kernel.dataspace.store import DocumentRow
from modelworks.kernel.gateway.responses.file_search import Citer
from modelworks.kernel.gateway.spaces.search import Found

WARRANTY = "How long does the warranty of the X200 last?"
KINDS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.file_search_call.in_progress",
    "response.file_search_call.searching",
    "response.file_search_call.completed",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
]


def speaks(stage: Stage, *rounds: list[str] | str) -> None:
    """A model that answers the n-th question with the n-th of these: queries of one search, or a text; then the last one."""
    waiting = [*rounds]

    async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
        said = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        yield chunk(usage=usage(5, 0))
        if isinstance(said, str):
            for at in range(0, len(said), 4):
                yield chunk(said[at : at + 4])
            yield chunk(finish_reason="stop", usage=usage(5, len(said)))
            return
        arguments = orjson.dumps({"queries": said}).decode()
        yield chunk(tool_calls=[{"index": 0, "name": "file_search", "arguments": ""}], token_ids=[1])
        yield chunk(tool_calls=[{"index": 0, "arguments": arguments}], token_ids=[2])
        yield chunk(finish_reason="tool_calls", usage=usage(5, 2))

    stage.replica.lines = lines


def tool(library: Library, **more: Any) -> Any:
    return {"type": "file_search", "vector_store_ids": [library.space_id], **more}


async def ask(library: Library, **more: Any) -> Response:
    fields: Any = {"model": "tiny", "input": WARRANTY, "tools": [tool(library)], **more}
    answer = await library.stage.client.responses.create(**fields)
    assert isinstance(answer, Response)
    return answer


async def test_the_model_searches_reads_what_is_found_and_cites_it(library: Library) -> None:
    stage = library.stage
    speaks(
        stage, ["warranty of the X200", "drawer"], "It lasts 24 months [1]. The drawer of the X200 holds 250 sheets of paper."
    )
    events = []
    fields: Any = {"model": "tiny", "input": WARRANTY, "tools": [tool(library, max_num_results=2)]}
    async with stage.client.responses.stream(**fields, include=["file_search_call.results"]) as stream:
        async for event in stream:
            events.append(event)
        final = await stream.get_final_response()
    assert [event.type for event in events][: len(KINDS)] == KINDS
    added = [at for at, event in enumerate(events) if event.type == "response.output_text.annotation.added"]
    # The mark is told where it stands; the sentence without one when the text is over.
    last_delta = max(at for at, event in enumerate(events) if event.type == "response.output_text.delta")
    assert added[0] < last_delta < added[1] < [event.type for event in events].index("response.output_text.done")
    search, message = final.output
    assert search.type == "file_search_call"
    assert (search.status, search.queries) == ("completed", ["warranty of the X200", "drawer"])
    assert search.results is not None
    assert [(each.filename, each.text) for each in search.results] == [
        ("x200.pdf", each.text) for each in (library.passages[1], library.passages[2])
    ]
    assert message.type == "message"
    [text] = message.content
    assert text.type == "output_text"
    assert [each.type for each in text.annotations] == ["file_citation", "file_citation"]
    assert text.text[text.annotations[0].index :].startswith("[1]")  # type: ignore[union-attr]
    assert text.annotations[1].index == len(text.text)  # type: ignore[union-attr]
    assert {each.filename for each in text.annotations} == {"x200.pdf"}  # type: ignore[union-attr]
    # What the model was given: the tool, then the numbered passages.
    first, second = stage.replica.requests
    assert [each["function"]["name"] for each in first["tools"]] == ["file_search"]
    read = second["messages"][-1]
    assert (read["role"], second["messages"][-2]["tool_calls"][0]["function"]["name"]) == ("tool", "file_search")
    assert '<passage number="1" document="x200.pdf" page="2"' in read["content"]
    assert library.asked[-1].queries == ["warranty of the X200", "drawer"]
    kept = await stage.client.responses.retrieve(final.id)
    assert kept.output[0].to_dict() == search.to_dict()
    assert kept.output[1].to_dict()["content"][0]["annotations"] == [each.to_dict() for each in text.annotations]  # type: ignore[index]
    assert final.tools[0].to_dict() == {
        **tool(library, max_num_results=2),
        "filters": None,
        "ranking_options": {"ranker": "auto", "score_threshold": 0.0},
    }
    assert final.usage is not None
    assert final.usage.input_tokens == 10


async def test_every_search_and_every_question_has_a_record(library: Library) -> None:
    speaks(library.stage, ["warranty"], "24 months.")
    answer = await ask(library)
    assert answer.output[0].to_dict()["results"] is None, "passages are shown where include asks for them"
    records = library.stage.used()
    assert sorted((each.model, each.endpoint, each.status, each.prompt_tokens) for each in records) == [
        ("space:handbooks", "/v1/responses", 200, 0),
        ("tiny", "/v1/responses", 200, 5),
        ("tiny", "/v1/responses", 200, 5),
    ]
    assert len({each.request_id for each in records}) == 1


async def test_it_is_called_when_the_choice_names_it_and_no_more_often_than_allowed(library: Library) -> None:
    stage = library.stage
    speaks(stage, ["warranty"])

    async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk(usage=usage(5, 0))
        if request.get("tools"):
            yield chunk(
                tool_calls=[{"index": 0, "name": "file_search", "arguments": '{"queries":["warranty"]}'}], token_ids=[1]
            )
            yield chunk(finish_reason="tool_calls", usage=usage(5, 1))
        else:
            yield chunk("Done.", finish_reason="stop", usage=usage(5, 1))

    stage.replica.lines = lines
    answer = await ask(library, tool_choice={"type": "file_search"}, max_tool_calls=2)
    assert [item.type for item in answer.output] == ["file_search_call", "file_search_call", "message"]
    assert stage.replica.requests[0]["callable_tools"] == ["file_search"]
    assert "tools" not in stage.replica.requests[-1]
    allowed: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "file_search"}]}
    function = {"type": "function", "name": "f", "parameters": {}, "strict": False}
    await ask(library, tool_choice=allowed, tools=[function, tool(library)], max_tool_calls=1)
    assert stage.replica.requests[3]["callable_tools"] == ["file_search"]
    assert [each["function"]["name"] for each in stage.replica.requests[3]["tools"]] == ["f", "file_search"]
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(library, tool_choice={"type": "file_search"}, tools=[function])
    assert refused.value.param == "tool_choice"
    counted = await stage.client.responses.input_tokens.count(model="tiny", input="Hi", tools=[tool(library)])
    assert counted.input_tokens > 0


async def test_filters_thresholds_and_rights_hold(library: Library) -> None:
    stage = library.stage
    library.add("m10.pdf", "The warranty of the M10 lasts 12 months.", attributes={"year": 2020})
    speaks(stage, ["warranty"], "12 months.")
    year: Any = {"type": "eq", "key": "year", "value": 2020}
    included: Any = {"include": ["file_search_call.results"]}
    only = await ask(library, tools=[tool(library, filters=year)], **included)
    assert [each["filename"] for each in only.output[0].to_dict()["results"]] == ["m10.pdf"]  # type: ignore[attr-defined]
    assert only.output[0].to_dict()["results"][0]["attributes"] == {"year": 2020}  # type: ignore[index]
    speaks(stage, ["warranty nowhere"], "12 months.")
    strict = await ask(library, tools=[tool(library, ranking_options={"score_threshold": 0.9})], **included)
    assert strict.output[0].to_dict()["results"] == []
    assert stage.replica.requests[-1]["messages"][-1]["content"] == "No passage was found."
    # Who may not ask the space, or read a document, finds nothing through the tool either.
    other = stage.client.with_options(api_key=stage.key(model_allow=["tiny"]))
    with pytest.raises(openai.PermissionDeniedError):
        await other.responses.create(model="tiny", input="Hi", tools=[tool(library)])
    with stage.db.transaction() as session:
        hidden = update(DocumentRow).where(DocumentRow.name == "m10.pdf")
        session.execute(hidden.values(access=["usr_somebody"], is_restricted=True))
    speaks(stage, ["warranty"], "24 months.")
    for background in (False, True):
        stage.steps.start()
        seen = await ask(library, background=background, **included)
        while seen.status in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
            seen = await stage.client.responses.retrieve(seen.id)
        await stage.steps.stop()
        speaks(stage, ["warranty"], "24 months.")
        found = seen.output[0].to_dict()["results"]
        assert {each["filename"] for each in found} == {"x200.pdf"}, background  # type: ignore[attr-defined]


async def test_a_search_that_fails_is_told_to_the_model(library: Library) -> None:
    stage = library.stage
    speaks(stage, [], "I do not know.")
    answer = await ask(library)
    assert (answer.output[0].to_dict()["status"], answer.output_text) == ("failed", "I do not know.")
    assert stage.replica.requests[-1]["messages"][-1]["content"].startswith("Error: queries")
    with stage.db.transaction() as session:
        deployment = stage.spaces.get(session, stage.project_id, library.space_id).deployment
    del stage.table[stage.project_id, deployment]
    stage.pool.publish(dict(stage.table))
    speaks(stage, ["warranty"], "I do not know.")
    answer = await ask(library)
    assert (answer.output[0].to_dict()["status"], answer.status) == ("failed", "completed")
    assert "not deployed" in stage.replica.requests[-1]["messages"][-1]["content"]
    with stage.db.transaction() as session:
        elsewhere = stage.access.create_project(session, "elsewhere").id
        foreign = stage.spaces.create(session, elsewhere, None, SpaceCreate(name="theirs")).id
    for fields, store_id in (({"background": True}, "vs_none"), ({}, "vs_none"), ({}, foreign), ({}, "theirs")):
        with pytest.raises(openai.NotFoundError) as refused:
            await ask(library, tools=[tool(library, vector_store_ids=[library.space_id, store_id])], **fields)
        assert (refused.value.code, refused.value.param) == ("vector_store_not_found", "tools.0.vector_store_ids.1")


async def test_a_caller_sends_the_search_back_and_the_model_reads_it_again(library: Library) -> None:
    stage = library.stage
    speaks(stage, ["warranty"], "24 months.")
    first = await ask(library, include=["file_search_call.results"], store=False)
    speaks(stage, "Yes.")
    turns: Any = [{"role": "user", "content": WARRANTY}, *[each.to_dict() for each in first.output]]
    await stage.client.responses.create(model="tiny", input=[*turns, {"role": "user", "content": "Sure?"}])
    roles = [turn["role"] for turn in stage.replica.requests[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert "24 months" in stage.replica.requests[-1]["messages"][2]["content"]
    # Without its passages there is nothing to say of it.
    turns[1] = {**turns[1], "results": None}
    await stage.client.responses.create(model="tiny", input=[*turns, {"role": "user", "content": "Sure?"}])
    assert [turn["role"] for turn in stage.replica.requests[-1]["messages"]] == ["user", "assistant", "user"]


async def test_several_stores_are_one_search(library: Library) -> None:
    stage = library.stage
    with stage.db.transaction() as session:
        empty = stage.spaces.create(session, stage.project_id, None, SpaceCreate(name="empty")).id
    speaks(stage, ["warranty"], "24 months.")
    both = tool(library, vector_store_ids=[empty, library.space_id, library.space_id])
    answer = await ask(library, tools=[both], include=["file_search_call.results"])
    assert [each["filename"] for each in answer.output[0].to_dict()["results"]] == ["x200.pdf"]  # type: ignore[attr-defined]
    assert sorted({each.model for each in stage.used()}) == ["space:empty", "space:handbooks", "tiny"]


def found(number: int, text: str) -> Found:
    passage = Passage(id=f"doc:{number}", document_id="doc", ordinal=number, text=text)
    document: Any = type("Document", (), {"file_id": f"file_{number}", "name": f"{number}.txt"})()
    return Found(passage, 1.0, document)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_marks_are_found_however_a_text_is_cut(size: int) -> None:
    citer = Citer()
    assert [citer.add(found(1, "住宿标准为每晚六百元。")), citer.add(found(2, "Ulm has rain.")), citer.add(found(2, "?"))] == [
        1,
        2,
        2,
    ]
    text = "标准为六百元【1】。It rains  [1, 2]. Not this [7], nor [x]. Ulm has rain. It is 99 degrees in Ulm."
    told = [each for at in range(0, len(text), size) for each in citer.take(text[at : at + size])]
    assert [(each["index"], each["file_id"]) for each in told] == [
        (text.index("【1】"), "file_1"),
        (text.index("[1, 2]"), "file_1"),
        (text.index("[1, 2]"), "file_2"),
    ]
    [last] = citer.end()
    assert text[: last["index"]].endswith("Ulm has rain.")
    # The next text begins anew; where it is no prose only its marks count.
    citer.is_prose = False
    assert [each["index"] for each in citer.take("[2]")] == [0]
    citer.take(" Ulm has rain.")
    assert citer.end() == []
