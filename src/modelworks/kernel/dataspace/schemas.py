"""What is asked of data spaces and what is shown of them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from modelworks.contract.passages import Cleaned, Fault
from modelworks.kernel.base.parameters import Parameters

SpaceState = Literal["empty", "pending", "building", "ready", "failed", "expired"]
DocumentState = Literal["pending", "parsing", "indexed", "failed", "removed"]
BuildStep = Literal["documents", "parsing", "cleaning", "indexing", "deploying", "done"]
LearningStep = Literal["samples", "training", "combining", "measuring", "judging", "deploying", "done"]
LearningState = Literal["running", "succeeded", "refused", "failed", "cancelled", "rolled_back"]
BuildState = Literal["running", "succeeded", "failed", "cancelled"]
Change = Literal["added", "updated", "unchanged"]
Policy = Literal["keep", "mask", "drop"]
#: What OpenAI lets a vector store's file say of itself: 16 values.
Attribute = Annotated[str, Field(max_length=512)] | bool | float
MAX_ATTRIBUTES, MAX_ATTRIBUTE_CHARS = 16, 64
#: Into so many shards at most the documents that a model learns from are divided.
MOST_SHARDS = 16


def _attributes(found: dict[str, Any]) -> dict[str, Any]:
    if len(found) > MAX_ATTRIBUTES:
        raise ValueError(f"at most {MAX_ATTRIBUTES} attributes are kept")
    for name in found:
        if not 0 < len(name) <= MAX_ATTRIBUTE_CHARS:
            raise ValueError(f"an attribute's name has 1 to {MAX_ATTRIBUTE_CHARS} characters")
    return found


def _name(name: str) -> str:
    name = unicodedata.normalize("NFC", name).strip()
    if not name or not name.isprintable() or set(name) & set("/:") or name.startswith("vs_"):
        raise ValueError("use printable characters without '/' and ':', and not the form of an id (vs_…)")
    return name


Attributes = Annotated[dict[str, Attribute], AfterValidator(_attributes)]
SpaceName = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_name)]
Deployed = Annotated[str, Field(min_length=1, max_length=128)]


class AnsweringSettings(BaseModel):
    """How the model `space:NAME` answers."""

    model_config = ConfigDict(extra="forbid")

    #: What becomes of a sentence that no passage supports.
    unsupported: Literal["remove", "mark"] = "remove"
    #: Passages that an answer is made from.
    passages: int = Field(default=6, ge=1, le=20)
    #: The share of a question's words that a passage must have to be answered from; None: what was measured to be best.
    least_coverage: float | None = Field(default=None, ge=0, le=1)
    #: So long it is known which passages, index and model an answer rests on; 0: it is not kept at all.
    keep_days: float = Field(default=30.0, ge=0, le=3650, allow_inf_nan=False)
    #: Whether questions about tables are computed: by rules, where these leave one by a query that the space's language model
    #: describes, too, or not at all.
    tables: Literal["rules", "model", "off"] = "rules"


class LearningSettings(BaseModel):
    """How a space makes a model of its own, and what that may cost."""

    model_config = ConfigDict(extra="forbid")

    #: Learn by itself after a build, when something has changed …
    automatic: bool = False
    #: … but not sooner than so many hours after the last time.
    every_h: float = Field(default=24.0, ge=0, le=8760, allow_inf_nan=False)
    #: The budget of one time: steps of the training, samples, and passages that the language model is asked about.
    max_steps: int = Field(default=300, ge=1, le=10_000_000)
    max_samples: int = Field(default=1000, ge=10, le=1_000_000)
    max_questions: int = Field(default=100, ge=0, le=1_000_000)
    #: About which part of the documents is held out to be measured on.
    test_share: float = Field(default=0.2, gt=0, lt=1)
    #: Held-out questions that are answered in full, by each model that is measured.
    max_answers: int = Field(default=20, ge=0, le=10_000)
    #: A data set on which the model must not become worse; by default the one of the project's gate.
    general: str | None = Field(default=None, max_length=256)
    #: What it is judged by; by default what the project's gate says, else the likelihood of the right answers.
    metric: str | None = Field(default=None, max_length=64)
    #: What becomes of a model that was trained on a document that is forgotten: the space stops answering with it at once, or
    #: goes on until another one is learned.
    tainted: Literal["withdraw", "keep"] = "withdraw"
    #: Adapters that are trained apart, each on documents of its own, and served as one: forgetting a document trains one of
    #: them anew. By default by the number of documents; 1 for a small space.
    shards: int | None = Field(default=None, ge=1, le=MOST_SHARDS)
    #: Go on from the adapter that answers, with known samples among the new ones, where documents were only added or changed.
    go_on: bool = True
    #: By which part one that goes on may be worse on the held-out documents at most; by default the gate's max_regression.
    margin: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    #: Ids of feedback whose corrections are learned (`modelworks space accept`), and samples that are made of each.
    corrections: list[Annotated[str, Field(min_length=1, max_length=40)]] = Field(default_factory=list, max_length=10_000)
    correction_repeats: int = Field(default=2, ge=1, le=100)
    #: Further parameters of the training of a low-rank adapter, such as rank and learning_rate.
    training: Parameters = Field(default_factory=dict, max_length=32)


class PersonalDataSettings(BaseModel):
    """What becomes of personal data in passages, by kind: `[email]` stands in its place, or the passage goes."""

    model_config = ConfigDict(extra="forbid")

    email: Policy = "keep"
    phone: Policy = "keep"
    id_number: Policy = "keep"
    bank_card: Policy = "keep"
    iban: Policy = "keep"

    @property
    def has_work(self) -> bool:
        """Whether some kind is masked or taken."""
        return self != PersonalDataSettings()


class CleaningSettings(BaseModel):
    """What is taken out of passages before they are indexed and learned from: parameters of the verb clean of document-parsing.

    Every rule is off but for copies, to the letter and in the same place, inside one document. The parsed passages stay:
    a rule that is switched off brings back what it took.
    """

    model_config = ConfigDict(extra="forbid")

    #: document: copies inside one document. True: all passages that say the same in the same words as an earlier one.
    duplicates: bool | Literal["document"] = "document"
    #: The share of common shingles from which on a passage is a near copy.
    similarity: float | None = Field(default=None, gt=0.3, le=1.0)
    #: Lines that stand in more than this share of documents, but in so many at least.
    boilerplate_share: float | None = Field(default=None, gt=0, le=1.0)
    boilerplate_documents: int = Field(default=3, ge=2)
    personal_data: PersonalDataSettings = Field(default_factory=PersonalDataSettings)
    #: Keep passages of these (zh, en), and those whose language is not known.
    languages: list[Annotated[str, Field(min_length=1, max_length=35)]] | None = Field(default=None, max_length=50)
    #: Keep longer ones alone, and those with a smaller share of signs; tables and code stay.
    min_chars: int = Field(default=0, ge=0)
    max_symbol_share: float | None = Field(default=None, gt=0, le=1)
    #: Keep documents under these licences alone (mit, cc-by-*; unknown: those that say none).
    licences: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(default=None, max_length=100)

    def has_work(self, *, copies: bool) -> bool:
        """Whether a rule may do something; `copies`: whether some document says a thing twice."""
        if self.duplicates == "document" and copies:
            return True
        rest = self.model_copy(update={"duplicates": False, "boilerplate_documents": 3})
        return self.duplicates is True or rest != CleaningSettings(duplicates=False)


#: Without any rule: what is parsed is indexed.
UNCLEANED = CleaningSettings(duplicates=False)


class SpaceSettings(BaseModel):
    """What a space is built and answers with."""

    model_config = ConfigDict(extra="forbid")

    #: Deployments by name. Without a language model it answers by quoting, without an encoder it searches words alone.
    language_model: Deployed | None = None
    encoder: Deployed | None = None
    reranker: Deployed | None = None
    #: Parameters of the task document-parsing, such as the sizes of passages.
    parsing: Parameters = Field(default_factory=dict, max_length=32)
    cleaning: CleaningSettings = Field(default_factory=CleaningSettings)
    #: Parameters of the training of passage-retrieval.
    index: Parameters = Field(default_factory=dict, max_length=32)
    #: What the client of /v1/vector_stores said about sizes, in its own words.
    chunking_strategy: Parameters | None = None
    answering: AnsweringSettings = Field(default_factory=AnsweringSettings)
    learning: LearningSettings = Field(default_factory=LearningSettings)


#: A change of one of these asks for another index.
BUILT_WITH = ("encoder", "parsing", "cleaning", "index")


class SpaceCreate(BaseModel):
    """POST /api/spaces."""

    model_config = ConfigDict(extra="forbid")

    #: By default the space's id.
    name: SpaceName | None = None
    description: str | None = Field(default=None, max_length=4096)
    metadata: dict[str, Annotated[str, Field(max_length=512)]] = Field(default_factory=dict, max_length=16)
    settings: SpaceSettings = Field(default_factory=SpaceSettings)
    #: It ends so many days after its last use.
    expires_after_days: int | None = Field(default=None, ge=1, le=365)


class SpaceUpdate(BaseModel):
    """PATCH /api/spaces/{space}: what is not given stays; `settings` is taken as a whole."""

    model_config = ConfigDict(extra="forbid")

    name: SpaceName | None = None
    description: str | None = Field(default=None, max_length=4096)
    metadata: dict[str, Annotated[str, Field(max_length=512)]] | None = Field(default=None, max_length=16)
    settings: SpaceSettings | None = None
    #: 0: it does not end any more.
    expires_after_days: int | None = Field(default=None, ge=0, le=365)


class DocumentCounts(BaseModel):
    """Documents of a space by state."""

    pending: int = 0
    parsing: int = 0
    indexed: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All that are there."""
        return self.pending + self.parsing + self.indexed + self.failed


