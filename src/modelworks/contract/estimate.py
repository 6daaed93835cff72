"""What a training will need, said before it is queued."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field


class Estimate(BaseModel):
    """What `Task.estimator` returns."""

    object: Literal["estimate"] = "estimate"
    #: The largest memory of the run's process, its libraries included.
    memory_bytes: int
    #: What it is made of, by name ("weights", "activations"); not all are there at the same moment.
    parts: dict[str, int] = Field(default_factory=dict)
    #: A rough time on the cores that the run asks for; None where nothing is known.
    seconds: float | None = None
    #: What to change where it is too much, the best first.
    hints: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class TrainingInputs(Protocol):
    """What an estimator may look at without reading all of it."""

    def has(self, role: str) -> bool:
        """Whether there is an input of that role."""
        ...

    def sizes(self, role: str) -> Mapping[str, int]:
        """Bytes of each file by its path."""
        ...

    def read(self, role: str, path: str) -> bytes | None:
        """A small file (16 MiB at most); None where there is none, or it is larger."""
        ...

    def folder(self, role: str) -> Path | None:
        """All files as a folder to read; None where they are too many bytes to be looked at now."""
        ...


class Estimator(Protocol):
    """What `Task.estimator` names. Light: the server calls it while a training is submitted.

    Returns None where nothing can be said. `cpu` is the number of cores that the run asks for.

    Raises:
        InvalidRequest: an input is missing that these parameters need.
    """

    def __call__(self, params: Any, inputs: TrainingInputs, cpu: float) -> Estimate | None: ...
