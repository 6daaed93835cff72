"""What was made of a document, what an answer rests on, and forgetting with a proof: below `/api/spaces`."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query

from modelworks.kernel.access import AccessService
from modelworks.kernel.access.routes import principal_dependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.proofs import Forgetting, Impact, ReportKey, Why
from modelworks.kernel.gateway.service import Authenticator
from modelworks.kernel.gateway.spaces.forgetting import SpaceForgetting
from modelworks.kernel.gateway.spaces.tracing import Tracing
from modelworks.kernel.serving.service import ServingService


def router(access: Authenticator, forgetting: SpaceForgetting, serving: ServingService) -> APIRouter:
    """The routes; a space of another project does not exist for the caller.

    Include it after those of spaces: a space may be called `answers`.
    """
    spaces = forgetting.spaces
    tracing = Tracing(spaces, forgetting.catalog, serving, forgetting.blobs)
    db, principal = spaces.db, principal_dependency(cast(AccessService, access))
    routes = APIRouter(prefix="/api", tags=["spaces"])
    reader, writer = require(principal, "read"), require(principal, "write")

    @routes.get("/spaces/{space}/documents/{document_id}/impact")
    def document_impact(space: str, document_id: str, caller: Principal = Depends(reader)) -> Impact:
        """Everything that was made of a document: versions, indexes, samples, models, evaluations, what answers with them."""
        with db.reading() as session:
            return tracing.impact(session, caller, space, document_id)

    @routes.post("/spaces/{space}/documents/{document_id}/forget", status_code=202)
    def forget_document(
        space: str, document_id: str, caller: Principal = Depends(writer), dry_run: bool = False
    ) -> Impact | Forgetting:
        """Forget a document: its file, passages, vectors, samples and the notes of answers, with a signed report at the end.

        A dry run answers with what was made of it. What failed goes on where it stopped. It cannot be taken back.
        """
        if dry_run:
            with db.reading() as session:
                return tracing.impact(session, caller, space, document_id)
        with db.transaction() as session:
            return spaces.forgettings.begin(session, caller, space, document_id)

    @routes.get("/spaces/{space}/forgettings")
    def list_forgettings(
        space: str,
        caller: Principal = Depends(reader),
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    ) -> Page[Forgetting]:
        """Documents that a space forgets or has forgotten, newest first, with the reports that the caller may read."""
        with db.reading() as session:
            return spaces.forgettings.list(session, caller, space, after=after, limit=limit)

    @routes.get("/forgettings/{forgetting_id}")
    def get_forgetting(forgetting_id: str, caller: Principal = Depends(reader)) -> Forgetting:
        """One, with how far it is; at the end `report` is what `modelworks verify-report` checks.

        Of a document with a list of readers it is told to these, to whoever asked to forget it, and to administrators.
        """
        with db.reading() as session:
            return spaces.forgettings.get(session, caller, forgetting_id)

    @routes.get("/report-key")
    def report_key(_: Principal = Depends(reader)) -> ReportKey:
        """The public key that reports of this platform are verified with. Note it where its operators cannot write."""
        return ReportKey(public_key=forgetting.signer.public_key)

    @routes.get("/spaces/answers/{answer_id}")
    def answer_why(answer_id: str, caller: Principal = Depends(reader)) -> Why:
        """What an answer rests on, by its id or that of its request: documents, index, model and what it was trained on."""
        with db.reading() as session:
            return tracing.why(session, caller, answer_id)

    return routes
