"""Spaces that strangers may ask: by a token that stands in a page, from the pages that are allowed, within limits.

A token proves nothing of who asks: whoever reads the page reads it. It is thus worth one thing only, to ask this one space, and
what it is worth ends with the publication.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import AuthenticationFailed, InvalidRequest, NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock, is_moment
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.pages import page_of, paged
from modelworks.kernel.dataspace.store import PublicationRow, SpaceRow

if TYPE_CHECKING:
    from modelworks.kernel.dataspace.service import DataspaceService

TOKEN_PREFIX: Final = "mwp_"  # noqa: S105 - the visible start of every token, not a token
MAX_ORIGINS: Final = 50
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")


def origin_of(text: str) -> str:
    """`https://shop.example`: scheme, host and port as browsers write them in `Origin` (RFC 6454, 6.2).

    Raises:
        ValueError: it is no origin of a web page: a path or a name stands in it, or another scheme.
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii").lower()
    except (ValueError, UnicodeError) as error:
        raise ValueError(f"{text[:200]!r} is no origin such as https://shop.example") from error
    if ":" in host:
        host = f"[{host}]"
    is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment and "@" not in parts.netloc
    if parts.scheme not in _DEFAULT_PORTS or not is_bare or not _HOST.fullmatch(host):
        raise ValueError(f"{text[:200]!r} is no origin such as https://shop.example: scheme, host and port, nothing else")
    return f"{parts.scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}")


def _origins(found: list[str]) -> list[str]:
    return list(dict.fromkeys(origin_of(each) for each in found))


class PublicationSettings(BaseModel):
    """Where from, how often and in which words a published space may be asked."""

    model_config = ConfigDict(extra="forbid")

    #: Origins of the pages that may hold the chat; nothing is meant by a pattern.
    origins: Annotated[list[Annotated[str, Field(max_length=300)]], Field(max_length=MAX_ORIGINS), AfterValidator(_origins)] = (
        Field(default_factory=list)
    )
    #: Whether the page /share/{publication} of this server answers too.
    share: bool = False
    #: What stands above the chat, and what it says first.
    title: str | None = Field(default=None, max_length=120)
    greeting: str | None = Field(default=None, max_length=1000)
    #: Of the chat's own words; auto: the reader's.
    language: Literal["auto", "en", "zh"] = "auto"
    #: Questions in a minute: of everybody together, and from one address.
    requests_per_minute: int = Field(default=60, ge=1, le=100_000)
    requests_per_minute_per_address: int = Field(default=10, ge=1, le=100_000)


