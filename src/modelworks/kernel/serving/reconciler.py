"""The one loop that makes deployments as they are wished for, and the only writer of what is seen of them.

Each turn: read the wishes when something was announced (and every few seconds anyway), look at every replica, start, restart,
switch and drain, publish the table of the pool, write what changed.

A replica is a place in a deployment, not a process: when its process ends it is started again, after 1, 2, 4 … 60 seconds.
A new revision (a moved alias, other options) is started beside the old one, which goes on answering until every new replica is
ready; then it is taken out of the table, finishes what it is answering and ends.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import structlog
from sqlalchemy import delete, select

from modelworks.contract.errors import ModelworksError
from modelworks.contract.run import LocalModel
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService, find_task
from modelworks.kernel.serving.adapting import AdapterNews, Adapting
from modelworks.kernel.serving.backends import Backend
from modelworks.kernel.serving.backends.remote import OpenSecret, upstream_headers
from modelworks.kernel.serving.place import (
    Place,
    Seen,
    Wish,
    answering,
    clear_folder,
    finished_canaries,
    observe,
    prune_logs,
    resolve_served,
    revision_of,
    route_of,
    table_of,
)
from modelworks.kernel.serving.pool import ReplicaPool
from modelworks.kernel.serving.schemas import DeploymentState, Kind, ReplicaSpec, ReplicaStatus, ResourcesSpec
from modelworks.kernel.serving.service import UPSTREAM, choose_engine
from modelworks.kernel.serving.store import DeploymentRow, ReplicaRow
from modelworks.kernel.serving.target import Slot

log = structlog.get_logger(__name__)

#: How often it looks at the replicas, and how often it reads the wishes though nothing was announced.
TURN_S = 0.5
READ_EVERY_S = 5.0
#: However often it is woken, it rests so long between turns.
_REST_S = 0.02
#: Delays before a failed replica is started again; the last one goes on for good, in state "failed".
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 60.0)
#: A replica that answered for so long starts counting its failures afresh.
STABLE_S = 10.0
#: How long a replica may finish what it is answering before it is ended.
DRAIN_S = 600.0
#: A replica taken out of the table counts as idle after so long without a request: one may be on its way to it.
_IDLE_S = 0.3
#: Between being asked to end and being killed, when nothing is in flight any more.
_STOP_GRACE_S = 15.0
_TOPICS = ("deployment.changed", "adapter.changed", "alias.moved", "version.created", "version.removed")


@dataclass(slots=True)
class _Turn:
    """What one turn has to write besides the places that changed."""

    seen: dict[str, Seen] = field(default_factory=dict)
    removed_places: list[str] = field(default_factory=list)
    removed_deployments: list[str] = field(default_factory=list)
    #: (project, deployment, version) that began to answer.
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    finished_canaries: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.seen or self.removed_places or self.removed_deployments or self.edges or self.finished_canaries)


class Reconciler:
    """One thread per server.

    Args:
        backends: by kind ("predictor", "openai") and, for servers elsewhere, "upstream"; see `make_backends`.
        drain_s: how long a replica may finish what it is answering.
    """

    def __init__(
        self,
        db: Database,
        catalog: CatalogService,
        clock: Clock,
        events: Events,
        settings: Settings,
        pool: ReplicaPool,
        backends: Mapping[str, Backend],
        *,
        drain_s: float = DRAIN_S,
        open_secret: OpenSecret | None = None,
    ) -> None:
        self._open_secret = open_secret
        self._db = db
        self._catalog = catalog
        self._clock = clock
        self._settings = settings
        self._pool = pool
        self._backends = backends
        self._drain_s = drain_s
        self._wishes: dict[str, Wish] = {}
        self._places: dict[str, Place] = {}
        #: What the database says is seen.
        self._seen: dict[str, Seen] = {}
        self._edges: set[tuple[str, str, str]] = set()
        self._retry: set[str] = set()
        self._read_at = float("-inf")
        self._stale = True
        #: Changes are counted, so that the pool knows whether a table covers the last one.
        self._announcing = threading.Lock()
        self._announced = 1
        self._covered = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        # Copying a large model must not keep the loop from looking after the others.
        self._preparers = ThreadPoolExecutor(2, thread_name_prefix="materialise")
        self._pollers = ThreadPoolExecutor(8, thread_name_prefix="poll")
        self._loaders = ThreadPoolExecutor(4, thread_name_prefix="adapters")
        self._adapting = Adapting(catalog, settings.home / "cache" / "versions", self._loaders, self._wake.set)
        self._unsubscribe = [events.subscribe(topic, self._on_event) for topic in _TOPICS]
        pool.on_wake(self.wake)

    # --- life cycle -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Clear away what an earlier server left and begin."""
        self._pool.expect(self._announced)
        self._recover()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking, end the replicas of this machine. The wishes stay: the next server brings them back."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._preparers.shutdown(wait=True, cancel_futures=True)
        self._pollers.shutdown(wait=True, cancel_futures=True)
        # A load that is under way ends with its replica.
        self._loaders.shutdown(wait=False, cancel_futures=True)
        for backend in {id(backend): backend for backend in self._backends.values()}.values():
            backend.close()
        self._pool.publish({})

    def wake(self) -> None:
        """Read the wishes and look at the replicas now (thread-safe)."""
        self._stale = True
        self._wake.set()

    def _on_event(self, topic: str, payload: dict[str, object]) -> None:
        deployment_id = payload.get("deployment_id")
        if isinstance(deployment_id, str):
            self._retry.add(deployment_id)
        with self._announcing:
            self._announced += 1
            self._pool.expect(self._announced)
        self.wake()

    def _run(self) -> None:
        while not self._closing:
            try:
                self.turn()
            except Exception:
                # It is repeated; replicas and the published table stay as they are meanwhile.
                log.exception("a turn of the reconciler failed")
                self._stale = True
            time.sleep(_REST_S)
            self._wake.wait(TURN_S)
            self._wake.clear()

    # --- one turn ---------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Look once and act. Public for tests; otherwise only the reconciler's own thread calls it."""
        reading = self._stale or time.monotonic() - self._read_at > READ_EVERY_S
        if reading:
            self._stale = False
            announced = self._announced
            try:
                self._read()
                self._covered = announced
            except Exception:
                # The database is away: what runs is looked after all the same.
                log.exception("the deployments cannot be read")
                self._stale = True
            self._read_at = time.monotonic()
        todo = _Turn()
        self._look()
        for wish in list(self._wishes.values()):
            self._pursue(wish)
        self._advance(todo)
        places = list(self._places.values())
        moved = [self._adapting.pursue(place) for place in places]
        adapters = self._adapting.news(self._wishes, places, lambda wish: answering(wish, places)[0])
        todo.edges += [edge for edge in adapters.edges if edge not in self._edges]
        for wish in self._wishes.values():
            seen = observe(wish, places)
            if seen != self._seen.get(wish.row.id):
                todo.seen[wish.row.id] = seen
        todo.finished_canaries = finished_canaries(self._wishes.values(), places)
        dirty = [place for place in places if place.dirty]
        if reading or todo or dirty or adapters or any(moved):
            # Clients first: the database may be slow.
            self._publish(places)
        if todo or dirty or adapters:
            self._write(todo, dirty, adapters)

    def _read(self) -> None:
        retry, self._retry = self._retry, set()
        wishes: dict[str, Wish] = {}
        with self._db.reading() as session:
            for row in list(session.scalars(select(DeploymentRow))):
                version, error = None, None
                if row.model_ref is not None:
                    try:
                        version = resolve_served(self._catalog, session, row.project_id, row.model_ref)
                    except ModelworksError as raised:
                        error = raised.message
                backend = self._backend(row)
                wishes[row.id] = Wish(row, revision_of(row, version, backend), version, backend, error)
                state = cast(DeploymentState, row.observed_state)
                self._seen[row.id] = Seen(state, row.version_id, row.last_error, row.holds_adapters)
            self._adapting.read(session)
            # Aliases of versions that still answer may have moved on.
            for place in self._places.values():
                if place.version is not None:
                    place.version = self._catalog.get_version(session, place.version.project_id, place.version.id)
        self._wishes = wishes
        self._adapting.retry(place for place in self._places.values() if place.deployment_id in retry)
        for place in self._places.values():
            found = wishes.get(place.deployment_id)
            if found is not None and found.revision == place.wish.revision:
                place.wish = found
            if place.deployment_id in retry and place.failures:
                place.failures = 0
                place.retry_at = 0.0
                if place.state == "failed":
                    place.state = "starting"
                    place.dirty = True

    def _look(self) -> None:
        """Ask the back ends about every replica, several at a time."""
        watched = [place for place in self._places.values() if place.handle is not None]

        def poll(place: Place) -> ReplicaStatus | None:
            try:
                return place.backend.poll(place.handle or "")
            except Exception:
                log.exception("a replica cannot be looked at", replica=place.id)
                return None

        for place, status in zip(watched, self._pollers.map(poll, watched), strict=True):
            if status is not None:
                self._take_in(place, status)

    def _take_in(self, place: Place, status: ReplicaStatus) -> None:
        now = time.monotonic()
        if place.state == "draining":
            if status.state in ("stopped", "failed"):
                place.handle = None
        elif status.state == "ready":
            if place.state != "ready":
                self._ready(place, status, now)
            elif place.failures and place.ready_since is not None and now - place.ready_since > STABLE_S:
                place.failures = 0
                place.last_error = None
                place.dirty = True
        elif status.state in ("failed", "stopped"):
            place.handle = None
            self._fail(place, status.error or "The replica ended without a reason.", permanent=status.permanent)
        elif place.state == "ready":
            # A back end that scales by itself may fall back to starting.
            place.state = "starting"
            place.slot = None
            place.dirty = True

    def _ready(self, place: Place, status: ReplicaStatus, now: float) -> None:
        row = place.wish.row
        headers = {}
        if row.base_url is not None:
            headers = upstream_headers(row.api_key_env, row.project_id, self._open_secret)
        elif row.kind == "predictor" and place.spec is not None:
            headers = {"Authorization": f"Bearer {place.spec.token}"}
        place.state = "ready"
        place.ready_since = now
        place.slot = Slot(place.id, route_of(place, status, headers), capacity=self._capacity(place))
        place.holds_adapters = status.holds_adapters
        place.adapters_url = status.adapters_url
        place.adapters.clear()
        place.dirty = True
        log.info("replica is ready", replica=place.id, deployment=row.name, url=status.url)

    def _capacity(self, place: Place) -> int:
        """So many requests it answers at a time; the others wait where they are served fairly, and can still go elsewhere."""
        row = place.wish.row
        each = self._settings.replica_requests if row.kind == "predictor" else self._settings.upstream_requests
        together = each * row.num_replicas if place.backend.scales else each
        # Every process counts for itself.
        return -(-together // self._settings.gateways)

    def _fail(self, place: Place, error: str, *, permanent: bool) -> None:
        place.slot = None
        place.adapters.clear()
        place.ready_since = None
        place.started = False
        place.failures = len(BACKOFF_S) if permanent else place.failures + 1
        delay = BACKOFF_S[min(place.failures, len(BACKOFF_S)) - 1]
        place.retry_at = time.monotonic() + delay
        place.state = "failed" if place.failures >= len(BACKOFF_S) else "starting"
        place.last_error = error
        place.dirty = True
        name = place.wish.row.name
        log.warning("replica failed", replica=place.id, deployment=name, error=error, failures=place.failures, retry_s=delay)

    def _pursue(self, wish: Wish) -> None:
        places = [place for place in self._places.values() if place.deployment_id == wish.row.id and place.state != "draining"]
        if wish.row.state != "running" or wish.backend is None:
            for place in places:
                self._drain(place)
            return
        if wish.error is not None:
            # The reference means nothing any more: what answers goes on, nothing new is started.
            return
        current = [place for place in places if place.wish.revision == wish.revision]
        others = [place for place in places if place.wish.revision != wish.revision]
        for _ in range(wish.num_places - len(current)):
            place = Place(new_id("rep"), wish, wish.backend, wish.version)
            self._places[place.id] = place
            current.append(place)
        surplus = sorted(current, key=lambda place: place.state == "ready")[: max(0, len(current) - wish.num_places)]
        for place in surplus:
            self._drain(place)
        switched = sum(place.state == "ready" for place in current) >= wish.num_places
        for place in others:
            if switched or place.state != "ready":
                self._drain(place)

    def _advance(self, todo: _Turn) -> None:
        """Take each replica one step further: prepare, start, drain, stop, forget."""
        now = time.monotonic()
        for place in list(self._places.values()):
            if place.state == "draining":
                self._advance_drain(place, now, todo)
            elif place.preparing is not None:
                if place.preparing.done():
                    self._launch(place)
            elif not place.started and now >= place.retry_at:
                self._prepare(place)
            elif place.state == "ready" and place.version is not None:
                edge = (place.wish.row.project_id, place.deployment_id, place.version.id)
                if edge not in self._edges:
                    todo.edges.append(edge)
        occupied = {place.deployment_id for place in self._places.values()}
        removed = (wish.row.id for wish in self._wishes.values() if wish.row.state == "removed")
        todo.removed_deployments = [deployment_id for deployment_id in removed if deployment_id not in occupied]

    def _prepare(self, place: Place) -> None:
        place.started = True
        if place.last_error is not None:
            place.restarts += 1
        place.dirty = True
        version, cache = place.version, self._settings.home / "cache" / "versions"

        def materialise() -> LocalModel | None:
            if version is None:
                return None
            # A replica on another machine fetches the files itself.
            path = self._catalog.materialise(version, cache) if place.backend.needs_folder else cache
            return self._catalog.local_model(version, path)

        place.preparing = self._preparers.submit(materialise)
        place.preparing.add_done_callback(lambda _future: self._wake.set())

    def _launch(self, place: Place) -> None:
        future = cast("Future[LocalModel | None]", place.preparing)
        place.preparing = None
        try:
            place.spec = self._spec(place, future.result())
            place.handle = place.backend.start(place.spec)
        except ModelworksError as error:
            hint = f" {error.hint}" if error.hint else ""
            self._fail(place, f"{error.message}{hint}", permanent=not error.retryable)
            return
        except Exception as error:
            log.exception("a replica cannot be started", replica=place.id)
            self._fail(place, f"The replica cannot be started: {error}.", permanent=False)
            return
        place.started_at = self._clock.now()
        place.dirty = True

    def _drain(self, place: Place) -> None:
        place.state = "draining"
        place.drain_until = time.monotonic() + self._drain_s
        place.idle_since = None
        place.dirty = True

    def _advance_drain(self, place: Place, now: float, todo: _Turn) -> None:
        if place.preparing is not None:
            if not place.preparing.done():
                return
            place.preparing = None
        if place.handle is None:
            del self._places[place.id]
            todo.removed_places.append(place.id)
            if place.spec is not None:
                clear_folder(place.spec.folder)
            return
        if place.stopping:
            return
        if place.slot is not None and place.slot.busy > 0:
            place.idle_since = None
        elif place.idle_since is None:
            place.idle_since = now
        idle = place.slot is None or (place.idle_since is not None and now - place.idle_since >= _IDLE_S)
        if idle or now >= place.drain_until:
            place.stopping = True
            place.backend.stop(place.handle, _STOP_GRACE_S)

    # --- writing and publishing -------------------------------------------------------------------------------------

    def _publish(self, places: list[Place]) -> None:
        table = table_of(self._wishes.values(), places)
        for wish in self._wishes.values():
            if wish.row.state != "removed":
                table |= self._adapting.targets(wish, answering(wish, places)[0])
        self._pool.publish(table, self._covered)

    def _write(self, todo: _Turn, dirty: list[Place], adapters: AdapterNews) -> None:
        now = self._clock.now()
        with self._db.transaction() as session:
            if todo.removed_places:
                session.execute(delete(ReplicaRow).where(ReplicaRow.id.in_(todo.removed_places)))
            for deployment_id in todo.removed_deployments:
                # Applied again meanwhile: then it stays.
                session.execute(
                    delete(DeploymentRow).where(DeploymentRow.id == deployment_id, DeploymentRow.state == "removed")
                )
            for deployment_id in todo.finished_canaries:
                finished = session.get(DeploymentRow, deployment_id)
                if finished is not None and finished.canary_of is not None:
                    finished.state = "removed"
                    self._stale = True
            for place in dirty:
                session.merge(place.to_row(now))
            for deployment_id, seen in todo.seen.items():
                row = session.get(DeploymentRow, deployment_id)
                if row is not None:
                    row.observed_state, row.version_id, row.last_error = seen.state, seen.version_id, seen.error
                    row.holds_adapters = seen.holds_adapters
            self._adapting.write(session, adapters)
            for project_id, deployment_id, version_id in todo.edges:
                self._catalog.record_edge(session, project_id, deployment_id, "deployed", version_id)
        for place in dirty:
            place.dirty = False
        self._adapting.written(adapters)
        self._edges.update(todo.edges)
        self._seen.update(todo.seen)
        for deployment_id in todo.removed_deployments:
            self._wishes.pop(deployment_id, None)
            self._seen.pop(deployment_id, None)
            self._stale = True

    # --- making things ----------------------------------------------------------------------------------------------

    def _backend(self, row: DeploymentRow) -> Backend | None:
        if row.kind == "static":
            return None
        return self._backends[UPSTREAM if row.base_url is not None else row.kind]

    def _spec(self, place: Place, model: LocalModel | None) -> ReplicaSpec:
        row = place.wish.row
        home = self._settings.home
        import_path = None
        resources = ResourcesSpec()
        if row.base_url is None:
            _, task = find_task(row.capability, row.task)
            _, _, import_path = choose_engine(task, row.engine)
            needs = task.resources
            resources = ResourcesSpec(cpu=needs.cpu, memory_bytes=needs.memory_bytes, gpu=needs.gpu)
        if row.resources is not None:
            resources = ResourcesSpec.model_validate(row.resources)
        prune_logs(home / "logs" / "replicas")
        return ReplicaSpec(
            replica_id=place.id,
            deployment_id=row.id,
            project_id=row.project_id,
            name=row.name,
            kind=cast(Kind, row.kind),
            engine=row.engine,
            capability=row.capability,
            task=row.task,
            import_path=import_path,
            options=row.options,
            model=model,
            files=[] if place.version is None else place.version.files,
            num_replicas=row.num_replicas,
            resources=resources,
            token=secrets.token_urlsafe(32),
            folder=home / "serving" / place.id,
            log_path=home / "logs" / "replicas" / f"{place.id}.log",
            base_url=row.base_url,
            upstream_model=row.upstream_model,
            api_key_env=row.api_key_env,
        )

    # --- after a restart --------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Replicas of an earlier server: taken over where the back end lets them live on, otherwise cleared away."""
        with self._db.transaction() as session:
            deployments = {row.id: row for row in session.scalars(select(DeploymentRow))}
            for row in list(session.scalars(select(ReplicaRow))):
                deployment = deployments[row.deployment_id]
                backend = self._backend(deployment)
                if backend is None:
                    session.delete(row)
                    continue
                place = self._adopted(row, deployment, backend)
                if place is not None:
                    if row.version_id is not None:
                        place.version = self._catalog.get_version(session, row.project_id, row.version_id)
                    self._places[place.id] = place
                    continue
                if row.handle is not None:
                    backend.forget(row.handle)
                clear_folder(self._settings.home / "serving" / row.id)
                session.delete(row)

    def _adopted(self, row: ReplicaRow, deployment: DeploymentRow, backend: Backend) -> Place | None:
        if not backend.outlives or row.handle is None or row.state not in ("starting", "ready"):
            return None
        try:
            spec = ReplicaSpec.model_validate_json((self._settings.home / "serving" / row.id / "spec.json").read_bytes())
            backend.adopt(spec, row.handle)
        except (OSError, ValueError, ModelworksError) as error:
            log.warning("a replica cannot be taken over", replica=row.id, reason=str(error))
            return None
        wish = Wish(deployment, row.revision, None, backend)
        place = Place(row.id, wish, backend, None, spec=spec, handle=row.handle, started=True, restarts=row.restarts)
        place.started_at = row.started_at
        return place
