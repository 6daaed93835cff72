"""What the toys take and give."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from modelworks.contract.media import TableRef


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SpellingInput(Strict):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "The pump stopped."}]})

    text: str = Field(min_length=1, description="A text.")


class SpellingOutput(BaseModel):
    unknown: list[str] = Field(description="Words that the model has not seen.")


class SpellingParams(Strict):
    words_per_step: int = Field(default=100, ge=1, description="Words read per step.")
    pause_s: float = Field(default=0.0, ge=0, le=10, description="Pause before each step, for tests that interrupt.")


class SpellingOptions(Strict):
    ignore_case: bool = Field(default=True, description="Whether The and the are one word.")


class CountdownInput(Strict):
    start: int = Field(ge=0, le=100_000, description="The first number.")
    pause_s: float = Field(default=0.0, ge=0, le=10, description="Pause before each number.")
    fail_at: int | None = Field(default=None, description="Fail when this number is reached.")
    closed_file: str | None = Field(default=None, description="A file to write the last number into when the stream is closed.")


class CountdownOutput(BaseModel):
    value: int


class TideInput(Strict):
    hours: int = Field(ge=1, le=1000, description="Length of the table.")
    range_m: float = Field(default=2.0, gt=0, description="Metres between low and high water.")


class TideOutput(BaseModel):
    highest_m: float
    table: TableRef | None = None


class SceneInput(Strict):
    pass


class SceneOutput(BaseModel):
    files: list[str] = Field(default_factory=list)


class SceneParams(Strict):
    width: int = Field(default=64, ge=8, le=512, description="Width of the picture in pixels.")
