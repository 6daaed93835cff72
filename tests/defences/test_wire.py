"""Attacks on the wire, over real sockets: smuggled, oversized and slow requests; and what a browser is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from modelworks.kernel.base.settings import Settings
from modelworks.kernel.gateway.middleware import Edge
from modelworks.kernel.gateway.protocol import MAX_HEAD_BYTES, GuardedProtocol
from modelworks.server import listening


class Hasty(GuardedProtocol):
    """The same, in the time of a test."""

    head_timeout_s = 0.6
    body_timeout_s = 0.6


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with the platform's outer layers and one route that tells what it got."""
    app = FastAPI()
    app.add_middleware(Edge, max_body_bytes=1000)

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @app.get("/secret")
    async def secret() -> str:
        return "a secret"

    config = listening(app, Settings(home=Path(tmp_path_factory.mktemp("home")), port=0))
    assert config.http is GuardedProtocol
    config.http, config.port = Hasty, 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


async def talk(port: int, *pieces: bytes, pause_s: float = 0.0, wait_s: float = 5.0) -> bytes:
    """Send the pieces and read until the server closes, or says no more for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    with closing(writer):
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            while chunk := await asyncio.wait_for(reader.read(65536), wait_s):
                got += chunk
        except (ConnectionError, TimeoutError):
            pass
    return got


SMUGGLED = b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 40\r\n",
        b"Content-Length: 5, 40\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length : 5\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"X-A: b\r\n Content-Length: 5\r\n",
        b"X-A: b\nContent-Length: 5\r\n",
        b"X-A\x00: b\r\n",
    ],
)
async def test_a_request_whose_length_can_be_read_in_two_ways_is_refused(port: int, head: bytes) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n" + b"0\r\n\r\n" + SMUGGLED
    answer = await talk(port, request, wait_s=1.5)
    assert b"a secret" not in answer
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")) or answer == b""


async def test_an_honest_pipeline_is_answered(port: int) -> None:
    """What the tests above would see if a smuggled request were answered."""
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    answer = await talk(port, request + SMUGGLED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert b'{"length":5}' in answer
    assert b"a secret" in answer


async def test_bodies_and_heads_that_are_too_large_are_refused(port: int) -> None:
    announced = await talk(port, b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
    assert announced.startswith(b"HTTP/1.1 413")
    chunk = b"%x\r\n%s\r\n" % (600, b"x" * 600)
    chunked = await talk(
        port, b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, chunk, b"0\r\n\r\n"
    )
    assert chunked.startswith(b"HTTP/1.1 413")
    line = b"X-Filler: " + b"x" * 1000 + b"\r\n"
    endless = await talk(port, b"GET /secret HTTP/1.1\r\nHost: a\r\n", *[line] * (MAX_HEAD_BYTES // len(line) + 2))
    assert b"a secret" not in endless
    assert endless.startswith(b"HTTP/1.1 400") or endless == b""


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],  # a connection that says nothing
        [b"G", b"E", b"T", b" ", b"/", b"s", b"e", b"c", b"r", b"e", b"t"],  # slow-loris
        [b"GET /secret HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 10],
    ],
)
async def test_a_head_that_comes_too_slowly_is_cut_off(port: int, pieces: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        ended = asyncio.ensure_future(reader.read(1))
        for piece in pieces * 3:
            if ended.done():
                break
            writer.write(piece)
            await asyncio.wait([ended], timeout=0.15)
        assert await asyncio.wait_for(ended, 5) == b"", "the server closed the connection"


async def test_a_body_that_stops_is_cut_off_and_one_that_goes_on_is_not(port: int) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 8\r\n\r\n"
    assert b'{"length":8}' not in await talk(port, head, b"xx", wait_s=5)
    steady = await talk(port, head, *[b"x"] * 8, pause_s=0.15)
    assert b'{"length":8}' in steady


async def test_a_connection_may_rest_between_requests(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert (await http.get("/secret")).status_code == 200
        await asyncio.sleep(1.0)
        again = await http.get("/secret")
        assert again.status_code == 200


async def test_a_browser_runs_nothing_of_an_answer(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        for path in ("/secret", "/absent"):
            headers = (await http.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
            assert "server" not in headers
