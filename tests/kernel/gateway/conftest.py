"""A gateway on a real server, over a real database and pool; what answers behind it are scripted servers, reached by HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import orjson
import pytest
from aiohttp import web
from fastapi import FastAPI
from openai import AsyncOpenAI
from tests.kernel.gateway.rooms import openai_client, serve
from tests.kernel.gateway.tuning.desk import TALKER, Desk, open_desk
from tests.kernel.ready_tables import open_sqlite

from modelworks.contract.media import File
from modelworks.kernel.access import AccessService, Admission, UsageRecorder
from modelworks.kernel.access.schemas import UsageRequest
from modelworks.kernel.base.clock import FixedClock, SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.catalog import CatalogService, discovery
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.gateway import ConversationService, FileService, GatewayService, ResponseService, ResponseSteps, install
from modelworks.kernel.gateway.spaces.calls import SpaceDoor
from modelworks.kernel.gateway.spaces.tables import SpaceTables
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.serving import DeployedModel, ReplicaPool, Route
from modelworks.kernel.serving.target import Slot, Target
from modelworks.kernel.storage import BlobStore

Script = Callable[[dict[str, Any], web.StreamResponse], Awaitable[None]]


def chunk(text: str = "", **more: Any) -> dict[str, Any]:
    """A `GenerationChunk` as a replica writes it: every field, one token for a text."""
    return {
        "index": 0,
        "text": text,
        "token_ids": [1] if text else [],
        "logprobs": None,
        "finish_reason": None,
        "usage": None,
        **more,
    }


def usage(prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cached_tokens": cached,
        "reasoning_tokens": reasoning,
    }


def hello(prompt: int = 5) -> list[dict[str, Any]]:
    """A short answer of two tokens."""
    return [
        chunk(usage=usage(prompt, 0)),
        chunk("Hello"),
        chunk(" world", finish_reason="stop", usage=usage(prompt, 2)),
    ]


class FakeReplica:
    """Speaks the replica's protocol: JSON lines from /stream, JSON from /invoke. Notes what it was asked and who hung up."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.hung_up = asyncio.Event()
        self.asked = asyncio.Event()
        self.lines: Callable[[dict[str, Any]], AsyncIterator[Any]] = self._hello
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.output: Any = {"label": "cat"}
        self.url = ""

    async def _hello(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        for each in hello():
            yield each

    def answer(self, *chunks: Any) -> None:
        """Answer every request with these lines; an exception instance breaks the connection there."""

        async def lines(_request: dict[str, Any]) -> AsyncIterator[Any]:
            for each in chunks:
                yield each

        self.lines = lines

    async def stream(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["authorization"] == "Bearer replica-token"
        asked = await request.json(loads=orjson.loads)
        self.requests.append(asked)
        self.asked.set()
        if self.refusal is not None:
            status, wire = self.refusal
            return web.json_response({"error": wire}, status=status)
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        try:
            await response.prepare(request)
            async for line in self.lines(asked):
                if isinstance(line, Exception):
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await response.write(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n")
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionResetError):
            self.hung_up.set()
            raise
        return response

    async def invoke(self, request: web.Request) -> web.Response:
        self.requests.append(await request.json(loads=orjson.loads))
        if self.refusal is not None:
            status, wire = self.refusal
            return web.json_response({"error": wire}, status=status)
        return web.Response(body=orjson.dumps(self.output), content_type="application/json")

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/stream", self.stream)
        app.router.add_post("/invoke", self.invoke)
        return app


class FakeUpstream:
    """Speaks OpenAI's protocol, byte for byte as scripted."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.hung_up = asyncio.Event()
        self.status = 200
        self.body: bytes = b"{}"
        self.headers: dict[str, str] = {}
        #: Pieces of a streamed answer; None waits for ever, an exception breaks the connection.
        self.pieces: list[bytes | Exception | None] = []

    async def take(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json(loads=orjson.loads)
        self.requests.append((request.path, asked, dict(request.headers)))
        if self.status != 200 or not asked.get("stream"):
            return web.Response(body=self.body, status=self.status, content_type="application/json", headers=self.headers)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            await response.prepare(request)
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if piece is None:
                    await asyncio.Event().wait()
                else:
                    await response.write(piece)
                    # One TCP segment each, so that the pieces arrive as they are cut.
                    await asyncio.sleep(0.001)
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionResetError):
            self.hung_up.set()
            raise
        return response

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/{tail:.*}", self.take)
        return app


async def listen(app: web.Application, stack: AsyncExitStack) -> str:
    """Serve `app` on a free port until the stack is closed; returns its URL."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


class FakeJobs:
    """Takes job specifications down; replaced by a refusing one in the test that needs it."""

    def __init__(self) -> None:
        self.submitted: list[Any] = []


class FakeCatalog:
    """Knows what versions say of themselves."""

    def __init__(self) -> None:
        self.metadata: dict[str, dict[str, Any]] = {}
        self.files: dict[str, list[File]] = {}

    def get_version(self, _session: Any, _project_id: str, version_id: str) -> Any:
        return SimpleNamespace(metadata=self.metadata.get(version_id, {}), files=self.files.get(version_id, []))


@dataclass
class Stage:
    """Everything a test needs."""

    url: str
    gateway: GatewayService
    responses: ResponseService
    steps: ResponseSteps
    app: FastAPI
    pool: ReplicaPool
    access: AccessService
    recorder: UsageRecorder
    db: Database
    spaces: DataspaceService
    catalog: FakeCatalog
    files: FileService
    blobs: BlobStore
    tables: SpaceTables
    bus: Events
    replica: FakeReplica
    upstream: FakeUpstream
    replica_url: str
    upstream_url: str
    project_id: str
    secret: str
    http: aiohttp.ClientSession
    client: AsyncOpenAI
    table: dict[tuple[str, str], Target] = field(default_factory=dict)

    def deploy(self, name: str, **more: Any) -> Target:
        """Publish one more deployment; `urls` are its replicas, by default the one fake replica."""
        kind = more.pop("kind", "predictor")
        project_id = more.pop("project_id", self.project_id)
        default_url = {"predictor": self.replica_url, "openai": self.upstream_url + "/v1", "static": ""}[kind]
        urls = more.pop("urls", [default_url])
        version_id = more.pop("version_id", None if kind == "openai" else "mdl_01")
        task = more.pop("task", "text-generation")
        upstream_model = more.pop("upstream_model", "upstream/name" if kind == "openai" else None)
        references = frozenset(more.pop("references", ()))
        model = DeployedModel(
            name=name,
            project_id=project_id,
            deployment_id=f"dep_{name}",
            task=task,
            capability=more.pop("capability", None),
            kind=kind,
            engine=kind,
            version_id=version_id,
            created=1767225600,
            state=more.pop("state", "ready"),
            **more,
        )
        routes = [
            Route(
                deployment_id=model.deployment_id,
                project_id=project_id,
                name=name,
                task=task,
                capability=model.capability,
                kind=kind,
                engine=kind,
                version_id=version_id,
                base_url=url,
                headers={"authorization": "Bearer replica-token"},
                upstream_model=upstream_model,
            )
            for url in urls
        ]
        static = routes[0] if kind == "static" else None
        slots = () if kind == "static" else tuple(Slot(f"rep_{n}", route) for n, route in enumerate(routes))
        target = Target(model, slots, static, references)
        self.table[(project_id, name)] = target
        self.pool.publish(dict(self.table))
        return target

    def key(self, **more: Any) -> str:
        """Another key of the project."""
        with self.db.transaction() as session:
            return self.access.create_key(session, self.project_id, "another", **{"scopes": ["inference"], **more})[1]

    def used(self) -> list[UsageRequest]:
        """The recorded requests, oldest first."""
        self.recorder.flush()
        with self.db.reading() as session:
            return list(reversed(self.access.list_usage(session, self.project_id, limit=100)[0]))

    async def used_soon(self, count: int) -> list[UsageRequest]:
        """`used` once there are `count` of them: for requests whose caller did not wait for the end."""
        for _ in range(400):
            if len(found := self.used()) >= count:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"only {len(self.used())} requests were recorded")

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
        """Status, parsed body and headers of a plain request with the test's key."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        sent = {"authorization": f"Bearer {self.secret}", "content-type": "application/json", **headers}
        async with self.http.post(self.url + path, data=data, headers=sent) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, orjson.loads(raw) if is_json else raw, response.headers

    async def events(self, path: str, body: dict[str, Any]) -> list[str]:
        """The blocks of a streamed answer as they came, comments included."""
        async with self.http.post(
            self.url + path, json={**body, "stream": True}, headers={"authorization": f"Bearer {self.secret}"}
        ) as response:
            assert response.status == 200, await response.text()
            return [block for block in (await response.text()).replace("\r\n", "\n").split("\n\n") if block]


@pytest.fixture
async def stage(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Stage]:
    """A running gateway with the deployments `tiny` (a replica) and `remote/gpt` (an upstream server)."""
    async with AsyncExitStack() as stack:
        db = open_sqlite(tmp_path / "gateway.db")
        stack.callback(db.dispose)
        events = Events()
        access = AccessService(db, FixedClock(), events)
        recorder = UsageRecorder(db)
        stack.callback(recorder.close)
        with db.transaction() as session:
            project_id = access.create_project(session, "default").id
            secret = access.create_key(session, project_id, "test", scopes=["inference"])[1]
        pool = ReplicaPool(load_wait_s=5.0)
        await pool.start()
        stack.push_async_callback(pool.close)
        replica, upstream = FakeReplica(), FakeUpstream()
        replica_url = await listen(replica.app(), stack)
        upstream_url = await listen(upstream.app(), stack)
        spaces, catalog = DataspaceService(db, cast(JobsService, FakeJobs()), SystemClock(), events), FakeCatalog()
        stack.callback(spaces.answers.close)
        blobs = BlobStore(str(tmp_path / "blobs"))
        tables = SpaceTables(spaces, blobs, tmp_path / "cache" / "tables")
        stack.callback(tables.close)
        files = FileService(db, cast(CatalogService, catalog), blobs, SystemClock(), max_bytes=1_000_000)
        gateway = GatewayService(
            access=access,
            usage=recorder,
            accounts=Admission(db, recorder, SystemClock(), events),
            pool=pool,
            db=db,
            jobs=FakeJobs(),
            catalog=catalog,
            spaces=SpaceDoor(spaces, tables=tables),
            clock=SystemClock(),
            # A busy machine is silent for a while anywhere: comments come where a test is about them.
            keep_alive_s=0.15 if request.node.get_closest_marker("signs_of_life") else 60.0,
        )
        responses = ResponseService(db, ConversationService(db, SystemClock()), SystemClock())
        steps = ResponseSteps(responses, gateway, access.principal_of)
        app = FastAPI()
        install(
            app,
            gateway,
            max_body_bytes=200_000,
            files=files,
            responses=responses,
            response_steps=steps,
            cors_origins=["https://page.example"],
        )
        url = await serve(app, stack, passing=lambda: bool(upstream.requests))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        client = await stack.enter_async_context(openai_client(url, secret))
        made = Stage(
            url=url,
            gateway=gateway,
            responses=responses,
            steps=steps,
            spaces=spaces,
            catalog=catalog,
            files=files,
            blobs=blobs,
            tables=tables,
            bus=events,
            app=app,
            pool=pool,
            access=access,
            recorder=recorder,
            db=db,
            replica=replica,
            upstream=upstream,
            replica_url=replica_url,
            upstream_url=upstream_url,
            project_id=project_id,
            secret=secret,
            http=http,
            client=client,
        )
        made.deploy("tiny", max_model_len=512, root="tiny@default", references=["tiny@v1"])
        made.deploy("remote/gpt", kind="openai")
        yield made


def parsed(blocks: list[str]) -> list[Any]:
    """The JSON payloads of `data:` blocks; `[DONE]` and comments stay as they are."""
    return [orjson.loads(block[6:]) if block.startswith("data: {") else block for block in blocks]


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """Files and fine-tuning, with a base model in the catalog and a capability that could train it."""
    monkeypatch.setattr(discovery, "capabilities", lambda: {"talker": TALKER})
    async with open_desk(tmp_path) as made:
        made.model()
        yield made
