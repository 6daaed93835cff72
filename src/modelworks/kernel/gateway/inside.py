"""A route asked in the same process: every check, limit and record of a request from outside holds for it too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route answered, whole."""

    status: int
    headers: Mapping[bytes, bytes]
    content: bytes

    @property
    def body(self) -> Any:
        """What the answer says as JSON; the text itself where it is none."""
        try:
            return orjson.loads(self.content)
        except orjson.JSONDecodeError:
            return self.content.decode("utf-8", "replace")


def scope_of(
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    headers: Headers = (),
    num_bytes: int = 0,
    client: Any = None,
) -> Scope:
    """The ASGI scope of a request with a JSON body of `num_bytes`; `path` as it reads when decoded."""
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % num_bytes)]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "root_path": "",
        "query_string": urlencode(query or {}).encode(),
        "headers": [*own, *headers],
        "client": client,
        "server": None,
    }


async def ask(app: ASGIApp, scope: Scope, body: bytes, gone: Receive | None = None) -> Reply:
    """The answer to one request.

    Args:
        gone: where it is told that whoever asked went away; without it nobody hangs up: who gives the question up cancels it.
    """
    waiting = [body]
    started: dict[str, Any] = {"status": 500, "headers": []}
    pieces = bytearray()

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        if gone is not None:
            return await gone()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            pieces.extend(message.get("body", b""))

    await app(scope, receive, send)
    return Reply(status=started["status"], headers=dict(started["headers"]), content=bytes(pieces))
