"""Who asks, and the wire forms of projects, keys and usage."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from modelworks.contract.errors import PermissionDenied
from modelworks.kernel.base.changes import Author
from modelworks.kernel.base.ids import new_id

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Role = Literal["owner", "admin", "developer", "viewer", "service"]
Scope = Literal["inference", "read", "write", "admin"]
SCOPES: frozenset[str] = frozenset({"inference", "read", "write", "admin"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """The key behind a request; everything a request may see belongs to its project."""

    key_id: str
    project_id: str
    user_id: str | None = None
    scopes: frozenset[str] = frozenset()
    #: Names of the models that the key may use; None means every model of the project.
    model_allow: tuple[str, ...] | None = None
    #: Networks from which the key is taken; None means from everywhere.
    ip_allow: tuple[Network, ...] | None = None
    key_prefix: str = ""
    name: str = ""
    #: Whether its project is the platform's own.
    is_platform: bool = False

    @property
    def is_operator(self) -> bool:
        """Whether this is an administrator of the platform: of the machine it runs on, and of what lies there."""
        return self.is_platform and "admin" in self.scopes

    @property
    def author(self) -> Author:
        """Under whose name changes are recorded."""
        if self.user_id is not None and self.key_id.startswith("ses_"):
            return Author("user", self.user_id)
        return Author("key", self.key_id)

    def has(self, scope: str) -> bool:
        """Whether the key carries `scope`; "admin" carries every scope, "write" includes "read"."""
        return scope in self.scopes or "admin" in self.scopes or (scope == "read" and "write" in self.scopes)

    def require(self, scope: str) -> None:
        """Raise PermissionDenied unless the key carries `scope`."""
        if not self.has(scope):
            raise PermissionDenied(
                f"The API key {self.key_prefix}… may not do this: it lacks the scope {scope!r}.",
                hint="Use a key with this scope, or have an administrator create one.",
            )

    def may_use(self, model: str) -> bool:
        """Whether the allow-list admits a model; an entry admits its versions and aliases (`name@…`) too."""
        if self.model_allow is None:
            return True
        return model in self.model_allow or model.partition("@")[0] in self.model_allow

    def require_model(self, model: str) -> None:
        """Raise PermissionDenied unless the allow-list admits `model`."""
        if not self.may_use(model):
            raise PermissionDenied(
                f"The API key {self.key_prefix}… may not use the model {model!r}.",
                hint="It is limited to: " + (", ".join(self.model_allow or ()) or "no model at all") + ".",
                param="model",
                code="model_not_allowed",
            )

    def require_address(self, client: tuple[str, int] | None) -> None:
        """Raise PermissionDenied unless the key is taken from the address of `client` (that of the ASGI scope)."""
        if self.ip_allow is None:
            return
        address = None if client is None else _address(client[0])
        if address is None or not any(address in network for network in self.ip_allow):
            raise PermissionDenied(
                f"The API key {self.key_prefix}… is not taken from {'an unknown address' if address is None else address}.",
                hint="Use it from a network that it is limited to; a proxy in between is named by MODELWORKS_TRUSTED_PROXIES.",
                code="address_not_allowed",
            )


def networks_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks in CIDR form, or single addresses; raises ValueError."""
    return tuple(ipaddress.ip_network(text.strip(), strict=False) for text in texts)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 callers in this form.
    return getattr(address, "ipv4_mapped", None) or address


#: What a project does with models, as its owners declare it.
Use = Literal["commercial", "non-commercial"]


class Project(BaseModel):
    """A tenant: everything stored belongs to one project."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["project"] = "project"
    id: str
    name: str
    created_at: datetime
    organisation_id: str | None = None
    #: What the project says that it does with models; None: not declared.
    use: Use | None = None


class ProjectCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=128, pattern=r"^\S(.*\S)?$")
    organisation_id: str | None = Field(default=None, description="By default the first organisation.")
    use: Use | None = Field(default=None, description="Models with a non-commercial licence need a non-commercial project.")


class ProjectUpdate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    use: Use | None = Field(
        description="Models with a non-commercial licence need a non-commercial project; null: not declared."
    )


class Organisation(BaseModel):
    """What projects and people belong to."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["organisation"] = "organisation"
    id: str
    name: str
    created_at: datetime


class OrganisationCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=128, pattern=r"^\S(.*\S)?$")


