"""`/api/spaces/{space}/tables`: the tables of a space that the caller may ask."""

from __future__ import annotations

import asyncio
from typing import cast

from fastapi import APIRouter, Depends

from modelworks.kernel.access import AccessService
from modelworks.kernel.access.routes import principal_dependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace import DataspaceService, Space
from modelworks.kernel.gateway.service import Authenticator
from modelworks.kernel.gateway.spaces.tables import SpaceTable, SpaceTables


def router(access: Authenticator, spaces: DataspaceService, tables: SpaceTables) -> APIRouter:
    """The route; a space of another project does not exist for the caller."""
    routes = APIRouter(prefix="/api/spaces", tags=["spaces"])
    reader = require(principal_dependency(cast(AccessService, access)), "read")

    @routes.get("/{space}/tables")
    async def list_tables(space: str, caller: Principal = Depends(reader)) -> Page[SpaceTable]:
        """The tables that questions of the caller are computed from: CSV files and sheets, with columns, types and rows.

        A file that holds none is listed with the reason. Empty where `answering.tables` is off.
        """

        def asked() -> Space:
            with spaces.db.reading() as session:
                return spaces.get(session, caller.project_id, space)

        return Page[SpaceTable](data=await tables.listed(caller, await asyncio.to_thread(asked)))

    return routes
