"""A platform of rooms below and including jobs, on real files and with real worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.jobs import JobSpec, JobsService, LocalExecutor, RunRecord, Supervisor
from modelworks.kernel.storage import BlobStore

TOY = Path(__file__).parent / "toy"
PROJECT = "prj_test"
#: Far more than anything here takes; only a hanging test waits so long.
PATIENCE_S = 60.0


@dataclass
class Rooms:
    """Everything a test of jobs talks to."""

    settings: Settings
    db: Database
    blobs: BlobStore
    catalog: CatalogService
    events: Events
    jobs: JobsService
    executor: LocalExecutor
    supervisor: Supervisor

    def submit(self, verb: str = "train", task: str | None = "toy-count", **known: Any) -> RunRecord:
        spec = {"capability": "toy", "output_name": "counter"} | known
        with self.db.transaction() as session:
            return self.jobs.submit(session, PROJECT, "key_test", JobSpec(verb=verb, task=task, **spec))

    def get(self, run_id: str) -> RunRecord:
        with self.db.reading() as session:
            return self.jobs.get(session, PROJECT, run_id)

    def until(self, run_id: str, is_reached: Callable[[RunRecord], bool]) -> RunRecord:
        """Tick until the run is as wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.supervisor.tick()
            run = self.get(run_id)
            if is_reached(run):
                return run
            if time.monotonic() > deadline or run.is_over:
                raise AssertionError(f"never reached: {run.model_dump_json(indent=1)}\n{self.log(run_id)}")
            time.sleep(0.02)

    def finish(self, run_id: str) -> RunRecord:
        """Tick until the run is over and its process gone."""
        run = self.until(run_id, lambda run: run.is_over)
        deadline = time.monotonic() + PATIENCE_S
        while self.supervisor.tick():
            if time.monotonic() > deadline:
                raise AssertionError("the worker does not go away")
            time.sleep(0.01)
        return run

    def at_step(self, run_id: str, step: int) -> RunRecord:
        return self.until(run_id, lambda run: run.progress is not None and run.progress["done"] >= step)

    def log(self, run_id: str) -> str:
        with self.db.reading() as session:
            paths = self.jobs.logs(session, PROJECT, run_id)
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def metrics(self, run_id: str) -> dict[str, dict[int, float]]:
        with self.db.reading() as session:
            points = self.jobs.metrics(session, PROJECT, run_id)
        curves: dict[str, dict[int, float]] = {}
        for point in points:
            curves.setdefault(point.name, {})[point.step] = point.value
        return curves

    def event_types(self, run_id: str) -> list[str]:
        with self.db.reading() as session:
            return [event.type for event in self.jobs.events(session, PROJECT, run_id)]

    def dataset(self, name: str = "corpus", text: str = "one two three") -> str:
        folder = self.settings.home / "made" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "words.txt").write_text(text)
        with self.db.transaction() as session:
            return self.catalog.register_folder(session, PROJECT, kind="dataset", name=name, path=folder).id

    def new_supervisor(self) -> Supervisor:
        """What a restarted server has: nothing in memory."""
        self.executor = LocalExecutor(self.settings.home, grace_s=0.3)
        self.supervisor = Supervisor(self.jobs, self.executor, self.db, self.settings, self.events, SystemClock())
        return self.supervisor

    def handle(self, run_id: str) -> str:
        with self.db.reading() as session:
            return next(run.handle for run in self.jobs.attempts.active(session) if run.id == run_id) or ""

    def worker_pid(self, run_id: str) -> int:
        return int(self.handle(run_id).split(":")[0])


def make_rooms(settings: Settings, db: Database) -> Rooms:
    clock, events = SystemClock(), Events()
    blobs = BlobStore(settings.effective_storage_url, settings.storage_options)
    catalog = CatalogService(db, blobs, clock, events, settings)
    jobs = JobsService(db, catalog, blobs, clock, events, settings)
    executor = LocalExecutor(settings.home, grace_s=0.3)
    return Rooms(settings, db, blobs, catalog, events, jobs, executor, Supervisor(jobs, executor, db, settings, events, clock))
