"""Runs as a user sees them: submit, look, cancel, resume."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, RootModel, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modelworks.contract.capability import Capability, Resources, Task
from modelworks.contract.errors import Conflict, InvalidRequest, MissingExtra, NotFound
from modelworks.contract.estimate import Estimate
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService, find_task, finding, references, resolve_import
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.jobs.attempts import Attempts, announce, note
from modelworks.kernel.jobs.deployments import RunDeployments
from modelworks.kernel.jobs.environment import installed_instead, thread_variables
from modelworks.kernel.jobs.estimating import estimated, fitted
from modelworks.kernel.jobs.folder import AttemptFolder
from modelworks.kernel.jobs.journal import JournalEntry
from modelworks.kernel.jobs.repeating import REPEATS, RepeatedRun, check, environment_of, repeated_run
from modelworks.kernel.jobs.schemas import (
    ACTIVE,
    TERMINAL,
    IngestReply,
    InputKind,
    JobSpec,
    MetricPoint,
    RunEvent,
    RunInput,
    RunOutput,
    RunRecord,
)
from modelworks.kernel.jobs.slots import capacity
from modelworks.kernel.jobs.store import RunEventRow, RunMetricRow, RunRow
from modelworks.kernel.storage import BlobStore

_MAX_FAULTS_SHOWN = 5
#: Roles whose plain references mean models; others are looked up as data sets first.
_MODEL_ROLES = frozenset({"base", "model", "teacher", "draft", "reference", "reward"})
#: By verb, what the kernel itself does: its parameters, and what such a run occupies.
_KERNEL_PARAMS = {
    "pull": "modelworks.kernel.catalog.pulling:PullParams",
    "ingest": "modelworks.kernel.dataspace.sources.ingesting:IngestParams",
}
_KERNEL_RESOURCES = Resources(cpu=0.5, memory_bytes=512 << 20)


class JobsService:
    """The door of this room. `attempts` is the other side of it, for the supervisor and for remote workers."""

    def __init__(
        self,
        db: Database,
        catalog: CatalogService,
        blobs: BlobStore,
        clock: Clock,
        events: Events,
        settings: Settings,
    ) -> None:
        self.attempts = Attempts(db, catalog, clock, events, settings)
        self.blobs = blobs
        self.db = db
        self._catalog = catalog
        self._clock = clock
        self._events = events
        self._settings = settings
        self._deployments: RunDeployments | None = None
        catalog.add_guard(self._needed)

    def connect(self, deployments: RunDeployments) -> None:
        """Let runs ask deployments; before that, an input that names one is refused."""
        self._deployments = deployments
        self.attempts.deployments = deployments

    def check_rights(self, spec: JobSpec, caller: Principal) -> None:
        """Refuse what not everybody who may submit runs may do: fetch from anywhere, or ask any model.

        Raises:
            PermissionDenied: the key lacks a scope, or its list of models does not contain a deployment that is named.
            InvalidRequest: the verb is one that a data space submits itself.
        """
        if spec.verb == "ingest":
            raise InvalidRequest(
                "A source is not looked at by a run that is submitted here.",
                hint="Use POST /api/spaces/{space}/sources/{source}/sync, or `modelworks space source sync`.",
                param="verb",
                code="verb_not_offered",
            )
        source = spec.params.get("source")
        if spec.verb == "pull" and isinstance(source, str):
            self._catalog.check_source_rights(source, is_operator=caller.is_operator)
        if not caller.has("admin"):
            with self.db.reading() as session:
                finding.refuse_inner(session, caller.project_id, {"output_name": spec.output_name or "", **spec.inputs})
        for ref in spec.inputs.values():
            prefix, _, name = ref.partition(":")
            if prefix == "deployment":
                caller.require("inference")
                caller.require_model(name)

    def submit(
        self, session: Session, project_id: str, key_id: str | None, spec: JobSpec, *, dry_run: bool = False
    ) -> RunRecord:
        """Check a wish completely and queue it; with `dry_run` only check it.

        Raises:
            NotFound: an unknown capability, task or input.
            InvalidRequest: the verb is not offered, a parameter is wrong (`param` names it), or the run would never fit.
        """
        capability, task = (None, None) if spec.verb in _KERNEL_PARAMS else _find(spec)
        params = _checked_params(spec, task)
        if spec.verb == "pull":
            self._catalog.check_source(params["source"])
        declared = _KERNEL_RESOURCES if task is None else task.resources
        resources = _wanted(spec, task, declared)
        if resources.workers > 1 and self._settings.executor == "local" and find_spec("ray") is None:
            raise MissingExtra.of("ray", "cluster")
        if spec.output_name is not None:
            references.check_name(spec.output_name)
        elif spec.verb in ("train", "pull", "label", "quantise", "export"):
            raise InvalidRequest(
                f"A run of the verb {spec.verb!r} needs a name for what it makes.",
                hint="Give output_name.",
                param="output_name",
            )
        # What is only uploaded for the run itself.
        pending = {role for role, ref in spec.inputs.items() if dry_run and not ref}
        inputs = {
            role: self._resolve(session, project_id, role, ref) for role, ref in spec.inputs.items() if role not in pending
        }
        for role in _required_inputs(spec.verb, task):
            if role not in inputs and role not in pending:
                raise InvalidRequest(
                    f"A run of the verb {spec.verb!r} and the task {spec.task!r} needs the input {role!r}.",
                    hint=f'Give inputs: {{"{role}": "…"}}.',
                    param=f"inputs.{role}",
                    code="missing_required_parameter",
                )
        has_data = "data" in pending or ("data" in inputs and inputs["data"].kind == "dataset")
        if spec.verb in ("validate", "clean", "label") and not has_data:
            raise InvalidRequest(
                f"A run of the verb {spec.verb!r} needs a data set.", hint='Give inputs: {"data": "…"}.', param="inputs.data"
            )
        slots = capacity(self._settings)
        estimate: Estimate | None = None
        if task is not None and spec.verb == "train" and not pending:
            estimate = self._estimated(session, project_id, task, params, inputs, resources.cpu)
        if estimate is not None:
            asked_bytes = None if spec.resources is None else spec.resources.memory_bytes
            resources = fitted(estimate, resources, asked_bytes, slots, force=spec.force)
        if slots is not None:
            slots.check(resources.total)
        if spec.verb == "label" and (inputs.get("teacher") is None or inputs["teacher"].kind != "deployment"):
            raise InvalidRequest(
                "A run of the verb 'label' needs a deployment that writes the answers.",
                hint='Give inputs: {"teacher": "deployment:…"}; `modelworks deployments` lists them.',
                param="inputs.teacher",
            )
        wish = {
            "capability": None if capability is None else capability.name,
            "task": None if task is None else task.name,
            "verb": spec.verb,
            "inputs": {role: given.model_dump() for role, given in inputs.items()},
            "params": params,
            "output_name": spec.output_name,
            "seed": spec.seed,
            "resources": asdict(resources),
        }
        row = self._fresh_row(project_id, key_id, wish)
        if dry_run:
            return _record(row, estimate)
        session.add(row)
        session.flush()
        note(session, row, "state", {"state": "queued"}, self._clock)
        if estimate is not None:
            note(session, row, "estimate", estimate.model_dump(mode="json", exclude={"object"}), self._clock)
        announce(session, self._events, row)
        return _record(row, estimate)

    def _estimated(
        self,
        session: Session,
        project_id: str,
        task: Task,
        params: dict[str, Any],
        inputs: dict[str, RunInput],
        cpu: float,
    ) -> Estimate | None:
        known = {role: given.version_id for role, given in inputs.items() if given.kind != "deployment"}
        return estimated(
            session,
            project_id,
            task,
            params,
            {role: version_id for role, version_id in known.items() if version_id is not None},
            cpu,
            catalog=self._catalog,
            blobs=self.blobs,
            cache_dir=self._settings.home / "cache" / "versions",
        )

    def get(self, session: Session, project_id: str, run_id: str) -> RunRecord:
        """One run with what it computed with; raises NotFound."""
        record = _record(self._row(session, project_id, run_id))
        more = {"environment": environment_of(session, run_id), "repeats": repeated_run(session, run_id)}
        return record.model_copy(update=more)

    def reproduce(
        self, session: Session, project_id: str, key_id: str | None, run_id: str, *, dry_run: bool = False
    ) -> RepeatedRun:
        """Queue a run that repeats a finished one: the same versions, parameters, seed, resources and threads.

        When it has succeeded, its result is a `Reproduction`: what both made, file by file. It registers nothing.

        Raises:
            NotFound: no such run, or an input of it was removed.
            Conflict, InvalidRequest: it cannot be repeated; see `repeating.check`.
        """
        row = self._row(session, project_id, run_id)
        check(session, self._catalog, row)
        then = environment_of(session, run_id)
        given = ("capability", "task", "verb", "inputs", "params", "output_name", "seed", "resources")
        fresh = self._fresh_row(project_id, key_id, {name: getattr(row, name) for name in given})
        answer = RepeatedRun(run=_record(fresh), repeats=run_id, differences=[] if then is None else installed_instead(then))
        if not dry_run:
            session.add(fresh)
            session.flush()
            note(session, fresh, "state", {"state": "queued"}, self._clock)
            repeats = {"run_id": run_id, "threads": {} if then is None else thread_variables(then)}
            note(session, fresh, REPEATS, repeats, self._clock)
            announce(session, self._events, fresh)
        return answer

    def list(
        self, session: Session, project_id: str, *, after: str | None = None, limit: int = 20, state: str | None = None
    ) -> Page[RunRecord]:
        """Runs, newest first; `after` is the last id of the page before."""
        query = select(RunRow).where(RunRow.project_id == project_id).order_by(RunRow.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(RunRow.id < after)
        if state is not None:
            query = query.where(RunRow.state == state)
        rows = list(session.scalars(query))
        data = [_record(row) for row in rows[:limit]]
        return Page(
            data=data,
            has_more=len(rows) > limit,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
        )

    def events(
        self, session: Session, project_id: str, run_id: str, *, after_seq: int = 0, limit: int = 1000
    ) -> Sequence[RunEvent]:
        """What happened to a run, in order; raises NotFound."""
        self._row(session, project_id, run_id)
        query = (
            select(RunEventRow)
            .where(RunEventRow.project_id == project_id, RunEventRow.run_id == run_id, RunEventRow.seq > after_seq)
            .order_by(RunEventRow.seq)
            .limit(limit)
        )
        return [
            RunEvent(run_id=run_id, seq=row.seq, attempt=row.attempt, time=row.time, type=row.type, data=row.data)
            for row in session.scalars(query)
        ]

    def metrics(
        self,
        session: Session,
        project_id: str,
        run_id: str,
        *,
        name: str | None = None,
        after_step: int | None = None,
        newest: bool = False,
    ) -> Sequence[MetricPoint]:
        """Points of a run's curves by step, with `newest` only those of the last step; raises NotFound."""
        self._row(session, project_id, run_id)
        of_run = (RunMetricRow.project_id == project_id, RunMetricRow.run_id == run_id)
        query = select(RunMetricRow).where(*of_run)
        if name is not None:
            query = query.where(RunMetricRow.name == name)
        if after_step is not None:
            query = query.where(RunMetricRow.step > after_step)
        if newest:
            query = query.where(RunMetricRow.step == select(func.max(RunMetricRow.step)).where(*of_run).scalar_subquery())
        query = query.order_by(RunMetricRow.step, RunMetricRow.name)
        return [MetricPoint(step=row.step, name=row.name, value=row.value) for row in session.scalars(query)]

    def cancel(self, session: Session, project_id: str, run_id: str) -> RunRecord:
        """Stop a run: at once where it waits, at its next step where it runs. Asking twice changes nothing.

        Raises:
            NotFound: no such run.
            Conflict: it is over already.
        """
        row = self._row(session, project_id, run_id, lock=True)
        if row.state == "cancelled" or (row.cancel_requested_at is not None and row.state in ACTIVE):
            return _record(row)
        if row.state in TERMINAL:
            raise Conflict(
                f"The run {run_id} is over: it has {row.state}.", hint="Only a run that is not over can be cancelled."
            )
        row.cancel_requested_at = self._clock.now()
        if row.state == "queued":
            row.state = "cancelled"
            row.finished_at = row.cancel_requested_at
            note(session, row, "state", {"state": "cancelled"}, self._clock)
        else:
            note(session, row, "cancel_requested", {}, self._clock)
        announce(session, self._events, row)
        return _record(row)

    def resume(self, session: Session, project_id: str, run_id: str) -> RunRecord:
        """Queue a failed or cancelled run again; it goes on from its last checkpoint as its next attempt.

        Raises:
            NotFound: no such run.
            Conflict: it is not failed or cancelled.
        """
        row = self._row(session, project_id, run_id, lock=True)
        if row.state not in ("failed", "cancelled"):
            raise Conflict(f"The run {run_id} is {row.state}.", hint="Only a failed or cancelled run can be resumed.")
        row.state = "queued"
        row.queued_at = self._clock.now()
        row.not_before = None
        row.handle = None
        row.crashes = 0
        row.error = None
        row.finished_at = None
        row.cancel_requested_at = None
        row.saves = row.saves[: row.num_saves_kept]
        note(session, row, "state", {"state": "queued", "from_checkpoint": row.checkpoint is not None}, self._clock)
        announce(session, self._events, row)
        return _record(row)

    def ingest(self, session: Session, run_id: str, attempt: int, entries: Sequence[JournalEntry]) -> IngestReply:
        """Take in what a worker noted; see `Attempts.ingest`."""
        return self.attempts.ingest(session, run_id, attempt, entries)

    def logs(self, session: Session, project_id: str, run_id: str) -> Sequence[Path]:
        """The log files of a run's attempts, in order; a file may not exist (yet). Raises NotFound."""
        row = self._row(session, project_id, run_id)
        return [self.log_path(run_id, attempt) for attempt in range(1, row.attempt + 1)]

    def log_path(self, run_id: str, attempt: int) -> Path:
        """Where the log of an attempt lies on this machine."""
        return AttemptFolder.of(self._settings.home, run_id, attempt).log

    def referenced(self, digests: Collection[str]) -> set[str]:
        """Those of the digests that a checkpoint or an unregistered result needs: for the garbage collection of blobs."""
        wanted = set(digests)
        found: set[str] = set()
        with self.db.reading() as session:
            query = select(RunRow.checkpoint, RunRow.saves).where(RunRow.state != "succeeded")
            for checkpoint, saves in session.execute(query):
                files = [*(checkpoint or []), *(file for saved in saves for file in saved["files"])]
                found |= wanted & {file["digest"] for file in files}
        return found

    def is_read(self, session: Session, project_id: str, version_id: str) -> bool:
        """Whether a run that is not over reads a version."""
        return bool(self._needed(session, project_id, [version_id]))

    def counts(self, session: Session) -> dict[str, int]:
        """How many runs of all projects are in each state: for metrics and `status`."""
        query = select(RunRow.state, func.count()).group_by(RunRow.state)
        return dict(session.execute(query).tuples().all())

    def _needed(self, session: Session, project_id: str, version_ids: Collection[str]) -> Sequence[str]:
        """Why versions must not be removed: runs that still have to read them."""
        query = select(RunRow).where(RunRow.project_id == project_id, RunRow.state.in_(ACTIVE)).order_by(RunRow.id)
        return [
            f"the run {row.id} reads it"
            for row in session.scalars(query)
            if any(given["version_id"] in version_ids for given in row.inputs.values())
        ]

    def _fresh_row(self, project_id: str, key_id: str | None, wish: dict[str, Any]) -> RunRow:
        now = self._clock.now()
        return RunRow(
            id=new_id("run"),
            project_id=project_id,
            key_id=key_id,
            **wish,
            state="queued",
            executor=self._settings.executor,
            handle=None,
            devices=[],
            attempt=0,
            max_attempts=self._settings.max_attempts,
            crashes=0,
            token_hash=None,
            progress=None,
            error=None,
            result=None,
            checkpoint=None,
            checkpoint_step=None,
            saves=[],
            num_saves_kept=0,
            outputs=[],
            journal_seq=0,
            event_seq=0,
            created_at=now,
            queued_at=now,
        )

    def _row(self, session: Session, project_id: str, run_id: str, *, lock: bool = False) -> RunRow:
        query = select(RunRow).where(RunRow.project_id == project_id, RunRow.id == run_id)
        row = session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(
                f"There is no run {run_id!r}.", hint="`modelworks jobs` lists the runs of your project.", code="run_not_found"
            )
        return row

    def _resolve(self, session: Session, project_id: str, role: str, ref: str) -> RunInput:
        prefix, colon, rest = ref.partition(":")
        kinds: list[InputKind] = ["model", "dataset"] if role in _MODEL_ROLES else ["dataset", "model"]
        if colon:
            if prefix == "deployment" and self._deployments is not None:
                deployed = self._deployments.find(session, project_id, role, rest)
                return RunInput(kind="deployment", ref=deployed.name, version_id=deployed.version_id)
            if prefix not in ("model", "dataset"):
                raise InvalidRequest(
                    f"The input {role!r} is {ref!r}, but {prefix!r} is neither model, dataset nor deployment.",
                    hint="Write name, name@alias, model:name, dataset:name or deployment:name.",
                    param=f"inputs.{role}",
                )
            kinds, ref = [cast(InputKind, prefix)], rest
        hints: list[str | None] = []
        for kind in kinds:
            try:
                version = self._catalog.usable(session, project_id, ref, kind)
            except NotFound as error:
                hints.append(error.hint)
            else:
                return RunInput(kind=cast(InputKind, version.kind), ref=ref, version_id=version.id)
        noun = " or ".join("data set" if kind == "dataset" else kind for kind in kinds)
        raise NotFound(
            f"The input {role!r} names {ref!r}, but there is no such {noun}.",
            # What is known of the kind that the role usually takes.
            hint=hints[0],
            param=f"inputs.{role}",
            code="input_not_found",
        )


