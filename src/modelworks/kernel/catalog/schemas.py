"""The wire forms of the catalog."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from modelworks.contract.media import File
from modelworks.contract.run import Level

#: used: run -> what it read · generated: run -> what it wrote · parent: version -> the version it was made from ·
#: deployed: deployment -> the version it serves. Subject first, as in "run used version".
Relation = Literal["used", "generated", "parent", "deployed"]
Direction = Literal["up", "down", "both"]

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """A list with a cursor, as OpenAI's lists: `after` is the last id of the page before."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class Version(BaseModel):
    """An immutable version: a manifest of digests and what is known about it."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: Literal["version"] = "version"
    artifact_id: str
    project_id: str
    kind: str
    name: str
    number: int
    #: sha256 of the canonical manifest: equal for equal content.
    digest: str
    files: list[File]
    num_bytes: int
    task: str | None = None
    level: Level | None = None
    licence: str | None = None
    source: str | None = None
    card: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    created_by_run: str | None = None
    created_at: datetime
    state: Literal["ready", "removed"] = "ready"
    aliases: list[str] = Field(default_factory=list)

    @property
    def ref(self) -> str:
        """The reference that will always mean this version while it exists."""
        return f"{self.name}@v{self.number}"


class VersionSummary(BaseModel):
    """A version without its files and card, for lists and trees."""

    id: str
    object: Literal["version.summary"] = "version.summary"
    kind: str
    name: str
    number: int
    digest: str
    num_files: int
    num_bytes: int
    task: str | None = None
    level: Level | None = None
    licence: str | None = None
    source: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    created_by_run: str | None = None
    created_at: datetime
    state: Literal["ready", "removed"] = "ready"
    aliases: list[str] = Field(default_factory=list)


class Artifact(BaseModel):
    """A name with its versions, newest first."""

    id: str
    object: Literal["artifact"] = "artifact"
    kind: str
    name: str
    created_at: datetime
    num_versions: int
    #: Alias -> version number.
    aliases: dict[str, int] = Field(default_factory=dict)
    latest: VersionSummary


class ArtifactDetail(BaseModel):
    """What `show` shows: the version that the reference means, its licences, and the other versions of the name."""

    object: Literal["artifact.detail"] = "artifact.detail"
    version: Version
    restrictions: Restrictions
    versions: list[VersionSummary]
    aliases: dict[str, int] = Field(default_factory=dict)


class VersionCreate(BaseModel):
    """Registers files that lie in the storage already."""

    model_config = ConfigDict(extra="forbid")

    name: str
    files: list[File] = Field(min_length=1)
    kind: str | None = None
    task: str | None = None
    level: Level | None = None
    licence: str | None = None
    source: str | None = None
    card: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    #: References of the versions it was made from.
    parents: list[str] = Field(default_factory=list)


class AliasUpdate(BaseModel):
    """Lets an alias of the reference's name point to the version that the reference means."""

    model_config = ConfigDict(extra="forbid")

    ref: str
    alias: str
    kind: str = "model"


class AliasMove(BaseModel):
    """One entry of an alias's history; `from_number` is None when it was new, `to_number` when it was removed."""

    object: Literal["alias.move"] = "alias.move"
    alias: str
    from_number: int | None
    to_number: int | None
    from_version_id: str | None
    to_version_id: str | None
    moved_at: datetime
    moved_by: str | None = None
    #: Why it was moved against the quality gate; None for every other move.
    reason: str | None = None


class Evaluation(BaseModel):
    """What a run measured: one model version on one data-set version, both by the digest of their content."""

    id: str
    object: Literal["evaluation"] = "evaluation"
    run_id: str
    capability: str | None
    task: str
    version_id: str
    model_digest: str
    dataset_version_id: str
    dataset_digest: str
    params: dict[str, Any]
    metrics: dict[str, float]
    #: The blob with one line per sample; None where the evaluator saved none.
    report_digest: str | None
    created_at: datetime


class CompareCreate(BaseModel):
    """Asks whether `candidate` is better than `baseline` on a data set."""

    model_config = ConfigDict(extra="forbid")

    baseline: str
    candidate: str
    data: str
    #: Which metric decides; the task's first one when not given.
    metric: str | None = None


Verdict = Literal["better", "worse", "undecided"]