class PublicationCreate(PublicationSettings):
    """POST /api/spaces/{space}/publications."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^\S(.*\S)?$")
    expires_at: datetime | None = None


class Publication(PublicationSettings):
    """A published space, without its token."""

    object: Literal["space.publication"] = "space.publication"
    id: str
    space_id: str
    name: str
    #: The visible start of its token.
    prefix: str
    #: Whether it answers: neither revoked nor over.
    is_live: bool
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime


class PublicationMade(BaseModel):
    """A new publication with its token, which is not kept and cannot be shown again. A dry run makes none."""

    object: Literal["space.publication.made"] = "space.publication.made"
    publication: Publication
    token: str | None
    #: What a page needs to hold the chat; None where no origin is allowed.
    snippet: str | None
    #: A page of its own; None where sharing is not allowed.
    link: str | None


@dataclass(frozen=True, slots=True)
class Published:
    """A publication that answers now, as the gateway needs it."""

    id: str
    space_id: str
    space: str
    settings: PublicationSettings
    #: In whose name strangers ask: it may ask this space and nothing else.
    principal: Principal


class Publications:
    """One side of the data space's room; see `DataspaceService`. Methods take part in the caller's transaction."""

    def __init__(self, spaces: DataspaceService, clock: Clock) -> None:
        self._spaces = spaces
        self._clock = clock

    def create(
        self, session: Session, caller: Principal, space: str, asked: PublicationCreate, *, dry_run: bool = False
    ) -> tuple[Publication, str | None]:
        """Publish a space; the publication and its token, which is None for a dry run.

        Raises:
            NotFound: no such space.
            InvalidRequest: nobody could ask it, or its end has passed.
        """
        owner = self._spaces.row(session, caller.project_id, space, lock=not dry_run)
        now = self._clock.now()
        if asked.expires_at is not None and (not is_moment(asked.expires_at) or asked.expires_at <= now):
            raise InvalidRequest(
                "expires_at: the end must be a moment in the future, with its time zone.",
                hint="Example: 2027-01-31T00:00:00Z.",
                param="expires_at",
            )
        if not asked.origins and not asked.share:
            raise InvalidRequest(
                "origins: nobody could ask it.",
                hint="Name the origins of the pages that hold the chat (https://shop.example), or allow `share`.",
                param="origins",
            )
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        row = PublicationRow(
            id=new_id("pub"),
            space_id=owner.id,
            project_id=owner.project_id,
            key_id=caller.key_id,
            name=asked.name,
            prefix=token[:10],
            token_hash=_hash(token),
            settings=asked.model_dump(mode="json", exclude={"name", "expires_at"}),
            expires_at=asked.expires_at,
            revoked_at=None,
            created_at=now,
        )
        if dry_run:
            return self._shown(row), None
        session.add(row)
        self._spaces.tell(session, owner, f"It was published as {asked.name!r}.", data={"publication_id": row.id})
        session.flush()
        return self._shown(row), token

    def list(
        self, session: Session, project_id: str, space: str, *, after: str | None = None, limit: int = 20
    ) -> Page[Publication]:
        """Those of a space, newest first; revoked ones stay listed. Raises NotFound."""
        owner = self._spaces.row(session, project_id, space)
        query = select(PublicationRow).where(PublicationRow.space_id == owner.id)
        rows = paged(session, query, PublicationRow.id, after=after, before=None, limit=limit, order="desc")
        return page_of([self._shown(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def revoke(self, session: Session, project_id: str, space: str, publication_id: str) -> Publication:
        """Let its token and every session of it end now; doing it twice changes nothing. Raises NotFound."""
        owner = self._spaces.row(session, project_id, space, lock=True)
        row = session.get(PublicationRow, publication_id)
        if row is None or row.space_id != owner.id:
            raise NotFound(
                f"The data space {owner.name!r} has no publication {publication_id[:80]!r}.",
                hint=f"`modelworks space publications {owner.id}` lists them.",
                code="publication_not_found",
            )
        if row.revoked_at is None:
            row.revoked_at = self._clock.now()
            self._spaces.tell(session, owner, f"The publication {row.name!r} has ended.", data={"publication_id": row.id})
        session.flush()
        return self._shown(row)

    # -- for strangers ---------------------------------------------------------------------------------------------------

    def live(self, session: Session, publication_id: str) -> Published:
        """A publication that answers now.

        Raises:
            NotFound: there is none of that id, or not any more: strangers are not told which.
        """
        row = session.get(PublicationRow, publication_id)
        owner = None if row is None else session.get(SpaceRow, row.space_id)
        if row is None or owner is None or owner.deleted_at is not None or not self._is_live(row):
            raise NotFound("Nothing is published here, or not any more.", code="publication_not_found")
        settings = PublicationSettings.model_validate(row.settings)
        principal = Principal(
            key_id=row.id,
            project_id=row.project_id,
            scopes=frozenset({"inference"}),
            model_allow=(f"space:{row.space_id}",),
            key_prefix=row.prefix,
            name=row.name,
        )
        return Published(row.id, row.space_id, owner.name, settings, principal)

    def with_token(self, session: Session, publication_id: str, token: str) -> Published:
        """`live`, for whoever has its token.

        Raises:
            NotFound: as `live`. AuthenticationFailed: the token is another one's.
        """
        found = self.live(session, publication_id)
        row = session.get_one(PublicationRow, publication_id)
        if not hmac.compare_digest(_hash(token), row.token_hash):
            raise AuthenticationFailed(
                "The token does not belong to this publication.",
                hint="Copy the snippet again, or publish the space anew: `modelworks space publish`.",
                code="invalid_publishable_token",
            )
        return found

    def _is_live(self, row: PublicationRow) -> bool:
        return row.revoked_at is None and (row.expires_at is None or row.expires_at > self._clock.now())

    def _shown(self, row: PublicationRow) -> Publication:
        return Publication(
            **PublicationSettings.model_validate(row.settings).model_dump(),
            id=row.id,
            space_id=row.space_id,
            name=row.name,
            prefix=row.prefix,
            is_live=self._is_live(row),
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            created_at=row.created_at,
        )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
