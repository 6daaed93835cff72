"""Data spaces as their projects see them: made, changed, listed, removed. Every query filters by project."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Final, Literal, cast

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, NotFound
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.answers import Answers
from modelworks.kernel.dataspace.builds import PATIENCE, Builds, shown_build
from modelworks.kernel.dataspace.documents import Documents
from modelworks.kernel.dataspace.feedback import Feedbacks
from modelworks.kernel.dataspace.forgetting import Forgettings
from modelworks.kernel.dataspace.learning import Learnings
from modelworks.kernel.dataspace.pages import page_of, paged
from modelworks.kernel.dataspace.publications import Publications
from modelworks.kernel.dataspace.schemas import (
    BUILT_WITH,
    DocumentCounts,
    Space,
    SpaceCreate,
    SpaceEvent,
    SpaceSettings,
    SpaceState,
    SpaceUpdate,
)
from modelworks.kernel.dataspace.store import DocumentRow, SpaceBuildRow, SpaceEventRow, SpaceRow
from modelworks.kernel.jobs import JobsService

#: Announced after a commit that leaves something to do for a space.
TOPIC: Final = "space.changed"
_CHUNK = 400


class DataspaceService:
    """The room's door; `documents`, `builds`, `learnings`, `answers`, `forgettings`, `publications`, `feedback` are its sides.

    Methods take part in the caller's transaction.
    """

    def __init__(self, db: Database, jobs: JobsService, clock: Clock, events: Events) -> None:
        self.db = db
        self.documents = Documents(self, clock)
        self.builds = Builds(self, clock)
        self.learnings = Learnings(self, jobs, clock)
        self.answers = Answers(db, clock)
        self.forgettings = Forgettings(self, clock)
        self.publications = Publications(self, clock)
        self.feedback = Feedbacks(self, clock)
        self._jobs = jobs
        self._clock = clock
        self._events = events

    # -- spaces ----------------------------------------------------------------------------------------------------------

    def create(self, session: Session, project_id: str, key_id: str | None, asked: SpaceCreate) -> Space:
        """Make a space without documents.

        Raises:
            Conflict: the project has a space of that name (`space_exists`).
        """
        now, space_id = self._clock.now(), new_id("vs")
        name = asked.name or space_id
        self._require_free(session, project_id, name)
        days = asked.expires_after_days
        row = SpaceRow(
            id=space_id,
            project_id=project_id,
            key_id=key_id,
            name=name,
            description=asked.description,
            labels=dict(asked.metadata),
            settings=asked.settings.model_dump(mode="json"),
            catalog_name=_catalog_name(name, space_id),
            expires_after_days=days,
            last_active_at=now,
            expires_at=None if days is None else now + timedelta(days=days),
            revision=0,
            built_revision=0,
            failed_revision=0,
            changed_at=now,
            waiting_since=None,
            documents_version_id=None,
            passages_version_id=None,
            clean_version_id=None,
            index_version_id=None,
            error=None,
            deleted_at=None,
            event_seq=0,
            created_at=now,
            updated_at=now,
        )
        session.add(row)
        session.flush()
        self.tell(session, row, "The space was made.")
        return self.show(session, row)

    def get(self, session: Session, project_id: str, ref: str) -> Space:
        """A space by its id or its name; raises NotFound."""
        return self.show(session, self.row(session, project_id, ref))

    def list(
        self,
        session: Session,
        project_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        search: str | None = None,
    ) -> Page[Space]:
        """Spaces by their time of creation.

        Args:
            after, before: ids between which the page lies, in the chosen order.
            search: a part of the name; case does not matter.
        """
        query = select(SpaceRow).where(SpaceRow.project_id == project_id, SpaceRow.deleted_at.is_(None))
        if search:
            query = query.where(SpaceRow.name.icontains(search, autoescape=True))
        rows = paged(session, query, SpaceRow.id, after=after, before=before, limit=limit, order=order)
        return page_of([self.show(session, row) for row in rows[:limit]], has_more=len(rows) > limit)

    def update(self, session: Session, project_id: str, ref: str, asked: SpaceUpdate) -> Space:
        """Change what is given. Another encoder, other sizes of passages or another rule of cleaning ask for another index.

        Raises:
            NotFound: no such space. Conflict: the name is taken (`space_exists`).
        """
        row = self.row(session, project_id, ref, lock=True)
        if asked.name is not None and asked.name != row.name:
            self._require_free(session, project_id, asked.name)
            row.name = asked.name
        if "description" in asked.model_fields_set:
            row.description = asked.description
        if asked.metadata is not None:
            row.labels = dict(asked.metadata)
        if asked.expires_after_days is not None:
            row.expires_after_days = asked.expires_after_days or None
            self._prolong(row)
            if row.revision > row.built_revision and row.waiting_since is None and not self.is_over(row):
                # It had ended, and begins anew.
                row.waiting_since = self._clock.now()
                self.announce(session, row)
        row.updated_at = self._clock.now()
        if asked.settings is not None:
            # Settings that came later have their defaults.
            before = SpaceSettings.model_validate(row.settings).model_dump(mode="json")
            after = asked.settings.model_dump(mode="json")
            row.settings = after
            if any(before[name] != after[name] for name in BUILT_WITH):
                self.changed(session, row)
        session.flush()
        return self.show(session, row)

    def delete(self, session: Session, project_id: str, ref: str) -> Space:
        """Let a space be gone at once; what was made for it is taken away by the pipeline. Raises NotFound."""
        row = self.row(session, project_id, ref, lock=True)
        gone = self.show(session, row)
        row.deleted_at = self._clock.now()
        # The name is free again.
        row.name = row.id
        session.flush()
        self.announce(session, row)
        return gone

    def used(self, session: Session, project_id: str, space_id: str) -> None:
        """Note that somebody uses a space: its time begins anew. Once in a while is enough: see `needs_note`."""
        row = self.row(session, project_id, space_id, lock=True)
        row.last_active_at = self._clock.now()
        self._prolong(row)

    def needs_note(self, space: Space) -> bool:
        """Whether `used` would make a difference worth a write."""
        return space.expires_at is not None and self._clock.now() - space.last_active_at > timedelta(hours=1)

    def rebuild(self, session: Session, project_id: str, ref: str, *, anew: bool = False) -> Space:
        """Build now: also what failed before, and with `anew` although nothing has changed.

        Raises:
            NotFound: no such space.
        """
        row = self.row(session, project_id, ref, lock=True)
        row.failed_revision = 0
        row.revision += anew
        if row.revision > row.built_revision:
            row.waiting_since = row.changed_at = self._clock.now() - PATIENCE
        session.flush()
        self.announce(session, row)
        return self.show(session, row)

    # -- what happened ---------------------------------------------------------------------------------------------------

    def tell(
        self,
        session: Session,
        row: SpaceRow,
        message: str,
        *,
        level: Literal["info", "warn", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event to the space's story; the row is locked by the caller."""
        row.event_seq += 1
        session.add(
            SpaceEventRow(
                space_id=row.id,
                seq=row.event_seq,
                project_id=row.project_id,
                time=self._clock.now(),
                level=level,
                message=message,
                data=dict(data or {}),
            )
        )

    def events(self, session: Session, project_id: str, ref: str, *, after_seq: int = 0, limit: int = 200) -> Page[SpaceEvent]:
        """What happened to a space, in order."""
        row = self.row(session, project_id, ref)
        query = select(SpaceEventRow).where(SpaceEventRow.space_id == row.id, SpaceEventRow.seq > after_seq)
        rows = [*session.scalars(query.order_by(SpaceEventRow.seq).limit(limit + 1))]
        return Page(
            data=[
                SpaceEvent(seq=each.seq, time=each.time, level=cast(Any, each.level), message=each.message, data=each.data)
                for each in rows[:limit]
            ],
            has_more=len(rows) > limit,
        )

    # -- for the other sides of this room, and for the gateway -----------------------------------------------------------

    def row(self, session: Session, project_id: str, ref: str, *, lock: bool = False) -> SpaceRow:
        """The row of a space by its id or name, locked for a change where asked; raises NotFound."""
        query = select(SpaceRow).where(
            SpaceRow.project_id == project_id,
            SpaceRow.deleted_at.is_(None),
            or_(SpaceRow.id == ref, SpaceRow.name == unicodedata.normalize("NFC", ref)),
        )
        found = session.scalar(query.with_for_update().execution_options(populate_existing=True) if lock else query)
        if found is None:
            raise NotFound(
                f"There is no data space {ref[:80]!r}.",
                hint="`modelworks space ls` lists the spaces of your project.",
                code="space_not_found",
            )
        return found

    def changed(self, session: Session, row: SpaceRow) -> None:
        """Note that the index has to follow; the row is locked by the caller."""
        now = self._clock.now()
        row.revision += 1
        row.changed_at = now
        row.updated_at = now
        if row.waiting_since is None:
            row.waiting_since = now
        self.announce(session, row)

    def announce(self, session: Session, row: SpaceRow) -> None:
        """Have the pipeline look, once the transaction is committed."""
        self._events.publish_after_commit(session, TOPIC, project_id=row.project_id, space_id=row.id)

    def referenced(self, digests: Collection[str]) -> set[str]:
        """Those of the blobs that a document needs: for the collection of garbage."""
        wanted = sorted(digests)
        found: set[str] = set()
        with self.db.reading() as session:
            for start in range(0, len(wanted), _CHUNK):
                query = select(DocumentRow.digest).where(
                    DocumentRow.digest.in_(wanted[start : start + _CHUNK]), DocumentRow.state != "removed"
                )
                found.update(session.scalars(query))
        return found

    def show(self, session: Session, row: SpaceRow) -> Space:
        """A space with its counts, and the build under way or the last one with its progress."""
        of_space = (DocumentRow.space_id == row.id, DocumentRow.state != "removed")
        counted = select(
            DocumentRow.state,
            func.count(),
            func.coalesce(func.sum(DocumentRow.num_bytes), 0),
            func.coalesce(func.sum(DocumentRow.num_passages), 0),
        )
        found = [*session.execute(counted.where(*of_space).group_by(DocumentRow.state)).tuples()]
        counts = DocumentCounts(**{state: number for state, number, _, _ in found})
        latest = select(SpaceBuildRow).where(SpaceBuildRow.space_id == row.id).order_by(SpaceBuildRow.id.desc()).limit(1)
        build = session.scalar(latest)
        return Space(
            id=row.id,
            name=row.name,
            description=row.description,
            metadata=row.labels,
            settings=SpaceSettings.model_validate(row.settings),
            state=self._state(row, counts, build),
            is_current=row.built_revision >= row.revision,
            documents=counts,
            num_bytes=sum(int(num_bytes) for _, _, num_bytes, _ in found),
            num_passages=sum(int(passages) for _, _, _, passages in found),
            documents_version_id=row.documents_version_id,
            passages_version_id=row.passages_version_id,
            clean_version_id=row.clean_version_id,
            index_version_id=row.index_version_id,
            deployment=row.catalog_name,
            build=None if build is None else shown_build(build, self._progress(session, build)),
            error=row.error,
            expires_after_days=row.expires_after_days,
            expires_at=row.expires_at,
            last_active_at=row.last_active_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )

    def is_over(self, row: SpaceRow) -> bool:
        """Whether the time of a space is over."""
        return row.expires_at is not None and row.expires_at <= self._clock.now()

    def _state(self, row: SpaceRow, counts: DocumentCounts, build: SpaceBuildRow | None) -> SpaceState:
        if self.is_over(row):
            return "expired"
        if build is not None and build.state == "running":
            return "building"
        if row.revision > row.built_revision:
            return "failed" if row.failed_revision >= row.revision else "pending"
        return "ready" if counts.total else "empty"

    def _progress(self, session: Session, build: SpaceBuildRow) -> dict[str, Any] | None:
        run_id = {
            "parsing": build.parsing_run_id,
            "cleaning": build.cleaning_run_id,
            "indexing": build.indexing_run_id,
        }.get(build.step)
        if build.state != "running" or run_id is None:
            return None
        return self._jobs.get(session, build.project_id, run_id).progress

    def _prolong(self, row: SpaceRow) -> None:
        days = row.expires_after_days
        row.expires_at = None if days is None else row.last_active_at + timedelta(days=days)

    def _require_free(self, session: Session, project_id: str, name: str) -> None:
        if session.scalar(select(SpaceRow.id).where(SpaceRow.project_id == project_id, SpaceRow.name == name)) is not None:
            raise Conflict(
                f"The project has a data space {name!r} already.",
                hint="Choose another name, or add to that one.",
                param="name",
                code="space_exists",
            )


def _catalog_name(name: str, space_id: str) -> str:
    """`spaces/manual-1k3f…`: readable, and unique by the end of the id."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:24].strip("-")
    return f"spaces/{slug or 'space'}-{space_id[-10:].lower()}"
