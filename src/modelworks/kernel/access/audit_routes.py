"""HTTP: the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from modelworks.chain import GENESIS, Head
from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.access.audit import AuditLog
from modelworks.kernel.access.routes import PrincipalDependency, require
from modelworks.kernel.access.schemas import AuditHead, AuditReport, Principal, as_list
from modelworks.kernel.access.service import AccessService


def router(audit: AuditLog, access: AccessService, principal: PrincipalDependency) -> APIRouter:
    """Routes under `/api/audit`."""
    routes = APIRouter(prefix="/api/audit", tags=["access"])
    admin = require(principal, "admin")

    @routes.get("")
    def list_entries(
        caller: Principal = Depends(admin),
        after: Annotated[int | None, Query(ge=0, lt=1 << 63, description="Go on after this number, oldest first.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        everything: Annotated[bool, Query(description="Of all projects: the whole chain.")] = False,
    ) -> dict[str, Any]:
        """Who changed what: newest first, or with `after` in the order of the chain."""
        with audit.db.reading() as session:
            if everything:
                access.require_platform_admin(session, caller)
            project_id = None if everything else caller.project_id
            if after is None:
                found = audit.newest(session, limit=limit + 1, project_id=project_id)
                return as_list(found[:limit], has_more=len(found) > limit)
            entries, has_more = audit.list_entries(session, after=after, limit=limit, project_id=project_id)
        return as_list(entries, has_more=has_more)

    @routes.get("/head")
    def head(caller: Principal = Depends(admin)) -> AuditHead:
        """The end of the chain; noted elsewhere it proves later that nothing up to it was changed."""
        with audit.db.reading() as session:
            found = audit.head(session)
        return AuditHead(seq=found.seq, hash=found.hash)

    @routes.get("/verify")
    def verify(
        caller: Principal = Depends(admin),
        seq: Annotated[int | None, Query(ge=0, lt=1 << 63, description="Number of a head that was noted.")] = None,
        hash: Annotated[str | None, Query(description="Its digest.", min_length=64, max_length=64)] = None,
    ) -> AuditReport:
        """Follow the whole stored chain (administrators of the platform)."""
        if (seq is None) != (hash is None):
            raise InvalidRequest("A head is a number and a digest.", hint="Give both seq and hash.", param="seq")
        known = None if seq is None else Head(seq, hash or GENESIS)
        with audit.db.reading() as session:
            access.require_platform_admin(session, caller)
            end, broken = audit.verify(session, known=known)
        return AuditReport(
            holds=broken is None,
            num_entries=end.seq,
            head=AuditHead(seq=end.seq, hash=end.hash),
            broken_at=None if broken is None else broken.seq,
            reason=None if broken is None else broken.reason,
        )

    return routes
