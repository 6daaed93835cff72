"""The wire form of fine-tuning jobs: what is asked for. Answers are rendered as plain dictionaries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from modelworks.kernel.gateway.schemas import Metadata, Wire


def _whole(value: Any) -> Any:
    if value in (None, "auto") or (type(value) is int and value > 0):
        return value
    raise PydanticCustomError("whole_number_type", "must be 'auto' or a whole number above 0")


def _number(value: Any) -> Any:
    if value in (None, "auto") or (type(value) in (int, float) and 0 < value < float("inf")):
        return value
    raise PydanticCustomError("number_type", "must be 'auto' or a number above 0")


def _or_auto(kind: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": kind, "exclusiveMinimum": 0}, {"type": "null"}]})


#: Checked by hand: an error of a union would name its branches as if they were fields.
_Whole = Annotated[Any, AfterValidator(_whole), _or_auto("integer")]
_Number = Annotated[Any, AfterValidator(_number), _or_auto("number")]


class Hyperparameters(Wire):
    """The word "auto" leaves the choice to the capability; an event says what it chose and why."""

    n_epochs: _Whole = None
    batch_size: _Whole = None
    learning_rate_multiplier: _Number = None
    beta: _Number = None
    compute_multiplier: _Number = Field(default=None, description="Of the number of answers to each prompt.")
    eval_interval: _Whole = Field(default=None, description="Steps between measurements on held-out prompts.")
    eval_samples: _Whole = Field(default=None, description="Answers to each held-out prompt.")
    reasoning_effort: Literal["default", "low", "medium", "high"] | None = None
    lora_rank: _Whole = Field(default=None, description="Ours: an adapter of that rank learns instead of all weights.")


class MethodDetail(Wire):
    """What one method takes."""

    hyperparameters: Hyperparameters | None = None


class ReinforcementDetail(MethodDetail):
    """What the method reinforcement takes."""

    grader: dict[str, Any] = Field(description="Judges answers: see the guide to graders.")


class Method(Wire):
    """How the model learns: from answers (supervised), from pairs of a better and a worse one (dpo), or from what a grader says
    of its own (reinforcement).
    """

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: MethodDetail | None = None
    dpo: MethodDetail | None = None
    reinforcement: ReinforcementDetail | None = None


class FineTuningCreate(Wire):
    """POST /v1/fine_tuning/jobs."""

    model: str = Field(min_length=1, max_length=256)
    training_file: str = Field(min_length=1, max_length=64)
    validation_file: str | None = Field(default=None, min_length=1, max_length=64)
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(default=None, description="Superseded by method.")
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    metadata: Metadata | None = None
    integrations: list[dict[str, Any]] | None = None
