"""The rooms behind files and fine-tuning jobs, on a real server; training is played by hand through the jobs room."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, RootModel
from tests.kernel.gateway.rooms import Rooms, open_rooms

from modelworks.contract.capability import Capability, Task
from modelworks.contract.generation import GenerationChunk, GenerationInput
from modelworks.contract.media import File
from modelworks.kernel.gateway import FineTuningService, TuningSteps, install
from modelworks.kernel.jobs.journal import JournalEntry
from modelworks.kernel.serving.service import ServingService


class Supervised(BaseModel):
    model_config = ConfigDict(extra="forbid")

    method: Literal["supervised"] = "supervised"
    epochs: float = Field(3.0, gt=0, le=100, description="Passes over the data.")
    batch_size: int = Field(4, ge=1, le=64, description="Rows at a time.")
    learning_rate: float = Field(1e-4, gt=0, le=1)
    keep_epochs: int = 0


class Lora(Supervised):
    method: Literal["lora"] = "lora"  # type: ignore[assignment]
    learning_rate: float = Field(2e-4, gt=0, le=1)
    rank: int = Field(16, ge=1, le=64, description="Inner width.")


class Preference(BaseModel):
    model_config = ConfigDict(extra="forbid")

    method: Literal["preference"] = "preference"
    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the data.")
    batch_size: int = Field(2, ge=1, le=64, description="Rows at a time.")
    learning_rate: float = Field(5e-6, gt=0, le=1)
    keep_epochs: int = 0
    beta: float = Field(0.1, gt=0, le=10, description="How strongly the base holds the model.")


class Reinforcement(BaseModel):
    model_config = ConfigDict(extra="forbid")

    method: Literal["reinforcement"] = "reinforcement"
    grader: dict[str, Any]
    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the data.")
    batch_size: int = Field(4, ge=1, le=64, description="Prompts at a time.")
    learning_rate: float = Field(1e-6, gt=0, le=1)
    keep_epochs: int = 0
    group_size: int = Field(8, ge=2, le=64, description="Answers to a prompt.")
    validate_every: int = Field(20, ge=1, description="Steps between measurements.")
    validation_samples: int = Field(1, ge=1, description="Answers to measure by.")


class Params(RootModel[Supervised | Lora | Preference | Reinforcement]):
    root: Supervised | Lora | Preference | Reinforcement = Field(discriminator="method")


#: Declares what a language capability declares; nothing here is ever trained.
TALKER = Capability(
    name="talker",
    summary="talks",
    package="tests.kernel.gateway",
    tasks=(
        Task(
            name="text-generation",
            input=GenerationInput,
            output=GenerationChunk,
            mode="stream",
            predictor="tests.kernel.gateway.tuning.desk:Nothing",
            grader="modelworks.capabilities.text.grading.opening:open_grader",
            trainer="tests.kernel.gateway.tuning.desk:nothing",
            train_params=Params,
        ),
        Task(
            name="image-classification", input=BaseModel, output=BaseModel, predictor="tests.kernel.gateway.tuning.desk:Nothing"
        ),
    ),
)

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Hi"}]},
    "preferred_output": [{"role": "assistant", "content": "Hello"}],
    "non_preferred_output": [{"role": "assistant", "content": "What?"}],
}


def jsonl(*examples: Any) -> bytes:
    return b"".join(json.dumps(example, ensure_ascii=False).encode() + b"\n" for example in examples)


@dataclass(kw_only=True)
class Desk(Rooms):
    """A server with files and fine-tuning, and the rooms behind it."""

    serving: ServingService
    tuning: FineTuningService
    steps: TuningSteps
    #: How many entries the worker of an attempt has written.
    told: dict[tuple[str, int], int] = field(default_factory=dict)

    def model(self, name: str = "lab/base", task: str | None = "text-generation") -> str:
        """A model in the catalog; returns the id of its version."""
        blob = self.blobs.put(name.encode())
        with self.db.transaction() as session:
            return self.catalog.register(
                session,
                self.project_id,
                kind="model",
                name=name,
                files=[File(path="config.json", digest=self.blobs.put(b"{}").digest, num_bytes=2)],
                task=task,
                source=blob.digest,
            ).id

    async def file(self, *examples: Any, purpose: Any = "fine-tune", name: str = "train.jsonl") -> str:
        """Store a file; returns its id."""
        return (await self.client.files.create(file=(name, jsonl(*examples)), purpose=purpose)).id

    async def job(self, **fields: Any) -> Any:
        """A fine-tuning job on `lab/base`."""
        if "training_file" not in fields:
            fields["training_file"] = await self.file(CHAT, CHAT)
        return await self.client.fine_tuning.jobs.create(**{"model": "lab/base", **fields})

    def run_id(self, job_id: str) -> str:
        """The run of a submitted job."""
        with self.db.reading() as session:
            row = self.tuning.locked(session, job_id)
            assert row is not None
            assert row.run_id is not None, row.error
            return row.run_id

    def play(self, job_id: str, *entries: tuple[str, dict[str, Any]]) -> None:
        """Let a worker report on the job's run; it begins first where it waits."""
        run_id = self.run_id(job_id)
        with self.db.transaction() as session:
            self.jobs.attempts.begin(session, run_id, (), "local", remote=False)
            attempt = self.jobs.get(session, self.project_id, run_id).attempt
        first = self.told.get((run_id, attempt), 0) + 1
        made = [
            JournalEntry(seq=number, attempt=attempt, time=self.clock.now(), type=type_, data=data)
            for number, (type_, data) in enumerate(entries, first)
        ]
        self.told[run_id, attempt] = first + len(entries) - 1
        self.jobs.attempts.receive(run_id, attempt, made)

    def saved_model(self, **more: Any) -> tuple[str, dict[str, Any]]:
        """The journal entry of a worker that saved a model; `more` goes into its metadata."""
        blob = self.blobs.put(b"{} ")
        files = [{"path": "config.json", "digest": blob.digest, "num_bytes": blob.num_bytes}]
        metadata = {"task": "text-generation", "level": "L2", "metrics": {"tokens_seen": 1234.0, "loss": 0.5}, **more}
        return "saved", {"kind": "model", "files": files, "metadata": metadata}


@asynccontextmanager
async def open_desk(tmp_path: Path, *, max_file_bytes: int = 1 << 20) -> AsyncIterator[Desk]:
    async with open_rooms(tmp_path, max_file_bytes=max_file_bytes) as rooms:
        serving = ServingService(rooms.db, rooms.catalog, rooms.clock, rooms.events, rooms.settings)
        tuning = FineTuningService(
            rooms.db, rooms.jobs, rooms.catalog, serving, rooms.files, rooms.clock, project_name=rooms.access.project_name
        )
        steps = TuningSteps(tuning, rooms.jobs, rooms.catalog, rooms.files, rooms.clock, rooms.events)
        made = Desk(**vars(rooms), serving=serving, tuning=tuning, steps=steps)
        app = FastAPI()
        rooms.gateway.pool.on_unknown(tuning.kept.when_asked)
        install(app, rooms.gateway, max_body_bytes=10_000, files=rooms.files, tuning=tuning)
        await made.open(app)
        yield made