def _find(spec: JobSpec) -> tuple[Capability, Task]:
    if spec.task is None:
        raise InvalidRequest(f"A run of the verb {spec.verb!r} needs a task.", hint="Give task.", param="task")
    capability, task = find_task(spec.capability, spec.task)
    offered = {
        "train": task.trainer is not None,
        "evaluate": task.evaluator is not None,
        "quantise": task.quantiser is not None,
        "export": task.exporter is not None,
        "validate": task.validator is not None,
        "clean": task.cleaner is not None,
        "label": task.labeler is not None,
        "batch": task.mode == "job",
    }
    if not offered.get(spec.verb, False):
        able = [verb for verb, is_offered in offered.items() if is_offered]
        raise InvalidRequest(
            f"The task {task.name!r} of {capability.name!r} does not offer the verb {spec.verb!r}.",
            hint=f"It offers: {', '.join(able)}." if able else "It offers no runs; deploy it instead.",
            param="verb",
            code="verb_not_offered",
        )
    return capability, task


def _required_inputs(verb: str, task: Task | None) -> Sequence[str]:
    """Roles without which the run could only fail."""
    if task is not None and verb == "train":
        return task.train_inputs
    return {"quantise": ("base",), "export": ("model",)}.get(verb, ())


def _wanted(spec: JobSpec, task: Task | None, declared: Resources) -> Resources:
    if spec.resources is None:
        return declared
    try:
        resources = spec.resources.over(declared)
    except ValueError as error:
        raise InvalidRequest(f"The resources do not go together: {error}.", param="resources") from error
    if resources.workers > 1 and not (task is not None and task.distributed and spec.verb == "train"):
        what = f"A run of the verb {spec.verb!r}" if task is None or spec.verb != "train" else f"A training of {task.name!r}"
        raise InvalidRequest(
            f"{what} cannot be shared by {resources.workers} workers.",
            hint="Leave workers at 1.",
            param="resources.workers",
            code="not_distributed",
        )
    return resources


