"""Batches in OpenAI's form: what is asked for, what is kept, what is shown. `BatchSteps` works them off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.batches.file import MAX_FILE_BYTES, Findings, add_usage, usage_object
from modelworks.kernel.gateway.files.routes import ExpiresAfter
from modelworks.kernel.gateway.files.service import FileService, Listing, seconds
from modelworks.kernel.gateway.schemas import Metadata, Wire
from modelworks.kernel.gateway.store import BatchAnswerRow, BatchRow
from modelworks.kernel.storage.schemas import BlobInfo

#: States of a batch in which the server still has to do something.
OPEN: Final = ("validating", "in_progress", "finalizing", "cancelling")
PURPOSE: Final = "batch"
#: Of the files that the server writes.
OUTPUT_PURPOSE: Final = "batch_output"
WINDOW: Final = timedelta(hours=24)
_PAGE: Final = 500
_MOMENTS: Final = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class BatchCreate(Wire):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/moderations", "/v1/responses"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchService:
    """Batches of a project; those of others do not exist for it. Methods with a `session` take part in its transaction.

    Args:
        wake: called after a commit that leaves something to do.
    """

    def __init__(self, db: Database, files: FileService, clock: Clock, *, wake: Callable[[], None] = lambda: None) -> None:
        self.db = db
        self.wake = wake
        self._files = files
        self._clock = clock

    def create(self, session: Session, caller: Principal, asked: BatchCreate) -> dict[str, Any]:
        """Note a batch; its file is read and checked afterwards.

        Raises:
            PermissionDenied: the key may not ask models.
            NotFound: there is no such file.
            InvalidRequest: the file was stored for another purpose, or is too large.
        """
        caller.require("inference")
        param = "input_file_id"
        file = self._files.given(
            session, caller.project_id, asked.input_file_id, purpose=PURPOSE, param=param, max_bytes=MAX_FILE_BYTES
        )
        now = self._clock.now()
        life = asked.output_expires_after
        row = BatchRow(
            id=new_id("batch"),
            project_id=caller.project_id,
            key_id=caller.key_id,
            endpoint=asked.endpoint,
            input_file_id=file.id,
            input_digest=file.digest,
            output_life_s=None if life is None else life.seconds,
            wish="run",
            state="validating",
            model=None,
            num_requests=0,
            num_completed=0,
            num_failed=0,
            usage={},
            errors=None,
            output_file_id=None,
            error_file_id=None,
            moments={},
            labels=dict(asked.metadata or {}),
            created_at=now,
            expires_at=now + WINDOW,
        )
        session.add(row)
        session.flush()
        return show(row)

    def get(self, session: Session, project_id: str, batch_id: str) -> dict[str, Any]:
        """One batch; raises NotFound."""
        return show(self._row(session, project_id, batch_id))

    def list(self, session: Session, project_id: str, *, after: str | None, limit: int) -> Listing:
        """Batches, the newest first; raises NotFound where `after` is none of the project."""
        query = select(BatchRow).where(BatchRow.project_id == project_id)
        if after is not None:
            query = query.where(BatchRow.id < self._row(session, project_id, after, param="after").id)
        rows = [*session.scalars(query.order_by(BatchRow.id.desc()).limit(limit + 1))]
        return Listing([show(row) for row in rows[:limit]], len(rows) > limit)

    def cancel(self, session: Session, project_id: str, batch_id: str) -> dict[str, Any]:
        """Ask nothing more; what is answered is given out. Doing it twice changes nothing.

        Raises:
            NotFound: no such batch. Conflict: nothing is left to ask.
        """
        row = self._row(session, project_id, batch_id, lock=True)
        if row.state not in ("validating", "in_progress", "cancelling"):
            raise Conflict(
                f"The batch {batch_id} is {row.state}.",
                hint="Only a batch that still asks can be cancelled.",
                param="batch_id",
                code="batch_over",
            )
        if row.state != "cancelling":
            row.wish = "cancel"
            self._enter(row, "cancelling")
        return show(row)

    def referenced(self, digests: Collection[str]) -> set[str]:
        """Those of the blobs that a batch still has to read, though its file may be deleted: for the collection of garbage."""
        with self.db.reading() as session:
            wanted = session.scalars(select(BatchRow.input_digest).where(BatchRow.state.in_(OPEN)))
            return set(digests).intersection(wanted)

    # -- what the steps need ---------------------------------------------------------------------------------------------

    def open(self) -> dict[str, str]:
        """The states of the batches with something left to do, the oldest first."""
        with self.db.reading() as session:
            query = select(BatchRow.id, BatchRow.state).where(BatchRow.state.in_(OPEN)).order_by(BatchRow.id)
            return dict(session.execute(query).tuples().all())

    def read(self, batch_id: str) -> BatchRow | None:
        """The row of a batch with something left to do."""
        with self.db.reading() as session:
            row = session.get(BatchRow, batch_id)
            return None if row is None or row.state not in OPEN else row

    def is_too_late(self, row: BatchRow) -> bool:
        """Whether the window of a batch is over."""
        return self._clock.now() >= row.expires_at

    def begin(self, batch_id: str, found: Findings) -> None:
        """The file is good: questions may be asked."""
        with self.db.transaction() as session:
            if (row := self._locked(session, batch_id, "validating")) is not None:
                row.num_requests, row.model = found.num_requests, found.model
                self._enter(row, "in_progress")

    def answered(self, batch_id: str) -> set[int]:
        """The lines whose answers are stored."""
        with self.db.reading() as session:
            return {*session.scalars(select(BatchAnswerRow.seq).where(BatchAnswerRow.batch_id == batch_id))}

    def store(self, batch_id: str, seq: int, line: bytes, body: Any, *, is_error: bool) -> None:
        """Keep an answer, and count it, at once: it is never asked for again."""
        with self.db.transaction() as session:
            # Also of a batch that is being cancelled: what was paid for is given out.
            row = self._locked(session, batch_id, "in_progress", "cancelling")
            if row is None:
                return
            answer = {"batch_id": batch_id, "seq": seq, "project_id": row.project_id, "is_error": is_error, "line": line}
            session.execute(insert(BatchAnswerRow), [answer])
            if is_error:
                row.num_failed += 1
            else:
                row.num_completed += 1
                row.usage = add_usage(row.usage, body)

    def finalize(self, batch_id: str) -> None:
        """Go over to making the files where everything is answered; a batch that was cancelled meanwhile stays so."""
        with self.db.transaction() as session:
            row = self._locked(session, batch_id, "in_progress")
            if row is not None and row.num_completed + row.num_failed == row.num_requests:
                self._enter(row, "finalizing")

    def lines(self, batch_id: str, *, is_error: bool) -> Iterator[bytes]:
        """The stored lines of one of the two files, in the order of the questions."""
        last = 0
        while True:
            with self.db.reading() as session:
                query = select(BatchAnswerRow.seq, BatchAnswerRow.line).where(
                    BatchAnswerRow.batch_id == batch_id, BatchAnswerRow.is_error == is_error, BatchAnswerRow.seq > last
                )
                page = session.execute(query.order_by(BatchAnswerRow.seq).limit(_PAGE)).tuples().all()
            if not page:
                return
            last = page[-1][0]
            yield from (line for _, line in page)

    def close(
        self,
        row: BatchRow,
        state: Literal["completed", "failed", "expired", "cancelled"],
        *,
        output: BlobInfo | None = None,
        errors: BlobInfo | None = None,
        faults: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Nothing more happens to this batch: its files take the place of its stored answers."""
        with self.db.transaction() as session:
            found = self._locked(session, row.id, row.state)
            if found is None:
                return
            found.output_file_id = self._kept(session, found, "output", output)
            found.error_file_id = self._kept(session, found, "errors", errors)
            found.errors = None if faults is None else [*faults]
            self._enter(found, state)
            session.execute(delete(BatchAnswerRow).where(BatchAnswerRow.batch_id == row.id))

    def _kept(self, session: Session, row: BatchRow, kind: str, blob: BlobInfo | None) -> str | None:
        if blob is None:
            return None
        return self._files.create(
            session,
            row.project_id,
            filename=f"{row.id}_{kind}.jsonl",
            purpose=OUTPUT_PURPOSE,
            blob=blob,
            expires_after_s=row.output_life_s,
        ).id

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _enter(self, row: BatchRow, state: str) -> None:
        row.state = state
        row.moments = {**row.moments, state: seconds(self._clock.now())}

    def _locked(self, session: Session, batch_id: str, *states: str) -> BatchRow | None:
        row = session.scalar(select(BatchRow).where(BatchRow.id == batch_id).with_for_update())
        return row if row is not None and row.state in states else None

    def _row(
        self, session: Session, project_id: str, batch_id: str, *, param: str = "batch_id", lock: bool = False
    ) -> BatchRow:
        query = select(BatchRow).where(BatchRow.id == batch_id, BatchRow.project_id == project_id)
        row = session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(
                f"There is no batch {batch_id[:80]!r}.",
                hint="GET /v1/batches lists the batches.",
                param=param,
                code="batch_not_found",
            )
        return row


def show(row: BatchRow) -> dict[str, Any]:
    """OpenAI's batch object."""
    moments: Mapping[str, int] = row.moments
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": row.input_file_id,
        "completion_window": "24h",
        "status": row.state,
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        "created_at": seconds(row.created_at),
        "expires_at": seconds(row.expires_at),
        **{f"{name}_at": moments.get(name) for name in _MOMENTS},
        "request_counts": {"total": row.num_requests, "completed": row.num_completed, "failed": row.num_failed},
        "usage": usage_object(row.usage),
        "metadata": row.labels,
    }
