"""Parameters of building and measuring an index, and options of its deployment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modelworks.contract.run import Level


class BuildParams(BaseModel):
    """How an index is made of passages."""

    model_config = ConfigDict(extra="forbid")

    block_passages: int = Field(
        2000, ge=1, le=100_000, description="Passages that are taken at a time; what a cancelled run goes on from."
    )
    batch_size: int = Field(64, ge=1, le=2048, description="Passages that the encoder is given in one request.")
    concurrency: int = Field(2, ge=1, le=64, description="Requests to the encoder at a time.")
    headings: int = Field(
        3, ge=0, le=32, description="So many headings above a passage, the nearest ones, are searched and encoded with it."
    )
    checkpoint_s: float = Field(30.0, gt=0, description="Seconds between checkpoints.")
    name: str | None = Field(None, max_length=128, description="A name for the index's card.")
    level: Level | None = Field(None, description="Level recorded with the index; L2 when not given.")


class EvaluateParams(BaseModel):
    """How an index is measured."""

    model_config = ConfigDict(extra="forbid")

    max_queries: int = Field(5000, ge=1, description="Measure at most so many queries.")
    batch_size: int = Field(64, ge=1, le=2048, description="Queries that the encoder is given in one request.")
    bootstrap_samples: int = Field(2000, ge=100, le=100_000, description="Resamples behind each 95 % interval.")


class ServeOptions(BaseModel):
    """Options of a deployment."""

    model_config = ConfigDict(extra="forbid")

    dense_weight: float | None = Field(
        None, ge=0, le=1, description="Weight of meaning against words; what the index was built with when not given."
    )
    rerank: bool = Field(True, description="Order the best passages again by how early the query's terms stand in them.")
    check: Literal["full", "shape"] = Field(
        "full", description="full: every file against its digest when opened; shape: sizes and numbers alone."
    )
