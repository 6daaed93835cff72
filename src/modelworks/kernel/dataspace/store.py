"""The tables of data spaces. Every row carries its project; no text of a document stands in them, but what an answer cited
of it where a reader commented on the answer.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from modelworks.kernel.base.changes import watched
from modelworks.kernel.base.database import Base


@watched(
    "space",
    only=("id", "project_id", "name", "description", "labels", "settings", "expires_after_days", "deleted_at"),
)
class SpaceRow(Base):
    """Documents that are searched and answered from together; what OpenAI calls a vector store."""

    __tablename__ = "spaces"
    __table_args__ = (UniqueConstraint("project_id", "name"), Index("ix_spaces_project_id_id", "project_id", "id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    #: Who made it, and in whose name its runs are submitted.
    key_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(128))
    description: Mapped[str | None] = mapped_column(Text)
    #: The client's metadata ("metadata" is a reserved attribute of declarative classes).
    labels: Mapped[dict[str, Any]] = mapped_column("metadata")
    #: See `SpaceSettings`.
    settings: Mapped[dict[str, Any]]
    #: What its data sets, its index and its deployment are called; it stays when the space is renamed.
    catalog_name: Mapped[str] = mapped_column(String(64))
    #: Days after the last use when it ends; None: never.
    expires_after_days: Mapped[int | None]
    last_active_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    #: Rises with every change that an index has to follow.
    revision: Mapped[int]
    #: The revision that the index answers for.
    built_revision: Mapped[int]
    #: The revision whose build failed: the same one is not tried again until somebody asks.
    failed_revision: Mapped[int]
    #: When the newest change came, and the first one that no build has taken.
    changed_at: Mapped[datetime]
    waiting_since: Mapped[datetime | None]
    #: What the last successful build made; None before the first one.
    documents_version_id: Mapped[str | None] = mapped_column(String(40))
    passages_version_id: Mapped[str | None] = mapped_column(String(40))
    #: What cleaning left of the passages; None where there was nothing to clean.
    clean_version_id: Mapped[str | None] = mapped_column(String(40))
    index_version_id: Mapped[str | None] = mapped_column(String(40))
    #: Why the last build failed; None once one succeeded.
    error: Mapped[dict[str, Any] | None]
    #: Since when it is gone for everybody; what was made for it is taken away, then the row.
    deleted_at: Mapped[datetime | None]
    #: Last number given to an event of this space.
    event_seq: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


@watched(
    "source",
    only=("id", "space_id", "project_id", "kind", "uri", "settings", "secret_name", "every_s", "daily_at", "is_paused"),
)
class SourceRow(Base):
    """Where documents of a space come from by themselves."""

    __tablename__ = "space_sources"
    __table_args__ = (
        Index("ix_space_sources_space_id_id", "space_id", "id"),
        Index("ix_space_sources_next_sync_at", "next_sync_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(32))
    uri: Mapped[str] = mapped_column(Text)
    settings: Mapped[dict[str, Any]]
    #: Of the project's secrets: what the source asks for.
    secret_name: Mapped[str | None] = mapped_column(String(100))
    #: Seconds between two looks; None: only when somebody asks.
    every_s: Mapped[int | None]
    #: A time of the day in UTC ("03:30") instead.
    daily_at: Mapped[str | None] = mapped_column(String(5))
    is_paused: Mapped[bool]
    #: idle, syncing or failed.
    state: Mapped[str] = mapped_column(String(16))
    #: The run that looks.
    run_id: Mapped[str | None] = mapped_column(String(40))
    #: Where the next look goes on, in the source's own words.
    cursor: Mapped[dict[str, Any]]
    #: What the last look found and did.
    report: Mapped[dict[str, Any]]
    error: Mapped[dict[str, Any] | None]
    last_sync_at: Mapped[datetime | None]
    next_sync_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


@watched(
    "document",
    only=(
        "id",
        "space_id",
        "project_id",
        "source_id",
        "key",
        "name",
        "digest",
        "file_id",
        "attributes",
        "licence",
        "owner",
        "access",
        "expires_at",
        "removed_at",
    ),
)
class DocumentRow(Base):
    """One document of a space. A removed one stays as a row for as long as an index may hold its passages, and as a record."""

    __tablename__ = "space_documents"
    __table_args__ = (
        Index("ix_space_documents_space_id_id", "space_id", "id"),
        Index("ix_space_documents_space_id_state", "space_id", "state"),
        Index("ix_space_documents_digest", "digest"),
        Index("ix_space_documents_file_id", "file_id"),
        Index("ix_space_documents_expires_at", "expires_at"),
        Index("ix_space_documents_key", "space_id", "source_id", "key"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    #: Empty where a person put it in.
    source_id: Mapped[str] = mapped_column(String(40))
    #: What names it within its source; of the documents that are there, no two have the same.
    key: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(String(80))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str | None] = mapped_column(String(256))
    #: What its source said of the content (an ETag, a time with a size): where it is the same, nothing is fetched again.
    fingerprint: Mapped[str | None] = mapped_column(String(200))
    #: The file of /v1/files that it was made from.
    file_id: Mapped[str | None] = mapped_column(String(40))
    attributes: Mapped[dict[str, Any]]
    licence: Mapped[str | None] = mapped_column(String(256))
    owner: Mapped[str | None] = mapped_column(String(256))
    #: Ids of users and keys that may read it; empty: everybody of the project.
    access: Mapped[list[str]]
    #: Whether `access` names anybody: the question of every search.
    is_restricted: Mapped[bool]
    expires_at: Mapped[datetime | None]
    #: pending, parsing, indexed, failed or removed.
    state: Mapped[str] = mapped_column(String(16))
    #: Rises when the bytes change; from 1.
    version: Mapped[int]
    #: The bytes whose passages the index that answers holds; None: it holds none of this document.
    indexed_digest: Mapped[str | None] = mapped_column(String(80))
    #: Why it, or pages of it, gave no passages; see `contract.passages.Fault`.
    faults: Mapped[list[dict[str, Any]]]
    num_passages: Mapped[int]
    #: Passages that cleaning took away or changed, and those that it took by rule; None: none.
    num_cleaned: Mapped[int | None]
    dropped: Mapped[dict[str, Any] | None]
    num_pages: Mapped[int | None]
    language: Mapped[str | None] = mapped_column(String(35))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]


class SpaceBuildRow(Base):
    """One way from the documents of a space to an index that answers."""

    __tablename__ = "space_builds"
    __table_args__ = (Index("ix_space_builds_space_id_id", "space_id", "id"), Index("ix_space_builds_state", "state"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    #: Of the space, when its documents were read.
    revision: Mapped[int]
    #: running, succeeded, failed or cancelled.
    state: Mapped[str] = mapped_column(String(16))
    #: documents, parsing, cleaning, indexing, deploying or done.
    step: Mapped[str] = mapped_column(String(16))
    documents_version_id: Mapped[str | None] = mapped_column(String(40))
    parsing_run_id: Mapped[str | None] = mapped_column(String(40))
    passages_version_id: Mapped[str | None] = mapped_column(String(40))
    cleaning_run_id: Mapped[str | None] = mapped_column(String(40))
    clean_version_id: Mapped[str | None] = mapped_column(String(40))
    indexing_run_id: Mapped[str | None] = mapped_column(String(40))
    index_version_id: Mapped[str | None] = mapped_column(String(40))
    #: Numbers of documents and passages.
    counts: Mapped[dict[str, Any]]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class SpaceLearningRow(Base):
    """One way from the passages of a space to a model of its own."""

    __tablename__ = "space_learnings"
    __table_args__ = (Index("ix_space_learnings_space_id_id", "space_id", "id"), Index("ix_space_learnings_state", "state"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    #: In whose name the runs are submitted.
    key_id: Mapped[str | None] = mapped_column(String(40))
    #: Of the space, whose passages are learned from.
    revision: Mapped[int]
    #: See `LearningState` and `LearningStep`.
    state: Mapped[str] = mapped_column(String(16))
    step: Mapped[str] = mapped_column(String(16))
    is_automatic: Mapped[bool]
    #: See `LearningSettings`, as they were.
    settings: Mapped[dict[str, Any]]
    #: The deployment whose model learns.
    base: Mapped[str] = mapped_column(String(128))
    base_version_id: Mapped[str] = mapped_column(String(40))
    #: The name under which the result answers.
    model: Mapped[str] = mapped_column(String(128))
    passages_version_id: Mapped[str] = mapped_column(String(40))
    samples_version_id: Mapped[str | None] = mapped_column(String(40))
    test_version_id: Mapped[str | None] = mapped_column(String(40))
    adapter_version_id: Mapped[str | None] = mapped_column(String(40))
    #: Ids of runs by what they do.
    runs: Mapped[dict[str, Any]]
    counts: Mapped[dict[str, Any]]
    #: Before and after: a list under the key "rows", and what the gate said under "sentences".
    results: Mapped[dict[str, Any]]
    #: Ids of documents that it was trained on and that were forgotten since.
    tainted_by: Mapped[list[str]] = mapped_column(default=list)
    #: Whether there are any: what is tainted is not gone back to.
    is_tainted: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class SpaceAnswerRow(Base):
    """One answer of a space: from which index, by which model. What was asked and said is not kept but of computed ones."""

    __tablename__ = "space_answers"
    __table_args__ = (
        Index("ix_space_answers_project_id_request_id", "project_id", "request_id"),
        Index("ix_space_answers_expires_at", "expires_at"),
    )

    #: As the caller was told it (`chatcmpl_…`).
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str] = mapped_column(String(40))
    user_id: Mapped[str | None] = mapped_column(String(40))
    request_id: Mapped[str] = mapped_column(String(128))
    #: answered, quoted, computed or not_in_documents.
    status: Mapped[str] = mapped_column(String(24))
    index_version_id: Mapped[str | None] = mapped_column(String(40))
    #: The language model that was asked, by the name of its deployment, and its version where that is known.
    model: Mapped[str | None] = mapped_column(String(128))
    model_version_id: Mapped[str | None] = mapped_column(String(40))
    #: Of one that was computed: see `answers.ComputedNote`.
    computed: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class SpaceAnswerPassageRow(Base):
    """A passage that an answer cites."""

    __tablename__ = "space_answer_passages"
    __table_args__ = (Index("ix_space_answer_passages_document_id", "document_id"),)

    answer_id: Mapped[str] = mapped_column(ForeignKey("space_answers.id", ondelete="CASCADE"), primary_key=True)
    passage_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    document_id: Mapped[str] = mapped_column(String(40))
    #: The document's content as it was then.
    document_digest: Mapped[str] = mapped_column(String(80))
    document_version: Mapped[int]


@watched("forgetting", only=("id", "project_id", "space_id", "document_id", "state", "report_digest"))
class ForgettingRow(Base):
    """One document that is forgotten, and the proof of it. It outlives its space: no foreign key."""

    __tablename__ = "space_forgettings"
    __table_args__ = (
        Index("ix_space_forgettings_space_id_id", "space_id", "id"),
        Index("ix_space_forgettings_document_id", "document_id"),
        Index("ix_space_forgettings_state", "state"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    space_id: Mapped[str] = mapped_column(String(40))
    project_id: Mapped[str] = mapped_column(String(40))
    #: Who asked for it.
    key_id: Mapped[str | None] = mapped_column(String(40))
    document_id: Mapped[str] = mapped_column(String(40))
    #: Of the document's bytes.
    digest: Mapped[str] = mapped_column(String(80))
    #: running, succeeded or failed; see `ForgettingStep`.
    state: Mapped[str] = mapped_column(String(16))
    step: Mapped[str] = mapped_column(String(16))
    #: The revision of the space from which on the document is not in it.
    revision: Mapped[int]
    #: Sentences that only this document has: looked for before and after, and kept no longer than that.
    sentences: Mapped[list[str]]
    #: Blobs that may hold something of it.
    digests: Mapped[list[str]]
    #: What the probes found before, and what was removed so far.
    before: Mapped[dict[str, Any]]
    counts: Mapped[dict[str, Any]]
    report: Mapped[dict[str, Any] | None]
    report_digest: Mapped[str | None] = mapped_column(String(80))
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


@watched(
    "publication",
    only=("id", "space_id", "project_id", "name", "token_hash", "settings", "expires_at", "revoked_at"),
)
class PublicationRow(Base):
    """A space that strangers may ask, from certain pages: by a token that stands in these for everybody to read."""

    __tablename__ = "space_publications"
    __table_args__ = (Index("ix_space_publications_space_id_id", "space_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    #: Who made it.
    key_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(128))
    #: The visible start of its token.
    prefix: Mapped[str] = mapped_column(String(16))
    #: SHA-256 of the token, hexadecimal.
    token_hash: Mapped[str] = mapped_column(String(64))
    #: See `PublicationSettings`.
    settings: Mapped[dict[str, Any]]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class FeedbackRow(Base):
    """What a reader said of one published answer, with its text: answers themselves are not kept."""

    __tablename__ = "space_feedback"
    __table_args__ = (
        UniqueConstraint("publication_id", "answer_id"),
        Index("ix_space_feedback_space_id_id", "space_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    publication_id: Mapped[str] = mapped_column(ForeignKey("space_publications.id", ondelete="CASCADE"))
    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    answer_id: Mapped[str] = mapped_column(String(64))
    #: up or down.
    rating: Mapped[str] = mapped_column(String(8))
    correction: Mapped[str | None] = mapped_column(Text)
    question: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    #: answered, quoted or not_in_documents.
    status: Mapped[str] = mapped_column(String(24))
    #: Ids of the documents that the answer cites.
    documents: Mapped[list[str]]
    #: Of the page that it was asked from.
    origin: Mapped[str] = mapped_column(String(300))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class SpaceEventRow(Base):
    """What happened to a space."""

    __tablename__ = "space_events"

    space_id: Mapped[str] = mapped_column(ForeignKey("spaces.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    time: Mapped[datetime]
    #: info, warn or error.
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
