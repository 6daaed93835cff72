"""What a quantiser reports of the smaller versions that it made: what each of them saves, and what it costs."""

from __future__ import annotations

from pydantic import BaseModel, Field

#: A quantiser saves a file of this name with kind "report": its `QuantiseReport` as JSON.
REPORT_FILE = "quantisation.json"


class MetricDifference(BaseModel):
    """One metric of a smaller version beside the full model's."""

    full: float
    quantised: float
    #: The 95 % interval of quantised - full over the samples; None where there are too few of them.
    low: float | None = None
    high: float | None = None


class Variant(BaseModel):
    """The full model, or one smaller version of it."""

    #: `full`, or the precision: `int8`, `int4`.
    name: str
    #: Weights on disk.
    num_bytes: int
    #: Tokens that the engine generates in one second of CPU time; None where no engine could be asked.
    tokens_per_cpu_s: float | None = None
    #: The largest difference of a logit from the full model's; 0 for itself.
    logit_difference: float = 0.0
    #: By the role of the data set (`test`, `task`), then by metric.
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    differences: dict[str, dict[str, MetricDifference]] = Field(default_factory=dict)


class QuantiseReport(BaseModel):
    """The full model first, then its smaller versions."""

    variants: list[Variant]
