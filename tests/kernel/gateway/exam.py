"""The rooms behind evals, on a real server; the model that answers is a scripted replica, the graders are the real ones."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from openai import AsyncOpenAI
from tests.kernel.gateway.conftest import FakeReplica, chunk, listen, serve, usage

from modelworks.contract.media import File
from modelworks.kernel.access import AccessService, UsageRecorder
from modelworks.kernel.access.schemas import UsageRequest
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Base, Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.gateway import EvalService, EvalSteps, FileService, GatewayService, Measuring, install
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.serving import DeployedModel, ReplicaPool, Route
from modelworks.kernel.serving.pool import Slot, Target
from modelworks.kernel.storage import BlobStore

ITEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["question", "answer"],
}
#: Whether the model says what the item says.
EXACT: dict[str, Any] = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
TEMPLATE: dict[str, Any] = {
    "type": "template",
    "template": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "{{item.question}}"}],
}


def item(question: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"item": {"question": question, "answer": answer, **more}}


@dataclass
class Exam:
    """A server with files and evals, and the rooms behind it."""

    url: str
    db: Database
    access: AccessService
    catalog: CatalogService
    recorder: UsageRecorder
    gateway: GatewayService
    files: FileService
    evals: EvalService
    steps: EvalSteps
    pool: ReplicaPool
    replica: FakeReplica
    replica_url: str
    clock: FixedClock
    project_id: str
    client: AsyncOpenAI
    stack: AsyncExitStack
    table: dict[tuple[str, str], Target] = field(default_factory=dict)

    def deploy(self, name: str) -> str:
        """A model of the catalog that the replica answers for; returns the id of its version."""
        with self.db.transaction() as session:
            blob = self.files.blobs.put(json.dumps({"name": name}).encode())
            version_id = self.catalog.register(
                session,
                self.project_id,
                kind="model",
                name=name,
                files=[File(path="config.json", digest=blob.digest, num_bytes=blob.num_bytes)],
                task="text-generation",
                source=name,
            ).id
        shared: Any = {
            "deployment_id": f"dep_{name}",
            "project_id": self.project_id,
            "name": name,
            "task": "text-generation",
            "capability": "text",
            "kind": "predictor",
            "engine": "predictor",
            "version_id": version_id,
        }
        route = Route(**shared, base_url=self.replica_url, headers={"authorization": "Bearer replica-token"})
        target = Target(DeployedModel(**shared, created=0, state="ready"), (Slot(f"rep_{name}", route),))
        self.table[(self.project_id, name)] = target
        self.pool.publish(dict(self.table))
        return version_id

    def undeploy(self, name: str) -> None:
        del self.table[(self.project_id, name)]
        self.pool.publish(dict(self.table))

    def questions(self) -> list[str]:
        """What the replica was asked, in order."""
        return [request["messages"][-1]["content"] for request in self.replica.requests]

    async def other(self, scopes: Iterable[str], *, project: str | None = None, **more: Any) -> AsyncOpenAI:
        """A client with another key: of a project of its own where `project` is given."""
        with self.db.transaction() as session:
            project_id = self.project_id if project is None else self.access.create_project(session, project).id
            secret = self.access.create_key(session, project_id, "other", scopes=list(scopes), **more)[1]
        client = AsyncOpenAI(base_url=self.url + "/v1", api_key=secret, max_retries=0)
        return await self.stack.enter_async_context(client)

    async def file(self, *rows: Any, purpose: Any = "evals") -> str:
        content = b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
        return (await self.client.files.create(file=("items.jsonl", content), purpose=purpose)).id

    async def eval(self, *criteria: Any, schema: Any = None, **more: Any) -> str:
        config: Any = {"type": "custom", "item_schema": schema or ITEM_SCHEMA, "include_sample_schema": True}
        made = await self.client.evals.create(
            data_source_config=config, testing_criteria=list(criteria) or [EXACT], **{"name": "quiz", **more}
        )
        return made.id

    async def asking(self, *rows: Any, model: str = "tiny", **more: Any) -> dict[str, Any]:
        """A data source that asks a model about the items of a file."""
        source = {"type": "file_id", "id": await self.file(*rows)}
        return {"type": "completions", "source": source, "model": model, "input_messages": TEMPLATE, **more}

    def given(self, *rows: Any) -> dict[str, Any]:
        """A data source whose items stand in the request, with their answers."""
        return {"type": "jsonl", "source": {"type": "file_content", "content": list(rows)}}

    async def until_over(self, eval_id: str, run_id: str) -> Any:
        """The run, once nothing more happens to it."""
        deadline = time.monotonic() + 60
        while True:
            run = await self.client.evals.runs.retrieve(run_id, eval_id=eval_id)
            if run.status not in ("queued", "in_progress"):
                return run
            assert time.monotonic() < deadline, run
            await asyncio.sleep(0.02)

    async def run(self, eval_id: str, source: Any, **more: Any) -> Any:
        """A run, over."""
        made = await self.client.evals.runs.create(eval_id, data_source=source, **more)
        return await self.until_over(eval_id, made.id)

    async def items(self, run: Any, **more: Any) -> list[Any]:
        found = self.client.evals.runs.output_items.list(run.id, eval_id=run.eval_id, **more)
        return [each async for each in found]

    def used(self) -> list[UsageRequest]:
        """The recorded requests, oldest first."""
        self.recorder.flush()
        with self.db.reading() as session:
            return list(reversed(self.access.list_usage(session, self.project_id, limit=100)[0]))

    def answer(self, **answers: str) -> None:
        """What the replica says to each question, by its first line; to others `yes`."""

        async def lines(request: dict[str, Any]) -> AsyncIterator[Any]:
            text = answers.get(request["messages"][-1]["content"].partition("\n")[0], "yes")
            yield chunk(usage=usage(7, 0, cached=3))
            yield chunk(text, finish_reason="stop", usage=usage(7, 2, cached=3))

        self.replica.lines = lines

    def fresh_steps(self) -> EvalSteps:
        """What a server that starts anew has."""
        return EvalSteps(
            self.evals, self.gateway, self.files, Measuring(self.db, self.catalog, self.files), patience_s=(0.01, 0.01)
        )


@asynccontextmanager
async def open_exam(tmp_path: Path, db: Database | None = None) -> AsyncIterator[Exam]:
    async with AsyncExitStack() as stack:
        if db is None:
            db = Database(f"sqlite:///{tmp_path / 'exam.db'}")
            stack.callback(db.dispose)
        Base.metadata.create_all(db.engine)
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
        files = FileService(db, catalog, blobs, clock, max_bytes=16 << 20)
        pool = ReplicaPool()
        await pool.start()
        stack.push_async_callback(pool.close)
        replica = FakeReplica()
        replica_url = await listen(replica.app(), stack)
        gateway = GatewayService(access=access, usage=recorder, pool=pool, db=db, jobs=jobs, catalog=catalog, clock=clock)
        evals = EvalService(db, gateway, files, clock, base_url="http://127.0.0.1:8400")
        app = FastAPI()
        install(app, gateway, max_body_bytes=4 << 20, files=files, evals=evals)
        url = await serve(app, stack)
        made = Exam(
            url=url,
            db=db,
            access=access,
            catalog=catalog,
            recorder=recorder,
            gateway=gateway,
            files=files,
            evals=evals,
            steps=EvalSteps(evals, gateway, files, Measuring(db, catalog, files), patience_s=(0.01, 0.01)),
            pool=pool,
            replica=replica,
            replica_url=replica_url,
            clock=clock,
            project_id=project_id,
            client=await stack.enter_async_context(AsyncOpenAI(base_url=url + "/v1", api_key=secret, max_retries=0)),
            stack=stack,
        )
        made.deploy("tiny")
        made.answer()
        made.steps.start()
        try:
            yield made
        finally:
            await made.steps.stop()
