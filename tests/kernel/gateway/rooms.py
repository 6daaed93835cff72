"""The rooms behind a gateway that keeps files, over a real database and a real server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from tests.kernel.gateway.watch import Watched
from tests.kernel.ready_tables import open_sqlite

from modelworks.kernel.access import AccessService, UsageRecorder
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.gateway import FileService, GatewayService
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.serving import ReplicaPool
from modelworks.kernel.storage import BlobStore


async def serve(app: Any, stack: AsyncExitStack, *, passing: Callable[[], bool] = lambda: False) -> str:
    """Serve an ASGI application with uvicorn as the product does; returns its URL.

    Args:
        passing: see `Watched`.
    """
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    watched = Watched(app, passing)
    config = uvicorn.Config(
        watched,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="httptools",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]))

    async def stop() -> None:
        server.should_exit = True
        await serving
        bound.close()
        assert not watched.misfits, watched.misfits

    stack.push_async_callback(stop)
    while not server.started:
        await asyncio.sleep(0.005)
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


#: Trusts nobody: nothing here is asked by TLS, and reading the machine's certificates takes longer than most tests.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def openai_client(url: str, secret: str) -> AsyncOpenAI:
    """OpenAI's client of the server at `url`."""
    return AsyncOpenAI(base_url=url + "/v1", api_key=secret, max_retries=0, http_client=DefaultAsyncHttpxClient(verify=NO_TLS))


@dataclass(kw_only=True)
class Rooms:
    """Every room below the gateway's routes; `open` puts a server with some of them before it, and a client."""

    settings: Settings
    db: Database
    clock: FixedClock
    events: Events
    blobs: BlobStore
    access: AccessService
    recorder: UsageRecorder
    catalog: CatalogService
    jobs: JobsService
    files: FileService
    pool: ReplicaPool
    gateway: GatewayService
    project_id: str
    secret: str
    stack: AsyncExitStack
    url: str = ""
    client: AsyncOpenAI = field(init=False)

    async def open(self, app: FastAPI) -> None:
        """Serve the application; `url` and `client` are set from then on."""
        self.url = await serve(app, self.stack)
        self.client = await self._client(self.secret)

    async def other(self, scopes: Iterable[str] = ("read", "write"), *, project: str | None = None, **more: Any) -> AsyncOpenAI:
        """A client with another key: of a project of its own where `project` is given."""
        with self.db.transaction() as session:
            project_id = self.project_id if project is None else self.access.create_project(session, project).id
            secret = self.access.create_key(session, project_id, "other", scopes=list(scopes), **more)[1]
        return await self._client(secret)

    async def _client(self, secret: str) -> AsyncOpenAI:
        return await self.stack.enter_async_context(openai_client(self.url, secret))


@asynccontextmanager
async def open_rooms(tmp_path: Path, *, max_file_bytes: int, db: Database | None = None) -> AsyncIterator[Rooms]:
    """A project with one key; without `db` on a SQLite file of its own."""
    async with AsyncExitStack() as stack:
        if db is None:
            db = open_sqlite(tmp_path / "rooms.db")
            stack.callback(db.dispose)
        settings = Settings(home=tmp_path / "home", slots_cpu=4, slots_memory_bytes=8 << 30)
        clock, events = FixedClock(), Events()
        blobs = BlobStore(str(tmp_path / "blobs"))
        access = AccessService(db, clock, events)
        recorder = UsageRecorder(db)
        stack.callback(recorder.close)
        with db.transaction() as session:
            project_id = access.create_project(session, "my lab").id
            secret = access.create_key(session, project_id, "test", scopes=["read", "write", "inference"])[1]
        catalog = CatalogService(db, blobs, clock, events, settings)
        jobs = JobsService(db, catalog, blobs, clock, events, settings)
        pool = ReplicaPool()
        await pool.start()
        stack.push_async_callback(pool.close)
        yield Rooms(
            settings=settings,
            db=db,
            clock=clock,
            events=events,
            blobs=blobs,
            access=access,
            recorder=recorder,
            catalog=catalog,
            jobs=jobs,
            files=FileService(db, catalog, blobs, clock, max_bytes=max_file_bytes),
            pool=pool,
            gateway=GatewayService(access=access, usage=recorder, pool=pool, db=db, jobs=jobs, catalog=catalog, clock=clock),
            project_id=project_id,
            secret=secret,
            stack=stack,
        )