class MetricComparison(BaseModel):
    """One metric of two models on the same samples."""

    metric: str
    lower_is_better: bool
    num_samples: int
    baseline: float
    candidate: float
    #: candidate - baseline, and the interval that holds it with 95 % confidence.
    difference: float
    low: float
    high: float
    verdict: Verdict

    @property
    def relative_loss(self) -> float:
        """By which part of the baseline the candidate is worse; negative where it is better."""
        worse_by = self.difference if self.lower_is_better else -self.difference
        if worse_by == 0:
            return 0.0
        return worse_by / abs(self.baseline) if self.baseline else math.copysign(math.inf, worse_by)


class Comparison(BaseModel):
    """Two models on one data set: the deciding metric first."""

    object: Literal["comparison"] = "comparison"
    baseline: str
    candidate: str
    data: str
    baseline_evaluation: str
    candidate_evaluation: str
    metric: str
    verdict: Verdict
    #: How much of the resampled differences the intervals hold.
    confidence: float = 0.95
    rows: list[MetricComparison]


class GateTerms(BaseModel):
    """What a promotion is judged by; a project keeps those that hold where a promotion does not say."""

    model_config = ConfigDict(extra="forbid")

    #: The held-out data set on which a version must be better.
    test: str | None = None
    #: The data set on which it must not be worse by more than `max_regression`, a part of the baseline's value.
    general: str | None = None
    max_regression: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    #: The least gain on `test`, a part of the baseline's value.
    min_gain: float | None = Field(default=None, ge=0, le=10, allow_inf_nan=False)
    #: How sure it must be that the gain is none of chance.
    confidence: float | None = Field(default=None, ge=0.5, le=0.999)
    metric: str | None = None


class Gate(GateTerms):
    """A project's terms, and who set them when."""

    object: Literal["gate"] = "gate"
    set_by: str | None = None
    updated_at: datetime | None = None


class PromotionCreate(GateTerms):
    """Asks that an alias be moved to a version, if it is good enough."""

    ref: str
    alias: str
    #: A data set of what is new since the version that the alias means: there it must be better. On `test` it is enough, then,
    #: not to be worse by more than `margin`, a part of the baseline's value (by default `max_regression`), for sure.
    news: str | None = None
    margin: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    #: Move it although the gate refuses; needs a reason, which is kept with the move.
    force: bool = False
    reason: str | None = Field(default=None, max_length=2000)


class GateCheck(BaseModel):
    """One question of the gate and its answer; `comparison` is None where an evaluation is missing."""

    role: Literal["test", "general", "news"]
    passed: bool
    sentence: str
    comparison: Comparison | None = None


class Promotion(BaseModel):
    """What the gate says, and whether the alias was moved."""

    object: Literal["promotion"] = "promotion"
    alias: str
    candidate: str
    #: What it had to beat: the version that the alias means, else the candidate's parent; None where there is neither.
    baseline: str | None
    passed: bool
    forced: bool = False
    moved: bool = False
    checks: list[GateCheck]


class Removal(BaseModel):
    """What a removal takes away. Blobs go later, when nothing else refers to them."""

    object: Literal["removal"] = "removal"
    dry_run: bool
    versions: list[VersionSummary]
    aliases: list[str]
    num_bytes: int
    #: Why it would be refused without force.
    blocked_by: list[str] = Field(default_factory=list)


class Edge(BaseModel):
    """`subject relation object`, as in "run used version"."""

    model_config = ConfigDict(frozen=True)

    subject_id: str
    relation: Relation
    object_id: str
    role: str | None = None
    created_at: datetime | None = None


class Node(BaseModel):
    """Something in the lineage; for a version with what it is."""

    id: str
    kind: Literal["model", "dataset", "run", "deployment", "artifact", "other"]
    name: str | None = None
    number: int | None = None
    task: str | None = None
    level: Level | None = None
    licence: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    state: Literal["ready", "removed"] | None = None
    created_at: datetime | None = None


class LineageGraph(BaseModel):
    """Where a version or run comes from, and what was made from it."""

    object: Literal["lineage"] = "lineage"
    root: str
    nodes: list[Node]
    edges: list[Edge]
    #: Whether the graph goes on beyond `depth`.
    truncated: bool = False


