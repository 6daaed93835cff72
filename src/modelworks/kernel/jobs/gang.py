"""One attempt shared by several Ray Train workers, on this machine or all over a cluster.

The process of the attempt stays what it is: it alone writes the journal, beats, hears of a cancellation and ends. It starts
the workers through Ray Train and meets them at a desk, an actor beside it. In each worker the trainer is called with a `Run`;
that of the first hands what it says to the desk, those of the others keep it to themselves. A worker that is lost ends the
attempt, and the next one goes on from the last checkpoint, as after any crash.

Only this file knows Ray Train; torch's process group is set up by it (gloo, and NCCL beside it where there are accelerators).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelworks.contract.errors import Cancelled, MissingExtra, ModelworksError, StorageFull, Unavailable, from_wire
from modelworks.contract.run import World
from modelworks.kernel.jobs.folder import AttemptFolder
from modelworks.kernel.jobs.journal import JournalWriter
from modelworks.kernel.jobs.schemas import GangSpec, LaunchSpec
from modelworks.kernel.jobs.shipping import TOKEN
from modelworks.kernel.jobs.worker import JournalRun, perform, readable
from modelworks.kernel.storage import BlobStore

#: How long the desk keeps an unanswered question of the attempt's process; also how fast a cancellation is heard.
_PATIENCE_S = 0.5
#: How long a worker waits for the others: the first may be storing a large checkpoint. A dead one is noticed by Ray at once.
_COLLECTIVE_TIMEOUT_S = 2 * 3600
#: Ray's store of objects holds nothing of ours; this is about the least that it accepts.
_OBJECT_STORE_BYTES = 80 << 20
#: Read by Ray in this process and in those that it starts.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # A loaded machine takes its time to start a node.
    "RAY_raylet_start_wait_time_s": "200",
    # Whether the machine has the memory was decided before the run was started.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Workers wait for their places as long as a run in the queue would.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # Each worker has a work folder of its own; Ray Train stores nothing.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # The platform starts the next attempt itself, on places that are left.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class Desk:
    """Where the workers meet the process of their attempt. An actor: each method may be called from another machine."""

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._entries: asyncio.Queue[str] = asyncio.Queue()
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._is_cancelled = False
        self._outcome: dict[str, Any] | None = None

    # -- the workers' side --------------------------------------------------------------------------------------------

    async def spec(self) -> str:
        """What the attempt is to do. It holds secrets, which a configuration of Ray Train might show."""
        return self._spec

    async def note(self, entry: str) -> dict[str, Any] | None:
        """Hand an entry of the journal over; answers once it is written, with the error where it could not be."""
        await self._entries.put(entry)
        return await self._answers.get()

    async def is_cancelled(self) -> bool:
        """Whether the user has asked to stop."""
        return self._is_cancelled

    async def conclude(self, outcome: dict[str, Any]) -> None:
        """Say how a worker ended, unless another one said so before: what follows the first error is its consequence."""
        if self._outcome is None:
            self._outcome = outcome

    # -- the attempt's side -------------------------------------------------------------------------------------------

    async def next(self, is_cancelled: bool) -> str | None:
        """The next entry to write; None after a while without one."""
        self._is_cancelled = is_cancelled
        try:
            return await asyncio.wait_for(self._entries.get(), _PATIENCE_S)
        except TimeoutError:
            return None

    async def answer(self, fault: dict[str, Any] | None) -> None:
        """Say what became of the entry that was taken last."""
        await self._answers.put(fault)

    async def outcome(self) -> dict[str, Any] | None:
        """How the first worker ended that did not simply finish."""
        return self._outcome


# -- the attempt's process --------------------------------------------------------------------------------------------


def lead(spec: LaunchSpec, folder: AttemptFolder, journal: JournalWriter, is_cancelled: Callable[[], bool]) -> None:
    """Start the workers of the spec's gang, write down what the first one says, and return when all are done.

    Raises:
        MissingExtra: Ray is not installed.
        Cancelled: the user stopped the run.
        Unavailable: a worker was lost; the run may be tried again.
        ModelworksError: what the trainer raised, in whichever worker did so first.
    """
    gang = spec.gang
    if gang is None:
        raise ValueError("an attempt without a gang has nobody to lead")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise MissingExtra.of("ray", "cluster") from error

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            # A detached actor that guards the workers' places against a controller that dies while its driver lives. Here both
            # end with the attempt, which frees the places; and without a dashboard it delays the end by its time limits.
            found = super()._create_default_callbacks()
            return [each for each in found if type(each).__name__ != "PlacementGroupCleanerCallback"]

    with _connected(gang, folder), tempfile.TemporaryDirectory(prefix="modelworks-train-") as scratch:
        node = ray.get_runtime_context().get_node_id()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote(spec.model_dump_json())
        places = {"CPU": gang.cpu} | ({"GPU": gang.gpu} if gang.gpu else {})
        if not gang.embedded:
            places["memory"] = gang.memory_bytes
        backend = "cpu:gloo,cuda:nccl" if gang.gpu else "gloo"
        trainer = Trainer(
            _work,
            train_loop_config={"desk": desk, "folder": str(folder.work) if gang.embedded else None},
            torch_config=TorchConfig(backend=backend, timeout_s=_COLLECTIVE_TIMEOUT_S),
            scaling_config=ScalingConfig(num_workers=gang.workers, use_gpu=bool(gang.gpu), resources_per_worker=places),
            run_config=RunConfig(
                name=f"{spec.run_id}-{spec.attempt}",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=3),
            ),
        )
        with _served(desk, journal, is_cancelled):
            failure: Exception | None = None
            try:
                trainer.fit()
            except (ray.exceptions.RayError, ray.train.TrainingFailedError) as raised:
                failure = raised
            outcome = ray.get(desk.outcome.remote())
    _judge(outcome, failure)


def _judge(outcome: Mapping[str, Any] | None, error: Exception | None) -> None:
    """Raise what the end of the workers means for the attempt; nothing where all of them finished."""
    if outcome is not None and outcome["kind"] == "cancelled":
        raise Cancelled("The run was cancelled.", hint="Resume it to go on from the last checkpoint.")
    if outcome is not None and outcome["kind"] == "failed":
        print(f"Worker {outcome['rank']}:\n{outcome['traceback']}", flush=True)
        raise from_wire(outcome["error"])
    if error is not None:
        print(f"{type(error).__name__}: {error}", flush=True)
        raise Unavailable(
            "A worker of the run was lost.", hint="The log of the run (modelworks logs) says how.", code="worker_lost"
        ) from error


@contextmanager
def _connected(gang: GangSpec, folder: AttemptFolder) -> Iterator[None]:
    """Ray as a client of the cluster that this process runs on, or a small one of its own."""
    import ray

    if not gang.embedded:
        ray.init(address="auto", log_to_driver=True)
        try:
            yield
        finally:
            ray.shutdown()
        return
    folder.ray.mkdir(mode=0o700)
    # Other users of this machine have no business with it; without this Ray would keep one in the home folder.
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if Path("/sys/class/net/lo").exists():
        # Nothing of a run on one machine needs to be heard outside it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        ray.init(
            address="local",
            num_cpus=max(1, round(gang.workers * gang.cpu + 0.5)),
            num_gpus=round(gang.workers * gang.gpu),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=True,
            _temp_dir=str(folder.ray),
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder.ray, ignore_errors=True)


@contextmanager
def _served(desk: Any, journal: JournalWriter, is_cancelled: Callable[[], bool]) -> Iterator[None]:
    """Write down what is left at the desk, in a thread; nothing is pending when this ends, for whoever hands in waits."""
    import ray

    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            entry = ray.get(desk.next.remote(is_cancelled()))
            if entry is None:
                continue
            fault = None
            try:
                read = json.loads(entry)
                journal.append(read["type"], read["data"], durable=read["durable"])
            except ModelworksError as error:
                fault = error.to_wire()
            except OSError as error:
                fault = StorageFull(f"The journal could not be written: {error}.").to_wire()
            ray.get(desk.answer.remote(fault))

    def guarded() -> None:
        # The cluster going away is reported by the training itself.
        with contextlib.suppress(ray.exceptions.RayError):
            serve()

    thread = threading.Thread(target=guarded, name="desk", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=30)


# -- a worker ---------------------------------------------------------------------------------------------------------


class _Line:
    """The journal as the first worker sees it: each entry is handed over at the desk."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def append(self, type_: str, data: dict[str, Any], *, durable: bool = False) -> None:
        """Returns once the entry is written; raises what kept it from that."""
        import ray

        entry = json.dumps({"type": type_, "data": data, "durable": durable}, ensure_ascii=False, allow_nan=False)
        fault = ray.get(self._desk.note.remote(entry))
        if fault is not None:
            raise from_wire(fault)


