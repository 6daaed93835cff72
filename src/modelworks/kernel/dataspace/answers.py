"""What answers of spaces rest on: noted beside the answers, many in one commit, and read by those who may.

Nobody waits for a note: an answer that cannot be noted is given all the same, and the log says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.batching import BatchWriter
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.dataspace.documents import FORGOTTEN
from modelworks.kernel.dataspace.store import DocumentRow, SpaceAnswerPassageRow, SpaceAnswerRow, SpaceRow

log = structlog.get_logger(__name__)

#: Notes that may wait; what comes beyond is missed rather than kept in memory without end.
_MOST_WAITING: Final = 10_000
_BATCH: Final = 500
#: Notes whose time is over are looked for with the first note, and then so often.
_PRUNE_EVERY: Final = timedelta(hours=1)
_REQUEST_CHARS: Final = 128
#: Of those that were computed from a document's tables.
_SHOWN_ANSWERS: Final = 50


@dataclass(frozen=True, slots=True)
class CitedPassage:
    """A passage that an answer cites, and the document as it was then."""

    passage_id: str
    document_id: str
    digest: str
    version: int


@dataclass(frozen=True, slots=True)
class ComputedTable:
    """A table that a query read: of which document, and of which content of it (the digest names the snapshot, too)."""

    name: str
    place: str | None
    num_rows: int
    document_id: str
    digest: str
    version: int


@dataclass(frozen=True, slots=True)
class ComputedNote:
    """The query of a computed answer, and the rows that it showed. `columns` are names with units, `by` is who wrote it."""

    sql: str
    by: str
    tables: tuple[ComputedTable, ...]
    columns: tuple[tuple[str, str | None], ...]
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerNote:
    """What one answer rests on. `keep_days` is how long this is known."""

    id: str
    space_id: str
    project_id: str
    key_id: str
    user_id: str | None
    request_id: str
    status: str
    index_version_id: str | None
    model: str | None
    model_version_id: str | None
    keep_days: float
    passages: tuple[CitedPassage, ...]
    computed: ComputedNote | None = None


class Answers:
    """One side of the data space's room; see `DataspaceService`. The writer's thread begins with the first note."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._writer = BatchWriter[AnswerNote](self._write, name="answer-notes", most=_BATCH)
        self._prune_at: datetime | None = None

    # -- noting ----------------------------------------------------------------------------------------------------------

    def note(self, note: AnswerNote) -> None:
        """Have what an answer rests on written soon; returns at once."""
        if note.keep_days > 0 and not self._writer.submit(note, room=_MOST_WAITING):
            log.warning("what an answer rests on is not noted", answer_id=note.id)

    def flush(self) -> None:
        """Wait until everything noted so far is written (or has failed)."""
        self._writer.flush()

    def close(self) -> None:
        """Write what waits and end the writer."""
        self._writer.close()

    def _write(self, batch: Sequence[AnswerNote]) -> None:
        now = self._clock.now()
        try:
            with self._db.transaction() as session:
                # A space that was deleted meanwhile takes no notes.
                wanted = {note.space_id for note in batch}
                there = set(session.scalars(select(SpaceRow.id).where(SpaceRow.id.in_(wanted))))
                for note in batch:
                    if note.space_id in there:
                        _add(session, note, now)
                if self._prune_at is None or now >= self._prune_at:
                    self._prune_at = now + _PRUNE_EVERY
                    self.prune(session)
        except Exception as error:
            if len(batch) > 1:
                # One note that the database refuses must not take the others with it.
                for note in batch:
                    self._write([note])
                return
            log.warning("what an answer rests on is not noted", answer_id=batch[0].id, error=str(error)[:500])

    def prune(self, session: Session) -> None:
        """Forget notes whose time is over."""
        over = select(SpaceAnswerRow.id).where(SpaceAnswerRow.expires_at <= self._clock.now())
        self._drop(session, [*session.scalars(over)])

    # -- of a document ---------------------------------------------------------------------------------------------------

    def num_of(self, session: Session, document_id: str) -> int:
        """How many answers cite a document."""
        query = select(func.count(SpaceAnswerPassageRow.answer_id.distinct()))
        return int(session.scalar(query.where(SpaceAnswerPassageRow.document_id == document_id)) or 0)

    def computed_of(self, session: Session, caller: Principal, document_id: str) -> Sequence[SpaceAnswerRow]:
        """The newest answers that were computed from a document's tables and that the caller may see, the newest first."""
        cites = select(SpaceAnswerPassageRow.answer_id).where(SpaceAnswerPassageRow.document_id == document_id)
        query = select(SpaceAnswerRow).where(
            SpaceAnswerRow.id.in_(cites),
            SpaceAnswerRow.project_id == caller.project_id,
            SpaceAnswerRow.computed.is_not(None),
            SpaceAnswerRow.expires_at > self._clock.now(),
        )
        if not caller.has("admin"):
            is_own = SpaceAnswerRow.key_id == caller.key_id
            if caller.user_id is not None:
                is_own = or_(is_own, SpaceAnswerRow.user_id == caller.user_id)
            query = query.where(is_own)
        return [*session.scalars(query.order_by(SpaceAnswerRow.created_at.desc(), SpaceAnswerRow.id).limit(_SHOWN_ANSWERS))]

    def drop_of(self, session: Session, document_id: str) -> int:
        """Forget the notes of all answers that cite a document; how many there were."""
        query = select(SpaceAnswerPassageRow.answer_id).where(SpaceAnswerPassageRow.document_id == document_id)
        found = sorted(set(session.scalars(query)))
        self._drop(session, found)
        return len(found)

    def _drop(self, session: Session, answer_ids: Sequence[str]) -> None:
        for start in range(0, len(answer_ids), _BATCH):
            chunk = answer_ids[start : start + _BATCH]
            session.execute(delete(SpaceAnswerPassageRow).where(SpaceAnswerPassageRow.answer_id.in_(chunk)))
            session.execute(delete(SpaceAnswerRow).where(SpaceAnswerRow.id.in_(chunk)))

    # -- reading ---------------------------------------------------------------------------------------------------------

    def find(
        self, session: Session, caller: Principal, answer_id: str
    ) -> tuple[SpaceAnswerRow, Sequence[SpaceAnswerPassageRow]]:
        """An answer by its own id or that of its request, for whoever asked for it and for administrators.

        Raises:
            NotFound: there is none, its time is over, or somebody else asked for it.
        """
        query = select(SpaceAnswerRow).where(
            SpaceAnswerRow.project_id == caller.project_id,
            SpaceAnswerRow.expires_at > self._clock.now(),
            or_(SpaceAnswerRow.id == answer_id, SpaceAnswerRow.request_id == answer_id),
        )
        row = session.scalar(query.order_by(SpaceAnswerRow.created_at.desc()).limit(1))
        if row is None or not _may_see(row, caller):
            raise NotFound(
                f"Nothing is known of an answer {answer_id[:80]!r}.",
                hint="Give the id of the answer (chatcmpl_…) or its X-Request-Id; a space keeps it for `answering.keep_days`.",
                code="answer_not_found",
            )
        cited = select(SpaceAnswerPassageRow).where(SpaceAnswerPassageRow.answer_id == row.id)
        return row, [*session.scalars(cited.order_by(SpaceAnswerPassageRow.passage_id))]


