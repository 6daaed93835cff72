"""`/api/spaces/{space}/sources`: where documents come from by themselves."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from modelworks.kernel.access.routes import PrincipalDependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.schemas import Source
from modelworks.kernel.dataspace.sourcing import SourceCreate, SourceService, SourceSync, SourceUpdate, SyncAsked


def router(sources: SourceService, principal: PrincipalDependency) -> APIRouter:
    """Routes of sources; those of another project do not exist for the caller."""
    routes = APIRouter(prefix="/api/spaces/{space}/sources", tags=["spaces"])
    reader, writer = require(principal, "read"), require(principal, "write")

    @routes.post("", status_code=201)
    def add_source(space: str, asked: SourceCreate, caller: Principal = Depends(writer), dry_run: bool = False) -> Source:
        """Let documents come from a place by themselves. With `dry_run` it is only checked.

        A source that names a secret needs the scope admin, one on the server's own machine an administrator of the platform
        or a folder that the settings name.
        """
        with sources.db.transaction() as session:
            return sources.create(session, caller, space, asked, dry_run=dry_run)

    @routes.get("")
    def list_sources(space: str, caller: Principal = Depends(reader)) -> Page[Source]:
        """The sources of a data space with their schedule and what the last look found."""
        with sources.db.reading() as session:
            return sources.list(session, caller.project_id, space)

    @routes.get("/{source_id}")
    def get_source(space: str, source_id: str, caller: Principal = Depends(reader)) -> Source:
        """One source."""
        with sources.db.reading() as session:
            return sources.get(session, caller.project_id, space, source_id)

    @routes.patch("/{source_id}")
    def update_source(space: str, source_id: str, asked: SourceUpdate, caller: Principal = Depends(writer)) -> Source:
        """Change when a source is looked at, pause it, or let another upload take the place of the former one.

        What is the same in both uploads is not read anew; where the new one cannot be read, the documents of the former stay.
        """
        with sources.db.transaction() as session:
            return sources.update(session, caller.project_id, space, source_id, asked)

    @routes.delete("/{source_id}")
    def remove_source(space: str, source_id: str, caller: Principal = Depends(writer), keep: bool = False) -> Source:
        """Remove a source with its documents; `keep` leaves these in the space."""
        with sources.db.transaction() as session:
            return sources.remove(session, caller.project_id, space, source_id, keep=keep)

    @routes.post("/{source_id}/sync", status_code=202)
    def sync_source(space: str, source_id: str, asked: SyncAsked, caller: Principal = Depends(writer)) -> SourceSync:
        """Look at a source now. The run says how far it is; with `dry_run` its result says what would change."""
        with sources.db.transaction() as session:
            return sources.sync(session, caller.project_id, space, source_id, asked)

    return routes
