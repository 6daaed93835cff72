"""What a run is asked to do, what is known of it, and what is handed to its worker."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelworks.contract.capability import Resources
from modelworks.contract.estimate import Estimate
from modelworks.contract.media import File
from modelworks.contract.run import Level, Verb
from modelworks.kernel.base.parameters import Parameters
from modelworks.kernel.jobs.environment import RunEnvironment

#: OpenAI's fine-tuning states.
RunState = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
ACTIVE: tuple[str, ...] = ("queued", "running")

InputKind = Literal["model", "dataset", "deployment"]


class ResourcesOverride(BaseModel):
    """Replaces single values of the task's declared resources."""

    model_config = ConfigDict(extra="forbid")

    cpu: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    memory_bytes: int | None = Field(default=None, gt=0)
    gpu: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    #: Processes that share a training, each with the above; needs a task whose trainer is distributed.
    workers: int | None = Field(default=None, ge=1, le=4096)

    def over(self, declared: Resources) -> Resources:
        """The declared resources with the given values in their place.

        Raises:
            ValueError: they do not go together.
        """
        return Resources(
            workers=declared.workers if self.workers is None else self.workers,
            cpu=declared.cpu if self.cpu is None else self.cpu,
            memory_bytes=declared.memory_bytes if self.memory_bytes is None else self.memory_bytes,
            gpu=declared.gpu if self.gpu is None else self.gpu,
        )


class JobSpec(BaseModel):
    """A wish for a run.

    `inputs` names models and data sets by role: `{"base": "name@alias", "train": "dataset:corpus@v2"}`. A plain reference is
    looked up as a model for the roles base, model, teacher and draft, as a data set otherwise, then as the other kind; the
    prefixes `model:` and `dataset:` say it outright, and `deployment:` names a deployed model that the run may ask. For the
    verb batch, `params` is the task's input. The verbs validate, clean and label read the data set of the role data; clean
    without `output_name` only says what it would take away, label asks the deployment of the role teacher. In a dry run an
    empty reference stands for what is uploaded only for the run itself.
    """

    model_config = ConfigDict(extra="forbid")

    verb: Verb
    capability: str | None = None
    task: str | None = None
    inputs: dict[str, str] = Field(default_factory=dict, max_length=64)
    params: Parameters = Field(default_factory=dict)
    output_name: str | None = Field(default=None, max_length=128)
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    resources: ResourcesOverride | None = None
    #: Queue a training although it is estimated to need more memory than it may have.
    force: bool = False


class RunInput(BaseModel):
    """One resolved input: the exact version that every attempt reads. A deployment answers with whatever it serves then."""

    kind: InputKind
    ref: str
    version_id: str | None


class RunOutput(BaseModel):
    """A version that the run made."""

    kind: str
    name: str
    version_id: str
    number: int


class RunRecord(BaseModel):
    """A run as clients see it."""

    object: Literal["run"] = "run"
    id: str
    project_id: str
    capability: str | None
    task: str | None
    verb: Verb
    inputs: dict[str, RunInput]
    params: dict[str, Any]
    output_name: str | None
    state: RunState
    executor: str
    attempt: int
    max_attempts: int
    seed: int
    resources: dict[str, float]
    progress: dict[str, Any] | None
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    outputs: list[RunOutput]
    has_checkpoint: bool
    key_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    heartbeat_at: datetime | None
    cancel_requested_at: datetime | None
    #: What a training will need; told when it is submitted, and kept as the run's event "estimate".
    estimate: Estimate | None = None
    #: What it computed with (libraries, processor, threads); told where one run is asked for, once an attempt has ended.
    environment: RunEnvironment | None = None
    #: The run that it repeats, where it does.
    repeats: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens unless it is resumed."""
        return self.state in TERMINAL


class RunEvent(BaseModel):
    """Something that happened to a run; `seq` rises over all attempts."""

    object: Literal["run.event"] = "run.event"
    run_id: str
    seq: int
    attempt: int
    time: datetime
    type: str
    data: dict[str, Any]


class MetricPoint(BaseModel):
    """One point of one curve."""

    step: int
    name: str
    value: float


class LaunchInput(BaseModel):
    """An input with everything a worker needs to put it on its disk."""

    kind: InputKind
    ref: str
    version_id: str
    digest: str
    files: list[File]
    task: str | None = None
    level: Level | None = None
    licence: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class GangSpec(BaseModel):
    """The workers that share an attempt; `cpu`, `memory_bytes` and `gpu` are of each of them."""

    workers: int = Field(ge=2)
    cpu: float
    memory_bytes: int
    gpu: float
    #: True: a Ray of the attempt's own on this machine. False: the cluster that the attempt runs on.
    embedded: bool


class LaunchSpec(BaseModel):
    """One attempt, complete: a worker needs this, the storage and nothing else. Holds secrets: never logged."""

    run_id: str
    attempt: int
    verb: Verb
    capability: str | None
    task: str | None
    params: dict[str, Any]
    seed: int
    #: The run has no name for a result: it only says what it would make.
    dry_run: bool = False
    inputs: dict[str, LaunchInput]
    #: Names of the deployments that may be asked, by role, where the server is, and the attempt's key for them.
    deployments: dict[str, str] = Field(default_factory=dict)
    api_url: str | None = None
    api_key: str | None = None
    #: What only the attempt is told (credentials, what is known of a source); never stored with the run.
    told: dict[str, Any] = Field(default_factory=dict)
    checkpoint: list[File] | None
    storage_url: str
    storage_options: dict[str, Any]
    #: Folder for materialised versions, shared by all runs of a machine; None: the attempt's own folder.
    cache_dir: str | None
    heartbeat_s: float
    #: More than one: that many Ray Train workers share the attempt (see `gang`).
    gang: GangSpec | None = None
    #: Settings that code of the kernel reads in the worker (MODELWORKS_…).
    environment: dict[str, str] = Field(default_factory=dict)


class IngestReply(BaseModel):
    """The server's answer to shipped events.

    `stale` tells a worker that another attempt has taken its place: it must stop at once and write nothing more.
    """

    journal_seq: int
    cancel: bool
    stale: bool = False
