"""`/api/spaces/{space}/learn`: a model of the space's own, made of its passages."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query

from modelworks.kernel.access import AccessService
from modelworks.kernel.access.routes import principal_dependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace import DataspaceService, Space
from modelworks.kernel.dataspace.schemas import Learning, LearningPreview
from modelworks.kernel.gateway.service import Authenticator
from modelworks.kernel.gateway.spaces.learning import SpaceLearning


def router(access: Authenticator, spaces: DataspaceService, learning: SpaceLearning) -> APIRouter:
    """The routes; a space of another project does not exist for the caller."""
    db, principal = spaces.db, principal_dependency(cast(AccessService, access))
    routes = APIRouter(prefix="/api/spaces", tags=["spaces"])
    reader, writer = require(principal, "read"), require(principal, "write")

    @routes.post("/{space}/learn", status_code=202)
    def learn_space(space: str, caller: Principal = Depends(writer), dry_run: bool = False) -> LearningPreview | Learning:
        """Make samples of the passages, train an adapter of the space's language model, measure it on held-out documents,
        and let the space answer with it if the gate lets it pass. A dry run says from what it would be made.
        """
        if dry_run:
            with db.reading() as session:
                return learning.request(session, caller, space, dry_run=True)
        with db.transaction() as session:
            return learning.request(session, caller, space)

    @routes.get("/{space}/learnings")
    def list_learnings(
        space: str,
        caller: Principal = Depends(reader),
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    ) -> Page[Learning]:
        """What a space has learned, newest first: each with its runs, and what it was worth before and after."""
        with db.reading() as session:
            return spaces.learnings.list(session, caller.project_id, space, after=after, limit=limit)

    @routes.get("/{space}/learnings/{learning_id}")
    def get_learning(space: str, learning_id: str, caller: Principal = Depends(reader)) -> Learning:
        """One, with how far it is."""
        with db.reading() as session:
            return spaces.learnings.get(session, caller.project_id, space, learning_id)

    @routes.post("/{space}/learn/rollback")
    def roll_back_learning(space: str, caller: Principal = Depends(writer)) -> Space:
        """Answer as before the last time that was learned: with the model of the time before, else with the base."""
        with db.transaction() as session:
            return learning.roll_back(session, caller.project_id, space)

    return routes
