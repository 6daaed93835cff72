"""Embeddings and reranking over the wire: OpenAI's, Jina's and Cohere's forms."""

from __future__ import annotations

import base64
import struct
from typing import Any

import openai
import orjson
import pytest
from tests.kernel.gateway.conftest import Stage

from modelworks.contract.errors import ContextLengthExceeded
from modelworks.contract.retrieval import MAX_TEXTS, EmbeddingInput, RankingInput

VECTORS = [[0.5, -0.25], [1.0, 0.0]]


@pytest.fixture
def stage(stage: Stage) -> Stage:
    stage.deploy("embed", task="feature-extraction")
    stage.deploy("rank", task="text-ranking")
    stage.replica.output = {"embeddings": VECTORS, "prompt_tokens": 7}
    return stage


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def test_the_official_client_asks_for_base64_and_gets_numbers(stage: Stage) -> None:
    stage.replica.output = {"embeddings": [packed(vector) for vector in VECTORS], "prompt_tokens": 7}
    answer = await stage.client.embeddings.create(model="embed", input=["a", "b"], dimensions=2)
    assert [each.embedding for each in answer.data] == VECTORS
    assert [each.index for each in answer.data] == [0, 1]
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("embed", 7, 7)
    # Whose vectors these are, as chats say it.
    assert answer.model_extra == {"system_fingerprint": "mdl_01"}
    [asked] = [EmbeddingInput.model_validate(each) for each in stage.replica.requests]
    assert (asked.texts, asked.encoding_format, asked.dimensions) == (["a", "b"], "base64", 2)
    [record] = stage.used()
    assert (record.endpoint, record.model, record.status) == ("/v1/embeddings", "embed", 200)
    assert (record.prompt_tokens, record.completion_tokens, record.version_id) == (7, 0, "mdl_01")


@pytest.mark.parametrize(
    ("given", "texts", "ids"),
    [
        ("one", ["one"], None),
        (["one", "two"], ["one", "two"], None),
        ([1, 2, 3], None, [[1, 2, 3]]),
        ([[1, 2], [3]], None, [[1, 2], [3]]),
    ],
)
async def test_the_four_forms_of_input(stage: Stage, given: Any, texts: Any, ids: Any) -> None:
    answer = await stage.client.embeddings.create(model="embed", input=given, encoding_format="float")
    assert answer.data[0].embedding == VECTORS[0]
    asked = EmbeddingInput.model_validate(stage.replica.requests[0])
    assert (asked.texts, asked.token_ids, asked.truncate, asked.kind) == (texts, ids, False, None)


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": [True]}, "input", "invalid_type"),
        ({"input": [1, "a"]}, "input", "invalid_type"),
        ({"input": ["a", 1]}, "input.1", "invalid_type"),
        ({"input": ["a", ""]}, "input.1", "invalid_value"),
        ({"input": [[1], []]}, "input.1", "invalid_value"),
        ({"input": [[1], [-1]]}, "input.1", "invalid_value"),
        ({"input": [[1], ["a"]]}, "input.1", "invalid_type"),
        ({"input": [10**30]}, "input", "invalid_value"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, "input", "invalid_value"),
        ({"dimensions": 0}, "dimensions", "invalid_value"),
        ({"dimensions": "2"}, "dimensions", "invalid_type"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input_type": "clustering"}, "input_type", "invalid_value"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
        ({"model": "rank"}, "model", "model_not_supported"),
        ({"model": "tiny"}, "model", "model_not_supported"),
    ],
)
async def test_what_is_wrong_is_named(stage: Stage, changed: dict[str, Any], param: str, code: str) -> None:
    # A number beyond 64 bits is refused by the parser already.
    body = orjson.dumps({**{"model": "embed", "input": "a"}, **changed}) if changed.get("input") != [10**30] else None
    status, answer, _ = await stage.post("/v1/embeddings", body or b'{"model":"embed","input":[18446744073709551615]}')
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)
    assert not stage.replica.requests
    assert stage.used()[-1].error_code == code


@pytest.mark.parametrize(
    ("given", "place", "param"),
    [
        ("x", "texts.0", "input"),
        (["x", "y"], "texts.1", "input.1"),
        ([5], "token_ids.0", "input"),
        ([[5]], "token_ids.0", "input.0"),
    ],
)
async def test_a_text_too_long_is_a_400_that_names_it(stage: Stage, given: Any, place: str, param: str) -> None:
    error = ContextLengthExceeded("The text has 900 tokens, special ones included; this model reads 512.", param=place)
    stage.replica.refusal = (400, error.to_wire())
    with pytest.raises(openai.BadRequestError) as caught:
        await stage.client.embeddings.create(model="embed", input=given)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"truncate": True}, {"truncate": True}),
        ({"truncate_prompt_tokens": -1}, {"truncate": True}),
        ({"truncate_prompt_tokens": 9}, {"max_tokens": 9}),
        ({"input_type": "search_document"}, {"kind": "document"}),
        ({"input_type": "query"}, {"kind": "query"}),
    ],
)
async def test_fields_that_other_servers_have(stage: Stage, said: dict[str, Any], wanted: dict[str, Any]) -> None:
    status, _, _ = await stage.post("/v1/embeddings", {"model": "embed", "input": "a", **said})
    assert status == 200
    asked = stage.replica.requests[0]
    assert {name: asked[name] for name in wanted} == wanted


