"""Asking tool servers elsewhere (Model Context Protocol), which may be slow, broken or hostile.

Addresses go through the egress guard when they are named and again when a connection is made; no redirect is followed, no
cookie kept, nothing unpacked. An answer has a limit of time and of bytes. The form of the protocol is found out once for each
server: 2026-07-28 where it answers `server/discover`, otherwise the one with a handshake.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson

from modelworks.kernel.base.egress import check_url
from modelworks.kernel.gateway.mcp.protocol import CAPABILITIES_KEY, HANDSHAKE, STATELESS, VERSION_KEY
from modelworks.kernel.serving.resolver import GuardedResolver

#: Older versions that a server may settle on: tools are asked alike in them.
_SPOKEN: Final = (*HANDSHAKE, "2025-03-26", "2024-11-05")
_CLIENT: Final = {"name": "modelworks", "version": "1"}
_MAX_PAGES: Final = 4
MAX_TOOLS: Final = 128
_MAX_DESCRIPTION: Final = 2_000
_NAME: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_SESSION: Final = re.compile(r"[\x21-\x7e]{1,512}")
_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


class ServerFault(Exception):
    """A server did not do what it was asked. `wire` is the error as OpenAI's items hold it."""

    def __init__(self, message: str, *, status: int | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code

    @property
    def wire(self) -> dict[str, Any]:
        if self.status is not None:
            return {"type": "http_error", "code": self.status, "message": self.message}
        return {"type": "mcp_protocol_error", "code": -32603 if self.code is None else self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class Server:
    """Where tools are, and what is sent along. The headers are secrets: never stored, shown or logged."""

    url: str
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    #: For one question and its answer; by default as all servers.
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool gave: its texts, and whether it says that it failed."""

    text: str
    is_error: bool


class ToolServers:
    """Asks servers for their tools and for calls of them; lists are kept for a while, for each project and credential apart.

    Args:
        allow: exceptions of the egress guard.
        timeout_s: for one question and its answer.
        max_bytes: of one answer.
        keep_s: how long a list of tools is good; a server may say less.
    """

    def __init__(
        self, allow: Sequence[str] = (), *, timeout_s: float = 60.0, max_bytes: int = 1 << 20, keep_s: float = 300.0
    ) -> None:
        self._allow = tuple(allow)
        self.timeout_s = timeout_s
        self.max_bytes = max_bytes
        self.keep_s = keep_s
        self._lists: dict[str, tuple[float, list[dict[str, Any]]]] = {}
        #: Whether a server speaks the stateless form.
        self._stateless: dict[str, bool] = {}

    async def tools(self, project_id: str, server: Server, *, refresh: bool = False) -> list[dict[str, Any]]:
        """The tools of a server: name, description, input_schema and annotations of each; what is malformed is left out.

        With `refresh` a list that is kept does not count.

        Raises:
            PermissionDenied, InvalidRequest: the address must not be reached, or is none.
            ServerFault: it cannot be reached, or did not answer in form.
        """
        key = _key(project_id, server)
        kept = self._lists.get(key)
        if kept is not None and kept[0] > time.monotonic() and not refresh:
            return kept[1]
        found: list[dict[str, Any]] = []
        keep_s, cursor = self.keep_s, None
        async with self._talking(server) as talk:
            for _ in range(_MAX_PAGES):
                page = await talk.request("tools/list", {} if cursor is None else {"cursor": cursor})
                listed = page.get("tools")
                if isinstance(listed, list):
                    found.extend(tool for each in listed if (tool := _tool(each)))
                if isinstance(ttl := page.get("ttlMs"), int | float):
                    keep_s = max(0.0, min(keep_s, ttl / 1000))
                cursor = page.get("nextCursor")
                if not isinstance(cursor, str) or len(found) > MAX_TOOLS:
                    break
        found = [*{tool["name"]: tool for tool in found}.values()][:MAX_TOOLS]
        if len(self._lists) >= 256:
            self._lists.clear()
        self._lists[key] = time.monotonic() + keep_s, found
        return found

    async def call(self, server: Server, name: str, arguments: dict[str, Any]) -> Outcome:
        """Call a tool once; a call that failed is not tried again, as it may have been done.

        Raises: as `tools`.
        """
        async with self._talking(server) as talk:
            result = await talk.request("tools/call", {"name": name, "arguments": arguments})
        if result.get("resultType", "complete") != "complete":
            raise ServerFault("The tool asks for more input, which cannot be given here.")
        parts = result.get("content")
        texts = [_text_of(part) for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if not texts and result.get("structuredContent") is not None:
            texts = [orjson.dumps(result["structuredContent"]).decode()]
        return Outcome("\n".join(texts), result.get("isError") is True)

    @asynccontextmanager
    async def _talking(self, server: Server) -> AsyncIterator[_Talk]:
        # Addresses that are written as numbers never reach the resolver, so that the guard looks at them here.
        target = await asyncio.to_thread(check_url, server.url, self._allow)
        timeout_s = server.timeout_s or self.timeout_s
        connector = aiohttp.TCPConnector(resolver=GuardedResolver(self._allow), use_dns_cache=False, limit=1)
        try:
            async with (
                asyncio.timeout(timeout_s),
                aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                    timeout=aiohttp.ClientTimeout(total=timeout_s),
                ) as http,
            ):
                talk = _Talk(http, str(target.url), server.headers, self.max_bytes)
                origin = _key("", server)
                is_stateless = self._stateless.get(origin)
                if is_stateless is None:
                    is_stateless = await talk.discover()
                    if len(self._stateless) >= 256:
                        self._stateless.clear()
                    self._stateless[origin] = is_stateless
                talk.version = STATELESS[0] if is_stateless else None
                if not is_stateless:
                    await talk.shake_hands()
                yield talk
                await talk.part()
        except ServerFault:
            # It may speak another form by now.
            self._stateless.pop(_key("", server), None)
            raise
        except TimeoutError as error:
            raise ServerFault(f"The server did not answer within {timeout_s:g} seconds.", code=-32001) from error
        except aiohttp.ClientError as error:
            raise ServerFault(f"The server cannot be reached: {type(error).__name__}.") from error


class _Talk:
    """Questions to one server, on a connection of their own."""

    def __init__(self, http: aiohttp.ClientSession, url: str, headers: Mapping[str, str], max_bytes: int) -> None:
        self._http = http
        #: As the guard read it: what is checked is what is asked.
        self._url = url
        self._given = headers
        self._max_bytes = max_bytes
        #: None before a version is settled.
        self.version: str | None = None
        self._session: str | None = None
        self._number = 0

    async def discover(self) -> bool:
        """Whether the server speaks the stateless form; one that refuses the question does not."""
        self.version = STATELESS[0]
        try:
            found = await self.request("server/discover", {})
        except ServerFault as fault:
            if fault.status is not None and fault.status not in (400, 404, 405, 406, 422):
                raise
            return False
        versions = found.get("supportedVersions")
        return isinstance(versions, list) and STATELESS[0] in versions

    async def shake_hands(self) -> None:
        asked = {"protocolVersion": HANDSHAKE[0], "capabilities": {}, "clientInfo": _CLIENT}
        found = await self.request("initialize", asked)
        version = found.get("protocolVersion")
        if version not in _SPOKEN:
            raise ServerFault(f"The server speaks the version {str(version)[:40]!r} of the protocol, which is not spoken here.")
        self.version = str(version)
        await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"}, {})

    async def part(self) -> None:
        """End the session, where the server keeps one."""
        if self._session is not None:
            with contextlib.suppress(aiohttp.ClientError):
                async with self._http.delete(self._url, headers=self._headers({}), allow_redirects=False):
                    self._session = None

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of one request; raises ServerFault."""
        self._number += 1
        routing: dict[str, str] = {}
        if self.version in STATELESS:
            meta = {VERSION_KEY: self.version, CAPABILITIES_KEY: {}, "io.modelcontextprotocol/clientInfo": _CLIENT}
            params = {**params, "_meta": meta}
            routing["mcp-method"] = method
            if "name" in params:
                routing["mcp-name"] = _header_value(params["name"])
        found = await self._post({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}, routing)
        if found is None:
            raise ServerFault("The server took the request and gave no answer.")
        error = found.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            raise ServerFault(str(error.get("message"))[:1000], code=code if isinstance(code, int) else None)
        result = found.get("result")
        if not isinstance(result, dict):
            raise ServerFault("The server's answer has no result.")
        return result

    def _headers(self, routing: dict[str, str]) -> dict[str, str]:
        found = {
            **self._given,
            **routing,
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
        }
        if self.version is not None:
            found["mcp-protocol-version"] = self.version
        if self._session is not None:
            found["mcp-session-id"] = self._session
        return found

    async def _post(self, message: dict[str, Any], routing: dict[str, str]) -> dict[str, Any] | None:
        asking = self._http.post(self._url, data=orjson.dumps(message), headers=self._headers(routing), allow_redirects=False)
        async with asking as response:
            if 300 <= response.status < 400:
                raise ServerFault("The server redirects: name the final address instead.", status=response.status)
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise ServerFault("The server packs its answer although it was asked not to.")
            session = response.headers.get("mcp-session-id")
            if session is not None and _SESSION.fullmatch(session):
                self._session = session
            is_stream = response.content_type == "text/event-stream"
            if response.status == 200 and is_stream:
                return await self._from_events(response, message.get("id"))
            content = bytearray()
            async for piece in response.content.iter_any():
                content += piece
                self._check(len(content))
            if response.status == 202 or "id" not in message:
                return None
            try:
                found = orjson.loads(bytes(content))
            except orjson.JSONDecodeError:
                found = None
            if response.status != 200 and not (isinstance(found, dict) and isinstance(found.get("error"), dict)):
                raise ServerFault(f"The server answered with HTTP {response.status}.", status=response.status)
            if response.status in (401, 403) or response.status >= 500:
                raise ServerFault(f"The server answered with HTTP {response.status}.", status=response.status)
            if not isinstance(found, dict):
                raise ServerFault("The server's answer is no JSON-RPC message.")
            return found

    async def _from_events(self, response: aiohttp.ClientResponse, request_id: Any) -> dict[str, Any]:
        """The answer among the events of a stream; the server's own requests and notifications are passed over."""
        rest, num_bytes, data = b"", 0, list[bytes]()
        async for piece in response.content.iter_any():
            num_bytes += len(piece)
            self._check(num_bytes)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                line = line.rstrip(b"\r")
                if line.startswith(b"data:"):
                    data.append(line[5:].removeprefix(b" "))
                elif not line and data:
                    try:
                        found = orjson.loads(b"\n".join(data))
                    except orjson.JSONDecodeError as error:
                        raise ServerFault("The server sent an event that is not JSON.") from error
                    data = []
                    if isinstance(found, dict) and found.get("id") == request_id and "method" not in found:
                        return found
        raise ServerFault("The server's stream ended without an answer.")

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise ServerFault(f"The server's answer is larger than {self._max_bytes} bytes.")


def _key(project_id: str, server: Server) -> str:
    said = orjson.dumps([project_id, server.url, sorted(server.headers.items())])
    return hashlib.sha256(said).hexdigest()


def _tool(given: Any) -> dict[str, Any] | None:
    """A tool as OpenAI's item lists it; None where the server's words for it are not in form."""
    if not isinstance(given, dict) or not isinstance(name := given.get("name"), str) or not _NAME.fullmatch(name):
        return None
    schema = given.get("inputSchema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return None
    said, hints = given.get("description"), given.get("annotations")
    return {
        "name": name,
        "description": said[:_MAX_DESCRIPTION] if isinstance(said, str) else None,
        "input_schema": schema,
        "annotations": hints if isinstance(hints, dict) else None,
    }


def _text_of(part: Mapping[str, Any]) -> str:
    text = part.get("text")
    return text if part.get("type") == "text" and isinstance(text, str) else f"[{str(part.get('type'))[:40]}]"


def _header_value(text: str) -> str:
    if _HEADER_SAFE.fullmatch(text) and not text.startswith("=?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="
