"""The outermost layer, pure ASGI: request ids, the limit of a body, forgiving paths, timing, and the face of a bug."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelworks.contract.errors import ModelworksError, PayloadTooLarge, Unavailable
from modelworks.kernel.base import telemetry
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.errors import REQUEST_ID, bug, error_response
from modelworks.kernel.gateway.multipart import is_form
from modelworks.kernel.gateway.shutdown import Drain

log = structlog.get_logger(__name__)

#: How long its body is, as far as it has been read, in the ASGI scope.
BODY_BYTES: Final = "modelworks.body_bytes"
#: Headers that the answer gets in the end, whatever it will be: a list of pairs in the ASGI scope.
HEADERS: Final = "modelworks.headers"
#: When the request arrived (`time.perf_counter`), in the ASGI scope.
STARTED: Final = "modelworks.started"

_TRACE_HEADERS: Final = frozenset({b"traceparent", b"tracestate"})

#: Answers are data: a browser that shows one as a page runs nothing in it. Pages bring a policy of their own.
_DEFENCES: Final = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

#: Clients whose base URL lacks `/v1` ask for these.
_WITHOUT_V1 = ("/chat/completions", "/completions", "/conversations", "/messages", "/models", "/responses")
#: … and for what lies below these.
_BELOW = ("/conversations/", "/messages/", "/models/", "/responses/")

#: Path prefixes of routes that answer HEAD themselves.
_OWN_HEAD = ("/api/blobs",)

#: Answered to the end, and waited for by nobody.
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})

#: Called after each request with method, route template, status and seconds.
Observer = Callable[[str, str, int, float], None]


class _TooLarge(Exception):
    """The body outgrew its limit while it was being read."""


class Edge:
    """Wraps the whole application.

    Args:
        app: what is wrapped.
        max_body_bytes: the largest request body; more is refused with 413, unread where the length is announced.
        unlimited: path prefixes whose bodies have a limit of their own (uploads).
        forms: paths at which forms have one, and no other body.
        observe: see `Observer`.
        drain: counts what is under way, and says when nothing new is taken.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        unlimited: Sequence[str] = (),
        forms: re.Pattern[str] | None = None,
        observe: Observer | None = None,
        drain: Drain | None = None,
    ) -> None:
        self._app = app
        self._drain = drain or Drain()
        self._max_body_bytes = max_body_bytes
        self._unlimited = tuple(unlimited)
        self._forms = forms
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD" and not scope["path"].startswith(_OWN_HEAD):
            # A copy: the server looks at its own to leave the body out. Blobs have a HEAD of their own.
            scope = {**scope, "method": "GET"}
        started = time.perf_counter()
        request_id = new_id("req")
        scope[REQUEST_ID] = request_id
        scope[STARTED] = started
        # Each request runs in a task, and so in a context, of its own: nothing needs to be taken back.
        structlog.contextvars.bind_contextvars(request_id=request_id)
        _forgive(scope)
        status = 0

        async def outgoing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                elapsed_ms = int((time.perf_counter() - started) * 1000)
                headers = message["headers"]
                names = {name for name, _ in headers}
                message["headers"] = [
                    *headers,
                    *(header for header in _DEFENCES if header[0] not in names),
                    (b"x-request-id", request_id.encode()),
                    # What Anthropic's clients read.
                    (b"request-id", request_id.encode()),
                    (b"openai-processing-ms", b"%d" % elapsed_ms),
                    *scope.get(HEADERS, ()),
                ]
            await send(message)

        drain = self._drain
        # What the server asks itself is part of a request that it has taken.
        is_uncounted = scope["path"] in _PROBES or scope.get("server") is None
        drain.in_flight += not is_uncounted
        try:
            if drain.is_stopping and not is_uncounted:
                await error_response(_stopping(), headers={"connection": "close"})(scope, receive, outgoing)
            elif telemetry.is_tracing():
                await self._traced(scope, receive, outgoing)
            else:
                await self._limited(scope, receive, outgoing)
        except Exception as error:
            if isinstance(error, _TooLarge) or isinstance(error.__cause__, _TooLarge):
                known: ModelworksError = self._too_large()
            else:
                known = bug(request_id)
                log.exception("request failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if status == 0:
                await error_response(known)(scope, receive, outgoing)
            else:
                # The answer has begun: breaking the connection is the only honest sign left.
                raise
        finally:
            drain.in_flight -= not is_uncounted
            if self._observe is not None:
                route = getattr(scope.get("route"), "path", "unmatched")
                self._observe(method, route, status, time.perf_counter() - started)

    async def _traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same within a span, which continues the caller's trace."""
        carried = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name in _TRACE_HEADERS
        }
        method = scope["method"]

        async def outgoing(message: Message) -> None:
            if message["type"] == "http.response.start":
                telemetry.annotate(http__response__status_code=message["status"])
            await send(message)

        with telemetry.span(
            method, kind="server", parent=carried, **{"http.request.method": method, "url.path": scope["path"]}
        ):
            try:
                await self._limited(scope, receive, outgoing)
            finally:
                telemetry.annotate(
                    http__route=getattr(scope.get("route"), "path", "unmatched"), modelworks__request_id=scope[REQUEST_ID]
                )

    def _has_own_limit(self, scope: Scope) -> bool:
        if self._unlimited and scope["path"].startswith(self._unlimited):
            return True
        if self._forms is None or scope["method"] != "POST" or not self._forms.fullmatch(scope["path"]):
            return False
        return is_form(scope["headers"])

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._has_own_limit(scope):
            await self._app(scope, receive, send)
            return
        announced: int | None = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                announced = int(value)
                break
        if announced is not None:
            scope[BODY_BYTES] = announced
            if announced > self._max_body_bytes:
                # The connection is closed, as its unread rest would be taken for the next request.
                await error_response(self._too_large(), headers={"connection": "close"})(scope, receive, send)
                return
            await self._app(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                scope[BODY_BYTES] = taken
                if taken > self._max_body_bytes:
                    raise _TooLarge
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The request body is larger than the {self._max_body_bytes} bytes that this server takes.",
            hint="Send less, or have the operator raise MODELWORKS_MAX_BODY_BYTES.",
        )


def _stopping() -> Unavailable:
    return Unavailable(
        "The server is stopping and takes no new requests.", hint="Try again shortly.", code="server_stopping", retry_after_s=2
    )


def _forgive(scope: Scope) -> None:
    """Accept a trailing slash and a base URL without `/v1`, with no redirect: clients drop the body of a redirected POST."""
    path: str = scope["path"]
    changed = path
    if len(path) > 1 and path.endswith("/") and path.startswith(("/v1", "/api", "/mcp", *_WITHOUT_V1)):
        changed = path.rstrip("/") or "/"
    if changed.startswith(_WITHOUT_V1) and (changed in _WITHOUT_V1 or changed.startswith(_BELOW)):
        changed = "/v1" + changed
    if changed is not path:
        scope["path"] = changed
        scope["raw_path"] = changed.encode()