class Measured(BaseModel):
    """The newest evaluation of a model on one data set."""

    evaluation_id: str
    #: Reference of the data set's version.
    data: str
    metrics: dict[str, float]


class FamilyTree(BaseModel):
    """A model with what it was made from (`parents`), the data it saw (`datasets`) and what was made from it (`children`)."""

    object: Literal["tree"] = "tree"
    node: Node
    #: The most restrictive licence stated anywhere in its ancestry, its own included; None where nobody stated one.
    effective_licence: str | None = None
    #: Whether every model and data set of the ancestry states its licence.
    licences_complete: bool = True
    #: What it was measured on, by the data sets' names: the same names stand below every level that was measured on them.
    evaluations: list[Measured] = Field(default_factory=list)
    created_by_run: str | None = None
    datasets: list[Node] = Field(default_factory=list)
    parents: list[FamilyTree] = Field(default_factory=list)
    children: list[FamilyTree] = Field(default_factory=list)
    deployments: list[str] = Field(default_factory=list)


class LicenceOf(BaseModel):
    """The licence of one version that another descends from."""

    version_id: str
    name: str
    number: int
    kind: str
    licence: str | None
    #: self, or how it entered: parent, used.
    relation: Literal["self", "parent", "used"]


class Restrictions(BaseModel):
    """What a version's own licence and those of its parents and data sets demand together."""

    #: The most restrictive licence stated anywhere in the ancestry; None where nobody stated one.
    effective: str | None
    #: permissive · attribution · share-alike · copyleft · use-restricted · non-commercial · unknown.
    restriction: str
    licences: list[LicenceOf]
    #: Versions whose licence nobody stated.
    unstated: list[str] = Field(default_factory=list)


class SourceFile(BaseModel):
    """A file that a source offers."""

    path: str
    num_bytes: int | None = None
    #: sha256 in hex where the source tells it.
    sha256: str | None = None


class SkippedFile(BaseModel):
    """A file of the source that is not fetched, and why."""

    path: str
    reason: str


class SourceInfo(BaseModel):
    """What a source says about itself before anything is fetched."""

    object: Literal["source"] = "source"
    uri: str
    licence: str | None = None
    size_bytes: int | None = None
    files: list[SourceFile]
    skipped: list[SkippedFile] = Field(default_factory=list)
    #: A fixed revision (commit, ETag) where the source has one.
    revision: str | None = None
    task: str | None = None
    name: str | None = None


class SourceDescribe(BaseModel):
    """Asks for a source's licence and size."""

    model_config = ConfigDict(extra="forbid")

    source: str
    revision: str | None = None
    kind: str = "model"


class Preset(BaseModel):
    """A curated checkpoint or training size of a capability."""

    model_config = ConfigDict(extra="allow")

    object: Literal["preset"] = "preset"
    capability: str
    name: str
    summary: str | None = None
    task: str | None = None
    #: Where it is pulled from; None for a preset that is trained here.
    source: str | None = None
    revision: str | None = None
    licence: str | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None


class TaskInfo(BaseModel):
    """A task's declaration, with the JSON schemas of what it takes and gives."""

    name: str
    mode: str
    engines: list[str]
    metrics: list[str]
    optional_metrics: list[str] = Field(default_factory=list)
    lower_is_better: list[str] = Field(default_factory=list)
    trainable: bool
    #: Whether runs of the verbs validate and clean are offered for its data sets.
    validates_data: bool = False
    cleans_data: bool = False
    labels_data: bool = False
    evaluable: bool
    #: Whether runs of the verb quantise are offered for its models.
    quantisable: bool = False
    #: Whether its models can be written for other programs (verb export).
    exportable: bool = False
    input: dict[str, Any]
    output: dict[str, Any]
    options: dict[str, Any] | None = None
    train_params: dict[str, Any] | None = None
    evaluate_params: dict[str, Any] | None = None
    quantise_params: dict[str, Any] | None = None
    export_params: dict[str, Any] | None = None
    resources: dict[str, float]


class CapabilityInfo(BaseModel):
    """A capability's declaration."""

    object: Literal["capability"] = "capability"
    name: str
    summary: str
    extra: str | None = None
    tasks: list[TaskInfo]


ArtifactDetail.model_rebuild()
