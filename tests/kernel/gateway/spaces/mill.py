"""The rooms that a space's pipeline moves, without a server; workers and replicas are played by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from modelworks.capabilities.document.cleaning.schemas import CleanPassages
from modelworks.contract.capability import Capability, Task
from modelworks.contract.media import File
from modelworks.contract.passages import DOCUMENTS_FILE, Document, Fault, ParsedDocument, SearchInput, SearchOutput
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.dataspace import DataspaceService, Scope, Space, SpaceDocument
from modelworks.kernel.dataspace.schemas import SpaceCreate
from modelworks.kernel.gateway import SpaceSteps
from modelworks.kernel.jobs import JobsService, RunRecord
from modelworks.kernel.jobs.journal import JournalEntry
from modelworks.kernel.serving.service import ServingService
from modelworks.kernel.serving.store import DeploymentRow, ReplicaRow
from modelworks.kernel.storage import BlobStore

PROJECT = "prj_mill"
ANN = Principal(key_id="key_ann", project_id=PROJECT, scopes=frozenset({"write", "inference"}))
BROKEN = Fault(code="encrypted_file", message="It asks for a password.", hint="Store it without one.")


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    passage_chars: int = 1000


class Result(BaseModel):
    num_documents: int = 0


#: Declares what the pipeline looks for; nothing here is ever run.
MILL = Capability(
    name="mill",
    summary="parses and searches",
    package="tests.kernel.gateway",
    tasks=(
        Task(
            name="document-parsing",
            input=Request,
            output=Result,
            mode="job",
            predictor="tests.kernel.gateway:nothing",
            cleaner="tests.kernel.gateway:nothing",
            clean_params=CleanPassages,
        ),
        Task(
            name="passage-retrieval",
            input=SearchInput,
            output=SearchOutput,
            predictor="tests.kernel.gateway:Nothing",
            trainer="tests.kernel.gateway:nothing",
            train_params=Request,
            train_inputs=("passages",),
        ),
    ),
)


@dataclass(kw_only=True)
class Mill:
    """A space `manual` and everything that makes it answer."""

    db: Database
    blobs: BlobStore
    clock: FixedClock
    catalog: CatalogService
    jobs: JobsService
    serving: ServingService
    spaces: DataspaceService
    steps: SpaceSteps
    cache: Path
    told: dict[tuple[str, int], int] = field(default_factory=dict)

    # -- what a person does ----------------------------------------------------------------------------------------------

    def put(self, name: str, text: str = "") -> SpaceDocument:
        blob = self.blobs.put((text or name).encode())
        with self.db.transaction() as session:
            known = {"name": name, "digest": blob.digest, "num_bytes": blob.num_bytes}
            return self.spaces.documents.put(session, PROJECT, "manual", **known)[0]

    def remove(self, document: SpaceDocument) -> None:
        with self.db.transaction() as session:
            self.spaces.documents.remove(session, PROJECT, "manual", document.id)

    def space(self, ref: str = "manual") -> Space:
        with self.db.reading() as session:
            return self.spaces.get(session, PROJECT, ref)

    def documents(self) -> dict[str, SpaceDocument]:
        with self.db.reading() as session:
            return {each.name: each for each in self.spaces.documents.list(session, PROJECT, "manual", limit=100).data}

    def scope(self) -> Scope:
        with self.db.reading() as session:
            return self.spaces.documents.scope(session, ANN, "manual")

    def versions(self, noun: str) -> list[Version]:
        """What the space has in the catalog of a kind."""
        kind = "model" if noun == "index" else "dataset"
        with self.db.reading() as session:
            page = self.catalog.list(session, PROJECT, kind)
            names = [each.name for each in page.data if each.name.endswith(f"/{noun}")]
            found = [self.catalog.describe(session, PROJECT, name, kind).versions for name in names]
            return [self.catalog.get_version(session, PROJECT, each.id) for every in found for each in every]

    # -- what happens by itself ------------------------------------------------------------------------------------------

    def tick(self) -> Space:
        """One look, when everything that changed has come to rest."""
        self.clock.advance(2)
        self.steps.tick()
        return self.space()

    def restart(self) -> None:
        """What a restarted server has: nothing in memory."""
        self.steps = SpaceSteps(self.spaces, self.jobs, self.catalog, self.serving, self.blobs, Events(), self.cache)

    def run(self, run_id: str | None) -> RunRecord:
        assert run_id is not None
        with self.db.reading() as session:
            return self.jobs.get(session, PROJECT, run_id)

    def play(self, run_id: str | None, *entries: tuple[str, dict[str, Any]]) -> None:
        """Let a worker report on a run; it begins first where it waits."""
        run = self.run(run_id)
        with self.db.transaction() as session:
            self.jobs.attempts.begin(session, run.id, (), "local", remote=False)
            attempt = self.jobs.get(session, PROJECT, run.id).attempt
        first = self.told.get((run.id, attempt), 0) + 1
        made = [
            JournalEntry(seq=number, attempt=attempt, time=self.clock.now(), type=type_, data=data)
            for number, (type_, data) in enumerate(entries, first)
        ]
        self.told[run.id, attempt] = first + len(entries) - 1
        self.jobs.attempts.receive(run.id, attempt, made)

    def handed_over(self, run_id: str | None) -> list[Document]:
        """The documents that a parsing run was given, each with its file."""
        with self.db.reading() as session:
            version = self.catalog.get_version(session, PROJECT, str(self.run(run_id).inputs["documents"].version_id))
        digests = {file.path: file.digest for file in version.files}
        lines = b"".join(self.blobs.iter(digests[DOCUMENTS_FILE])).splitlines()
        found = [Document.model_validate_json(line) for line in lines]
        assert all(digests[each.path] == each.digest for each in found)
        return found

    def parse(self, *broken: str) -> None:
        """Let the parser of the build under way come to its end: a passage for each document but the broken ones."""
        build = self.space().build
        assert build is not None
        parsed = [
            ParsedDocument(
                id=each.id,
                name=each.name,
                digest=each.digest,
                parser="mill",
                state="failed" if each.name in broken else "parsed",
                num_passages=0 if each.name in broken else 1,
                faults=[BROKEN] if each.name in broken else [],
            )
            for each in self.handed_over(build.parsing_run_id)
        ]
        self._end(build.parsing_run_id, "dataset", [each.model_dump_json() for each in parsed], {"num_documents": len(parsed)})

    def index(self) -> None:
        """Let the indexing of the build under way come to its end."""
        build = self.space().build
        assert build is not None
        self._end(build.indexing_run_id, "model", [str(build.indexing_run_id)], None)

    def _end(self, run_id: str | None, kind: str, lines: list[str], result: dict[str, Any] | None) -> None:
        self.end(run_id, kind, {DOCUMENTS_FILE: "\n".join(lines).encode()}, result)

    def end(self, run_id: str | None, kind: str, content: dict[str, bytes], result: dict[str, Any] | None) -> None:
        """Let a run succeed with what it saved, by path."""
        blobs = {path: self.blobs.put(data) for path, data in content.items()}
        files = [File(path=path, digest=blob.digest, num_bytes=blob.num_bytes).model_dump() for path, blob in blobs.items()]
        used = [
            ("used", {"role": role, "kind": given.kind, "version_id": given.version_id})
            for role, given in self.run(run_id).inputs.items()
        ]
        metadata = {"task": "passage-retrieval"} if kind == "model" else {}
        saved = ("saved", {"kind": kind, "files": files, "metadata": metadata})
        self.play(run_id, *used, saved, ("finished", {"result": result}))

    def answer(self, state: str = "ready", *, fails: bool = False) -> None:
        """Let the reconciler see the replica of the newest index ready, or failing beside the old one."""
        space = self.space()
        assert space.build is not None
        index = space.build.index_version_id
        with self.db.transaction() as session:
            deployed = self.serving.get(session, PROJECT, space.deployment)
            row = session.get_one(DeploymentRow, deployed.id)
            row.observed_state = state
            if fails:
                session.add(
                    ReplicaRow(
                        id="rep_1",
                        deployment_id=row.id,
                        project_id=PROJECT,
                        version_id=index,
                        revision="new",
                        state="failed",
                        url=None,
                        restarts=3,
                        last_error="It is damaged.",
                        started_at=None,
                        updated_at=self.clock.now(),
                        handle=None,
                    )
                )
            else:
                row.version_id = index

    def build(self, *broken: str) -> Space:
        """One build from the first change to its end."""
        self.tick()
        self.parse(*broken)
        self.tick()
        self.index()
        self.tick()
        self.answer()
        return self.tick()


def make_mill(settings: Settings, db: Database, clock: FixedClock, tmp_path: Path) -> Mill:
    events, blobs = Events(), BlobStore(str(tmp_path / "blobs"))
    catalog = CatalogService(db, blobs, clock, events, settings)
    jobs = JobsService(db, catalog, blobs, clock, events, settings)
    serving = ServingService(db, catalog, clock, events, settings)
    spaces = DataspaceService(db, jobs, clock, events)
    with db.transaction() as session:
        spaces.create(session, PROJECT, "key_ann", SpaceCreate(name="manual"))
    return Mill(
        db=db,
        blobs=blobs,
        clock=clock,
        catalog=catalog,
        jobs=jobs,
        serving=serving,
        spaces=spaces,
        steps=SpaceSteps(spaces, jobs, catalog, serving, blobs, events, tmp_path / "cache"),
        cache=tmp_path / "cache",
    )
