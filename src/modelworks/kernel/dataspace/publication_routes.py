"""`/api/spaces/{space}/publications` and `/feedback`: who may ask a space from elsewhere, and what they said of its answers."""

from __future__ import annotations

from html import escape
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request

from modelworks.kernel.access.routes import PrincipalDependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.feedback import Feedback, Rating
from modelworks.kernel.dataspace.publications import Publication, PublicationCreate, PublicationMade
from modelworks.kernel.dataspace.service import DataspaceService

Limit = Annotated[int, Query(ge=1, le=1000)]


def router(spaces: DataspaceService, principal: PrincipalDependency, *, public_url: str | None = None) -> APIRouter:
    """The routes; a space of another project does not exist for the caller.

    Args:
        public_url: where readers reach this server; by default the address that the request came to.
    """
    routes = APIRouter(prefix="/api/spaces/{space}", tags=["spaces"])
    reader, writer, admin = (require(principal, scope) for scope in ("read", "write", "admin"))

    @routes.post("/publications", status_code=201)
    def publish_space(
        space: str, asked: PublicationCreate, request: Request, caller: Principal = Depends(admin), dry_run: bool = False
    ) -> PublicationMade:
        """Let strangers ask a space from the pages that `origins` name; its token is shown once. Needs the scope admin.

        They are answered from the documents that have no list of readers, or that name the publication among these.
        """
        if dry_run:
            with spaces.db.reading() as session:
                made, token = spaces.publications.create(session, caller, space, asked, dry_run=True)
        else:
            with spaces.db.transaction() as session:
                made, token = spaces.publications.create(session, caller, space, asked)
        url = (public_url or str(request.base_url)).rstrip("/")
        return PublicationMade(
            publication=made,
            token=token,
            snippet=_snippet(url, made, token) if token and made.origins else None,
            link=f"{url}/share/{made.id}#{quote(token, safe='')}" if token and made.share else None,
        )

    @routes.get("/publications")
    def list_publications(
        space: str, caller: Principal = Depends(reader), after: str | None = None, limit: Limit = 20
    ) -> Page[Publication]:
        """The publications of a space, newest first, without their tokens."""
        with spaces.db.reading() as session:
            return spaces.publications.list(session, caller.project_id, space, after=after, limit=limit)

    @routes.delete("/publications/{publication}")
    def unpublish_space(space: str, publication: str, caller: Principal = Depends(admin)) -> Publication:
        """End a publication: its token and every chat that is open with it are refused from now on."""
        with spaces.db.transaction() as session:
            return spaces.publications.revoke(session, caller.project_id, space, publication)

    @routes.get("/feedback")
    def list_feedback(
        space: str,
        caller: Principal = Depends(reader),
        rating: Rating | None = None,
        after: str | None = None,
        limit: Limit = 20,
    ) -> Page[Feedback]:
        """What readers said of published answers, newest first; corrections are words of strangers."""
        with spaces.db.reading() as session:
            return spaces.feedback.list(session, caller.project_id, space, rating=rating, after=after, limit=limit)

    @routes.post("/feedback/{feedback}/accept")
    def accept_feedback(space: str, feedback: str, caller: Principal = Depends(writer), undo: bool = False) -> Feedback:
        """Let the next model of the space learn a reader's correction; with `undo` not any more. Needs the scope write."""
        with spaces.db.transaction() as session:
            return spaces.feedback.accept(session, caller.project_id, space, feedback, undo=undo)

    return routes


def _snippet(url: str, made: Publication, token: str) -> str:
    """What a page needs: one element."""
    return f'<script src="{escape(url)}/embed/{made.id}.js" data-token="{escape(token)}" async></script>'
