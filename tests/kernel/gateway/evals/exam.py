"""The rooms behind evals, on a real server; the model that answers is a scripted replica, the graders are the real ones."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from tests.kernel.gateway.conftest import FakeReplica, chunk, listen, usage
from tests.kernel.gateway.rooms import Rooms, open_rooms

from modelworks.contract.media import File
from modelworks.kernel.access.schemas import UsageRequest
from modelworks.kernel.base.database import Database
from modelworks.kernel.gateway import EvalService, EvalSteps, Measuring, install
from modelworks.kernel.serving import DeployedModel, Route
from modelworks.kernel.serving.target import Slot, Target

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


@dataclass(kw_only=True)
class Exam(Rooms):
    """A server with files and evals, and the rooms behind it."""

    evals: EvalService
    replica: FakeReplica
    replica_url: str
    steps: EvalSteps = field(init=False)
    table: dict[tuple[str, str], Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = self.fresh_steps()

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
    async with open_rooms(tmp_path, max_file_bytes=16 << 20, db=db) as rooms:
        replica = FakeReplica()
        replica_url = await listen(replica.app(), rooms.stack)
        evals = EvalService(rooms.db, rooms.gateway, rooms.files, rooms.clock, base_url="http://127.0.0.1:8400")
        made = Exam(**vars(rooms), evals=evals, replica=replica, replica_url=replica_url)
        app = FastAPI()
        install(app, rooms.gateway, max_body_bytes=4 << 20, files=rooms.files, evals=evals)
        await made.open(app)
        made.deploy("tiny")
        made.answer()
        made.steps.start()
        try:
            yield made
        finally:
            await made.steps.stop()
