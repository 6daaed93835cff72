"""How a run moves on: attempts begin, report what they did, end, and are followed by the next one or by the result.

Each method is one step inside the caller's transaction, so a server that dies at any moment leaves a state from which
the next one goes on: entries are taken in once, by their number, and an attempt that was replaced is told so.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import Session, load_only

from modelworks.contract.capability import Resources
from modelworks.contract.errors import AuthenticationFailed, Conflict, ModelworksError, NotFound
from modelworks.contract.estimate import Estimate
from modelworks.contract.evaluation import SAMPLES_FILE
from modelworks.contract.media import File
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database, insert_into
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.jobs.deployments import RunDeployments
from modelworks.kernel.jobs.executors import Launch, Status
from modelworks.kernel.jobs.journal import JournalEntry
from modelworks.kernel.jobs.memory import OUT_OF_MEMORY, out_of_memory, with_hints
from modelworks.kernel.jobs.repeating import compare, repeated_run, thread_settings
from modelworks.kernel.jobs.schemas import ACTIVE, GangSpec, IngestReply, LaunchInput, LaunchSpec, RunState
from modelworks.kernel.jobs.store import RunEventRow, RunMetricRow, RunRow

#: Longest pause before an attempt follows one that crashed.
_MAX_PAUSE_S = 60.0
#: Shortest pause before a cluster that does not answer is asked again.
_MIN_AWAY_PAUSE_S = 5.0
_WATCHED = (
    RunRow.state,
    RunRow.attempt,
    RunRow.handle,
    RunRow.resources,
    RunRow.devices,
    RunRow.not_before,
    RunRow.heartbeat_at,
    RunRow.cancel_requested_at,
)
#: Metadata of a save that the catalog keeps in columns of its own.
_NO_CHILDREN = ("report", "export")
_KNOWN_METADATA = ("task", "level", "licence", "metrics", "source", "card")


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """What the supervisor needs to know of a run that is not over."""

    id: str
    state: str
    attempt: int
    handle: str | None
    resources: Resources
    devices: tuple[int, ...]
    is_due: bool
    beat: float | None
    cancelled_for_s: float | None


class Attempts:
    """Steps of runs on behalf of the supervisor and of remote workers."""

    def __init__(self, db: Database, catalog: CatalogService, clock: Clock, events: Events, settings: Settings) -> None:
        self._db = db
        self._catalog = catalog
        self._clock = clock
        self._events = events
        self._settings = settings
        #: Set where runs may ask deployments.
        self.deployments: RunDeployments | None = None
        #: By verb: what an attempt is told beside its parameters, as of its start; raises where it cannot be.
        self.tellers: dict[str, Callable[[Session, str, dict[str, Any]], dict[str, Any]]] = {}

    def active(self, session: Session) -> list[ActiveRun]:
        """Every run that is queued or running, first come first."""
        query = (
            select(RunRow)
            .where(RunRow.state.in_(ACTIVE))
            .order_by(RunRow.queued_at, RunRow.id)
            # Manifests of checkpoints and results may be long, and this is asked several times a second.
            .options(load_only(*_WATCHED))
        )
        now = self._clock.now()
        return [
            ActiveRun(
                id=row.id,
                state=row.state,
                attempt=row.attempt,
                handle=row.handle,
                resources=Resources(**row.resources),
                devices=tuple(row.devices),
                is_due=row.not_before is None or row.not_before <= now,
                beat=None if row.heartbeat_at is None else row.heartbeat_at.timestamp(),
                cancelled_for_s=None if row.cancel_requested_at is None else (now - row.cancel_requested_at).total_seconds(),
            )
            for row in session.scalars(query)
        ]

    def begin(self, session: Session, run_id: str, devices: Sequence[int], executor: str, *, remote: bool) -> Launch | None:
        """Turn a queued run into a running one; None where it is no longer queued.

        Raises:
            NotFound: an input was removed meanwhile.
        """
        row = _locked(session, run_id)
        if row is None or row.state != "queued":
            return None
        token = secrets.token_urlsafe(32)
        now = self._clock.now()
        row.attempt += 1
        row.state = "running"
        row.executor = executor
        row.journal_seq = 0
        row.handle = None
        row.devices = list(devices)
        row.token_hash = _hash(token)
        row.not_before = None
        row.started_at = row.started_at or now
        row.attempt_started_at = now
        row.heartbeat_at = None
        self._note(session, row, "state", {"state": "running", "resumed": row.checkpoint is not None})
        return Launch(
            run_id=row.id,
            attempt=row.attempt,
            # A remote worker fetches its spec itself, and with it the key.
            spec=self._spec(session, row, remote=remote, with_key=not remote),
            resources=Resources(**row.resources),
            devices=tuple(devices),
            token=token,
        )

    def record_handle(self, session: Session, run_id: str, attempt: int, handle: str) -> None:
        """Note what the executor knows a started attempt by."""
        row = _locked(session, run_id)
        if row is not None and row.attempt == attempt:
            row.handle = handle

    def record_beat(self, session: Session, run_id: str, attempt: int) -> None:
        """Note a sign of life that came without a journal entry."""
        row = _locked(session, run_id)
        if row is not None and row.attempt == attempt:
            row.heartbeat_at = self._clock.now()

    def remote_spec(self, session: Session, run_id: str, attempt: int) -> LaunchSpec:
        """The spec of a running attempt for its remote worker; raises Conflict where another one has taken its place."""
        row = _locked(session, run_id)
        if row is None or row.attempt != attempt or row.state != "running":
            raise Conflict(f"Attempt {attempt} of the run {run_id} is not the running one.", code="stale_attempt")
        return self._spec(session, row, remote=True, with_key=True)

    def check_token(self, session: Session, run_id: str, attempt: int, token: str | None) -> None:
        """Raise AuthenticationFailed unless `token` is that of the run's current attempt, Conflict where it is superseded."""
        row = session.get(RunRow, run_id)
        if row is None:
            raise NotFound(f"There is no run {run_id!r}.", code="run_not_found")
        if row.attempt != attempt:
            raise Conflict(f"Attempt {attempt} of the run {run_id} is not the running one.", code="stale_attempt")
        if token is None or row.token_hash is None or not hmac.compare_digest(_hash(token), row.token_hash):
            raise AuthenticationFailed("The token of the run is missing or wrong.")

    def receive(self, run_id: str, attempt: int, entries: Sequence[JournalEntry]) -> IngestReply:
        """Check what was saved, which reads the storage and takes its time, then `ingest` in a transaction of its own.

        Raises:
            NotFound: there is no such run.
            ModelworksError: database or storage do not answer; nothing was taken in, try again.
        """
        checked = [self._checked(entry) if entry.type == "saved" else entry for entry in entries]
        with self._db.transaction() as session:
            return self.ingest(session, run_id, attempt, checked)

    def _checked(self, entry: JournalEntry) -> JournalEntry:
        try:
            self._catalog.verify([File.model_validate(file) for file in entry.data["files"]], entry.data["kind"])
        except ModelworksError as error:
            if error.status >= 502:
                raise
            return entry.model_copy(update={"data": {**entry.data, "refusal": error.to_wire()}})
        return entry.model_copy(update={"data": {**entry.data, "verified": True}})

    def ingest(self, session: Session, run_id: str, attempt: int, entries: Sequence[JournalEntry]) -> IngestReply:
        """Take in entries that were not taken in before; the reply names the last one that was.

        Raises:
            NotFound: there is no such run.
        """
        row = _locked(session, run_id)
        if row is None:
            raise NotFound(f"There is no run {run_id!r}.", code="run_not_found")
        if row.attempt != attempt:
            return IngestReply(journal_seq=0, cancel=True, stale=True)
        fresh = [entry for entry in entries if entry.seq > row.journal_seq]
        if row.state != "running":
            # Repeating its last entries is what a worker does that missed the answer to them.
            return IngestReply(journal_seq=row.journal_seq, cancel=True, stale=bool(fresh) or row.state == "queued")
        row.heartbeat_at = self._clock.now()
        points: dict[tuple[str, int], float] = {}
        for entry in fresh:
            if entry.seq != row.journal_seq + 1 or row.state != "running":
                break
            row.journal_seq = entry.seq
            if entry.type == "metrics":
                points |= {(name, entry.data["step"]): value for name, value in entry.data["values"].items()}
            else:
                self._take(session, row, entry)
        self._store_points(session, row, points)
        if fresh:
            self._announce(session, row)
        return IngestReply(journal_seq=row.journal_seq, cancel=row.cancel_requested_at is not None)

    def ended(
        self,
        session: Session,
        run_id: str,
        attempt: int,
        status: Status,
        report: dict[str, Any] | None,
        *,
        why: str | None = None,
    ) -> None:
        """An attempt has gone without a word in the journal; decide what follows.

        Args:
            status: what the executor saw.
            report: the exit report, where the attempt could still write one.
            why: what happened, where the supervisor ended or lost it itself.
        """
        row = _locked(session, run_id)
        if row is None or row.attempt != attempt or row.state != "running":
            return
        if row.cancel_requested_at is not None:
            self._end(session, row, "cancelled", None)
        elif report is not None and report.get("outcome") == "failed":
            self._failed(session, row, report.get("error") or {}, retry=bool(report.get("retry")))
        elif status.exit_code is not None and status.exit_code > 0 and row.journal_seq == 0:
            wire = ModelworksError(
                f"The worker could not start ({status.detail or f'exit code {status.exit_code}'}).",
                hint="The reason is in the log of the run (modelworks logs).",
                code="worker_not_started",
            ).to_wire()
            self._failed(session, row, wire, retry=False)
        elif status.out_of_memory and why is None:
            # It would only happen again.
            self._failed(session, row, out_of_memory(status.peak_bytes, None).to_wire(), retry=False)
        else:
            reason = why or (f"the worker ended by {status.detail}" if status.detail else "the worker is gone")
            self._crashed(session, row, reason)
        self._announce(session, row)

    def not_started(self, session: Session, run_id: str, attempt: int, error: ModelworksError) -> None:
        """The executor could not start an attempt."""
        row = _locked(session, run_id)
        if row is None or row.attempt != attempt or row.state != "running":
            return
        if error.retry_after_s is None or row.cancel_requested_at is not None:
            self._failed(session, row, error.to_wire(), retry=error.retryable and error.status >= 502)
        else:
            # Where it would run is away for a while: that is nothing the run did, so it waits and does not count.
            self._requeue(session, row, error.message, max(_MIN_AWAY_PAUSE_S, error.retry_after_s))
        self._announce(session, row)

    def refuse(self, session: Session, run_id: str, error: ModelworksError) -> None:
        """A queued run cannot be started at all (an input is gone)."""
        row = _locked(session, run_id)
        if row is not None and row.state == "queued":
            self._end(session, row, "failed", error.to_wire())
            self._announce(session, row)

    def state_of(self, session: Session, run_id: str) -> str | None:
        """The run's state, None where it is gone."""
        return session.scalar(select(RunRow.state).where(RunRow.id == run_id))

    # -- steps --------------------------------------------------------------------------------------------------------

    def _take(self, session: Session, row: RunRow, entry: JournalEntry) -> None:
        data = entry.data
        if entry.type == "progress":
            row.progress = data
            return
        shown = data
        if entry.type == "used":
            self._catalog.record_edge(session, row.project_id, row.id, "used", data["version_id"], data["role"])
        elif entry.type == "checkpoint":
            self._keep_checkpoint(row, data)
            shown = _counted(data)
        elif entry.type == "saved":
            row.saves = [*row.saves, data]
            shown = _counted(data)
        elif entry.type == "failed":
            shown = {}
        self._note(session, row, entry.type, shown, journal_seq=entry.seq)
        if "refusal" in data:
            self._failed(session, row, data["refusal"], retry=False)
        if entry.type == "finished":
            self._finish(session, row, data.get("result"))
        elif entry.type == "cancelled":
            self._end(session, row, "cancelled", None)
        elif entry.type == "failed":
            self._failed(session, row, data["error"], retry=bool(data.get("retry")))

    def _keep_checkpoint(self, row: RunRow, data: dict[str, Any]) -> None:
        row.checkpoint = data["files"]
        row.num_saves_kept = len(row.saves)
        step = data.get("step")
        if step is not None and (row.checkpoint_step is None or step > row.checkpoint_step):
            # It got further than ever before: crashes before this do not add up with those to come.
            row.crashes = 0
            row.checkpoint_step = step

    def _finish(self, session: Session, row: RunRow, result: dict[str, Any] | None) -> None:
        original_id = repeated_run(session, row.id)
        if original_id is not None:
            # What it made was only wanted for comparison: the catalog has it already, or must not have it.
            original = session.get_one(RunRow, original_id)
            row.result = compare(session, original, row, result).model_dump(mode="json")
            row.checkpoint = None
            self._end(session, row, "succeeded", None)
            return
        try:
            with session.begin_nested():
                outputs = [self._register(session, row, saved) for saved in row.saves]
                if row.verb == "evaluate" and result is not None and "model" in row.inputs:
                    self._measured(session, row, result["metrics"])
        except ModelworksError as error:
            self._end(session, row, "failed", error.to_wire())
            return
        row.outputs = outputs
        row.result = result
        row.checkpoint = None
        self._end(session, row, "succeeded", None)

    def _measured(self, session: Session, row: RunRow, metrics: dict[str, float]) -> None:
        version_id = row.inputs["model"]["version_id"]
        self._catalog.add_metrics(session, row.project_id, version_id, metrics)
        if "test" not in row.inputs:
            return
        reports = [file for saved in row.saves if saved["kind"] == "report" for file in saved["files"]]
        self._catalog.evaluations.record(
            session,
            row.project_id,
            run_id=row.id,
            capability=row.capability,
            task=row.task or "",
            version_id=version_id,
            dataset_version_id=row.inputs["test"]["version_id"],
            params=row.params,
            metrics=metrics,
            report_digest=next((file["digest"] for file in reports if file["path"] == SAMPLES_FILE), None),
        )

    def _register(self, session: Session, row: RunRow, saved: dict[str, Any]) -> dict[str, Any]:
        metadata = dict(saved["metadata"])
        known = {name: metadata.pop(name) for name in _KNOWN_METADATA if metadata.get(name) is not None}
        part = metadata.pop("part", None)
        used = self._used(session, row)
        name = row.output_name or f"{row.task or row.verb}/{row.id}"
        bases = [version_id for role, kind, version_id in used if (role, kind) == ("base", "model")]
        if saved["kind"] == "model" and bases:
            # For lists of what is deployed, which cannot afford to walk the lineage.
            base = self._catalog.get_version(session, row.project_id, bases[0])
            metadata.setdefault("parent", base.ref)
        version = self._catalog.register(
            session,
            row.project_id,
            kind=saved["kind"],
            name=name if part is None else f"{name}-{part}",
            files=[File.model_validate(file) for file in saved["files"]],
            metadata=metadata,
            created_by_run=row.id,
            verified=bool(saved.get("verified")),
            # A report or an export is none of a model's children, and does not keep it from being removed.
            # A deployment is no parent: it was asked, not continued. Its licence is inherited by way of what was used.
            parents=[version_id for _, kind, version_id in used if kind == "model" and saved["kind"] not in _NO_CHILDREN],
            inputs=[(version_id, role) for role, _, version_id in used],
            **known,
        )
        return {"kind": version.kind, "name": version.name, "version_id": version.id, "number": version.number}

    def _used(self, session: Session, row: RunRow) -> list[tuple[str, str, str]]:
        """(role, kind, version id) of everything that the run read; of a deployment each version that answered."""
        query = select(RunEventRow.data).where(RunEventRow.run_id == row.id, RunEventRow.type == "used")
        found = {(data["role"], data.get("kind", "model"), data["version_id"]) for data in session.scalars(query)}
        roles = list(row.inputs)
        return sorted((each for each in found if each[0] in roles), key=lambda each: (roles.index(each[0]), each[2]))

    def _failed(self, session: Session, row: RunRow, error: dict[str, Any], *, retry: bool) -> None:
        if row.cancel_requested_at is not None:
            self._end(session, row, "cancelled", None)
        elif retry:
            self._crashed(session, row, str(error.get("message")), error)
        else:
            if error.get("code") == OUT_OF_MEMORY:
                error = self._with_estimate(session, row, error)
            self._end(session, row, "failed", error)

    def _with_estimate(self, session: Session, row: RunRow, error: dict[str, Any]) -> dict[str, Any]:
        """What to change is known best by the task, which was asked before."""
        query = select(RunEventRow.data).where(RunEventRow.run_id == row.id, RunEventRow.type == "estimate")
        said = session.scalar(query.order_by(RunEventRow.seq.desc()).limit(1))
        return error if said is None else with_hints(error, Estimate.model_validate(said))

    def _crashed(self, session: Session, row: RunRow, reason: str, error: dict[str, Any] | None = None) -> None:
        row.crashes += 1
        if row.crashes >= row.max_attempts:
            wire = ModelworksError(
                f"The run was given up after {row.crashes} attempts in a row that got no further; the last: {reason}.",
                hint="See its log (modelworks logs); resume it once the cause is gone. SIGKILL often means too little memory.",
                code="crashed_repeatedly",
            ).to_wire()
            self._end(session, row, "failed", error or wire)
            return
        pause_s = 0.0 if row.crashes == 1 else min(_MAX_PAUSE_S, 2.0 ** (row.crashes - 2))
        self._requeue(session, row, reason, pause_s)

    def _close_doors(self, session: Session, row: RunRow) -> None:
        if self.deployments is not None and any(given["kind"] == "deployment" for given in row.inputs.values()):
            self.deployments.close(session, row.project_id, row.id)

    def _requeue(self, session: Session, row: RunRow, reason: str, pause_s: float) -> None:
        self._close_doors(session, row)
        row.state = "queued"
        row.handle = None
        row.devices = []
        row.saves = row.saves[: row.num_saves_kept]
        row.not_before = self._clock.now() + timedelta(seconds=pause_s)
        self._note(session, row, "state", {"state": "queued", "reason": reason, "from_checkpoint": row.checkpoint is not None})

    def _end(self, session: Session, row: RunRow, state: RunState, error: dict[str, Any] | None) -> None:
        self._close_doors(session, row)
        row.state = state
        row.error = error
        row.finished_at = self._clock.now()
        row.devices = []
        shown = {"state": state} if error is None else {"state": state, "error": error}
        self._note(session, row, "state", shown)

    def _note(self, session: Session, row: RunRow, type_: str, data: dict[str, Any], *, journal_seq: int | None = None) -> None:
        note(session, row, type_, data, self._clock, journal_seq=journal_seq)

    def _announce(self, session: Session, row: RunRow) -> None:
        announce(session, self._events, row)

    def _store_points(self, session: Session, row: RunRow, points: dict[tuple[str, int], float]) -> None:
        if not points:
            return
        rows = [
            {"run_id": row.id, "project_id": row.project_id, "name": name, "step": step, "value": value}
            for (name, step), value in points.items()
        ]
        statement = insert_into(RunMetricRow, session.get_bind().dialect.name)
        statement = statement.on_conflict_do_update(
            index_elements=["run_id", "name", "step"], set_={"value": statement.excluded.value}
        )
        session.execute(statement, rows)

    # -- specs --------------------------------------------------------------------------------------------------------

    def _spec(self, session: Session, row: RunRow, *, remote: bool, with_key: bool) -> LaunchSpec:
        settings = self._settings
        asked = {role: given["ref"] for role, given in row.inputs.items() if given["kind"] == "deployment"}
        doors = self.deployments if asked else None
        teller = self.tellers.get(row.verb) if with_key else None
        storage_url = settings.effective_storage_url
        environment = {
            "MODELWORKS_PULL_ROOTS": json.dumps([str(root) for root in settings.pull_roots]),
            "MODELWORKS_EGRESS_ALLOW": json.dumps(settings.egress_allow),
            "MODELWORKS_MAX_BLOB_BYTES": str(settings.max_blob_bytes),
        }
        if not remote:
            environment["MODELWORKS_HOME"] = str(settings.home)
        environment |= thread_settings(session, row.id)
        return LaunchSpec(
            run_id=row.id,
            attempt=row.attempt,
            verb=row.verb,
            capability=row.capability,
            task=row.task,
            params=row.params,
            seed=row.seed,
            dry_run=row.output_name is None,
            inputs={
                role: self._input(session, row.project_id, given) for role, given in row.inputs.items() if role not in asked
            },
            deployments=asked,
            api_url=None if doors is None else doors.url(remote=remote),
            api_key=doors.open(session, row.project_id, row.id, asked.values()) if doors is not None and with_key else None,
            told={} if teller is None else teller(session, row.project_id, row.params),
            checkpoint=None if row.checkpoint is None else [File.model_validate(file) for file in row.checkpoint],
            storage_url=storage_url if "://" in storage_url else str(Path(storage_url).absolute()),
            storage_options=settings.storage_options,
            cache_dir=None if remote else str(settings.home / "cache" / "versions"),
            gang=_gang(Resources(**row.resources), remote=remote),
            heartbeat_s=max(0.05, min(2.0, settings.heartbeat_timeout_s / 4)),
            environment=environment,
        )

    def _input(self, session: Session, project_id: str, given: dict[str, Any]) -> LaunchInput:
        version = self._catalog.get_version(session, project_id, given["version_id"])
        if version.state == "removed":
            raise NotFound(
                f"The {given['kind']} {given['ref']!r} was removed before the run could read it.", code="input_not_found"
            )
        return LaunchInput(
            kind=given["kind"],
            ref=given["ref"],
            version_id=version.id,
            digest=version.digest,
            files=version.files,
            task=version.task,
            level=version.level,
            licence=version.licence,
            metadata=version.metadata,
        )