async def test_keys_and_lists_of_models_count_here_too(stage: Stage) -> None:
    bare = {"model": "embed", "input": "a"}
    assert (await stage.post("/v1/embeddings", bare, authorization="Bearer wrong"))[0] == 401
    limited = {"authorization": f"Bearer {stage.key(model_allow=['rank'])}"}
    status, answer, _ = await stage.post("/v1/embeddings", bare, **limited)
    assert (status, answer["error"]["code"]) == (403, "model_not_allowed")
    assert (await stage.post("/v1/embeddings", {**bare, "model": "nothing"}))[0] == 404


async def test_an_upstream_is_asked_with_the_callers_words(stage: Stage) -> None:
    body = {"object": "list", "data": [], "model": "upstream/name", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    stage.upstream.body = orjson.dumps(body)
    status, answer, _ = await stage.post("/v1/embeddings", {"model": "remote/gpt", "input": "a", "extra": 1})
    assert (status, answer["model"]) == (200, "remote/gpt")
    [(path, asked, _)] = stage.upstream.requests
    assert (path, asked) == ("/v1/embeddings", {"model": "upstream/name", "input": "a", "extra": 1})
    assert stage.used()[-1].prompt_tokens == 3


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_documents_come_back_in_order_of_their_scores(stage: Stage, path: str) -> None:
    stage.replica.output = {"scores": [0.2, 0.9, 0.9, 0.1], "prompt_tokens": 40}
    documents = ["a", {"text": "b", "id": 5}, "c", "d"]
    body = {"model": "rank", "query": "q", "documents": documents, "top_n": 3, "return_documents": True}
    status, answer, _ = await stage.post(path, body)
    assert status == 200
    assert answer["results"] == [
        {"index": 1, "relevance_score": 0.9, "document": {"text": "b", "id": 5}},
        {"index": 2, "relevance_score": 0.9, "document": {"text": "c"}},
        {"index": 0, "relevance_score": 0.2, "document": {"text": "a"}},
    ]
    assert answer["usage"] == {"prompt_tokens": 40, "total_tokens": 40}
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    assert RankingInput.model_validate(stage.replica.requests[0]).documents == ["a", "b", "c", "d"]
    assert stage.used()[-1].prompt_tokens == 40
    _, answer, _ = await stage.post(path, {"model": "rank", "query": "q", "documents": documents})
    assert [each["index"] for each in answer["results"]] == [1, 2, 0, 3]
    assert all("document" not in each for each in answer["results"])


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"query": ""}, "query", "invalid_value"),
        ({"query": None}, "query", "invalid_type"),
        ({"documents": []}, "documents", "invalid_value"),
        ({"documents": "a"}, "documents", "invalid_type"),
        ({"documents": ["a", 1]}, "documents.1", "invalid_type"),
        ({"documents": ["a", {"title": "b"}]}, "documents.1", "invalid_type"),
        ({"top_n": 0}, "top_n", "invalid_value"),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc", "invalid_value"),
        ({"model": "tiny"}, "model", "model_not_supported"),
    ],
)
async def test_a_wrong_reranking_is_named(stage: Stage, changed: dict[str, Any], param: str, code: str) -> None:
    status, answer, _ = await stage.post("/v1/rerank", {"model": "rank", "query": "q", "documents": ["a"], **changed})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)


async def test_an_encoder_orders_documents_by_how_near_they_lie(stage: Stage) -> None:
    stage.replica.output = {"embeddings": [], "scores": [0.4, 0.8], "prompt_tokens": 9}
    body = {"model": "embed", "query": "q", "documents": ["a", {"text": "b"}], "max_tokens_per_doc": 5}
    status, answer, _ = await stage.post("/v1/rerank", body)
    assert status == 200
    assert answer["results"] == [{"index": 1, "relevance_score": 0.8}, {"index": 0, "relevance_score": 0.4}]
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    asked = EmbeddingInput.model_validate(stage.replica.requests[0])
    assert (asked.query, asked.texts, asked.kind, asked.max_tokens) == ("q", ["a", "b"], "document", 5)
    assert "documents" not in stage.replica.requests[0]
    assert (stage.used()[-1].endpoint, stage.used()[-1].prompt_tokens) == ("/v1/rerank", 9)
    stage.replica.output = {"embeddings": VECTORS, "prompt_tokens": 9}
    status, answer, _ = await stage.post("/v1/rerank", body)
    assert (status, answer["error"]["code"]) == (400, "model_not_supported"), "an encoder of a plugin that knows no query"
    error = ContextLengthExceeded("The text has 900 tokens, special ones included; this model reads 512.", param="texts.1")
    stage.replica.refusal = (400, error.to_wire())
    status, answer, _ = await stage.post("/v1/rerank", body)
    assert (status, answer["error"]["param"]) == (400, "documents.1")


async def test_documents_are_cut_only_when_asked(stage: Stage) -> None:
    stage.replica.output = {"scores": [0.5], "prompt_tokens": 4}
    for said in ({}, {"max_tokens_per_doc": 5}, {"truncate": True}):
        await stage.post("/v1/rerank", {"model": "rank", "query": "q", "documents": ["a"], **said})
    asked = [RankingInput.model_validate(each) for each in stage.replica.requests]
    assert [(each.truncate, each.max_tokens) for each in asked] == [(False, None), (False, 5), (True, None)]


async def test_other_routes_say_where_the_model_belongs(stage: Stage) -> None:
    body = {"model": "embed", "messages": [{"role": "user", "content": "Hi"}]}
    status, answer, _ = await stage.post("/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (400, "model_not_supported")
