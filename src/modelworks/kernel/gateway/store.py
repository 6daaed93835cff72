"""The tables of what clients keep at OpenAI's routes: files, tuning, evals, batches, responses, conversations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from modelworks.kernel.base.changes import watched
from modelworks.kernel.base.database import Base


@watched("file")
class FileRow(Base):
    """A file that a client stored, or that a fine-tuning job made; the bytes are a blob."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_project_id_id", "project_id", "id"), Index("ix_files_digest", "digest"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    filename: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(String(32))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime]
    #: After this moment the file does not exist any more; None: it stays until it is deleted.
    expires_at: Mapped[datetime | None]


class UploadRow(Base):
    """A file on its way in, part by part."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    filename: Mapped[str] = mapped_column(Text)
    mime_type: Mapped[str] = mapped_column(String(256))
    purpose: Mapped[str] = mapped_column(String(32))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    #: Life of the file to come, in seconds from its creation.
    expires_after_s: Mapped[int | None]
    #: pending, completed or cancelled; a pending one whose time is over is expired.
    state: Mapped[str] = mapped_column(String(16))
    file_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class UploadPartRow(Base):
    __tablename__ = "upload_parts"
    __table_args__ = (Index("ix_upload_parts_upload_id", "upload_id"), Index("ix_upload_parts_digest", "digest"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime]


@watched(
    "fine_tuning_job",
    only=(
        "id",
        "project_id",
        "key_id",
        "wish",
        "model",
        "base_version_id",
        "training_file",
        "validation_file",
        "method",
        "seed",
        "labels",
        "fine_tuned_model",
    ),
)
class FineTuningJobRow(Base):
    """A wish for a tuned model. Once its files are found good, a run of the jobs room does the work."""

    __tablename__ = "fine_tuning_jobs"
    __table_args__ = (
        Index("ix_fine_tuning_jobs_project_id_id", "project_id", "id"),
        Index("ix_fine_tuning_jobs_state", "state"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str | None] = mapped_column(String(40))
    #: validating_files, submitted (the run says how far it is), paused, succeeded, failed or cancelled.
    state: Mapped[str] = mapped_column(String(16))
    #: run, pause, cancel, or resume: go on as soon as the run has stopped for an earlier pause.
    wish: Mapped[str] = mapped_column(String(16))
    run_id: Mapped[str | None] = mapped_column(String(40))
    #: The model as the client named it, and the version that it meant then.
    model: Mapped[str] = mapped_column(String(256))
    base_version_id: Mapped[str] = mapped_column(String(40))
    training_file: Mapped[str] = mapped_column(String(40))
    validation_file: Mapped[str | None] = mapped_column(String(40))
    #: {"type": …, "hyperparameters": {…}} as asked for.
    method: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    #: The client's metadata ("metadata" is a reserved attribute of declarative classes).
    labels: Mapped[dict[str, Any]] = mapped_column("metadata")
    #: What the tuned model will be called by clients, and in the catalog.
    fine_tuned_model: Mapped[str] = mapped_column(String(128))
    output_name: Mapped[str] = mapped_column(String(128))
    output_version_id: Mapped[str | None] = mapped_column(String(40))
    result_file_id: Mapped[str | None] = mapped_column(String(40))
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[dict[str, Any] | None]
    #: Last number given to an event of this job.
    event_seq: Mapped[int]
    #: Last event of the run that became one of the job's, and the last step of its curves that did.
    run_event_seq: Mapped[int]
    metrics_step: Mapped[int] = mapped_column(BigInteger)
    metrics_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class FineTuningEventRow(Base):
    __tablename__ = "fine_tuning_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    time: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    #: message or metrics.
    type: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]


@watched("eval")
class EvalRow(Base):
    """What is asked of models: the form of the items, and the criteria by which answers are judged."""

    __tablename__ = "evals"
    __table_args__ = (Index("ix_evals_project_id_id", "project_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(Text)
    #: {"item_schema": {…}, "include_sample_schema": bool}
    source_config: Mapped[dict[str, Any]]
    testing_criteria: Mapped[list[dict[str, Any]]]
    labels: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


@watched("eval_run", only=("id", "eval_id", "project_id", "key_id", "name", "model", "data_source", "labels", "created_at"))
class EvalRunRow(Base):
    """One pass over items: answers are asked for or given, and judged. The server works it off item by item."""

    __tablename__ = "eval_runs"
    __table_args__ = (Index("ix_eval_runs_eval_id_id", "eval_id", "id"), Index("ix_eval_runs_state", "state"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    eval_id: Mapped[str] = mapped_column(ForeignKey("evals.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(Text)
    #: The model that is asked; None where the items hold the answers.
    model: Mapped[str | None] = mapped_column(String(256))
    data_source: Mapped[dict[str, Any]]
    #: queued (its items are not stored yet), in_progress, completed, canceled or failed.
    state: Mapped[str] = mapped_column(String(16))
    #: Sums over the items that are done, changed together with them; see `eval_items.Tally`.
    tally: Mapped[dict[str, Any]]
    num_items: Mapped[int]
    error: Mapped[dict[str, Any] | None]
    labels: Mapped[dict[str, Any]] = mapped_column("metadata")
    #: The catalog's record of what was measured, where it could be made.
    evaluation_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class EvalItemRow(Base):
    """One item of a run with its answer and what the criteria say of it."""

    __tablename__ = "eval_items"
    __table_args__ = (Index("ix_eval_items_run_id_state_seq", "run_id", "state", "seq"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("eval_runs.id", ondelete="CASCADE"), primary_key=True)
    #: The line of the file, or the place in the list, from 1.
    seq: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    #: pending (to be asked), sampled (to be judged), pass, fail or error.
    state: Mapped[str] = mapped_column(String(8))
    item: Mapped[dict[str, Any]]
    #: The namespace `sample` of the criteria's templates.
    sample: Mapped[dict[str, Any] | None]
    results: Mapped[list[dict[str, Any]]]
    #: The version that answered.
    version_id: Mapped[str | None] = mapped_column(String(40))
    done_at: Mapped[datetime | None]


@watched("batch", only=("id", "project_id", "key_id", "endpoint", "input_file_id", "wish", "labels", "created_at"))
class BatchRow(Base):
    """Questions in a file, which the server asks when it has time."""

    __tablename__ = "batches"
    __table_args__ = (Index("ix_batches_project_id_id", "project_id", "id"), Index("ix_batches_state", "state"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str] = mapped_column(String(40))
    endpoint: Mapped[str] = mapped_column(String(64))
    input_file_id: Mapped[str] = mapped_column(String(40))
    #: The bytes of the file, which may be deleted before it is read to the end.
    input_digest: Mapped[str] = mapped_column(String(80))
    #: Life of the files to come, in seconds from their creation.
    output_life_s: Mapped[int | None]
    #: run or cancel.
    wish: Mapped[str] = mapped_column(String(16))
    #: validating, in_progress, finalizing, completed, failed, expired, cancelling or cancelled.
    state: Mapped[str] = mapped_column(String(16))
    #: The model that all questions ask; None where they differ, or are not read yet.
    model: Mapped[str | None] = mapped_column(Text)
    num_requests: Mapped[int]
    num_completed: Mapped[int]
    num_failed: Mapped[int]
    #: Sums of tokens over the answers; see `batch_file.add_usage`.
    usage: Mapped[dict[str, Any]]
    #: What is wrong with the file, in the form of OpenAI's batch errors.
    errors: Mapped[list[dict[str, Any]] | None]
    output_file_id: Mapped[str | None] = mapped_column(String(40))
    error_file_id: Mapped[str | None] = mapped_column(String(40))
    #: When each state was entered, in Unix seconds.
    moments: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class BatchAnswerRow(Base):
    """An answer of a batch that is not over; afterwards it stands in one of the batch's files."""

    __tablename__ = "batch_answers"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)
    #: The line of the question in the file, from 1.
    seq: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    is_error: Mapped[bool]
    #: The line of the output file or the error file.
    line: Mapped[bytes] = mapped_column(LargeBinary)


