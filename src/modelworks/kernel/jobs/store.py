"""Tables of runs: the run, its events and its curves."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from modelworks.kernel.base.changes import watched
from modelworks.kernel.base.database import Base


@watched(
    "run",
    only=(
        "id",
        "project_id",
        "key_id",
        "capability",
        "task",
        "verb",
        "inputs",
        "params",
        "output_name",
        "seed",
        "resources",
        "created_at",
        "cancel_requested_at",
    ),
)
class RunRow(Base):
    """One run over all its attempts."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_project_id_id", "project_id", "id"),
        Index("ix_runs_state_queued_at", "state", "queued_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    key_id: Mapped[str | None]
    capability: Mapped[str | None]
    task: Mapped[str | None]
    verb: Mapped[str]
    inputs: Mapped[dict[str, Any]]
    params: Mapped[dict[str, Any]]
    output_name: Mapped[str | None]
    seed: Mapped[int] = mapped_column(BigInteger)
    resources: Mapped[dict[str, Any]]
    state: Mapped[str]
    executor: Mapped[str]
    #: What the executor knows the current attempt by; None between the decision to start and the start.
    handle: Mapped[str | None]
    #: Indices of the accelerators that the current attempt may use (local executor).
    devices: Mapped[list[Any]]
    attempt: Mapped[int]
    max_attempts: Mapped[int]
    #: Crashes in a row without a newer checkpoint between them.
    crashes: Mapped[int]
    #: SHA-256 of the token with which the current attempt reports over HTTP.
    token_hash: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    #: Manifest of the last checkpoint.
    checkpoint: Mapped[list[dict[str, Any]] | None]
    #: Last step logged before the furthest checkpoint.
    checkpoint_step: Mapped[int | None] = mapped_column(BigInteger)
    #: What was saved so far, registered when the run succeeds.
    saves: Mapped[list[dict[str, Any]]]
    #: How many saves happened before the last checkpoint: a new attempt repeats the others.
    num_saves_kept: Mapped[int]
    #: Versions that were registered.
    outputs: Mapped[list[dict[str, Any]]]
    #: Last journal entry of the current attempt that was taken in.
    journal_seq: Mapped[int]
    #: Last number given to an event of this run.
    event_seq: Mapped[int]
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    not_before: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    attempt_started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class RunEventRow(Base):
    """Something that happened; metrics and progress are kept apart because there are many."""

    __tablename__ = "run_events"
    __table_args__ = (UniqueConstraint("run_id", "attempt", "journal_seq"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    attempt: Mapped[int]
    #: The worker's number of the entry; None for what the server itself noted.
    journal_seq: Mapped[int | None]
    time: Mapped[datetime]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]


class RunMetricRow(Base):
    """A point of a curve; a step that a new attempt repeats replaces the older point."""

    __tablename__ = "run_metrics"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    project_id: Mapped[str]
    value: Mapped[float]