def note(
    session: Session, row: RunRow, type_: str, data: dict[str, Any], clock: Clock, *, journal_seq: int | None = None
) -> None:
    """Add an event to a run's story."""
    row.event_seq += 1
    session.add(
        RunEventRow(
            run_id=row.id,
            seq=row.event_seq,
            project_id=row.project_id,
            attempt=row.attempt,
            journal_seq=journal_seq,
            time=clock.now(),
            type=type_,
            data=data,
        )
    )


def announce(session: Session, events: Events, row: RunRow) -> None:
    """Tell the process, once the transaction is committed, that a run has changed."""
    payload = {"run_id": row.id, "project_id": row.project_id, "state": row.state}
    event.listen(session, "after_commit", lambda _session: events.publish("run.changed", **payload), once=True)


def _gang(resources: Resources, *, remote: bool) -> GangSpec | None:
    if resources.workers == 1:
        return None
    return GangSpec(
        workers=resources.workers,
        cpu=resources.cpu,
        memory_bytes=resources.memory_bytes,
        gpu=resources.gpu,
        embedded=not remote,
    )


def _locked(session: Session, run_id: str) -> RunRow | None:
    return session.scalar(select(RunRow).where(RunRow.id == run_id).with_for_update())


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _counted(data: dict[str, Any]) -> dict[str, Any]:
    """Files as their number and size: a manifest of thousands is no reading matter."""
    files = data["files"]
    kept = {name: value for name, value in data.items() if name not in ("files", "verified")}
    return {**kept, "num_files": len(files), "num_bytes": sum(file["num_bytes"] for file in files)}
