"""Documents that are forgotten: which are under way, where each stands, and what stays of it: a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.pages import page_of, paged
from modelworks.kernel.dataspace.proofs import Forgetting, ForgettingStep
from modelworks.kernel.dataspace.store import DocumentRow, ForgettingRow, SpaceEventRow, SpaceLearningRow, SpaceRow

if TYPE_CHECKING:
    from modelworks.kernel.dataspace.service import DataspaceService

#: In this order.
STEPS: Final[tuple[ForgettingStep, ...]] = (
    "probing",
    "removing",
    "unlearning",
    "rebuilding",
    "collecting",
    "proving",
    "done",
)


class Forgettings:
    """One side of the data space's room; see `DataspaceService`. The pipeline above it moves them from step to step."""

    def __init__(self, spaces: DataspaceService, clock: Clock) -> None:
        self._spaces = spaces
        self._clock = clock

    # -- what there is to do ---------------------------------------------------------------------------------------------

    def open(self, session: Session) -> Sequence[str]:
        """The ids of those that are under way."""
        query = select(ForgettingRow.id).where(ForgettingRow.state == "running")
        return [*session.scalars(query.order_by(ForgettingRow.id))]

    def is_probing(self, session: Session, space_id: str) -> bool:
        """Whether something of a space is being looked for, which its next index will not have."""
        query = select(ForgettingRow.id).where(ForgettingRow.state == "running", ForgettingRow.step == "probing")
        return session.scalar(query.where(ForgettingRow.space_id == space_id).limit(1)) is not None

    def begin(self, session: Session, caller: Principal, space: str, document_id: str) -> Forgetting:
        """Begin to forget a document, of which nothing but its id, digests and a report will be left.

        One that is under way, or over, is returned as it is; one that failed goes on where it stopped. A document that was
        only removed can be forgotten, too.

        Raises:
            NotFound: no such space or document, or the caller may not read it.
        """
        owner = self._spaces.row(session, caller.project_id, space, lock=True)
        known = self._of_document(session, owner.id, document_id)
        if known is not None:
            if known.state == "failed":
                known.state, known.error, known.finished_at = "running", None, None
                if known.step == "proving":
                    known.step = "collecting"  # what was found again is looked for there
                session.flush()
                self._spaces.announce(session, owner)
            return shown(known)
        # It answers nothing from here on; what was made of it is looked at before the next index is built.
        document = self._spaces.documents.take_out(session, owner, self.document(session, caller, owner, document_id))
        row = ForgettingRow(
            id=new_id("forget"),
            space_id=owner.id,
            project_id=owner.project_id,
            key_id=caller.key_id,
            document_id=document.id,
            digest=document.digest,
            state="running",
            step="probing",
            revision=owner.revision,
            sentences=[],
            digests=[document.digest],
            before={},
            counts={},
            report=None,
            report_digest=None,
            error=None,
            created_at=self._clock.now(),
            removed_at=None,
            finished_at=None,
        )
        session.add(row)
        session.flush()
        self._spaces.tell(session, owner, "A document is being forgotten.", data={"forgetting_id": row.id})
        self._spaces.announce(session, owner)
        return shown(row)

    def document(self, session: Session, caller: Principal, owner: SpaceRow, document_id: str) -> DocumentRow:
        """The row of a document, of a removed one too, for a caller who may read it; raises NotFound."""
        row = session.get(DocumentRow, document_id)
        if row is None or row.space_id != owner.id or not _may_read(row, caller):
            raise NotFound(
                f"The data space {owner.name!r} has no document {document_id[:80]!r}.",
                hint=f"`modelworks space documents {owner.id}` lists them.",
                code="document_not_found",
            )
        return row

    def at(self, session: Session, forgetting_id: str, step: str) -> tuple[SpaceRow | None, ForgettingRow] | None:
        """The space, locked, and one that is at that step; None where somebody else moved on meanwhile.

        The space itself is None where it has gone: what was made for it has gone with it.
        """
        found = session.get(ForgettingRow, forgetting_id)
        if found is None:
            return None
        owner = self._spaces.builds.locked(session, found.space_id)
        row = session.get(ForgettingRow, forgetting_id, populate_existing=True, with_for_update=True)
        if row is None or row.state != "running" or row.step != step:
            return None
        return owner, row

    # -- its way ---------------------------------------------------------------------------------------------------------

    def tidy(self, session: Session, owner: SpaceRow, document_id: str) -> int:
        """Take away what the space's story says of a document; how many events that were."""
        query = select(SpaceEventRow.seq, SpaceEventRow.data).where(SpaceEventRow.space_id == owner.id)
        gone = [seq for seq, data in session.execute(query).tuples() if data.get("document_id") == document_id]
        for seq in gone:
            session.execute(delete(SpaceEventRow).where(SpaceEventRow.space_id == owner.id, SpaceEventRow.seq == seq))
        return len(gone)

    def taint(self, session: Session, space_id: str, samples: Mapping[str, str], document_id: str) -> list[SpaceLearningRow]:
        """Mark what was trained on sets of samples that held a document; returns those with an adapter.

        Args:
            samples: ids of these sets, each with the id of the set that it was rewritten from, or itself.
        """
        query = select(SpaceLearningRow).where(SpaceLearningRow.space_id == space_id)
        held = {*samples, *samples.values()}
        # Adapters that know it, so that those that went on from them are known, too.
        adapters: set[str] = set()
        found = []
        for row in session.scalars(query.order_by(SpaceLearningRow.id)):
            shards = []
            for shard in row.results.get("shards", []):
                if shard["samples_version_id"] in held or shard.get("from_version_id") in adapters:
                    shard = {**shard, "tainted_by": sorted({*shard["tainted_by"], document_id})}
                    adapters |= {shard["adapter_version_id"]} - {None}
                shards.append(shard)
            if shards != row.results.get("shards", []):
                row.results = {**row.results, "shards": shards}
            is_hit = any(document_id in shard["tainted_by"] for shard in shards)
            if not is_hit and row.samples_version_id not in held:
                continue
            adapters |= {str(row.adapter_version_id)}
            if document_id not in row.tainted_by:
                row.tainted_by = [*row.tainted_by, document_id]
            row.is_tainted = True
            if row.adapter_version_id is not None:
                found.append(row)
        return found

    def finish(self, session: Session, row: ForgettingRow, report: dict[str, Any], digest: str) -> None:
        """One is over; only its report stays. The audit log notes the report's digest in the same transaction."""
        row.state, row.step, row.report, row.report_digest = "succeeded", "done", report, digest
        row.sentences, row.digests, row.error = [], [], None
        row.finished_at = self._clock.now()
        session.flush()

    def fail(self, session: Session, owner: SpaceRow | None, row: ForgettingRow, error: Mapping[str, Any]) -> None:
        """One stops; asked for again it goes on at the same step."""
        row.state, row.error, row.finished_at = "failed", dict(error), self._clock.now()
        if owner is not None:
            message = f"Forgetting a document stopped at the step {row.step}: {error.get('message')}"
            self._spaces.tell(session, owner, message, level="error", data={"forgetting_id": row.id})
        session.flush()

    # -- reading ---------------------------------------------------------------------------------------------------------

    def list(
        self, session: Session, caller: Principal, space: str, *, after: str | None = None, limit: int = 20
    ) -> Page[Forgetting]:
        """Those of a space, newest first; each with its report where the caller may read that."""
        owner = self._spaces.row(session, caller.project_id, space)
        query = select(ForgettingRow).where(ForgettingRow.space_id == owner.id)
        rows = paged(session, query, ForgettingRow.id, after=after, before=None, limit=limit, order="desc")
        return page_of([self._told(session, caller, row) for row in rows[:limit]], has_more=len(rows) > limit)

    def get(self, session: Session, caller: Principal, forgetting_id: str) -> Forgetting:
        """One of the caller's project, also where its space has gone; raises NotFound."""
        row = session.get(ForgettingRow, forgetting_id)
        if row is None or row.project_id != caller.project_id:
            raise NotFound(
                f"Nothing is being forgotten under {forgetting_id[:80]!r}.",
                hint="GET /api/spaces/{space}/forgettings lists what a space forgets.",
                code="forgetting_not_found",
            )
        return self._told(session, caller, row)

    def _told(self, session: Session, caller: Principal, row: ForgettingRow) -> Forgetting:
        # Digests confirm what somebody guesses: they are for those who asked, and for those who might read the document.
        document = session.get(DocumentRow, row.document_id)
        may_read = document is not None and _may_read(document, caller)
        found = shown(row)
        if not (may_read or row.key_id == caller.key_id or caller.has("admin")):
            found.report = None
        return found

    def _of_document(self, session: Session, space_id: str, document_id: str) -> ForgettingRow | None:
        query = select(ForgettingRow).where(ForgettingRow.space_id == space_id, ForgettingRow.document_id == document_id)
        return session.scalar(query.limit(1))


def _may_read(document: DocumentRow, caller: Principal) -> bool:
    """Whether somebody may, or might when it was there, read a document."""
    return not document.access or caller.has("admin") or bool({caller.key_id, caller.user_id} & set(document.access))


def shown(row: ForgettingRow) -> Forgetting:
    """One as its project sees it."""
    return Forgetting(
        id=row.id,
        space_id=row.space_id,
        document_id=row.document_id,
        state=cast(Any, row.state),
        step=cast(Any, row.step),
        progress={"done": STEPS.index(cast(Any, row.step)), "total": len(STEPS) - 1, "what": "steps"},
        counts=row.counts,
        report=row.report,
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
