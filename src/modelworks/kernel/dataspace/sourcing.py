"""The sources of a space: named, shown, scheduled, removed, and what each look at one is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.schemas import Source
from modelworks.kernel.dataspace.service import DataspaceService
from modelworks.kernel.dataspace.sources import SourceForm, check_rights, place_of, secret_of, uploaded
from modelworks.kernel.dataspace.sources.source import GONE
from modelworks.kernel.dataspace.store import DocumentRow, SourceRow, SpaceRow
from modelworks.kernel.jobs import JobSpec, JobsService, RunRecord
from modelworks.kernel.jobs.schemas import ACTIVE
from modelworks.kernel.storage import BlobStore

#: Announced after a commit that leaves something to do for a source.
TOPIC: Final = "source.changed"
MAX_SOURCES: Final = 100
_DAY = timedelta(days=1)
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


class Defaults(BaseModel):
    """What holds for every document of a source that says nothing else of itself."""

    model_config = ConfigDict(extra="forbid")

    licence: str | None = Field(default=None, max_length=256)
    owner: str | None = Field(default=None, max_length=256)
    #: Ids of users and keys that may read them; empty: everybody of the project.
    access: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list, max_length=1000)


class Schedule(BaseModel):
    """When a source is looked at by itself."""

    model_config = ConfigDict(extra="forbid")

    every_s: int | None = Field(default=None, ge=60, le=366 * 86400, description="Seconds between two looks.")
    daily_at: str | None = Field(default=None, pattern=_TIME.pattern, max_length=5, description="Time of the day, UTC: 03:30.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.every_s is not None and self.daily_at is not None:
            raise ValueError("give every_s or daily_at, not both")
        return self

    def following(self, now: datetime) -> datetime | None:
        """The next look after `now`, or None."""
        if self.every_s is not None:
            return now + timedelta(seconds=self.every_s)
        if self.daily_at is None:
            return None
        hour, minute = map(int, self.daily_at.split(":"))
        at = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return at if at > now else at + _DAY


class SourceCreate(BaseModel):
    """POST /api/spaces/{space}/sources."""

    model_config = ConfigDict(extra="forbid")

    source: SourceForm
    defaults: Defaults = Field(default_factory=Defaults)
    schedule: Schedule = Field(default_factory=Schedule)


class SourceUpdate(BaseModel):
    """PATCH /api/spaces/{space}/sources/{source}: what is not given stays."""

    model_config = ConfigDict(extra="forbid")

    schedule: Schedule | None = None
    is_paused: bool | None = None
    #: Other bytes of what was uploaded, or other patterns; what is the same in both is not read anew.
    source: SourceForm | None = None
    #: These hold for what it brought before, too.
    defaults: Defaults | None = None


class SyncAsked(BaseModel):
    """POST /api/spaces/{space}/sources/{source}/sync."""

    model_config = ConfigDict(extra="forbid")

    #: Only say what would change: the run's result is the report.
    dry_run: bool = False
    #: Let every document be gone where the source has none any more.
    allow_empty: bool = False


class SourceSync(BaseModel):
    """A look at a source that was asked for, and the run that does it."""

    source: Source
    run_id: str


class SourceService:
    """One side of the data space's room. Methods take part in the caller's transaction.

    Args:
        open_secret: the value of a project's secret by its name.
    """

    def __init__(
        self,
        spaces: DataspaceService,
        jobs: JobsService,
        catalog: CatalogService,
        blobs: BlobStore,
        open_secret: Callable[[str, str], str],
        policy: SourcePolicy,
        clock: Clock,
        events: Events,
    ) -> None:
        self.db = spaces.db
        self.spaces = spaces
        self._jobs = jobs
        self._catalog = catalog
        self._blobs = blobs
        self._open_secret = open_secret
        self._policy = policy
        self._clock = clock
        self._events = events
        jobs.attempts.tellers["ingest"] = self.told

    # -- sources ---------------------------------------------------------------------------------------------------------

    def create(self, session: Session, caller: Principal, space: str, asked: SourceCreate, *, dry_run: bool = False) -> Source:
        """Add a source; it is looked at soon. With `dry_run` it is only checked.

        Raises:
            NotFound: no such space, secret or upload. Conflict: the space has that source, or too many.
            PermissionDenied: the caller may not have the server read that place, or use a secret.
        """
        owner = self.spaces.row(session, caller.project_id, space, lock=True)
        form, now = asked.source, self._clock.now()
        check_rights(form, self._policy, is_operator=caller.is_operator)
        if (secret := secret_of(form)) is not None:
            # Whoever says where a secret is sent to could as well be told it.
            caller.require("admin")
            self._open_secret(caller.project_id, secret)
        if (digest := uploaded(form)) is not None and not dry_run:
            self._blobs.stat(digest)
        others = [*session.scalars(select(SourceRow).where(SourceRow.space_id == owner.id))]
        self._require_new(owner, others, form)
        row = SourceRow(
            id=new_id("src"),
            space_id=owner.id,
            project_id=owner.project_id,
            kind=form.kind,
            uri=place_of(form),
            settings={"source": form.model_dump(mode="json"), "defaults": asked.defaults.model_dump(mode="json")},
            secret_name=secret,
            every_s=asked.schedule.every_s,
            daily_at=asked.schedule.daily_at,
            is_paused=False,
            state="idle",
            run_id=None,
            cursor={},
            report={},
            error=None,
            last_sync_at=None,
            next_sync_at=now,
            created_at=now,
            updated_at=now,
        )
        if dry_run:
            return shown_source(row)
        session.add(row)
        session.flush()
        self.spaces.tell(session, owner, f"The source {row.uri} was added.", data={"source_id": row.id})
        self._announce(session, row)
        return shown_source(row)

    def list(self, session: Session, project_id: str, space: str) -> Page[Source]:
        """The sources of a space, oldest first."""
        owner = self.spaces.row(session, project_id, space)
        rows = session.scalars(select(SourceRow).where(SourceRow.space_id == owner.id).order_by(SourceRow.id))
        return Page(data=[shown_source(row) for row in rows], has_more=False)

    def get(self, session: Session, project_id: str, space: str, source_id: str) -> Source:
        """One source; raises NotFound."""
        return shown_source(self.row(session, project_id, space, source_id))

    def update(self, session: Session, project_id: str, space: str, source_id: str, asked: SourceUpdate) -> Source:
        """Change when a source is looked at, or what: an upload that takes the place of another is looked at at once.

        Raises:
            NotFound: no such source or upload. Conflict: it is being looked at (`source_busy`), or the space has that source.
            InvalidRequest: another place would be another source.
        """
        owner = self.spaces.row(session, project_id, space, lock=True)
        row = self.row(session, project_id, space, source_id, lock=True)
        if asked.schedule is not None:
            row.every_s, row.daily_at = asked.schedule.every_s, asked.schedule.daily_at
        if asked.is_paused is not None:
            row.is_paused = asked.is_paused
        row.next_sync_at = None if row.is_paused else schedule_of(row).following(self._clock.now())
        row.updated_at = self._clock.now()
        if asked.source is not None or asked.defaults is not None:
            self._require_rest(row)
            self._replace(session, owner, row, asked)
            self.begin(session, row)
        session.flush()
        return shown_source(row)

    def remove(self, session: Session, project_id: str, space: str, source_id: str, *, keep: bool = False) -> Source:
        """Remove a source, and its documents unless `keep`; a look under way is stopped. Raises NotFound."""
        owner = self.spaces.row(session, project_id, space, lock=True)
        row = self.row(session, project_id, space, source_id, lock=True)
        self._stop(session, row)
        if not keep:
            keys = self.spaces.documents.known(session, project_id, space, row.id)
            self.spaces.documents.remove_keys(session, project_id, space, row.id, keys)
        gone = shown_source(row)
        session.delete(row)
        self.spaces.tell(session, owner, f"The source {gone.uri} was removed.", data={"source_id": gone.id})
        session.flush()
        return gone

    def sync(self, session: Session, project_id: str, space: str, source_id: str, asked: SyncAsked) -> SourceSync:
        """Look at a source now.

        Raises:
            NotFound: no such source. Conflict: it is being looked at (`source_busy`).
        """
        row = self.row(session, project_id, space, source_id, lock=True)
        if asked.dry_run:
            run_id = self.submit(session, row, dry_run=True, allow_empty=asked.allow_empty).id
            return SourceSync(source=shown_source(row), run_id=run_id)
        self._require_rest(row)
        return SourceSync(source=shown_source(row), run_id=self.begin(session, row, allow_empty=asked.allow_empty).id)

    # -- for the steps ---------------------------------------------------------------------------------------------------

    def begin(self, session: Session, row: SourceRow, *, allow_empty: bool = False) -> RunRecord:
        """Submit the run that looks at a source; its row is locked by the caller."""
        run = self.submit(session, row, dry_run=False, allow_empty=allow_empty)
        row.state, row.run_id = "syncing", run.id
        row.next_sync_at = None
        row.updated_at = self._clock.now()
        session.flush()
        self._announce(session, row)
        return run

    def submit(self, session: Session, row: SourceRow, *, dry_run: bool, allow_empty: bool) -> RunRecord:
        """The run itself."""
        owner = session.get_one(SpaceRow, row.space_id)
        params = {
            "space_id": row.space_id,
            "source_id": row.id,
            "source": row.settings["source"],
            "allow_empty": allow_empty,
        }
        name = None if dry_run else f"{owner.catalog_name}/incoming"
        return self._jobs.submit(session, row.project_id, owner.key_id, JobSpec(verb="ingest", params=params, output_name=name))

    def told(self, session: Session, project_id: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """What an attempt is told: the secret, and what is known of the source as of now.

        Raises:
            NotFound: the source or its secret is gone.
        """
        space_id = str(params["space_id"])
        row = self.row(session, project_id, space_id, str(params["source_id"]))
        known = self.spaces.documents.known(session, project_id, space_id, row.id)
        return {
            "credential": None if row.secret_name is None else self._open_secret(project_id, row.secret_name),
            "known": {key: {"fingerprint": each.fingerprint, "digest": each.digest} for key, each in known.items()},
            "removed": sorted(self._removed(session, row) - set(known)),
            "closed": sorted(self._closed(session, row)),
            "cursor": row.cursor,
        }

    def hidden(self, session: Session, row: SourceRow) -> set[str]:
        """Keys of the source's documents that are not for everybody who may read it: removed by a person, or closed."""
        known = self.spaces.documents.known(session, row.project_id, row.space_id, row.id)
        return (self._removed(session, row) - set(known)) | self._closed(session, row)

    def _removed(self, session: Session, row: SourceRow) -> set[str]:
        query = select(DocumentRow.key).where(
            DocumentRow.space_id == row.space_id,
            DocumentRow.source_id == row.id,
            DocumentRow.state == "removed",
            DocumentRow.fingerprint.is_distinct_from(GONE),
        )
        return set(session.scalars(query))

    def _closed(self, session: Session, row: SourceRow) -> set[str]:
        """Documents that a person has given fewer readers; one without a fingerprint is taken in anew, with the source's."""
        readers = {*row.settings["defaults"]["access"]}
        query = select(DocumentRow.key, DocumentRow.access).where(
            DocumentRow.space_id == row.space_id,
            DocumentRow.source_id == row.id,
            DocumentRow.state != "removed",
            DocumentRow.is_restricted.is_(True),
            DocumentRow.fingerprint.is_not(None),
        )
        found = session.execute(query).tuples()
        return {key for key, access in found if not readers or not readers <= {*access}}

    def mark_gone(self, session: Session, source_id: str, keys: Collection[str]) -> None:
        """Note that documents left because their source no longer has them."""
        session.execute(
            update(DocumentRow)
            .where(DocumentRow.source_id == source_id, DocumentRow.key.in_(keys), DocumentRow.state == "removed")
            .values(fingerprint=GONE)
            .execution_options(synchronize_session=False)
        )

    def referenced(self, digests: Collection[str]) -> set[str]:
        """Those of the blobs that a source reads: for the collection of garbage."""
        wanted = set(digests)
        with self.db.reading() as session:
            found = session.scalars(select(SourceRow.settings).where(SourceRow.kind.in_(("archive", "mbox", "sql"))))
            return wanted & {str(settings["source"].get("digest")) for settings in found}

    def row(self, session: Session, project_id: str, space: str, source_id: str, *, lock: bool = False) -> SourceRow:
        """The row of a source, locked for a change where asked; raises NotFound."""
        owner = self.spaces.row(session, project_id, space)
        query = select(SourceRow).where(SourceRow.space_id == owner.id, SourceRow.id == source_id)
        found = session.scalar(query.with_for_update().execution_options(populate_existing=True) if lock else query)
        if found is None:
            raise NotFound(
                f"The data space {owner.name!r} has no source {source_id[:80]!r}.",
                hint=f"`modelworks space source ls {owner.id}` lists them.",
                code="source_not_found",
            )
        return found

    def _replace(self, session: Session, owner: SpaceRow, row: SourceRow, asked: SourceUpdate) -> None:
        form, settings = asked.source, dict(row.settings)
        if form is not None:
            digest = uploaded(form)
            if form.kind != row.kind or digest is None or secret_of(form) != row.secret_name:
                raise InvalidRequest(
                    f"Only an upload of the same kind can take the place of {row.uri}.",
                    hint="Add the other place, and remove this one.",
                    param="source",
                )
            self._blobs.stat(digest)
            others = select(SourceRow).where(SourceRow.space_id == owner.id, SourceRow.id != row.id)
            self._require_new(owner, [*session.scalars(others)], form)
            settings["source"] = form.model_dump(mode="json")
            row.uri, row.cursor = place_of(form), {}
        if asked.defaults is not None:
            settings["defaults"] = asked.defaults.model_dump(mode="json")
            # Every document is taken in once more, with what holds now.
            session.execute(
                update(DocumentRow)
                .where(DocumentRow.source_id == row.id, DocumentRow.state != "removed")
                .values(fingerprint=None)
                .execution_options(synchronize_session=False)
            )
        row.settings = settings

    def _require_rest(self, row: SourceRow) -> None:
        if row.run_id is not None:
            raise Conflict(
                f"The source {row.uri} is being looked at.",
                hint=f"Wait for the run {row.run_id}, or cancel it.",
                code="source_busy",
            )

    def _stop(self, session: Session, row: SourceRow) -> None:
        """End the look under way; what it found already and nobody took in must not stay."""
        if row.run_id is None:
            return
        run = self._jobs.get(session, row.project_id, row.run_id)
        if run.state in ACTIVE:
            self._jobs.cancel(session, row.project_id, run.id)
        for output in run.outputs:
            with suppress(Conflict, NotFound):
                self._catalog.remove(session, row.project_id, output.version_id, output.kind)

    def _require_new(self, owner: SpaceRow, others: Collection[SourceRow], form: SourceForm) -> None:
        if len(others) >= MAX_SOURCES:
            raise Conflict(
                f"The data space {owner.name!r} has {len(others)} sources: it takes no more.", code="too_many_sources"
            )
        described = form.model_dump(mode="json")
        for other in others:
            if other.settings["source"] == described:
                raise Conflict(
                    f"The data space {owner.name!r} has this source already: {other.id}.",
                    hint="Sync that one, or remove it first.",
                    code="source_exists",
                )

    def _announce(self, session: Session, row: SourceRow) -> None:
        self._events.publish_after_commit(session, TOPIC, project_id=row.project_id, source_id=row.id)


def shown_source(row: SourceRow) -> Source:
    """A source as its project sees it."""
    return Source(
        id=row.id,
        space_id=row.space_id,
        kind=row.kind,
        uri=row.uri,
        settings=row.settings,
        secret_name=row.secret_name,
        every_s=row.every_s,
        daily_at=row.daily_at,
        is_paused=row.is_paused,
        state=cast(Any, row.state),
        run_id=row.run_id,
        report=row.report,
        error=row.error,
        last_sync_at=row.last_sync_at,
        next_sync_at=row.next_sync_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def schedule_of(row: SourceRow) -> Schedule:
    """When a source is looked at by itself."""
    return Schedule(every_s=row.every_s, daily_at=row.daily_at)
