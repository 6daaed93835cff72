"""Files and uploads as clients keep them: names and purposes in the database, bytes as blobs in the storage."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound, UnprocessableContent
from modelworks.contract.media import File
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.dataspace.schemas import StoredFile
from modelworks.kernel.gateway.store import FileRow, UploadPartRow, UploadRow
from modelworks.kernel.storage import BlobStore
from modelworks.kernel.storage.schemas import BlobInfo

#: What a client may say a file is for.
PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
#: The figures of a fine-tuning job, written by the server.
RESULTS: Final = "fine-tune-results"
MAX_FILENAME_CHARS: Final = 512
MAX_PART_BYTES: Final = 64 << 20
#: Shortest and longest life that a client may give a file.
MIN_LIFE_S, MAX_LIFE_S = 3600, 30 * 24 * 3600
_BATCH_LIFE_S = 30 * 24 * 3600
_UPLOAD_LIFE_S = 3600
_CHUNK = 400


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of wire objects."""

    data: list[dict[str, Any]]
    has_more: bool

    def wire(self) -> dict[str, Any]:
        """OpenAI's list."""
        return {
            "object": "list",
            "data": self.data,
            "has_more": self.has_more,
            "first_id": self.data[0]["id"] if self.data else None,
            "last_id": self.data[-1]["id"] if self.data else None,
        }


