"""Tools of servers elsewhere in a response (`{"type": "mcp"}`): which there are, which need approval, what they answered.

What a server says of its tools is data: it becomes the description of a function and never a message; what a tool answers
becomes the turn of a tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from modelworks.contract.errors import InvalidRequest, ModelworksError, UnsupportedParameter, UpstreamFailed
from modelworks.kernel.gateway.mcp.servers import Server, ServerFault, ToolServers
from modelworks.kernel.gateway.responses.items import Item, function_name

_LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE: Final = re.compile(r"[\x20-\x7e\t]{0,8192}")
#: Headers that are the protocol's and the connection's own.
_OWN_HEADERS: Final = re.compile(
    r"(?i)host|connection|content-.*|transfer-encoding|accept.*|te|trailer|upgrade|expect|mcp-.*|cookie"
)
_KNOWN: Final = {
    "type",
    "server_label",
    "server_url",
    "server_description",
    "headers",
    "authorization",
    "allowed_tools",
    "require_approval",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Some tools of a server: by name, or by whether they say that they only read. Without either, all."""

    names: frozenset[str] | None = None
    read_only: bool | None = None

    def holds(self, tool: Mapping[str, Any]) -> bool:
        if self.names is not None and tool["name"] not in self.names:
            return False
        reads = bool((tool.get("annotations") or {}).get("readOnlyHint"))
        return self.read_only is None or reads == self.read_only


@dataclass(slots=True)
class Remote:
    """One server that a request names."""

    place: str
    label: str
    server: Server
    allowed: Choice
    #: Tools that may be called at once; all others wait for approval.
    unasked: Choice | None
    tools: list[dict[str, Any]] = field(default_factory=list)

    def needs_approval(self, name: str) -> bool:
        """Whether a person must agree before the tool is called."""
        tool = next((each for each in self.tools if each["name"] == name), None)
        return tool is None or self.unasked is None or not self.unasked.holds(tool)


def parse(tools: Sequence[Mapping[str, Any]] | None) -> list[Remote]:
    """The servers among a request's tools.

    Raises:
        InvalidRequest, UnsupportedParameter: what is said of one is wrong; `param` names the place.
    """
    found = [_remote(tool, f"tools.{number}") for number, tool in enumerate(tools or ()) if tool.get("type") == "mcp"]
    labels = [each.label for each in found]
    for each in found:
        if labels.count(each.label) > 1:
            raise _wrong(f"{each.place}.server_label", f"{each.label!r} stands there twice")
    return found


def _remote(tool: Mapping[str, Any], place: str) -> Remote:
    for name, value in tool.items():
        if name not in _KNOWN and value is not None:
            raise UnsupportedParameter(
                f"{place}.{name}: is not supported.", hint="Name the server by its server_url.", param=f"{place}.{name}"
            )
    label, url = tool.get("server_label"), tool.get("server_url")
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise _wrong(f"{place}.server_label", "must be a name of letters, digits, _ and -, beginning with a letter")
    if not isinstance(url, str) or not url:
        raise _wrong(f"{place}.server_url", "must be the address of a server")
    headers = tool.get("headers") or {}
    if not isinstance(headers, dict):
        raise _wrong(f"{place}.headers", "must be an object of texts")
    for name, value in headers.items():
        if (
            not _HEADER.fullmatch(name)
            or _OWN_HEADERS.fullmatch(name)
            or not (isinstance(value, str) and _VALUE.fullmatch(value))
        ):
            raise _wrong(f"{place}.headers", f"the header {str(name)[:80]!r} cannot be sent")
    token = tool.get("authorization")
    if token is not None:
        if not isinstance(token, str) or not _VALUE.fullmatch(token):
            raise _wrong(f"{place}.authorization", "must be a token")
        headers = {**headers, "Authorization": f"Bearer {token}"}
    allowed = _choice(tool.get("allowed_tools"), f"{place}.allowed_tools")
    return Remote(place, label, Server(url, headers), allowed, _unasked(tool.get("require_approval"), place))


def _choice(given: Any, place: str) -> Choice:
    if given is None:
        return Choice()
    if isinstance(given, list):
        given = {"tool_names": given}
    names, read_only = (given.get("tool_names"), given.get("read_only")) if isinstance(given, dict) else (5, None)
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise _wrong(place, "must be a list of names, or an object with tool_names or read_only")
    if read_only is not None and not isinstance(read_only, bool):
        raise _wrong(f"{place}.read_only", "must be true or false")
    return Choice(None if names is None else frozenset(names), read_only)


