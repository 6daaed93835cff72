"""Holds every answer of the tests' servers to the form that the OpenAPI document gives for its route."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from modelworks.kernel.gateway.answers.form import EVENTS

#: No status of HTTP: the test's client fails on it.
MISFIT = 599


@lru_cache(maxsize=256)
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def misfit(form: Any, body: bytes) -> str:
    """What of an answer its form does not have, or has otherwise; empty where it fits."""
    try:
        _adapter(form).validate_json(body, strict=True, extra="forbid")
    except ValidationError as error:
        return str(error)
    return ""


class Watched:
    """An application whose JSON answers become a 599 where they have not the form of their route.

    Events that have not the form of their stream break it off, and are kept in `misfits`: whoever serves it fails on them.

    Args:
        passing: whether answers are another server's at the time, which nobody describes.
    """

    def __init__(self, app: Any, passing: Callable[[], bool]) -> None:
        self._app = app
        self._passing = passing
        self.misfits: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: dict[str, Any] | None = None
        form: Any = None
        held: list[bytes] = []

        async def watched(message: Any) -> None:
            nonlocal start, form
            if message["type"] == "http.response.start" and not self._passing():
                kind = dict(message["headers"]).get(b"content-type", b"")
                responses = getattr(scope.get("route"), "responses", {})
                if kind == b"application/json":
                    form = responses.get(message["status"], {}).get("model")
                    start = None if form is None else message
                elif kind.startswith(b"text/event-stream"):
                    form = responses.get(EVENTS, {}).get("model")
            if start is None:
                if form is not None and message["type"] == "http.response.body":
                    self._check_events(form, message.get("body", b""))
                await send(message)
            elif message["type"] == "http.response.body":
                held.append(message.get("body", b""))
                if not message.get("more_body"):
                    body = b"".join(held)
                    if wrong := misfit(form, body):
                        body = f"{scope['method']} {scope['path']} is not in form: {wrong}\n{body.decode()}".encode()
                        start = {**start, "status": MISFIT, "headers": [(b"content-length", str(len(body)).encode())]}
                    await send(start)
                    await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, watched)

    def _check_events(self, form: Any, data: bytes) -> None:
        """Break the stream off where an event is not in form, or is called by another name than its type."""
        name: str | None = None
        for line in data.splitlines():
            if line.startswith(b"event: "):
                name = line.removeprefix(b"event: ").decode()
            if line.startswith(b"data: {") and not line.startswith(b'data: {"error"'):
                event = line.removeprefix(b"data: ")
                wrong = misfit(form, event)
                if name is not None and json.loads(event)["type"] != name:
                    wrong += f"it is called {name}"
                if wrong:
                    self.misfits.append(f"{wrong}\n{event.decode()}")
                    raise AssertionError(wrong)
