"""Starts queued runs within the slots, follows the running ones and notices when they die.

Everything it must not forget is in the database; a new supervisor after a crash of the server takes over what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.polling import PollingThread
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.jobs.attempts import ActiveRun
from modelworks.kernel.jobs.executors import Executor, Launch, Status
from modelworks.kernel.jobs.folder import AttemptFolder
from modelworks.kernel.jobs.journal import JournalTail
from modelworks.kernel.jobs.service import JobsService
from modelworks.kernel.jobs.slots import capacity

log = structlog.get_logger(__name__)

_BUSY_POLL_S = 0.25
_IDLE_POLL_S = 2.0
#: Announcements come in bursts.
_REST_S = 0.02
#: How long a worker may take to exit once its run is over.
_EXIT_GRACE_S = 10.0
#: How long a worker may take to its first sign of life.
_START_GRACE_S = 120.0
#: How often a sign of life without news is written into the database.
_BEAT_NOTE_S = 5.0


@dataclass(slots=True)
class _Watch:
    """What is remembered of one attempt between two looks; rebuilt from the database and the folder after a restart."""

    run_id: str
    attempt: int
    handle: str
    folder: AttemptFolder
    tail: JournalTail
    beat: float | None = None
    beat_seen_s: float = 0.0
    beat_noted_s: float = 0.0
    over_since_s: float | None = None


class Supervisor:
    """One thread; `tick` is one look at everything and may be called by hand instead.

    Args:
        jobs: the service.
        executor: where attempts run.
        db: opens the transactions, one per step.
        settings: slots, time limits and the home folder.
        events: `run.changed` makes it look at once.
        clock: for time limits.
    """

    def __init__(
        self, jobs: JobsService, executor: Executor, db: Database, settings: Settings, events: Events, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._attempts = jobs.attempts
        self._executor = executor
        self._db = db
        self._settings = settings
        self._clock = clock
        self._capacity = capacity(settings)
        self._watches: dict[str, _Watch] = {}
        self._troubled: set[str] = set()
        self._is_swept = False
        self._thread = PollingThread(
            self.tick,
            name="supervisor",
            events=events,
            topic="run.changed",
            busy_s=_BUSY_POLL_S,
            idle_s=_IDLE_POLL_S,
            rest_s=_REST_S,
        )

    def start(self) -> None:
        """Begin watching in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. Runs go on and are taken over by the next supervisor."""
        self._thread.stop()

    def tick(self) -> bool:
        """Look at every run once; returns whether there is anything to come back for soon."""
        with self._db.reading() as session:
            active = self._attempts.active(session)
        if not self._is_swept:
            self._executor.sweep({(run.id, run.attempt) for run in active if run.state == "running"})
            self._is_swept = True
        running = [run for run in active if run.state == "running"]
        for run in running:
            self._guarded(run.id, partial(self._follow, run))
        current = {(run.id, run.attempt) for run in running}
        for watch in list(self._watches.values()):
            if (watch.run_id, watch.attempt) not in current:
                self._guarded(watch.run_id, partial(self._see_off, watch))
        is_waiting = self._start_queued()
        return bool(running or self._watches or is_waiting)

    def _guarded(self, run_id: str, look: Callable[[], None]) -> None:
        """One run that cannot be followed at the moment must not keep the others from it; said once, not at every look."""
        try:
            look()
        except ModelworksError as error:
            if run_id not in self._troubled:
                log.warning("a run cannot be followed at the moment", run_id=run_id, reason=error.message)
            self._troubled.add(run_id)
        except Exception:
            if run_id not in self._troubled:
                log.exception("a run cannot be followed at the moment", run_id=run_id)
            self._troubled.add(run_id)
        else:
            self._troubled.discard(run_id)

    # -- running ------------------------------------------------------------------------------------------------------

    def _follow(self, run: ActiveRun) -> None:
        watch = self._watch(run)
        if watch is None:
            return
        # First whether it lives, then what it wrote: what it wrote last is not missed.
        status = self._executor.poll(watch.handle)
        if not self._executor.remote:
            self._read_journal(watch)
        if status.state == "exited":
            self._conclude(watch, status)
        elif run.cancelled_for_s is not None:
            self._executor.cancel(watch.handle, run.cancelled_for_s)
        elif self._is_silent(watch, run):
            self._executor.kill(watch.handle)
            why = f"no sign of life for {self._settings.heartbeat_timeout_s:g} s"
            with self._db.transaction() as session:
                self._attempts.ended(session, run.id, run.attempt, Status("exited"), None, why=why)

    def _watch(self, run: ActiveRun) -> _Watch | None:
        watch = self._watches.get(run.id)
        if watch is not None and watch.attempt == run.attempt:
            return watch
        if watch is not None:
            self._see_off(watch)
        # Without a handle the server died between starting the attempt and noting it.
        handle = run.handle or self._executor.find(run.id, run.attempt)
        if handle is None and self._has_ended_alone(run):
            return None
        with self._db.transaction() as session:
            if handle is None:
                why = "the server stopped before it was started"
                self._attempts.ended(session, run.id, run.attempt, Status("exited"), None, why=why)
                return None
            if run.handle is None:
                self._attempts.record_handle(session, run.id, run.attempt, handle)
        return self._remember(run.id, run.attempt, handle)

    def _has_ended_alone(self, run: ActiveRun) -> bool:
        """Take in what an attempt left that ended before anybody had noted that it was started; whether it did end."""
        if self._executor.remote:
            return False
        folder = AttemptFolder.of(self._settings.home, run.id, run.attempt)
        tail = JournalTail(folder.journal)
        while entries := tail.read():
            self._attempts.receive(run.id, run.attempt, entries)
        report = folder.read_exit()
        with self._db.transaction() as session:
            if report is not None:
                self._attempts.ended(session, run.id, run.attempt, Status("exited"), report)
            return not any(
                (each.id, each.attempt, each.state) == (run.id, run.attempt, "running")
                for each in self._attempts.active(session)
            )

    def _remember(self, run_id: str, attempt: int, handle: str) -> _Watch:
        folder = AttemptFolder.of(self._settings.home, run_id, attempt)
        watch = _Watch(run_id, attempt, handle, folder, JournalTail(folder.journal), beat_seen_s=self._clock.monotonic())
        self._watches[run_id] = watch
        return watch

    def _read_journal(self, watch: _Watch) -> None:
        try:
            while entries := watch.tail.read():
                self._attempts.receive(watch.run_id, watch.attempt, entries)
        except Exception:
            # Read it again from the start: what was taken in already is known by its number.
            watch.tail = JournalTail(watch.folder.journal)
            raise

    def _conclude(self, watch: _Watch, status: Status) -> None:
        report = None if self._executor.remote else watch.folder.read_exit()
        with self._db.transaction() as session:
            self._attempts.ended(session, watch.run_id, watch.attempt, status, report)

    def _is_silent(self, watch: _Watch, run: ActiveRun) -> bool:
        """Whether the attempt has given no sign of life for too long, as seen by this supervisor's own clock."""
        now = self._clock.monotonic()
        beat = run.beat if self._executor.remote else watch.folder.last_beat()
        if beat != watch.beat:
            watch.beat = beat
            watch.beat_seen_s = now
            if not self._executor.remote and now - watch.beat_noted_s >= _BEAT_NOTE_S:
                watch.beat_noted_s = now
                with self._db.transaction() as session:
                    self._attempts.record_beat(session, run.id, run.attempt)
        limit_s = self._settings.heartbeat_timeout_s
        if watch.beat is None:
            # A busy machine takes its time to start an interpreter.
            limit_s = max(limit_s, _START_GRACE_S)
        return self._executor.limits_silence(watch.handle) and now - watch.beat_seen_s > limit_s

    def _see_off(self, watch: _Watch) -> None:
        """The attempt is over in the database; see that its process ends too and leaves nothing behind."""
        now = self._clock.monotonic()
        if watch.over_since_s is None:
            watch.over_since_s = now
        if self._executor.poll(watch.handle).state == "running":
            if now - watch.over_since_s > _EXIT_GRACE_S:
                self._executor.kill(watch.handle)
            return
        self._executor.cleanup(watch.handle)
        if self._watches.get(watch.run_id) is watch:
            del self._watches[watch.run_id]

    # -- queued -------------------------------------------------------------------------------------------------------

    def _start_queued(self) -> bool:
        """Start what fits, strictly in order: a large run is not overtaken for ever by small ones."""
        with self._db.reading() as session:
            active = self._attempts.active(session)
        running = [run for run in active if run.state == "running"]
        is_waiting = False
        for run in (run for run in active if run.state == "queued"):
            if not run.is_due or run.id in self._watches:
                # It pauses after a crash, or its last attempt has not quite gone yet; others need not wait for that.
                is_waiting = True
                continue
            devices = self._devices(run, running)
            if devices is None:
                is_waiting = True
                break
            if self._start(run, devices):
                running.append(run)
            else:
                is_waiting = True
        return is_waiting

    def _devices(self, run: ActiveRun, running: Sequence[ActiveRun]) -> tuple[int, ...] | None:
        if self._capacity is None:
            return ()
        wanted = run.resources.total
        if not self._capacity.fits(wanted, [other.resources.total for other in running]):
            return None
        return self._capacity.devices(wanted, [(other.devices, other.resources.total.gpu) for other in running])

    def _start(self, run: ActiveRun, devices: tuple[int, ...]) -> bool:
        try:
            with self._db.transaction() as session:
                launch = self._attempts.begin(session, run.id, devices, self._executor.name, remote=self._executor.remote)
        except ModelworksError as error:
            with self._db.transaction() as session:
                self._attempts.refuse(session, run.id, error)
            return False
        if launch is None:
            return False
        return self._launch(launch)

    def _launch(self, launch: Launch) -> bool:
        try:
            handle = self._executor.start(launch)
        except ModelworksError as error:
            log.warning("a run could not be started", run_id=launch.run_id, reason=error.message)
            with self._db.transaction() as session:
                self._attempts.not_started(session, launch.run_id, launch.attempt, error)
            return False
        self._remember(launch.run_id, launch.attempt, handle)
        with self._db.transaction() as session:
            self._attempts.record_handle(session, launch.run_id, launch.attempt, handle)
        return True