def _unasked(given: Any, place: str) -> Choice | None:
    """What `never` names; everything else needs approval, as with OpenAI nothing said means always."""
    place = f"{place}.require_approval"
    if given in (None, "always"):
        return None
    if given == "never":
        return Choice()
    if not isinstance(given, dict) or {*given} - {"always", "never"} or not given:
        raise _wrong(place, "must be always, never, or say which tools of both")
    never = None if given.get("never") is None else _choice(given["never"], f"{place}.never")
    always = Choice() if given.get("always") is None else _choice(given["always"], f"{place}.always")
    if never is not None and never.names is not None and always.names is not None and never.names & always.names:
        raise _wrong(place, "names a tool under both always and never")
    return never


def _wrong(place: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {what}.", param=place, code="invalid_value")


def shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A server as the response shows it: without what is secret, which addresses below the host may be too."""
    origin = "/".join(str(tool.get("server_url")).split("/")[:3])
    kept = {name: value for name, value in tool.items() if name not in ("headers", "authorization")}
    return {
        "allowed_tools": None,
        "require_approval": "always",
        "server_description": None,
        **kept,
        "headers": None,
        "server_url": origin if origin == tool.get("server_url") else f"{origin}/<redacted>",
    }


class Toolbox:
    """The servers of one request, asked on its way.

    Args:
        project_id: whose lists of tools these are.
    """

    def __init__(self, servers: ToolServers, project_id: str, remotes: Sequence[Remote]) -> None:
        self._servers = servers
        self._project_id = project_id
        self.remotes = remotes
        #: By the name under which the model calls it.
        self._functions: dict[str, tuple[Remote, str]] = {}

    async def learn(self, remote: Remote) -> Item:
        """Learn a server's tools; returns them as an item without id and type.

        Raises:
            UpstreamFailed: the server cannot be asked. PermissionDenied, InvalidRequest: its address must not be reached.
        """
        try:
            tools = await self._servers.tools(self._project_id, remote.server)
        except ServerFault as fault:
            raise UpstreamFailed(
                f"{remote.place}: the tools of the server {remote.label!r} cannot be listed: {fault.message}",
                hint="Look at that server, or leave it out.",
                param=remote.place,
                code="tool_server_failed",
            ) from fault
        except ModelworksError as error:
            error.param = f"{remote.place}.server_url"
            raise
        remote.tools = [tool for tool in tools if remote.allowed.holds(tool)]
        for tool in remote.tools:
            self._functions[function_name(remote.label, tool["name"])] = remote, tool["name"]
        return {"server_label": remote.label, "tools": remote.tools, "error": None}

    def functions(self) -> list[dict[str, Any]]:
        """The tools as a chat offers them."""
        found = []
        for name, (remote, tool_name) in self._functions.items():
            tool = next(each for each in remote.tools if each["name"] == tool_name)
            function = {"name": name, "parameters": tool["input_schema"]}
            found.append({"type": "function", "function": function | _described(tool)})
        return found

    def choice(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What a chat is told where `tool_choice` names a server, or one of its tools; raises InvalidRequest."""
        names = [
            name
            for name, (remote, tool) in self._functions.items()
            if remote.label == wanted.get("server_label") and wanted.get("name") in (None, tool)
        ]
        if not names:
            raise _wrong("tool_choice", "names no tool of the servers")
        named = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}

    def find(self, name: str) -> tuple[Remote, str] | None:
        """The server and the tool behind a name that the model called."""
        return self._functions.get(name)

    def named(self, label: str, tool: str) -> Remote | None:
        """The server of that label, where it offers the tool."""
        found = self._functions.get(function_name(label, tool))
        return None if found is None else found[0]

    async def call(self, remote: Remote, tool: str, arguments: str) -> tuple[str | None, dict[str, Any] | None]:
        """What a call gave: the tool's output, or the error, as an item holds both."""
        try:
            given = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError:
            given = None
        if not isinstance(given, dict):
            return None, {"type": "mcp_protocol_error", "code": -32602, "message": "The arguments are no JSON object."}
        try:
            outcome = await self._servers.call(remote.server, tool, given)
        except ServerFault as fault:
            return None, fault.wire
        except ModelworksError as error:
            return None, {"type": "http_error", "code": error.status, "message": error.message}
        if outcome.is_error:
            return None, {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": outcome.text}]}
        return outcome.text, None


def _described(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": tool["description"]} if tool["description"] else {}
