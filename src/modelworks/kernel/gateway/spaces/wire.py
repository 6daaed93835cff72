"""The wire forms of `/v1/vector_stores`: what is asked for, and how spaces and their documents look there.

Form: https://platform.openai.com/docs/api-reference/vector-stores, and the types of the official client.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, model_validator

from modelworks.kernel.dataspace import Space, SpaceDocument
from modelworks.kernel.dataspace.schemas import Attributes
from modelworks.kernel.gateway.schemas import Metadata, Wire
from modelworks.kernel.gateway.spaces.search import Found

#: Files of one batch, and passages of one search.
MAX_FILES, MAX_RESULTS = 2000, 50
#: About how many letters a token has; passages are measured in letters here, so that no tokenizer is needed.
_LETTERS_PER_TOKEN: Final = 4
#: States of a document that a client's filter names.
STATES: Final[Mapping[str, tuple[str, ...]]] = {
    "in_progress": ("pending", "parsing"),
    "completed": ("indexed",),
    "failed": ("failed",),
    "cancelled": (),
}
_FileId = Annotated[str, Field(min_length=1, max_length=64)]


class ExpiresAfter(Wire):
    """When a store that nobody uses ends."""

    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class StaticSizes(Wire):
    max_chunk_size_tokens: int = Field(ge=100, le=4096)
    chunk_overlap_tokens: int = Field(ge=0, description="Taken and shown; neighbours of a passage are told with it instead.")

    @model_validator(mode="after")
    def _at_most_half(self) -> StaticSizes:
        if self.chunk_overlap_tokens > self.max_chunk_size_tokens / 2:
            raise ValueError("chunk_overlap_tokens must not exceed half of max_chunk_size_tokens")
        return self


class Chunking(Wire):
    """How documents are cut: by their structure (auto), or also to a size."""

    type: Literal["auto", "static"]
    static: StaticSizes | None = None

    @model_validator(mode="after")
    def _has_sizes(self) -> Chunking:
        if self.type == "static" and self.static is None:
            raise ValueError("static needs max_chunk_size_tokens and chunk_overlap_tokens")
        return self

    def parsing(self) -> dict[str, Any]:
        """The parameters of the parser."""
        return {} if self.static is None else {"passage_chars": _LETTERS_PER_TOKEN * self.static.max_chunk_size_tokens}


class StoreCreate(Wire):
    """POST /v1/vector_stores."""

    name: str | None = Field(default=None, max_length=512)
    description: str | None = Field(default=None, max_length=4096)
    file_ids: list[_FileId] | None = Field(default=None, max_length=MAX_FILES)
    chunking_strategy: Chunking | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class StoreUpdate(Wire):
    """POST /v1/vector_stores/{vector_store_id}."""

    name: str | None = Field(default=None, max_length=512)
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class FileAttach(Wire):
    """POST /v1/vector_stores/{vector_store_id}/files."""

    file_id: _FileId
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None


class FileUpdate(Wire):
    """POST /v1/vector_stores/{vector_store_id}/files/{file_id}."""

    attributes: Attributes | None = Field(description="Take the place of those that are there.")


class BatchCreate(Wire):
    """POST /v1/vector_stores/{vector_store_id}/file_batches."""

    file_ids: list[_FileId] | None = Field(default=None, min_length=1, max_length=MAX_FILES)
    files: list[FileAttach] | None = Field(default=None, min_length=1, max_length=MAX_FILES)
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> BatchCreate:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("give exactly one of file_ids and files")
        return self

    def attached(self) -> list[FileAttach]:
        """What is to be put in, file by file."""
        if self.files is not None:
            return self.files
        attributes, sizes = self.attributes, self.chunking_strategy
        return [
            FileAttach.model_construct(file_id=each, attributes=attributes, chunking_strategy=sizes)
            for each in self.file_ids or ()
        ]


class RankingOptions(Wire):
    ranker: Literal["none", "auto", "default-2024-11-15"] | None = Field(
        default=None, description="none: the space's reranker is not asked."
    )
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    hybrid_search: dict[str, Any] | None = Field(
        default=None, description="Taken; words and vectors are weighed by measurement."
    )


class StoreSearch(Wire):
    """POST /v1/vector_stores/{vector_store_id}/search."""

    query: str | list[str] = Field(description="A text, or up to 16 of them, which are one search.")
    filters: dict[str, Any] | None = None
    max_num_results: int = Field(default=10, ge=1, le=MAX_RESULTS)
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = Field(
        default=None, description="Taken; a search of one text needs no dialogue to be understood."
    )


class StoreQuery(BaseModel):
    """The query of a list."""

    after: str | None = None
    before: str | None = None
    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


class StoreFileQuery(StoreQuery):
    """The query of a list of files."""

    filter: Literal["in_progress", "completed", "failed", "cancelled"] | None = None


def store_object(space: Space) -> dict[str, Any]:
    """OpenAI's vector store."""
    counts = space.documents
    waiting = counts.pending + counts.parsing
    has_failed = space.state == "failed"
    days = space.expires_after_days
    return {
        "id": space.id,
        "object": "vector_store",
        "created_at": _seconds(space.created_at),
        "name": space.name,
        "description": space.description,
        "usage_bytes": space.num_bytes,
        "file_counts": {
            "in_progress": 0 if has_failed else waiting,
            "completed": counts.indexed,
            "failed": counts.failed + (waiting if has_failed else 0),
            "cancelled": 0,
            "total": counts.total,
        },
        "status": {"expired": "expired", "pending": "in_progress", "building": "in_progress"}.get(space.state, "completed"),
        "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
        "expires_at": None if space.expires_at is None else _seconds(space.expires_at),
        "last_active_at": _seconds(space.last_active_at),
        "metadata": space.metadata,
    }


