"""Moderation over the wire: a scripted model's answer becomes OpenAI's categories, with the scores that its tokens tell."""

from __future__ import annotations

import math
from typing import Any

import openai
import orjson
import pytest
from tests.kernel.gateway.conftest import Stage, chunk, usage

from modelworks.contract.errors import ContextLengthExceeded
from modelworks.kernel.gateway.moderation.judging import CATEGORIES, policy

Token = tuple[str, float, list[tuple[str, float]]]


def spoken(said: dict[str, bool], likely: dict[str, float] | None = None, *, joined: bool = False) -> list[dict[str, Any]]:
    """Chunks of an answer, a token for each key and one for each value; `joined` puts the value's first letter to the key."""
    tokens: list[Token] = []
    for number, name in enumerate(CATEGORIES):
        key = ("{" if number == 0 else ",") + orjson.dumps(name).decode() + ":"
        value, other = ("true", "false") if said.get(name) else ("false", "true")
        p = (likely or {}).get(name, 0.9 if said.get(name) else 0.1)
        # As of a model that would rather say something else, were it not held to the form.
        mine, theirs = math.log(p if said.get(name) else 1 - p) - 1, math.log(1 - p if said.get(name) else p) - 1
        if joined:
            tokens.append((key + value[0], mine, [(key + value[0], mine), (key + other[0], theirs), ("x", -1.0)]))
            tokens.append((value[1:], 0.0, []))
        else:
            tokens.append((key, 0.0, []))
            tokens.append((value, mine, [(value, mine), (other, theirs), (" perhaps", -1.0)]))
    tokens.append(("}", 0.0, []))

    def one(text: str, logprob: float, top: list[tuple[str, float]]) -> dict[str, Any]:
        more = [one(t, value, []) for t, value in top]
        return {"token_id": 1, "text": text, "bytes": list(text.encode()), "logprob": logprob, "top": more}

    chunks = [chunk(text, logprobs=[one(text, logprob, top)]) for text, logprob, top in tokens]
    return [chunk(usage=usage(50, 0)), *chunks, chunk(finish_reason="stop", usage=usage(50, len(tokens)))]


@pytest.mark.parametrize("joined", [False, True])
async def test_the_official_client_gets_categories_and_scores(stage: Stage, joined: bool) -> None:
    likely = {"hate": 0.75, "violence": 0.5, "illicit": 0.02}
    stage.replica.answer(*spoken({"hate": True, "violence": True}, likely, joined=joined))
    answer = await stage.client.moderations.create(model="tiny", input="You all")
    [result] = answer.results
    assert (answer.model, answer.id[:5], result.flagged) == ("tiny", "modr_", True)
    scores = result.category_scores.model_dump(by_alias=True)
    assert scores == pytest.approx({name: likely.get(name, 0.1) for name in CATEGORIES})
    flagged = {name for name, is_flagged in result.categories.model_dump(by_alias=True).items() if is_flagged}
    assert flagged == {name for name, score in scores.items() if score >= 0.5}
    assert "hate" in flagged
    assert {*result.category_applied_input_types.model_dump(by_alias=True)} == {*CATEGORIES}
    [asked] = stage.replica.requests
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert (asked["messages"][0]["content"], asked["messages"][1]["content"]) == (policy(), "You all")
    assert asked["answer_form"]["json_schema"]["required"] == [*CATEGORIES]
    assert (asked["temperature"], asked["logprobs"], asked["answer_form"]["strict"]) == (0, True, True)
    [record] = stage.used()
    assert (record.endpoint, record.model, record.status) == ("/v1/moderations", "tiny", 200)
    assert (record.prompt_tokens, record.completion_tokens) == (50, 27)


def test_every_category_of_the_official_client_is_judged() -> None:
    known = {field.alias or name for name, field in openai.types.moderation.Categories.model_fields.items()}
    assert known == {*CATEGORIES}
    assert all(f"- {name}: " in policy() for name in CATEGORIES)
    assert "{{" not in policy()
    assert "---" not in policy()


