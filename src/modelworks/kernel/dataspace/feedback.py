"""What readers say of published answers: a thumb, and how it should have been put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.pages import page_of, paged
from modelworks.kernel.dataspace.publications import Published
from modelworks.kernel.dataspace.schemas import SpaceSettings
from modelworks.kernel.dataspace.store import DocumentRow, FeedbackRow, SpaceRow

if TYPE_CHECKING:
    from modelworks.kernel.dataspace.service import DataspaceService

Rating = Literal["up", "down"]


class Feedback(BaseModel):
    """What a reader said of one answer."""

    object: Literal["space.feedback"] = "space.feedback"
    id: str
    publication_id: str
    space_id: str
    answer_id: str
    rating: Rating
    #: How the reader would have it answered; a stranger's words, until somebody of the project accepts them to be learned.
    correction: str | None
    accepted: bool
    question: str
    answer: str
    status: str
    #: Ids of the documents that the answer cites.
    documents: list[str]
    origin: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An answer that this server has told, as far as feedback needs it. Whoever makes one has checked that it was told."""

    answer_id: str
    question: str
    answer: str
    status: str
    documents: Sequence[str]
    origin: str


class Feedbacks:
    """One side of the data space's room; see `DataspaceService`. Methods take part in the caller's transaction."""

    def __init__(self, spaces: DataspaceService, clock: Clock) -> None:
        self._spaces = spaces
        self._clock = clock

    def put(
        self, session: Session, published: Published, told: Told, rating: Rating, correction: str | None = None
    ) -> Feedback:
        """Note what a reader said of an answer; what was said of the same answer before is replaced.

        Raises:
            NotFound: the space is gone.
            Conflict: a document that the answer cites is gone, and its words with it (`answer_outdated`).
        """
        # Locked, so that no document is forgotten meanwhile.
        owner = self._spaces.row(session, published.principal.project_id, published.space_id, lock=True)
        living = select(DocumentRow.id).where(
            DocumentRow.space_id == owner.id, DocumentRow.id.in_(told.documents), DocumentRow.state != "removed"
        )
        if set(told.documents) - set(session.scalars(living)):
            raise Conflict(
                "A document that this answer cites is not there any more.", hint="Ask again.", code="answer_outdated"
            )
        now = self._clock.now()
        query = select(FeedbackRow).where(FeedbackRow.publication_id == published.id, FeedbackRow.answer_id == told.answer_id)
        row = session.scalar(query)
        if row is None:
            row = FeedbackRow(
                id=new_id("fdbk"),
                publication_id=published.id,
                space_id=published.space_id,
                project_id=published.principal.project_id,
                answer_id=told.answer_id,
                question=told.question,
                answer=told.answer,
                status=told.status,
                documents=[*told.documents],
                origin=told.origin,
                created_at=now,
            )
            session.add(row)
        row.rating, row.correction, row.updated_at = rating, correction or None, now
        session.flush()
        return _shown(row, _accepted(owner))

    def accept(self, session: Session, project_id: str, space: str, feedback_id: str, *, undo: bool = False) -> Feedback:
        """Let the next model learn a correction, or not any more. It stands in the space's settings, `learning.corrections`.

        Raises:
            NotFound: no such space or feedback. InvalidRequest: it corrects nothing (`no_correction`).
        """
        owner = self._spaces.row(session, project_id, space, lock=True)
        row = session.get(FeedbackRow, feedback_id)
        if row is None or row.space_id != owner.id:
            raise NotFound(
                f"The data space {owner.name!r} has no feedback {feedback_id[:80]!r}.",
                hint=f"`modelworks space feedback {owner.id}` lists it.",
                code="feedback_not_found",
            )
        if row.correction is None and not undo:
            raise InvalidRequest(
                f"{feedback_id} says that an answer is wrong or right, and not how it should be.",
                hint="Nothing has to be accepted: samples that say the same as an answer that is wrong are left out.",
                code="no_correction",
            )
        settings = SpaceSettings.model_validate(owner.settings)
        kept = [each for each in settings.learning.corrections if each != feedback_id]
        settings.learning.corrections = kept if undo else [*kept, feedback_id]
        owner.settings = settings.model_dump(mode="json")
        session.flush()
        return _shown(row, _accepted(owner))

    def of_use(self, session: Session, space_id: str, accepted: set[str]) -> Sequence[FeedbackRow]:
        """What a model may learn from: corrections, and answers that are wrong; the oldest first."""
        query = select(FeedbackRow).where(FeedbackRow.space_id == space_id)
        rows = session.scalars(query.order_by(FeedbackRow.id))
        return [row for row in rows if row.rating == "down" or (row.correction is not None and row.id in accepted)]

    def list(
        self,
        session: Session,
        project_id: str,
        space: str,
        *,
        rating: Rating | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page[Feedback]:
        """What was said of a space's answers, newest first. Raises NotFound."""
        owner = self._spaces.row(session, project_id, space)
        query = select(FeedbackRow).where(FeedbackRow.space_id == owner.id)
        if rating is not None:
            query = query.where(FeedbackRow.rating == rating)
        rows = paged(session, query, FeedbackRow.id, after=after, before=None, limit=limit, order="desc")
        accepted = _accepted(owner)
        return page_of([_shown(row, accepted) for row in rows[:limit]], has_more=len(rows) > limit)

    def of_document(self, session: Session, space_id: str, document_id: str) -> Sequence[FeedbackRow]:
        """What was said of answers that cite a document: their text is the document's."""
        rows = session.scalars(select(FeedbackRow).where(FeedbackRow.space_id == space_id))
        return [row for row in rows if document_id in row.documents]

    def forget(self, session: Session, space_id: str, document_id: str) -> int:
        """Remove what was said of answers that cite a document; how many there were."""
        rows = self.of_document(session, space_id, document_id)
        for row in rows:
            session.delete(row)
        session.flush()
        return len(rows)


def _accepted(owner: SpaceRow) -> frozenset[str]:
    return frozenset(SpaceSettings.model_validate(owner.settings).learning.corrections)


def _shown(row: FeedbackRow, accepted: frozenset[str]) -> Feedback:
    return Feedback(
        id=row.id,
        publication_id=row.publication_id,
        space_id=row.space_id,
        answer_id=row.answer_id,
        rating=cast(Any, row.rating),
        correction=row.correction,
        accepted=row.id in accepted,
        question=row.question,
        answer=row.answer,
        status=row.status,
        documents=row.documents,
        origin=row.origin,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
