"""Responses through the official client, which checks the order of events, and over the bare wire."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from openai import BadRequestError, NotFoundError
from tests.kernel.gateway.conftest import Stage, chunk, usage
from tests.kernel.gateway.rooms import openai_client

from modelworks.contract.errors import ContextLengthExceeded, InvalidRequest, Unavailable

SENT = {"messages": [{"role": "user", "content": "Hi"}]}


def upstream_events(*deltas: dict[str, Any], finish: str = "stop", prompt: int = 7, completion: int = 3) -> list[bytes]:
    """A chat as another server streams it."""
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "upstream/name"}
    bodies: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    bodies.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    total = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    bodies.append({**head, "choices": [], "usage": total})
    return [b"data: " + orjson.dumps(body) + b"\n\n" for body in bodies] + [b"data: [DONE]\n\n"]


def call_delta(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": arguments}
    call: dict[str, Any] = {"index": index, "function": function}
    if first:
        call |= {"id": first["id"], "type": "function"}
        function["name"] = first["name"]
    return {"tool_calls": [call]}


def events_of(blocks: list[str]) -> list[dict[str, Any]]:
    """The bodies of named events; each name is that of its body."""
    found = []
    for block in blocks:
        if block.startswith("event: "):
            name, _, data = block.partition("\n")
            found.append(orjson.loads(data.removeprefix("data: ")))
            assert found[-1]["type"] == name.removeprefix("event: ")
    return found


FUNCTION: Any = {
    "type": "function",
    "name": "weather",
    "description": "Looks outside.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


async def test_a_text_is_answered_and_kept(stage: Stage) -> None:
    answer = await stage.client.responses.create(model="tiny", input="Hi", metadata={"who": "me"}, temperature=0.5)
    assert answer.output_text == "Hello world"
    assert (answer.status, answer.model, answer.temperature, answer.metadata) == ("completed", "tiny", 0.5, {"who": "me"})
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (5, 2, 7)
    assert stage.replica.requests == [{**SENT, "temperature": 0.5}]
    kept = await stage.client.responses.retrieve(answer.id)
    assert kept.model_dump() == answer.model_dump()
    [record] = stage.used()
    assert (record.endpoint, record.model, record.status, record.streamed) == ("/v1/responses", "tiny", 200, False)
    assert (record.prompt_tokens, record.completion_tokens) == (5, 2)


async def test_what_is_not_stored_is_not_found(stage: Stage) -> None:
    answer = await stage.client.responses.create(model="tiny", input="Hi", store=False)
    assert answer.store is False
    with pytest.raises(NotFoundError) as caught:
        await stage.client.responses.retrieve(answer.id)
    assert caught.value.code == "response_not_found"
    with pytest.raises(NotFoundError):
        await stage.client.responses.create(model="tiny", input="And?", previous_response_id=answer.id)


async def test_a_streamed_response_is_the_one_that_is_kept(stage: Stage) -> None:
    async with stage.client.responses.stream(model="tiny", input="Hi") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    kept = await stage.client.responses.retrieve(final.id)
    assert kept.output_text == final.output_text == "Hello world"
    assert [item.id for item in kept.output] == [item.id for item in final.output]
    [record] = stage.used()
    assert (record.streamed, record.completion_tokens) == (True, 2)


async def test_ids_stay_and_numbers_rise_in_a_stream(stage: Stage) -> None:
    blocks = await stage.events("/v1/responses", {"model": "tiny", "input": "Hi"})
    assert blocks[-1] == "data: [DONE]"
    events = events_of(blocks)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    final = events[-1]["response"]
    assert {event["response"]["id"] for event in events if "response" in event} == {final["id"]}
    [item] = final["output"]
    assert {event["item_id"] for event in events if "item_id" in event} == {item["id"]}
    assert {event["item"]["id"] for event in events if "item" in event} == {item["id"]}
    # What was told at first is not changed by what came after.
    assert events[0]["response"]["output"] == []
    assert [event["item"]["status"] for event in events if "item" in event] == ["in_progress", "completed"]
    assert [event["part"]["text"] for event in events if "part" in event] == ["", "Hello world"]


async def test_a_response_goes_on_from_another(stage: Stage) -> None:
    first = await stage.client.responses.create(model="tiny", input="Hi", instructions="Be brief.")
    second = await stage.client.responses.create(model="tiny", input="And then?", previous_response_id=first.id)
    third = await stage.client.responses.create(
        model="tiny", input="And?", previous_response_id=second.id, instructions="Be loud."
    )
    assert third.previous_response_id == second.id
    # Instructions hold for one response.
    assert stage.replica.requests[2]["messages"] == [
        {"role": "system", "content": "Be loud."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello world"},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Hello world"},
        {"role": "user", "content": "And?"},
    ]
    await stage.client.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        await stage.client.responses.retrieve(first.id)
    # Half of a conversation would be answered as if it were the whole.
    with pytest.raises(BadRequestError) as caught:
        await stage.client.responses.create(model="tiny", input="Still?", previous_response_id=third.id)
    assert caught.value.param == "previous_response_id"
    assert len(stage.replica.requests) == 3


async def test_items_are_turns_of_the_chat(stage: Stage) -> None:
    await stage.client.responses.create(
        model="tiny",
        input=[
            {"role": "developer", "content": "Be exact."},
            {"role": "user", "content": [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": "I look."},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Ulm"}'},
            {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": 'say "x"'},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]},
        ],
    )
    sent = stage.replica.requests[0]["messages"]
    assert [turn["role"] for turn in sent] == ["developer", "user", "assistant", "tool", "tool"]
    assert sent[1]["content"] == "one\ntwo"
    assert sent[2]["content"] == "I look."
    assert sent[2]["reasoning_content"] == "hm"
    assert [call["id"] for call in sent[2]["tool_calls"]] == ["c1", "c2"]
    assert orjson.loads(sent[2]["tool_calls"][1]["function"]["arguments"]) == {"input": 'say "x"'}
    assert sent[3:] == [
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "tool", "content": "done", "tool_call_id": "c2"},
    ]


async def test_given_items_are_listed_by_page(stage: Stage) -> None:
    turns: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    answer = await stage.client.responses.create(model="tiny", input=turns)
    oldest = [item async for item in stage.client.responses.input_items.list(answer.id, order="asc", limit=2)]
    assert [item.content[0].text for item in oldest] == ["0", "1", "2", "3", "4"]
    newest = await stage.client.responses.input_items.list(answer.id, limit=2)
    assert [item.content[0].text for item in newest.data] == ["4", "3"]
    assert newest.has_more
    assert newest.data[-1].id == newest.last_id
    again = await stage.client.responses.create(model="tiny", input=[{"type": "item_reference", "id": oldest[3].id}])
    assert stage.replica.requests[1]["messages"] == [{"role": "user", "content": "3"}]
    assert again.output_text == "Hello world"


async def test_calls_are_streamed_as_the_client_wants_them(stage: Stage) -> None:
    stage.upstream.pieces = [
        *upstream_events(
            {"role": "assistant", "content": "I look."},
            call_delta(0, "", id="call_a", name="weather"),
            call_delta(0, '{"city":'),
            call_delta(0, '"Ulm"}'),
            call_delta(1, '{"city":"Bonn"}', id="call_b", name="weather"),
            finish="tool_calls",
        )
    ]
    async with stage.client.responses.stream(model="remote/gpt", input="Weather?", tools=[FUNCTION]) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    text, first, second = final.output
    assert text.type == "message"
    assert (first.type, second.type) == ("function_call", "function_call")
    assert (first.call_id, first.name, first.arguments, first.status) == ("call_a", "weather", '{"city":"Ulm"}', "completed")
    assert (second.call_id, second.arguments) == ("call_b", '{"city":"Bonn"}')
    assert first.id != first.call_id
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(event.delta for event in deltas if event.item_id == first.id) == first.arguments
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == [first.arguments, second.arguments]
    _, sent, _ = stage.upstream.requests[0]
    assert sent["tools"] == [{"type": "function", "function": {key: value for key, value in FUNCTION.items() if key != "type"}}]
    assert "store" not in sent
    assert final.usage is not None
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 3)
    # The outputs of the calls go on from it.
    stage.upstream.pieces = upstream_events({"content": "Wet."})
    outputs: Any = [
        {"type": "function_call_output", "call_id": "call_a", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_b", "output": "rain"},
    ]
    answer = await stage.client.responses.create(model="remote/gpt", input=outputs, previous_response_id=final.id)
    assert answer.output_text == "Wet."
    assert [turn["role"] for turn in stage.upstream.requests[1][1]["messages"]] == ["user", "assistant", "tool", "tool"]


async def test_a_replica_of_ours_calls_too(stage: Stage) -> None:
    stage.replica.answer(
        chunk(usage=usage(5, 0)),
        chunk(reasoning="hm", token_ids=[1]),
        chunk(tool_calls=[{"index": 0, "name": "weather", "arguments": ""}], token_ids=[2]),
        chunk(tool_calls=[{"index": 0, "arguments": '{"city":"Ulm"}'}], token_ids=[3]),
        chunk(finish_reason="tool_calls", usage=usage(5, 3, reasoning=1)),
    )
    choice: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    answer = await stage.client.responses.create(
        model="tiny", input="Weather?", tools=[FUNCTION], tool_choice=choice, parallel_tool_calls=False
    )
    thought, call = answer.output
    assert (thought.type, call.type) == ("reasoning", "function_call")
    assert (call.name, call.arguments) == ("weather", '{"city":"Ulm"}')
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens == 1
    [sent] = stage.replica.requests
    assert (sent["tool_choice"], sent["callable_tools"], sent["parallel_tool_calls"]) == ("required", ["weather"], False)


async def test_a_fault_in_a_schema_is_named_where_the_caller_wrote_it(stage: Stage) -> None:
    for theirs, ours in (
        ("tools.0.function.parameters.properties.city.pattern", "tools.0.parameters.properties.city.pattern"),
        ("response_format.json_schema.schema.properties.a", "text.format.schema.properties.a"),
    ):
        stage.replica.refusal = (400, InvalidRequest("It cannot be.", param=theirs).to_wire())
        with pytest.raises(BadRequestError) as caught:
            await stage.client.responses.create(model="tiny", input="Hi", tools=[FUNCTION])
        assert caught.value.param == ours
    stage.replica.refusal = (400, InvalidRequest("No.", param="tools.0.function.parameters.properties.city").to_wire())
    tool = {"name": "weather", "input_schema": {"type": "object"}}
    asked = {"model": "tiny", "max_tokens": 9, "messages": SENT["messages"], "tools": [tool]}
    _, body, _ = await stage.post("/v1/messages", asked)
    assert body["error"]["param"] == "tools.0.input_schema.properties.city"


async def test_a_custom_tool_gets_plain_text(stage: Stage) -> None:
    stage.upstream.pieces = upstream_events(
        call_delta(0, '{"input": "say \\"', id="call_a", name="run"), call_delta(0, 'x\\""}'), finish="tool_calls"
    )
    tool: Any = {"type": "custom", "name": "run", "description": "Runs it."}
    answer = await stage.client.responses.create(
        model="remote/gpt", input="Run.", tools=[tool], tool_choice={"type": "custom", "name": "run"}
    )
    [item] = answer.output
    assert item.type == "custom_tool_call"
    assert (item.name, item.input, item.call_id) == ("run", 'say "x"', "call_a")
    _, sent, _ = stage.upstream.requests[0]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "run"}}
    assert sent["tools"][0]["function"]["parameters"]["required"] == ["input"]


async def test_thoughts_stand_apart_from_the_text(stage: Stage) -> None:
    stage.upstream.pieces = upstream_events(
        {"reasoning_content": "hm"}, {"reasoning_content": ", so"}, {"content": "Yes"}, {"content": "."}
    )
    events = events_of(await stage.events("/v1/responses", {"model": "remote/gpt", "input": "?"}))
    thought, text = events[-1]["response"]["output"]
    assert (thought["type"], thought["content"]) == ("reasoning", [{"type": "reasoning_text", "text": "hm, so"}])
    assert text["content"][0]["text"] == "Yes."
    kinds = [event["type"] for event in events]
    assert kinds.index("response.reasoning_text.done") < kinds.index("response.output_text.delta")


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_that_was_cut_short_is_incomplete(stage: Stage, finish: str, reason: str) -> None:
    stage.replica.answer(chunk(usage=usage(5, 0)), chunk("Hel", finish_reason=finish, usage=usage(5, 1)))
    events = events_of(await stage.events("/v1/responses", {"model": "tiny", "input": "Hi", "max_output_tokens": 1}))
    assert events[-1]["type"] == "response.incomplete"
    final = events[-1]["response"]
    assert (final["status"], final["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert final["output"][0]["status"] == "incomplete"
    assert stage.replica.requests[0]["max_tokens"] == 1
    answer = await stage.client.responses.retrieve(final["id"])
    assert answer.incomplete_details is not None
    # It is there to be gone on from.
    await stage.client.responses.create(model="tiny", input="on", previous_response_id=answer.id)


async def test_an_empty_answer_is_an_empty_text(stage: Stage) -> None:
    stage.replica.answer(chunk(usage=usage(5, 0)), chunk(finish_reason="stop", usage=usage(5, 0)))
    answer = await stage.client.responses.create(model="tiny", input="Hi")
    assert answer.output_text == ""
    [item] = answer.output
    assert item.type == "message"


async def test_a_failure_in_the_middle_is_the_last_event(stage: Stage) -> None:
    stage.replica.answer(
        chunk(usage=usage(5, 0)), chunk("Hel"), {"error": Unavailable("Out of blocks.", hint="Wait.").to_wire()}
    )
    blocks = await stage.events("/v1/responses", {"model": "tiny", "input": "Hi"})
    events = events_of(blocks)
    assert events[-1]["type"] == "response.failed"
    failed = events[-1]["response"]
    told = {"code": "server_error", "message": "Out of blocks. Wait.", "type": "server_error", "param": None}
    assert (failed["status"], failed["error"]) == ("failed", told)
    assert failed["output"][0]["content"][0]["text"] == "Hel"
    assert blocks[-1] == "data: [DONE]"
    [record] = stage.used()
    assert (record.status, record.error_code, record.completion_tokens) == (503, "unavailable", 1)
    kept = await stage.client.responses.retrieve(failed["id"])
    assert kept.status == "failed"
    with pytest.raises(BadRequestError) as caught:
        await stage.client.responses.create(model="tiny", input="on", previous_response_id=kept.id)
    assert caught.value.code == "response_not_over"
    # The client that watches the order takes the failure for one of the events, too.
    async with stage.client.responses.stream(model="tiny", input="Hi") as stream:
        assert [event.type async for event in stream][-1] == "response.failed"


async def test_a_failure_before_the_first_event_is_a_status(stage: Stage) -> None:
    stage.replica.refusal = (400, ContextLengthExceeded("Too long.", param="messages").to_wire())
    for stream in (True, False):
        with pytest.raises(BadRequestError) as caught:
            await stage.client.responses.create(model="tiny", input="Hi", stream=stream)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


async def test_truncation_leaves_the_oldest_turns_out(stage: Stage) -> None:
    async def lines(request: dict[str, Any]) -> Any:
        if len(request["messages"]) > 3:
            yield {"error": ContextLengthExceeded("Too long.", param="messages").to_wire()}
            return
        yield chunk(usage=usage(5, 0))
        yield chunk("Hello", finish_reason="stop", usage=usage(5, 1))

    stage.replica.lines = lines
    turns: Any = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "3"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5"},
    ]
    fields: Any = {"model": "tiny", "input": turns, "instructions": "Be brief."}
    with pytest.raises(BadRequestError):
        await stage.client.responses.create(**fields)
    answer = await stage.client.responses.create(**fields, truncation="auto")
    assert answer.output_text == "Hello"
    # One turn went, then two more; the output of a call goes with the call.
    assert [turn["content"] for turn in stage.replica.requests[-1]["messages"]] == ["Be brief.", "4", "5"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"role": "user", "content": 3}]}, "input.0.content"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input.0.role"),
        ({"input": [{"type": "web_search_call", "id": "a"}]}, "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input.0.call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "item_reference", "id": "msg_0"}]}, "input.0.id"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tools": [FUNCTION, {"type": "file_search", "vector_store_ids": ["a"]}]}, "tools.1.vector_store_ids.0"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools.0.vector_store_ids"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["a"], "max_num_results": 51}]}, "tools.0.max_num_results"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["a"], "filters": {"type": "like"}}]}, "tools.0.filters.type"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["a"]}] * 2}, "tools.1"),
        ({"tools": [{**FUNCTION, "name": "file_search"}, {"type": "file_search", "vector_store_ids": ["a"]}]}, "tools.0.name"),
        ({"input": [{"type": "file_search_call", "queries": "a"}]}, "input.0.queries"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{"type": "custom", "name": "a", "format": {"type": "grammar"}}]}, "tools.0.format"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id"),
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"conversation": "conv_0"}, "conversation"),
        ({"conversation": 3}, "conversation"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"include": ["everything"]}, "include.0"),
        ({"temperature": 9}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"truncation": "some"}, "truncation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(stage: Stage, fields: dict[str, Any], param: str) -> None:
    status, body, _ = await stage.post("/v1/responses", {"model": "tiny", "input": "Hi", **fields})
    assert status in (400, 404), body
    assert body["error"]["param"] == param
    assert stage.replica.requests == []
    # Refused as well where it would be streamed, and with its record.
    status, body, _ = await stage.post("/v1/responses", {"model": "tiny", "input": "Hi", "stream": True, **fields})
    assert (status in (400, 404), body["error"]["param"]) == (True, param)
    assert [record.status for record in stage.used()] == [status, status]


async def test_log_probabilities_come_where_they_are_included(stage: Stage) -> None:
    entry = {"token_id": 1, "text": "A", "bytes": [65], "logprob": -0.5, "top": []}
    stage.replica.answer(chunk(usage=usage(5, 0)), chunk("A", logprobs=[entry], finish_reason="stop", usage=usage(5, 1)))
    answer = await stage.client.responses.create(model="tiny", input="Hi", include=["message.output_text.logprobs"])
    [item] = answer.output
    assert item.type == "message"
    [part] = item.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert (part.logprobs[0].token, part.logprobs[0].logprob) == ("A", -0.5)


async def test_tokens_are_counted_without_an_answer(stage: Stage) -> None:
    stage.replica.answer(chunk(usage=usage(11, 0)), chunk("Hi"), chunk(finish_reason="length", usage=usage(11, 0)))
    first = await stage.client.responses.create(model="tiny", input="Hi")
    counted = await stage.client.responses.input_tokens.count(
        model="tiny", input="And?", previous_response_id=first.id, instructions="Be brief."
    )
    assert counted.input_tokens == 11
    asked = stage.replica.requests[1]
    assert (asked["max_tokens"], asked["echo"]) == (0, True)
    assert [turn["role"] for turn in asked["messages"]] == ["system", "user", "assistant", "user"]
    record = stage.used()[1]
    assert (record.endpoint, record.status, record.prompt_tokens) == ("/v1/responses/input_tokens", 200, 0)
    # A server elsewhere counts while it answers with one token.
    stage.upstream.pieces = upstream_events({"content": "A"}, finish="length", prompt=21, completion=1)
    counted = await stage.client.responses.input_tokens.count(model="remote/gpt", input="Hi")
    assert counted.input_tokens == 21
    assert stage.upstream.requests[0][1]["max_tokens"] == 1
    assert stage.used()[2].prompt_tokens == 21


async def test_another_project_sees_nothing_of_a_response(stage: Stage) -> None:
    answer = await stage.client.responses.create(model="tiny", input="Hi")
    with stage.db.transaction() as session:
        project_id = stage.access.create_project(session, "other").id
        secret = stage.access.create_key(session, project_id, "other", scopes=["inference"])[1]
    stage.deploy("theirs", project_id=project_id)
    async with openai_client(stage.url, secret) as other:
        with pytest.raises(NotFoundError):
            await other.responses.retrieve(answer.id)
        with pytest.raises(NotFoundError):
            await other.responses.delete(answer.id)
        with pytest.raises(NotFoundError):
            await other.responses.input_items.list(answer.id)
        with pytest.raises(NotFoundError):
            await other.responses.create(model="theirs", input="Hi", previous_response_id=answer.id)
        item: Any = {"type": "item_reference", "id": answer.output[0].id}
        with pytest.raises(NotFoundError):
            await other.responses.create(model="theirs", input=[item])
    assert (await stage.client.responses.retrieve(answer.id)).id == answer.id


async def test_a_response_expires(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await stage.client.responses.create(model="tiny", input="Hi")
    assert stage.responses.expire() == 0
    later = stage.responses.clock.now() + timedelta(days=31)
    monkeypatch.setattr(stage.responses.clock, "now", lambda: later, raising=False)
    with pytest.raises(NotFoundError):
        await stage.client.responses.retrieve(answer.id)
    assert stage.responses.expire() == 1
