"""What the reconciler keeps in mind: wishes, places that replicas fill, and what follows from them for clients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from sqlalchemy.orm import Session

from modelworks.contract.errors import ModelNotFound, ModelworksError, NotFound
from modelworks.contract.run import LocalModel
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.serving.backends import Backend
from modelworks.kernel.serving.schemas import (
    DeployedModel,
    DeploymentState,
    Kind,
    ReplicaSpec,
    ReplicaState,
    ReplicaStatus,
    Route,
)
from modelworks.kernel.serving.store import DeploymentRow, ReplicaRow
from modelworks.kernel.serving.target import Slot, Target

#: Logs of replicas that are kept, newest first.
_KEPT_LOGS = 200


@dataclass(slots=True)
class Wish:
    """A deployment as read, with the version that its reference means now."""

    row: DeploymentRow
    revision: str
    version: Version | None
    #: None for kind static, which has no replicas.
    backend: Backend | None
    error: str | None = None

    @property
    def num_places(self) -> int:
        """How many replicas it wants of us."""
        if self.backend is None:
            return 0
        return 1 if self.backend.scales else self.row.num_replicas


@dataclass(slots=True)
class HeldAdapter:
    """An adapter on one replica: it answers through its slot, or was refused."""

    version: Version
    slot: Slot | None
    error: str | None = None
    #: Monotonic seconds: not before is a refused one tried again; since when an unwanted one is idle.
    retry_at: float = 0.0
    idle_since: float | None = None


@dataclass(slots=True)
class Place:
    """One replica: a place in a deployment and the process that fills it at the moment."""

    id: str
    #: The wish that it was made for; it stays with an old one while a newer wish is being fulfilled.
    wish: Wish
    backend: Backend
    version: Version | None
    state: ReplicaState = "starting"
    spec: ReplicaSpec | None = None
    handle: str | None = None
    preparing: Future[LocalModel | None] | None = None
    slot: Slot | None = None
    #: Whether an attempt to fill it is under way or has succeeded.
    started: bool = False
    started_at: datetime | None = None
    restarts: int = 0
    #: In a row; monotonic seconds of the next attempt.
    failures: int = 0
    retry_at: float = 0.0
    ready_since: float | None = None
    last_error: str | None = None
    #: As the replica says, and those that it has or is getting, by version id.
    holds_adapters: bool = False
    adapters_url: str | None = None
    adapters: dict[str, HeldAdapter] = field(default_factory=dict)
    #: A load or unload that is under way.
    changing: Future[dict[str, ModelworksError]] | None = None
    changing_load: tuple[Version, ...] = ()
    changing_unload: tuple[str, ...] = ()
    #: The process that it is asked of, known by its slot.
    changing_slot: Slot | None = None
    #: While draining: when it ends at the latest, since when it is idle, whether it was told to stop.
    drain_until: float = 0.0
    idle_since: float | None = None
    stopping: bool = False
    #: Whether its row is out of date.
    dirty: bool = True

    @property
    def deployment_id(self) -> str:
        return self.wish.row.id

    def to_row(self, now: datetime) -> ReplicaRow:
        """Its row in the table of replicas."""
        return ReplicaRow(
            id=self.id,
            deployment_id=self.wish.row.id,
            project_id=self.wish.row.project_id,
            version_id=None if self.version is None else self.version.id,
            revision=self.wish.revision,
            state=self.state,
            url=None if self.slot is None else self.slot.route.base_url,
            handle=self.handle,
            restarts=self.restarts,
            last_error=self.last_error,
            started_at=self.started_at,
            updated_at=now,
        )


@dataclass(slots=True)
class Seen:
    """What a client is told about a deployment."""

    state: DeploymentState
    version_id: str | None
    error: str | None
    holds_adapters: bool = False


def revision_of(row: DeploymentRow, version: Version | None, backend: Backend | None) -> str:
    """What of a wish needs other replicas when it changes: all but their number, unless the back end scales by itself."""
    parts = [
        row.kind,
        row.engine,
        row.capability,
        row.task,
        row.options,
        row.resources,
        row.base_url,
        row.upstream_model,
        row.api_key_env,
        None if version is None else version.id,
        row.num_replicas if backend is not None and backend.scales else None,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def references_of(version: Version) -> frozenset[str]:
    """Every reference that means exactly this version."""
    fixed = {version.id, f"{version.name}@v{version.number}", f"{version.name}@{version.number}"}
    return frozenset(fixed | {f"{version.name}@{alias}" for alias in version.aliases})


def resolve_served(catalog: CatalogService, session: Session, project_id: str, ref: str) -> Version:
    """The version to serve: a model, or an artifact of another kind where no model has that name (a scene).

    Raises:
        ModelNotFound: nothing has that name.
    """
    try:
        return catalog.resolve(session, project_id, ref)
    except ModelNotFound as error:
        try:
            return catalog.resolve(session, project_id, ref, None)
        except NotFound:
            raise error from None


def answering(wish: Wish, places: Iterable[Place]) -> tuple[list[Place], bool]:
    """The replicas that requests go to, and whether they are of the revision that is wished for.

    An older revision goes on alone until the new one is complete, so that answers do not alternate between the two.
    """
    ready = [place for place in places if place.deployment_id == wish.row.id and place.state == "ready"]
    current = [place for place in ready if place.wish.revision == wish.revision]
    others = [place for place in ready if place.wish.revision != wish.revision]
    if others and len(current) < wish.num_places:
        return others, False
    return current, True


def observe(wish: Wish, places: Iterable[Place]) -> Seen:
    """What to tell about a deployment."""
    if wish.row.state != "running":
        return Seen("stopped", None, None)
    if wish.backend is None:
        if wish.version is None:
            return Seen("failed", None, wish.error)
        return Seen("ready", wish.version.id, None)
    places = [place for place in places if place.deployment_id == wish.row.id and place.state != "draining"]
    error = wish.error or next((place.last_error for place in places if place.last_error is not None), None)
    found, current = answering(wish, places)
    if found:
        version = found[0].version
        full = current and len(found) >= wish.num_places and wish.error is None
        holds = any(place.holds_adapters for place in found)
        return Seen("ready" if full else "degraded", None if version is None else version.id, error, holds)
    down = wish.error is not None or (bool(places) and all(place.state == "failed" for place in places))
    return Seen("failed" if down else "loading", None, error)


def target_of(wish: Wish, places: Sequence[Place]) -> Target:
    """The deployment's entry in the pool's table."""
    row = wish.row
    running = row.state == "running"
    seen = observe(wish, places)
    found, _ = answering(wish, places)
    version = found[0].version if found else wish.version
    references = frozenset() if version is None else references_of(version)
    if row.model_ref is not None and row.model_ref != row.name:
        # Clients that name the alias which the deployment follows must not notice that it moves.
        references |= {row.model_ref}
    static = None
    if wish.backend is None and running and version is not None:
        static = Route(row.id, row.project_id, row.name, row.task, row.capability, "static", row.engine, version.id, "")
    return Target(
        model=_deployed_model(wish, seen, version),
        slots=tuple(place.slot for place in found if place.slot is not None) if running else (),
        static=static,
        references=references,
    )


def table_of(wishes: Iterable[Wish], places: Sequence[Place]) -> dict[tuple[str, str], Target]:
    """The pool's table: every deployment that is not removed, with the canary that shares its requests."""
    kept = [wish for wish in wishes if wish.row.state != "removed"]
    table = {(wish.row.project_id, wish.row.name): target_of(wish, places) for wish in kept}
    for wish in kept:
        row = wish.row
        main = table.get((row.project_id, row.canary_of or ""))
        if main is not None and row.share is not None:
            canary = table[row.project_id, row.name]
            table[row.project_id, str(row.canary_of)] = replace(main, canary=canary.slots, share=row.share)
            table[row.project_id, row.name] = replace(canary, queue=main.model.deployment_id)
    return table


