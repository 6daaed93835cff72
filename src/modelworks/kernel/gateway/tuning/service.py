"""Fine-tuning jobs in OpenAI's form: what is asked for, what is shown. The work itself is a run of the jobs room."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import (
    Conflict,
    InvalidRequest,
    ModelNotFound,
    ModelworksError,
    NotFound,
)
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.gateway.files.service import FileService, Listing, seconds
from modelworks.kernel.gateway.generation.language import LANGUAGE_TASK
from modelworks.kernel.gateway.store import FineTuningEventRow, FineTuningJobRow
from modelworks.kernel.gateway.tuning import method as tuning_method
from modelworks.kernel.gateway.tuning.checkpoints import KEPT_EPOCHS, MARK_ROOM, TunedCheckpoints
from modelworks.kernel.gateway.tuning.wire import FineTuningCreate
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.jobs.schemas import ACTIVE, JobSpec, RunRecord
from modelworks.kernel.serving.service import ServingService

#: States in which something may still happen by itself.
OPEN: Final = ("validating_files", "submitted", "paused")

_MAX_NAME_CHARS = 128
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job asks of the jobs room."""

    spec: JobSpec
    #: OpenAI's names with the values that will be used.
    effective: dict[str, Any]


class FineTuningService:
    """Jobs of a project. Changes are wishes; `TuningSteps` makes them so.

    Args:
        project_name: the name of a project, for the names of its models.
        wake: called after a commit that leaves something to do.
    """

    def __init__(
        self,
        db: Database,
        jobs: JobsService,
        catalog: CatalogService,
        serving: ServingService,
        files: FileService,
        clock: Clock,
        *,
        project_name: Callable[[Session, str], str],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.db = db
        self.wake = wake
        self._jobs = jobs
        self._catalog = catalog
        self._serving = serving
        self._files = files
        self._clock = clock
        self._project_name = project_name
        self.kept = TunedCheckpoints(db, jobs, catalog, serving)

    # -- what a client does ----------------------------------------------------------------------------------------------

    def create(self, session: Session, caller: Principal, asked: FineTuningCreate) -> dict[str, Any]:
        """Note a job whose parameters are right; its files are read afterwards.

        Raises:
            PermissionDenied: the key may not use the model.
            ModelNotFound, NotFound: there is no such model or file.
            InvalidRequest: the model cannot be tuned, or a parameter is wrong.
            UnsupportedParameter: a method or an integration that is not offered.
        """
        caller.require_model(asked.model)
        method = tuning_method.chosen(asked, caller)
        base = self._base(session, caller.project_id, asked.model)
        for param in ("training_file", "validation_file"):
            if (file_id := getattr(asked, param)) is not None:
                self._files.given(session, caller.project_id, file_id, purpose="fine-tune", param=param)
        job_id = new_id("ftjob")
        suffix = None if asked.suffix is None else _slug(asked.suffix)
        row = FineTuningJobRow(
            id=job_id,
            project_id=caller.project_id,
            key_id=caller.key_id,
            state="validating_files",
            wish="run",
            run_id=None,
            model=asked.model,
            base_version_id=base.id,
            training_file=asked.training_file,
            validation_file=asked.validation_file,
            method=method,
            seed=secrets.randbelow(1 << 31) if asked.seed is None else asked.seed,
            labels=dict(asked.metadata or {}),
            fine_tuned_model=_client_name(base, self._project_name(session, caller.project_id), suffix, job_id),
            output_name=_catalog_name(base, suffix, job_id),
            output_version_id=None,
            result_file_id=None,
            trained_tokens=None,
            error=None,
            event_seq=0,
            run_event_seq=0,
            metrics_step=0,
            metrics_at=None,
            created_at=self._clock.now(),
            finished_at=None,
        )
        # Whatever is wrong with the parameters is said now, not after the files were read.
        self.plan(session, row)
        session.add(row)
        session.flush()
        self.tell(session, row, f"Created fine-tuning job: {row.id}")
        self.tell(session, row, f"Validating training file: {row.training_file}")
        return self.show(session, row)

    def get(self, session: Session, project_id: str, job_id: str) -> dict[str, Any]:
        """One job; raises NotFound."""
        return self.show(session, self._row(session, project_id, job_id))

    def list(
        self, session: Session, project_id: str, *, after: str | None, limit: int, metadata: Mapping[str, str] | None
    ) -> Listing:
        """Jobs, newest first.

        Args:
            metadata: pairs that a job must carry; an empty mapping: jobs without any.
        """
        found: list[FineTuningJobRow] = []
        cursor = after
        while len(found) <= limit:
            query = select(FineTuningJobRow).where(FineTuningJobRow.project_id == project_id)
            if cursor is not None:
                query = query.where(FineTuningJobRow.id < cursor)
            rows = [*session.scalars(query.order_by(FineTuningJobRow.id.desc()).limit(_BATCH))]
            found += [row for row in rows if _carries(row.labels, metadata)]
            if len(rows) < _BATCH:
                break
            cursor = rows[-1].id
        return Listing([self.show(session, row) for row in found[:limit]], len(found) > limit)

    def cancel(self, session: Session, project_id: str, job_id: str) -> dict[str, Any]:
        """Stop a job for good; its last checkpoint stays with its run.

        Raises:
            NotFound: no such job. Conflict: it is over.
        """
        row = self._open(session, project_id, job_id, "cancelled")
        row.wish = "cancel"
        if row.state == "submitted" and row.run_id is not None:
            self._stop_run(session, row)
        else:
            self.close(session, row, "cancelled")
        return self.show(session, row)

    def pause(self, session: Session, project_id: str, job_id: str) -> dict[str, Any]:
        """Stop a job for a while: the run stops after its step and keeps a checkpoint.

        Raises:
            NotFound: no such job. Conflict: it is over.
        """
        row = self._open(session, project_id, job_id, "paused")
        if row.state == "paused" or row.wish == "pause":
            return self.show(session, row)
        row.wish = "pause"
        if row.run_id is None:
            row.state = "paused"
            self.tell(session, row, "The job is paused.")
        else:
            self.tell(session, row, "The job will pause after its current step.")
            self._stop_run(session, row)
        return self.show(session, row)

    def resume(self, session: Session, project_id: str, job_id: str) -> dict[str, Any]:
        """Let a paused job go on from its last checkpoint.

        Raises:
            NotFound: no such job. Conflict: it is not paused.
        """
        row = self._open(session, project_id, job_id, "resumed")
        if row.wish != "pause":
            raise Conflict(f"The fine-tuning job {job_id} is not paused.", param="fine_tuning_job_id", code="not_paused")
        row.wish = "resume"
        if row.state == "paused" and row.run_id is None:
            row.state, row.wish = "validating_files", "run"
        elif row.state == "paused" and row.run_id is not None:
            self.continue_run(session, row)
        self.tell(session, row, "The job is resumed.")
        return self.show(session, row)

    def events(self, session: Session, project_id: str, job_id: str, *, after: str | None, limit: int) -> Listing:
        """What happened, newest first."""
        row = self._row(session, project_id, job_id)
        query = select(FineTuningEventRow).where(FineTuningEventRow.job_id == row.id)
        if after is not None:
            number = after.rpartition("_")[2]
            if not after.startswith("ftevent_") or not number.isdecimal():
                raise InvalidRequest(f"after: {after[:80]!r} is no event.", param="after", code="invalid_value")
            query = query.where(FineTuningEventRow.seq < int(number))
        rows = [*session.scalars(query.order_by(FineTuningEventRow.seq.desc()).limit(limit + 1))]
        return Listing([_event(each) for each in rows[:limit]], len(rows) > limit)

    def checkpoints(self, session: Session, project_id: str, job_id: str, *, after: str | None, limit: int) -> Listing:
        """Models that the job has left and that answer: the result, and those of the epochs before."""
        return self.kept.list(session, self._row(session, project_id, job_id), after=after, limit=limit)

    def delete_model(self, session: Session, project_id: str, name: str) -> None:
        """Let a tuned model answer no more; its version stays in the catalog, and can be deployed again. A checkpoint's goes.

        Raises:
            ModelNotFound: there is no such model.
            InvalidRequest: it was not made by a fine-tuning job.
            Conflict: another model was made from a checkpoint.
        """
        if (checkpoint := self.kept.find(session, project_id, name)) is not None:
            self.kept.remove(session, project_id, checkpoint)
            return
        query = select(FineTuningJobRow.id).where(
            FineTuningJobRow.project_id == project_id, FineTuningJobRow.fine_tuned_model == name
        )
        if session.scalar(query) is None:
            raise InvalidRequest(
                f"The model {name!r} was not made by a fine-tuning job and is not deleted here.",
                hint="`modelworks undeploy` ends a deployment.",
                param="model",
                code="model_not_tuned",
            )
        adapter = self._serving.adapters.is_taken(session, project_id, name)
        try:
            (self._serving.adapters.remove if adapter else self._serving.remove)(session, project_id, name)
        except NotFound as error:
            raise ModelNotFound(f"The model {name!r} does not exist or you have no access to it.", param="model") from error

    # -- what the steps need ---------------------------------------------------------------------------------------------

    def plan(self, session: Session, row: FineTuningJobRow) -> Plan:
        """The run that a job wants, checked completely; makes data sets of its files where they are none yet.

        Raises:
            InvalidRequest: a parameter is wrong; `param` is the client's name of it.
            NotFound: a file or the model has gone.
        """
        kind, params = row.method["type"], {**tuning_method.params_of(row.method), "keep_epochs": KEPT_EPOCHS}
        inputs = {"base": f"model:{row.base_version_id}", **tuning_method.judges(row.method)}
        for role, file_id, param in (
            ("train", row.training_file, "training_file"),
            ("validation", row.validation_file, "validation_file"),
        ):
            if file_id is not None:
                inputs[role] = f"dataset:{self._files.dataset(session, row.project_id, file_id, param=param).id}"
        spec = JobSpec(
            verb="train", task=LANGUAGE_TASK, inputs=inputs, params=params, output_name=row.output_name, seed=row.seed
        )
        try:
            record = self._jobs.submit(session, row.project_id, row.key_id, spec, dry_run=True)
            if more := tuning_method.factored(row.method, record.params):
                spec = spec.model_copy(update={"params": {**params, **more}})
                record = self._jobs.submit(session, row.project_id, row.key_id, spec, dry_run=True)
        except InvalidRequest as error:
            raise InvalidRequest(
                error.message, hint=error.hint, param=tuning_method.client_param(error.param, kind), code=error.error_code
            ) from error
        return Plan(spec, tuning_method.effective(row.method, record.params))

    def tell(
        self,
        session: Session,
        row: FineTuningJobRow,
        message: str,
        *,
        level: Literal["info", "warn", "error"] = "info",
        type_: Literal["message", "metrics"] = "message",
        data: Mapping[str, Any] | None = None,
        time: Any = None,
    ) -> None:
        """Add an event to the job's story."""
        row.event_seq += 1
        session.add(
            FineTuningEventRow(
                job_id=row.id,
                seq=row.event_seq,
                project_id=row.project_id,
                time=time or self._clock.now(),
                level=level,
                type=type_,
                message=message,
                data=dict(data or {}),
            )
        )

    def close(
        self,
        session: Session,
        row: FineTuningJobRow,
        state: Literal["succeeded", "failed", "cancelled"],
        error: dict[str, Any] | None = None,
    ) -> None:
        """Nothing more happens to this job."""
        row.state = state
        row.error = error
        row.finished_at = self._clock.now()
        if error is not None:
            self.tell(session, row, f"The job failed: {error['message']}", level="error", data={"code": error["code"]})
        elif state == "cancelled":
            self.tell(session, row, "The job was cancelled.")
        else:
            self.tell(session, row, "The job has successfully completed.")

    def continue_run(self, session: Session, row: FineTuningJobRow) -> None:
        """Queue the run of a paused job again."""
        assert row.run_id is not None  # noqa: S101 - the caller's condition
        self._jobs.resume(session, row.project_id, row.run_id)
        row.state, row.wish = "submitted", "run"

    def run_of(self, session: Session, row: FineTuningJobRow) -> RunRecord | None:
        """The job's run; None where there is none yet."""
        return None if row.run_id is None else self._jobs.get(session, row.project_id, row.run_id)

    def show(self, session: Session, row: FineTuningJobRow) -> dict[str, Any]:
        """OpenAI's job object."""
        run = self.run_of(session, row) if row.state == "submitted" else None
        status = row.state
        if run is not None:
            # The last step of a run that is over is taken within a moment: until then it is still on its way.
            status = run.state if run.state in ACTIVE else "running"
        is_over = row.finished_at is not None
        hyperparameters = row.method.get("effective") or row.method["hyperparameters"]
        detail = {"hyperparameters": hyperparameters}
        if "grader" in row.method:
            detail["grader"] = row.method["grader"]
        return {
            "id": row.id,
            "object": "fine_tuning.job",
            "created_at": seconds(row.created_at),
            "finished_at": None if row.finished_at is None else seconds(row.finished_at),
            "status": status,
            "model": row.model,
            "fine_tuned_model": row.fine_tuned_model if row.state == "succeeded" else None,
            "organization_id": row.project_id,
            "training_file": row.training_file,
            "validation_file": row.validation_file,
            "result_files": [row.result_file_id] if row.result_file_id is not None else [],
            "trained_tokens": row.trained_tokens,
            "hyperparameters": hyperparameters,
            "method": {"type": row.method["type"], row.method["type"]: detail},
            "seed": row.seed,
            "error": row.error,
            "estimated_finish": None if is_over or run is None else self._estimated_finish(session, run),
            "integrations": [],
            "metadata": row.labels or None,
        }

    def locked(self, session: Session, job_id: str) -> FineTuningJobRow | None:
        """The row for a change, whoever's it is; None where it has gone."""
        return session.scalar(select(FineTuningJobRow).where(FineTuningJobRow.id == job_id).with_for_update())

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _row(self, session: Session, project_id: str, job_id: str, *, lock: bool = False) -> FineTuningJobRow:
        query = select(FineTuningJobRow).where(FineTuningJobRow.id == job_id, FineTuningJobRow.project_id == project_id)
        row = session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(
                f"There is no fine-tuning job {job_id[:80]!r}.",
                hint="GET /v1/fine_tuning/jobs lists the jobs.",
                param="fine_tuning_job_id",
                code="fine_tuning_job_not_found",
            )
        return row

    def _open(self, session: Session, project_id: str, job_id: str, verb: str) -> FineTuningJobRow:
        row = self._row(session, project_id, job_id, lock=True)
        if row.state not in OPEN:
            raise Conflict(
                f"The fine-tuning job {job_id} is over ({row.state}).",
                hint=f"Only a job that is not over can be {verb}.",
                param="fine_tuning_job_id",
                code="fine_tuning_job_over",
            )
        return row

    def _stop_run(self, session: Session, row: FineTuningJobRow) -> None:
        assert row.run_id is not None  # noqa: S101 - the callers' condition
        try:
            self._jobs.cancel(session, row.project_id, row.run_id)
        except Conflict:
            return  # it came to its end just now; the next step sees how

    def _base(self, session: Session, project_id: str, model: str) -> Version:
        """The version to tune: a reference of the catalog, or the name of a deployment (a tuned model is called by one)."""
        try:
            version = self._catalog.resolve(session, project_id, model)
        except (ModelNotFound, InvalidRequest) as error:
            if (checkpoint := self.kept.find(session, project_id, model)) is not None:
                return self._catalog.get_version(session, project_id, checkpoint.version_id)
            try:
                deployed = self._serving.adapters.find(session, project_id, model) or self._serving.get(
                    session, project_id, model
                )
            except NotFound:
                raise ModelNotFound(
                    f"The model {model!r} does not exist or you have no access to it.",
                    hint=error.hint if isinstance(error, ModelNotFound) else "GET /api/models lists the models.",
                    param="model",
                ) from error
            if deployed.model is None:
                raise InvalidRequest(
                    f"The model {model!r} is on another server and cannot be tuned here.",
                    hint="Name a model of the catalog.",
                    param="model",
                    code="model_not_supported",
                ) from error
            version = self._catalog.resolve(session, project_id, deployed.version_id or deployed.model)
        if version.task != LANGUAGE_TASK:
            raise InvalidRequest(
                f"The model {model!r} is for {version.task or 'no known task'}, not for {LANGUAGE_TASK}.",
                hint="Fine-tuning jobs are for language models.",
                param="model",
                code="model_not_supported",
            )
        return version

    def _estimated_finish(self, session: Session, run: RunRecord) -> int | None:
        progress = run.progress or {}
        done, total = progress.get("done") or 0, progress.get("total") or 0
        if run.state != "running" or not 0 < done <= total:
            return None
        # Time in which it waited or was paused says nothing about its pace.
        now = self._clock.now()
        busy_s, since = 0.0, None
        for event in self._jobs.events(session, run.project_id, run.id):
            if event.type != "state":
                continue
            if since is not None:
                busy_s += (event.time - since).total_seconds()
            since = event.time if event.data.get("state") == "running" else None
        if since is not None:
            busy_s += (now - since).total_seconds()
        return seconds(now) + round(busy_s * (total - done) / done)


def failure(error: ModelworksError | Mapping[str, Any], param: str | None = None) -> dict[str, Any]:
    """OpenAI's error of a job, from ours or its wire form."""
    wire = error.to_wire() if isinstance(error, ModelworksError) else error
    if param is None and wire.get("class") == "InvalidData":
        param = "training_file"
    text = str(wire.get("message") or "It gave no reason.")
    return {
        "code": str(wire.get("code") or "internal_error"),
        "message": text if wire.get("hint") is None else f"{text} {wire['hint']}",
        "param": param,
    }


def _slug(text: str) -> str:
    """Letters, digits, '.', '_' and '-', so that it can be part of a name.

    Raises:
        InvalidRequest: nothing is left of it.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    if not slug:
        raise InvalidRequest(
            f"suffix: {text!r} has no letter or digit of ASCII.",
            hint="Use a-z, 0-9 and '-'.",
            param="suffix",
            code="invalid_value",
        )
    return slug


def _client_name(base: Version, project: str, suffix: str | None, job_id: str) -> str:
    """`ft:base:project:suffix:id`. The id makes it unique, so a long base name may lose its end."""
    project = re.sub(r"[^A-Za-z0-9._-]+", "-", project).strip("-._")[:24] or "project"
    tail = f":{project}:{suffix or ''}:{job_id[-8:].lower()}"
    room = _MAX_NAME_CHARS - MARK_ROOM - len("ft:") - len(tail)
    return f"ft:{base.name[:room].rstrip('/')}{tail}"


def _catalog_name(base: Version, suffix: str | None, job_id: str) -> str:
    """`base/suffix-id`, without the base where that would be too long."""
    last = f"{suffix or 'tuned'}-{job_id[-8:].lower()}"
    name = f"{base.name}/{last}"
    return name if len(name) <= _MAX_NAME_CHARS - MARK_ROOM else last


def _carries(labels: Mapping[str, Any], wanted: Mapping[str, str] | None) -> bool:
    if wanted is None:
        return True
    return not labels if not wanted else all(labels.get(key) == value for key, value in wanted.items())


def _event(row: FineTuningEventRow) -> dict[str, Any]:
    return {
        "id": f"ftevent_{row.job_id.removeprefix('ftjob_')}_{row.seq}",
        "object": "fine_tuning.job.event",
        "created_at": seconds(row.time),
        "level": row.level,
        "message": row.message,
        "data": row.data,
        "type": row.type,
    }
