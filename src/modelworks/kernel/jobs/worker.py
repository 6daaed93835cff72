"""The process of one attempt: `python -m modelworks.kernel.jobs.worker <attempt folder>`.

Without a folder it is a remote attempt: it fetches its spec from the server and ships its journal there.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import functools
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

from pydantic import BaseModel, ValidationError

from modelworks.contract.capability import Task
from modelworks.contract.errors import Cancelled, InvalidData, InvalidRequest, ModelworksError, NotFound, StorageFull
from modelworks.contract.media import File
from modelworks.contract.quantisation import QuantiseReport
from modelworks.contract.run import LocalDataset, LocalModel, World
from modelworks.kernel.catalog import find_task, materialise, resolve_import
from modelworks.kernel.catalog.checkpoint import check_folder
from modelworks.kernel.jobs.asking import AskedDeployment
from modelworks.kernel.jobs.curation import clean_data, validate_data
from modelworks.kernel.jobs.environment import EVENT, of_this_process
from modelworks.kernel.jobs.folder import AttemptFolder
from modelworks.kernel.jobs.journal import JournalEntry, JournalWriter
from modelworks.kernel.jobs.memory import is_out_of_memory, out_of_memory
from modelworks.kernel.jobs.schemas import LaunchInput, LaunchSpec
from modelworks.kernel.jobs.shipping import ServerLine, Shipper
from modelworks.kernel.storage import BlobStore

EXIT_FINISHED = 0
EXIT_FAILED = 1
EXIT_CANCELLED = 4

#: The kernel's own job: fetches a model or a data set from outside.
PULL = "modelworks.kernel.catalog.pulling:pull"
PULL_PARAMS = "modelworks.kernel.catalog.pulling:PullParams"
#: Another one, of a room above this: looks at a source of documents.
INGEST = "modelworks.kernel.dataspace.sources.ingesting:ingest"

_MAX_MESSAGE_CHARS = 2000


class Journal(Protocol):
    """What a run writes to: the attempt's own journal, or a line to where it is."""

    def append(self, type_: str, data: dict[str, Any], *, durable: bool = False) -> object: ...


