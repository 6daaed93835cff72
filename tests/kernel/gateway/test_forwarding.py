"""What a further process passes on to the first one, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.kernel.gateway.rooms import NO_TLS, serve

from modelworks.kernel.gateway.forwarding import FIRST, HEADER, Behind, Forward, FromFirst, is_own
from modelworks.kernel.gateway.shutdown import Drain

WORD = "word"


class First:
    """The first process: echoes, streams, and notes who hung up."""

    def __init__(self) -> None:
        self.hung_up = asyncio.Event()
        routes = [
            Route("/api/echo", self.echo, methods=["GET", "POST", "DELETE"]),
            Route("/api/hang", self.hang, methods=["GET"]),
            Route("/v1/files/a b", self.echo, methods=["POST"]),
        ]
        self.app = Behind(Starlette(routes=routes), WORD)

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        seen = {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "num_bytes": len(body),
            "client": request.client.host if request.client else None,
            "authorization": request.headers.get("authorization"),
            "word": request.headers.get(HEADER.decode()),
        }
        return JSONResponse(seen, status_code=201, headers={"set-cookie": "a=1", "x-own": "yes"})

    async def hang(self, _request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"begun"
                await asyncio.Event().wait()
            finally:
                self.hung_up.set()

        return StreamingResponse(pieces())


async def mine(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/v1/messages":
        assert (await Request(scope, receive).body()) == b"{}"
        await FromFirst(scope[FIRST], "/api/echo", {"stream": "true"})(scope, receive, send)
        return
    if scope["path"] == "/v1/rerank":
        await FromFirst(scope[FIRST], "/api/hang", {})(scope, receive, send)
        return
    await JSONResponse({"answered": "here"})(scope, receive, send)


@pytest.fixture
async def first() -> First:
    return First()


@pytest.fixture
async def further(first: First) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncExitStack() as stack:
        forward = Forward(mine, await serve(first.app, stack), WORD, Drain())
        stack.push_async_callback(forward.close)
        url = await serve(forward, stack)
        yield await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS))


@pytest.mark.parametrize(
    ("method", "path", "query", "own"),
    [
        ("POST", "/v1/chat/completions", b"", True),
        ("POST", "/chat/completions", b"", True),
        ("POST", "/v1/messages/count_tokens", b"", True),
        ("POST", "/v1/tasks/object-detection", b"", True),
        ("GET", "/v1/models/a/b", b"", True),
        ("GET", "/readyz", b"", True),
        ("DELETE", "/v1/models/a", b"", False),
        ("POST", "/v1/responses", b"", True),
        ("POST", "/responses", b"", True),
        ("POST", "/v1/responses/resp_1/cancel", b"", True),
        ("GET", "/v1/responses/resp_1", b"include=x", True),
        ("GET", "/v1/responses/resp_1", b"starting_after=3&stream=true", False),
        ("GET", "/v1/responses/resp_1/input_items", b"limit=2", True),
        ("DELETE", "/v1/responses/resp_1", b"", True),
        ("DELETE", "/v1/conversations/conv_1/items/msg_1", b"", True),
        ("PUT", "/v1/conversations", b"", False),
        ("GET", "/metrics", b"", False),
        ("POST", "/v1/completionsx", b"", False),
        ("POST", "/api/keys", b"", False),
    ],
)
def test_questions_to_models_are_answered_where_they_arrive(method: str, path: str, query: bytes, own: bool) -> None:
    assert is_own(method, path, query) is own


async def test_requests_go_there_and_answers_come_back_as_they_are(further: httpx.AsyncClient) -> None:
    assert (await further.post("/v1/chat/completions", json={})).json() == {"answered": "here"}
    answer = await further.post("/api/echo?a=1&b=%20", content=b"x" * 300_000, headers={"authorization": "Bearer k"})
    assert answer.status_code == 201
    assert answer.json() == {
        "method": "POST",
        "path": "/api/echo",
        "query": "a=1&b=%20",
        "num_bytes": 300_000,
        "client": "127.0.0.1",
        "authorization": "Bearer k",
        "word": None,
    }
    assert (answer.headers["set-cookie"], answer.headers["x-own"]) == ("a=1", "yes")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"abc"
            await asyncio.sleep(0.01)

    assert (await further.post("/v1/files/a%20b", content=pieces())).json()["num_bytes"] == 9
    assert (await further.delete("/api/echo")).json()["method"] == "DELETE"
    assert (await further.get("/api/none")).status_code == 404


async def test_a_caller_that_goes_away_is_gone_there_too(further: httpx.AsyncClient, first: First) -> None:
    async with further.stream("GET", "/api/hang") as response:
        async for piece in response.aiter_bytes():
            assert piece == b"begun"
            break
    await asyncio.wait_for(first.hung_up.wait(), 5)


async def test_a_route_of_a_further_process_answers_with_what_the_first_one_says(
    further: httpx.AsyncClient, first: First
) -> None:
    answer = await further.post("/v1/messages", content=b"{}", headers={"authorization": "Bearer k", "idempotency-key": "a"})
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["query"]) == ("GET", "/api/echo", "stream=true")
    assert (seen["num_bytes"], seen["authorization"], seen["client"]) == (0, "Bearer k", "127.0.0.1")
    # What the first one says about itself is left out: the further one says the same of itself.
    assert "x-own" not in answer.headers
    async with further.stream("POST", "/v1/rerank", content=b"{}") as response:
        async for piece in response.aiter_bytes():
            assert piece == b"begun"
            break
    await asyncio.wait_for(first.hung_up.wait(), 5)


async def test_nobody_else_names_an_address(first: First) -> None:
    async with AsyncExitStack() as stack:
        url = await serve(first.app, stack)
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS) as http:
            for said, seen in ((f"{WORD} 10.1.2.3", "10.1.2.3"), ("guess 10.1.2.3", "127.0.0.1")):
                answer = (await http.get("/api/echo", headers={HEADER.decode(): said})).json()
                assert (answer["client"], answer["word"]) == (seen, None)


async def test_without_the_first_process_the_answer_is_an_error_that_may_pass() -> None:
    async with AsyncExitStack() as stack:
        forward = Forward(mine, "http://127.0.0.1:9", WORD, Drain())
        stack.push_async_callback(forward.close)
        async with httpx.AsyncClient(base_url=await serve(forward, stack), trust_env=False, verify=NO_TLS) as http:
            answer = await http.get("/api/echo")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["x-should-retry"] == "true"
