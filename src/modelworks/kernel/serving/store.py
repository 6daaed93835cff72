"""The tables of serving: deployments are written by the service, what is seen of them by the reconciler alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from modelworks.kernel.base.changes import watched
from modelworks.kernel.base.database import Base


@watched("deployment", without=("observed_state", "version_id", "last_error", "holds_adapters", "updated_at", "generation"))
class DeploymentRow(Base):
    __tablename__ = "deployments"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(128))
    capability: Mapped[str | None] = mapped_column(String(128))
    task: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    engine: Mapped[str] = mapped_column(String(64))
    model_ref: Mapped[str | None] = mapped_column(String(256))
    options: Mapped[dict[str, Any]]
    num_replicas: Mapped[int]
    resources: Mapped[dict[str, Any] | None]
    base_url: Mapped[str | None] = mapped_column(Text)
    upstream_model: Mapped[str | None] = mapped_column(String(256))
    api_key_env: Mapped[str | None] = mapped_column(String(128))
    #: The name of the deployment of whose requests it answers this share.
    canary_of: Mapped[str | None] = mapped_column(String(128))
    share: Mapped[float | None]
    #: running, stopped or removed.
    state: Mapped[str] = mapped_column(String(16))
    generation: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    # Seen by the reconciler:
    observed_state: Mapped[str] = mapped_column(String(16))
    version_id: Mapped[str | None] = mapped_column(String(40))
    last_error: Mapped[str | None] = mapped_column(Text)
    #: Whether its replicas take adapters of the base that they serve.
    holds_adapters: Mapped[bool] = mapped_column(default=False, server_default=false())


@watched("adapter", without=("observed_state", "version_id", "last_error", "updated_at"))
class AdapterRow(Base):
    """An adapter that a deployment shall answer with, beside its base."""

    __tablename__ = "deployment_adapters"
    __table_args__ = (UniqueConstraint("project_id", "name"), Index("ix_deployment_adapters_deployment_id", "deployment_id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(128))
    model_ref: Mapped[str] = mapped_column(String(256))
    #: running or removed.
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    # Seen by the reconciler:
    observed_state: Mapped[str] = mapped_column(String(16))
    version_id: Mapped[str | None] = mapped_column(String(40))
    last_error: Mapped[str | None] = mapped_column(Text)


class ReplicaRow(Base):
    __tablename__ = "replicas"
    __table_args__ = (Index("ix_replicas_deployment_id", "deployment_id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    version_id: Mapped[str | None] = mapped_column(String(40))
    #: What of the wish it was made from; see `reconciler.revision_of`.
    revision: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    url: Mapped[str | None] = mapped_column(Text)
    handle: Mapped[str | None] = mapped_column(Text)
    restarts: Mapped[int]
    last_error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]