class _Silence:
    """The journal of all other workers."""

    def append(self, type_: str, data: dict[str, Any], *, durable: bool = False) -> None:
        """Nothing is written."""


class _Follower(JournalRun):
    """The door of a worker that does not speak for the run."""

    def checkpoint(self, path: Path) -> None:
        """The first worker's is taken."""

    def save(self, path: Path, *, kind: str, metadata: Mapping[str, Any] | None = None) -> None:
        """The first worker's is taken."""


def _work(config: dict[str, Any]) -> None:
    """What Ray Train calls in each worker, with the process group set up."""
    import ray
    import ray.train

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    # The code that is called next has no business with the line to the server.
    os.environ.pop(TOKEN, None)
    desk = config["desk"]
    try:
        spec = LaunchSpec.model_validate_json(ray.get(desk.spec.remote()))
        os.environ.update(spec.environment)
        with _workplace(config["folder"], world) as folder:
            blobs = BlobStore(spec.storage_url, spec.storage_options)
            asked = _asked(desk)
            door = JournalRun if world.is_first else _Follower
            journal = _Line(desk) if world.is_first else _Silence()
            run = door(spec, folder, blobs, journal, lambda: agreed(asked, world), world)
            perform(spec.model_copy(update={"gang": None}), run)
    except Cancelled:
        # All of them were told, so all of them stop by themselves.
        ray.get(desk.conclude.remote({"kind": "cancelled"}))
    except BaseException as error:
        kind = "lost" if is_lost_neighbour(error) else "failed"
        found = {"kind": kind, "rank": world.rank, "error": readable(error).to_wire(), "traceback": traceback.format_exc()}
        ray.get(desk.conclude.remote(found))
        # Errors of capabilities' libraries need not survive the way to Ray's controller.
        raise RuntimeError(f"worker {world.rank}: {type(error).__name__}: {error}") from None