class Build(BaseModel):
    """One way from documents to an index that answers: the documents as a data set, parsing, cleaning, indexing, deploying."""

    object: Literal["space.build"] = "space.build"
    id: str
    space_id: str
    revision: int
    state: BuildState
    step: BuildStep
    #: Its runs; their logs and curves are shown at /api/runs.
    parsing_run_id: str | None
    cleaning_run_id: str | None
    indexing_run_id: str | None
    documents_version_id: str | None
    #: As they were parsed, and what cleaning left of them; None where there was nothing to clean.
    passages_version_id: str | None
    clean_version_id: str | None
    index_version_id: str | None
    counts: dict[str, Any]
    #: Of the current step's run: done, total and their unit.
    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None


class LearningResult(BaseModel):
    """One metric on one data set, without the adapter and with it."""

    #: test: the held-out questions. general: what it must not become worse at.
    data: Literal["test", "general"]
    metric: str
    lower_is_better: bool
    num_samples: int
    before: float
    after: float
    #: after - before, and the interval that holds it with the gate's confidence.
    difference: float
    low: float
    high: float
    verdict: str


class LearningShard(BaseModel):
    """One part of the documents that a model learns from, and its adapter."""

    number: int
    #: anew: from the base. continued: from the adapter `from_version_id`. kept: that adapter, as its samples are the same.
    way: Literal["anew", "continued", "kept"]
    samples_version_id: str
    #: A digest of what the adapter is a function of.
    key: str
    num_samples: int
    #: Those that are new, and the data set that holds them, where it goes on.
    num_fresh: int = 0
    new_version_id: str | None = None
    from_version_id: str | None = None
    adapter_version_id: str | None = None
    #: Ids of documents that it was trained on and that were forgotten since.
    tainted_by: list[str] = Field(default_factory=list)


