"""Answers of the routes of fine-tuning jobs and graders."""

from __future__ import annotations

from typing import Any, Literal

from modelworks.kernel.gateway.answers.form import Answer

Choice = int | float | Literal["auto"] | None


class JobError(Answer):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class FineTuningJob(Answer):
    """A job that tunes a model."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    model: str
    fine_tuned_model: str | None
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    error: JobError | None
    estimated_finish: int | None
    integrations: list[dict[str, Any]]
    metadata: dict[str, str] | None


class FineTuningEvent(Answer):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    data: dict[str, Any] | None
    type: Literal["message", "metrics"]


class FineTuningCheckpoint(Answer):
    """A model of an earlier step, which can be asked."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float | int]
    step_number: int


class GraderAnswer(Answer):
    """A grader that is right."""

    grader: dict[str, Any]


class GradeMetadata(Answer):
    """How a judgement came about."""

    name: str
    type: str
    errors: dict[str, Any]
    execution_time: float
    scores: dict[str, float | None]
    sampled_model_name: str | None
    token_usage: int | None


class Graded(Answer):
    """A judgement."""

    reward: float
    sub_rewards: dict[str, float | None]
    metadata: GradeMetadata
    model_grader_token_usage_per_model: dict[str, int]
