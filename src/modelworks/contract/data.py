"""What a capability says about a data set: its faults and size before a training, and what cleaning took away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

#: Told how many of how many bytes are done; raises `Cancelled` where the user has asked to stop.
OnProgress = Callable[[float, float], None]


def ignore_progress(done: float, total: float) -> None:
    """For a caller that does not want to know."""


class DataFault(BaseModel):
    """Something wrong at one place of a data set. An error makes the sample unusable, a warning does not."""

    file: str
    #: Counted from 1; of a table the row where it has no lines; None where the whole file is meant.
    line: int | None
    #: The dotted path inside the record, as in `messages.1.role`.
    field: str | None
    code: str
    severity: Literal["error", "warning"]
    message: str
    #: What to do about it.
    hint: str


class SizeStatistics(BaseModel):
    """How large the samples are, in the unit that a training is paid in."""

    unit: str = "tokens"
    total: int = 0
    #: Those that a training learns from: the answers of a conversation.
    learnt: int = 0
    shortest: int = 0
    median: int = 0
    p95: int = 0
    longest: int = 0
    #: True: worked out from the number of characters, because no model was given or its tokenizer could not be used.
    is_estimate: bool = True


class DataReport(BaseModel):
    """What `Task.validator` returns: every fault (listed up to a bound, counted all), and what a training would read."""

    object: Literal["data_report"] = "data_report"
    num_files: int
    num_bytes: int
    #: Usable samples by kind ("chat", "preference", "text").
    samples: dict[str, int]
    num_errors: int
    num_warnings: int
    #: How often each code was found.
    faults_by_code: dict[str, int]
    faults: list[DataFault]
    size: SizeStatistics
    epochs: int
    #: What a training over these epochs reads, in the unit of `size`.
    cost: int
    #: False where a limit of time or number ended the check early; a note says which.
    is_complete: bool = True
    notes: list[str] = Field(default_factory=list)


class Removed(BaseModel):
    """One sample that cleaning takes away, and why."""

    file: str
    line: int
    #: fault · duplicate · near_duplicate · contamination, or another rule of the cleaner
    reason: str
    detail: str
    #: The sample that it is a copy of, as file:line.
    like: str | None = None
    #: How alike the two are, 0 to 1.
    similarity: float | None = None
    excerpt: str


class CleanReport(BaseModel):
    """What `Task.cleaner` returns."""

    object: Literal["clean_report"] = "clean_report"
    num_read: int
    #: Samples by the part they went to ("train", "validation").
    kept: dict[str, int]
    #: Samples taken away, by reason.
    removed: dict[str, int]
    #: The first of them; `removed` counts all.
    preview: list[Removed]
    #: Samples that are kept with another text, by reason.
    changed: dict[str, int] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class DataValidator(Protocol):
    """What `Task.validator` names: reads a folder that may hold anything, within the limits that its parameters state.

    `model` is the folder of the model whose units are counted. It must be light: the command line calls it too.
    """

    def __call__(
        self, folder: Path, params: Any, *, model: Path | None = None, on_progress: OnProgress = ignore_progress
    ) -> DataReport: ...


class DataCleaner(Protocol):
    """What `Task.cleaner` names: reads a folder, and writes each part that is kept as a folder under `into`.

    `test` is a data set that nothing kept may give away. With `into` None nothing is written, and the report is the same.
    """

    def __call__(
        self,
        folder: Path,
        params: Any,
        *,
        test: Path | None = None,
        into: Path | None = None,
        on_progress: OnProgress = ignore_progress,
    ) -> CleanReport: ...
