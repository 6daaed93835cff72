"""How a source of documents is described. Light: read by routes and by the worker; credentials are named, never held."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from modelworks.contract.passages import MAX_DOCUMENTS

_DIGEST = r"^sha256:[0-9a-f]{64}$"
_COLUMN = r"^[^\x00{}]{1,128}$"
_F = TypeVar("_F", bound=BaseModel)


class SourceLimits(BaseModel):
    """What one sync may take in; a source that has more is refused, and nothing changes."""

    model_config = ConfigDict(extra="forbid")

    max_documents: int = Field(default=50_000, ge=1, le=MAX_DOCUMENTS, description="Documents of the source.")
    max_bytes: int = Field(default=4 << 30, ge=1, le=1 << 40, description="Bytes that one sync reads.")
    max_file_bytes: int = Field(
        default=256 << 20, ge=1, le=1 << 34, description="Bytes of one document; a larger one is a fault."
    )


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limits: SourceLimits = SourceLimits()


class _Selecting(_Form):
    include: list[str] = Field(
        default_factory=list, max_length=100, description="Patterns of paths (*.pdf, docs/**); empty: all."
    )
    exclude: list[str] = Field(default_factory=list, max_length=100, description="Patterns of paths to leave out.")


class FolderForm(_Selecting):
    """A folder on the server's own machine, below the folders that the settings name."""

    kind: Literal["folder"] = "folder"
    uri: str = Field(pattern=r"^file://(localhost)?/", max_length=4096)


class ArchiveForm(_Selecting):
    """A .zip or .tar that was uploaded."""

    kind: Literal["archive"] = "archive"
    digest: str = Field(pattern=_DIGEST)
    name: str = Field(default="archive.zip", max_length=255)


class WebForm(_Form):
    """One page, the pages of a site map, or those that are reached from a page and lie below a prefix."""

    kind: Literal["web"] = "web"
    uri: str = Field(max_length=4096)
    mode: Literal["page", "sitemap", "crawl"] = "page"
    prefix: str | None = Field(
        default=None, max_length=4096, description="Of pages to crawl; by default the page's own folder."
    )
    max_pages: int = Field(default=500, ge=1, le=20_000)
    max_depth: int = Field(default=5, ge=0, le=50, description="Links away from the first page.")
    delay_s: float = Field(default=0.2, ge=0, le=60, description="Pause between requests; robots.txt may ask for a longer one.")
    secret: str | None = Field(default=None, max_length=128, description="Name of the secret that is sent as a bearer token.")

    @field_validator("uri", "prefix")
    @classmethod
    def _plain(cls, uri: str | None) -> str | None:
        return uri if uri is None else _http_uri(uri)


class FeedForm(_Form):
    """An RSS or Atom feed. What has left the feed stays in the space."""

    kind: Literal["feed"] = "feed"
    uri: str = Field(max_length=4096)
    follow: bool = Field(
        default=False, description="Take the page that an entry links to, rather than what the feed says of it."
    )
    secret: str | None = Field(default=None, max_length=128)

    @field_validator("uri")
    @classmethod
    def _plain(cls, uri: str) -> str:
        return _http_uri(uri)


class BucketForm(_Selecting):
    """Objects under a prefix of a bucket, on the S3 server that the server's environment names."""

    kind: Literal["s3"] = "s3"
    uri: str = Field(pattern=r"^s3://[^/@]+(/|$)", max_length=4096)
    secret: str | None = Field(
        default=None, max_length=128, description="Name of a secret, ACCESS_KEY_ID:SECRET_ACCESS_KEY; none: the server's own."
    )


class GitForm(_Selecting):
    """The files of one branch or tag of a Git repository."""

    kind: Literal["git"] = "git"
    uri: str = Field(max_length=4096)
    revision: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,200}$", description="Branch or tag.")
    secret: str | None = Field(default=None, max_length=128, description="Name of a secret: a token, or user:password.")

    @field_validator("uri")
    @classmethod
    def _plain(cls, uri: str) -> str:
        return uri if uri.startswith("file:///") else _http_uri(uri)


