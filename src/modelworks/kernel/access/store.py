"""Tables of the access room."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from modelworks.kernel.base.changes import watched
from modelworks.kernel.base.database import Base


@watched("organisation")
class OrganisationRow(Base):
    """What projects and people belong to."""

    __tablename__ = "organisations"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]


@watched("project")
class ProjectRow(Base):
    """A tenant."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]
    #: None: the first organisation, that of projects older than organisations.
    organisation_id: Mapped[str | None] = mapped_column(String(40))
    #: commercial · non-commercial; None: nobody has declared it.
    use: Mapped[str | None] = mapped_column(String(16))


@watched("user")
class UserRow(Base):
    """A person who signs in, or a service account that only holds keys."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("email"), UniqueConstraint("issuer", "subject"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(128))
    #: In lower case; service accounts have none.
    email: Mapped[str | None] = mapped_column(String(254))
    #: Argon2id in PHC form; None where there is no password.
    password_hash: Mapped[str | None] = mapped_column(String(256))
    #: Who an OpenID provider says this is.
    issuer: Mapped[str | None] = mapped_column(String(256))
    subject: Mapped[str | None] = mapped_column(String(256))
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


@watched("membership")
class MembershipRow(Base):
    """What somebody may do in one place: an organisation with all of its projects, or one project."""

    __tablename__ = "memberships"
    __table_args__ = (Index(None, "place_id"),)

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    place_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]


@watched("session", without=("seen_at", "expires_at", "secret_hash"))
class SessionRow(Base):
    """Somebody signed in with a browser. Only the SHA-256 of the cookie is kept."""

    __tablename__ = "sessions"
    __table_args__ = (UniqueConstraint("secret_hash"), Index(None, "user_id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    secret_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class SignInFailureRow(Base):
    """Failed attempts to sign in with one name, or from one address (as digests)."""

    __tablename__ = "sign_in_failures"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    num_failures: Mapped[int]
    last_at: Mapped[datetime]


@watched("secret")
class SecretRow(Base):
    """A secret of a project, sealed with a key that is not in the database."""

    __tablename__ = "secrets"

    project_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    sealed: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


@watched("api_key")
class KeyRow(Base):
    """An API key: only the SHA-256 of the secret is kept, and its first characters so that people recognise it."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("secret_hash"), Index(None, "project_id", "id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40), ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(128))
    prefix: Mapped[str] = mapped_column(String(16))
    secret_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    model_allow: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    #: The user or service account that it acts for; None where it acts for the project.
    user_id: Mapped[str | None] = mapped_column(String(40))
    #: Networks (CIDR) from which it is taken; None: from everywhere.
    ip_allow: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    #: The key that took its place.
    replaced_by: Mapped[str | None] = mapped_column(String(40))