class ResponseRow(Base):
    """A response that was asked to be kept, or that is answered in the background."""

    __tablename__ = "responses"
    __table_args__ = (
        Index("ix_responses_project_id_id", "project_id", "id"),
        Index("ix_responses_state", "state"),
        Index("ix_responses_expires_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str] = mapped_column(String(40))
    #: queued, in_progress, completed, incomplete, failed or cancelled.
    state: Mapped[str] = mapped_column(String(16))
    background: Mapped[bool]
    #: The response that this one goes on from; it may have been deleted since.
    previous_response_id: Mapped[str | None] = mapped_column(String(40))
    #: What was asked for, while it is still to be done.
    asked: Mapped[dict[str, Any] | None]
    #: The response object but for its output.
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class ResponseItemRow(Base):
    """An item that a response was given or that it gave."""

    __tablename__ = "response_items"
    __table_args__ = (Index("ix_response_items_project_id_id", "project_id", "id"),)

    response_id: Mapped[str] = mapped_column(ForeignKey("responses.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    id: Mapped[str] = mapped_column(String(64))
    is_output: Mapped[bool]
    item: Mapped[dict[str, Any]]


@watched("conversation", only=("id", "project_id", "labels", "created_at"))
class ConversationRow(Base):
    """Items that belong together, for as long as nobody deletes them."""

    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_project_id_id", "project_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    labels: Mapped[dict[str, Any]] = mapped_column("metadata")
    #: Last number given to an item.
    item_seq: Mapped[int]
    created_at: Mapped[datetime]


class ConversationItemRow(Base):
    __tablename__ = "conversation_items"
    __table_args__ = (Index("ix_conversation_items_conversation_id_id", "conversation_id", "id"),)

    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    id: Mapped[str] = mapped_column(String(64))
    item: Mapped[dict[str, Any]]


class IdempotencyRow(Base):
    """A request that its caller named with `Idempotency-Key`, and its answer once there is one."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "expires_at"),)

    project_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    #: Whose turn it is: the request that took the key last.
    claim: Mapped[str] = mapped_column(String(40))
    request: Mapped[str] = mapped_column(String(1024))
    #: SHA-256 of the body; None while the request is under way.
    digest: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[int | None]
    headers: Mapped[list[Any]]
    #: None where the answer holds a secret and so cannot be given again.
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime]


@watched("mcp_server", without=("tools", "listed_at"))
class McpServerRow(Base):
    """A tool server elsewhere that responses of the project may name, and its tools as they were listed last."""

    __tablename__ = "mcp_servers"

    project_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    #: Names of the project's secrets, by the header that carries them.
    authorization_secret: Mapped[str | None] = mapped_column(String(100))
    header_secrets: Mapped[dict[str, Any]]
    allowed_tools: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    require_approval: Mapped[Any] = mapped_column(JSON)
    timeout_s: Mapped[float | None]
    tools: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    listed_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class VectorStoreBatchRow(Base):
    """Files that were put into a vector store together."""

    __tablename__ = "vector_store_batches"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"), index=True)
    project_id: Mapped[str] = mapped_column(String(40))
    #: Of /v1/files, each once.
    file_ids: Mapped[list[str]]
    #: Whether files were taken out again because they were not ready.
    is_cancelled: Mapped[bool]
    created_at: Mapped[datetime]
