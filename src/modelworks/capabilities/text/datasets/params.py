"""Parameters of checking and cleaning a data set."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ValidateParams(BaseModel):
    """How far a data set is checked, and for what training."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(1, ge=1, le=10_000, description="How often a training would read the data: for the cost.")
    context_length: int | None = Field(None, ge=16, description="Report samples that do not fit into so many tokens.")
    max_faults: int = Field(200, ge=1, le=10_000, description="Faults that are listed; all are counted.")
    max_samples: int = Field(5_000_000, ge=1, le=100_000_000, description="Stop after so many samples.")
    max_seconds: float = Field(3600, gt=0, le=86_400, description="Stop after so much time.")


class CleanParams(BaseModel):
    """What is taken out of a data set, and how the rest is divided."""

    model_config = ConfigDict(extra="forbid")

    near_duplicates: bool = Field(True, description="Also take out samples that are almost the same as an earlier one.")
    similarity: float = Field(
        0.8, ge=0.5, le=1, description="Share of common shingles (Jaccard) from which two samples are almost the same."
    )
    contamination_ngram: int = Field(
        8, ge=3, le=50, description="Length, in words or Chinese characters, of the pieces compared with the test data."
    )
    contamination_share: float = Field(
        0.7, gt=0, le=1, description="Share of a test sample's pieces from which a sample is said to give it away."
    )
    validation_fraction: float = Field(
        0, ge=0, le=0.5, description="Part that is put into a data set of its own, NAME-validation; 0 keeps all together."
    )
    max_preview: int = Field(100, ge=0, le=10_000, description="Removed samples that are listed; all are counted.")
