"""`/mcp`: what a tool is asked becomes a request to the platform's own routes, with the caller's key.

Each tool is a route, so that rights, budgets, records and the audit log are the route's, and a tool shows what the key may see.
Nothing is kept between two requests: any server process answers any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelworks.contract.errors import ModelworksError, PermissionDenied
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.inside import ask, scope_of
from modelworks.kernel.gateway.mcp import tools
from modelworks.kernel.gateway.mcp.protocol import (
    HANDSHAKE,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    STATELESS,
    Call,
    Fault,
    read,
)
from modelworks.kernel.gateway.routes import PlainRoute, described
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import JsonBytes

PATH: Final = "/mcp"
#: Of the caller's headers, those that its tools' requests carry: who asks, and what the request belongs to. Cookies are not
#: among them, so that no page of a browser acts here for whoever is signed in.
_CARRIED: Final = frozenset({b"authorization", b"x-api-key", b"x-request-id", b"traceparent", b"tracestate"})
_INSTRUCTIONS: Final = (
    "Tools of a Modelworks platform. list_models gives the names that chat, complete, embed and rerank take; search_models "
    "and search_datasets show the catalog, list_runs what is being trained or evaluated. All belongs to the key's project."
)
#: How long clients may keep the list of tools. It depends on the key alone.
_TTL_MS: Final = 300_000
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "method": {"type": "string"},
        "params": {"type": "object"},
    },
    "required": ["jsonrpc", "method"],
}


#: JSON-RPC 2.0, section 5.1.
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "integer", "null"]},
        "error": {
            "type": "object",
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
            "required": ["code", "message"],
        },
    },
    "required": ["jsonrpc", "error"],
}


def router(gateway: GatewayService, *, origins: Sequence[str] = ()) -> APIRouter:
    """The route of the protocol.

    Args:
        origins: origins of web pages that may call it from a browser beside the server's own; `*` for all.
    """
    found = APIRouter(route_class=PlainRoute, tags=["MCP"])

    @found.post(
        PATH,
        summary="Tools for agents (Model Context Protocol)",
        description="Streamable HTTP without sessions: one JSON-RPC message, one answer, as JSON or, where it takes long, as "
        "server-sent events. Speaks 2026-07-28 and, with `initialize`, 2025-11-25 and 2025-06-18.",
        responses={
            200: {
                "description": "The JSON-RPC answer.",
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/event-stream": {"schema": {}},
                },
            },
            202: {"description": "A notification was taken."},
            # Refused before it is read as a message, a request has the other form.
            **{
                status: {
                    "description": "A JSON-RPC error, or the request is refused.",
                    "content": {"application/json": {"schema": {"anyOf": [_ERROR, {"$ref": "#/components/schemas/Error"}]}}},
                }
                for status in (400, 404)
            },
        },
        openapi_extra=described(_MESSAGE),
    )
    async def answer_message(request: Request) -> Response:
        _check_origin(request, origins)
        headers = [header for header in request.scope["headers"] if header[0] in _CARRIED]
        principal = await gateway.known({**request.scope, "headers": headers})
        try:
            call = read(await request.body(), request.scope["headers"])
            if call.id is None:
                return Response(status_code=202)
            if call.method == "tools/call":
                tool, arguments = _called(call)
                asking = _result(request, headers, tool, arguments)
                return _Answer(call, asking, gateway, takes_events="text/event-stream" in request.headers.get("accept", ""))
            return JsonBytes(call.answer(_told(call, principal, gateway), _server(gateway)))
        except Fault as fault:
            return JsonBytes(fault.wire(), status_code=fault.status)

    return found


def _check_origin(request: Request, origins: Sequence[str]) -> None:
    """A page that reached this server under a name of its own (DNS rebinding) says so in `Origin`."""
    origin = request.headers.get("origin")
    if origin is None or "*" in origins or origin in origins or urlsplit(origin).netloc == request.headers.get("host"):
        return
    raise PermissionDenied(
        f"Pages of {origin[:200]!r} may not use this server's tools.",
        hint="An operator can name the origin in MODELWORKS_CORS_ORIGINS.",
        code="origin_not_allowed",
    )


def _server(gateway: GatewayService) -> dict[str, str]:
    return {"name": "modelworks", "title": "Modelworks", "version": gateway.version or "0"}


def _told(call: Call, principal: Principal, gateway: GatewayService) -> dict[str, Any]:
    """The result of a method that asks no tool; raises Fault for one that there is not."""
    method = call.method
    own = {"capabilities": {"tools": {"listChanged": False}}, "instructions": _INSTRUCTIONS}
    cached = {"ttlMs": _TTL_MS, "cacheScope": "private"} if call.is_stateless else {}
    if method == "tools/list":
        if call.params.get("cursor") is not None:
            raise call.fault(INVALID_PARAMS, "cursor: the list of tools has one page.")
        return {"tools": tools.shown_to(principal), **cached}
    if call.is_stateless and method == "server/discover":
        return {**own, "supportedVersions": [*STATELESS], **cached}
    if not call.is_stateless and method == "initialize":
        wanted = call.params.get("protocolVersion")
        version = wanted if wanted in HANDSHAKE else HANDSHAKE[0]
        return {**own, "protocolVersion": version, "serverInfo": _server(gateway)}
    if not call.is_stateless and method == "ping":
        return {}
    raise call.fault(METHOD_NOT_FOUND, f"There is no method {method[:80]!r} here.")


def _called(call: Call) -> tuple[tools.Tool, Any]:
    tool = tools.find(call.params.get("name"))
    if tool is None:
        raise call.fault(INVALID_PARAMS, f"Unknown tool: {str(call.params.get('name'))[:80]!r}.")
    return tool, call.params.get("arguments")


async def _result(request: Request, headers: list[tuple[bytes, bytes]], tool: tools.Tool, arguments: Any) -> dict[str, Any]:
    """What a tool's call gives, also where its route refuses: then the model reads why, and may ask otherwise."""
    try:
        asked = tool.arguments.model_validate({} if arguments is None else arguments).asked()
    except ValidationError as error:
        return _failed(from_validation(error).envelope())
    body = b"" if asked.body is None else orjson.dumps(asked.body)
    scope = scope_of(
        asked.method, asked.path, query=asked.query, headers=headers, num_bytes=len(body), client=request.scope.get("client")
    )
    reply = await ask(request.app, scope, body, gone=request.receive)
    meta = {"modelworks/requestId": reply.headers.get(b"x-request-id", b"").decode()}
    if reply.status >= 400:
        return {**_failed(reply.body), "_meta": meta}
    told = tool.tell(reply.body)
    return {"content": [_text(orjson.dumps(told).decode())], "structuredContent": told, "isError": False, "_meta": meta}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _failed(body: Any) -> dict[str, Any]:
    """The result of a call that was refused: the error as every route gives it, its message and hint as text."""
    envelope = body if isinstance(body, dict) and "error" in body else ModelworksError("The call was given up.").envelope()
    return {"content": [_text(envelope["error"]["message"])], "structuredContent": envelope, "isError": True}


class _Answer(Response):
    """A tool's result: as JSON where it is there soon, else as an event, with comments that keep the connection open."""

    def __init__(self, call: Call, asking: Any, gateway: GatewayService, *, takes_events: bool) -> None:
        self._call = call
        self._asking = asking
        self._gateway = gateway
        self._takes_events = takes_events
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A task, and so a context, of its own: the route within is a request by itself.
        asking = asyncio.ensure_future(self._asking)
        try:
            wait_s = self._gateway.keep_alive_s if self._takes_events else None
            if (await asyncio.wait({asking}, timeout=wait_s))[0]:
                await JsonBytes(self._told(asking))(scope, receive, send)
                return
            events = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": events})
            while not asking.done():
                await send({"type": "http.response.body", "body": b": working\n\n", "more_body": True})
                await asyncio.wait({asking}, timeout=wait_s)
            await send({"type": "http.response.body", "body": b"event: message\ndata: " + self._told(asking) + b"\n\n"})
        finally:
            asking.cancel()

    def _told(self, asking: asyncio.Future[dict[str, Any]]) -> bytes:
        try:
            result = asking.result()
        except ModelworksError as error:
            result = _failed(error.envelope())
        return self._call.answer(result, _server(self._gateway))
