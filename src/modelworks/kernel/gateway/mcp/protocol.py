"""The Model Context Protocol on the wire: JSON-RPC over one POST, in its stateless form and in the one with a handshake.

Sources: the specification of 2026-07-28 (no handshake, no session: each request says its version in `_meta` and in headers) and
that of 2025-11-25 (transports, lifecycle, tools), of which sessions are optional and not used.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

#: Versions that begin with `initialize`, newest first. They do not differ in what is offered here.
HANDSHAKE: Final = ("2025-11-25", "2025-06-18")
#: Versions without a handshake.
STATELESS: Final = ("2026-07-28",)
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022
#: Of a stateless answer; 200 for every other code.
_STATUS: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
_VERSION_HEADER, _METHOD_HEADER, _NAME_HEADER = b"mcp-protocol-version", b"mcp-method", b"mcp-name"
_ROUTING: Final = (_VERSION_HEADER, _METHOD_HEADER, _NAME_HEADER)

RequestId = str | int


class Fault(Exception):
    """A refusal of the protocol itself, as JSON-RPC says it. A tool that fails is no fault: its result says so.

    Args:
        status: of the HTTP answer; by default what the code has in the stateless form.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        data: Any = None,
        request_id: RequestId | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.request_id = request_id
        self.status = _STATUS.get(code, 200) if status is None else status

    def wire(self) -> bytes:
        """The JSON-RPC answer."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return orjson.dumps({"jsonrpc": "2.0", "id": self.request_id, "error": error})


@dataclass(frozen=True, slots=True)
class Call:
    """One request, or a notification (`id` None), of a version that is spoken here."""

    id: RequestId | None
    method: str
    params: dict[str, Any]
    is_stateless: bool

    def fault(self, code: int, message: str) -> Fault:
        """A refusal of this request."""
        return Fault(code, message, request_id=self.id, status=None if self.is_stateless else 200)

    def answer(self, result: dict[str, Any], server: dict[str, str]) -> bytes:
        """The JSON-RPC answer with a complete result."""
        if self.is_stateless:
            result = {"resultType": "complete", **result, "_meta": {SERVER_KEY: server, **result.get("_meta", {})}}
        return orjson.dumps({"jsonrpc": "2.0", "id": self.id, "result": result})


def read(body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Call:
    """What a POST asks.

    Raises:
        Fault: it is no single message of JSON-RPC, its headers and its body disagree, or its version is not spoken here.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Fault(PARSE_ERROR, f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from error
    if not isinstance(found, dict) or found.get("jsonrpc") != "2.0" or not isinstance(found.get("method"), str):
        raise Fault(INVALID_REQUEST, "The body must be one JSON-RPC 2.0 request or notification.")
    request_id = found.get("id")
    if "id" in found and (isinstance(request_id, bool) or not isinstance(request_id, str | int)):
        raise Fault(INVALID_REQUEST, "id: must be a text or a whole number.")
    params = found.get("params", {})
    if not isinstance(params, dict):
        raise Fault(INVALID_PARAMS, "params: must be an object.", request_id=request_id)
    routing: dict[bytes, str] = {}
    for name, value in headers:
        if name in _ROUTING:
            if name in routing:
                raise _mismatch(f"The header {name.decode()} stands there twice.", request_id)
            routing[name] = value.decode("latin-1").strip()
    version = routing.get(_VERSION_HEADER)
    if version is None or version in HANDSHAKE:
        # A stateless request must name its version in the header; a client that probes for what we speak takes this for
        # a server of the older kind, and goes on with the handshake.
        return Call(request_id, found["method"], params, is_stateless=False)
    if request_id is not None:
        _check_envelope(found["method"], params, routing, version, request_id)
    if version not in STATELESS:
        data = {"supported": [*STATELESS, *HANDSHAKE], "requested": version}
        message = f"The protocol version {version[:40]!r} is not spoken here."
        raise Fault(UNSUPPORTED_VERSION, message, data=data, request_id=request_id)
    return Call(request_id, found["method"], params, is_stateless=True)


def _check_envelope(
    method: str, params: dict[str, Any], routing: dict[bytes, str], version: str, request_id: RequestId
) -> None:
    """Headers are for those who route by them: what they say must be what is done."""
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        raise Fault(INVALID_PARAMS, "params._meta: is missing.", request_id=request_id)
    for key in (VERSION_KEY, CAPABILITIES_KEY):
        if key not in meta:
            raise Fault(INVALID_PARAMS, f"params._meta: {key} is missing.", request_id=request_id)
    if meta[VERSION_KEY] != version:
        raise _mismatch("The header MCP-Protocol-Version and the version in params._meta differ.", request_id)
    if routing.get(_METHOD_HEADER) != method:
        raise _mismatch("The header Mcp-Method and the method differ.", request_id)
    named = params.get("name")
    if method == "tools/call" and named is not None and _decoded(routing.get(_NAME_HEADER)) != named:
        raise _mismatch("The header Mcp-Name and params.name differ.", request_id)


def _mismatch(message: str, request_id: RequestId | None) -> Fault:
    return Fault(HEADER_MISMATCH, message, request_id=request_id)


def _decoded(value: str | None) -> str | None:
    """A header's text; what a header cannot hold comes as `=?base64?…?=`."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
