"""The rooms behind batches, on a real server; the models that answer are scripted replicas."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from tests.kernel.gateway.conftest import FakeReplica, chunk, listen, usage
from tests.kernel.gateway.rooms import Rooms, open_rooms

from modelworks.kernel.access import Admission, Ledger, UsageRecorder
from modelworks.kernel.access.schemas import UsageRequest
from modelworks.kernel.base.database import Database
from modelworks.kernel.gateway import (
    BatchService,
    BatchSteps,
    ConversationService,
    Door,
    ResponseService,
    ResponseSteps,
    install,
)
from modelworks.kernel.serving import DeployedModel, Route
from modelworks.kernel.serving.target import Slot, Target

CHAT = "/v1/chat/completions"


def ask(custom_id: str, text: str | None = None, *, url: str = CHAT, **body: Any) -> dict[str, Any]:
    """A line of a batch; by default a chat whose question is the id."""
    body = {"model": "tiny", **body}
    if url == CHAT:
        body.setdefault("messages", [{"role": "user", "content": text or custom_id}])
        body.setdefault("max_tokens", 20)
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


@dataclass(kw_only=True)
class Pile(Rooms):
    """A server with files and batches, and the rooms behind it."""

    batches: BatchService
    door: Door
    replica: FakeReplica
    replica_url: str
    #: Questions are answered at once, but for those that wait for it.
    held: asyncio.Event = field(default_factory=asyncio.Event)
    most_at_once: int = 0
    steps: BatchSteps = field(init=False)
    table: dict[tuple[str, str], Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = self.fresh_steps()
        self._at_once = 0
        self.replica.lines = self._lines

    async def _lines(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if str(request["messages"][-1]["content"]).startswith("held"):
                await self.held.wait()
            yield chunk(usage=usage(7, 0, cached=3))
            yield chunk("yes", finish_reason="stop", usage=usage(7, 2, cached=3))
        finally:
            self._at_once -= 1

    def fresh_steps(self, **more: Any) -> BatchSteps:
        """What a server that starts anew has."""
        given = {"questions": 2, "patience_s": (0.01, 0.01), **more}
        return BatchSteps(self.batches, self.door, self.blobs, self.access.principal_of, **given)

    async def restart(self, **more: Any) -> None:
        await self.steps.stop()
        self.steps = self.fresh_steps(**more)
        self.steps.start()

    def deploy(self, name: str, task: str = "text-generation") -> None:
        shared: Any = {
            "deployment_id": f"dep_{name}",
            "project_id": self.project_id,
            "name": name,
            "task": task,
            "capability": "text",
            "kind": "predictor",
            "engine": "predictor",
            "version_id": "mdl_01",
        }
        route = Route(**shared, base_url=self.replica_url, headers={"authorization": "Bearer replica-token"})
        slots = (Slot(f"rep_{name}", route),)
        self.table[(self.project_id, name)] = Target(DeployedModel(**shared, created=0, state="ready"), slots)
        self.pool.publish(dict(self.table))

    def questions(self) -> list[str]:
        """What the replica was asked, in order."""
        return [request["messages"][-1]["content"] for request in self.replica.requests]

    async def file(self, *rows: Any, purpose: Any = "batch", client: Any = None) -> str:
        content = b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
        stored = await (client or self.client).files.create(file=("questions.jsonl", content), purpose=purpose)
        return str(stored.id)

    async def begin(self, *rows: Any, endpoint: Any = CHAT, client: Any = None, **more: Any) -> Any:
        """A batch that was just made."""
        file_id = await self.file(*rows, client=client)
        found = client or self.client
        return await found.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h", **more)

    async def until(self, batch_id: str, *, status: str | None = None, answered: int = 0) -> Any:
        """The batch, once it is over, or has that status and so many answers."""
        over = ("completed", "failed", "expired", "cancelled")
        deadline = time.monotonic() + 60
        while True:
            batch = await self.client.batches.retrieve(batch_id)
            counts = batch.request_counts
            if counts.completed + counts.failed >= answered and (batch.status == status if status else batch.status in over):
                return batch
            assert time.monotonic() < deadline, batch
            assert batch.status not in over or status in over, batch
            await asyncio.sleep(0.02)

    async def run(self, *rows: Any, **more: Any) -> Any:
        """A batch, over."""
        return await self.until((await self.begin(*rows, **more)).id)

    async def lines(self, file_id: str | None) -> dict[str, Any]:
        """The lines of an output or error file by `custom_id`."""
        assert file_id is not None
        content = (await self.client.files.content(file_id)).content
        found = [json.loads(line) for line in content.splitlines()]
        assert len({line["custom_id"] for line in found}) == len(found)
        return {line["custom_id"]: line for line in found}

    def used(self) -> list[UsageRequest]:
        """The recorded requests, oldest first."""
        self.recorder.flush()
        with self.db.reading() as session:
            return list(reversed(self.access.list_usage(session, self.project_id, limit=100)[0]))


@asynccontextmanager
async def open_pile(tmp_path: Path, db: Database | None = None) -> AsyncIterator[Pile]:
    async with open_rooms(tmp_path, max_file_bytes=16 << 20, db=db) as rooms:
        replica = FakeReplica()
        replica_url = await listen(replica.app(), rooms.stack)
        recorder = UsageRecorder(rooms.db, Ledger(rooms.clock))
        rooms.stack.callback(recorder.close)
        accounts = Admission(rooms.db, recorder, rooms.clock, rooms.events)
        rooms.gateway = replace(rooms.gateway, usage=recorder, accounts=accounts)
        rooms.recorder = recorder
        responses = ResponseService(rooms.db, ConversationService(rooms.db, rooms.clock), rooms.clock)
        door = Door(
            rooms.gateway,
            responses,
            ResponseSteps(responses, rooms.gateway, rooms.access.principal_of),
            max_body_bytes=64 << 10,
        )
        batches = BatchService(rooms.db, rooms.files, rooms.clock)
        made = Pile(**vars(rooms), batches=batches, door=door, replica=replica, replica_url=replica_url)
        app = FastAPI()
        install(app, rooms.gateway, max_body_bytes=4 << 20, files=rooms.files, batches=batches)
        await made.open(app)
        made.deploy("tiny")
        made.steps.start()
        try:
            yield made
        finally:
            await made.steps.stop()
