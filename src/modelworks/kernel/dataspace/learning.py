"""What a space has learned: which models of its own were made of its passages, what they were worth, and which one answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import NotFound
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.pages import page_of, paged
from modelworks.kernel.dataspace.schemas import Learning, LearningResult, LearningSettings, LearningShard, SpaceSettings
from modelworks.kernel.dataspace.store import DocumentRow, SpaceLearningRow, SpaceRow
from modelworks.kernel.jobs import JobsService

if TYPE_CHECKING:
    from modelworks.kernel.dataspace.service import DataspaceService

#: Where a run stands that a step waits for, by step.
_RUN_OF: Final = {"samples": "samples", "training": "training", "combining": "combining"}
#: Steps that may wait for several runs, by how their names begin, and what these are.
_SEVERAL: Final = {"training": "trainings", "measuring": "measurements"}


class Learnings:
    """One side of the data space's room; see `DataspaceService`. The pipeline above it moves them from step to step."""

    def __init__(self, spaces: DataspaceService, jobs: JobsService, clock: Clock) -> None:
        self._spaces = spaces
        self._jobs = jobs
        self._clock = clock

    # -- what there is to do ---------------------------------------------------------------------------------------------

    def open(self, session: Session) -> Sequence[str]:
        """The ids of those that are under way."""
        query = select(SpaceLearningRow.id).where(SpaceLearningRow.state == "running")
        return [*session.scalars(query.order_by(SpaceLearningRow.id))]

    def wanted(self, session: Session) -> Sequence[str]:
        """Ids of spaces that are to learn by themselves now: something changed since the last time, which is long ago."""
        query = select(SpaceRow).where(
            SpaceRow.deleted_at.is_(None),
            SpaceRow.passages_version_id.is_not(None),
            SpaceRow.built_revision == SpaceRow.revision,
        )
        return [row.id for row in session.scalars(query.order_by(SpaceRow.id)) if self._is_time(session, row)]

    def _is_time(self, session: Session, row: SpaceRow) -> bool:
        settings = settings_of(row)
        if not settings.learning.automatic or settings.language_model is None or self._spaces.is_over(row):
            return False
        last = self.latest(session, row.id)
        if last is None:
            return True
        waited = self._clock.now() - last.created_at >= timedelta(hours=settings.learning.every_h)
        return last.state != "running" and last.revision < row.built_revision and waited

    def latest(
        self, session: Session, space_id: str, state: str | None = None, *, untainted: bool = False
    ) -> SpaceLearningRow | None:
        """The newest of a space, of that state where one is given; with `untainted` of those that know nothing forgotten."""
        query = select(SpaceLearningRow).where(SpaceLearningRow.space_id == space_id)
        if state is not None:
            query = query.where(SpaceLearningRow.state == state)
        if untainted:
            query = query.where(SpaceLearningRow.is_tainted.is_(False))
        return session.scalar(query.order_by(SpaceLearningRow.id.desc()).limit(1))

    def closed_documents(self, session: Session, space_id: str) -> Sequence[str]:
        """Documents that nothing is learned from: some may not read them, or they are gone."""
        query = select(DocumentRow.id).where(
            DocumentRow.space_id == space_id, DocumentRow.is_restricted.is_(True) | (DocumentRow.state == "removed")
        )
        return [*session.scalars(query.order_by(DocumentRow.id))]

    def num_documents(self, session: Session, space_id: str, *, closed: bool = False) -> int:
        """How many documents have passages that answer; with `closed` those of them that nothing is learned from."""
        query = select(func.count()).select_from(DocumentRow)
        query = query.where(DocumentRow.space_id == space_id, DocumentRow.state == "indexed")
        return int(session.scalar(query.where(DocumentRow.is_restricted.is_(True)) if closed else query) or 0)

    # -- its way ---------------------------------------------------------------------------------------------------------

    def begin(
        self,
        session: Session,
        row: SpaceRow,
        *,
        key_id: str | None,
        base: str,
        base_version_id: str,
        automatic: bool,
    ) -> SpaceLearningRow:
        """Begin one from the passages that answer now; the space's row is locked by the caller."""
        learning = SpaceLearningRow(
            id=new_id("learn"),
            space_id=row.id,
            project_id=row.project_id,
            key_id=key_id,
            revision=row.built_revision,
            state="running",
            step="samples",
            is_automatic=automatic,
            settings=settings_of(row).learning.model_dump(mode="json"),
            base=base,
            base_version_id=base_version_id,
            model=own_model(row),
            passages_version_id=str(row.clean_version_id or row.passages_version_id),
            samples_version_id=None,
            test_version_id=None,
            adapter_version_id=None,
            runs={},
            counts={},
            results={"rows": [], "sentences": [], "shards": []},
            tainted_by=[],
            is_tainted=False,
            error=None,
            created_at=self._clock.now(),
            finished_at=None,
        )
        session.add(learning)
        session.flush()
        return learning

    def locked(self, session: Session, learning_id: str, step: str) -> tuple[SpaceRow, SpaceLearningRow] | None:
        """The space and one that is at that step, for a change; None where somebody else moved on meanwhile."""
        found = session.get(SpaceLearningRow, learning_id)
        row = None if found is None else self._spaces.builds.locked(session, found.space_id)
        if row is None or row.deleted_at is not None:
            return None
        learning = session.get(SpaceLearningRow, learning_id, populate_existing=True)
        is_there = learning is not None and learning.state == "running" and learning.step == step
        return (row, cast(SpaceLearningRow, learning)) if is_there else None

    def close(
        self,
        session: Session,
        row: SpaceRow,
        learning: SpaceLearningRow,
        state: str,
        message: str,
        *,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """One is over; what answered before goes on answering unless it has succeeded."""
        learning.state, learning.finished_at = state, self._clock.now()
        learning.error = None if error is None else dict(error)
        if state == "succeeded":
            learning.step = "done"
        level = "info" if state == "succeeded" else "error" if state == "failed" else "warn"
        self._spaces.tell(session, row, message, level=cast(Any, level), data={"learning_id": learning.id})
        self._spaces.announce(session, row)

    # -- reading ---------------------------------------------------------------------------------------------------------

    def list(
        self, session: Session, project_id: str, space: str, *, after: str | None = None, limit: int = 20
    ) -> Page[Learning]:
        """Those of a space, newest first."""
        owner = self._spaces.row(session, project_id, space)
        query = select(SpaceLearningRow).where(SpaceLearningRow.space_id == owner.id)
        rows = paged(session, query, SpaceLearningRow.id, after=after, before=None, limit=limit, order="desc")
        return page_of([self.show(session, row) for row in rows[:limit]], has_more=len(rows) > limit)

    def get(self, session: Session, project_id: str, space: str, learning_id: str) -> Learning:
        """One of a space; raises NotFound."""
        owner = self._spaces.row(session, project_id, space)
        row = session.get(SpaceLearningRow, learning_id)
        if row is None or row.space_id != owner.id:
            raise NotFound(
                f"The data space {owner.name!r} has no learning {learning_id[:80]!r}.",
                hint=f"`modelworks space learnings {owner.id}` lists them.",
                code="learning_not_found",
            )
        return self.show(session, row)

    def show(self, session: Session, row: SpaceLearningRow) -> Learning:
        """One as its project sees it, with the progress of the run that it waits for."""
        progress: dict[str, Any] | None = None
        if row.state == "running":
            if (run_id := row.runs.get(_RUN_OF.get(row.step, ""))) is not None:
                progress = self._jobs.get(session, row.project_id, run_id).progress
            elif row.step in _SEVERAL:
                runs = [run_id for name, run_id in row.runs.items() if name.startswith(row.step)]
                over = [self._jobs.get(session, row.project_id, run_id).is_over for run_id in runs]
                progress = {"done": sum(over), "total": len(over), "what": _SEVERAL[row.step]}
        return Learning(
            id=row.id,
            space_id=row.space_id,
            revision=row.revision,
            state=cast(Any, row.state),
            step=cast(Any, row.step),
            is_automatic=row.is_automatic,
            base=row.base,
            base_version_id=row.base_version_id,
            model=row.model,
            passages_version_id=row.passages_version_id,
            samples_version_id=row.samples_version_id,
            test_version_id=row.test_version_id,
            adapter_version_id=row.adapter_version_id,
            runs=row.runs,
            counts=row.counts,
            results=[LearningResult.model_validate(each) for each in row.results["rows"]],
            judgement=row.results["sentences"],
            shards=[LearningShard.model_validate(each) for each in row.results.get("shards", [])],
            tainted_by=row.tainted_by,
            progress=progress,
            error=row.error,
            created_at=row.created_at,
            finished_at=row.finished_at,
        )


def own_model(row: SpaceRow) -> str:
    """What the model that a space has made of its documents is called, in the catalog and as a deployment."""
    return f"{row.catalog_name}/model"


def settings_of(row: SpaceRow) -> SpaceSettings:
    """The settings of a space; those that came later have their defaults."""
    return SpaceSettings.model_validate(row.settings)


def terms_of(learning: SpaceLearningRow) -> LearningSettings:
    """The settings that one began with."""
    return LearningSettings.model_validate(learning.settings)
