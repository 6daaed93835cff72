"""The catalog's tables. Every row carries its project, and every query filters by it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from modelworks.kernel.base.changes import watched
from modelworks.kernel.base.database import Base


@watched("artifact", without=("last_number",))
class ArtifactRow(Base):
    """A name within a project and kind. It outlives its versions, so that a number never means two things."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("project_id", "kind", "name"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(128))
    last_number: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]


@watched("version", without=("metrics",))
class VersionRow(Base):
    """An immutable manifest; only `metrics` are added to and `state` changes."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("artifact_id", "number"),
        Index("ix_versions_artifact_id_digest", "artifact_id", "digest"),
        Index("ix_versions_project_id_created_by_run", "project_id", "created_by_run"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id"))
    project_id: Mapped[str] = mapped_column(String(40))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(80))
    files: Mapped[list[dict[str, Any]]]
    num_files: Mapped[int]
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    task: Mapped[str | None] = mapped_column(String(128))
    level: Mapped[str | None] = mapped_column(String(8))
    licence: Mapped[str | None] = mapped_column(String(256))
    source: Mapped[str | None] = mapped_column(Text)
    card: Mapped[str | None] = mapped_column(Text)
    # "metadata" is a reserved attribute of declarative classes.
    extra: Mapped[dict[str, Any]] = mapped_column("metadata")
    metrics: Mapped[dict[str, Any]]
    created_by_run: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(16), default="ready")


class VersionBlobRow(Base):
    """Which blobs a living version refers to: the garbage collection's question, answered by an index."""

    __tablename__ = "version_blobs"
    __table_args__ = (Index("ix_version_blobs_digest", "digest"),)

    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(80), primary_key=True)


@watched("alias")
class AliasRow(Base):
    """Where an alias points now."""

    __tablename__ = "aliases"

    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    moved_at: Mapped[datetime]


class AliasMoveRow(Base):
    """Every move of an alias: the ground for rolling back."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index("ix_alias_moves_artifact_id_name", "artifact_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    project_id: Mapped[str] = mapped_column(String(40))
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id"))
    name: Mapped[str] = mapped_column(String(64))
    from_version_id: Mapped[str | None] = mapped_column(String(40))
    to_version_id: Mapped[str | None] = mapped_column(String(40))
    moved_by: Mapped[str | None] = mapped_column(String(40))
    moved_at: Mapped[datetime]
    # Why it was moved against the quality gate; NULL for every other move.
    reason: Mapped[str | None] = mapped_column(Text)


class LineageEdgeRow(Base):
    """`subject relation object`. Ids are not foreign keys: runs and deployments belong to other rooms."""

    __tablename__ = "lineage_edges"
    __table_args__ = (
        UniqueConstraint("project_id", "subject_id", "relation", "object_id", "role", name="uq_lineage_edges_edge"),
        Index("ix_lineage_edges_project_id_object_id", "project_id", "object_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    project_id: Mapped[str] = mapped_column(String(40))
    subject_id: Mapped[str] = mapped_column(String(64))
    relation: Mapped[str] = mapped_column(String(16))
    object_id: Mapped[str] = mapped_column(String(64))
    # Empty rather than NULL: NULLs are distinct from each other in a unique constraint.
    role: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[datetime]


class EvaluationRow(Base):
    """What a run measured, with the exact content of model and data; it stays true when names and versions go."""

    __tablename__ = "evaluations"
    __table_args__ = (
        UniqueConstraint("run_id"),
        Index("ix_evaluations_project_id_model_digest", "project_id", "model_digest", "dataset_digest"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    run_id: Mapped[str] = mapped_column(String(40))
    capability: Mapped[str | None] = mapped_column(String(128))
    task: Mapped[str] = mapped_column(String(128))
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    model_digest: Mapped[str] = mapped_column(String(80))
    dataset_version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    dataset_digest: Mapped[str] = mapped_column(String(80))
    params: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    # The blob with one line per sample; NULL where the evaluator saved none.
    report_digest: Mapped[str | None] = mapped_column(String(80))
    created_at: Mapped[datetime]


@watched("gate")
class GateRow(Base):
    """What a project's quality gate asks for, where a promotion does not say."""

    __tablename__ = "gates"

    project_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    terms: Mapped[dict[str, Any]]
    set_by: Mapped[str | None] = mapped_column(String(40))
    updated_at: Mapped[datetime]
