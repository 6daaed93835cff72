"""The quality gate: an alias moves to a version only if that version is proven better, and no worse elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog import lineage, references
from modelworks.kernel.catalog.schemas import Comparison, GateCheck, MetricComparison, Promotion, PromotionCreate, Version

if TYPE_CHECKING:
    from modelworks.kernel.catalog.service import CatalogService


class QualityGate:
    """Decides promotions and carries them out."""

    def __init__(self, catalog: CatalogService, db: Database) -> None:
        self._catalog = catalog
        self._db = db

    def judge(self, session: Session, project_id: str, wish: PromotionCreate) -> Promotion:
        """What the gate says; moves nothing. A missing evaluation is a check that is not passed.

        Raises:
            NotFound: no such model or data set. InvalidRequest: a bad alias or metric. InvalidData: a report is unusable.
        """
        references.check_alias(wish.alias)
        if wish.force and not (wish.reason or "").strip():
            raise InvalidRequest(
                "A forced promotion needs a reason.", hint="Say why: it is kept with the move.", param="reason"
            )
        candidate = self._catalog.resolve(session, project_id, wish.ref)
        baseline = self._baseline(session, project_id, candidate, wish.alias)
        checks: list[GateCheck] = []
        data = {"test": self._catalog.resolve(session, project_id, wish.test, "dataset")}
        if wish.general is not None:
            data["general"] = self._catalog.resolve(session, project_id, wish.general, "dataset")
        if baseline is not None and baseline.id != candidate.id:
            checks.append(self._beats(session, project_id, baseline, candidate, data["test"], wish))
            if "general" in data:
                checks.append(self._keeps(session, project_id, baseline, candidate, data["general"], wish))
        return Promotion(
            alias=wish.alias,
            candidate=candidate.ref,
            baseline=None if baseline is None else baseline.ref,
            passed=all(check.passed for check in checks),
            checks=checks,
        )

    def promote(self, project_id: str, wish: PromotionCreate, *, moved_by: str | None = None) -> Promotion:
        """Judge, then move the alias. The judgement takes up to a second and holds no lock.

        Raises:
            NotFound: as `judge`, and where an evaluation is missing (`evaluation_missing`) and the move is not forced.
            Conflict: the gate refuses (`gate_refused`), or the alias was moved meanwhile (`alias_moved`).
        """
        with self._db.reading() as session:
            found = self.judge(session, project_id, wish)
            before = self._pointed(session, project_id, found.candidate, wish.alias)
        if not found.passed and not wish.force:
            raise refusal(found)
        forced = not found.passed
        with self._db.transaction() as session:
            candidate = self._catalog.resolve(session, project_id, found.candidate)
            now = self._pointed(session, project_id, found.candidate, wish.alias)
            if (now and now.id) != (before and before.id):
                raise Conflict(
                    f"The alias {wish.alias!r} was moved by somebody else meanwhile.", hint="Try again.", code="alias_moved"
                )
            self._catalog.set_alias(
                session, project_id, candidate.ref, wish.alias, moved_by=moved_by, reason=wish.reason if forced else None
            )
        moved = before is None or before.id != candidate.id
        return found.model_copy(update={"forced": forced, "moved": moved})

    def _pointed(self, session: Session, project_id: str, ref: str, alias: str) -> Version | None:
        try:
            return self._catalog.resolve(session, project_id, f"{ref.partition('@')[0]}@{alias}")
        except NotFound:
            return None

    def _baseline(self, session: Session, project_id: str, candidate: Version, alias: str) -> Version | None:
        """What the alias means now, else the model that the candidate was made from."""
        pointed = self._pointed(session, project_id, candidate.ref, alias)
        if pointed is not None:
            return pointed
        edges = lineage.edges_of(session, project_id, subjects=[candidate.id])
        parents = [edge.object_id for edge in edges if edge.relation == "parent"]
        return self._catalog.get_version(session, project_id, parents[0]) if parents else None

    def _beats(
        self,
        session: Session,
        project_id: str,
        baseline: Version,
        candidate: Version,
        data: Version,
        wish: PromotionCreate,
    ) -> GateCheck:
        try:
            found = self._catalog.evaluations.compare_versions(session, project_id, baseline, candidate, data, wish.metric)
        except NotFound as error:
            return _missing("test", error)
        return GateCheck(
            role="test", passed=found.verdict == "better", sentence=f"{_said(found)}: {found.verdict}.", comparison=found
        )

    def _keeps(
        self,
        session: Session,
        project_id: str,
        baseline: Version,
        candidate: Version,
        data: Version,
        wish: PromotionCreate,
    ) -> GateCheck:
        try:
            found = self._catalog.evaluations.compare_versions(session, project_id, baseline, candidate, data, wish.metric)
        except NotFound as error:
            return _missing("general", error)
        loss = found.rows[0].relative_loss
        passed = loss <= wish.max_regression
        limit = f"{100 * wish.max_regression:g} % are allowed"
        sentence = f"{_said(found)}: {'worse' if loss > 0 else 'better'} by {abs(100 * loss):.3g} %, {limit}."
        return GateCheck(role="general", passed=passed, sentence=sentence, comparison=found)


def refusal(found: Promotion) -> NotFound | Conflict:
    """The error of a promotion that is not passed; its message holds each check that failed."""
    failed = [check for check in found.checks if not check.passed]
    lacking = [check for check in failed if check.comparison is None]
    if lacking:
        return NotFound(
            f"{found.candidate} cannot be judged: {' '.join(check.sentence for check in lacking)}", code="evaluation_missing"
        )
    return Conflict(
        f"{found.candidate} does not become {found.alias!r}: {' '.join(check.sentence for check in failed)}",
        hint="Train a better one, or force the move with a reason, which is recorded.",
        code="gate_refused",
    )


def _missing(role: str, error: NotFound) -> GateCheck:
    if error.error_code != "evaluation_missing":
        raise error
    sentence = f"{error.message} {error.hint}"
    return GateCheck.model_validate({"role": role, "passed": False, "sentence": sentence})


def _said(found: Comparison) -> str:
    row: MetricComparison = found.rows[0]
    return (
        f"{row.metric} on {found.data} goes from {row.baseline:.5g} ({found.baseline}) to {row.candidate:.5g}, "
        f"{row.difference:+.3g} with a 95 % interval of [{row.low:+.3g}, {row.high:+.3g}] over {row.num_samples} samples"
    )