def _checked_params(spec: JobSpec, task: Task | None) -> dict[str, Any]:
    """The parameters with every default filled in, so that the run can be repeated after the defaults have changed."""
    if task is None:
        kind: type[BaseModel] | None = cast(type[BaseModel], resolve_import(_KERNEL_PARAMS[spec.verb]))
    else:
        kind = {
            "train": task.train_params,
            "evaluate": task.evaluate_params,
            "quantise": task.quantise_params,
            "export": task.export_params,
            "validate": task.validate_params,
            "clean": task.clean_params,
            "label": task.label_params,
            "batch": task.input,
        }[spec.verb]
    if kind is None:
        if spec.params:
            raise InvalidRequest(
                f"This run takes no parameters, but {', '.join(sorted(spec.params))} was given.", param="params"
            )
        return {}
    # A task's input says itself what it ignores; a mistyped parameter of a training would be paid for with hours.
    # Alternatives (a root model) know their own fields, and must forbid others themselves.
    alternatives = issubclass(kind, RootModel)
    unknown = [] if spec.verb == "batch" or alternatives else sorted(set(spec.params) - _field_names(kind))
    if unknown and kind.model_config.get("extra") != "allow":
        raise _unknown_parameter(unknown[0], f"Known parameters: {', '.join(sorted(kind.model_fields)) or 'none'}.")
    try:
        return kind.model_validate(spec.params).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        found = error.errors()
        # Alternatives put the name of the chosen one before the field.
        places = [[str(part) for part in fault["loc"][1 if alternatives else 0 :]] for fault in found]
        if alternatives and found[0]["type"] == "extra_forbidden":
            chosen = f" of {found[0]['loc'][0]!r}" if len(found[0]["loc"]) > 1 else ""
            hint = f"The task's schema lists the parameters{chosen}."
            raise _unknown_parameter(".".join(places[0]), hint) from error
        faults = [
            ".".join(["params", *place]) + f": {fault['msg']}"
            for place, fault in zip(places[:_MAX_FAULTS_SHOWN], found, strict=False)
        ]
        raise InvalidRequest(
            f"The parameters are not valid: {'; '.join(faults)}.",
            hint="The task's schema lists the parameters with their limits.",
            param=faults[0].partition(":")[0],
            code="invalid_parameters",
        ) from error


def _unknown_parameter(name: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"There is no parameter {name!r}.", hint=hint, param=f"params.{name}", code="unknown_parameter")


def _field_names(kind: type[BaseModel]) -> set[str]:
    aliases = {info.alias for info in kind.model_fields.values() if info.alias is not None}
    return set(kind.model_fields) | aliases


def _record(row: RunRow, estimate: Estimate | None = None) -> RunRecord:
    return RunRecord(
        estimate=estimate,
        id=row.id,
        project_id=row.project_id,
        capability=row.capability,
        task=row.task,
        verb=cast(Any, row.verb),
        inputs={role: RunInput.model_validate(given) for role, given in row.inputs.items()},
        params=row.params,
        output_name=row.output_name,
        state=cast(Any, row.state),
        executor=row.executor,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        seed=row.seed,
        resources=row.resources,
        progress=row.progress,
        error=row.error,
        result=row.result,
        outputs=[RunOutput.model_validate(output) for output in row.outputs],
        has_checkpoint=row.checkpoint is not None,
        key_id=row.key_id,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        heartbeat_at=row.heartbeat_at,
        cancel_requested_at=row.cancel_requested_at,
    )