def finished_canaries(wishes: Iterable[Wish], places: Sequence[Place]) -> list[str]:
    """Canaries whose version answers for the whole deployment by now, by id."""
    running = {(wish.row.project_id, wish.row.name): wish for wish in wishes if wish.row.state == "running"}
    found = []
    for wish in running.values():
        main = running.get((wish.row.project_id, wish.row.canary_of or ""))
        if main is not None and wish.version is not None:
            seen = observe(main, places)
            if seen.state == "ready" and seen.version_id == wish.version.id:
                found.append(wish.row.id)
    return found


def route_of(place: Place, status: ReplicaStatus, headers: dict[str, str]) -> Route:
    """How requests reach a ready replica."""
    row = place.wish.row
    return Route(
        deployment_id=row.id,
        project_id=row.project_id,
        name=row.name,
        task=row.task,
        capability=row.capability,
        kind=cast(Kind, row.kind),
        engine=row.engine,
        version_id=None if place.version is None else place.version.id,
        base_url=(status.url or "").rstrip("/"),
        headers=headers,
        upstream_model=status.upstream_model,
        replica_id=place.id,
    )


def _deployed_model(wish: Wish, seen: Seen, version: Version | None) -> DeployedModel:
    row = wish.row
    metadata = {} if version is None else version.metadata
    length = row.options.get("context_length") or metadata.get("context_length")
    parent = metadata.get("parent")
    return DeployedModel(
        name=row.name,
        project_id=row.project_id,
        deployment_id=row.id,
        task=row.task,
        capability=row.capability,
        kind=cast(Kind, row.kind),
        engine=row.engine,
        version_id=seen.version_id,
        created=int(row.created_at.timestamp()),
        state=seen.state,
        root=None if version is None else version.ref,
        parent=parent if isinstance(parent, str) else None,
        max_model_len=length if isinstance(length, int) else None,
        last_error=seen.error,
    )


def clear_folder(folder: Path) -> None:
    """Remove a replica's own folder: it holds a token."""
    for name in ("spec.json", "status.json", "spec.new", "status.new"):
        (folder / name).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        return


def prune_logs(folder: Path) -> None:
    """Keep the newest logs only: a replica that is replaced every night must not fill the disk."""
    try:
        logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in logs[_KEPT_LOGS:]:
            path.unlink(missing_ok=True)
    except OSError:
        return