class LearningPreview(BaseModel):
    """What would be learned from now."""

    object: Literal["space.learning.preview"] = "space.learning.preview"
    space_id: str
    name: str
    base: str
    base_version_id: str
    #: Documents whose passages are there, and those of them that are left out, as not everybody may read them.
    num_documents: int
    num_closed: int
    num_shards: int
    #: Accepted corrections, those that nobody has accepted, and answers that readers found wrong and did not correct.
    num_corrections: int
    num_unaccepted: int
    num_rejected: int
    #: Whether it may go on from the model that answers: whether it does depends on what has changed.
    may_go_on: bool


class Learning(BaseModel):
    """One way from passages to a model of the space's own: samples, training, measuring, the gate, deploying."""

    object: Literal["space.learning"] = "space.learning"
    id: str
    space_id: str
    revision: int
    state: LearningState
    step: LearningStep
    is_automatic: bool
    #: The deployment whose model learns, and its version.
    base: str
    base_version_id: str
    #: The name under which the result answers.
    model: str
    passages_version_id: str
    samples_version_id: str | None
    test_version_id: str | None
    adapter_version_id: str | None
    #: By what they do; their logs and curves are shown at /api/runs.
    runs: dict[str, str]
    counts: dict[str, Any]
    results: list[LearningResult]
    #: What the gate said, in sentences.
    judgement: list[str]
    #: Its parts, once there are samples; one alone where the documents are not divided.
    shards: list[LearningShard] = Field(default_factory=list)
    #: Ids of documents that it was trained on and that were forgotten since.
    tainted_by: list[str] = Field(default_factory=list)
    #: Of the current step's run: done, total and their unit.
    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None


class Space(BaseModel):
    """A data space as its project sees it."""

    object: Literal["space"] = "space"
    id: str
    name: str
    description: str | None
    metadata: dict[str, str]
    settings: SpaceSettings
    state: SpaceState
    #: Whether the index that answers has taken in every change.
    is_current: bool
    documents: DocumentCounts
    num_bytes: int
    num_passages: int
    documents_version_id: str | None
    #: As they were parsed; what is indexed and learned from where they were cleaned.
    passages_version_id: str | None
    clean_version_id: str | None
    index_version_id: str | None
    #: What its index is deployed as.
    deployment: str
    #: The build under way, else the last one.
    build: Build | None = None
    error: dict[str, Any] | None
    expires_after_days: int | None
    expires_at: datetime | None
    last_active_at: datetime
    created_at: datetime
    updated_at: datetime


