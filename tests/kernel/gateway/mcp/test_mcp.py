"""Tools for agents over the wire: the official client in both forms of the protocol, and messages that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp
import orjson
import pytest
from mcp.client.streamable_http import streamable_http_client
from tests.kernel.gateway.conftest import Stage, chunk, usage

NEW, OLD = "2026-07-28", "2025-11-25"
MODELS = ["list_models", "chat", "complete", "embed", "rerank", "search_space", "moderate"]


@asynccontextmanager
async def connected(stage: Stage, mode: str, secret: str | None = None) -> AsyncIterator[mcp.Client]:
    """The official client, with the test's key."""
    headers = {"authorization": f"Bearer {secret or stage.secret}"}
    async with httpx2.AsyncClient(headers=headers, timeout=20) as http:
        transport = streamable_http_client(stage.url + "/mcp", http_client=http)
        async with mcp.Client(transport, mode=mode) as client:
            yield client


def stateless(method: str, params: dict[str, Any] | None = None, **meta: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """A request of the stateless form: body and headers."""
    envelope = {"io.modelcontextprotocol/protocolVersion": NEW, "io.modelcontextprotocol/clientCapabilities": {}, **meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**(params or {}), "_meta": envelope}}
    headers = {"mcp-protocol-version": NEW, "mcp-method": method}
    if "name" in (params or {}):
        headers["mcp-name"] = (params or {})["name"]
    return body, headers


@pytest.mark.parametrize(("mode", "version"), [("auto", NEW), (NEW, NEW), ("legacy", OLD)])
async def test_the_official_client_lists_and_calls(stage: Stage, mode: str, version: str) -> None:
    async with connected(stage, mode) as client:
        assert client.protocol_version == version
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == MODELS
        assert all(tool.input_schema["type"] == "object" and tool.description for tool in listed.tools)
        models = await client.call_tool("list_models", {})
        assert [model["id"] for model in models.structured_content["models"]] == ["remote/gpt", "tiny"]
        answer = await client.call_tool("chat", {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]})
    assert (answer.is_error, answer.structured_content["text"]) == (False, "Hello world")
    assert orjson.loads(answer.content[0].text) == answer.structured_content
    assert answer.structured_content["usage"]["completion_tokens"] == 2
    [record] = stage.used()
    assert (record.endpoint, record.model, record.status) == ("/v1/chat/completions", "tiny", 200)
    assert (record.prompt_tokens, record.completion_tokens, record.request_id) == (5, 2, answer.meta["modelworks/requestId"])


@pytest.mark.parametrize(
    ("tool", "arguments", "output", "endpoint", "wanted"),
    [
        ("complete", {"model": "tiny", "prompt": "Once"}, None, "/v1/completions", {"text": "Hello world"}),
        (
            "embed",
            {"model": "embed", "texts": ["a"], "kind": "document"},
            {"embeddings": [[0.5, -0.25]], "prompt_tokens": 3},
            "/v1/embeddings",
            {"vectors": [[0.5, -0.25]]},
        ),
        (
            "rerank",
            {"model": "rank", "query": "q", "documents": ["a", "b"]},
            {"scores": [0.1, 0.9], "prompt_tokens": 3},
            None,
            {},
        ),
    ],
)
async def test_each_kind_of_model_is_asked(
    stage: Stage, tool: str, arguments: dict[str, Any], output: Any, endpoint: str | None, wanted: dict[str, Any]
) -> None:
    stage.deploy("embed", task="feature-extraction")
    stage.deploy("rank", task="text-ranking")
    stage.replica.output = output
    async with connected(stage, NEW) as client:
        found = await client.call_tool(tool, arguments)
    assert not found.is_error, found.content
    assert found.structured_content.items() >= wanted.items()
    if tool == "rerank":
        assert [each["index"] for each in found.structured_content["results"]] == [1, 0]
    assert stage.used()[0].endpoint == (endpoint or "/v1/rerank")


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("chat", {"model": "nothing", "messages": [{"role": "user", "content": "Hi"}]}, "model_not_found"),
        ("chat", {"model": "tiny", "messages": []}, "invalid_value"),
        ("chat", {"model": "tiny"}, "missing_required_parameter"),
        ("chat", {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}, "invalid_value"),
        ("show_run", {"run_id": "x/../../keys"}, "invalid_value"),
        ("show_model", {"ref": "a?dry_run=true"}, "invalid_value"),
        ("show_run", {"run_id": "x"}, "unknown_route"),
        ("moderate", {"texts": ["a"]}, "model_not_found"),
    ],
)
async def test_a_refused_call_tells_the_model_why(stage: Stage, tool: str, arguments: dict[str, Any], code: str) -> None:
    body, headers = stateless("tools/call", {"name": tool, "arguments": arguments})
    status, answer, _ = await stage.post("/mcp", body, **headers)
    result = answer["result"]
    assert (status, result["isError"], result["resultType"]) == (200, True, "complete")
    error = result["structuredContent"]["error"]
    assert result["content"][0]["text"] == error["message"]
    assert error["code"] == code


