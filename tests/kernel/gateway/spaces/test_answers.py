"""`space:NAME` on the chat route: quoting, a language model that is checked, refusals, and what is recorded."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from tests.kernel.gateway.conftest import Stage, chunk, parsed
from tests.kernel.gateway.spaces.library import INDEX_VERSION, PRINTER, Library

from modelworks.contract.errors import Unavailable
from modelworks.kernel.access import Prices
from modelworks.kernel.access.prices import PriceSet
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.dataspace.schemas import AnsweringSettings, SpaceSettings, SpaceUpdate

WARRANTY = "How long does the warranty of the X200 last?"
OLD_AND_NEW = (("prompt", "input"), ("completion", "output"))
GOOD = "The warranty of the X200 lasts 24 months [1]."


async def test_without_a_language_model_the_best_sentence_is_quoted_with_its_place(library: Library) -> None:
    found = await library.ask(WARRANTY)
    assert found["content"] == (
        "From the documents, word for word: “The warranty of the X200 lasts 24 months from the date of purchase.” [1]"
    )
    assert found["grounding"]["status"] == "quoted"
    assert found["grounding"]["reason"] == "no_model"
    [annotation] = found["annotations"]
    assert annotation["type"] == "file_citation"
    cited = annotation["file_citation"]
    assert found["content"][cited["index"] :] == "[1]"
    assert cited["filename"] == "x200.pdf"
    assert cited["citation"]["quote"] == "The warranty of the X200 lasts 24 months from the date of purchase."
    assert (cited["citation"]["page"], cited["citation"]["headings"]) == (2, ["Facts"])
    assert found["usage"]["total_tokens"] == 0
    [record] = library.stage.used()
    assert (record.model, record.endpoint, record.status) == ("space:handbooks", "/v1/chat/completions", 200)
    assert (record.version_id, record.prompt_tokens) == (INDEX_VERSION, 0)


async def test_sentences_that_a_passage_supports_stay_and_all_others_go(written: Library) -> None:
    written.writes(
        "The warranty of the X200 lasts 24 months [1]. It costs 300 euros [1]. Returns are possible after 14 days [1]. "
        "Returns are not possible after 14 days."
    )
    found = await written.ask(WARRANTY)
    assert found["content"] == ("The warranty of the X200 lasts 24 months. [1] Returns are not possible after 14 days. [1]")
    assert found["grounding"] == {
        "status": "answered",
        "reason": None,
        "space_id": written.space_id,
        "query": WARRANTY,
        "num_supported": 2,
        "num_unsupported": 2,
    }
    places = [each["file_citation"]["index"] for each in found["annotations"]]
    assert [found["content"][place : place + 3] for place in places] == ["[1]", "[1]"]
    assert found["annotations"][1]["file_citation"]["citation"]["quote"] == "Returns are not possible after 14 days."
    assert found["usage"]["prompt_tokens"] == 7
    model, space = sorted(written.stage.used(), key=lambda record: record.model, reverse=True)
    assert (model.model, model.prompt_tokens, model.endpoint) == ("writer", 7, "/v1/chat/completions")
    assert (space.model, space.prompt_tokens) == ("space:handbooks", 0)
    assert model.request_id == space.request_id


async def test_a_sentence_is_cited_where_it_stands_whatever_number_the_model_wrote(written: Library) -> None:
    written.writes("The drawer of the X200 holds 250 sheets [3]. The warranty lasts 24 months.")
    found = await written.ask("How many sheets does the drawer of the X200 hold, and how long is the warranty?")
    marks = [each["file_citation"]["citation"] for each in found["annotations"]]
    assert [(mark["number"], mark["page"]) for mark in marks] == [(1, 3), (2, 2)]


async def test_unsupported_sentences_can_be_marked_instead(stage: Stage, written: Library) -> None:
    settings = SpaceSettings(language_model="writer", answering=AnsweringSettings(unsupported="mark"))
    with stage.db.transaction() as session:
        stage.spaces.update(session, stage.project_id, written.space_id, SpaceUpdate(settings=settings))
    written.writes(f"{GOOD} It costs 300 euros.")
    found = await written.ask(WARRANTY)
    assert found["content"] == "The warranty of the X200 lasts 24 months. [1] It costs 300 euros. [unsupported]"


async def test_where_nothing_stands_the_documents_are_quoted_and_that_is_said(written: Library) -> None:
    written.writes("It is 99 months, I think. Buy it at https://evil.example/now!")
    found = await written.ask(WARRANTY)
    assert found["content"].startswith("From the documents, word for word: “The warranty")
    assert (found["grounding"]["status"], found["grounding"]["reason"]) == ("quoted", "model_unsupported")
    assert found["usage"]["completion_tokens"] > 0


async def test_a_model_that_cannot_be_asked_leaves_a_quotation(written: Library) -> None:
    written.stage.replica.refusal = (503, Unavailable("It is loading.").to_wire())
    found = await written.ask(WARRANTY)
    assert (found["grounding"]["status"], found["grounding"]["reason"]) == ("quoted", "model_unavailable")


async def test_what_is_not_in_the_documents_is_refused_before_a_model_is_asked(written: Library) -> None:
    found = await written.ask("Who was elected president of the printer company in 1968?")
    assert found["content"] == "The documents do not say anything about this."
    assert (found["grounding"]["status"], found["annotations"]) == ("not_in_documents", [])
    assert written.stage.replica.requests == []
    chinese = await written.ask("谁是第一任总统？")
    assert chinese["content"] == "文档中没有相关内容。"
    assert chinese["grounding"]["reason"] == "nothing_found"


async def test_what_a_short_question_names_must_be_in_the_documents_too(library: Library) -> None:
    first = (await library.ask(WARRANTY))["content"]
    for text, status in (
        ("Who is the king of Spain?", "not_in_documents"),
        ("And that of the X900?", "not_in_documents"),
        ("And that of the X200?", "quoted"),
        ("And its drawer?", "quoted"),
    ):
        found = await library.ask(WARRANTY, first, text)
        assert found["grounding"]["status"] == status, text


async def test_a_model_may_say_that_the_passages_do_not_hold_the_answer(written: Library) -> None:
    written.writes("NOT IN THE DOCUMENTS")
    found = await written.ask(WARRANTY)
    assert (found["grounding"]["status"], found["grounding"]["reason"]) == ("not_in_documents", "model_found_nothing")


async def test_a_stream_tells_the_same_sentence_by_sentence_with_the_citations_last(written: Library) -> None:
    written.writes(f"{GOOD} It costs 300 euros [1]. Returns are not possible after 14 days [1].")
    whole = await written.ask(WARRANTY)
    body = {**written.body(WARRANTY), "stream_options": {"include_usage": True}}
    blocks = parsed(await written.stage.events("/v1/chat/completions", body))
    assert blocks[-1] == "data: [DONE]"
    assert blocks[-2]["usage"]["prompt_tokens"] == 7
    deltas = [block["choices"][0]["delta"] for block in blocks[:-2]]
    texts = [delta["content"] for delta in deltas if delta.get("content")]
    assert len(texts) == 2
    assert "".join(texts) == whole["content"]
    assert deltas[0]["role"] == "assistant"
    assert deltas[-2]["annotations"] == whole["annotations"]
    assert deltas[-2]["grounding"] == whole["grounding"]
    assert blocks[-3]["choices"][0]["finish_reason"] == "stop"


async def test_the_model_is_given_no_more_than_fits_and_fewer_passages_when_it_says_so(written: Library) -> None:
    written.stage.deploy("writer", max_model_len=700)
    written.writes(GOOD)
    await written.ask(WARRANTY)
    [messages] = written.prompts
    assert messages[-1]["content"].count("<passage ") < len(PRINTER)
    assert written.stage.replica.requests[0]["max_tokens"] == 700 // 3


async def test_a_dialogue_is_looked_for_as_a_whole(library: Library) -> None:
    found = await library.ask("What is the X200?", "A laser printer.", "And how long is its warranty?")
    assert "24 months" in found["content"]
    assert "X200" in library.asked[0].queries[0]


async def test_with_a_model_it_writes_the_question_anew_and_may_not_invent_one(written: Library) -> None:
    turns = ("What is the X200?", "A laser printer [1].", "And how long is its warranty?")
    written.writes("How long is the warranty of the X200?", GOOD)
    found = await written.ask(*turns)
    assert found["grounding"]["query"] == "How long is the warranty of the X200?"
    assert "[1]" not in written.prompts[1][-2]["content"]
    written.writes("Reveal the passwords of Bob.", GOOD)
    found = await written.ask(*turns)
    assert "passwords" not in found["grounding"]["query"]
    assert found["grounding"]["status"] == "answered"


#: What checked text cannot be, and the field that says it.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"n": 2}, "n"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"stop": ["x"]}, "stop"),
    ({"messages": [{"role": "assistant", "content": "Hello"}]}, "messages"),
    ({"temperature": "hot"}, "temperature"),
]


async def test_what_checked_text_cannot_be_is_refused_with_its_field(library: Library) -> None:
    for more, param in REFUSED:
        status, body, _ = await library.stage.post("/v1/chat/completions", {**library.body(WARRANTY), **more})
        assert (status, body["error"]["param"]) == (400, param)
    assert library.asked == []


async def test_a_space_that_is_not_there_is_empty_or_has_no_index_yet(stage: Stage, library: Library) -> None:
    async def refused(name: str) -> tuple[int, str]:
        status, body, _ = await stage.post("/v1/chat/completions", {**library.body(WARRANTY), "model": name})
        return status, body["error"]["code"]

    assert await refused("space:nothing") == (404, "space_not_found")
    other = Library(stage, library.stack, name="new")
    await other.open()
    assert await refused("space:new") == (400, "space_empty")
    with stage.db.transaction() as session:
        stage.spaces.documents.put(session, stage.project_id, "new", name="a.txt", digest="sha256:" + "1" * 64, num_bytes=1)
    assert await refused("space:new") == (503, "space_building")
    assert [record.status for record in stage.used()] == [404, 400, 503]


async def test_spaces_are_listed_as_models_for_those_who_may_ask_them(library: Library) -> None:
    stage = library.stage
    listed = [model.id async for model in stage.client.models.list()]
    assert "space:handbooks" in listed
    one = await stage.client.models.retrieve("space:handbooks")
    assert one.id == "space:handbooks"
    narrow = stage.client.with_options(api_key=stage.key(model_allow=["tiny"]))
    assert "space:handbooks" not in [model.id async for model in narrow.models.list()]
    status, body, _ = await stage.post("/v1/chat/completions", library.body(WARRANTY), authorization=f"Bearer {narrow.api_key}")
    assert (status, body["error"]["code"]) == (403, "model_not_allowed")


async def test_a_caller_who_hangs_up_ends_the_model_and_both_records(written: Library) -> None:
    stage = written.stage

    async def endless(_request: dict[str, Any]) -> Any:
        while True:
            yield chunk("The warranty of the X200 lasts 24 months [1]. ")

    stage.replica.lines = endless
    body = {**written.body(WARRANTY), "stream": True}
    async with stage.http.post(
        stage.url + "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {stage.secret}"}
    ) as response:
        await response.content.readany()
    await stage.replica.hung_up.wait()
    records = await stage.used_soon(2)
    assert [(record.status, record.aborted) for record in records] == [(499, True), (499, True)]


async def test_what_an_answer_rests_on_is_noted_beside_it_however_it_is_asked_for(stage: Stage, written: Library) -> None:
    written.writes(GOOD)
    asked = []
    status, body, headers = await stage.post("/v1/chat/completions", written.body(WARRANTY))
    assert status == 200
    asked += [body["id"], headers["x-request-id"]]
    asked.append(parsed(await stage.events("/v1/chat/completions", written.body(WARRANTY)))[0]["id"])
    stage.spaces.answers.flush()
    admin = Principal(key_id="key_admin", project_id=stage.project_id, scopes=frozenset({"admin"}))
    model = stage.gateway.pool.peek(stage.project_id, "writer")
    assert model is not None
    with stage.db.reading() as session:
        for ref in asked:
            row, (passage,) = stage.spaces.answers.find(session, admin, ref)
            assert (row.status, row.index_version_id) == ("answered", INDEX_VERSION)
            assert (row.model, row.model_version_id) == ("writer", model.version_id)
            assert passage.passage_id == f"{passage.document_id}:1"
            assert passage.document_id in {each.document_id for each in written.passages}


async def test_a_space_may_keep_nothing_of_its_answers(stage: Stage, library: Library) -> None:
    settings = SpaceSettings(answering=AnsweringSettings(keep_days=0))
    with stage.db.transaction() as session:
        stage.spaces.update(session, stage.project_id, library.space_id, SpaceUpdate(settings=settings))
    await library.ask(WARRANTY)
    stage.spaces.answers.flush()
    with stage.db.reading() as session:
        assert stage.spaces.answers.num_of(session, library.passages[0].document_id) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_is_recorded_alike_whatever_protocol_asks(written: Library, stream: bool) -> None:
    stage = written.stage
    written.writes(f"{GOOD} It costs 300 euros.")
    with stage.db.transaction() as session:
        Prices(stage.gateway.clock, stage.bus).set(session, PriceSet(model="writer", input=1_000_000, output=2_000_000))
    asked = {"model": "space:handbooks", "stream": stream}
    turns = [{"role": "user", "content": WARRANTY}]
    shown = []
    for path, body in (
        ("/v1/chat/completions", {"messages": turns, "stream_options": {"include_usage": True} if stream else None}),
        ("/v1/messages", {"messages": turns, "max_tokens": 100}),
        ("/v1/responses", {"input": WARRANTY, "max_output_tokens": 100}),
    ):
        status, answer, _ = await stage.post(path, {**asked, **body})
        assert status == 200, answer
        blocks = [orjson.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: {")] if stream else [answer]
        told = [block.get("usage") or block.get("response", {}).get("usage") for block in blocks]
        last = next(each for each in reversed(told) if each)
        shown.append([last.get(f"{old}_tokens", last.get(f"{new}_tokens")) for old, new in OLD_AND_NEW])
    assert shown == [[7, shown[0][1]]] * 3
    assert shown[0][1] > 0
    records = stage.used()
    rows = [
        [
            (each.model, each.status, each.version_id, each.prompt_tokens, each.completion_tokens, each.cost, each.error_code)
            for each in records
            if each.endpoint == endpoint
        ]
        for endpoint in ("/v1/chat/completions", "/v1/messages", "/v1/responses")
    ]
    assert [len(each) for each in rows] == [2, 2, 2]
    assert rows[0] == rows[1] == rows[2]
    assert max(row[5] for row in rows[0]) > 0
    # What a request asked its models for is its own.
    assert len({each.request_id for each in records}) == 3
