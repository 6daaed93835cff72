"""What runs measured: kept with the digests of model and data, and compared sample by sample."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import InvalidData, InvalidRequest, NotFound
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog import discovery
from modelworks.kernel.catalog.comparison import MIN_SAMPLES, Pair, compare
from modelworks.kernel.catalog.schemas import Comparison, Evaluation, MetricComparison, Page, Version
from modelworks.kernel.catalog.store import ArtifactRow, EvaluationRow, VersionRow
from modelworks.kernel.storage import BlobStore

if TYPE_CHECKING:
    from modelworks.kernel.catalog.service import CatalogService

#: A report is read into memory.
_MAX_REPORT_BYTES = 256 << 20


class Evaluations:
    """Records and compares evaluations on behalf of the catalog."""

    def __init__(self, catalog: CatalogService, blobs: BlobStore, clock: Clock) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._clock = clock

    def record(
        self,
        session: Session,
        project_id: str,
        *,
        run_id: str,
        capability: str | None,
        task: str,
        version_id: str,
        dataset_version_id: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        report_digest: str | None,
    ) -> Evaluation:
        """Keep what a run measured; the same run again changes nothing.

        Raises:
            NotFound: a version is not there.
        """
        known = session.scalar(select(EvaluationRow).where(EvaluationRow.run_id == run_id))
        if known is not None:
            return _shown(known)
        row = EvaluationRow(
            id=new_id("eval"),
            project_id=project_id,
            run_id=run_id,
            capability=capability,
            task=task,
            version_id=version_id,
            model_digest=self._catalog.get_version(session, project_id, version_id).digest,
            dataset_version_id=dataset_version_id,
            dataset_digest=self._catalog.get_version(session, project_id, dataset_version_id).digest,
            params=dict(params),
            metrics=dict(metrics),
            report_digest=report_digest,
            created_at=self._clock.now(),
        )
        session.add(row)
        session.flush()
        return _shown(row)

    def of_versions(self, session: Session, project_id: str, version_ids: Collection[str]) -> Sequence[Evaluation]:
        """Evaluations of these versions, and on them, oldest first."""
        wanted = sorted(set(version_ids))
        about = or_(EvaluationRow.version_id.in_(wanted), EvaluationRow.dataset_version_id.in_(wanted))
        query = select(EvaluationRow).where(EvaluationRow.project_id == project_id, about)
        return [_shown(row) for row in session.scalars(query.order_by(EvaluationRow.id))]

    def forget_samples(self, session: Session, project_id: str, dataset_ids: Collection[str]) -> set[str]:
        """Drop the lines per sample of everything that was measured on these data sets; the figures stay.

        Returns:
            The digests of what they were stored as.
        """
        query = select(EvaluationRow).where(
            EvaluationRow.project_id == project_id,
            EvaluationRow.dataset_version_id.in_(sorted(set(dataset_ids))),
            EvaluationRow.report_digest.is_not(None),
        )
        digests: set[str] = set()
        for row in session.scalars(query):
            digests.add(str(row.report_digest))
            row.report_digest = None
            made = select(VersionRow, ArtifactRow.kind).join(ArtifactRow, ArtifactRow.id == VersionRow.artifact_id)
            of_run = made.where(VersionRow.created_by_run == row.run_id, ArtifactRow.kind.not_in(("model", "dataset")))
            for version, kind in session.execute(of_run.where(VersionRow.state == "ready")).tuples():
                digests |= {file["digest"] for file in version.files}
                self._catalog.remove(session, project_id, version.id, kind, force=True)
        return digests

    def list(
        self,
        session: Session,
        project_id: str,
        *,
        model: str | None = None,
        data: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Evaluation]:
        """Evaluations, newest first, of a model's or a data set's content where given.

        Raises:
            NotFound: no such model or data set. InvalidRequest: a malformed reference.
        """
        query = select(EvaluationRow).where(EvaluationRow.project_id == project_id)
        if model is not None:
            query = query.where(EvaluationRow.model_digest == self._catalog.resolve(session, project_id, model).digest)
        if data is not None:
            digest = self._catalog.resolve(session, project_id, data, "dataset").digest
            query = query.where(EvaluationRow.dataset_digest == digest)
        if after is not None:
            query = query.where(EvaluationRow.id < after)
        rows = [*session.scalars(query.order_by(EvaluationRow.id.desc()).limit(limit + 1))]
        data_ = [_shown(row) for row in rows[:limit]]
        return Page[Evaluation](
            data=data_,
            has_more=len(rows) > limit,
            first_id=data_[0].id if data_ else None,
            last_id=data_[-1].id if data_ else None,
        )

    def compare(
        self, session: Session, project_id: str, baseline: str, candidate: str, data: str, metric: str | None = None
    ) -> Comparison:
        """Compare two models by their newest evaluations on the same data with the same parameters.

        Raises:
            NotFound: a reference names nothing, or an evaluation is missing (`evaluation_missing`; with how to make it).
            InvalidRequest: the metric is not among those measured per sample (`unknown_metric`).
            InvalidData: a report cannot be used (`report_unusable`), or has too few samples (`too_few_samples`).
        """
        first = self._catalog.resolve(session, project_id, baseline)
        second = self._catalog.resolve(session, project_id, candidate)
        return self.compare_versions(
            session, project_id, first, second, self._catalog.resolve(session, project_id, data, "dataset"), metric
        )

    def compare_versions(
        self,
        session: Session,
        project_id: str,
        baseline: Version,
        candidate: Version,
        data: Version,
        metric: str | None = None,
        confidence: float = 0.95,
    ) -> Comparison:
        """`compare` for versions that are resolved already."""
        first, second = self._pair(session, project_id, baseline, candidate, data, metric)
        _, task = discovery.find_task(first.capability, first.task)
        ours, theirs = self._samples(first, baseline, data), self._samples(second, candidate, data)
        if ours.keys() != theirs.keys():
            raise InvalidData(
                f"The evaluations {first.id} and {second.id} did not measure the same samples of {data.ref}.",
                hint="Evaluate both again with this version of the capability.",
                code="report_unusable",
            )
        known = (*task.metrics, *task.optional_metrics)
        # What a client's own criteria measure is not known to the task; more of it is better.
        own = dict.fromkeys(name for each in ours.values() for name in each.values if name not in known)
        measured = [
            name
            for name in (*known, *own)
            if any(name in each.values for each in ours.values()) and any(name in each.values for each in theirs.values())
        ]
        chosen = metric or next(iter(measured), None)
        if chosen is None or chosen not in measured:
            raise InvalidRequest(
                f"The metric {chosen!r} was not measured per sample on {data.ref}.",
                hint=f"Choose one of: {', '.join(measured) or 'none'}.",
                param="metric",
                code="unknown_metric",
            )
        rows = [_row(chosen, ours, theirs, confidence, lower_is_better=chosen in task.lower_is_better)]
        for name in measured:
            if name == chosen:
                continue
            # Beside the one that decides: what too few samples have (of answers, often) says nothing, and prevents nothing.
            with suppress(InvalidData):
                rows.append(_row(name, ours, theirs, confidence, lower_is_better=name in task.lower_is_better))
        return Comparison(
            baseline=baseline.ref,
            candidate=candidate.ref,
            data=data.ref,
            baseline_evaluation=first.id,
            candidate_evaluation=second.id,
            metric=chosen,
            confidence=confidence,
            verdict=rows[0].verdict,
            rows=rows,
        )

    def _pair(
        self,
        session: Session,
        project_id: str,
        baseline: Version,
        candidate: Version,
        data: Version,
        metric: str | None,
    ) -> tuple[EvaluationRow, EvaluationRow]:
        def of(version: Version) -> Sequence[EvaluationRow]:
            query = select(EvaluationRow).where(
                EvaluationRow.project_id == project_id,
                EvaluationRow.model_digest == version.digest,
                EvaluationRow.dataset_digest == data.digest,
                EvaluationRow.report_digest.is_not(None),
            )
            return session.scalars(query.order_by(EvaluationRow.id.desc()).limit(100)).all()

        ours, theirs = of(baseline), of(candidate)
        alike = [(mine, other) for mine in ours for other in theirs if _way(mine) == _way(other)]
        # The newest that measured what is asked for: a later evaluation may have looked at something else.
        told = [pair for pair in alike if metric is None or metric in pair[0].metrics]
        if alike:
            return (told or alike)[0]
        if ours and theirs:
            raise NotFound(
                f"{baseline.ref} and {candidate.ref} were measured on {data.ref} with different parameters.",
                hint="Evaluate both with the same ones: " + _commands([baseline, candidate], data),
                code="evaluation_missing",
            )
        lacking = [version for version, found in ((baseline, ours), (candidate, theirs)) if not found]
        raise NotFound(
            f"{' and '.join(version.ref for version in lacking)} {'was' if len(lacking) == 1 else 'were'} not measured, "
            f"sample by sample, on {data.ref}.",
            hint="Run: " + _commands(lacking, data),
            code="evaluation_missing",
        )

    def _samples(self, row: EvaluationRow, model: Version, data: Version) -> dict[str, SampleResult]:
        try:
            text = self._blobs.read(row.report_digest or "", _MAX_REPORT_BYTES).decode("utf-8")
            samples = [SampleResult.model_validate_json(line) for line in text.splitlines() if line.strip()]
        except (NotFound, UnicodeDecodeError, ValidationError) as error:
            raise InvalidData(
                f"The report {SAMPLES_FILE} of the evaluation {row.id} cannot be read.",
                hint="Evaluate again: " + _commands([model], data),
                code="report_unusable",
            ) from error
        return {each.sample: each for each in samples}


def _way(row: EvaluationRow) -> str:
    """How it was measured; two evaluations that differ in this cannot be compared."""
    return json.dumps([row.capability, row.task, row.params], sort_keys=True)


def _row(
    name: str, ours: Mapping[str, SampleResult], theirs: Mapping[str, SampleResult], confidence: float, *, lower_is_better: bool
) -> MetricComparison:
    both = [key for key, each in ours.items() if name in each.values and name in theirs[key].values]
    pairs = [Pair(ours[key].values[name], theirs[key].values[name]) for key in sorted(both)]
    if len(pairs) < MIN_SAMPLES or any(pair.baseline[1] <= 0 or pair.candidate[1] <= 0 for pair in pairs):
        raise InvalidData(
            f"The metric {name!r} was measured on {len(pairs)} samples, at least {MIN_SAMPLES} with a weight are needed.",
            hint="Use a test set with more samples.",
            code="too_few_samples",
        )
    found = compare(pairs, confidence=confidence)
    return MetricComparison(
        metric=name,
        lower_is_better=lower_is_better,
        num_samples=len(pairs),
        baseline=found.baseline,
        candidate=found.candidate,
        difference=found.difference,
        low=found.low,
        high=found.high,
        verdict=found.verdict(lower_is_better=lower_is_better),
    )


def _commands(models: Sequence[Version], data: Version) -> str:
    return "; ".join(f"modelworks evaluate {model.task or 'TASK'} {model.ref} --data {data.ref} -f" for model in models) + "."


def _shown(row: EvaluationRow) -> Evaluation:
    return Evaluation.model_validate({name: getattr(row, name) for name in Evaluation.model_fields if name != "object"})