def _add(session: Session, note: AnswerNote, now: datetime) -> None:
    cited = {passage.passage_id: passage for passage in note.passages}
    documents = {each.document_id: session.get(DocumentRow, each.document_id) for each in cited.values()}
    if any(row is None or row.name == FORGOTTEN for row in documents.values()):
        return  # forgotten while the answer was told
    session.add(
        SpaceAnswerRow(
            id=note.id,
            space_id=note.space_id,
            project_id=note.project_id,
            key_id=note.key_id,
            user_id=note.user_id,
            request_id=note.request_id[:_REQUEST_CHARS],
            status=note.status,
            index_version_id=note.index_version_id,
            model=note.model,
            model_version_id=note.model_version_id,
            computed=None if note.computed is None or not _is_still_there(session, note.computed) else asdict(note.computed),
            created_at=now,
            expires_at=now + timedelta(days=note.keep_days),
        )
    )
    session.flush()
    for each in cited.values():
        row = documents[each.document_id]
        # A document that changes answers from its older content until the next index does.
        digest = each.digest if row is None or row.indexed_digest is None else row.indexed_digest
        session.add(
            SpaceAnswerPassageRow(
                answer_id=note.id,
                passage_id=each.passage_id,
                project_id=note.project_id,
                document_id=each.document_id,
                document_digest=digest,
                document_version=each.version - (digest != each.digest and each.version > 1),
            )
        )


def _is_still_there(session: Session, computed: ComputedNote) -> bool:
    """Whether all of its tables are what they were: of one that a row was taken from meanwhile no rows may be kept.

    The rows are locked, so that who takes something away now removes this note after it was written.
    """
    for each in computed.tables:
        row = session.get(DocumentRow, each.document_id, populate_existing=True, with_for_update={"read": True})
        if row is None or row.state == "removed" or row.digest != each.digest:
            return False
    return True


def _may_see(row: SpaceAnswerRow, caller: Principal) -> bool:
    is_own = caller.key_id == row.key_id or (caller.user_id is not None and caller.user_id == row.user_id)
    return is_own or caller.has("admin")
