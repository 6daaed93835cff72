"""`POST /api/spaces/{space}/documents` as a form: a file comes with what is known of it, and is stored while it arrives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.access.routes import with_zone
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.schemas import DocumentChange, DocumentPut
from modelworks.kernel.gateway.errors import from_validation
from modelworks.kernel.gateway.files.routes import answer, stored_form
from modelworks.kernel.gateway.files.service import FileService
from modelworks.kernel.gateway.multipart import is_form
from modelworks.kernel.gateway.routes import PlainRoute
from modelworks.kernel.gateway.service import GatewayService

#: What is no text in a form is JSON.
_JSON_FIELDS: Final = ("attributes", "access")


class FormRoute(PlainRoute):
    """A route for forms alone; JSON at the same path is another's."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """No match for a body that is no form."""
        match, child = super().matches(scope)
        if match is Match.FULL and not is_form(scope["headers"]):
            return Match.NONE, {}
        return match, child


def router(gateway: GatewayService, spaces: DataspaceService, files: FileService) -> APIRouter:
    """The route; the room of data spaces describes it with its own for JSON."""
    found = APIRouter(route_class=FormRoute, tags=["spaces"])

    @found.post("/api/spaces/{space}/documents", include_in_schema=False)
    async def upload_document(request: Request) -> Response:
        caller = await gateway.principal(request.scope, "write")
        space = request.path_params["space"]

        def find() -> str:
            with spaces.db.reading() as session:
                return spaces.get(session, caller.project_id, space).id

        # Before gigabytes are stored for a space that is not there.
        space_id = await run_in_threadpool(find)
        async with stored_form(request, files, "file", files.max_bytes) as form:
            asked = _asked(form.fields)
            with_zone(expires_at=asked.expires_at)
        blob = form.stored()

        def put() -> DocumentChange:
            with spaces.db.transaction() as session:
                document, change = spaces.documents.put(
                    session,
                    caller.project_id,
                    space_id,
                    name=asked.name or form.filename,
                    digest=blob.digest,
                    num_bytes=blob.num_bytes,
                    **asked.model_dump(exclude={"name", "digest", "file_id"}),
                )
            return DocumentChange(change=change, document=document)

        return answer((await run_in_threadpool(put)).model_dump(mode="json"), status_code=201)

    return found


def _asked(fields: Mapping[str, str]) -> DocumentPut:
    """What a form says beside its file.

    Raises:
        InvalidRequest: a field is not known, or is not what it should be (`param` names it).
    """
    values: dict[str, Any] = {}
    for name, text in fields.items():
        if name in ("digest", "file_id"):
            raise InvalidRequest(f"{name}: the form brings the file itself.", hint="Leave it out.", param=name)
        values[name] = text
        if name in _JSON_FIELDS:
            try:
                values[name] = json.loads(text)
            except ValueError as error:
                raise InvalidRequest(
                    f"{name}: it is not JSON.", hint='Write attributes={"year": 2024}, access=["usr_…"].', param=name
                ) from error
    try:
        return DocumentPut.model_validate(values)
    except ValidationError as error:
        raise from_validation(error) from error