class MailboxForm(_Form):
    """A mailbox file (mbox): uploaded, or on the server's own machine."""

    kind: Literal["mbox"] = "mbox"
    uri: str | None = Field(default=None, pattern=r"^file://(localhost)?/", max_length=4096)
    digest: str | None = Field(default=None, pattern=_DIGEST)
    attachments: bool = True

    @model_validator(mode="after")
    def _one_place(self) -> MailboxForm:
        return _one_of(self, "uri", "digest")


class ImapForm(_Form):
    """Folders of a mailbox on a server. Nothing is marked as read."""

    kind: Literal["imap"] = "imap"
    host: str = Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")
    port: int = Field(default=993, ge=1, le=65535)
    tls: bool = Field(default=True, description="False only for a server on a private network that the settings allow.")
    user: str = Field(min_length=1, max_length=256)
    secret: str = Field(max_length=128, description="Name of the secret with the password.")
    mailboxes: list[str] = Field(default=["INBOX"], min_length=1, max_length=100)
    since: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$", description="Messages from this day on.")
    attachments: bool = True


class TableForm(BaseModel):
    """One table or view, and how its rows become texts."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        min_length=1, max_length=128, description="Table or view, with its schema where it has one: sales.orders."
    )
    columns: list[Annotated[str, Field(pattern=_COLUMN)]] | None = Field(default=None, max_length=500, description="None: all.")
    key: list[Annotated[str, Field(pattern=_COLUMN)]] | None = Field(
        default=None, min_length=1, max_length=16, description="Columns that tell rows apart; by default the primary key."
    )
    group_by: list[Annotated[str, Field(pattern=_COLUMN)]] | None = Field(
        default=None, min_length=1, max_length=16, description="Rows with equal values here make one document."
    )
    template: str | None = Field(
        default=None,
        max_length=20_000,
        description="Text of a row, with {column} where values go; by default `column: value` lines.",
    )
    title: str | None = Field(default=None, max_length=1000, description="Name of a document, with {column} where values go.")
    access: str | None = Field(default=None, pattern=_COLUMN, description="Column that names who may read a row, with commas.")
    card: bool = Field(default=True, description="Add a document that describes the table.")
    ask: bool = Field(
        default=True,
        description="Compute answers from its rows; not without `card`, nor where `access` gives rows readers of their own.",
    )
    documents: bool = Field(default=True, description="Make rows, or groups, documents; false: the table is only asked.")


class DatabaseForm(_Form):
    """Tables and views of a database, only read."""

    kind: Literal["sql"] = "sql"
    dialect: Literal["postgresql", "mysql", "mariadb", "sqlite"]
    host: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.:-]{1,253}$")
    port: int | None = Field(default=None, ge=1, le=65535)
    database: str | None = Field(default=None, max_length=256)
    user: str | None = Field(default=None, max_length=256)
    secret: str | None = Field(default=None, max_length=128, description="Name of the secret with the password.")
    uri: str | None = Field(default=None, pattern=r"^file://(localhost)?/", max_length=4096, description="Of an SQLite file.")
    digest: str | None = Field(default=None, pattern=_DIGEST, description="Of an SQLite file that was uploaded.")
    tables: list[TableForm] = Field(min_length=1, max_length=200)
    max_rows: int = Field(default=50_000, ge=1, le=10_000_000, description="Rows of one table.")
    timeout_s: float = Field(default=60.0, gt=0, le=3600, description="Of one statement.")

    @model_validator(mode="after")
    def _whole(self) -> DatabaseForm:
        if self.dialect == "sqlite":
            if self.host is not None or self.user is not None:
                raise ValueError("an SQLite database is a file: it has no host or user")
            return _one_of(self, "uri", "digest")
        if self.host is None or self.database is None:
            raise ValueError(f"a {self.dialect} database needs host and database")
        if self.uri is not None or self.digest is not None:
            raise ValueError("only an SQLite database is a file")
        return self


class Paging(BaseModel):
    """How a list continues: by its `Link` header, a field that holds the next address or a cursor, a page, or an offset."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["none", "link", "next", "cursor", "page", "offset"] = "link"
    field: str | None = Field(default=None, max_length=200, description="Path of the next address or cursor in the answer.")
    parameter: str | None = Field(
        default=None, max_length=64, description="Query parameter that carries cursor, page or offset."
    )
    size_parameter: str | None = Field(default=None, max_length=64)
    size: int = Field(default=100, ge=1, le=10_000)
    start: int = Field(default=1, ge=0, description="First page.")

    @model_validator(mode="after")
    def _whole(self) -> Paging:
        if self.kind in ("next", "cursor") and not self.field:
            raise ValueError(f"paging by {self.kind} needs field")
        if self.kind in ("cursor", "page", "offset") and not self.parameter:
            raise ValueError(f"paging by {self.kind} needs parameter")
        return self