class DocumentPut(BaseModel):
    """POST /api/spaces/{space}/documents as JSON: bytes that are stored already, by digest or as a file of /v1/files."""

    model_config = ConfigDict(extra="forbid")

    digest: str | None = Field(default=None, max_length=80)
    file_id: str | None = Field(default=None, max_length=40)
    #: By default the file's.
    name: str | None = Field(default=None, min_length=1, max_length=1024)
    #: What names it from now on; by default its name. Putting another content under the same key is a new version.
    key: str | None = Field(default=None, min_length=1, max_length=2000)
    media_type: str | None = Field(default=None, max_length=256)
    attributes: Attributes | None = None
    licence: str | None = Field(default=None, max_length=256)
    owner: str | None = Field(default=None, max_length=256)
    #: Ids of users and keys that may read it; empty: everybody of the project.
    access: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(default=None, max_length=1000)
    expires_at: datetime | None = None


class DocumentUpdate(BaseModel):
    """PATCH /api/spaces/{space}/documents/{document}: what is not given stays."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=1024)
    attributes: Attributes | None = None
    licence: str | None = Field(default=None, max_length=256)
    owner: str | None = Field(default=None, max_length=256)
    access: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(default=None, max_length=1000)
    expires_at: datetime | None = None


class SpaceDocument(BaseModel):
    """A document of a space and what became of it."""

    object: Literal["space.document"] = "space.document"
    id: str
    space_id: str
    source_id: str | None
    key: str
    name: str
    digest: str
    num_bytes: int
    media_type: str | None
    file_id: str | None
    attributes: dict[str, Any]
    licence: str | None
    owner: str | None
    access: list[str]
    expires_at: datetime | None
    state: DocumentState
    version: int
    #: Whether passages of it answer now, be it those of an older version.
    answers: bool
    faults: list[Fault]
    num_passages: int
    #: Passages that cleaning took away, by rule.
    dropped: dict[str, int]
    num_pages: int | None
    language: str | None
    created_at: datetime
    updated_at: datetime
    removed_at: datetime | None


class CleaningPreview(BaseModel):
    """POST /api/spaces/{space}/cleaning/preview: which rules to try; by default those of the space."""

    model_config = ConfigDict(extra="forbid")

    cleaning: CleaningSettings | None = None


class CleaningExample(Cleaned):
    """A passage that would go, and whose it is."""

    document_id: str
    name: str


class CleaningReport(BaseModel):
    """What a preview has found; counts are empty until its run has succeeded."""

    object: Literal["space.cleaning"] = "space.cleaning"
    run_id: str
    state: str
    num_read: int
    num_kept: int
    #: Passages by rule: those that would go, and those that would be kept with another text.
    removed: dict[str, int]
    changed: dict[str, int]
    #: Of each rule the first passages that would go, of documents that the caller may read.
    examples: list[CleaningExample]
    notes: list[str]
    error: dict[str, Any] | None


class DroppedPassages(BaseModel):
    """What cleaning did in one document, passage by passage."""

    object: Literal["space.dropped"] = "space.dropped"
    document_id: str
    name: str
    data: list[Cleaned]
    has_more: bool


class DocumentChange(BaseModel):
    """What putting a document did."""

    change: Change
    document: SpaceDocument


class DocumentDigests(BaseModel):
    """What a client need not send again: digests by key."""

    object: Literal["space.digests"] = "space.digests"
    digests: dict[str, str]


class Source(BaseModel):
    """Where documents of a space come from by themselves."""

    object: Literal["space.source"] = "space.source"
    id: str
    space_id: str
    kind: str
    uri: str
    settings: dict[str, Any]
    secret_name: str | None
    every_s: int | None
    daily_at: str | None
    is_paused: bool
    state: Literal["idle", "syncing", "failed"]
    run_id: str | None
    report: dict[str, Any]
    error: dict[str, Any] | None
    last_sync_at: datetime | None
    next_sync_at: datetime | None
    created_at: datetime
    updated_at: datetime


class SpaceEvent(BaseModel):
    """Something that happened to a space; `seq` rises."""

    object: Literal["space.event"] = "space.event"
    seq: int
    time: datetime
    level: Literal["info", "warn", "error"]
    message: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Bytes that are stored already, and what they are called."""

    name: str
    digest: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Known:
    """What a source needs to know of a document that it brought."""

    id: str
    digest: str
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Scope:
    """Which documents a search may see at this moment.

    Either `documents` names all of them (perhaps none), or it is None and `without` names those that an index may hold and
    that must not answer.
    """

    documents: tuple[str, ...] | None
    without: tuple[str, ...] = field(default=())

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be found."""
        return self.documents is not None and not self.documents
