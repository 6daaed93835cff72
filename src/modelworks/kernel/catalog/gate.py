"""The quality gate: an alias moves to a version only if that version is proven better, and no worse elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.catalog import lineage, references
from modelworks.kernel.catalog.schemas import (
    Comparison,
    Gate,
    GateCheck,
    GateTerms,
    MetricComparison,
    Promotion,
    PromotionCreate,
    Version,
)
from modelworks.kernel.catalog.store import GateRow

if TYPE_CHECKING:
    from modelworks.kernel.catalog.service import CatalogService


#: What holds where neither the promotion nor the project says.
_USUAL = {"max_regression": 0.01, "min_gain": 0.0, "confidence": 0.95}

#: Which data are compared on.
_Role = Literal["test", "news", "general"]
#: Whether a comparison passes, and how that is said.
_Judge = Callable[[Comparison, PromotionCreate], tuple[bool, str]]


class QualityGate:
    """Decides promotions and carries them out."""

    def __init__(self, catalog: CatalogService, db: Database, clock: Clock, events: Events) -> None:
        self._catalog = catalog
        self._db = db
        self._clock = clock
        self._events = events

    def terms(self, session: Session, project_id: str) -> Gate:
        """The project's terms; those that were never set are None."""
        row = session.get(GateRow, project_id)
        return Gate() if row is None else Gate(**row.terms, set_by=row.set_by, updated_at=row.updated_at)

    def set_terms(
        self, session: Session, project_id: str, terms: GateTerms, *, set_by: str | None = None, dry_run: bool = False
    ) -> Gate:
        """Replace the project's terms; announces `gate.changed`.

        Raises:
            NotFound: there is no such data set. InvalidRequest: a malformed reference.
        """
        for ref in (terms.test, terms.general):
            if ref is not None:
                self._catalog.resolve(session, project_id, ref, "dataset")
        now = self._clock.now()
        kept = terms.model_dump(exclude_none=True)
        if not dry_run:
            session.merge(GateRow(project_id=project_id, terms=kept, set_by=set_by, updated_at=now))
            self._events.publish_after_commit(session, "gate.changed", project_id=project_id, set_by=set_by, terms=kept)
        return Gate(**kept, set_by=set_by, updated_at=now)

    def _with_terms(self, session: Session, project_id: str, wish: PromotionCreate) -> PromotionCreate:
        """The wish, with the project's terms for whatever it leaves open, and else the usual ones.

        Raises:
            InvalidRequest: neither says on which data the version must be better (`no_test_data`).
        """
        asked = wish.model_dump(exclude_none=True)
        project = self.terms(session, project_id).model_dump(include=set(GateTerms.model_fields), exclude_none=True)
        filled = PromotionCreate.model_validate({**_USUAL, **project, **asked})
        if filled.test is None:
            raise InvalidRequest(
                "It is not said on which data the version must be better.",
                hint="Give --test, or keep it in the project: modelworks gate set --test DATA.",
                param="test",
                code="no_test_data",
            )
        return filled

    def judge(self, session: Session, project_id: str, wish: PromotionCreate) -> Promotion:
        """What the gate says; moves nothing. A missing evaluation is a check that is not passed.

        Raises:
            NotFound: no such model or data set. InvalidRequest: a bad alias or metric, or no test data.
            InvalidData: a report is unusable.
        """
        references.check_alias(wish.alias)
        if wish.force and not (wish.reason or "").strip():
            raise InvalidRequest(
                "A forced promotion needs a reason.", hint="Say why: it is kept with the move.", param="reason"
            )
        wish = self._with_terms(session, project_id, wish)
        candidate = self._catalog.resolve(session, project_id, wish.ref)
        baseline = self._baseline(session, project_id, candidate, wish.alias)
        checks: list[GateCheck] = []
        data = {"test": self._catalog.resolve(session, project_id, str(wish.test), "dataset")}
        if wish.general is not None:
            data["general"] = self._catalog.resolve(session, project_id, wish.general, "dataset")
        if baseline is not None and baseline.id != candidate.id:
            asked: list[tuple[_Role, Version, _Judge]] = [("test", data["test"], _beats if wish.news is None else _holds)]
            if wish.news is not None:
                asked.append(("news", self._catalog.resolve(session, project_id, wish.news, "dataset"), _beats))
            if "general" in data:
                asked.append(("general", data["general"], _keeps))
            pair = (baseline, candidate)
            checks = [self._check(session, project_id, pair, each, wish, role, judge) for role, each, judge in asked]
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

    def _check(
        self,
        session: Session,
        project_id: str,
        pair: tuple[Version, Version],
        data: Version,
        wish: PromotionCreate,
        role: _Role,
        judge: _Judge,
    ) -> GateCheck:
        """One comparison of (baseline, candidate), and what is made of it."""
        confidence = wish.confidence or 0.95
        try:
            found = self._catalog.evaluations.compare_versions(session, project_id, *pair, data, wish.metric, confidence)
        except NotFound as error:
            return _missing(role, error)
        passed, said = judge(found, wish)
        return GateCheck(role=role, passed=passed, sentence=f"{_said(found)}: {said}.", comparison=found)


def _beats(found: Comparison, wish: PromotionCreate) -> tuple[bool, str]:
    gain = -found.rows[0].relative_loss
    enough = gain >= (wish.min_gain or 0.0)
    short = "" if enough else f" by {100 * gain:.3g} %, {100 * (wish.min_gain or 0.0):g} % are asked for"
    return found.verdict == "better" and enough, f"{found.verdict}{short}"


def _holds(found: Comparison, wish: PromotionCreate) -> tuple[bool, str]:
    """Whether the candidate is not worse by more than the margin, with the confidence: non-inferiority by the interval of the
    paired differences (Piaggio et al. 2012, the CONSORT statement's extension, JAMA 308).
    """
    row = found.rows[0]
    allowed = (wish.max_regression or 0.0) if wish.margin is None else wish.margin
    worst = row.high if row.lower_is_better else -row.low
    passed = worst <= allowed * abs(row.baseline)
    by = f"{100 * worst / abs(row.baseline):.3g} %" if row.baseline else f"{worst:.3g}"
    return passed, f"{'not worse' if passed else 'perhaps worse'}, by {by} at most, where {100 * allowed:g} % are allowed"


def _keeps(found: Comparison, wish: PromotionCreate) -> tuple[bool, str]:
    loss = found.rows[0].relative_loss
    allowed = wish.max_regression or 0.0
    said = f"{'worse' if loss > 0 else 'better'} by {abs(100 * loss):.3g} %, {100 * allowed:g} % are allowed"
    return loss <= allowed, said


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
        f"{row.difference:+.3g} with a {100 * found.confidence:g} % interval of "
        f"[{row.low:+.3g}, {row.high:+.3g}] over {row.num_samples} samples"
    )
