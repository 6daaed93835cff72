"""`/api/spaces`: spaces, their documents, their builds and what happened to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.access.routes import PrincipalDependency, require, with_zone
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.schemas import (
    Build,
    DocumentChange,
    DocumentDigests,
    DocumentPut,
    DocumentUpdate,
    Space,
    SpaceCreate,
    SpaceDocument,
    SpaceEvent,
    SpaceUpdate,
    StoredFile,
)
from modelworks.kernel.dataspace.service import DataspaceService
from modelworks.kernel.storage import BlobStore

#: Looks a file of /v1/files up: session, project, id.
FileFinder = Callable[[Session, str, str], StoredFile]
Limit = Annotated[int, Query(ge=1, le=1000)]
Order = Literal["asc", "desc"]
#: The gateway takes forms at the same path; `attributes` and `access` are JSON there.
_FORM_FIELDS = ("name", "key", "media_type", "attributes", "licence", "owner", "access", "expires_at")
_FORM = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        **{name: {"type": "string"} for name in _FORM_FIELDS},
                    },
                    "required": ["file"],
                }
            }
        }
    }
}
#: What lies in a document is anybody's: no browser may guess its type, or run it with our origin's rights.
_CONTENT_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


def router(spaces: DataspaceService, blobs: BlobStore, file_of: FileFinder, principal: PrincipalDependency) -> APIRouter:
    """The room's routes; a space of another project does not exist for the caller."""
    routes = APIRouter(prefix="/api/spaces", tags=["spaces"])
    _spaces(routes, spaces, principal)
    _documents(routes, spaces, blobs, file_of, principal)
    return routes


def _spaces(routes: APIRouter, spaces: DataspaceService, principal: PrincipalDependency) -> None:
    reader, writer = require(principal, "read"), require(principal, "write")

    @routes.post("", status_code=201)
    def create_space(asked: SpaceCreate, caller: Principal = Depends(writer)) -> Space:
        """Make a data space: documents that are searched and answered from together."""
        with spaces.db.transaction() as session:
            return spaces.create(session, caller.project_id, caller.key_id, asked)

    @routes.get("")
    def list_spaces(
        caller: Principal = Depends(reader),
        after: str | None = None,
        limit: Limit = 20,
        order: Order = "desc",
        search: str | None = None,
    ) -> Page[Space]:
        """Data spaces of the project with their states and counts."""
        with spaces.db.reading() as session:
            return spaces.list(session, caller.project_id, after=after, limit=limit, order=order, search=search)

    @routes.get("/{space}")
    def get_space(space: str, caller: Principal = Depends(reader)) -> Space:
        """A data space by its id or name; `build` says how far its pipeline is."""
        with spaces.db.reading() as session:
            return spaces.get(session, caller.project_id, space)

    @routes.patch("/{space}")
    def update_space(space: str, asked: SpaceUpdate, caller: Principal = Depends(writer)) -> Space:
        """Change what is given."""
        with spaces.db.transaction() as session:
            return spaces.update(session, caller.project_id, space, asked)

    @routes.delete("/{space}")
    def delete_space(space: str, caller: Principal = Depends(writer)) -> Space:
        """Delete a data space with everything that was made for it; it answers no more at once."""
        with spaces.db.transaction() as session:
            return spaces.delete(session, caller.project_id, space)

    @routes.post("/{space}/build", status_code=202)
    def build_space(space: str, caller: Principal = Depends(writer), anew: bool = False, dry_run: bool = False) -> Space:
        """Build now, also what failed before; with `anew` although nothing has changed."""
        if dry_run:
            with spaces.db.reading() as session:
                return spaces.get(session, caller.project_id, space)
        with spaces.db.transaction() as session:
            return spaces.rebuild(session, caller.project_id, space, anew=anew)

    @routes.get("/{space}/builds")
    def list_builds(
        space: str, caller: Principal = Depends(reader), after: str | None = None, limit: Limit = 20
    ) -> Page[Build]:
        """Builds of a data space, newest first."""
        with spaces.db.reading() as session:
            return spaces.builds.list(session, caller.project_id, space, after=after, limit=limit)

    @routes.get("/{space}/events")
    def list_events(
        space: str,
        caller: Principal = Depends(reader),
        after_seq: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
        limit: Limit = 200,
    ) -> Page[SpaceEvent]:
        """What happened to a data space, in order."""
        with spaces.db.reading() as session:
            return spaces.events(session, caller.project_id, space, after_seq=after_seq, limit=limit)


