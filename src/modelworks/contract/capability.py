"""What a capability declares: light enough to be imported in every process, heavy code named by import path."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from modelworks.contract.adapter import AdapterHost
from modelworks.contract.errors import InvalidData

#: `package.module:attribute`: resolved only in the process that runs it.
ImportPath = str

#: sync: an answer (classify) · stream: events (chat) · job: 202 and a run id (forecast) ·
#: static: a finished artifact, published as files, with no replica (a 3D scene).
Mode = Literal["sync", "stream", "job", "static"]

#: The entry-point group through which the kernel finds capabilities, ours and third parties' alike.
ENTRY_POINT_GROUP = "modelworks.capabilities"

_IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_NAME = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What one run or one replica occupies: cores, bytes, whole or fractional accelerators, each times `workers`."""

    cpu: float = 1.0
    memory_bytes: int = 1 << 30
    gpu: float = 0.0
    #: Processes that share a training; each of them occupies the above.
    workers: int = 1

    def __post_init__(self) -> None:
        if self.cpu <= 0 or self.memory_bytes <= 0 or self.gpu < 0 or self.workers < 1:
            raise ValueError(f"resources must be positive: {self}")
        if self.workers > 1 and self.gpu % 1:
            raise ValueError(f"each of several workers needs whole accelerators: {self}")

    @property
    def total(self) -> Resources:
        """What all workers occupy together."""
        count = self.workers
        return Resources(cpu=count * self.cpu, memory_bytes=count * self.memory_bytes, gpu=count * self.gpu)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One thing a capability does, over its whole life cycle."""

    #: The Hugging Face pipeline tag where one exists: "object-detection".
    name: str
    input: type[BaseModel]
    output: type[BaseModel]
    #: The default predictor class (modes sync and stream), or the job function (mode job). None for mode static.
    predictor: ImportPath | None = None
    mode: Mode = "sync"
    #: Further predictor classes by engine name: {"transformers": "…serve:TransformersGenerator"}.
    predictors: Mapping[str, ImportPath] = field(default_factory=dict)
    #: Functions that return a `ServerCommand` by engine name: processes that already speak OpenAI's protocol.
    servers: Mapping[str, ImportPath] = field(default_factory=dict)
    #: Options of a deployment (context length, precision …), validated before anything starts.
    options: type[BaseModel] | None = None
    #: A `contract.data.DataValidator`: says what is wrong with a data set before anything is spent. Light.
    validator: ImportPath | None = None
    validate_params: type[BaseModel] | None = None
    #: A `contract.data.DataCleaner`: takes copies and leaked test data out of a data set. Light.
    cleaner: ImportPath | None = None
    clean_params: type[BaseModel] | None = None
    #: A `contract.predictor.Labeler`: a deployed model writes the answers of a data set.
    labeler: ImportPath | None = None
    label_params: type[BaseModel] | None = None
    #: A `contract.grading.GraderOpener`: judges answers of this task's models. Light.
    grader: ImportPath | None = None
    trainer: ImportPath | None = None
    train_params: type[BaseModel] | None = None
    #: A `contract.estimate.Estimator`: says before a training is queued what it will need. Light.
    estimator: ImportPath | None = None
    #: Roles that a training must be given: a run without one of them is refused before it is queued.
    train_inputs: tuple[str, ...] = ()
    #: A `contract.predictor.Quantiser`: makes smaller versions of a model, and says what each costs.
    quantiser: ImportPath | None = None
    quantise_params: type[BaseModel] | None = None
    #: The trainer can share one training with further processes (see `Run.world`).
    distributed: bool = False
    #: A `contract.predictor.Exporter`: writes a model for other programs.
    exporter: ImportPath | None = None
    export_params: type[BaseModel] | None = None
    #: `contract.predictor.Importer`s by the ending of a file's name (".gguf") that makes fetched files their business.
    importers: Mapping[str, ImportPath] = field(default_factory=dict)
    evaluator: ImportPath | None = None
    evaluate_params: type[BaseModel] | None = None
    #: The evaluator returns each of these; the first one is what versions are compared by. Data that give none of them
    #: (questions without answers have no likelihood) are measured by optional ones alone.
    metrics: tuple[str, ...] = ()
    #: The evaluator may return these as well, where the data ask for it (exact match needs reference answers).
    optional_metrics: tuple[str, ...] = ()
    #: Those of either kind that improve by getting smaller; the others improve by growing.
    lower_is_better: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"task name {self.name!r} must be lower-case words joined by hyphens")
        functions = (
            self.predictor,
            self.trainer,
            self.evaluator,
            self.validator,
            self.cleaner,
            self.labeler,
            self.estimator,
            self.grader,
            self.quantiser,
            self.exporter,
        )
        paths = [*functions, *self.predictors.values(), *self.servers.values(), *self.importers.values()]
        for path in paths:
            if path is not None and not _IMPORT_PATH.match(path):
                raise ValueError(f"{path!r} is not an import path of the form package.module:attribute")
        if self.mode == "static" and self.predictor is not None:
            raise ValueError(f"task {self.name!r}: a static task publishes files and has no predictor")
        if self.mode != "static" and self.predictor is None:
            raise ValueError(f"task {self.name!r}: mode {self.mode!r} needs a predictor")
        if self.trainer is not None and self.train_params is None:
            raise ValueError(f"task {self.name!r}: a trainer needs train_params")
        if self.distributed and self.trainer is None:
            raise ValueError(f"task {self.name!r}: only a trainer can be distributed")
        if (self.evaluator is None) != (not self.metrics):
            raise ValueError(f"task {self.name!r}: an evaluator and its metrics are declared together")
        declared = (*self.metrics, *self.optional_metrics)
        if len(set(declared)) != len(declared):
            raise ValueError(f"task {self.name!r} declares a metric twice: {declared}")
        if not set(self.lower_is_better) <= set(declared):
            raise ValueError(f"task {self.name!r}: lower_is_better names {set(self.lower_is_better) - set(declared)}")

    def check_metrics(self, found: Collection[str]) -> None:
        """Raise InvalidData (code `metrics_mismatch`) unless the metrics found are those declared, or optional ones alone."""
        is_whole = set(self.metrics) <= set(found) or (found and set(found) <= set(self.optional_metrics))
        if not is_whole or not set(found) <= {*self.metrics, *self.optional_metrics}:
            raise InvalidData(
                f"The evaluator of {self.name!r} returned {', '.join(sorted(found)) or 'nothing'}, "
                f"but the task declares {', '.join(sorted(self.metrics))}"
                + (f", and as optional {', '.join(sorted(self.optional_metrics))}." if self.optional_metrics else "."),
                hint="Make the evaluator return every declared metric, and none beside the optional ones.",
                code="metrics_mismatch",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """A folder's declaration, found by entry point."""

    name: str
    summary: str
    tasks: tuple[Task, ...]
    #: The package that holds presets.toml and README.md.
    package: str
    #: The extra that brings its heavy libraries; None where it needs none.
    extra: str | None = None
    #: The package's folder of files that browsers are given at /pages/{name}/, to anybody: no secret, nobody's data.
    page: str | None = None

    def __post_init__(self) -> None:
        if self.page is not None and not _NAME.match(self.page):
            raise ValueError(f"the page of capability {self.name!r} is a folder of its package, not {self.page!r}")
        if not _NAME.match(self.name):
            raise ValueError(f"capability name {self.name!r} must be lower-case words joined by hyphens")
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"capability {self.name!r} declares a task twice: {names}")
        if not names:
            raise ValueError(f"capability {self.name!r} declares no task")

    def task(self, name: str) -> Task | None:
        """The task of that name, or None."""
        return next((task for task in self.tasks if task.name == name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerCommand:
    """How to start a process that speaks OpenAI's protocol (vLLM, llama.cpp), on a port the kernel chose.

    `argv` and `env` may contain `{port}`. `model` is the name that process knows the model by.
    """

    argv: tuple[str, ...]
    model: str
    env: Mapping[str, str] = field(default_factory=dict)
    health_path: str = "/health"
    #: Path prefix of the protocol on that port.
    api_path: str = "/v1"
    start_timeout_s: float = 600.0
    #: Opens what loads adapters into the running process, given the URL of its protocol (`http://127.0.0.1:8000/v1`). The
    #: process answers a request with an adapter when `model` is its version's id. None: it holds no adapters.
    adapters: Callable[[str], AdapterHost] | None = None
