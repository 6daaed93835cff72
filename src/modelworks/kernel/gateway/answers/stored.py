"""Answers of the routes of files, uploads and batches, and what says that something was deleted."""

from __future__ import annotations

from typing import Any, Literal

from modelworks.kernel.gateway.answers.form import Answer


class Deleted(Answer):
    """It is gone."""

    id: str
    object: str
    deleted: Literal[True]


class FileObject(Answer):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class Upload(Answer):
    """A file that comes in parts."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None


class UploadPart(Answer):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


class BatchError(Answer):
    """What is wrong with a batch's file, and where."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(Answer):
    """The first of them."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(Answer):
    """Questions of a batch."""

    total: int
    completed: int
    failed: int


class BatchInput(Answer):
    """What was remembered."""

    cached_tokens: int


class BatchOutput(Answer):
    """What was thought."""

    reasoning_tokens: int


class BatchUsage(Answer):
    """Tokens of all questions together."""

    input_tokens: int
    input_tokens_details: BatchInput
    output_tokens: int
    output_tokens_details: BatchOutput
    total_tokens: int


class Batch(Answer):
    """Many questions, answered when there is room."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]  # fmt: skip
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, Any] | None
