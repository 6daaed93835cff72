"""What fine-tuning jobs do by themselves: files are read, runs submitted and followed, results published.

Everything is in the database; after a crash of the server the next one goes on where this one stopped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, cast

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import InvalidData, ModelworksError
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.polling import Follower
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.gateway.files.service import RESULTS, FileService
from modelworks.kernel.gateway.store import FineTuningJobRow
from modelworks.kernel.gateway.tuning import method as tuning_method
from modelworks.kernel.gateway.tuning.checkpoints import METRIC_NAMES
from modelworks.kernel.gateway.tuning.method import METHODS
from modelworks.kernel.gateway.tuning.service import (
    OPEN,
    FineTuningService,
    failure,
)
from modelworks.kernel.gateway.tuning.training_file import check
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.jobs.schemas import ACTIVE, MetricPoint, RunEvent, RunRecord
from modelworks.kernel.storage.schemas import BlobInfo

log = structlog.get_logger(__name__)

_BUSY_POLL_S, _IDLE_POLL_S = 1.0, 5.0
#: Shortest time between two events that tell how far the training is.
_METRICS_EVERY = timedelta(seconds=2)
_EXPIRE_EVERY = timedelta(minutes=5)
#: The figure of a version that says how many tokens it was trained on.
_TOKENS: Final = "tokens_seen"


class TuningSteps(Follower):
    """One thread; `tick` is one look at every open job and may be called by hand instead."""

    def __init__(
        self,
        tuning: FineTuningService,
        jobs: JobsService,
        catalog: CatalogService,
        files: FileService,
        clock: Clock,
        events: Events,
    ) -> None:
        super().__init__(events, name="fine-tuning", topic="run.changed", busy_s=_BUSY_POLL_S, idle_s=_IDLE_POLL_S)
        self._tuning = tuning
        self._jobs = jobs
        self._catalog = catalog
        self._files = files
        self._clock = clock
        self._db = tuning.db
        self._expired_at = clock.now()
        tuning.wake = self._thread.wake

    def tick(self) -> bool:
        """Look at every open job once; returns whether one of them is not paused."""
        with self._db.reading() as session:
            query = select(FineTuningJobRow.id, FineTuningJobRow.state).where(FineTuningJobRow.state.in_(OPEN))
            found = [*session.execute(query.order_by(FineTuningJobRow.id)).tuples()]
        for job_id, _ in found:
            try:
                self.advance(job_id)
            except Exception:
                # One job must not hold up the others.
                log.exception("a fine-tuning job could not go on", job_id=job_id)
        if self._clock.now() - self._expired_at >= _EXPIRE_EVERY:
            self._expired_at = self._clock.now()
            self._files.expire()
        return any(state != "paused" for _, state in found)

    def advance(self, job_id: str) -> None:
        """Let one job go on as far as it can now."""
        with self._db.reading() as session:
            row = session.get(FineTuningJobRow, job_id)
            if row is None or row.state not in OPEN:
                return
            run = self._tuning.run_of(session, row)
            if run is not None and not self._has_news(session, row, run):
                return
            points: Sequence[MetricPoint] = ()
            if run is not None and run.state == "succeeded":
                points = self._jobs.metrics(session, row.project_id, run.id)
        if row.state == "validating_files":
            self._validate(row)
        elif run is not None:
            # Written before the transaction: the storage may take its time.
            results = self._files.blobs.put(metrics_csv(points)) if run.state == "succeeded" else None
            with self._db.transaction() as session:
                self._follow(session, job_id, results)

    # -- files -----------------------------------------------------------------------------------------------------------

    def _validate(self, row: FineTuningJobRow) -> None:
        error: dict[str, Any] | None = None
        counts: dict[str, int] = {}
        for param, file_id in (("training_file", row.training_file), ("validation_file", row.validation_file)):
            if file_id is None or error is not None:
                continue
            try:
                counts[param] = self._check(row, param, file_id)
            except ModelworksError as found:
                if found.status >= 502:
                    raise  # the storage is away: later
                error = failure(found, param)
        with self._db.transaction() as session:
            current = self._tuning.locked(session, row.id)
            if current is None or current.state != "validating_files":
                return
            if error is None:
                error = self._submit(session, current, counts)
            if error is not None:
                self._tuning.close(session, current, "failed", error)

    def _check(self, row: FineTuningJobRow, param: str, file_id: str) -> int:
        with self._db.reading() as session:
            file = self._files.get(session, row.project_id, file_id, param=param)
        variables = tuning_method.variables_of(row.method)
        with self._files.blobs.open(file.digest) as content:
            findings = check(content, METHODS[row.method["type"]].form, variables)
        if findings.num_faults:
            raise InvalidData(
                f"The file {file.filename!r} ({file_id}) has {findings.num_faults} faults: {findings.summary()}.",
                hint="Correct these lines and store the file again.",
                code=f"invalid_{param}",
            )
        return findings.num_examples

    def _submit(self, session: Session, row: FineTuningJobRow, counts: Mapping[str, int]) -> dict[str, Any] | None:
        try:
            plan = self._tuning.plan(session, row)
            run = self._jobs.submit(session, row.project_id, row.key_id, plan.spec)
        except ModelworksError as found:
            return failure(found, found.param)
        row.run_id, row.state = run.id, "submitted"
        asked = row.method["hyperparameters"]
        row.method = {**row.method, "effective": plan.effective}
        self._tuning.tell(session, row, "Files validated, moving job to queued state", data={**counts, "run_id": run.id})
        if run.estimate is not None:
            gib = run.estimate.memory_bytes / (1 << 30)
            told = run.estimate.model_dump(mode="json", include={"memory_bytes", "parts", "seconds"})
            self._tuning.tell(session, row, f"The training needs about {gib:.1f} GiB of memory", data=told)
            for said in run.estimate.notes:
                self._tuning.tell(session, row, said, level="warn")
        for name, value in asked.items():
            if value == "auto":
                why = tuning_method.reason(row.method, name)
                self._tuning.tell(
                    session, row, f"{name} is {plan.effective[name]} (auto: {why})", data={name: plan.effective[name]}
                )
        return None

    # -- the run ---------------------------------------------------------------------------------------------------------

    def _follow(self, session: Session, job_id: str, results: BlobInfo | None) -> None:
        row = self._tuning.locked(session, job_id)
        if row is None or row.state not in ("submitted", "paused") or row.run_id is None:
            return
        run = self._jobs.get(session, row.project_id, row.run_id)
        self._tell_events(session, row, run)
        self._tell_metrics(session, row, run)
        if run.state in ACTIVE:
            if row.state == "paused":
                # Somebody resumed the run itself.
                row.state, row.wish = "submitted", "run"
        elif run.state == "succeeded":
            if results is not None:
                self._publish(session, row, run, results)
        elif run.state == "failed":
            self._tuning.close(session, row, "failed", failure(run.error or {}))
        elif row.wish == "resume":
            self._tuning.continue_run(session, row)
        elif row.wish != "pause":
            self._tuning.close(session, row, "cancelled")
        elif row.state != "paused":
            row.state = "paused"
            kept = "its last checkpoint is kept" if run.has_checkpoint else "it has no checkpoint yet and will begin anew"
            self._tuning.tell(session, row, f"The job is paused; {kept}.")

    def _has_news(self, session: Session, row: FineTuningJobRow, run: RunRecord) -> bool:
        """Whether following would change anything: a job may wait or be paused for days."""
        if run.state not in ACTIVE:
            return row.state != "paused" or row.wish != "pause"
        if row.state == "paused":
            return True
        if self._jobs.events(session, row.project_id, run.id, after_seq=row.run_event_seq, limit=1):
            return True
        is_early = row.metrics_at is not None and self._clock.now() - row.metrics_at < _METRICS_EVERY
        return run.state == "running" and not is_early

    def _tell_events(self, session: Session, row: FineTuningJobRow, run: RunRecord) -> None:
        for event in self._jobs.events(session, row.project_id, run.id, after_seq=row.run_event_seq):
            row.run_event_seq = event.seq
            told = _told(event)
            if told is not None:
                level, message = told
                self._tuning.tell(session, row, message, level=cast(Any, level), data=_plain(event), time=event.time)

    def _tell_metrics(self, session: Session, row: FineTuningJobRow, run: RunRecord) -> None:
        now = self._clock.now()
        is_early = row.metrics_at is not None and now - row.metrics_at < _METRICS_EVERY
        if run.state not in ("running", "succeeded") or (run.state == "running" and is_early):
            return
        points = self._jobs.metrics(session, row.project_id, run.id, newest=True)
        if not points or points[0].step <= row.metrics_step:
            return
        row.metrics_step, row.metrics_at = points[0].step, now
        values = {METRIC_NAMES.get(point.name, point.name): point.value for point in points}
        total = (run.progress or {}).get("total")
        place = f"{row.metrics_step}/{total:g}" if isinstance(total, int | float) else str(row.metrics_step)
        shown = ", ".join(f"{name}={value:.4g}" for name, value in sorted(values.items()) if name in METRIC_NAMES.values())
        self._tuning.tell(
            session,
            row,
            f"Step {place}{f': {shown}' if shown else ''}",
            type_="metrics",
            data={"step": row.metrics_step, "total_steps": total, **values},
        )

    def _publish(self, session: Session, row: FineTuningJobRow, run: RunRecord, results: BlobInfo) -> None:
        models = [output for output in run.outputs if output.kind == "model"]
        if not models:
            error = {"code": "no_model", "message": f"The run {run.id} has saved no model.", "param": None}
            self._tuning.close(session, row, "failed", error)
            return
        version = self._catalog.get_version(session, row.project_id, models[-1].version_id)
        row.output_version_id = version.id
        tokens = version.metrics.get(_TOKENS)
        row.trained_tokens = None if tokens is None else int(tokens)
        file = self._files.create(session, row.project_id, filename="step_metrics.csv", purpose=RESULTS, blob=results)
        row.result_file_id = file.id
        try:
            self._tuning.kept.answer_with(session, row.project_id, version, row.fine_tuned_model)
        except ModelworksError as error:
            self._tuning.tell(
                session,
                row,
                f"The model {version.ref} is in the catalog but could not be deployed: {error.message}",
                level="warn",
                data={"code": error.error_code},
            )
        else:
            self._tuning.tell(
                session, row, f"New fine-tuned model created: {row.fine_tuned_model}", data={"version_id": version.id}
            )
        self._tuning.close(session, row, "succeeded")


def metrics_csv(points: Sequence[MetricPoint]) -> bytes:
    """Curves as a table: one line per step, OpenAI's names first."""
    rows: dict[int, dict[str, float]] = {}
    for point in points:
        rows.setdefault(point.step, {})[METRIC_NAMES.get(point.name, point.name)] = point.value
    names = {name for row in rows.values() for name in row}
    known = [name for name in METRIC_NAMES.values() if name in names]
    columns = ["step", *known, *sorted(names - set(known))]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for step in sorted(rows):
        writer.writerow({"step": step, **rows[step]})
    return out.getvalue().encode()


def _told(event: RunEvent) -> tuple[str, str] | None:
    """Level and message of an event of the run that a client should hear of."""
    data = event.data
    if event.type == "checkpoint":
        step = data.get("step")
        return "info", "Checkpoint stored" if step is None else f"Checkpoint stored at step {step}"
    if event.type != "state":
        return None
    if data.get("state") == "running":
        return "info", "Fine-tuning job continued from its last checkpoint" if data.get(
            "resumed"
        ) else "Fine-tuning job started"
    if data.get("state") == "queued" and data.get("reason"):
        return "warn", f"The job was interrupted and is queued again: {data['reason']}"
    return None


def _plain(event: RunEvent) -> dict[str, Any]:
    return {"run_event": event.type, "attempt": event.attempt}
