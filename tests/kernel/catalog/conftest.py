"""A catalog on both databases; blobs lie in a folder except where a test asks for S3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.kernel.catalog.samples import Put

from modelworks.contract.media import File
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.storage import BlobStore


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


@pytest.fixture
def catalog(database: Database, blobs: BlobStore, clock: FixedClock, events: Events, settings: Settings) -> CatalogService:
    return CatalogService(database, blobs, clock, events, settings)


@pytest.fixture
def put(blobs: BlobStore) -> Put:
    """Store contents by path; the manifest comes back."""

    def store(contents: Mapping[str, bytes]) -> list[File]:
        return [File(path=path, **blobs.put(data).model_dump(exclude={"object"})) for path, data in contents.items()]

    return store
