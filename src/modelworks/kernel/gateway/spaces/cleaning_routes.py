"""What cleaning would do to the passages of a space, and what it did in a document."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query

from modelworks.kernel.access import AccessService
from modelworks.kernel.access.routes import principal_dependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.routes import document_for
from modelworks.kernel.dataspace.schemas import CleaningPreview, CleaningReport, DroppedPassages
from modelworks.kernel.gateway.service import Authenticator
from modelworks.kernel.gateway.spaces.cleaning import SpaceCleaning
from modelworks.kernel.jobs.schemas import RunRecord


def router(access: Authenticator, spaces: DataspaceService, cleaning: SpaceCleaning) -> APIRouter:
    """The routes; a space of another project, and a document that the caller may not read, do not exist for them."""
    db, principal = spaces.db, principal_dependency(cast(AccessService, access))
    routes = APIRouter(prefix="/api/spaces", tags=["spaces"])
    reader, writer = require(principal, "read"), require(principal, "write")

    @routes.post("/{space}/cleaning/preview", status_code=202)
    def preview_cleaning(space: str, asked: CleaningPreview, caller: Principal = Depends(writer)) -> RunRecord:
        """Try rules on the passages of the last build: a run counts by rule what would go.

        Nothing is changed.
        """
        with db.transaction() as session:
            return cleaning.preview(session, caller, space, asked.cleaning)

    @routes.get("/{space}/cleaning/preview/{run_id}")
    def previewed_cleaning(
        space: str, run_id: str, caller: Principal = Depends(reader), per_rule: Annotated[int, Query(ge=0, le=50)] = 5
    ) -> CleaningReport:
        """What a preview has found: by rule what would go, and examples from documents that the caller may read."""
        return cleaning.report(caller, space, run_id, per_rule)

    @routes.get("/{space}/documents/{document_id}/dropped")
    def dropped_passages(
        space: str,
        document_id: str,
        caller: Principal = Depends(reader),
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> DroppedPassages:
        """What cleaning took out of a document in the build that answers: which passages, by which rule, and why."""
        document = document_for(spaces, caller, space, document_id)
        with db.reading() as session:
            digest = cleaning.digest_of(session, caller.project_id, document)
        return cleaning.told(document, digest, limit)

    return routes