@contextmanager
def _workplace(parent: str | None, world: World) -> Iterator[AttemptFolder]:
    path = Path(tempfile.mkdtemp(prefix="modelworks-run-")) if parent is None else Path(parent) / f"rank-{world.rank}"
    folder = AttemptFolder(path)
    folder.create()
    try:
        yield folder
    finally:
        folder.remove_private()
        shutil.rmtree(path, ignore_errors=True)


def _asked(desk: Any) -> Callable[[], bool]:
    """Whether the user has asked to stop, as of at most `_PATIENCE_S` ago: it is asked between any two steps."""
    import ray

    seen, at = False, 0.0

    def asked() -> bool:
        nonlocal seen, at
        if time.monotonic() - at >= _PATIENCE_S:
            seen, at = bool(ray.get(desk.is_cancelled.remote())), time.monotonic()
        return seen

    return asked


def agreed(asked: Callable[[], bool], world: World) -> bool:
    """What the first worker knows, told to all: a worker that stops alone would leave the others waiting for ever."""
    import torch

    flag = torch.tensor([world.is_first and asked()], dtype=torch.int64)
    torch.distributed.broadcast(flag, src=0)
    return bool(flag)


def is_lost_neighbour(error: BaseException) -> bool:
    """Whether an error only says that another worker could not be reached: its own end is the reason, not this."""
    import torch

    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    return type(error) is RuntimeError and any(sign in text for sign in ("gloo", "nccl", "connection closed by peer"))
