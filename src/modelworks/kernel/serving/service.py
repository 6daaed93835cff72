"""Deployments as they are wished for. Nothing is started here: the reconciler makes it so."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from modelworks.contract.capability import ImportPath, Task
from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.contract.media import File
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.egress import check_url
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService, find_task
from modelworks.kernel.serving.adapters import AdapterWishes
from modelworks.kernel.serving.place import resolve_served
from modelworks.kernel.serving.schemas import STORED, CanaryCreate, Deployment, DeploymentSpec, Kind, Replica, ResourcesSpec
from modelworks.kernel.serving.store import DeploymentRow, ReplicaRow

#: What a canary's deployment is called, after the one whose requests it shares.
CANARY_SUFFIX = ".canary"
#: The engine of a server elsewhere.
UPSTREAM = "upstream"
#: What a server elsewhere does, unless the wish says otherwise.
_UPSTREAM_TASK = "text-generation"
#: The engine of a task that names only one predictor.
_PREDICTOR = "predictor"
#: A deployment's name has no more parts than this: it has at most 128 characters.
_MAX_NAME_PARTS = 64


@dataclass(frozen=True, slots=True)
class _Plan:
    kind: Kind
    engine: str
    task: str
    capability: str | None


class ServingService:
    """The wishes. Announces `deployment.changed` after the commit of whoever owns the transaction."""

    def __init__(self, db: Database, catalog: CatalogService, clock: Clock, events: Events, settings: Settings) -> None:
        self._db = db
        self._catalog = catalog
        self._clock = clock
        self._events = events
        self._settings = settings
        catalog.add_guard(self._guard)
        scales = settings.serving_backend == "ray-serve"
        #: What deployments answer with beside their bases.
        self.adapters = AdapterWishes(catalog, clock, events, self._existing, scales=scales)

    def counts(self, session: Session) -> dict[str, int]:
        """How many replicas of all projects are in each state: for metrics."""
        query = select(ReplicaRow.state, func.count()).group_by(ReplicaRow.state)
        return dict(session.execute(query).tuples().all())

    def apply(self, session: Session, project_id: str, spec: DeploymentSpec, dry_run: bool = False) -> Deployment:
        """Store the wish, new or changed; the same wish again only makes a failed deployment be tried at once.

        Raises:
            InvalidRequest: the task cannot be deployed, the engine or an option does not exist, the address is not allowed.
            ModelNotFound, NotFound: the reference, capability or task does not exist.
        """
        plan = self._plan(session, project_id, spec)
        row = self._row(session, project_id, spec.name)
        if row is None and self.adapters.is_taken(session, project_id, spec.name):
            raise Conflict(
                f"The name {spec.name!r} is taken by an adapter.", hint="Choose another name.", param="name", code="name_taken"
            )
        now = self._clock.now()
        wished: dict[str, Any] = {
            "capability": plan.capability,
            "task": plan.task,
            "kind": plan.kind,
            "engine": plan.engine,
            "model_ref": spec.model,
            "options": spec.options,
            "num_replicas": spec.num_replicas,
            "resources": None if spec.resources is None else spec.resources.model_dump(),
            "base_url": spec.base_url,
            "upstream_model": spec.upstream_model,
            "api_key_env": spec.api_key_env if spec.api_key_secret is None else STORED + spec.api_key_secret,
            "state": "running",
            "canary_of": None,
            "share": None,
        }
        if row is None:
            row = DeploymentRow(
                id=new_id("dep"),
                project_id=project_id,
                name=spec.name,
                generation=1,
                created_at=now,
                updated_at=now,
                observed_state="loading",
                version_id=None,
                last_error=None,
                holds_adapters=False,
                **wished,
            )
            if dry_run:
                return _deployment(row, [])
            session.add(row)
        else:
            changed = {name: value for name, value in wished.items() if getattr(row, name) != value}
            if dry_run:
                preview = DeploymentRow(**{column.key: getattr(row, column.key) for column in DeploymentRow.__table__.columns})
                for name, value in changed.items():
                    setattr(preview, name, value)
                return _deployment(preview, self._replicas(session, row.id))
            if changed:
                for name, value in changed.items():
                    setattr(row, name, value)
                row.generation += 1
                row.updated_at = now
            if row.observed_state in ("failed", "stopped"):
                # It is about to be tried: who watches must not take the old failure for the new one's.
                row.observed_state = "loading"
                row.last_error = None
        session.flush()
        self._announce(session, row)
        return _deployment(row, self._replicas(session, row.id))

    def get(self, session: Session, project_id: str, name: str) -> Deployment:
        """One deployment, by name or id, with its replicas.

        Raises:
            NotFound: there is none; the hint names near ones.
        """
        row = self._existing(session, project_id, name)
        return _deployment(row, self._replicas(session, row.id))

    def stop(self, session: Session, project_id: str, name: str) -> Deployment:
        """Drain the replicas but keep the wish: applying it again starts them.

        Raises:
            NotFound: there is no such deployment.
        """
        row = self._existing(session, project_id, name)
        if row.state != "stopped":
            row.state = "stopped"
            row.generation += 1
            row.updated_at = self._clock.now()
        session.flush()
        self._announce(session, row)
        return _deployment(row, self._replicas(session, row.id))

    def remove(self, session: Session, project_id: str, name: str) -> Deployment:
        """Remove the wish: no new request is accepted, those in flight are finished, then the replicas end.

        Raises:
            NotFound: there is no such deployment.
        """
        row = self._existing(session, project_id, name)
        for removed in [row, *self._canaries(session, row)]:
            removed.state = "removed"
            removed.generation += 1
            removed.updated_at = self._clock.now()
            self._announce(session, removed)
        session.flush()
        return _deployment(row, self._replicas(session, row.id))

    def start_canary(self, session: Session, project_id: str, name: str, wish: CanaryCreate) -> Deployment:
        """Let a candidate answer a share of a deployment's requests, from a deployment of its own with the same options.

        It ends when the deployment itself serves that version, or with `end_canary`. Again, it changes candidate and share.

        Raises:
            NotFound, ModelNotFound: no such deployment or model.
            InvalidRequest: the deployment is a canary, is stopped, serves no model of the catalog, or the candidate is for
                another task.
            Conflict: a deployment has the canary's name.
        """
        row = self._existing(session, project_id, name)
        if row.canary_of is not None or row.model_ref is None or row.kind == "static" or row.state != "running":
            raise InvalidRequest(
                f"The deployment {row.name!r} cannot have a canary.",
                hint="Give a running deployment of a model of the catalog that is no canary itself.",
                param="name",
            )
        version = self._catalog.resolve(session, project_id, wish.model)
        if version.task is not None and version.task != row.task:
            raise InvalidRequest(f"{version.ref} is for {version.task}, and {row.name!r} for {row.task}.", param="model")
        canary = f"{row.name}{CANARY_SUFFIX}"
        known = self._row(session, project_id, canary)
        if known is not None and known.canary_of != row.name and known.state != "removed":
            raise Conflict(f"There is a deployment {canary!r} already.", hint="Remove it first.")
        spec = DeploymentSpec(
            name=canary,
            model=version.id,
            task=row.task,
            capability=row.capability,
            engine=row.engine,
            options=row.options,
            num_replicas=max(1, math.ceil(row.num_replicas * wish.share)),
            resources=None if row.resources is None else ResourcesSpec.model_validate(row.resources),
        )
        self.apply(session, project_id, spec)
        started = self._existing(session, project_id, canary)
        started.canary_of, started.share = row.name, wish.share
        session.flush()
        return _deployment(started, self._replicas(session, started.id))

    def end_canary(self, session: Session, project_id: str, name: str) -> Deployment:
        """Let the deployment answer all of its requests again; those that the canary is answering are finished.

        Raises:
            NotFound: there is no such deployment, or it has no canary (`no_canary`).
        """
        row = self._existing(session, project_id, name)
        for canary in self._canaries(session, row):
            return self.remove(session, project_id, canary.name)
        raise NotFound(f"The deployment {row.name!r} has no canary.", hint="Start one with promote --canary.", code="no_canary")

    def _canaries(self, session: Session, row: DeploymentRow) -> Sequence[DeploymentRow]:
        query = select(DeploymentRow).where(DeploymentRow.project_id == row.project_id, DeploymentRow.state != "removed")
        return [*session.scalars(query.where(DeploymentRow.canary_of == row.name))]

    def static_files(self, session: Session, project_id: str, path: str) -> tuple[Deployment, Sequence[File], File | None]:
        """What `{deployment}/{file}` or `{deployment}` means: the deployment, its files, and the file that was named.

        Both names may contain slashes: the longest deployment name wins.

        Raises:
            NotFound: there is no such static deployment, or it has no such file.
        """
        parts = path.strip("/").split("/")
        names = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)][-_MAX_NAME_PARTS:]
        query = select(DeploymentRow).where(
            DeploymentRow.project_id == project_id,
            DeploymentRow.kind == "static",
            DeploymentRow.state == "running",
            DeploymentRow.name.in_(names),
        )
        rows = sorted(session.scalars(query), key=lambda row: len(row.name))
        if not rows or rows[-1].model_ref is None:
            raise NotFound(f"Nothing is published at {path!r}.", hint="GET /api/deployments lists what is deployed.")
        row = rows[-1]
        version = resolve_served(self._catalog, session, project_id, str(row.model_ref))
        wanted = "/".join(parts)[len(row.name) :].strip("/")
        found = next((file for file in version.files if file.path == wanted), None)
        if wanted and found is None:
            raise NotFound(
                f"The deployment {row.name!r} publishes no file {wanted!r}.",
                hint=f"GET /api/static/{row.name} lists its files.",
            )
        return _deployment(row, []), version.files, found

    def log_path(self, session: Session, project_id: str, replica_id: str) -> Path:
        """Where a replica's log is; the file may not exist (yet).

        Raises:
            NotFound: the project has no such replica now.
        """
        row = session.scalar(select(ReplicaRow).where(ReplicaRow.id == replica_id, ReplicaRow.project_id == project_id))
        if row is None:
            raise NotFound(f"There is no replica {replica_id!r}.", hint="GET /api/deployments lists the replicas.")
        return self._settings.home / "logs" / "replicas" / f"{row.id}.log"

    def _guard(self, session: Session, project_id: str, version_ids: Collection[str]) -> Sequence[str]:
        """Why these versions may not be removed: a deployment answers with them or refers to them."""
        sentences = []
        query = select(DeploymentRow).where(DeploymentRow.project_id == project_id, DeploymentRow.state == "running")
        for row in session.scalars(query.order_by(DeploymentRow.name)):
            served = {row.version_id}
            if row.model_ref is not None:
                with contextlib.suppress(NotFound):
                    served.add(resolve_served(self._catalog, session, project_id, row.model_ref).id)
            if served & set(version_ids):
                sentences.append(f"deployment {row.name!r} serves it")
        for adapter in self.adapters.list(session, project_id):
            served = {adapter.version_id}
            with contextlib.suppress(NotFound):
                served.add(resolve_served(self._catalog, session, project_id, adapter.model).id)
            if served & set(version_ids):
                sentences.append(f"deployment {adapter.deployment!r} serves it as the adapter {adapter.name!r}")
        return sentences

    # --- planning ---------------------------------------------------------------------------------------------------

    def _plan(self, session: Session, project_id: str, spec: DeploymentSpec) -> _Plan:
        if spec.base_url is not None:
            return self._plan_upstream(spec)
        task_name, kind = spec.task, "model"
        if spec.model is not None:
            version = resolve_served(self._catalog, session, project_id, spec.model)
            self._catalog.usable(session, project_id, version.id, version.kind)
            kind = version.kind
            task_name = task_name or version.task
        if task_name is None:
            raise InvalidRequest(
                f"It is not known which task {spec.model!r} is for." if spec.model else "Neither a model nor a task is given.",
                hint="Give a task, such as text-generation.",
                param="task" if spec.model else "model",
            )
        capability, task = find_task(spec.capability, task_name)
        if task.mode == "job":
            raise InvalidRequest(
                f"The task {task.name!r} is answered by runs and is not deployed.",
                hint=f"Submit it: POST /v1/tasks/{task.name}, or a run with verb batch.",
                param="task",
            )
        if task.mode == "static":
            if spec.model is None:
                raise InvalidRequest(f"The task {task.name!r} publishes an artifact: say which.", param="model")
            _refuse_engine(spec, ("static",), task)
            _check_options(spec, task)
            return _Plan("static", "static", task.name, capability.name)
        if kind != "model":
            raise InvalidRequest(f"{spec.model!r} is a {kind}, not a model.", hint="Deploy a model.", param="model")
        engine, engine_kind, _ = choose_engine(task, spec.engine)
        _check_options(spec, task)
        return _Plan(engine_kind, engine, task.name, capability.name)

    def _plan_upstream(self, spec: DeploymentSpec) -> _Plan:
        assert spec.base_url is not None  # noqa: S101 - the caller's condition
        if spec.engine not in (None, UPSTREAM):
            raise InvalidRequest(
                f"A server elsewhere (base_url) has the engine {UPSTREAM!r}, not {spec.engine!r}.", param="engine"
            )
        if spec.options:
            raise InvalidRequest("A server elsewhere has its own options.", hint="Leave options out.", param="options")
        check_url(spec.base_url, self._settings.egress_allow)
        return _Plan("openai", UPSTREAM, spec.task or _UPSTREAM_TASK, spec.capability)

    # --- rows -------------------------------------------------------------------------------------------------------

    def _row(self, session: Session, project_id: str, name: str) -> DeploymentRow | None:
        return session.scalar(select(DeploymentRow).where(DeploymentRow.project_id == project_id, DeploymentRow.name == name))

    def _existing(self, session: Session, project_id: str, name: str) -> DeploymentRow:
        query = select(DeploymentRow).where(DeploymentRow.project_id == project_id, DeploymentRow.state != "removed")
        by = DeploymentRow.id if name.startswith("dep_") else DeploymentRow.name
        row = session.scalar(query.where(by == name))
        if row is not None:
            return row
        names = [each.name for each in session.scalars(query.limit(1000))]
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "GET /api/deployments lists them."
        raise NotFound(f"There is no deployment {name!r}.", hint=hint, code="deployment_not_found")

    def _replicas(self, session: Session, deployment_id: str) -> Sequence[ReplicaRow]:
        query = select(ReplicaRow).where(ReplicaRow.deployment_id == deployment_id).order_by(ReplicaRow.id)
        return [*session.scalars(query)]

    def _announce(self, session: Session, row: DeploymentRow) -> None:
        deployment_id, name = row.id, row.name

        def announce(_session: Session) -> None:
            self._events.publish("deployment.changed", deployment_id=deployment_id, name=name)

        event.listen(session, "after_commit", announce, once=True)

    def list(
        self, session: Session, project_id: str, after: str | None = None, limit: int = 100
    ) -> tuple[Sequence[Deployment], bool]:
        """Deployments in the order of their creation, and whether there are more after the last one."""
        query = select(DeploymentRow).where(DeploymentRow.project_id == project_id, DeploymentRow.state != "removed")
        if after is not None:
            query = query.where(DeploymentRow.id > after)
        rows = [*session.scalars(query.order_by(DeploymentRow.id).limit(limit + 1))]
        shown = rows[:limit]
        replicas: dict[str, Any] = {row.id: [] for row in shown}
        found = session.scalars(select(ReplicaRow).where(ReplicaRow.deployment_id.in_(replicas)).order_by(ReplicaRow.id))
        for replica in found:
            replicas[replica.deployment_id].append(replica)
        return [_deployment(row, replicas[row.id]) for row in shown], len(rows) > limit


def engines_of(task: Task) -> dict[str, tuple[Kind, ImportPath]]:
    """Every engine of a task, the default one first."""
    engines: dict[str, tuple[Kind, ImportPath]] = {}
    if task.predictor is not None:
        default = next((name for name, path in task.predictors.items() if path == task.predictor), _PREDICTOR)
        engines[default] = ("predictor", task.predictor)
    engines.update({name: ("predictor", path) for name, path in task.predictors.items()})
    engines.update({name: ("openai", path) for name, path in task.servers.items()})
    return engines


def choose_engine(task: Task, wanted: str | None) -> tuple[str, Kind, ImportPath]:
    """The engine's name, its kind and what it is made by.

    Raises:
        InvalidRequest: the task has no such engine.
    """
    engines = engines_of(task)
    if wanted is None:
        wanted = next(iter(engines))
    if wanted not in engines:
        raise InvalidRequest(
            f"The task {task.name!r} has no engine {wanted!r}.",
            hint=f"Its engines are: {', '.join(engines)}; {UPSTREAM} needs base_url.",
            param="engine",
            code="unknown_engine",
        )
    kind, path = engines[wanted]
    return wanted, kind, path


def _refuse_engine(spec: DeploymentSpec, known: tuple[str, ...], task: Task) -> None:
    if spec.engine is not None and spec.engine not in known:
        raise InvalidRequest(
            f"The task {task.name!r} has no engine {spec.engine!r}.", hint=f"It has: {', '.join(known)}.", param="engine"
        )


def _check_options(spec: DeploymentSpec, task: Task) -> None:
    if task.options is None:
        if spec.options:
            raise InvalidRequest(f"The task {task.name!r} has no options.", hint="Leave options out.", param="options")
        return
    options: type[BaseModel] = task.options
    try:
        options.model_validate(spec.options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["options", *(str(part) for part in first["loc"])])
        raise InvalidRequest(
            f"{field}: {first['msg']}", hint=f"Known options: {', '.join(options.model_fields)}.", param=field
        ) from error


def _deployment(row: DeploymentRow, replicas: Sequence[ReplicaRow]) -> Deployment:
    return Deployment.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "capability": row.capability,
            "task": row.task,
            "kind": row.kind,
            "engine": row.engine,
            "model": row.model_ref,
            "version_id": row.version_id,
            "options": row.options,
            "num_replicas": row.num_replicas,
            "resources": None if row.resources is None else ResourcesSpec.model_validate(row.resources),
            "base_url": row.base_url,
            "upstream_model": row.upstream_model,
            **_key_of(row.api_key_env),
            "canary_of": row.canary_of,
            "share": row.share,
            "desired": row.state,
            "state": row.observed_state,
            "last_error": row.last_error,
            "replicas": [_replica(replica) for replica in replicas],
            "holds_adapters": bool(row.holds_adapters),
            "generation": row.generation,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
        }
    )


def _replica(row: ReplicaRow) -> Replica:
    return Replica.model_validate(
        {
            "id": row.id,
            "version_id": row.version_id,
            "state": row.state,
            "url": row.url,
            "restarts": row.restarts,
            "last_error": row.last_error,
            "started_at": row.started_at,
            "updated_at": row.updated_at,
        }
    )


def _key_of(where: str | None) -> dict[str, str | None]:
    stored = where is not None and where.startswith(STORED)
    return {"api_key_env": None if stored else where, "api_key_secret": where[len(STORED) :] if where and stored else None}
