"""The wishes for adapters: which ones a deployment shall answer with, beside its base, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from modelworks.contract.adapter import AdapterRecord, check_base
from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.serving.place import resolve_served
from modelworks.kernel.serving.schemas import Adapter, AdapterCreate
from modelworks.kernel.serving.store import AdapterRow, DeploymentRow


class AdapterWishes:
    """Stores the wishes; the reconciler makes them so.

    Args:
        existing: finds a deployment by name or id, raising NotFound.
        scales: whether one address stands for many replicas (a cluster's), which cannot be spoken to one by one.
    """

    def __init__(
        self,
        catalog: CatalogService,
        clock: Clock,
        events: Events,
        existing: Callable[[Session, str, str], DeploymentRow],
        *,
        scales: bool,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._events = events
        self._existing = existing
        self._scales = scales

    def add(self, session: Session, project_id: str, wish: AdapterCreate, *, dry_run: bool = False) -> Adapter:
        """Wish for an adapter, or for another version of one that is there.

        Raises:
            NotFound, ModelNotFound: there is no such deployment or model.
            InvalidRequest: the deployment takes no adapters, the model is none, or one of another base (both are named).
            Conflict: the name is taken.
        """
        deployment = self._existing(session, project_id, wish.deployment)
        # A server that speaks OpenAI's protocol is a process of this machine whatever runs the predictors.
        on_cluster = deployment.kind == "predictor" and self._scales
        if deployment.kind == "static" or deployment.model_ref is None or on_cluster:
            raise InvalidRequest(
                f"The deployment {deployment.name!r} takes no adapters: they are loaded by replicas of this machine.",
                hint="Deploy the adapter's merged weights as a model of its own.",
                param="deployment",
                code="adapters_not_held",
            )
        version = resolve_served(self._catalog, session, project_id, wish.model)
        self._catalog.usable(session, project_id, version.id, version.kind)
        base = resolve_served(self._catalog, session, project_id, deployment.model_ref)
        check_base(version.ref, AdapterRecord.in_metadata(version.ref, version.metadata), base.ref, base.digest)
        name = wish.name or version.name
        self._check_name(session, project_id, name, deployment)
        now = self._clock.now()
        row = session.scalar(select(AdapterRow).where(AdapterRow.project_id == project_id, AdapterRow.name == name))
        if row is None or dry_run:
            row = AdapterRow(
                id=new_id("adp") if row is None else row.id,
                deployment_id=deployment.id,
                project_id=project_id,
                name=name,
                model_ref=wish.model,
                state="running",
                created_at=now if row is None else row.created_at,
                updated_at=now,
                observed_state="loading",
                version_id=None,
                last_error=None,
            )
            if dry_run:
                return _adapter(row, deployment.name)
            session.add(row)
        else:
            if (row.model_ref, row.state) != (wish.model, "running"):
                row.model_ref, row.state, row.updated_at = wish.model, "running", now
            if row.observed_state in ("failed", "stopped"):
                row.observed_state, row.last_error = "loading", None
        session.flush()
        self._announce(session, row)
        return _adapter(row, deployment.name)

    def remove(self, session: Session, project_id: str, name: str) -> Adapter:
        """No new request is answered with it, those under way are finished, then it is unloaded.

        Raises:
            NotFound: there is no such adapter; the hint names near ones.
        """
        query = select(AdapterRow).where(AdapterRow.project_id == project_id, AdapterRow.state == "running")
        row = session.scalar(query.where(AdapterRow.id == name if name.startswith("adp_") else AdapterRow.name == name))
        if row is None:
            near = get_close_matches(name, [each.name for each in session.scalars(query.limit(1000))], n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "GET /api/adapters lists them."
            raise NotFound(f"There is no adapter {name!r}.", hint=hint, code="adapter_not_found")
        row.state, row.updated_at = "removed", self._clock.now()
        session.flush()
        self._announce(session, row)
        return _adapter(row, self._deployment_name(session, row))

    def list(self, session: Session, project_id: str, deployment: str | None = None) -> Sequence[Adapter]:
        """The adapters of a project, or of one deployment, by name.

        Raises:
            NotFound: there is no such deployment.
        """
        query = select(AdapterRow, DeploymentRow.name).join(DeploymentRow, DeploymentRow.id == AdapterRow.deployment_id)
        query = query.where(AdapterRow.project_id == project_id, AdapterRow.state == "running")
        if deployment is not None:
            query = query.where(AdapterRow.deployment_id == self._existing(session, project_id, deployment).id)
        return [_adapter(row, name) for row, name in session.execute(query.order_by(AdapterRow.name)).tuples()]

    def host_of(self, session: Session, project_id: str, ref: str) -> str | None:
        """The name of a deployment that answers now and whose replicas take this adapter; None where there is none."""
        version = resolve_served(self._catalog, session, project_id, ref)
        try:
            record = AdapterRecord.in_metadata(version.ref, version.metadata)
        except InvalidRequest:
            return None
        query = select(DeploymentRow).where(
            DeploymentRow.project_id == project_id,
            DeploymentRow.state == "running",
            DeploymentRow.holds_adapters,
            DeploymentRow.version_id.is_not(None),
        )
        for row in session.scalars(query.order_by(DeploymentRow.id)):
            if self._catalog.get_version(session, project_id, str(row.version_id)).digest == record.base_digest:
                return row.name
        return None

    def find(self, session: Session, project_id: str, name: str) -> Adapter | None:
        """The adapter that answers under a name."""
        return next((each for each in self.list(session, project_id) if each.name == name), None)

    def is_taken(self, session: Session, project_id: str, name: str) -> bool:
        """Whether an adapter answers under that name."""
        query = select(AdapterRow.id).where(AdapterRow.project_id == project_id, AdapterRow.name == name)
        return session.scalar(query.where(AdapterRow.state == "running")) is not None

    def _check_name(self, session: Session, project_id: str, name: str, deployment: DeploymentRow) -> None:
        query = select(DeploymentRow.name).where(DeploymentRow.project_id == project_id, DeploymentRow.name == name)
        other = select(AdapterRow).where(AdapterRow.project_id == project_id, AdapterRow.name == name)
        taken = session.scalar(other.where(AdapterRow.deployment_id != deployment.id))
        if session.scalar(query) is not None or taken is not None:
            raise Conflict(
                f"The name {name!r} is taken by {'a deployment' if taken is None else 'an adapter of another deployment'}.",
                hint="Give the adapter another name.",
                param="name",
                code="name_taken",
            )

    def _deployment_name(self, session: Session, row: AdapterRow) -> str:
        return str(session.scalar(select(DeploymentRow.name).where(DeploymentRow.id == row.deployment_id)))

    def _announce(self, session: Session, row: AdapterRow) -> None:
        deployment_id, name = row.deployment_id, row.name

        def announce(_session: Session) -> None:
            self._events.publish("adapter.changed", deployment_id=deployment_id, name=name)

        event.listen(session, "after_commit", announce, once=True)


def _adapter(row: AdapterRow, deployment: str) -> Adapter:
    return Adapter.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "deployment": deployment,
            "deployment_id": row.deployment_id,
            "model": row.model_ref,
            "version_id": row.version_id,
            "state": row.observed_state,
            "last_error": row.last_error,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
        }
    )
