"""HTTP: the tool servers of the project."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from modelworks.kernel.access.routes import PrincipalDependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.gateway.mcp.register import McpServer, McpServerPut, ToolRegister
from modelworks.kernel.gateway.mcp.rules import LABEL

Name = Annotated[str, Path(pattern=f"^{LABEL.pattern}$")]


def router(register: ToolRegister, principal: PrincipalDependency) -> APIRouter:
    """Routes under `/api/mcp-servers`."""
    routes = APIRouter(prefix="/api/mcp-servers", tags=["access"])
    reader = require(principal, "read")
    admin = require(principal, "admin")

    @routes.get("")
    def list_mcp_servers(caller: Principal = Depends(reader)) -> dict[str, Any]:
        """The tool servers that responses of the project may name."""
        with register.db.reading() as session:
            found = register.list_servers(session, caller.project_id)
        return {"object": "list", "data": found, "has_more": False}

    @routes.put("/{name}")
    def put_mcp_server(name: Name, body: McpServerPut, caller: Principal = Depends(admin), dry_run: bool = False) -> McpServer:
        """Register a tool server, or change the one that has the name."""
        register.check(caller.project_id, body)
        with register.db.transaction() as session:
            found = register.put(session, caller.project_id, name, body)
            if dry_run:
                session.rollback()
        return found

    @routes.get("/{name}")
    def get_mcp_server(name: Name, caller: Principal = Depends(reader)) -> McpServer:
        """One of them."""
        with register.db.reading() as session:
            return register.get(session, caller.project_id, name)

    @routes.delete("/{name}")
    def remove_mcp_server(name: Name, caller: Principal = Depends(admin)) -> McpServer:
        """Forget a tool server."""
        with register.db.transaction() as session:
            return register.remove(session, caller.project_id, name)

    @routes.get("/{name}/tools")
    async def list_mcp_tools(name: Name, caller: Principal = Depends(reader), refresh: bool = False) -> dict[str, Any]:
        """The tools that may be called there; the list is kept for an hour, `refresh` asks the server anew."""
        found = await register.tools(caller.project_id, name, refresh=refresh)
        return {"object": "list", "data": found.tools, "has_more": False, "listed_at": found.listed_at}

    return routes
