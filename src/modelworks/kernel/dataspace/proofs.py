"""What is told of what was made of a document, of what an answer rests on, and of a document that was forgotten."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from modelworks.kernel.dataspace.schemas import LearningShard, SpaceDocument

ForgettingStep = Literal["probing", "removing", "unlearning", "rebuilding", "collecting", "proving", "done"]
ForgettingState = Literal["running", "succeeded", "failed"]


class MadeVersion(BaseModel):
    """A version in the catalog, and the run that made it."""

    version_id: str
    name: str | None
    number: int | None
    #: ready or removed.
    state: str | None
    run_id: str | None = None


class TrainedModel(BaseModel):
    """A model that was trained on samples of a space's documents."""

    learning_id: str
    model: str
    adapter: MadeVersion
    base_version_id: str
    samples_version_id: str | None
    training_run_id: str | None
    state: str
    #: Ids of forgotten documents that it knows.
    tainted_by: list[str]
    #: The shards that the document is learned in, where there are several.
    shards: list[LearningShard] = Field(default_factory=list)
    #: Versions made of it in turn: merged, quantised, trained on.
    derived: list[MadeVersion] = Field(default_factory=list)


class DeployedWith(BaseModel):
    """A deployment that answers now with something made of a document."""

    name: str
    version_id: str | None
    #: index: it finds the document. model: it was trained on it.
    by: Literal["index", "model"]


class WhyTable(BaseModel):
    """A table that a computed answer read, as it was then: the digest is of its document's content, and of the snapshot."""

    name: str
    place: str | None
    num_rows: int
    document_id: str
    digest: str
    version: int


class WhyComputed(BaseModel):
    """The query of a computed answer and the rows that it showed.

    They may tell what was taken away since: rows are told while every table is what it was, the query while the caller may
    read them all.
    """

    #: current, changed: a table is another one since; withheld: one is gone, or the caller may not read it now.
    state: Literal["current", "changed", "withheld"]
    #: rules, or the language model that wrote the query, by the name of its deployment.
    by: str
    sql: str | None = None
    tables: list[WhyTable] = Field(default_factory=list)
    columns: list[dict[str, str | None]] = Field(default_factory=list)
    rows: list[list[int | float | str | None]] | None = None
    is_cut: bool = False


class ComputedAnswer(BaseModel):
    """An answer that was computed from a document's tables."""

    answer_id: str
    created_at: datetime
    computed: WhyComputed


class Impact(BaseModel):
    """Everything that was made of one document."""

    object: Literal["space.document.impact"] = "space.document.impact"
    document: SpaceDocument
    space_id: str
    #: The file of /v1/files that it was put in from.
    file_id: str | None
    #: Versions of the space's data sets: the documents as they were handed over, and their passages, as parsed and as cleaned.
    documents: list[MadeVersion]
    passages: list[MadeVersion]
    indexes: list[MadeVersion]
    #: Sets of samples for training and for measuring that hold something of it.
    samples: list[MadeVersion]
    num_samples: int
    models: list[TrainedModel]
    #: Ids of evaluations of these models, and of others on these samples.
    evaluations: list[str]
    deployments: list[DeployedWith]
    #: Answers that cite it, as far as they are kept.
    num_answers: int
    #: Of these the newest ones that were computed from its tables, as far as the caller may see them.
    computed: list[ComputedAnswer] = Field(default_factory=list)
    #: Data sets outside the space that hold the same bytes; forgetting leaves them.
    elsewhere: list[MadeVersion]


class WhyDocument(BaseModel):
    """A document that an answer cites. Only its id is told to those who may not read it, or where it is gone."""

    document_id: str
    passages: list[str]
    #: Of its content when the answer was given.
    digest: str | None
    version: int | None
    name: str | None
    source_id: str | None
    licence: str | None
    owner: str | None
    #: current, changed since, or gone; hidden where the caller may not read it.
    state: Literal["current", "changed", "gone", "hidden"]


class WhyModel(BaseModel):
    """The language model that wrote an answer; what it was trained on where the space made it."""

    name: str
    version: MadeVersion | None
    learning_id: str | None = None
    training_run_id: str | None = None
    base_version_id: str | None = None
    samples: MadeVersion | None = None
    #: Its parts, each with its samples and its adapter, where there are several.
    shards: list[LearningShard] = Field(default_factory=list)
    #: Documents of these samples that the caller may read, and how many there are in all.
    documents: list[str] = Field(default_factory=list)
    num_documents: int = 0


class Why(BaseModel):
    """What an answer rests on."""

    object: Literal["space.answer.why"] = "space.answer.why"
    id: str
    request_id: str
    space_id: str
    space: str
    status: str
    created_at: datetime
    documents: list[WhyDocument]
    #: None: it was told from passages.
    computed: WhyComputed | None = None
    index: MadeVersion | None
    #: Which made the passages that the index holds.
    parsing_run_id: str | None
    #: None: it was quoted, or the documents do not say it.
    model: WhyModel | None


class Forgetting(BaseModel):
    """One document that is forgotten: how far it is, and at the end the signed report."""

    object: Literal["space.forgetting"] = "space.forgetting"
    id: str
    space_id: str
    document_id: str
    state: ForgettingState
    step: ForgettingStep
    #: Steps that are over, and all.
    progress: dict[str, Any]
    #: What was removed so far.
    counts: dict[str, Any]
    #: None: it is not over, or not for the caller.
    report: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None


class ReportKey(BaseModel):
    """The public key by which this platform's reports are verified."""

    object: Literal["report_key"] = "report_key"
    algorithm: Literal["Ed25519"] = "Ed25519"
    public_key: str
