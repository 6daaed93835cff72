"""What an evaluator says about each sample, so that two models can be compared sample by sample."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

#: An evaluator saves a file of this name with kind "report": one `SampleResult` as JSON per line.
SAMPLES_FILE = "samples.jsonl"


class SampleResult(BaseModel):
    """One sample's part in each metric.

    A metric over any set of samples is the mean of the values, weighted: a document's loss per token has the document's
    tokens as weight, a right or wrong answer has weight 1. Metrics that are no such mean (perplexity) are left out.
    """

    model_config = ConfigDict(frozen=True)

    #: Names the sample within its data set, such as `chats.jsonl:12`; the same for every model.
    sample: str
    #: Metric -> (value, weight); a weight is positive.
    values: dict[str, tuple[float, float]]
    #: What a person wants to see of it, such as the model's answer.
    detail: dict[str, Any] = Field(default_factory=dict)
