"""The one door from capability code to the kernel. What is read and written through it *is* the lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from modelworks.contract.deployment import Deployment

#: L0: a base model · L1: an industry model made from an L0 · L2: a scenario model, tuned for one task.
Level = Literal["L0", "L1", "L2"]

#: What a run may do. `batch` and mode `job` call the task's predictor; `pull` and `ingest` belong to the kernel; `validate` and
#: `clean` look at a data set, and `clean` makes a new one, as does `label`, in which a deployed model writes the answers;
#: `quantise` makes smaller versions of a model, `export` writes one for other programs.
Verb = Literal["pull", "ingest", "label", "validate", "clean", "train", "evaluate", "quantise", "export", "batch"]


class LocalModel(BaseModel):
    """A model version, materialised as a read-only folder on this machine."""

    model_config = ConfigDict(frozen=True)

    ref: str
    version_id: str
    path: Path
    digest: str
    task: str | None = None
    level: Level | None = None
    licence: str | None = None
    #: What the trainer that saved it wrote with `save(..., metadata=…)`.
    metadata: dict[str, Any] = Field(default_factory=dict)


class LocalDataset(BaseModel):
    """A data-set version, materialised as a read-only folder on this machine."""

    model_config = ConfigDict(frozen=True)

    ref: str
    version_id: str
    path: Path
    digest: str
    licence: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """The processes that share one run, and which of them this is."""

    #: From 0; the first one's words are the run's.
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"there is no rank {self.rank} in a world of {self.size}")

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for the run."""
        return self.rank == 0


@runtime_checkable
class Run(Protocol):
    """One run of a trainer, an evaluator or a job predictor, on whatever executor.

    After a crash the kernel starts a new attempt of the same run: `id`, `seed` and the inputs are the same, `workdir` is
    fresh, and `resume_from` is the folder last given to `checkpoint`.

    A trainer whose task is declared `distributed` may be called in several processes at a time, on one machine or many
    (`world`). torch's default process group is then set up: gloo for tensors in main memory, NCCL for those on accelerators.
    All of them call this door at the same places. What the first one logs, checkpoints and saves is taken, the same calls of
    the others do nothing; `workdir` is each process's own; `raise_if_cancelled` raises in all of them or in none.
    """

    @property
    def id(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def workdir(self) -> Path:
        """An empty, writable folder that is deleted when the attempt is over."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        ...

    @property
    def world(self) -> World:
        """The processes that share this run; alone unless the run asked for workers."""
        ...

    @property
    def resume_from(self) -> Path | None:
        """The last checkpoint of this run (a folder with the same content), or None on a first attempt."""
        ...

    def model(self, role: str = "base") -> LocalModel:
        """The model given under that role; records "used". Raises NotFound where the run has no such input."""
        ...

    def dataset(self, role: str = "train") -> LocalDataset:
        """The data set given under that role; records "used". Raises NotFound where the run has no such input."""
        ...

    def deployment(self, role: str = "teacher") -> Deployment:
        """The deployment given under that role; each version that answers is recorded as "used". Raises NotFound."""
        ...

    def has_input(self, role: str) -> bool:
        """Whether an optional model, data set or deployment was given under that role."""
        ...

    def log(self, step: int, **metrics: float) -> None:
        """Add a point to the run's curves."""
        ...

    def progress(self, done: float, total: float, what: str) -> None:
        """Say how far the run is, in the unit `what` (steps, tokens, pages)."""
        ...

    def checkpoint(self, path: Path) -> None:
        """Store a folder so that a later attempt starts from it; the previous checkpoint may then be dropped."""
        ...

    def save(self, path: Path, *, kind: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Store a file or folder as a result of this run; records "generated".

        `kind` is "model", "dataset" or any other noun ("report", "grid", "scene"). Known metadata keys: `task`, `level`,
        `metrics`, `licence`; the rest is kept as given.
        """
        ...

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` when the user has asked to stop; call it between steps."""
        ...