def file_status(space: Space, document: SpaceDocument) -> str:
    """in_progress, completed or failed; what waits for a build that failed waits for somebody to act."""
    if document.state == "indexed":
        return "completed"
    return "failed" if document.state == "failed" or space.state == "failed" else "in_progress"


def file_object(space: Space, document: SpaceDocument) -> dict[str, Any]:
    """OpenAI's file of a vector store: a document of the space."""
    status = file_status(space, document)
    return {
        "id": document.file_id or document.id,
        "object": "vector_store.file",
        "created_at": _seconds(document.created_at),
        "usage_bytes": document.num_bytes,
        "vector_store_id": space.id,
        "status": status,
        "last_error": _last_error(space, document) if status == "failed" else None,
        "chunking_strategy": _chunking(space),
        "attributes": document.attributes,
        "filename": document.name,
    }


def _last_error(space: Space, document: SpaceDocument) -> dict[str, Any]:
    if document.faults:
        fault = document.faults[0]
        code = "unsupported_file" if fault.code.startswith("unsupported") else "invalid_file"
        return {"code": code, "message": fault.message if fault.hint is None else f"{fault.message} {fault.hint}"}
    if document.state == "failed" or space.error is None:
        return {"code": "invalid_file", "message": "The file gave no passages."}
    return {"code": "server_error", "message": str(space.error.get("message"))}


def _chunking(space: Space) -> dict[str, Any]:
    given = space.settings.chunking_strategy
    # What is cut by its structure has no sizes that the protocol could name.
    return given if given is not None and given.get("type") == "static" else {"type": "other"}


def batch_object(
    batch_id: str,
    created_at: datetime,
    space: Space,
    file_ids: Collection[str],
    documents: Sequence[SpaceDocument],
    cancelled: bool,
) -> dict[str, Any]:
    """OpenAI's batch; `documents` are those of its files that are there."""
    states = [file_status(space, each) for each in documents]
    counts = {state: states.count(state) for state in ("in_progress", "completed", "failed")}
    counts["cancelled"] = len(file_ids) - len(documents) if cancelled else 0
    if cancelled:
        status = "cancelled"
    elif counts["in_progress"]:
        status = "in_progress"
    else:
        status = "failed" if counts["failed"] and not counts["completed"] else "completed"
    return {
        "id": batch_id,
        "object": "vector_store.files_batch",
        "created_at": _seconds(created_at),
        "vector_store_id": space.id,
        "status": status,
        "file_counts": {**counts, "total": sum(counts.values())},
    }


def results_page(queries: Sequence[str], found: Sequence[Found]) -> dict[str, Any]:
    """OpenAI's page of search results; `passage` says where each stands."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": [*queries],
        "data": [
            {
                "file_id": each.file_id,
                "filename": each.filename,
                "score": each.score,
                "attributes": each.document.attributes,
                "content": [{"type": "text", "text": each.passage.text}],
                "passage": {
                    "id": each.passage.id,
                    "document_id": each.document.id,
                    "kind": each.passage.kind,
                    **each.passage.place.model_dump(mode="json", exclude_none=True),
                },
            }
            for each in found
        ],
        "has_more": False,
        "next_page": None,
    }


def _seconds(time: datetime) -> int:
    return int(time.timestamp())
