"""The room of data spaces on both databases, with the rooms below it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.dataspace import DataspaceService, SpaceDocument
from modelworks.kernel.dataspace.schemas import SpaceCreate
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.storage import BlobStore

PROJECT = "prj_plant"
ANN = Principal(key_id="key_ann", project_id=PROJECT, user_id="usr_ann", scopes=frozenset({"write"}))
BEN = Principal(key_id="key_ben", project_id=PROJECT, user_id="usr_ben", scopes=frozenset({"write"}))
#: Of another project.
EVE = Principal(key_id="key_eve", project_id="prj_other", user_id="usr_eve", scopes=frozenset({"admin"}))

#: Puts a document into the space `manual`: its name, its text, and whatever else is known.
PutDocument = Callable[..., SpaceDocument]


@pytest.fixture
def spaces(database: Database, tmp_path: Path, clock: FixedClock, events: Events, settings: Settings) -> DataspaceService:
    blobs = BlobStore(str(tmp_path / "blobs"))
    catalog = CatalogService(database, blobs, clock, events, settings)
    made = DataspaceService(database, JobsService(database, catalog, blobs, clock, events, settings), clock, events)
    with database.transaction() as session:
        made.create(session, PROJECT, "key_ann", SpaceCreate(name="manual"))
    return made


@pytest.fixture
def put(spaces: DataspaceService, tmp_path: Path) -> PutDocument:
    blobs = BlobStore(str(tmp_path / "blobs"))

    def put_document(name: str, text: str = "", **known: Any) -> SpaceDocument:
        blob = blobs.put((text or name).encode())
        with spaces.db.transaction() as session:
            known = {"name": name, "digest": blob.digest, "num_bytes": blob.num_bytes} | known
            return spaces.documents.put(session, PROJECT, "manual", **known)[0]

    return put_document
