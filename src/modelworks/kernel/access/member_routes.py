"""HTTP: organisations, accounts and memberships."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from modelworks.kernel.access.members import MemberService
from modelworks.kernel.access.routes import PrincipalDependency, require
from modelworks.kernel.access.schemas import (
    Member,
    MemberPut,
    Organisation,
    OrganisationCreate,
    Principal,
    Project,
    ProjectCreate,
    ProjectUpdate,
    User,
    UserCreate,
)


def router(members: MemberService, principal: PrincipalDependency) -> APIRouter:
    """Routes under `/api`."""
    routes = APIRouter(prefix="/api", tags=["access"])
    reader = require(principal, "read")
    admin = require(principal, "admin")

    @routes.post("/organisations", status_code=201)
    def create_organisation(body: OrganisationCreate, caller: Principal = Depends(admin)) -> Organisation:
        """Create an organisation (administrators of the platform)."""
        with members.db.transaction() as session:
            members.access.require_platform_admin(session, caller)
            return members.create_organisation(session, body.name)

    @routes.get("/organisations")
    def list_organisations(caller: Principal = Depends(reader)) -> dict[str, Any]:
        """The organisations that the caller may see."""
        with members.db.reading() as session:
            found = members.list_organisations(session, caller)
        return {"object": "list", "data": found, "has_more": False}

    @routes.post("/projects", status_code=201)
    def create_project(body: ProjectCreate, caller: Principal = Depends(admin)) -> Project:
        """Create a project (administrators of the platform; owners and admins of the organisation that is named)."""
        with members.db.transaction() as session:
            return members.create_project(session, caller, body.name, body.organisation_id, body.use)

    @routes.patch("/projects/{project_id}")
    def update_project(project_id: str, body: ProjectUpdate, caller: Principal = Depends(admin)) -> Project:
        """Declare what a project does with models (its owners and admins)."""
        with members.db.transaction() as session:
            return members.declare_use(session, caller, project_id, body.use)

    @routes.post("/users", status_code=201)
    def create_user(body: UserCreate, caller: Principal = Depends(admin)) -> User:
        """Create a service account, or a person (administrators of the platform), with a role in one place."""
        with members.db.transaction() as session:
            return members.create_user(session, caller, body)

    @routes.post("/users/{user_id}/disable")
    def disable_user(user_id: str, caller: Principal = Depends(admin)) -> User:
        """Refuse an account with all of its keys and sessions (administrators of the platform)."""
        with members.db.transaction() as session:
            return members.set_disabled(session, caller, user_id, True)

    @routes.post("/users/{user_id}/enable")
    def enable_user(user_id: str, caller: Principal = Depends(admin)) -> User:
        """Let a disabled account work again (administrators of the platform)."""
        with members.db.transaction() as session:
            return members.set_disabled(session, caller, user_id, False)

    @routes.get("/members")
    def list_members(place_id: str | None = None, caller: Principal = Depends(admin)) -> dict[str, Any]:
        """Who has which role in an organisation or a project; by default the caller's project."""
        with members.db.reading() as session:
            found = members.members(session, caller, place_id or caller.project_id)
        return {"object": "list", "data": found, "has_more": False}

    @routes.put("/members/{user_id}")
    def put_member(user_id: str, body: MemberPut, caller: Principal = Depends(admin)) -> Member:
        """Give an account (by id or address) a role in an organisation or a project."""
        with members.db.transaction() as session:
            return members.put_member(session, caller, body.place_id or caller.project_id, user_id, body.role)

    @routes.delete("/members/{user_id}")
    def remove_member(user_id: str, place_id: str | None = None, caller: Principal = Depends(admin)) -> Member:
        """Take an account's role in an organisation or a project away."""
        with members.db.transaction() as session:
            return members.remove_member(session, caller, place_id or caller.project_id, user_id)

    return routes
