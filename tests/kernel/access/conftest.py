"""The room behind its routes, and the administrator's key."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.access import AccessService, MemberService, member_routes
from modelworks.kernel.access.routes import principal_dependency, router
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events


@pytest.fixture
def access(database: Database, clock: FixedClock, events: Events) -> AccessService:
    return AccessService(database, clock, events)


@pytest.fixture
def admin_key(access: AccessService, tmp_path: Path) -> str:
    """The key of the platform's first administrator."""
    with access.db.transaction() as session:
        access.bootstrap(session, tmp_path)
    return (tmp_path / "admin.key").read_text().strip()


@pytest.fixture
def admin(admin_key: str) -> dict[str, str]:
    """Headers with that key."""
    return {"authorization": f"Bearer {admin_key}"}


@pytest.fixture
def app(access: AccessService, clock: FixedClock, events: Events) -> FastAPI:
    """The routes of projects, keys and members; errors have the form that clients read."""
    made = FastAPI()
    principal = principal_dependency(access)
    made.include_router(router(access, principal))
    made.include_router(member_routes.router(MemberService(access, clock, events), principal))

    @made.exception_handler(ModelworksError)
    async def render(_: Request, error: ModelworksError) -> JSONResponse:
        return JSONResponse(error.envelope(), error.status)

    return made
