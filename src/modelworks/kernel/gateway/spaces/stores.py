"""Vector stores: spaces and their documents under OpenAI's names. Methods with a `session` take part in its transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.contract.passages import PASSAGES_FOLDER, Passage
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.dataspace import DataspaceService, Space, SpaceDocument, SpaceSettings
from modelworks.kernel.dataspace.schemas import SpaceCreate, SpaceUpdate
from modelworks.kernel.gateway.files.service import FileService, Listing
from modelworks.kernel.gateway.service import Versions
from modelworks.kernel.gateway.spaces.wire import (
    STATES,
    BatchCreate,
    Chunking,
    FileAttach,
    StoreCreate,
    StoreFileQuery,
    StoreQuery,
    StoreUpdate,
    batch_object,
    file_object,
    file_status,
    store_object,
)
from modelworks.kernel.gateway.store import VectorStoreBatchRow

_UNFIT: Final = re.compile(r"[/:\s]+")
_NAME_CHARS: Final = 100


class VectorStores:
    """The stores of a project; those of others do not exist for it."""

    def __init__(self, spaces: DataspaceService, files: FileService, catalog: Versions, clock: Clock) -> None:
        self.db = spaces.db
        self.spaces = spaces
        self._files = files
        self._catalog = catalog
        self._clock = clock

    # -- stores ----------------------------------------------------------------------------------------------------------

    def create(self, session: Session, caller: Principal, asked: StoreCreate) -> dict[str, Any]:
        """A store with those files. A name that is taken gets an ending: here, names need not be unique.

        Raises:
            NotFound: a file does not exist.
        """
        settings = SpaceSettings()
        if asked.chunking_strategy is not None:
            settings = _with_sizes(settings, asked.chunking_strategy)
        made = SpaceCreate(
            name=self._free_name(session, caller.project_id, asked.name),
            description=asked.description,
            metadata=asked.metadata or {},
            settings=settings,
            expires_after_days=None if asked.expires_after is None else asked.expires_after.days,
        )
        space = self.spaces.create(session, caller.project_id, caller.key_id, made)
        for number, file_id in enumerate(asked.file_ids or ()):
            self._put(session, caller, space, FileAttach(file_id=file_id), f"file_ids.{number}")
        return store_object(self.spaces.get(session, caller.project_id, space.id))

    def get(self, session: Session, caller: Principal, store_id: str) -> dict[str, Any]:
        """One store; raises NotFound."""
        return store_object(self._space(session, caller, store_id))

    def list(self, session: Session, caller: Principal, asked: StoreQuery) -> Listing:
        """A page of stores."""
        page = self.spaces.list(session, caller.project_id, **asked.model_dump())
        return Listing([store_object(space) for space in page.data], page.has_more)

    def update(self, session: Session, caller: Principal, store_id: str, asked: StoreUpdate) -> dict[str, Any]:
        """Change what is given; `expires_after` of null lets it live on. Raises NotFound."""
        space = self._space(session, caller, store_id)
        change: dict[str, Any] = {}
        if asked.name and asked.name != space.name:
            change["name"] = self._free_name(session, caller.project_id, asked.name)
        if "expires_after" in asked.model_fields_set:
            change["expires_after_days"] = 0 if asked.expires_after is None else asked.expires_after.days
        if "metadata" in asked.model_fields_set:
            change["metadata"] = asked.metadata or {}
        return store_object(self.spaces.update(session, caller.project_id, space.id, SpaceUpdate(**change)))

    def delete(self, session: Session, caller: Principal, store_id: str) -> dict[str, Any]:
        """Delete a store, not the files that it was made from. Raises NotFound."""
        space = self._space(session, caller, store_id)
        self.spaces.delete(session, caller.project_id, space.id)
        return {"id": space.id, "object": "vector_store.deleted", "deleted": True}

    # -- files -----------------------------------------------------------------------------------------------------------

    def attach(self, session: Session, caller: Principal, store_id: str, asked: FileAttach) -> dict[str, Any]:
        """Put a file of /v1/files in.

        Raises:
            NotFound: no such store or file.
            InvalidRequest: sizes of passages that are not the store's.
        """
        space = self._space(session, caller, store_id)
        document = self._put(session, caller, space, asked, "file_id")
        return file_object(self._space(session, caller, space.id), document)

    def file(self, session: Session, caller: Principal, store_id: str, file_id: str) -> dict[str, Any]:
        """One file of a store; raises NotFound."""
        space = self._space(session, caller, store_id)
        return file_object(space, self.spaces.documents.find(session, caller.project_id, space.id, file_id))

    def files(self, session: Session, caller: Principal, store_id: str, asked: StoreFileQuery) -> Listing:
        """A page of a store's files; raises NotFound, also where `after` or `before` is none of them."""
        space = self._space(session, caller, store_id)
        found = self.spaces.documents

        def place(file_id: str | None) -> str | None:
            return None if file_id is None else found.find(session, caller.project_id, space.id, file_id).id

        page = found.list(
            session,
            caller.project_id,
            space.id,
            state=None if asked.filter is None else STATES[asked.filter],
            after=place(asked.after),
            before=place(asked.before),
            limit=asked.limit,
            order=asked.order,
        )
        return Listing([file_object(space, document) for document in page.data], page.has_more)

    def update_file(
        self, session: Session, caller: Principal, store_id: str, file_id: str, attributes: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Give a file other attributes: filters see them from the next search on. Raises NotFound."""
        space = self._space(session, caller, store_id)
        document = self.spaces.documents.find(session, caller.project_id, space.id, file_id)
        changed = self.spaces.documents.update(session, caller.project_id, space.id, document.id, attributes=attributes or {})
        return file_object(space, changed)

    def detach(self, session: Session, caller: Principal, store_id: str, file_id: str) -> dict[str, Any]:
        """Take a file out of a store: it is not found from now on. The file itself stays. Raises NotFound."""
        space = self._space(session, caller, store_id)
        document = self.spaces.documents.find(session, caller.project_id, space.id, file_id)
        self.spaces.documents.remove(session, caller.project_id, space.id, document.id)
        return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}

    def content(self, session: Session, caller: Principal, store_id: str, file_id: str) -> tuple[str, str | None]:
        """The document behind a file, and the digest of its passages; None while it has none.

        Raises:
            NotFound: no such file, or the caller may not read it.
        """
        space = self._space(session, caller, store_id)
        document = self.spaces.documents.find(session, caller.project_id, space.id, file_id)
        if document.id not in self.spaces.documents.records(session, caller, space.id, [document.id]):
            raise NotFound(f"There is no file {file_id[:80]!r} in this store.", param="file_id", code="document_not_found")
        passages = space.clean_version_id or space.passages_version_id
        if passages is None or not document.answers:
            return document.id, None
        version = self._catalog.get_version(session, caller.project_id, passages)
        path = f"{PASSAGES_FOLDER}/{document.id}.jsonl"
        return document.id, next((file.digest for file in version.files if file.path == path), None)

    def texts(self, digest: str) -> dict[str, Any]:
        """The passages of a document as OpenAI's page of contents; reads the storage."""
        data = b"".join(self._files.blobs.iter(digest))
        found = []
        for line in data.splitlines():
            try:
                passage = Passage.model_validate_json(line)
            except ValidationError:
                continue  # not one of ours: the parser's data set may hold more
            found.append({"type": "text", "text": passage.text})
        return contents_page(found)

    # -- batches ---------------------------------------------------------------------------------------------------------

    def create_batch(self, session: Session, caller: Principal, store_id: str, asked: BatchCreate) -> dict[str, Any]:
        """Put many files in; raises as `attach`, and then none of them is."""
        space = self._space(session, caller, store_id)
        name = "files" if asked.files is not None else "file_ids"
        for number, each in enumerate(asked.attached()):
            self._put(session, caller, space, each, f"{name}.{number}{'.file_id' if asked.files else ''}")
        row = VectorStoreBatchRow(
            id=new_id("vsfb"),
            space_id=space.id,
            project_id=caller.project_id,
            file_ids=list(dict.fromkeys(each.file_id for each in asked.attached())),
            is_cancelled=False,
            created_at=self._clock.now(),
        )
        session.add(row)
        session.flush()
        return self._shown(session, caller, row)

    def batch(self, session: Session, caller: Principal, store_id: str, batch_id: str) -> dict[str, Any]:
        """One batch; raises NotFound."""
        return self._shown(session, caller, self._batch(session, caller, store_id, batch_id))

    def cancel_batch(self, session: Session, caller: Principal, store_id: str, batch_id: str) -> dict[str, Any]:
        """Take the files out again that are not ready yet; a batch that is over stays as it is. Raises NotFound."""
        row = self._batch(session, caller, store_id, batch_id)
        space = self._space(session, caller, row.space_id)
        waiting = [each for each in self._documents(session, caller, row) if file_status(space, each) == "in_progress"]
        for document in waiting:
            self.spaces.documents.remove(session, caller.project_id, space.id, document.id)
        row.is_cancelled = row.is_cancelled or bool(waiting)
        session.flush()
        return self._shown(session, caller, row)

    def batch_files(self, session: Session, caller: Principal, store_id: str, batch_id: str, asked: StoreFileQuery) -> Listing:
        """A page of a batch's files; raises NotFound."""
        row = self._batch(session, caller, store_id, batch_id)
        space = self._space(session, caller, row.space_id)
        found = [file_object(space, each) for each in self._documents(session, caller, row)]
        if asked.filter is not None:
            found = [each for each in found if each["status"] == asked.filter]
        if asked.order == "desc":
            found.reverse()
        ids = [each["id"] for each in found]
        first = ids.index(asked.after) + 1 if asked.after in ids else 0
        last = ids.index(asked.before) if asked.before in ids else len(found)
        if asked.before is not None and asked.after is None:
            first = max(0, last - asked.limit)
        chosen = found[first:last]
        return Listing(chosen[: asked.limit], len(chosen) > asked.limit)

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _space(self, session: Session, caller: Principal, store_id: str) -> Space:
        try:
            return self.spaces.get(session, caller.project_id, store_id)
        except NotFound as error:
            raise NotFound(
                f"There is no vector store {store_id[:80]!r}.",
                hint="GET /v1/vector_stores lists them.",
                param="vector_store_id",
                code="vector_store_not_found",
            ) from error

    def _put(self, session: Session, caller: Principal, space: Space, asked: FileAttach, param: str) -> SpaceDocument:
        file = self._files.get(session, caller.project_id, asked.file_id, param=param)
        if asked.chunking_strategy is not None:
            self._require_sizes(session, caller, space, asked.chunking_strategy)
        document, _ = self.spaces.documents.put(
            session,
            caller.project_id,
            space.id,
            name=file.filename,
            digest=file.digest,
            num_bytes=file.num_bytes,
            key=file.id,
            file_id=file.id,
            attributes=asked.attributes,
        )
        return document

    def _require_sizes(self, session: Session, caller: Principal, space: Space, asked: Chunking) -> None:
        """The sizes of passages are the store's: the first file may set them, others must agree."""
        settings = space.settings
        if asked.static is None or settings.chunking_strategy == asked.model_dump():
            return
        if space.documents.total or settings.chunking_strategy is not None:
            raise InvalidRequest(
                "chunking_strategy: all files of a vector store have passages of the same size, and this one's are set.",
                hint="Leave it out, or make another vector store with this chunking_strategy.",
                param="chunking_strategy",
                code="invalid_value",
            )
        space.settings = _with_sizes(settings, asked)
        self.spaces.update(session, caller.project_id, space.id, SpaceUpdate(settings=space.settings))

    def _free_name(self, session: Session, project_id: str, wanted: str | None) -> str | None:
        """A name for a space, as near to the wanted one as spaces allow."""
        plain = "".join(char for char in _UNFIT.sub(" ", wanted or "").strip()[:_NAME_CHARS] if char.isprintable())
        if not plain or plain.startswith("vs_"):
            return None
        try:
            self.spaces.get(session, project_id, plain)
        except NotFound:
            return plain
        return f"{plain} {new_id('vs')[-8:].lower()}"

    def _batch(self, session: Session, caller: Principal, store_id: str, batch_id: str) -> VectorStoreBatchRow:
        space = self._space(session, caller, store_id)
        query = select(VectorStoreBatchRow).where(
            VectorStoreBatchRow.id == batch_id,
            VectorStoreBatchRow.space_id == space.id,
            VectorStoreBatchRow.project_id == caller.project_id,
        )
        row = session.scalar(query.with_for_update())
        if row is None:
            raise NotFound(
                f"There is no batch {batch_id[:80]!r} of the vector store {space.id}.", param="batch_id", code="batch_not_found"
            )
        return row

    def _documents(self, session: Session, caller: Principal, row: VectorStoreBatchRow) -> Sequence[SpaceDocument]:
        return self.spaces.documents.of_files(session, caller.project_id, row.space_id, row.file_ids)

    def _shown(self, session: Session, caller: Principal, row: VectorStoreBatchRow) -> dict[str, Any]:
        space, documents = self._space(session, caller, row.space_id), self._documents(session, caller, row)
        return batch_object(row.id, row.created_at, space, row.file_ids, documents, row.is_cancelled)


def contents_page(data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """OpenAI's page of a file's contents."""
    return {"object": "vector_store.file_content.page", "data": [*data], "has_more": False, "next_page": None}


def _with_sizes(settings: SpaceSettings, asked: Chunking) -> SpaceSettings:
    change = {"chunking_strategy": asked.model_dump(exclude_none=True), "parsing": {**settings.parsing, **asked.parsing()}}
    return settings.model_copy(update=change)