class JournalRun:
    """Implements the contract's `Run`: whatever goes through it is written into the journal.

    Args:
        spec: the attempt.
        folder: its folder, made.
        blobs: where checkpoints and results go and inputs come from.
        journal: of this attempt, empty.
        is_cancelled: whether the user has asked to stop.
        world: the processes that share the run.
    """

    def __init__(
        self,
        spec: LaunchSpec,
        folder: AttemptFolder,
        blobs: BlobStore,
        journal: Journal,
        is_cancelled: Callable[[], bool],
        world: World | None = None,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._blobs = blobs
        self._journal = journal
        self._is_cancelled = is_cancelled
        self._world = world or World()
        self._paths: dict[str, Path] = {}
        self._asked: dict[str, AskedDeployment] = {}
        self._last_step: int | None = None
        self._is_resumable = False

    @property
    def id(self) -> str:
        return self._spec.run_id

    @property
    def seed(self) -> int:
        return self._spec.seed

    @property
    def workdir(self) -> Path:
        return self._folder.work

    @property
    def attempt(self) -> int:
        return self._spec.attempt

    @property
    def world(self) -> World:
        return self._world

    @property
    def resume_from(self) -> Path | None:
        if self._spec.checkpoint is None:
            return None
        if not self._is_resumable:
            # Not before it is asked for: who only leads others never is.
            self._blobs.materialise(self._spec.checkpoint, self._folder.resume)
            self._is_resumable = True
        return self._folder.resume

    def model(self, role: str = "base") -> LocalModel:
        """The model given under that role; raises NotFound where the run has no such input."""
        given = self._input(role, "model")
        return LocalModel(
            ref=given.ref,
            version_id=given.version_id,
            path=self._materialised(role, given),
            digest=given.digest,
            task=given.task,
            level=given.level,
            licence=given.licence,
            metadata=given.metadata,
        )

    def dataset(self, role: str = "train") -> LocalDataset:
        """The data set given under that role; raises NotFound where the run has no such input."""
        given = self._input(role, "dataset")
        return LocalDataset(
            ref=given.ref,
            version_id=given.version_id,
            path=self._materialised(role, given),
            digest=given.digest,
            licence=given.licence,
            metadata=given.metadata,
        )

    def deployment(self, role: str = "teacher") -> AskedDeployment:
        """The deployment given under that role; raises NotFound where the run has no such input."""
        name = self._spec.deployments.get(role)
        if name is None or self._spec.api_url is None or self._spec.api_key is None:
            raise _no_input(role, "deployment", sorted(self._spec.deployments))
        if role not in self._asked:
            self._asked[role] = AskedDeployment(
                name,
                self._spec.api_url,
                self._spec.api_key,
                self.raise_if_cancelled,
                lambda version_id: self._note_answering(role, version_id),
            )
        return self._asked[role]

    def has_input(self, role: str) -> bool:
        return role in self._spec.inputs or role in self._spec.deployments

    def log(self, step: int, **metrics: float) -> None:
        """Add a point; raises InvalidRequest for numbers that are not finite and for steps that go back."""
        if self._last_step is not None and step < self._last_step:
            raise InvalidRequest(f"Step {step} was logged after step {self._last_step}.", hint="Log rising step numbers.")
        values = {name: _finite(f"The metric {name!r} of step {step}", value) for name, value in metrics.items()}
        self._journal.append("metrics", {"step": int(step), "values": values})
        self._last_step = step

    def progress(self, done: float, total: float, what: str) -> None:
        done, total = _finite("A progress", done), _finite("A progress", total)
        if done < 0 or total < 0:
            raise InvalidRequest(f"A progress of {done} out of {total} {what} makes no sense.", hint="Give numbers from 0 up.")
        self._journal.append("progress", {"done": done, "total": total, "what": what})

    def checkpoint(self, path: Path) -> None:
        """Store a folder (or file) and only then say so: a crash in between leaves the previous checkpoint in force."""
        files = self._store(path, "checkpoint")
        self._journal.append("checkpoint", {"files": files, "step": self._last_step}, durable=True)

    def save(self, path: Path, *, kind: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Store a result; it becomes a version when the run succeeds."""
        if not kind:
            raise InvalidRequest("A result was saved without a kind.", hint='Give kind="model", "dataset" or another noun.')
        check_folder(Path(path), kind=kind)
        data = {"kind": kind, "files": self._store(path, "result"), "metadata": dict(metadata or {})}
        try:
            self._journal.append("saved", data, durable=True)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"The metadata of the saved {kind} is not JSON: {error}.") from error

    def raise_if_cancelled(self) -> None:
        if self._is_cancelled():
            raise Cancelled("The run was cancelled.", hint="Resume it to go on from the last checkpoint.")

    def share(self) -> None:
        """Let the spec's gang do what the attempt is to do; raises what ended it. See `gang.lead`."""
        from modelworks.kernel.jobs.gang import lead

        lead(self._spec, self._folder, cast(JournalWriter, self._journal), self._is_cancelled)

    def _input(self, role: str, kind: str) -> LaunchInput:
        given = self._spec.inputs.get(role)
        if given is None or given.kind != kind:
            raise _no_input(role, kind, sorted(name for name, each in self._spec.inputs.items() if each.kind == kind))
        return given

    def _note_answering(self, role: str, version_id: str) -> None:
        self._journal.append("used", {"role": role, "kind": "deployment", "version_id": version_id})

    def _materialised(self, role: str, given: LaunchInput) -> Path:
        if role not in self._paths:
            cache_dir = self._folder.inputs if self._spec.cache_dir is None else Path(self._spec.cache_dir)
            self._paths[role] = materialise(self._blobs, given.files, given.digest, cache_dir)
            self._journal.append("used", {"role": role, "kind": given.kind, "version_id": given.version_id})
        return self._paths[role]

    def _store(self, path: Path, what: str) -> list[dict[str, Any]]:
        path = Path(path)
        if path.is_file():
            found = [(path.name, path)]
        else:
            found = [(file.relative_to(path).as_posix(), file) for file in sorted(path.rglob("*")) if file.is_file()]
        if not found:
            raise InvalidRequest(f"The {what} {path} does not exist or is empty.", hint="Write it before handing it over.")
        files = []
        for name, file in found:
            info = self._blobs.put_file(file)
            files.append(File(path=name, digest=info.digest, num_bytes=info.num_bytes).model_dump())
        return files


def _no_input(role: str, kind: str, known: Sequence[str]) -> NotFound:
    noun = "data set" if kind == "dataset" else kind
    return NotFound(
        f"This run has no {noun} of the role {role!r}.",
        hint=f"It has: {', '.join(known) or 'none'}. Give one with the input {role!r}.",
        param=f"inputs.{role}",
        code="input_not_found",
    )


def perform(spec: LaunchSpec, run: JournalRun) -> dict[str, Any] | None:
    """Do what the spec's verb says; returns the run's result.

    Raises:
        ModelworksError: a reason that a person can act on.
        Exception: whatever the capability's code raises.
    """
    if spec.verb == "pull":
        params_type = cast(type[BaseModel], resolve_import(PULL_PARAMS))
        _callable(PULL)(run, _validated(params_type, spec.params, "params"))
        return None
    if spec.verb == "ingest":
        blobs = BlobStore(spec.storage_url, spec.storage_options)
        return dict(_callable(INGEST)(run, spec.params, spec.told, blobs, dry_run=spec.dry_run))
    if spec.task is None:
        raise InvalidRequest(f"A run of the verb {spec.verb!r} needs a task.", param="task")
    _, task = find_task(spec.capability, spec.task)
    performers = {
        "train": _train,
        "evaluate": _evaluate,
        "quantise": _quantise,
        "export": _export,
        "batch": _batch,
        "validate": _validate,
        "clean": _clean,
        "label": _label,
    }
    performer = performers.get(spec.verb)
    if performer is None:
        raise InvalidRequest(f"The verb {spec.verb!r} cannot be run.", param="verb")
    return performer(task, spec, run)


def _train(task: Task, spec: LaunchSpec, run: JournalRun) -> None:
    params = _validated(task.train_params, spec.params, "params")
    if spec.gang is not None:
        run.share()
    else:
        _callable(task.trainer)(run, params)


def _evaluate(task: Task, spec: LaunchSpec, run: JournalRun) -> dict[str, Any]:
    found = _callable(task.evaluator)(run, _validated(task.evaluate_params, spec.params, "params"))
    task.check_metrics(found)
    return {"metrics": {name: _finite(f"The metric {name!r}", value) for name, value in found.items()}}


def _quantise(task: Task, spec: LaunchSpec, run: JournalRun) -> dict[str, Any]:
    report = _callable(task.quantiser)(run, _validated(task.quantise_params, spec.params, "params"))
    return QuantiseReport.model_validate(report).model_dump(mode="json")


def _export(task: Task, spec: LaunchSpec, run: JournalRun) -> dict[str, Any]:
    return dict(_callable(task.exporter)(run, _validated(task.export_params, spec.params, "params")))


def _batch(task: Task, spec: LaunchSpec, run: JournalRun) -> dict[str, Any]:
    output = _callable(task.predictor)(run, _validated(task.input, spec.params, "params"))
    if isinstance(output, BaseModel):
        output = output.model_dump()
    try:
        return task.output.model_validate(output).model_dump(mode="json")
    except ValidationError as error:
        raise InvalidData(
            f"The output of {task.name!r} is not a {task.output.__name__}: {_first_fault(error)}.",
            hint="Make the job return what the task declares as its output.",
            code="output_mismatch",
        ) from error


def _validate(task: Task, spec: LaunchSpec, run: JournalRun) -> dict[str, Any]:
    return validate_data(_callable(task.validator), _validated(task.validate_params, spec.params, "params"), run)


def _clean(task: Task, spec: LaunchSpec, run: JournalRun) -> dict[str, Any]:
    params = _validated(task.clean_params, spec.params, "params")
    return clean_data(_callable(task.cleaner), params, run, dry_run=spec.dry_run)


def _label(task: Task, spec: LaunchSpec, run: JournalRun) -> dict[str, Any] | None:
    told = _callable(task.labeler)(run, _validated(task.label_params, spec.params, "params"))
    return None if told is None else dict(told)


def _callable(path: str | None) -> Callable[..., Any]:
    if path is None:
        raise InvalidRequest("The task does not offer this.", hint="See `modelworks capabilities` for what it offers.")
    return cast(Callable[..., Any], resolve_import(path))


def _validated(kind: type[BaseModel] | None, values: dict[str, Any], where: str) -> BaseModel | None:
    if kind is None:
        return None
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(f"{where}: {_first_fault(error)}.", param=where) from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'value'}: {first['msg']}"


def _finite(what: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{what} is {value!r}, not a number.", hint="Log plain floats.") from error
    if not math.isfinite(number):
        raise InvalidRequest(f"{what} is {number}.", hint="Lower the learning rate if a loss has diverged.", code="not_finite")
    return number


def conduct(spec: LaunchSpec, run: Callable[[], JournalRun], journal: JournalWriter, folder: AttemptFolder) -> int:
    """Run the attempt to its end, note how it ended in the journal and, where that is impossible, in the exit report."""
    try:
        journal.append("started", {"pid": os.getpid(), "host": os.uname().nodename}, durable=True)
        result = perform(spec, run())
        _note_environment(journal)
        journal.append("finished", {"result": result}, durable=True)
        return EXIT_FINISHED
    except Cancelled:
        return _close(journal, folder, "cancelled", {}, EXIT_CANCELLED)
    except BaseException as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        # What may go away by itself is tried again; what is wrong with the input or the code would only happen again.
        retry = isinstance(error, ModelworksError) and error.retryable and error.status >= 502
        return _close(journal, folder, "failed", {"error": readable(error).to_wire(), "retry": retry}, EXIT_FAILED)


def _close(journal: JournalWriter, folder: AttemptFolder, outcome: str, data: dict[str, Any], code: int) -> int:
    with contextlib.suppress(OSError):
        folder.write_exit({"outcome": outcome, **data})
    with contextlib.suppress(StorageFull, OSError):
        _note_environment(journal)
        journal.append(outcome, data, durable=True)
    return code


def _note_environment(journal: JournalWriter) -> None:
    journal.append(EVENT, of_this_process().model_dump(mode="json"))


def readable(error: BaseException) -> ModelworksError:
    """What a person is told of an error: itself where it was meant for them."""
    if isinstance(error, ModelworksError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"The disk is full: {error}.", hint="Free some space and resume the run.")
    if is_out_of_memory(error):
        return out_of_memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, str(error))
    text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    return ModelworksError(
        text[:_MAX_MESSAGE_CHARS], hint="The traceback is in the log of the run (modelworks logs).", code="run_failed"
    )


def main(argv: list[str] | None = None) -> int:
    """Entry of the process; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    _step_aside()
    if argv:
        folder = AttemptFolder(Path(argv[0]))
        return _main_local(folder)
    scratch = Path(tempfile.mkdtemp(prefix="modelworks-run-"))
    try:
        return _main_remote(AttemptFolder(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _main_local(folder: AttemptFolder) -> int:
    spec = folder.take_spec()
    _listen_for_sigterm(folder.cancel.exists)
    folder.beat()
    stop = threading.Event()
    threading.Thread(target=_beat, args=(folder, spec.heartbeat_s, stop), name="heartbeat", daemon=True).start()
    try:
        return _attempt(spec, folder, folder.cancel.exists, None)
    finally:
        stop.set()


def _main_remote(folder: AttemptFolder) -> int:
    folder.create()
    line = ServerLine.from_environment(cast(dict[str, str], os.environ))
    spec = line.fetch_spec()
    _redirect_output(folder.log)
    shipper = Shipper(line, folder, spec.heartbeat_s)
    _listen_for_sigterm(shipper.cancelled.is_set)
    shipper.start()
    return _attempt(spec, folder, shipper.cancelled.is_set, shipper)


def _attempt(spec: LaunchSpec, folder: AttemptFolder, is_cancelled: Callable[[], bool], shipper: Shipper | None) -> int:
    os.environ.update(spec.environment)
    with contextlib.suppress(OSError):
        folder.reserve_exit()
    blobs = BlobStore(spec.storage_url, spec.storage_options)
    on_append: Callable[[JournalEntry], None] | None = None if shipper is None else shipper.wake
    journal = JournalWriter(folder.journal, spec.attempt, on_append)
    code = conduct(spec, functools.partial(JournalRun, spec, folder, blobs, journal, is_cancelled), journal, folder)
    _flush()
    if shipper is not None:
        shipper.drain(journal.last_seq)
    return code


def _beat(folder: AttemptFolder, every_s: float, stop: threading.Event) -> None:
    while not stop.wait(every_s):
        # A full disk must not look like a dead process; an existing file's time can be set all the same.
        with contextlib.suppress(OSError):
            folder.beat()


def _listen_for_sigterm(is_cancelled: Callable[[], bool]) -> None:
    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        if is_cancelled():
            raise Cancelled("The run was cancelled and had to be stopped.")
        # Not ours: the machine shuts down or a scheduler wants the place. End as a crash would, to be started again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, on_sigterm)


def _step_aside() -> None:
    """When memory runs out the kernel of the machine shall end the run, not the server."""
    faulthandler.enable()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _flush() -> None:
    # The log may lie on a full disk; how the attempt ended is told elsewhere.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def _redirect_output(log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


if __name__ == "__main__":
    # Threads and native libraries of a capability must not hold up the end, nor turn it into a crash.
    exit_code = main()
    _flush()
    os._exit(exit_code)
