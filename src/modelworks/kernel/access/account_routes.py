"""HTTP: budgets, limits, prices, invoices, and the proof that the accounts agree."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from modelworks.kernel.access import invoices as billing
from modelworks.kernel.access.allowances import Allowances, BudgetSet, LimitSet, Shown
from modelworks.kernel.access.prices import Price, Prices, PriceSet
from modelworks.kernel.access.routes import PrincipalDependency, require, with_zone
from modelworks.kernel.access.schemas import Principal, as_list
from modelworks.kernel.access.service import AccessService

_Month = Annotated[str | None, Query(pattern=r"^\d{4}-\d{2}$", description="As 2026-11.")]


def router(access: AccessService, allowances: Allowances, prices: Prices, principal: PrincipalDependency) -> APIRouter:
    """Routes under `/api`.

    What concerns a project as a whole is set by administrators of the platform, what concerns one of its keys or models by its
    own administrators too. Everybody who may read sees what applies to the own project.
    """
    routes = APIRouter(prefix="/api", tags=["accounts"])
    reader = require(principal, "read")
    admin = require(principal, "admin")

    def project_of(session: Session, caller: Principal, project_id: str | None) -> str:
        if project_id is not None and project_id != caller.project_id:
            access.require_platform_admin(session, caller)
            return project_id
        return caller.project_id

    def set_one(body: BudgetSet | LimitSet, caller: Principal, dry_run: bool) -> Shown:
        with access.db.transaction() as session:
            project_id = project_of(session, caller, body.project_id)
            if body.scope == "project":
                access.require_platform_admin(session, caller)
            found = allowances.set(session, project_id, body, caller.key_id)
            if dry_run:
                session.rollback()
            return found

    def listing(kind: Literal["budget", "limit"], caller: Principal, project_id: str | None) -> dict[str, Any]:
        with access.db.reading() as session:
            return as_list(allowances.list(session, project_of(session, caller, project_id), kind), has_more=False)

    def remove(allowance_id: str, caller: Principal, project_id: str | None) -> Shown:
        with access.db.transaction() as session:
            found = project_of(session, caller, project_id)
            if allowances.get(session, found, allowance_id).scope == "project":
                access.require_platform_admin(session, caller)
            return allowances.remove(session, found, allowance_id)

    @routes.put("/budgets")
    def set_budget(body: BudgetSet, caller: Principal = Depends(admin), dry_run: bool = False) -> Shown:
        """Set how much may be used in a day or a month: tokens, cost or requests of a project, a key or a model."""
        return set_one(body, caller, dry_run)

    @routes.get("/budgets")
    def list_budgets(caller: Principal = Depends(reader), project_id: str | None = None) -> dict[str, Any]:
        """The project's budgets, with what is used and reserved of them now."""
        return listing("budget", caller, project_id)

    @routes.delete("/budgets/{budget_id}")
    def remove_budget(budget_id: str, caller: Principal = Depends(admin), project_id: str | None = None) -> Shown:
        """Take a budget away."""
        return remove(budget_id, caller, project_id)

    @routes.put("/limits")
    def set_limit(body: LimitSet, caller: Principal = Depends(admin), dry_run: bool = False) -> Shown:
        """Set how many requests or tokens per minute, or how many requests at the same time."""
        return set_one(body, caller, dry_run)

    @routes.get("/limits")
    def list_limits(caller: Principal = Depends(reader), project_id: str | None = None) -> dict[str, Any]:
        """The project's limits, with what is taken of them now."""
        return listing("limit", caller, project_id)

    @routes.delete("/limits/{limit_id}")
    def remove_limit(limit_id: str, caller: Principal = Depends(admin), project_id: str | None = None) -> Shown:
        """Take a limit away."""
        return remove(limit_id, caller, project_id)

    @routes.post("/prices", status_code=201)
    def set_price(body: PriceSet, caller: Principal = Depends(admin), dry_run: bool = False) -> Price:
        """Let a price hold from now or later on (administrators of the platform)."""
        with access.db.transaction() as session:
            access.require_platform_admin(session, caller)
            if body.project_id is not None:
                access.project_name(session, body.project_id)
            found = prices.set(session, body, caller.key_id)
            if dry_run:
                session.rollback()
            return found

    @routes.get("/prices")
    def list_prices(
        caller: Principal = Depends(reader), model: str | None = None, project_id: str | None = None
    ) -> dict[str, Any]:
        """Prices that hold, held or will hold for the project, newest first for each model."""
        with access.db.reading() as session:
            return as_list(prices.list(session, project_of(session, caller, project_id), model), has_more=False)

    @routes.get("/invoices")
    def list_invoices(
        caller: Principal = Depends(reader), month: _Month = None, project_id: str | None = None
    ) -> dict[str, Any]:
        """What the project's months (UTC) came to, newest first."""
        with access.db.reading() as session:
            found = billing.invoices(session, project_of(session, caller, project_id), month)
        return {"object": "list", "data": found, "has_more": False}

    @routes.get("/usage/export", response_class=StreamingResponse)
    def export_usage(
        caller: Principal = Depends(reader),
        since: datetime | None = None,
        until: datetime | None = None,
        project_id: str | None = None,
    ) -> StreamingResponse:
        """Every request of the project as CSV, oldest first."""
        with_zone(since=since, until=until)
        with access.db.reading() as session:
            found = project_of(session, caller, project_id)

        def lines() -> Iterator[str]:
            with access.db.reading() as session:
                yield from billing.export(session, found, since, until)

        return StreamingResponse(lines(), media_type="text/csv; charset=utf-8")

    @routes.get("/invoices/verify")
    def verify(
        caller: Principal = Depends(admin), project_id: str | None = None, everything: bool = False
    ) -> billing.Verification:
        """Compute every invoice anew, from the requests and from the ledger, and name the first difference."""
        with access.db.reading() as session:
            if everything:
                access.require_platform_admin(session, caller)
                return billing.verify(session)
            return billing.verify(session, project_of(session, caller, project_id))

    return routes