class AuditRow(Base):
    """One entry of the audit chain; see `modelworks.chain`. No foreign keys: it outlives what it names."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index(None, "project_id", "seq"),)

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    #: Text, as the digest covers it.
    created_at: Mapped[str] = mapped_column(String(40))
    author_kind: Mapped[str] = mapped_column(String(16))
    author_id: Mapped[str] = mapped_column(String(64))
    project_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(16))
    noun: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(Text)
    before: Mapped[str | None] = mapped_column(String(64))
    after: Mapped[str | None] = mapped_column(String(64))
    fields: Mapped[list[str]]
    request_id: Mapped[str | None] = mapped_column(String(128))
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditHeadRow(Base):
    """The end of the chain; whoever appends holds this row."""

    __tablename__ = "audit_heads"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(String(64))


class UsageRow(Base):
    """One request. No foreign keys: it outlives what it names. On SQLite it is clustered by its time-ordered id."""

    __tablename__ = "usage_requests"
    __table_args__ = (Index(None, "project_id", "created_at"), {"sqlite_with_rowid": False})

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    created_at: Mapped[datetime]
    project_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str] = mapped_column(String(40))
    endpoint: Mapped[str] = mapped_column(String(128))
    model: Mapped[str] = mapped_column(String(256))
    deployment_id: Mapped[str | None] = mapped_column(String(40))
    version_id: Mapped[str | None] = mapped_column(String(40))
    request_id: Mapped[str] = mapped_column(String(128))
    status: Mapped[int]
    error_code: Mapped[str | None] = mapped_column(String(64))
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    duration_ms: Mapped[float]
    time_to_first_token_ms: Mapped[float | None]
    streamed: Mapped[bool]
    aborted: Mapped[bool]
    #: Micro-units of the platform's currency, rounded up once per request; 0 where the model had no price.
    cost: Mapped[int] = mapped_column(BigInteger, server_default="0")
    price_id: Mapped[str | None] = mapped_column(String(40))


@watched("price")
class PriceRow(Base):
    """What a million tokens of a model cost from a moment on; never changed, only followed by another. `""`: every project."""

    __tablename__ = "prices"
    __table_args__ = (Index(None, "project_id", "model", "valid_from"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    model: Mapped[str] = mapped_column(String(256))
    input: Mapped[int] = mapped_column(BigInteger)
    cached: Mapped[int] = mapped_column(BigInteger)
    output: Mapped[int] = mapped_column(BigInteger)
    valid_from: Mapped[datetime]
    created_at: Mapped[datetime]
    set_by: Mapped[str | None] = mapped_column(String(40))


class EntryRow(Base):
    """One side of a double entry: what a project owes for a request its model has earned, so that both add up to nothing."""

    __tablename__ = "ledger_entries"
    __table_args__ = (Index(None, "project_id", "month"), {"sqlite_with_rowid": False})

    usage_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account: Mapped[str] = mapped_column(String(300), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    month: Mapped[str] = mapped_column(String(7))
    tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int] = mapped_column(BigInteger)


class InvoiceRow(Base):
    """The running sums of a project's month (UTC), changed in the transaction that records each request."""

    __tablename__ = "invoices"

    project_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    num_requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int] = mapped_column(BigInteger)


@watched("allowance")
class AllowanceRow(Base):
    """A budget (tokens, cost or requests per day or month) or a limit (per minute, or at the same time)."""

    __tablename__ = "allowances"
    __table_args__ = (UniqueConstraint("project_id", "scope", "subject", "metric", "period"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    scope: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(256))
    metric: Mapped[str] = mapped_column(String(16))
    period: Mapped[str] = mapped_column(String(16))
    amount: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]
    set_by: Mapped[str | None] = mapped_column(String(40))


class AllowanceStateRow(Base):
    """How much of an allowance is used and reserved in one span of time (a day, a month; `""` where it has none)."""

    __tablename__ = "allowance_states"
    __table_args__ = ({"sqlite_with_rowid": False},)

    allowance_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    span: Mapped[str] = mapped_column(String(10), primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)
    reserved: Mapped[int] = mapped_column(BigInteger)
    #: Of a rate: when its bucket is full again, in nanoseconds since 1970.
    full_at: Mapped[int] = mapped_column(BigInteger)


class ReservationRow(Base):
    """What a request under way may still use; its id becomes that of the request's usage record."""

    __tablename__ = "reservations"
    __table_args__ = (Index(None, "holder"), {"sqlite_with_rowid": False})

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    holder: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime]
    project_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str] = mapped_column(String(40))
    model: Mapped[str] = mapped_column(String(256))
    endpoint: Mapped[str] = mapped_column(String(128))
    request_id: Mapped[str] = mapped_column(String(128))
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int] = mapped_column(BigInteger)
    price_id: Mapped[str | None] = mapped_column(String(40))
    claims: Mapped[list[Any]]


class HolderRow(Base):
    """A process that holds reservations, and when it was last seen alive."""

    __tablename__ = "reservation_holders"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    seen_at: Mapped[datetime]
