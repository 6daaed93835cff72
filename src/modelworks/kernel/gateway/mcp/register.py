"""The tool servers of a project: named once, with what may be called there and what is sent along, used by that name.

What is sent comes from the project's sealed secrets at the moment of asking; the register holds their names alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import InvalidRequest, NotFound, UpstreamFailed
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.egress import check_url
from modelworks.kernel.gateway.mcp.rules import VALUE, Choice, choice, is_sendable, unasked, wrong
from modelworks.kernel.gateway.mcp.servers import Server, ServerFault, ToolServers
from modelworks.kernel.gateway.store import McpServerRow

#: How long a list of tools is good, also across restarts.
_LIST_LIFE: Final = timedelta(hours=1)
_MAX_HEADERS: Final = 16

OpenSecret = Callable[[str, str], str]


class McpServerPut(BaseModel):
    """PUT /api/mcp-servers/{name}."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=2048, description="Where the server answers, as https://tools.plant.example/mcp.")
    description: str | None = Field(default=None, max_length=2000)
    authorization_secret: str | None = Field(
        default=None, max_length=100, description="The secret that is sent as `Authorization: Bearer …`."
    )
    header_secrets: dict[str, str] = Field(
        default_factory=dict,
        max_length=_MAX_HEADERS,
        description="Headers, each with the name of its secret.",
    )
    allowed_tools: Any = Field(default=None, description="Names, or an object with tool_names or read_only; default: all.")
    require_approval: Any = Field(default="always", description="always, never, or an object that says which tools of both.")
    timeout_s: float | None = Field(default=None, gt=0, le=3600, description="For one answer; default: the platform's setting.")


class McpServer(BaseModel):
    """A server that responses may name. What is sent to it is shown by the names of secrets alone."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["mcp_server"] = "mcp_server"
    name: str
    url: str
    description: str | None
    authorization_secret: str | None
    header_secrets: dict[str, str]
    allowed_tools: Any
    require_approval: Any
    timeout_s: float | None
    #: When its tools were last listed.
    listed_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Registered:
    """A server as it is asked; holds secrets, so that it is never shown, kept or logged."""

    name: str
    server: Server
    allowed: Choice
    unasked: Choice | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The tools that may be called, and when they were listed."""

    tools: list[dict[str, Any]]
    listed_at: datetime