async def test_tools_are_those_that_the_key_may_use(stage: Stage) -> None:
    reader = stage.key(scopes=["read"])
    async with connected(stage, NEW, reader) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        refused = await client.call_tool("chat", {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]})
    assert "show_run" in names
    assert not {*names} & {*MODELS, "cancel_run"}
    assert refused.is_error
    assert "inference" in refused.content[0].text
    assert not stage.replica.requests


async def test_the_allow_list_of_a_key_holds(stage: Stage) -> None:
    limited = stage.key(model_allow=["remote/gpt"])
    async with connected(stage, NEW, limited) as client:
        models = (await client.call_tool("list_models", {})).structured_content["models"]
        refused = await client.call_tool("complete", {"model": "tiny", "prompt": "a"})
    assert [model["id"] for model in models] == ["remote/gpt"]
    assert refused.structured_content["error"]["code"] == "model_not_allowed"


@pytest.mark.parametrize("headers", [{"authorization": "Bearer mw-wrong"}, {"authorization": ""}])
async def test_nobody_without_a_key(stage: Stage, headers: dict[str, str]) -> None:
    body, more = stateless("tools/list")
    status, answer, sent = await stage.post("/mcp", body, **more, **headers)
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert sent["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("https://page.example", 200), ("own", 200), ("null", 403)],
)
async def test_pages_of_other_origins_are_refused(stage: Stage, origin: str, status: int) -> None:
    body, headers = stateless("tools/list")
    given = stage.url if origin == "own" else origin
    assert (await stage.post("/mcp", body, **headers, origin=given))[0] == status


