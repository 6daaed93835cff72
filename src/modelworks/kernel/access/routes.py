"""HTTP: keys, projects, usage, and the check that every other room's routes stand behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.access.schemas import (
    GroupBy,
    Key,
    KeyCreate,
    KeyRotate,
    KeyWithSecret,
    Principal,
    UsageSummary,
    WhoAmI,
    as_list,
)
from modelworks.kernel.access.service import AccessService
from modelworks.kernel.access.sessions import cookie_secret
from modelworks.kernel.base.changes import AUTHOR
from modelworks.kernel.base.clock import is_moment

PrincipalDependency = Callable[[Request], Awaitable[Principal]]


def presented_secret(request: Request) -> str | None:
    """The key of `Authorization: Bearer`, else of `x-api-key`, else the session's cookie; all go through the same check."""
    authorization = request.headers.get("authorization")
    if authorization:
        scheme, _, secret = authorization.partition(" ")
        return secret.strip() if scheme.lower() == "bearer" else None
    return request.headers.get("x-api-key") or cookie_secret(request.scope)


def principal_dependency(access: AccessService) -> PrincipalDependency:
    """The dependency that names the caller; it costs microseconds while the key is in memory."""

    async def principal(request: Request) -> Principal:
        secret = presented_secret(request)
        found = access.cached(secret)
        if found is None:
            found = await run_in_threadpool(access.authenticate, secret)
        request.state.principal = found
        AUTHOR.set(found.author)
        found.require_address(request.client)
        return found

    return principal


def require(principal: PrincipalDependency, scope: str) -> PrincipalDependency:
    """`principal`, refused with PermissionDenied unless the key carries `scope`."""

    async def checked(request: Request) -> Principal:
        found = await principal(request)
        found.require(scope)
        return found

    return checked


def with_zone(**moments: datetime | None) -> None:
    """Raise InvalidRequest where a moment has no time zone, or cannot be told in UTC."""
    for name, moment in moments.items():
        if moment is not None and not is_moment(moment):
            raise InvalidRequest(
                f"{name} has no time zone, or lies beyond the calendar.",
                hint="Write it as 2026-01-31T00:00:00Z, a plus sign as %2B.",
                param=name,
            )


def router(access: AccessService, principal: PrincipalDependency) -> APIRouter:
    """Routes under `/api`."""
    routes = APIRouter(prefix="/api", tags=["access"])
    reader = require(principal, "read")
    admin = require(principal, "admin")

    @routes.get("/whoami")
    async def whoami(caller: Principal = Depends(principal)) -> WhoAmI:
        """The key in use, its project and what it may do."""
        return WhoAmI(
            key_id=caller.key_id,
            key_prefix=caller.key_prefix,
            name=caller.name,
            project_id=caller.project_id,
            scopes=sorted(caller.scopes),
            model_allow=None if caller.model_allow is None else list(caller.model_allow),
            user_id=caller.user_id,
        )

    @routes.post("/keys", status_code=201)
    def create_key(body: KeyCreate, caller: Principal = Depends(admin)) -> KeyWithSecret:
        """Create a key. Its secret is in this answer and nowhere else."""
        project_id = body.project_id or caller.project_id
        with access.db.transaction() as session:
            if project_id != caller.project_id:
                access.require_platform_admin(session, caller)
            key, secret = access.create_key(
                session,
                project_id,
                body.name,
                scopes=body.scopes,
                expires_at=body.expires_at,
                model_allow=body.model_allow,
                ip_allow=body.ip_allow,
                user_id=body.user_id,
            )
        return KeyWithSecret(**key.model_dump(), secret=secret)

    @routes.get("/keys")
    def list_keys(
        caller: Principal = Depends(admin),
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        project_id: str | None = None,
    ) -> dict[str, Any]:
        """Keys of the project, newest first, without their secrets."""
        with access.db.reading() as session:
            if project_id is not None and project_id != caller.project_id:
                access.require_platform_admin(session, caller)
            items, has_more = access.list_keys(session, project_id or caller.project_id, after, limit)
        return as_list(items, has_more=has_more)

    @routes.delete("/keys/{key_id}")
    def revoke_key(key_id: str, caller: Principal = Depends(admin), project_id: str | None = None) -> Key:
        """Revoke a key; requests with it are refused from now on."""
        with access.db.transaction() as session:
            if project_id is not None and project_id != caller.project_id:
                access.require_platform_admin(session, caller)
            return access.revoke_key(session, project_id or caller.project_id, key_id)

    @routes.post("/keys/{key_id}/rotate", status_code=201)
    def rotate_key(
        key_id: str, body: KeyRotate, caller: Principal = Depends(admin), project_id: str | None = None
    ) -> KeyWithSecret:
        """Make a successor with the same rights; the old secret works for `overlap_s` more seconds."""
        with access.db.transaction() as session:
            if project_id is not None and project_id != caller.project_id:
                access.require_platform_admin(session, caller)
            key, secret = access.rotate_key(
                session, project_id or caller.project_id, key_id, overlap_s=body.overlap_s, expires_at=body.expires_at
            )
        return KeyWithSecret(**key.model_dump(), secret=secret)

    @routes.get("/projects")
    def list_projects(caller: Principal = Depends(reader)) -> dict[str, Any]:
        """The projects that the caller may see."""
        with access.db.reading() as session:
            return as_list(access.visible_projects(session, caller), has_more=False)

    @routes.get("/usage")
    def usage(
        caller: Principal = Depends(reader),
        since: datetime | None = None,
        until: datetime | None = None,
        group_by: GroupBy = "model",
    ) -> UsageSummary:
        """Requests and tokens of the project, by model, key or day (UTC)."""
        with_zone(since=since, until=until)
        with access.db.reading() as session:
            return access.usage_summary(session, caller.project_id, since, until, group_by)

    @routes.get("/usage/requests")
    def usage_requests(
        caller: Principal = Depends(reader),
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    ) -> dict[str, Any]:
        """The project's recorded requests, newest first."""
        with access.db.reading() as session:
            items, has_more = access.list_usage(session, caller.project_id, after, limit)
        return as_list(items, has_more=has_more)

    return routes