class ToolRegister:
    """The servers of projects; another project's do not exist for it. Methods with a `session` take part in its transaction.

    Args:
        servers: asks them.
        open_secret: the value of a project's secret by its name.
        allow: exceptions of the egress guard.
    """

    def __init__(
        self, db: Database, clock: Clock, servers: ToolServers, open_secret: OpenSecret, allow: Sequence[str] = ()
    ) -> None:
        self.db = db
        self._clock = clock
        self._servers = servers
        self._open_secret = open_secret
        self._allow = tuple(allow)

    def check(self, project_id: str, wanted: McpServerPut) -> None:
        """Whether this may be registered; looks the address up.

        Raises:
            InvalidRequest: a rule is not in form, or a header cannot be sent. NotFound: there is no such secret.
            PermissionDenied, UpstreamFailed: the address must not or cannot be reached.
        """
        choice(wanted.allowed_tools, "allowed_tools")
        unasked(wanted.require_approval, "require_approval")
        for header in wanted.header_secrets:
            if not is_sendable(header) or (header.lower() == "authorization" and wanted.authorization_secret is not None):
                raise wrong("header_secrets", f"the header {header[:80]!r} cannot be sent")
        check_url(wanted.url, self._allow)
        self._headers(project_id, wanted.authorization_secret, wanted.header_secrets)

    def put(self, session: Session, project_id: str, name: str, wanted: McpServerPut) -> McpServer:
        """Register a server, or change the one that has the name; `check` comes before."""
        now = self._clock.now()
        row = session.get(McpServerRow, (project_id, name), with_for_update=True)
        if row is None:
            row = McpServerRow(project_id=project_id, name=name, created_at=now)
            session.add(row)
        for field, value in wanted.model_dump().items():
            setattr(row, field, value)
        row.tools, row.listed_at, row.updated_at = None, None, now
        session.flush()
        return McpServer.model_validate(row)

    def list_servers(self, session: Session, project_id: str) -> list[McpServer]:
        """All of the project, by name."""
        query = select(McpServerRow).where(McpServerRow.project_id == project_id).order_by(McpServerRow.name)
        return [McpServer.model_validate(row) for row in session.scalars(query)]

    def get(self, session: Session, project_id: str, name: str) -> McpServer:
        """One of them; raises NotFound."""
        return McpServer.model_validate(_row(session, project_id, name))

    def remove(self, session: Session, project_id: str, name: str) -> McpServer:
        """Forget a server; raises NotFound."""
        row = _row(session, project_id, name)
        gone = McpServer.model_validate(row)
        session.delete(row)
        session.flush()
        return gone

    def find(self, project_id: str, name: str) -> Registered:
        """What a response needs of the server of that name.

        Raises:
            NotFound: there is none of that name (`mcp_server_not_found`), or a secret of it is gone.
        """
        with self.db.reading() as session:
            row = _row(session, project_id, name)
        headers = self._headers(project_id, row.authorization_secret, row.header_secrets)
        server = Server(row.url, headers, row.timeout_s)
        allowed = choice(row.allowed_tools, "allowed_tools")
        return Registered(name, server, allowed, unasked(row.require_approval, "require_approval"))

    async def tools(self, project_id: str, name: str, *, refresh: bool = False) -> Listing:
        """Its tools that may be called, as they were listed within the last hour; asks the server otherwise, or with `refresh`.

        Raises:
            NotFound: as `find`. PermissionDenied: the address must not be reached.
            UpstreamFailed: the server does not tell.
        """
        found = await run_in_threadpool(self.find, project_id, name)
        kept = None if refresh else await run_in_threadpool(self._kept, project_id, name)
        if kept is None:
            try:
                tools = await self._servers.tools(project_id, found.server, refresh=refresh)
            except ServerFault as fault:
                raise UpstreamFailed(
                    f"The tools of the server {name!r} cannot be listed: {fault.message}",
                    hint="Look at that server, its address and the secrets that are sent to it.",
                    code="tool_server_failed",
                ) from fault
            kept = Listing(tools, self._clock.now())
            await run_in_threadpool(self._keep, project_id, name, found.server.url, kept)
        return Listing([tool for tool in kept.tools if found.allowed.holds(tool)], kept.listed_at)

    def _kept(self, project_id: str, name: str) -> Listing | None:
        with self.db.reading() as session:
            row = _row(session, project_id, name)
        if row.tools is None or row.listed_at is None or row.listed_at + _LIST_LIFE < self._clock.now():
            return None
        return Listing(row.tools, row.listed_at)

    def _keep(self, project_id: str, name: str, url: str, listing: Listing) -> None:
        with self.db.transaction() as session:
            row = session.get(McpServerRow, (project_id, name), with_for_update=True)
            if row is not None and row.url == url:  # otherwise it was changed while it was asked
                row.tools, row.listed_at = listing.tools, listing.listed_at

    def _headers(self, project_id: str, authorization: str | None, headers: dict[str, str]) -> dict[str, str]:
        found = {header: self._open_secret(project_id, secret) for header, secret in headers.items()}
        if authorization is not None:
            found["Authorization"] = f"Bearer {self._open_secret(project_id, authorization)}"
        for header, value in found.items():
            if VALUE.fullmatch(value) is None:
                raise InvalidRequest(
                    f"The secret for the header {header!r} has characters that no header can carry.",
                    hint="Store it anew, without line ends.",
                    code="invalid_value",
                )
        return found


def _row(session: Session, project_id: str, name: str) -> McpServerRow:
    row = session.get(McpServerRow, (project_id, name))
    if row is None:
        raise NotFound(
            f"The project has no tool server {name!r}.",
            hint="Register it: modelworks mcp add; modelworks mcp ls shows those that there are.",
            code="mcp_server_not_found",
        )
    return row