def _documents(
    routes: APIRouter, spaces: DataspaceService, blobs: BlobStore, file_of: FileFinder, principal: PrincipalDependency
) -> None:
    reader, writer = require(principal, "read"), require(principal, "write")

    @routes.post("/{space}/documents", status_code=201, openapi_extra=_FORM)
    def put_document(space: str, asked: DocumentPut, caller: Principal = Depends(writer)) -> DocumentChange:
        """Put a document in: bytes that were stored with PUT /api/blobs, a file of /v1/files, or a form that brings the bytes.

        The same key with other bytes is a new version of the same document; with the same bytes nothing is done.
        """
        with_zone(expires_at=asked.expires_at)
        stored = _stored(spaces, blobs, file_of, caller, asked)
        with spaces.db.transaction() as session:
            document, change = spaces.documents.put(
                session,
                caller.project_id,
                space,
                name=asked.name or stored.name,
                digest=stored.digest,
                num_bytes=stored.num_bytes,
                file_id=asked.file_id,
                **asked.model_dump(exclude={"name", "digest", "file_id"}),
            )
        return DocumentChange(change=change, document=document)

    @routes.get("/{space}/documents")
    def list_documents(
        space: str,
        caller: Principal = Depends(reader),
        state: Literal["pending", "parsing", "indexed", "failed", "removed"] | None = None,
        source_id: str | None = None,
        search: str | None = None,
        dropped: bool = False,
        after: str | None = None,
        limit: Limit = 20,
        order: Order = "desc",
    ) -> Page[SpaceDocument]:
        """Documents with what became of them; with `dropped` those of which cleaning took passages, or changed some.

        Those with a list of readers are shown to these, and to administrators.
        """
        with spaces.db.reading() as session:
            page = spaces.documents.list(
                session,
                caller.project_id,
                space,
                state=state,
                source_id=source_id,
                search=search,
                is_cleaned=dropped,
                after=after,
                limit=limit,
                order=order,
            )
        return page.model_copy(update={"data": [document for document in page.data if _is_shown(document, caller)]})

    @routes.get("/{space}/digests")
    def list_digests(space: str, caller: Principal = Depends(writer)) -> DocumentDigests:
        """The keys and digests of the documents that people put in: what need not be sent again."""
        with spaces.db.reading() as session:
            known = spaces.documents.known(session, caller.project_id, space)
        return DocumentDigests(digests={key: each.digest for key, each in known.items()})

    @routes.get("/{space}/documents/{document_id}")
    def get_document(space: str, document_id: str, caller: Principal = Depends(reader)) -> SpaceDocument:
        """One document; `faults` say why it, or pages of it, could not be read, and what to do."""
        return document_for(spaces, caller, space, document_id)

    @routes.get(
        "/{space}/documents/{document_id}/content",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def document_content(space: str, document_id: str, caller: Principal = Depends(reader)) -> StreamingResponse:
        """The bytes of a document as they were put in."""
        document = document_for(spaces, caller, space, document_id)
        name = quote(document.name.replace("\\", "/").rpartition("/")[2], safe="")
        headers = {
            **_CONTENT_HEADERS,
            "Content-Length": str(document.num_bytes),
            "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        }
        return StreamingResponse(blobs.iter(document.digest), headers=headers, media_type="application/octet-stream")

    @routes.patch("/{space}/documents/{document_id}")
    def update_document(
        space: str, document_id: str, asked: DocumentUpdate, caller: Principal = Depends(writer)
    ) -> SpaceDocument:
        """Change what is known of a document and who may read it; it holds from the next search on."""
        with_zone(expires_at=asked.expires_at)
        document_for(spaces, caller, space, document_id)
        with spaces.db.transaction() as session:
            return spaces.documents.update(session, caller.project_id, space, document_id, **asked.model_dump())

    @routes.delete("/{space}/documents/{document_id}")
    def remove_document(space: str, document_id: str, caller: Principal = Depends(writer)) -> SpaceDocument:
        """Remove a document: it answers no search from now on, and its passages go with the next build."""
        document_for(spaces, caller, space, document_id)
        with spaces.db.transaction() as session:
            return spaces.documents.remove(session, caller.project_id, space, document_id)


def _stored(
    spaces: DataspaceService, blobs: BlobStore, file_of: FileFinder, caller: Principal, asked: DocumentPut
) -> StoredFile:
    """Which bytes are meant, and that they are there."""
    if (asked.digest is None) == (asked.file_id is None):
        raise InvalidRequest(
            "Give either digest or file_id.",
            hint="Store the bytes with PUT /api/blobs, or a file with POST /v1/files.",
            param="digest",
        )
    if asked.file_id is not None:
        with spaces.db.reading() as session:
            return file_of(session, caller.project_id, asked.file_id)
    digest = str(asked.digest)
    if asked.name is None:
        raise InvalidRequest("A document needs a name.", hint="Give name.", param="name", code="missing_required_parameter")
    try:
        found = blobs.stat(digest)
    except NotFound as error:
        raise NotFound(
            f"The blob {digest} is not stored.",
            hint="Upload it first with PUT /api/blobs.",
            param="digest",
            code="blob_not_found",
        ) from error
    return StoredFile(name=asked.name, digest=digest, num_bytes=found.num_bytes)


def document_for(spaces: DataspaceService, caller: Principal, space: str, document_id: str) -> SpaceDocument:
    """A document that the caller may see; raises NotFound."""
    with spaces.db.reading() as session:
        found = spaces.documents.get(session, caller.project_id, space, document_id)
    if not _is_shown(found, caller):
        raise NotFound(f"The data space {space[:80]!r} has no document {document_id[:80]!r}.", code="document_not_found")
    return found


def _is_shown(document: SpaceDocument, caller: Principal) -> bool:
    return not document.access or caller.has("admin") or bool({caller.key_id, caller.user_id} & set(document.access))
