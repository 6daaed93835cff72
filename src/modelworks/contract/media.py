"""Large values travel by reference, never inside JSON: a digest in our storage, a URL, or a data URL for small ones."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class MediaRef(BaseModel):
    """Bytes that live elsewhere. Exactly one of `digest` (our storage) and `url` (https or data) is set."""

    model_config = ConfigDict(frozen=True)

    digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    url: str | None = None
    media_type: str | None = None
    num_bytes: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_source(self) -> MediaRef:
        if (self.digest is None) == (self.url is None):
            raise ValueError("give exactly one of digest and url")
        return self


class ImageRef(MediaRef):
    kind: Literal["image"] = "image"


class AudioRef(MediaRef):
    kind: Literal["audio"] = "audio"


class VideoRef(MediaRef):
    kind: Literal["video"] = "video"


class MeshRef(MediaRef):
    """Triangles, usually glTF binary."""

    kind: Literal["mesh"] = "mesh"


class SplatRef(MediaRef):
    """Gaussian splats, PLY or SPZ."""

    kind: Literal["splat"] = "splat"


class GridRef(MediaRef):
    """A gridded field with named coordinates, Zarr or NetCDF."""

    kind: Literal["grid"] = "grid"


class TableRef(MediaRef):
    """Rows and columns, Parquet or CSV."""

    kind: Literal["table"] = "table"


class MoleculeRef(MediaRef):
    kind: Literal["molecule"] = "molecule"


class DocumentRef(MediaRef):
    kind: Literal["document"] = "document"


class File(BaseModel):
    """One file of a version's manifest; `path` is relative, with forward slashes."""

    model_config = ConfigDict(frozen=True)

    path: str
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    num_bytes: int = Field(ge=0)
