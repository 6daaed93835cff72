"""Tools of servers elsewhere in a response (`{"type": "mcp"}`): which there are, which need approval, what they answered.

What a server says of its tools is data: it becomes the description of a function and never a message; what a tool answers
becomes the turn of a tool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import ModelworksError, NotFound, UnsupportedParameter, UpstreamFailed
from modelworks.kernel.gateway.mcp.register import Registered, ToolRegister
from modelworks.kernel.gateway.mcp.rules import LABEL, VALUE, Choice, choice, is_sendable, unasked, wrong
from modelworks.kernel.gateway.mcp.servers import Server, ServerFault, ToolServers
from modelworks.kernel.gateway.responses.items import Item, function_name

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


@dataclass(slots=True)
class Remote:
    """One server that a request names."""

    place: str
    label: str
    server: Server
    allowed: Choice
    #: Tools that may be called at once; all others wait for approval.
    unasked: Choice | None
    #: Whether the project's register knows it under the label, and what that says of it, of which nothing is taken back.
    is_named: bool = False
    registered: Registered | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)

    def needs_approval(self, name: str) -> bool:
        """Whether a person must agree before the tool is called."""
        tool = next((each for each in self.tools if each["name"] == name), None)
        rules = [self.unasked] if self.registered is None else [self.unasked, self.registered.unasked]
        return tool is None or any(rule is None or not rule.holds(tool) for rule in rules)


def parse(tools: Sequence[Mapping[str, Any]] | None) -> list[Remote]:
    """The servers among a request's tools.

    Raises:
        InvalidRequest, UnsupportedParameter: what is said of one is wrong; `param` names the place.
    """
    found = [_remote(tool, f"tools.{number}") for number, tool in enumerate(tools or ()) if tool.get("type") == "mcp"]
    labels = [each.label for each in found]
    for each in found:
        if labels.count(each.label) > 1:
            raise wrong(f"{each.place}.server_label", f"{each.label!r} stands there twice")
    return found


def _remote(tool: Mapping[str, Any], place: str) -> Remote:
    for name, value in tool.items():
        if name not in _KNOWN and value is not None:
            raise UnsupportedParameter(
                f"{place}.{name}: is not supported.",
                hint="Name the server by its address, or by its name in the project as server_label.",
                param=f"{place}.{name}",
            )
    label, url = tool.get("server_label"), tool.get("server_url")
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise wrong(f"{place}.server_label", "must be a name of letters, digits, _ and -, beginning with a letter")
    if not isinstance(tool.get("server_description") or "", str):
        raise wrong(f"{place}.server_description", "must be a text")
    allowed = choice(tool.get("allowed_tools"), f"{place}.allowed_tools")
    if url is None:
        return _named(tool, place, label, allowed)
    if not isinstance(url, str) or not url:
        raise wrong(f"{place}.server_url", "must be the address of a server")
    headers = tool.get("headers") or {}
    if not isinstance(headers, dict):
        raise wrong(f"{place}.headers", "must be an object of texts")
    for name, value in headers.items():
        if not is_sendable(name, value):
            raise wrong(f"{place}.headers", f"the header {str(name)[:80]!r} cannot be sent")
    token = tool.get("authorization")
    if token is not None:
        if not isinstance(token, str) or not VALUE.fullmatch(token):
            raise wrong(f"{place}.authorization", "must be a token")
        headers = {**headers, "Authorization": f"Bearer {token}"}
    rule = unasked(tool.get("require_approval"), f"{place}.require_approval")
    return Remote(place, label, Server(url, headers), allowed, rule)


def _named(tool: Mapping[str, Any], place: str, label: str, allowed: Choice) -> Remote:
    """A server of the project's register, which a label without an address names."""
    for field_name in ("headers", "authorization"):
        if tool.get(field_name):
            raise wrong(f"{place}.{field_name}", "what is sent to a server of the project is said where it is registered")
    # Where nothing is said, the register's own rule holds; what is said can only add to it.
    said = tool.get("require_approval")
    rule = Choice() if said is None else unasked(said, f"{place}.require_approval")
    return Remote(place, label, Server(""), allowed, rule, is_named=True)


def shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A server as the response shows it: without what is secret, which addresses below the host may be too."""
    address = tool.get("server_url")
    if isinstance(address, str):
        origin = "/".join(address.split("/")[:3])
        address = origin if origin == address else f"{origin}/<redacted>"
    kept = {name: value for name, value in tool.items() if name not in ("headers", "authorization")}
    return {
        "allowed_tools": None,
        "require_approval": "always",
        "server_description": None,
        **kept,
        "headers": None,
        "server_url": address,
    }


class Toolbox:
    """The servers of one request, asked on its way.

    Args:
        project_id: whose lists of tools these are.
        register: the servers that the project names; without it there are none.
    """

    def __init__(
        self, servers: ToolServers, project_id: str, remotes: Sequence[Remote], register: ToolRegister | None = None
    ) -> None:
        self._servers = servers
        self._register = register
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
            tools = await self._tools(remote)
        except ServerFault as fault:
            raise UpstreamFailed(
                f"{remote.place}: the tools of the server {remote.label!r} cannot be listed: {fault.message}",
                hint="Look at that server, or leave it out.",
                param=remote.place,
                code="tool_server_failed",
            ) from fault
        except ModelworksError as error:
            error.param = f"{remote.place}.{'server_label' if remote.is_named else 'server_url'}"
            raise
        remote.tools = [tool for tool in tools if remote.allowed.holds(tool)]
        for tool in remote.tools:
            self._functions[function_name(remote.label, tool["name"])] = remote, tool["name"]
        return {"server_label": remote.label, "tools": remote.tools, "error": None}

    async def _tools(self, remote: Remote) -> list[dict[str, Any]]:
        if not remote.is_named:
            return await self._servers.tools(self._project_id, remote.server)
        if self._register is None:
            raise NotFound(f"There is no tool server {remote.label!r}: servers cannot be registered here.")
        remote.registered = await run_in_threadpool(self._register.find, self._project_id, remote.label)
        remote.server = remote.registered.server
        return (await self._register.tools(self._project_id, remote.label)).tools

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
            raise wrong("tool_choice", "names no tool of the servers")
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
