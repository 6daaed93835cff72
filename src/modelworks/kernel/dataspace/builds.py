"""Builds of a space: what there is to do, where each stands, and what its end means for the documents."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from modelworks.contract.passages import Document, ParsedDocument
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.pages import page_of, paged
from modelworks.kernel.dataspace.schemas import Build
from modelworks.kernel.dataspace.store import DocumentRow, SpaceBuildRow, SpaceRow

if TYPE_CHECKING:
    from modelworks.kernel.dataspace.service import DataspaceService

#: A build begins when nothing has changed for so long, so that documents that come together share one …
QUIET: Final = timedelta(seconds=1)
#: … but no longer than this after the first change.
PATIENCE: Final = timedelta(seconds=15)
_ENDING_CHARS: Final = 9


class Builds:
    """One side of the data space's room; see `DataspaceService`. The pipeline above it moves builds from step to step."""

    def __init__(self, spaces: DataspaceService, clock: Clock) -> None:
        self._spaces = spaces
        self._clock = clock

    # -- what there is to do ---------------------------------------------------------------------------------------------

    def due(self, session: Session) -> Sequence[str]:
        """Spaces that need a look: a build is under way, changes wait, documents' time is over, or the space is gone."""
        now = self._clock.now()
        open_builds = select(SpaceBuildRow.space_id).where(SpaceBuildRow.state == "running")
        outdated = select(DocumentRow.space_id).where(DocumentRow.expires_at <= now, DocumentRow.state != "removed")
        query = select(SpaceRow.id).where(
            or_(
                SpaceRow.deleted_at.is_not(None),
                SpaceRow.waiting_since.is_not(None),
                SpaceRow.id.in_(open_builds),
                SpaceRow.id.in_(outdated),
                (SpaceRow.expires_at <= now) & SpaceRow.index_version_id.is_not(None),
            )
        )
        return [*session.scalars(query.order_by(SpaceRow.id))]

    def locked(self, session: Session, space_id: str) -> SpaceRow | None:
        """The row of a space for a change, whoever's it is, a deleted one too; None where it has gone."""
        query = select(SpaceRow).where(SpaceRow.id == space_id).with_for_update()
        return session.scalar(query.execution_options(populate_existing=True))

    def running(self, session: Session, space_id: str) -> SpaceBuildRow | None:
        """The build under way."""
        query = select(SpaceBuildRow).where(SpaceBuildRow.space_id == space_id, SpaceBuildRow.state == "running")
        return session.scalar(query.order_by(SpaceBuildRow.id).limit(1))

    def is_time(self, row: SpaceRow) -> bool:
        """Whether the changes of a space should be built now, not in a moment."""
        if row.waiting_since is None or row.revision <= max(row.built_revision, row.failed_revision):
            return False
        now = self._clock.now()
        return now - row.changed_at >= QUIET or now - row.waiting_since >= PATIENCE

    # -- a build's way ---------------------------------------------------------------------------------------------------

    def begin(self, session: Session, row: SpaceRow) -> SpaceBuildRow:
        """Begin a build of everything that is there now; the row is locked. What changes from here on is the next one's."""
        build = SpaceBuildRow(
            id=new_id("build"),
            space_id=row.id,
            project_id=row.project_id,
            revision=row.revision,
            state="running",
            step="documents",
            documents_version_id=None,
            parsing_run_id=None,
            passages_version_id=None,
            cleaning_run_id=None,
            clean_version_id=None,
            indexing_run_id=None,
            index_version_id=None,
            counts={},
            error=None,
            created_at=self._clock.now(),
            finished_at=None,
        )
        row.waiting_since = None
        session.add(build)
        session.flush()
        self._spaces.tell(session, row, "A build has begun.", data={"build_id": build.id, "revision": build.revision})
        return build

    def handed_over(self, session: Session, space_id: str) -> Iterator[Document]:
        """The documents that are there, as the parser is told of them."""
        query = select(DocumentRow).where(DocumentRow.space_id == space_id, DocumentRow.state != "removed")
        for row in session.scalars(query.order_by(DocumentRow.id)):
            # What a person called it is no safe path, but readers may go by the ending.
            ending = row.name.rpartition(".")[2].lower() if "." in row.name else ""
            plain = ending if ending.isascii() and ending.isalnum() and len(ending) < _ENDING_CHARS else "bin"
            yield Document(
                id=row.id,
                path=f"files/{row.id}.{plain}",
                name=row.name,
                digest=row.digest,
                num_bytes=row.num_bytes,
                media_type=row.media_type,
                licence=row.licence,
                owner=row.owner,
                attributes=row.attributes,
            )

    def mark_parsing(self, session: Session, row: SpaceRow, document_ids: Collection[str]) -> None:
        """Say of the documents that wait that they are being read."""
        query = select(DocumentRow).where(DocumentRow.space_id == row.id, DocumentRow.state == "pending")
        for document in session.scalars(query):
            if document.id in document_ids:
                document.state = "parsing"

    def mark_parsed(self, session: Session, row: SpaceRow, parsed: Sequence[ParsedDocument]) -> None:
        """Note what the parser found; a document that changed meanwhile, or has gone, is left alone."""
        found = {each.id: each for each in parsed}
        for document in session.scalars(
            select(DocumentRow).where(DocumentRow.space_id == row.id, DocumentRow.state != "removed")
        ):
            told = found.get(document.id)
            if told is None or told.digest != document.digest:
                continue
            document.faults = [fault.model_dump(mode="json", exclude_none=True) for fault in told.faults]
            document.num_passages, document.num_pages = told.num_passages, told.num_pages
            document.language = told.language
            document.media_type = told.media_type or document.media_type
            if told.state == "failed":
                document.state = "failed"

    def finish(self, session: Session, row: SpaceRow, build: SpaceBuildRow, parsed: Sequence[ParsedDocument]) -> None:
        """The index of a build answers: documents that it holds are indexed, of all others it holds nothing.

        Args:
            parsed: what the parser said of each document, or the cleaner after it.
        """
        read = {each.id: each.digest for each in parsed if each.state != "failed"}
        held = {each.id: each.digest for each in parsed if each.num_passages > 0}
        left = {each.id: each for each in parsed}
        for document in session.scalars(select(DocumentRow).where(DocumentRow.space_id == row.id)):
            digest = held.get(document.id)
            document.indexed_digest = digest
            if (told := left.get(document.id)) is not None and told.digest == document.digest:
                document.num_passages = told.num_passages
                cleaned = sum(told.dropped.values()) + told.num_changed
                document.num_cleaned, document.dropped = cleaned or None, told.dropped or None
            if document.state != "removed" and read.get(document.id) == document.digest:
                document.state = "indexed"
            elif document.state == "removed" and digest is None:
                document.num_passages = 0
        build.state, build.step = "succeeded", "done"
        build.finished_at = self._clock.now()
        row.documents_version_id = build.documents_version_id
        row.passages_version_id, row.clean_version_id = build.passages_version_id, build.clean_version_id
        row.index_version_id = build.index_version_id
        row.built_revision = max(row.built_revision, build.revision)
        row.error = None
        self._spaces.tell(
            session, row, "The index answers.", data={"build_id": build.id, "revision": build.revision, **build.counts}
        )
        self._spaces.announce(session, row)

    def fail(self, session: Session, row: SpaceRow, build: SpaceBuildRow, error: Mapping[str, Any]) -> None:
        """A build ends without an index; what answered before goes on answering."""
        build.state, build.error = "failed", dict(error)
        build.finished_at = self._clock.now()
        row.failed_revision = max(row.failed_revision, build.revision)
        row.error = dict(error)
        query = select(DocumentRow).where(DocumentRow.space_id == row.id, DocumentRow.state == "parsing")
        for document in session.scalars(query):
            document.state = "pending"
        message = f"The build failed while {build.step}: {error.get('message')}"
        self._spaces.tell(session, row, message, level="error", data={"build_id": build.id, "code": error.get("code")})
        self._spaces.announce(session, row)

    def rest(self, session: Session, row: SpaceRow, build: SpaceBuildRow | None) -> None:
        """The time of a space is over: no index holds its documents, which wait in case that it begins anew."""
        if build is not None:
            build.state, build.finished_at = "cancelled", self._clock.now()
        query = select(DocumentRow).where(DocumentRow.space_id == row.id, DocumentRow.state != "removed")
        for document in session.scalars(query):
            document.indexed_digest, document.state = None, "pending"
        row.documents_version_id = row.passages_version_id = row.clean_version_id = row.index_version_id = None
        row.built_revision, row.waiting_since = 0, None
        self._spaces.tell(session, row, "The space answers no more: its time is over.")

    def list(self, session: Session, project_id: str, space: str, *, after: str | None = None, limit: int = 20) -> Page[Build]:
        """Builds of a space, newest first."""
        owner = self._spaces.row(session, project_id, space)
        query = select(SpaceBuildRow).where(SpaceBuildRow.space_id == owner.id)
        rows = paged(session, query, SpaceBuildRow.id, after=after, before=None, limit=limit, order="desc")
        return page_of([shown_build(row) for row in rows[:limit]], has_more=len(rows) > limit)


def shown_build(row: SpaceBuildRow, progress: Mapping[str, Any] | None = None) -> Build:
    """A build as its project sees it."""
    return Build(
        id=row.id,
        space_id=row.space_id,
        revision=row.revision,
        state=cast(Any, row.state),
        step=cast(Any, row.step),
        parsing_run_id=row.parsing_run_id,
        cleaning_run_id=row.cleaning_run_id,
        indexing_run_id=row.indexing_run_id,
        documents_version_id=row.documents_version_id,
        passages_version_id=row.passages_version_id,
        clean_version_id=row.clean_version_id,
        index_version_id=row.index_version_id,
        counts=row.counts,
        progress=None if progress is None else dict(progress),
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
