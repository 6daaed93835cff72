"""Requests that only the first process of a server handles, passed on to it by the others as they are.

The others answer what models are asked, and show what is kept of such answers; whatever else changes something, or needs what
lies in the first one's memory, goes there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from yarl import URL

from modelworks.contract.errors import Unavailable
from modelworks.kernel.gateway.errors import error_response
from modelworks.kernel.gateway.shutdown import Drain

#: Carries the word that the processes of one server share, and the caller's address.
HEADER: Final = b"x-modelworks-gateway"
#: In the ASGI scope of a further process: how its routes ask the first one, as an application.
FIRST: Final = "modelworks.first"
#: What every process answers itself, with `/v1` or without, by method.
_KEPT: Final = ("/responses", "/conversations")
_OWN: Final[Mapping[str, tuple[str, ...]]] = {
    "POST": ("/chat/completions", "/completions", "/embeddings", "/rerank", "/messages", "/tasks", *_KEPT),
    "GET": ("/models", "/tasks", *_KEPT),
    "DELETE": _KEPT,
}
_PROBES: Final = frozenset({"/healthz", "/readyz"})
#: Headers that belong to one connection (RFC 9110, 7.6.1), and those that the server itself writes.
_HOP: Final = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"date", b"server"})
#: Headers that are about the body of a request, and those of an answer that are about nothing but what it says.
_OF_REQUEST_BODIES: Final = frozenset(
    {b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"expect", b"idempotency-key"}
)
_OF_ANSWERS: Final = frozenset({b"content-type", b"cache-control", b"x-accel-buffering", b"retry-after", b"x-should-retry"})


def is_own(method: str, path: str, query: bytes = b"") -> bool:
    """Whether every process answers this itself."""
    if path in _PROBES:
        return True
    rest = path.removeprefix("/v1").rstrip("/")
    if method == "GET" and b"stream=" in query and rest.startswith("/responses/"):
        # The events of a response in the background lie in the memory of the process that works on it.
        return False
    return any(rest == name or rest.startswith(name + "/") for name in _OWN.get(method, ()))


class Forward:
    """The layer around a further process.

    Args:
        app: what it answers itself.
        url: where the first process listens for it alone.
        word: which they share.
        drain: counts what is passed on as under way.
    """

    def __init__(self, app: ASGIApp, url: str, word: str, drain: Drain) -> None:
        self._app = app
        self._url = url
        self._word = word
        self._drain = drain
        self._http: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[FIRST] = self._pass_on
        if scope["type"] != "http" or is_own(scope["method"], scope["path"], scope["query_string"]):
            await self._app(scope, receive, send)
            return
        self._drain.in_flight += 1
        try:
            await self._pass_on(scope, receive, send)
        finally:
            self._drain.in_flight -= 1

    async def close(self) -> None:
        """Close its connections."""
        if self._http is not None:
            await self._http.close()

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=10.0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"] if n not in _HOP and n != HEADER]
        client = scope.get("client")
        headers.append((HEADER.decode(), f"{self._word} {client[0] if client else ''}"))
        names = {name for name, _ in scope["headers"]}
        has_body = b"content-length" in names or b"transfer-encoding" in names
        read = asyncio.Event()
        url = self._url + scope["raw_path"].decode("ascii", "replace")
        if scope["query_string"]:
            url += "?" + scope["query_string"].decode("latin-1")
        started = False
        passing = asyncio.current_task()
        watch = asyncio.create_task(_watch(receive, read, passing))
        try:
            body = _body(receive, read) if has_body else None
            if body is None:
                read.set()
            asked = self._http.request(
                scope["method"], URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
            )
            async with asked as response:
                kept = [(name, value) for name, value in response.raw_headers if name.lower() not in _HOP]
                lower = [(name.lower(), value) for name, value in kept]
                await send({"type": "http.response.start", "status": response.status, "headers": lower})
                started = True
                async for data in response.content.iter_any():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except aiohttp.ClientError:
            if started:
                raise  # the connection breaks: the only honest sign that is left
            refused = Unavailable("The server is starting or stopping.", hint="Try again shortly.", retry_after_s=2)
            await error_response(refused, headers={"connection": "close"})(scope, receive, send)
        except asyncio.CancelledError:
            if not watch.done() or passing is None:
                raise
            passing.uncancel()
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch


async def _body(receive: Receive, read: asyncio.Event) -> AsyncIterator[bytes]:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise aiohttp.ClientError("the caller went away")
        if data := message.get("body", b""):
            yield data
        if not message.get("more_body", False):
            read.set()
            return


async def _watch(receive: Receive, read: asyncio.Event, passing: asyncio.Task[Any] | None) -> None:
    """Give up what is passed on when its caller goes away."""
    await read.wait()
    while (await receive())["type"] != "http.disconnect":
        continue
    if passing is not None:
        passing.cancel()


class FromFirst(Response):
    """What the first process answers to a GET, as the answer of a route of a further one; the caller's key goes along.

    Args:
        first: what `FIRST` holds in the scope of the request.
    """

    def __init__(self, first: ASGIApp, path: str, query: Mapping[str, str]) -> None:
        self._first = first
        self._path = path
        self._query = urlencode(query).encode()
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = {
            **scope,
            "method": "GET",
            "path": self._path,
            "raw_path": quote(self._path).encode(),
            "query_string": self._query,
            "headers": [each for each in scope["headers"] if each[0] not in _OF_REQUEST_BODIES],
        }

        async def outgoing(message: Message) -> None:
            if message["type"] == "http.response.start":
                # This process has a request id and defences of its own.
                message["headers"] = [each for each in message["headers"] if each[0] in _OF_ANSWERS]
            await send(message)

        await self._first(asked, receive, outgoing)


class Behind:
    """The layer around the first process: callers that come through another one keep their address."""

    def __init__(self, app: ASGIApp, word: str) -> None:
        self._app = app
        self._word = word.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == HEADER:
                    word, _, address = value.partition(b" ")
                    scope = {**scope, "headers": [each for each in scope["headers"] if each[0] != HEADER]}
                    if hmac.compare_digest(word, self._word):
                        scope["client"] = (address.decode("latin-1"), 0) if address else None
                    break
        await self._app(scope, receive, send)