class User(BaseModel):
    """A person, or a service account; never with its password."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["user"] = "user"
    id: str
    kind: str
    name: str
    email: str | None
    created_at: datetime
    disabled_at: datetime | None


class UserCreate(BaseModel):
    """A new account with its first role."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["person", "service_account"] = "service_account"
    name: str = Field(min_length=1, max_length=128, pattern=r"^\S(.*\S)?$")
    email: str | None = Field(default=None, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")
    place_id: str = Field(description="An organisation or a project.")
    role: Role

    @field_validator("email")
    @classmethod
    def _lower(cls, email: str | None) -> str | None:
        return None if email is None else email.lower()


class Member(BaseModel):
    """An account's role in a place."""

    object: Literal["member"] = "member"
    user_id: str
    kind: str
    name: str
    email: str | None
    place_id: str
    role: str
    disabled_at: datetime | None
    created_at: datetime


class MemberPut(BaseModel):
    model_config = ConfigDict(extra="forbid")

    place_id: str | None = Field(default=None, description="An organisation or a project; by default the caller's project.")
    role: Role


class KeyCreate(BaseModel):
    """What a new key may do. Without `project_id` it belongs to the caller's project."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=128)
    scopes: list[Scope] = Field(default=["inference", "read"], min_length=1)
    expires_at: datetime | None = Field(default=None, description="After this moment the key is refused; None: never.")
    model_allow: list[str] | None = Field(default=None, description="Names of the models it may use; None: all.")
    ip_allow: list[str] | None = Field(
        default=None, max_length=64, description="Networks (CIDR) or addresses it is taken from; None: everywhere."
    )
    project_id: str | None = None
    user_id: str | None = Field(
        default=None, description="Account that it acts for: it never may do more than the account's role allows."
    )

    @field_validator("ip_allow")
    @classmethod
    def _networks(cls, texts: list[str] | None) -> list[str] | None:
        return None if texts is None else [str(network) for network in networks_of(texts)]


class KeyRotate(BaseModel):
    """How a key gives way to its successor."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: int = Field(default=86_400, ge=0, le=366 * 86_400, description="How long the old secret still works.")
    expires_at: datetime | None = Field(default=None, description="When the new key expires; None: as the old one would have.")


class Key(BaseModel):
    """An API key as it may be shown: never with its secret."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["api_key"] = "api_key"
    id: str
    project_id: str
    name: str
    prefix: str
    scopes: list[str]
    model_allow: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    ip_allow: list[str] | None = None
    user_id: str | None = None
    replaced_by: str | None = Field(default=None, description="The key that took its place when it was rotated.")


class KeyWithSecret(Key):
    """The answer to creating a key: the only time that the secret is shown."""

    secret: str


class WhoAmI(BaseModel):
    """The caller's key and project."""

    object: Literal["principal"] = "principal"
    key_id: str
    key_prefix: str
    name: str
    project_id: str
    scopes: list[str]
    model_allow: list[str] | None


class SessionCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: str = Field(min_length=1, max_length=254)
    password: SecretStr = Field(min_length=1, max_length=1024)
    project_id: str | None = Field(default=None, description="By default the oldest project in which they have a role.")


class SignInWays(BaseModel):
    """How people may sign in."""

    object: Literal["sign_in"] = "sign_in"
    password: bool = True
    provider: str | None = Field(description="The OpenID provider's issuer, where there is one.")
    start: str | None = Field(description="The path that sends a browser there.")


class SessionMove(BaseModel):
    model_config = ConfigDict(extra="forbid")

    project_id: str


class PasswordPut(BaseModel):
    model_config = ConfigDict(extra="forbid")

    password: SecretStr = Field(max_length=1024)
    current: SecretStr | None = Field(default=None, max_length=1024)


class SessionInfo(BaseModel):
    """Somebody signed in."""

    object: Literal["session"] = "session"
    id: str
    user_id: str
    name: str
    email: str | None
    project_id: str
    role: str | None
    scopes: list[str]
    csrf_token: str = Field(description="Goes into x-csrf-token of every request that changes something.")
    created_at: datetime
    expires_at: datetime


class Secret(BaseModel):
    """A secret of a project, without its value."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["secret"] = "secret"
    name: str
    created_at: datetime
    updated_at: datetime


class SecretPut(BaseModel):
    model_config = ConfigDict(extra="forbid")

    value: SecretStr = Field(min_length=1, max_length=16_384)


class AuditEntry(BaseModel):
    """One change: who changed what, when, on which request. `hash` covers every field and, by `previous`, all before it."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["audit.entry"] = "audit.entry"
    seq: int
    created_at: str
    author_kind: str
    author_id: str
    project_id: str | None
    action: str
    noun: str
    subject: str
    before: str | None = Field(description="SHA-256 of the row before; None where it was created.")
    after: str | None = Field(description="SHA-256 of the row afterwards; None where it was deleted.")
    fields: list[str]
    request_id: str | None
    previous: str
    hash: str

    @property
    def id(self) -> str:
        """What lists go on from."""
        return str(self.seq)


class AuditHead(BaseModel):
    """The end of the chain. Note it elsewhere: a copy that does not lead through it was tampered with."""

    object: Literal["audit.head"] = "audit.head"
    seq: int
    hash: str


class AuditReport(BaseModel):
    """What following the stored chain found: how far it holds, and where it breaks."""

    object: Literal["audit.report"] = "audit.report"
    holds: bool
    num_entries: int = Field(description="Entries that hold, from the first on.")
    head: AuditHead
    broken_at: int | None
    reason: str | None


@dataclass(slots=True, kw_only=True)
class UsageRecord:
    """One request: who, which model version, how many tokens, how long, how it ended. Never its content."""

    project_id: str
    key_id: str
    endpoint: str
    model: str
    request_id: str
    status: int
    deployment_id: str | None = None
    version_id: str | None = None
    error_code: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    duration_ms: float = 0.0
    time_to_first_token_ms: float | None = None
    streamed: bool = False
    aborted: bool = False
    #: Micro-units of the platform's currency.
    cost: int = 0
    price_id: str | None = None
    id: str = field(default_factory=lambda: new_id("usg"))
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: What the request had reserved; the record's id is then the reservation's.
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request may use of one budget or limit.

    Args:
        allowance_id: of the budget or limit.
        span: its day or month; empty for limits.
        metric: tokens, cost, requests or concurrency.
        amount: the most that is used of it.
        spacing_ns: of a rate: the time in which one unit flows back; 0 for everything else.
    """

    allowance_id: str
    span: str
    metric: str
    amount: int
    spacing_ns: int = 0

    @property
    def place(self) -> tuple[str, str]:
        """Its row; the order in which rows are locked."""
        return (self.allowance_id, self.span)


@dataclass(slots=True, kw_only=True)
class Reservation:
    """The most that a request may use, before it is sent to an engine. `id` becomes that of its usage record."""

    project_id: str
    key_id: str
    model: str
    endpoint: str
    request_id: str
    prompt_tokens: int
    completion_tokens: int
    cost: int
    price_id: str | None
    claims: tuple[Claim, ...]
    #: Rates per minute among the claims with their amounts, for the headers that tell of them.
    rates: tuple[tuple[Claim, int], ...] = ()
    #: The standard headers on rates, once it is granted or refused.
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    id: str = field(default_factory=lambda: new_id("usg"))


class UsageRequest(BaseModel):
    """One recorded request."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["usage.request"] = "usage.request"
    id: str
    created_at: datetime
    project_id: str
    key_id: str
    endpoint: str
    model: str
    deployment_id: str | None
    version_id: str | None
    request_id: str
    status: int
    error_code: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    duration_ms: float
    time_to_first_token_ms: float | None
    streamed: bool
    aborted: bool
    cost: int
    price_id: str | None


GroupBy = Literal["model", "key", "day"]


class UsageGroup(BaseModel):
    """Sums over the requests of one model, key or day."""

    object: Literal["usage.group"] = "usage.group"
    key: str
    num_requests: int
    num_errors: int
    num_aborted: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: int = Field(description="Micro-units of the platform's currency.")


class UsageSummary(BaseModel):
    """Usage of a project in a time span."""

    object: Literal["usage.summary"] = "usage.summary"
    since: datetime | None
    until: datetime | None
    group_by: GroupBy
    data: list[UsageGroup]
    total: UsageGroup


def as_list(items: list[Any], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list object over wire models that have an `id`."""
    return {
        "object": "list",
        "data": items,
        "has_more": has_more,
        "first_id": items[0].id if items else None,
        "last_id": items[-1].id if items else None,
    }