class FileService:
    """Files of a project; those of others do not exist for it. Methods with a `session` take part in the caller's transaction.

    Args:
        max_bytes: the largest file.
    """

    def __init__(self, db: Database, catalog: CatalogService, blobs: BlobStore, clock: Clock, *, max_bytes: int) -> None:
        self.db = db
        self.blobs = blobs
        self.max_bytes = max_bytes
        self._catalog = catalog
        self._clock = clock

    # -- files -----------------------------------------------------------------------------------------------------------

    def create(
        self,
        session: Session,
        project_id: str,
        *,
        filename: str,
        purpose: str,
        blob: BlobInfo,
        expires_after_s: int | None = None,
    ) -> FileRow:
        """Note a file whose bytes are stored. A batch's file lives thirty days unless it says otherwise, others for ever."""
        now = self._clock.now()
        if expires_after_s is None and purpose == "batch":
            expires_after_s = _BATCH_LIFE_S
        row = FileRow(
            id=new_id("file"),
            project_id=project_id,
            filename=filename,
            purpose=purpose,
            num_bytes=blob.num_bytes,
            digest=blob.digest,
            created_at=now,
            expires_at=None if expires_after_s is None else now + timedelta(seconds=expires_after_s),
        )
        session.add(row)
        session.flush()
        return row

    def get(self, session: Session, project_id: str, file_id: str, *, param: str | None = "file_id") -> FileRow:
        """One file.

        Raises:
            NotFound: there is none of that id in the project, or its time is over.
        """
        row = session.scalar(select(FileRow).where(FileRow.id == file_id, FileRow.project_id == project_id, self._is_alive()))
        if row is None:
            raise NotFound(
                f"There is no file {file_id[:80]!r}.", hint="GET /v1/files lists the files.", param=param, code="file_not_found"
            )
        return row

    def stored(self, session: Session, project_id: str, file_id: str) -> StoredFile:
        """What a data space needs of a file; raises as `get`."""
        row = self.get(session, project_id, file_id)
        return StoredFile(row.filename, row.digest, row.num_bytes)

    def given(
        self,
        session: Session,
        project_id: str,
        file_id: str,
        *,
        purpose: str,
        param: str,
        max_bytes: int | None = None,
    ) -> FileRow:
        """A file that a request names for one purpose.

        Raises:
            NotFound: see `get`.
            InvalidRequest: it was stored for another purpose, or is too large.
        """
        file = self.get(session, project_id, file_id, param=param)
        if file.purpose != purpose:
            raise InvalidRequest(
                f"{param}: the file {file_id} was stored for {file.purpose}.",
                hint=f"Store it with the purpose {purpose}.",
                param=param,
                code="invalid_file_purpose",
            )
        if max_bytes is not None and file.num_bytes > max_bytes:
            raise InvalidRequest(
                f"{param}: the file {file_id} has {file.num_bytes} bytes; at most {max_bytes} are taken here.",
                hint="Split the file.",
                param=param,
                code="file_too_large",
            )
        return file

    def list(
        self, session: Session, project_id: str, *, purpose: str | None, after: str | None, limit: int, order: str
    ) -> Listing:
        """A page of files by their time of creation."""
        query = select(FileRow).where(FileRow.project_id == project_id, self._is_alive())
        if purpose is not None:
            query = query.where(FileRow.purpose == purpose)
        if after is not None:
            query = query.where(FileRow.id > after if order == "asc" else FileRow.id < after)
        query = query.order_by(FileRow.id if order == "asc" else FileRow.id.desc()).limit(limit + 1)
        rows = [*session.scalars(query)]
        return Listing([file_object(row) for row in rows[:limit]], len(rows) > limit)

    def delete(self, session: Session, project_id: str, file_id: str) -> None:
        """Forget a file, and the data set that was made of it; the bytes go with the next collection of garbage.

        Raises:
            NotFound: there is no such file.
            Conflict: a run still has to read it (code `in_use`).
        """
        row = self.get(session, project_id, file_id)
        with suppress(NotFound):  # nobody may have used it as a data set
            self._catalog.remove(session, project_id, file_id, kind="dataset")
        session.delete(row)

    def dataset(self, session: Session, project_id: str, file_id: str, *, param: str | None = None) -> Version:
        """The file as a version of the data set that has the file's id as its name; made at its first use.

        Raises:
            NotFound: there is no such file.
            UnsafeArtifact: its content is refused.
        """
        row = self.get(session, project_id, file_id, param=param)
        return self._catalog.register(
            session,
            project_id,
            kind="dataset",
            name=row.id,
            # Readers of data sets go by the ending; what the client calls the file is no safe path.
            files=[File(path=f"{row.id}.jsonl", digest=row.digest, num_bytes=row.num_bytes)],
            source=f"file-id:{row.id}",
            metadata={"file_id": row.id, "filename": row.filename, "purpose": row.purpose},
        )

    def referenced(self, digests: Collection[str]) -> set[str]:
        """Those of the blobs that a file or an upload needs: for the collection of garbage."""
        wanted = sorted(digests)
        found: set[str] = set()
        with self.db.reading() as session:
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                for column in (FileRow.digest, UploadPartRow.digest):
                    found.update(session.scalars(select(column).where(column.in_(chunk))))
        return found

    def expire(self) -> None:
        """Forget files and uploads whose time is over."""
        now = self._clock.now()
        with self.db.reading() as session:
            over = [*session.execute(select(FileRow.project_id, FileRow.id).where(FileRow.expires_at <= now)).tuples()]
            stale = [*session.scalars(select(UploadRow.id).where(UploadRow.expires_at <= now - timedelta(days=1)))]
        for project_id, file_id in over:
            with self.db.transaction() as session:
                try:
                    with suppress(NotFound):
                        self._catalog.remove(session, project_id, file_id, kind="dataset")
                except Conflict:
                    continue  # a run reads it; it has gone for clients already
                session.execute(delete(FileRow).where(FileRow.id == file_id))
        if stale:
            with self.db.transaction() as session:
                for start in range(0, len(stale), _CHUNK):
                    chunk = stale[start : start + _CHUNK]
                    session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id.in_(chunk)))
                    session.execute(delete(UploadRow).where(UploadRow.id.in_(chunk)))

    def _is_alive(self) -> Any:
        return or_(FileRow.expires_at.is_(None), FileRow.expires_at > self._clock.now())

    # -- uploads ---------------------------------------------------------------------------------------------------------

    def begin(
        self,
        session: Session,
        project_id: str,
        *,
        filename: str,
        mime_type: str,
        purpose: str,
        num_bytes: int,
        expires_after_s: int | None,
    ) -> UploadRow:
        """Begin an upload, which must be complete within an hour.

        Raises:
            InvalidRequest: it announces more bytes than a file may have.
        """
        if num_bytes > self.max_bytes:
            raise InvalidRequest(
                f"bytes: {num_bytes} are announced; a file may have {self.max_bytes}.",
                hint="Split the file, or have the operator raise MODELWORKS_MAX_FILE_BYTES.",
                param="bytes",
                code="invalid_value",
            )
        now = self._clock.now()
        row = UploadRow(
            id=new_id("upload"),
            project_id=project_id,
            filename=filename,
            mime_type=mime_type,
            purpose=purpose,
            num_bytes=num_bytes,
            expires_after_s=expires_after_s,
            state="pending",
            file_id=None,
            created_at=now,
            expires_at=now + timedelta(seconds=_UPLOAD_LIFE_S),
        )
        session.add(row)
        session.flush()
        return row

    def pending(self, session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> UploadRow:
        """An upload that still takes parts.

        Raises:
            NotFound: there is none of that id.
            Conflict: it is completed, cancelled or expired.
        """
        query = select(UploadRow).where(UploadRow.id == upload_id, UploadRow.project_id == project_id)
        row = session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(f"There is no upload {upload_id[:80]!r}.", param="upload_id", code="upload_not_found")
        status = self.upload_status(row)
        if status != "pending":
            raise Conflict(
                f"The upload {upload_id} is {status}.", hint="Begin another one.", param="upload_id", code="upload_not_pending"
            )
        return row

    def add_part(self, session: Session, project_id: str, upload_id: str, blob: BlobInfo) -> UploadPartRow:
        """Note a part whose bytes are stored; raises as `pending`."""
        row = self.pending(session, project_id, upload_id)
        part = UploadPartRow(
            id=new_id("part"),
            upload_id=row.id,
            project_id=project_id,
            num_bytes=blob.num_bytes,
            digest=blob.digest,
            created_at=self._clock.now(),
        )
        session.add(part)
        session.flush()
        return part

    def complete(
        self, project_id: str, upload_id: str, part_ids: Collection[str], md5: str | None
    ) -> tuple[UploadRow, FileRow]:
        """Join the parts in the given order to a file. The bytes are copied between two transactions.

        Raises:
            NotFound, Conflict: see `pending`.
            InvalidRequest: an unknown or repeated part, or another number of bytes than announced.
            UnprocessableContent: the bytes have another MD5 than announced (code `digest_mismatch`).
        """
        with self.db.reading() as session:
            row = self.pending(session, project_id, upload_id)
            found = {
                part.id: part for part in session.scalars(select(UploadPartRow).where(UploadPartRow.upload_id == upload_id))
            }
        for position, part_id in enumerate(part_ids):
            if part_id not in found:
                raise InvalidRequest(
                    f"part_ids.{position}: the upload {upload_id} has no part {part_id[:80]!r}.",
                    hint="Give the ids that adding the parts returned, each once.",
                    param=f"part_ids.{position}",
                    code="part_not_found",
                )
        if len(set(part_ids)) != len(part_ids):
            raise InvalidRequest("part_ids: a part is named twice.", param="part_ids", code="invalid_value")
        parts = [found[part_id] for part_id in part_ids]
        if (total := sum(part.num_bytes for part in parts)) != row.num_bytes:
            raise InvalidRequest(
                f"part_ids: the parts have {total} bytes together, but {row.num_bytes} were announced.",
                hint="Name every part, in order.",
                param="part_ids",
                code="invalid_value",
            )
        # It identifies bytes and protects nothing.
        digest = hashlib.md5(usedforsecurity=False)

        def joined() -> Iterator[bytes]:
            for part in parts:
                for chunk in self.blobs.iter(part.digest):
                    digest.update(chunk)
                    yield chunk

        with self.blobs.writer(max_bytes=self.max_bytes) as writer:
            for chunk in joined():
                writer.write(chunk)
            if md5 is not None and md5.lower() != digest.hexdigest():
                raise UnprocessableContent(
                    f"The parts have the MD5 {digest.hexdigest()}, but {md5[:80]} was announced; no file was made.",
                    hint="A part changed on the way, or the order is another: send the upload again.",
                    param="md5",
                    code="digest_mismatch",
                )
            blob = writer.commit()
        with self.db.transaction() as session:
            row = self.pending(session, project_id, upload_id, lock=True)
            file = self.create(
                session,
                project_id,
                filename=row.filename,
                purpose=row.purpose,
                blob=blob,
                expires_after_s=row.expires_after_s,
            )
            row.state, row.file_id = "completed", file.id
            session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))
        return row, file

    def cancel(self, session: Session, project_id: str, upload_id: str) -> UploadRow:
        """Take no more parts and forget those that came; raises as `pending`."""
        row = self.pending(session, project_id, upload_id, lock=True)
        row.state = "cancelled"
        session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))
        return row

    def upload_status(self, row: UploadRow) -> str:
        """pending, completed, cancelled or expired."""
        return "expired" if row.state == "pending" and row.expires_at <= self._clock.now() else row.state

    def upload_object(self, row: UploadRow, file: FileRow | None = None) -> dict[str, Any]:
        """OpenAI's upload object."""
        return {
            "id": row.id,
            "object": "upload",
            "bytes": row.num_bytes,
            "created_at": seconds(row.created_at),
            "expires_at": seconds(row.expires_at),
            "filename": row.filename,
            "purpose": row.purpose,
            "status": self.upload_status(row),
            "file": None if file is None else file_object(file),
        }


def seconds(time: datetime) -> int:
    """Unix seconds."""
    return int(time.timestamp())


def file_object(row: FileRow) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.num_bytes,
        "created_at": seconds(row.created_at),
        "expires_at": None if row.expires_at is None else seconds(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }


def part_object(row: UploadPartRow) -> dict[str, Any]:
    """OpenAI's part object."""
    return {"id": row.id, "object": "upload.part", "created_at": seconds(row.created_at), "upload_id": row.upload_id}