async def test_several_texts_are_judged_each_by_itself(stage: Stage) -> None:
    async def lines(request: dict[str, Any]) -> Any:
        for each in spoken({"sexual": request["messages"][1]["content"] == "b"}):
            yield each

    stage.replica.lines = lines
    answer = await stage.client.moderations.create(model="tiny", input=["a", "b", "c"])
    assert [result.flagged for result in answer.results] == [False, True, False]
    assert [record.endpoint for record in stage.used()] == ["/v1/moderations"] * 3
    assert answer.model_dump()["usage"] == {"prompt_tokens": 150, "completion_tokens": 81, "total_tokens": 231}


async def test_the_parts_of_one_input_are_one_text(stage: Stage) -> None:
    stage.replica.answer(*spoken({}))
    parts: Any = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    answer = await stage.client.moderations.create(model="tiny", input=parts)
    assert len(answer.results) == 1
    assert stage.replica.requests[0]["messages"][1]["content"] == "one\ntwo"


async def test_a_client_that_names_no_model_gets_what_is_deployed_under_openais_name(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await stage.client.moderations.create(input="a")
    assert caught.value.code == "model_not_found"
    assert "modelworks deploy MODEL --name omni-moderation-latest" in caught.value.message
    stage.deploy("omni-moderation-latest")
    stage.replica.answer(*spoken({}))
    answer = await stage.client.moderations.create(input="a")
    assert (answer.model, answer.results[0].flagged) == ("omni-moderation-latest", False)


async def test_a_server_elsewhere_that_tells_no_probabilities(stage: Stage) -> None:
    said = {name: name == "violence" for name in CATEGORIES}
    message = {"role": "assistant", "content": orjson.dumps(said).decode()}
    stage.upstream.body = orjson.dumps(
        {"model": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9}}
    )
    answer = await stage.client.moderations.create(model="remote/gpt", input="a")
    scores = answer.results[0].category_scores.model_dump(by_alias=True)
    assert scores == {name: float(said[name]) for name in CATEGORIES}
    path, asked, _ = stage.upstream.requests[0]
    assert (path, asked["response_format"]["type"]) == ("/v1/chat/completions", "json_schema")


@pytest.mark.parametrize("content", ["It is fine.", "{}", '{"hate": true}', '["hate"]'])
async def test_an_answer_in_another_form_is_a_bad_gateway_and_no_judgement(stage: Stage, content: str) -> None:
    message = {"role": "assistant", "content": content}
    stage.upstream.body = orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    status, answer, _ = await stage.post("/v1/moderations", {"model": "remote/gpt", "input": "a"})
    assert (status, answer["error"]["code"]) == (502, "upstream_failed")


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        (None, "input", "invalid_type"),
        (5, "input", "invalid_type"),
        ("", "input", "invalid_value"),
        ([], "input", "invalid_value"),
        (["a", ""], "input.1", "invalid_value"),
        (["a", 5], "input.1", "invalid_type"),
        (["a"] * 65, "input", "invalid_value"),
        ([{"type": "text"}], "input.0", "invalid_type"),
        ([{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}], "input.0", "unsupported_parameter"),
    ],
)
async def test_what_is_wrong_is_named(stage: Stage, given: Any, param: str, code: str) -> None:
    status, answer, _ = await stage.post("/v1/moderations", {"model": "tiny", "input": given})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)
    assert not stage.replica.requests
    [record] = stage.used()
    assert (record.endpoint, record.error_code) == ("/v1/moderations", code)


async def test_a_text_too_long_is_a_400_that_names_it(stage: Stage) -> None:
    error = ContextLengthExceeded("The prompt has 900 tokens; this model reads 512.", param="messages")
    stage.replica.refusal = (400, error.to_wire())
    with pytest.raises(openai.BadRequestError) as caught:
        await stage.client.moderations.create(model="tiny", input=["a"])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input.0")
    assert [record.status for record in stage.used()] == [400]


async def test_agents_have_it_as_a_tool(stage: Stage) -> None:
    stage.replica.answer(*spoken({"hate": True}))
    params = {"name": "moderate", "arguments": {"model": "tiny", "texts": ["a"]}}
    _, answer, _ = await stage.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    [result] = answer["result"]["structuredContent"]["results"]
    assert (result["flagged"], result["categories"], result["scores"]["hate"]) == (True, ["hate"], pytest.approx(0.9))
