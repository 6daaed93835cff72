"""What is said between a data space and the two tasks it stands on: `document-parsing` and `passage-retrieval`.

Two folders travel between them as data sets:

- documents: `documents.jsonl`, one `Document` a line, with the files that `Document.path` names;
- passages: `documents.jsonl`, one `ParsedDocument` a line, and `passages/<document id>.jsonl`, one `Passage` a line; where they
  were cleaned, `cleaning/<document id>.jsonl`, one `Cleaned` a line.

A file for each document, so that what did not change has the same digest in the next version.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DOCUMENTS_FILE = "documents.jsonl"
PASSAGES_FOLDER, CLEANING_FOLDER = "passages", "cleaning"
#: Queries of one search, and passages that each may ask for.
MAX_QUERIES, MAX_PASSAGES = 16, 200
#: Documents that one search may be confined to.
MAX_DOCUMENTS = 100_000
#: A table of a database: lines of JSON, the first an object that describes it (its `card` is the text that is searched), the
#: others `[0, [cell, …]]`.
TABLE_ROWS = "application/vnd.modelworks.table+jsonl"


class Document(BaseModel):
    """One file of a data space, as it is handed to the parser."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")
    #: Below the folder of the data set, with forward slashes.
    path: str
    #: What a person knows it by: the file's name, or the place in its source.
    name: str
    digest: str
    num_bytes: int = Field(ge=0)
    #: As its source said; what the bytes are is for the parser to find.
    media_type: str | None = None
    language: str | None = None
    licence: str | None = None
    owner: str | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)


class Fault(BaseModel):
    """Why a document, or a page of it, gave no passages: what and where, and what to do."""

    code: str
    message: str
    hint: str | None = None
    page: int | None = None


class Place(BaseModel):
    """Where in its document a passage lies."""

    model_config = ConfigDict(frozen=True)

    #: From 1; of slides, too.
    page: int | None = None
    #: Left, top, right, bottom on that page, each from 0 to 1.
    box: tuple[float, float, float, float] | None = None
    #: A sheet's cells: `Sales!A2:D40`.
    cells: str | None = None
    #: Lines of a text file, from 1, the last included.
    lines: tuple[int, int] | None = None
    headings: tuple[str, ...] = ()


class Passage(BaseModel):
    """A piece of a document that makes sense alone: what is searched, cited and learned from."""

    #: `<document id>:<ordinal>`.
    id: str
    document_id: str
    ordinal: int = Field(ge=0)
    kind: Literal["text", "table", "code", "list", "caption"] = "text"
    text: str = Field(min_length=1)
    place: Place = Place()
    language: str | None = None
    #: First and last ordinal of the section that it belongs to: what may be shown around it.
    section: tuple[int, int] | None = None


class ParsedDocument(BaseModel):
    """What became of one document."""

    id: str
    name: str
    digest: str
    #: What read it, and by which rules: another one would give other passages.
    parser: str
    state: Literal["parsed", "partial", "failed"]
    title: str | None = None
    media_type: str | None = None
    language: str | None = None
    licence: str | None = None
    num_pages: int | None = None
    num_passages: int = 0
    num_chars: int = 0
    #: Passages that say what an earlier one of it says in the same place, to the letter; None: nobody has counted.
    num_copies: int | None = None
    #: Passages that cleaning took away, by rule.
    dropped: dict[str, int] = Field(default_factory=dict)
    #: Those that it kept with another text.
    num_changed: int = 0
    faults: list[Fault] = Field(default_factory=list)


class Cleaned(BaseModel):
    """What cleaning did to one passage, and why."""

    passage_id: str
    place: Place = Place()
    #: licence, language, boilerplate, personal_data, quality, duplicate or near_duplicate.
    rule: str
    #: False: it was taken away. True: a part of its text was, or was masked.
    is_kept: bool = False
    detail: str
    #: Id of the passage that it is a copy of, and how alike the two are, 0 to 1.
    like: str | None = None
    similarity: float | None = None
    #: Its beginning, personal data masked.
    excerpt: str


class SearchInput(BaseModel):
    """What is looked for in an index of passages."""

    queries: list[str] = Field(min_length=1, max_length=MAX_QUERIES)
    #: One for each query, from the encoder that the index was built with; without them words alone decide.
    vectors: list[list[float]] | None = None
    limit: int = Field(default=10, ge=1, le=MAX_PASSAGES)
    #: Only these documents; None: all of them.
    documents: list[str] | None = Field(default=None, max_length=MAX_DOCUMENTS)
    #: None of these: deleted since the index was made.
    without: list[str] = Field(default_factory=list, max_length=MAX_DOCUMENTS)
    #: Neighbours in the same section that are told with each hit, before and after it.
    around: int = Field(default=0, ge=0, le=8)


class Hit(BaseModel):
    """A passage that was found."""

    passage: Passage
    #: From 0 to 1, comparable within one answer.
    score: float
    #: Places in the two orders that were fused, from 1; None: not among those looked at.
    lexical_rank: int | None = None
    dense_rank: int | None = None
    before: list[str] = Field(default_factory=list)
    after: list[str] = Field(default_factory=list)


class SearchOutput(BaseModel):
    """Hits for each query, best first."""

    hits: list[list[Hit]]


class IndexFacts(BaseModel):
    """What a version of task `passage-retrieval` says of itself in its metadata, under the key `index`."""

    num_documents: int
    num_passages: int
    #: Of the encoder whose vectors it holds: name of the deployment, version, length of the vectors. None: words alone.
    encoder: str | None = None
    encoder_version: str | None = None
    dimensions: int | None = None