def changed(place: str, value: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """A good call of a tool with one thing different; None takes it away."""
    body, headers = stateless("tools/call", {"name": "list_models", "arguments": {}})
    where: dict[str, Any] = headers if place.startswith("mcp-") else body
    *above, last = place.split("/") if not place.startswith("mcp-") else [place]
    for part in above:
        where = where[part]
    if value is None:
        del where[last]
    else:
        where[last] = value
    return body, headers


@pytest.mark.parametrize(
    ("place", "value", "status", "code"),
    [
        ("jsonrpc", "1.0", 400, -32600),
        ("id", True, 400, -32600),
        ("id", [1], 400, -32600),
        ("method", 5, 400, -32600),
        ("params", [1], 400, -32602),
        ("params/_meta", None, 400, -32602),
        ("params/_meta", {"io.modelcontextprotocol/protocolVersion": NEW}, 400, -32602),
        ("params/name", "no_such_tool", 400, -32020),
        ("mcp-name", "chat", 400, -32020),
        ("mcp-name", None, 400, -32020),
        ("mcp-name", "=?base64?bGlzdF9tb2RlbHM=?=", 200, None),
        ("mcp-name", "=?base64?***?=", 400, -32020),
        ("mcp-method", "tools/list", 400, -32020),
        ("mcp-method", None, 400, -32020),
        ("mcp-protocol-version", "2027-01-01", 400, -32020),
    ],
)
async def test_messages_that_contradict_themselves_are_refused(
    stage: Stage, place: str, value: Any, status: int, code: int | None
) -> None:
    body, headers = changed(place, value)
    found, answer, _ = await stage.post("/mcp", body, **headers)
    assert (found, answer.get("error", {}).get("code")) == (status, code), answer


async def test_versions_that_are_not_spoken_are_named(stage: Stage) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": "2027-01-01"}
    body, headers = stateless("server/discover", **meta)
    status, answer, _ = await stage.post("/mcp", body, **{**headers, "mcp-protocol-version": "2027-01-01"})
    assert (status, answer["error"]["code"], answer["id"]) == (400, -32022, 1)
    assert answer["error"]["data"] == {"supported": [NEW, OLD, "2025-06-18"], "requested": "2027-01-01"}


@pytest.mark.parametrize(
    ("method", "is_new", "status", "code"),
    [
        ("initialize", True, 404, -32601),
        ("ping", True, 404, -32601),
        ("resources/list", True, 404, -32601),
        ("resources/list", False, 200, -32601),
        ("server/discover", False, 200, -32601),
        ("ping", False, 200, None),
    ],
)
async def test_methods_belong_to_their_form(stage: Stage, method: str, is_new: bool, status: int, code: int | None) -> None:
    body, headers = stateless(method) if is_new else ({"jsonrpc": "2.0", "id": "a", "method": method}, {})
    found, answer, _ = await stage.post("/mcp", body, **headers)
    assert (found, answer.get("error", {}).get("code")) == (status, code)


@pytest.mark.parametrize(("wanted", "given"), [(OLD, OLD), ("2025-06-18", "2025-06-18"), ("2024-11-05", OLD), (None, OLD)])
async def test_the_handshake_settles_a_version(stage: Stage, wanted: str | None, given: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": wanted}}
    status, answer, headers = await stage.post("/mcp", body)
    assert (status, answer["result"]["protocolVersion"], answer["result"]["serverInfo"]["name"]) == (200, given, "modelworks")
    assert "mcp-session-id" not in headers
    done, _, _ = await stage.post("/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert done == 202


async def test_what_is_no_message_is_refused(stage: Stage) -> None:
    for body in (b"{", b"[]", b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', b'"a"'):
        status, answer, _ = await stage.post("/mcp", body)
        assert (status, answer["id"]) == (400, None)
    for method in (stage.http.get, stage.http.delete):
        async with method(stage.url + "/mcp", headers={"authorization": f"Bearer {stage.secret}"}) as answer:
            assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.signs_of_life
async def test_a_slow_tool_keeps_its_connection_open(stage: Stage) -> None:
    async def slowly(_request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk(usage=usage(5, 0))
        await asyncio.sleep(0.5)
        yield chunk("late", finish_reason="stop", usage=usage(5, 1))

    stage.replica.lines = slowly
    arguments = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    body, headers = stateless("tools/call", {"name": "chat", "arguments": arguments})
    status, answer, sent = await stage.post("/mcp", body, **headers, accept="application/json, text/event-stream")
    assert (status, sent["content-type"], sent["x-accel-buffering"]) == (200, "text/event-stream", "no")
    blocks = answer.decode().strip().split("\n\n")
    assert blocks[0] == ": working"
    assert orjson.loads(blocks[-1].split("data: ", 1)[1])["result"]["structuredContent"]["text"] == "late"
    # Who takes no events waits for the whole.
    status, answer, _ = await stage.post("/mcp", body, **headers, accept="application/json")
    assert answer["result"]["structuredContent"]["text"] == "late"
    async with connected(stage, NEW) as client:
        assert (await client.call_tool("chat", arguments)).structured_content["text"] == "late"


async def test_a_caller_who_leaves_stops_the_work(stage: Stage) -> None:
    async def never(_request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk(usage=usage(5, 0))
        await asyncio.Event().wait()

    stage.replica.lines = never
    arguments = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    body, headers = stateless("tools/call", {"name": "chat", "arguments": arguments})
    asking = asyncio.create_task(stage.post("/mcp", body, **headers))
    await asyncio.wait_for(stage.replica.asked.wait(), 10)
    asking.cancel()
    await asyncio.wait_for(stage.replica.hung_up.wait(), 10)
    [record] = await stage.used_soon(1)
    assert (record.status, record.aborted) == (499, True)
