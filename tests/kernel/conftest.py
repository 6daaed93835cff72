"""Fixtures that every room's tests share: both databases, both blob stores, a clock that stands still."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from tests.kernel.ready_tables import ReadySchemas, drop_schema, in_schema, open_sqlite

from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.storage import BlobStore

POSTGRES_URL = os.environ.get("MODELWORKS_TEST_POSTGRES_URL")
DATABASES = ["sqlite", *([pytest.param("postgres", marks=pytest.mark.postgres)] if POSTGRES_URL else [])]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an empty home folder, untouched by the environment of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("MODELWORKS_") and not name.startswith("MODELWORKS_TEST_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("MODELWORKS_HOME", str(home))
    made = Settings(home=home)
    made.prepare_home()
    return made


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def postgres_schema() -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL schema that is dropped afterwards."""
    if POSTGRES_URL is None:
        pytest.skip("MODELWORKS_TEST_POSTGRES_URL is not set")
    name = f"test_{secrets.token_hex(8)}"
    admin = create_engine(POSTGRES_URL)
    with admin.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    yield in_schema(POSTGRES_URL, name)
    drop_schema(admin, name)
    admin.dispose()


@pytest.fixture(scope="session")
def ready_schemas() -> Iterator[ReadySchemas]:
    """PostgreSQL schemas that have every table."""
    if POSTGRES_URL is None:
        pytest.skip("MODELWORKS_TEST_POSTGRES_URL is not set")
    schemas = ReadySchemas(POSTGRES_URL)
    yield schemas
    schemas.close()


@pytest.fixture
def ready_schema(ready_schemas: ReadySchemas) -> Iterator[str]:
    """The URL of a PostgreSQL schema with every table and without a row."""
    name = ready_schemas.take()
    yield in_schema(ready_schemas.url, name)
    ready_schemas.give_back(name)


@pytest.fixture(params=DATABASES)
def database_kind(request: pytest.FixtureRequest) -> str:
    """`sqlite`, and `postgres` where a server is given."""
    return str(request.param)


@pytest.fixture
def empty_database(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables: an SQLite file, and PostgreSQL where a server is given."""
    if database_kind == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    else:
        database = Database(request.getfixturevalue("postgres_schema"))
    yield database
    database.dispose()


@pytest.fixture
def database(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the tables of every room that was imported."""
    if database_kind == "sqlite":
        database = open_sqlite(tmp_path / "test.db")
    else:
        database = Database(request.getfixturevalue("ready_schema"))
    yield database
    database.dispose()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_blobs(s3_server: str) -> BlobStore:
    """A blob store in a fresh bucket."""
    import s3fs

    options = {"endpoint_url": s3_server, "key": "testing", "secret": "testing", "client_kwargs": {"region_name": "us-east-1"}}
    bucket = f"bucket-{secrets.token_hex(8)}"
    s3fs.S3FileSystem(use_listings_cache=False, **options).call_s3("create_bucket", Bucket=bucket)
    return BlobStore(f"s3://{bucket}/blobs", options)


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """A blob store: a local folder and an S3 bucket in turn."""
    if request.param == "s3":
        store: BlobStore = request.getfixturevalue("s3_blobs")
        return store
    return BlobStore(str(tmp_path / "blobs"))
