"""The client's methods for tool servers elsewhere (MCP): `client.mcp_servers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.client.transport import AsyncGroup, Page, Record, Shell, given, segment, waits


class AsyncMcpServers(AsyncGroup):
    """Tool servers elsewhere that responses of the project may name."""

    async def put(
        self,
        name: str,
        url: str,
        *,
        description: str | None = None,
        authorization_secret: str | None = None,
        header_secrets: Mapping[str, str] | None = None,
        allowed_tools: Any = None,
        require_approval: Any = None,
        timeout_s: float | None = None,
        dry_run: bool = False,
    ) -> Record:
        """Register a server, or change the one that has the name. What is sent there is given by the names of secrets."""
        body = given(
            url=url,
            description=description,
            authorization_secret=authorization_secret,
            header_secrets=None if header_secrets is None else dict(header_secrets),
            allowed_tools=allowed_tools,
            require_approval=require_approval,
            timeout_s=timeout_s,
        )
        path = f"/api/mcp-servers/{segment(name)}"
        return dict(await self._transport.json("PUT", path, json=body, params=given(dry_run=dry_run or None)))

    async def list(self) -> Page:
        """All of the project."""
        return await self._transport.page("/api/mcp-servers")

    async def get(self, name: str) -> Record:
        """One of them; raises NotFound."""
        return dict(await self._transport.json("GET", f"/api/mcp-servers/{segment(name)}"))

    async def remove(self, name: str) -> Record:
        """Forget a server; raises NotFound."""
        return dict(await self._transport.json("DELETE", f"/api/mcp-servers/{segment(name)}"))

    async def tools(self, name: str, *, refresh: bool = False) -> Page:
        """The tools that may be called there; with `refresh` the server is asked anew."""
        return await self._transport.page(f"/api/mcp-servers/{segment(name)}/tools", **given(refresh=refresh or None))


class McpServers(Shell[AsyncMcpServers]):
    """`AsyncMcpServers`, waiting."""

    put = waits(AsyncMcpServers.put)
    list = waits(AsyncMcpServers.list)
    get = waits(AsyncMcpServers.get)
    remove = waits(AsyncMcpServers.remove)
    tools = waits(AsyncMcpServers.tools)
