"""Wire forms of the storage room."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

#: `sha256:` and 64 lower-case hexadecimal digits.
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class BlobInfo(BaseModel):
    """A stored blob."""

    model_config = ConfigDict(frozen=True)

    object: Literal["blob"] = "blob"
    digest: Digest
    num_bytes: int = Field(ge=0)


class LinkCreate(BaseModel):
    """How long a signed link shall work."""

    model_config = ConfigDict(extra="forbid")

    expires_s: int = Field(default=3600, ge=1, le=7 * 24 * 3600, description="Seconds until the link ends; at most a week.")


class Link(BaseModel):
    """A link that works without a key until it expires."""

    object: Literal["blob.link"] = "blob.link"
    url: str
    method: Literal["GET"] = "GET"
    expires_at: datetime


class CollectGarbage(BaseModel):
    """What a collection of garbage may take."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="Only count what would go.")
    grace_s: float = Field(
        default=24 * 3600, ge=3600, description="Blobs younger than this stay: what refers to them may be about to be written."
    )


class CollectedGarbage(BaseModel):
    """What a collection took."""

    object: Literal["blob.collection"] = "blob.collection"
    dry_run: bool
    num_deleted: int
    num_kept: int
    bytes_freed: int


class Caller(Protocol):
    """What this room needs to know of a principal."""

    def require(self, scope: str) -> None: ...
