"""How sources are followed: looked at when their time has come, and what a look found is taken into the documents.

Where each stands is in the database: after a crash of the server the next one goes on. What a run found is taken in by some
dozens of documents at a time; doing that twice changes nothing, so a crash in between does no harm.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, ModelworksError, NotFound
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.polling import Follower
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.dataspace.sources.ingesting import CURSOR_FILE, ITEMS_FILE, IngestedItem
from modelworks.kernel.dataspace.sources.source import NOBODY, digest_of, hidden_rows
from modelworks.kernel.dataspace.sourcing import TOPIC, SourceService, schedule_of
from modelworks.kernel.dataspace.store import SourceRow, SpaceRow
from modelworks.kernel.jobs import JobsService, RunRecord
from modelworks.kernel.jobs.schemas import ACTIVE
from modelworks.kernel.storage import BlobStore

log = structlog.get_logger(__name__)

_BUSY_POLL_S, _IDLE_POLL_S = 0.5, 5.0
#: Where runs that a source waits for are announced.
_AWAITED: Final = {"run.changed": "run_id"}
#: Documents of one transaction: others write in between.
_BATCH: Final = 50
#: From this status on it is the storage or the database that fails: the step is repeated.
_AWAY = 502


class SourceSteps(Follower):
    """One thread; `tick` is one look at every source that has something to do, and may be called by hand instead."""

    def __init__(
        self,
        sources: SourceService,
        jobs: JobsService,
        catalog: CatalogService,
        blobs: BlobStore,
        clock: Clock,
        events: Events,
    ) -> None:
        super().__init__(events, name="sources", topic=TOPIC, busy_s=_BUSY_POLL_S, idle_s=_IDLE_POLL_S, awaited=_AWAITED)
        self.sources = sources
        self._spaces = sources.spaces
        self._db = sources.db
        self._jobs = jobs
        self._catalog = catalog
        self._blobs = blobs
        self._clock = clock

    def tick(self) -> bool:
        """Look at every source that is due or under way; returns whether there is one."""
        now = self._clock.now()
        query = select(SourceRow.id, SourceRow.run_id).where(SourceRow.run_id.is_not(None) | (SourceRow.next_sync_at <= now))
        with self._db.reading() as session:
            due = [*session.execute(query.order_by(SourceRow.id)).tuples()]
        for source_id, _ in due:
            try:
                self.advance(source_id)
            except Exception:
                # One source must not hold up the others.
                log.exception("a source could not go on", source_id=source_id)
        with self._db.reading() as session:
            running = session.scalars(select(SourceRow.run_id).where(SourceRow.run_id.is_not(None)))
            self._awaited = frozenset(run_id for run_id in running if run_id is not None)
        return bool(self._awaited)

    def advance(self, source_id: str) -> None:
        """Let one source go on as far as it can now."""
        with self._db.transaction() as session:
            row = self._locked(session, source_id)
            if row is None:
                return
            if row.run_id is None:
                self._begin(session, row)
                return
            run = self._jobs.get(session, row.project_id, row.run_id)
            if run.state in ACTIVE:
                return
            if run.state != "succeeded":
                reason = {"code": "run_cancelled", "message": f"The run {run.id} was cancelled."}
                self._fail(session, row, {**(run.error or reason), "run_id": run.id})
                return
        try:
            self._take(row, run)
        except ModelworksError as error:
            if error.status >= _AWAY:
                raise
            with self._db.transaction() as session:
                current = self._at(session, row, run)
                if current is not None:
                    self._fail(session, current, {**error.to_wire(), "run_id": run.id})

    def _begin(self, session: Session, row: SourceRow) -> None:
        if row.is_paused or row.next_sync_at is None or row.next_sync_at > self._clock.now():
            return
        try:
            self.sources.begin(session, row)
        except ModelworksError as error:
            if error.status >= _AWAY:
                raise
            self._fail(session, row, error.to_wire())

    # -- taking in -------------------------------------------------------------------------------------------------------

    def _take(self, row: SourceRow, run: RunRecord) -> None:
        """Let the documents follow what a run found."""
        with self._db.reading() as session:
            found = self._output(session, run)
        items, is_outdated = self._items(found), False
        while batch := [*itertools.islice(items, _BATCH)]:
            with self._db.transaction() as session:
                current = self._at(session, row, run)
                if current is None:
                    return
                is_outdated |= self._put(session, current, batch)
        cursor = json.loads(self._blobs.read(_digest(found, CURSOR_FILE), 1 << 30))
        with self._db.transaction() as session:
            current = self._at(session, row, run)
            if current is None:
                return
            now = self._clock.now()
            current.cursor, current.report, current.error = cursor, dict(run.result or {}), None
            current.state, current.run_id = "idle", None
            current.last_sync_at = current.updated_at = now
            current.next_sync_at = None if current.is_paused else now if is_outdated else schedule_of(current).following(now)
            self._tell(session, current, run)
            # The bytes are the documents' now; what was found must not outlive them.
            self._drop(session, current, found)

    def _put(self, session: Session, row: SourceRow, batch: Sequence[IngestedItem]) -> bool:
        """Take documents in; whether a table was left that holds rows which a person has taken away since it was read."""
        is_outdated = False
        hidden = self.sources.hidden(session, row) if any(item.left_out is not None for item in batch) else set()
        documents, defaults = self._spaces.documents, row.settings["defaults"]
        gone = [item.key for item in batch if item.state == "gone"]
        if gone:
            documents.remove_keys(session, row.project_id, row.space_id, row.id, gone)
            self.sources.mark_gone(session, row.id, gone)
        for item in batch:
            if item.digest is None:
                continue
            if item.left_out is not None and item.left_out != digest_of(hidden_rows(hidden, item.key.removesuffix("/card"))):
                is_outdated = True
                continue
            documents.put(
                session,
                row.project_id,
                row.space_id,
                name=item.name,
                digest=item.digest,
                num_bytes=item.num_bytes,
                key=item.key,
                source_id=row.id,
                media_type=item.media_type,
                fingerprint=item.fingerprint,
                attributes=item.attributes,
                licence=defaults["licence"],
                owner=defaults["owner"],
                access=defaults["access"] if item.access is None else _narrowed(item.access, defaults["access"]),
            )
        return is_outdated

    def _items(self, found: Version) -> Iterator[IngestedItem]:
        with self._blobs.open(_digest(found, ITEMS_FILE)) as listing:
            for line in listing:
                yield IngestedItem.model_validate_json(line)

    def _output(self, session: Session, run: RunRecord) -> Version:
        for output in run.outputs:
            version = self._catalog.get_version(session, run.project_id, output.version_id)
            if version.state != "removed":
                return version
        raise NotFound(f"What the run {run.id} found was removed.", hint="Sync the source again.", code="no_output")

    def _tell(self, session: Session, row: SourceRow, run: RunRecord) -> None:
        report = run.result or {}
        counts = {name: report.get(f"num_{name}", 0) for name in ("new", "changed", "gone", "failed")}
        if any(counts.values()):
            text = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
            owner = session.get_one(SpaceRow, row.space_id)
            level: Any = "warn" if counts["failed"] else "info"
            self._spaces.tell(
                session, owner, f"{row.uri}: {text}.", level=level, data={"source_id": row.id, "run_id": run.id, **counts}
            )

    def _drop(self, session: Session, row: SourceRow, found: Version) -> None:
        with suppress(Conflict, NotFound):
            self._catalog.remove(session, row.project_id, found.id, "dataset")

    def _fail(self, session: Session, row: SourceRow, error: dict[str, Any]) -> None:
        now = self._clock.now()
        row.state, row.run_id, row.error = "failed", None, error
        row.updated_at = now
        row.next_sync_at = None if row.is_paused else schedule_of(row).following(now)
        owner = session.get_one(SpaceRow, row.space_id)
        message = f"{row.uri} could not be read: {error.get('message')}"
        self._spaces.tell(session, owner, message, level="error", data={"source_id": row.id, "code": error.get("code")})

    def _at(self, session: Session, row: SourceRow, run: RunRecord) -> SourceRow | None:
        """The source, locked for a change; None where somebody else moved on meanwhile."""
        current = self._locked(session, row.id)
        return None if current is None or current.run_id != run.id else current

    def _locked(self, session: Session, source_id: str) -> SourceRow | None:
        """The source, locked behind its space as everywhere; None where either is gone."""
        space_id = session.scalar(select(SourceRow.space_id).where(SourceRow.id == source_id))
        owner = None if space_id is None else session.get(SpaceRow, space_id, with_for_update=True, populate_existing=True)
        if owner is None or owner.deleted_at is not None:
            return None
        return session.get(SourceRow, source_id, with_for_update=True, populate_existing=True)


def _narrowed(access: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """Who may read a document: those whom it names, as far as the source is open to them."""
    if not allowed:
        return [*access]
    return [each for each in access if each in allowed] or [NOBODY]


def _digest(version: Version, path: str) -> str:
    for file in version.files:
        if file.path == path:
            return file.digest
    raise NotFound(f"{version.ref} has no file {path}.", hint="Sync the source again.", code="no_output")