class RestForm(_Form):
    """A list of JSON objects behind an address; each object is a document."""

    kind: Literal["rest"] = "rest"
    uri: str = Field(max_length=4096)
    items: str = Field(
        default="", max_length=200, description="Path of the list in the answer (data.items); empty: the answer itself."
    )
    key: str = Field(default="id", max_length=200, description="Path of what tells objects apart.")
    name: str | None = Field(default=None, max_length=200)
    template: str | None = Field(
        default=None, max_length=20_000, description="Text with {path} where values go; by default the JSON."
    )
    attributes: list[str] = Field(default_factory=list, max_length=16, description="Paths of values to keep as attributes.")
    access: str | None = Field(default=None, max_length=200, description="Path of the list of who may read an object.")
    paging: Paging = Paging()
    max_pages: int = Field(default=1000, ge=1, le=100_000)
    secret: str | None = Field(default=None, max_length=128)
    header: str = Field(default="Authorization", pattern=r"^[A-Za-z0-9-]{1,64}$", description="Header that carries the secret.")
    scheme: str = Field(default="Bearer", pattern=r"^[A-Za-z0-9_-]{0,32}$", description="Word before the secret; may be empty.")

    @field_validator("uri")
    @classmethod
    def _plain(cls, uri: str) -> str:
        return _http_uri(uri)


SourceForm = Annotated[
    FolderForm | ArchiveForm | WebForm | FeedForm | BucketForm | GitForm | MailboxForm | ImapForm | DatabaseForm | RestForm,
    Field(discriminator="kind"),
]
SOURCE_FORM: TypeAdapter[SourceForm] = TypeAdapter(SourceForm)


def place_of(form: SourceForm) -> str:
    """What a person knows a source by; no part of it is secret."""
    match form:
        case DatabaseForm(dialect="sqlite") | MailboxForm():
            return form.uri or f"{form.kind} {(form.digest or '')[7:19]}"
        case DatabaseForm():
            return f"{form.dialect}://{form.host}{f':{form.port}' if form.port else ''}/{form.database}"
        case ImapForm():
            return f"imap://{form.host}/{form.mailboxes[0]}"
        case ArchiveForm():
            return form.name
        case WebForm() | FeedForm() | RestForm():
            # A query may be a signed link.
            return form.uri.partition("?")[0]
        case _:
            return form.uri


def uploaded(form: SourceForm) -> str | None:
    """Digest of the blob that a source reads, or None."""
    return getattr(form, "digest", None)


def local_uri(form: SourceForm) -> str | None:
    """The `file://` address that a source reads on the server's machine, or None."""
    uri = getattr(form, "uri", None)
    return uri if isinstance(uri, str) and uri.lower().startswith("file:") else None


def secret_of(form: SourceForm) -> str | None:
    """Name of the secret that a source needs, or None."""
    return getattr(form, "secret", None)


def _http_uri(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\x00-\x20\x7f]", uri):
        raise ValueError("it must be an address like https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a user name or password: store a secret, and name it")
    return uri


def _one_of(form: _F, *names: str) -> _F:
    if sum(getattr(form, name) is not None for name in names) != 1:
        raise ValueError(f"give one of {', '.join(names)}")
    return form
