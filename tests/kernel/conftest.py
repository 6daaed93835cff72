"""Fixtures that every room's tests share: both databases, both blob stores, a clock that stands still."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Base, Database
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
    yield make_url(POSTGRES_URL).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    for attempt in range(3):
        try:
            with admin.begin() as connection:
                connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
            break
        except OperationalError:
            # A thread of the test that is still reading: PostgreSQL ends one of the two, and once it is this one.
            if attempt == 2:
                raise
    admin.dispose()


@pytest.fixture(params=DATABASES)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables: an SQLite file, and PostgreSQL where a server is given."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    else:
        database = Database(request.getfixturevalue("postgres_schema"))
    yield database
    database.dispose()


@pytest.fixture
def database(empty_database: Database) -> Database:
    """A database with the tables of every room that the test module has imported."""
    Base.metadata.create_all(empty_database.engine)
    return empty_database


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
