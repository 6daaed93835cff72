"""Answers of the routes of evals."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from modelworks.kernel.gateway.answers.form import Answer


class EvalDeleted(Answer):
    """An eval is gone, with its runs."""

    object: Literal["eval.deleted"]
    deleted: Literal[True]
    eval_id: str


class EvalRunDeleted(Answer):
    """A run is gone."""

    object: Literal["eval.run.deleted"]
    deleted: Literal[True]
    run_id: str


class EvalSource(Answer):
    """What an item looks like."""

    type: Literal["custom"]
    form: dict[str, Any] = Field(alias="schema")


class Eval(Answer):
    """What is judged, and by which graders."""

    id: str
    object: Literal["eval"]
    created_at: int
    name: str | None
    data_source_config: EvalSource
    testing_criteria: list[dict[str, Any]]
    metadata: dict[str, str] | None


class ResultCounts(Answer):
    """Items of a run by their result."""

    total: int
    passed: int
    failed: int
    errored: int


class CriterionCounts(Answer):
    """Items by what one grader said."""

    testing_criteria: str
    passed: int
    failed: int


class ModelUse(Answer):
    """What was used of a model."""

    model_name: str
    invocation_count: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class EvalError(Answer):
    """Why a run or an item failed."""

    code: str
    message: str


class EvalRun(Answer):
    """An eval of one model, or of given answers."""

    id: str
    object: Literal["eval.run"]
    created_at: int
    eval_id: str
    name: str | None
    status: Literal["queued", "in_progress", "completed", "canceled", "failed"]
    model: str
    data_source: dict[str, Any]
    error: EvalError | None
    metadata: dict[str, str] | None
    report_url: str
    result_counts: ResultCounts
    per_testing_criteria_results: list[CriterionCounts]
    per_model_usage: list[ModelUse]


class ItemResult(Answer):
    """What one grader said of an item."""

    name: str
    type: str
    score: float | None
    passed: bool
    sample: dict[str, Any] | None
    error: Any = None


class SampleTurn(Answer):
    """A turn that was asked or answered."""

    role: str
    content: Any


class SampleUse(Answer):
    """Tokens of one item."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class EvalSample(Answer):
    """What the graders saw."""

    input: list[SampleTurn]
    output: list[SampleTurn]
    finish_reason: str
    model: str
    usage: SampleUse
    error: EvalError | None
    seed: int
    temperature: float
    top_p: float
    max_completion_tokens: int | None


class EvalItem(Answer):
    """What a run found of one item."""

    id: str
    object: Literal["eval.run.output_item"]
    created_at: int
    run_id: str
    eval_id: str
    status: str
    datasource_item_id: int
    datasource_item: dict[str, Any]
    results: list[ItemResult]
    sample: EvalSample
