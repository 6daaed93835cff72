"""What was made of a document, and what an answer rests on: over lineage, builds, learnings and notes of answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.finding import holding, named
from modelworks.kernel.catalog.store import VersionRow
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.documents import shown
from modelworks.kernel.dataspace.learning import own_model
from modelworks.kernel.dataspace.proofs import (
    ComputedAnswer,
    DeployedWith,
    Impact,
    MadeVersion,
    TrainedModel,
    Why,
    WhyComputed,
    WhyDocument,
    WhyModel,
)
from modelworks.kernel.dataspace.schemas import LearningShard
from modelworks.kernel.dataspace.store import (
    DocumentRow,
    SpaceAnswerPassageRow,
    SpaceBuildRow,
    SpaceLearningRow,
    SpaceRow,
)
from modelworks.kernel.gateway.spaces import probing
from modelworks.kernel.gateway.spaces.sharding import number_in, shards_of
from modelworks.kernel.serving.service import ServingService
from modelworks.kernel.storage import BlobStore

#: Steps of lineage that are followed from a model to what was made of it.
_DEPTH: Final = 8
_MOST_DEPLOYMENTS: Final = 10_000


class Tracing:
    """Answers both questions; reads only."""

    def __init__(self, spaces: DataspaceService, catalog: CatalogService, serving: ServingService, blobs: BlobStore) -> None:
        self._spaces = spaces
        self._catalog = catalog
        self._serving = serving
        self._blobs = blobs

    # -- everything that was made of a document --------------------------------------------------------------------------

    def impact(self, session: Session, caller: Principal, space: str, document_id: str) -> Impact:
        """What a document went into. Reads the sets of samples that may name it.

        Raises:
            NotFound: no such space or document, or the caller may not read it.
        """
        owner = self._spaces.row(session, caller.project_id, space)
        document = self._spaces.forgettings.document(session, caller, owner, document_id)
        documents = [row for row in self._named(session, owner, "documents") if _has(row, f"files/{document_id}.")]
        passages = [
            row
            for noun in ("passages", "clean")
            for row in self._named(session, owner, noun)
            if _has(row, f"passages/{document_id}.")
        ]
        indexes = self._indexes(session, owner, {row.id for row in passages})
        samples, num_samples = self._samples(session, owner, document_id)
        models = self._models(session, owner, document_id, samples)
        trained = [each for model in models for each in (model.adapter, *model.derived)]
        measured = [each.version_id for each in trained] + [row.id for row in samples]
        mine = {row.id for rows in (documents, passages, indexes, samples) for row in rows}
        return Impact(
            document=shown(document),
            space_id=owner.id,
            file_id=document.file_id,
            documents=self._told(session, owner.project_id, documents),
            passages=self._told(session, owner.project_id, passages),
            indexes=self._told(session, owner.project_id, indexes),
            samples=self._told(session, owner.project_id, samples),
            num_samples=num_samples,
            models=models,
            evaluations=[each.id for each in self._catalog.evaluations.of_versions(session, owner.project_id, measured)],
            deployments=self._deployments(session, owner, indexes, trained),
            num_answers=self._spaces.answers.num_of(session, document_id),
            computed=self._computed_of(session, caller, owner, document_id),
            elsewhere=self._told(
                session,
                owner.project_id,
                [row for row in holding(session, owner.project_id, [document.digest]) if row.id not in mine],
            ),
        )

    def _indexes(self, session: Session, owner: SpaceRow, passages: set[str]) -> list[VersionRow]:
        """The index versions whose runs read one of these sets of passages."""
        found = []
        for row in self._named(session, owner, "index", kind="model"):
            graph = self._catalog.lineage(session, owner.project_id, row.id, "up", 2)
            if any(edge.relation == "used" and edge.object_id in passages for edge in graph.edges):
                found.append(row)
        return found

    def _samples(self, session: Session, owner: SpaceRow, document_id: str) -> tuple[list[VersionRow], int]:
        """Living sets of samples that name a document, and how many samples do."""
        found, number = [], 0
        for noun in ("samples", "samples-test", "corrections"):
            for row in self._named(session, owner, noun):
                if row.state != "ready":
                    continue
                in_row = 0
                for file in probing.files_of([row]):
                    with suppress(NotFound):
                        in_row += probing.without_document(b"".join(self._blobs.iter(file.digest)), document_id)[1]
                if in_row:
                    found.append(row)
                    number += in_row
        return found, number

    def _models(self, session: Session, owner: SpaceRow, document_id: str, samples: Sequence[VersionRow]) -> list[TrainedModel]:
        held = {row.id for row in samples} | {str(row.extra.get("rewritten_from", row.id)) for row in samples}
        query = select(SpaceLearningRow).where(SpaceLearningRow.space_id == owner.id)
        found = []
        for learning in session.scalars(query.order_by(SpaceLearningRow.id)):
            if learning.adapter_version_id is None:
                continue
            if learning.samples_version_id not in held and document_id not in learning.tainted_by:
                continue
            found.append(
                TrainedModel(
                    learning_id=learning.id,
                    model=learning.model,
                    adapter=self._made(session, owner.project_id, learning.adapter_version_id),
                    base_version_id=learning.base_version_id,
                    samples_version_id=learning.samples_version_id,
                    training_run_id=learning.runs.get("training", learning.runs.get("combining")),
                    state=learning.state,
                    tainted_by=learning.tainted_by,
                    shards=self._shards_with(session, learning, document_id),
                    derived=self._derived(session, owner.project_id, learning.adapter_version_id),
                )
            )
        return found

    def _shards_with(self, session: Session, learning: SpaceLearningRow, document_id: str) -> list[LearningShard]:
        """The shards of a model that were trained on a document, where there are several."""
        found = []
        for shard in shards_of(learning) if number_in(learning) > 1 else ():
            with suppress(NotFound):
                samples = self._catalog.get_version(session, learning.project_id, shard.samples_version_id)
                if document_id in shard.tainted_by or any(file.path == f"{document_id}.jsonl" for file in samples.files):
                    found.append(shard)
        return found

    def _derived(self, session: Session, project_id: str, version_id: str) -> list[MadeVersion]:
        with suppress(NotFound):
            graph = self._catalog.lineage(session, project_id, version_id, "down", _DEPTH)
            return [
                self._made(session, project_id, node.id)
                for node in graph.nodes
                if node.kind == "model" and node.name is not None and node.id != version_id
            ]
        return []

    def _deployments(
        self, session: Session, owner: SpaceRow, indexes: Sequence[VersionRow], trained: Sequence[MadeVersion]
    ) -> list[DeployedWith]:
        found: list[DeployedWith] = []
        searched, known = {row.id for row in indexes}, {each.version_id for each in trained}
        if owner.index_version_id in searched:
            found.append(DeployedWith(name=owner.catalog_name, version_id=owner.index_version_id, by="index"))
        for adapter in self._serving.adapters.list(session, owner.project_id):
            if adapter.version_id in known:
                found.append(DeployedWith(name=adapter.name, version_id=adapter.version_id, by="model"))
        deployments, _ = self._serving.list(session, owner.project_id, limit=_MOST_DEPLOYMENTS)
        for deployed in deployments:
            if deployed.version_id in known and deployed.desired == "running":
                found.append(DeployedWith(name=deployed.name, version_id=deployed.version_id, by="model"))
        return found

    # -- what an answer rests on -----------------------------------------------------------------------------------------

    def why(self, session: Session, caller: Principal, answer_id: str) -> Why:
        """What an answer of a space rests on; of documents that the caller may not read now, only that they are there.

        Raises:
            NotFound: nothing is known of it, its time is over, or somebody else asked for it.
        """
        row, cited = self._spaces.answers.find(session, caller, answer_id)
        owner = session.get_one(SpaceRow, row.space_id)
        built = select(SpaceBuildRow).where(SpaceBuildRow.space_id == owner.id)
        build = session.scalar(built.where(SpaceBuildRow.index_version_id == row.index_version_id).limit(1))
        index = None
        if row.index_version_id is not None:
            index = self._made(session, owner.project_id, row.index_version_id)
        return Why(
            id=row.id,
            request_id=row.request_id,
            space_id=owner.id,
            space=owner.name,
            status=row.status,
            created_at=row.created_at,
            documents=self._cited(session, caller, owner, cited),
            computed=None if row.computed is None else self._computed(row.computed, self._readable(session, caller, owner)),
            index=index,
            parsing_run_id=None if build is None else build.parsing_run_id,
            model=None if row.model is None else self._model(session, caller, owner, row.model, row.model_version_id),
        )

    def _readable(self, session: Session, caller: Principal, owner: SpaceRow) -> dict[str, str]:
        """The digests of the documents that the caller may have computed from now."""
        return {each.id: each.digest for each in self._spaces.documents.tabular(session, owner, caller)}

    def _computed(self, noted: dict[str, Any], readable: dict[str, str]) -> WhyComputed:
        tables = noted["tables"]
        if any(each["document_id"] not in readable for each in tables):
            return WhyComputed(state="withheld", by=noted["by"])
        if any(each["digest"] != readable[each["document_id"]] for each in tables):
            return WhyComputed(state="changed", by=noted["by"], sql=noted["sql"], tables=tables)
        columns = [{"name": name, "unit": unit} for name, unit in noted["columns"]]
        return WhyComputed.model_validate({**noted, "state": "current", "columns": columns})

    def _computed_of(self, session: Session, caller: Principal, owner: SpaceRow, document_id: str) -> list[ComputedAnswer]:
        answers = self._spaces.answers.computed_of(session, caller, document_id)
        readable = self._readable(session, caller, owner) if answers else {}
        return [
            ComputedAnswer(answer_id=each.id, created_at=each.created_at, computed=self._computed(each.computed, readable))
            for each in answers
            if each.computed is not None
        ]

    def _cited(
        self, session: Session, caller: Principal, owner: SpaceRow, cited: Sequence[SpaceAnswerPassageRow]
    ) -> list[WhyDocument]:
        of_document: dict[str, list[SpaceAnswerPassageRow]] = {}
        for each in cited:
            of_document.setdefault(each.document_id, []).append(each)
        seen = self._spaces.documents.records(session, caller, owner.id, of_document)
        found = []
        for document_id, rows in of_document.items():
            document = seen.get(document_id)
            if document is None:
                known = session.get(DocumentRow, document_id)
                is_gone = known is None or known.state == "removed"
                hidden: dict[str, Any] = dict.fromkeys(("digest", "version", "name", "source_id", "licence", "owner"))
                state: Any = "gone" if is_gone else "hidden"
                found.append(WhyDocument(document_id=document_id, passages=[], state=state, **hidden))
                continue
            found.append(
                WhyDocument(
                    document_id=document_id,
                    passages=[each.passage_id for each in rows],
                    digest=rows[0].document_digest,
                    version=rows[0].document_version,
                    name=document.name,
                    source_id=document.source_id,
                    licence=document.licence,
                    owner=document.owner,
                    state="current" if document.digest == rows[0].document_digest else "changed",
                )
            )
        return found

    def _model(self, session: Session, caller: Principal, owner: SpaceRow, name: str, version_id: str | None) -> WhyModel:
        made = None if version_id is None else self._made(session, owner.project_id, version_id)
        found = WhyModel(name=name, version=made)
        if version_id is None or name != own_model(owner):
            return found
        query = select(SpaceLearningRow).where(SpaceLearningRow.space_id == owner.id)
        learning = session.scalar(query.where(SpaceLearningRow.adapter_version_id == version_id).limit(1))
        if learning is None:
            return found
        found.learning_id, found.base_version_id = learning.id, learning.base_version_id
        found.training_run_id = learning.runs.get("training", learning.runs.get("combining"))
        found.shards = shards_of(learning) if number_in(learning) > 1 else []
        if learning.samples_version_id is not None:
            found.samples = self._made(session, owner.project_id, learning.samples_version_id)
            with suppress(NotFound):
                files = self._catalog.get_version(session, owner.project_id, learning.samples_version_id).files
                ids = [file.path.removesuffix(".jsonl") for file in files if file.path.endswith(".jsonl")]
                found.num_documents = len(ids)
                found.documents = sorted(self._spaces.documents.records(session, caller, owner.id, ids))
        return found

    # -- versions --------------------------------------------------------------------------------------------------------

    def _named(self, session: Session, owner: SpaceRow, noun: str, kind: str = "dataset") -> list[VersionRow]:
        return named(session, owner.project_id, kind, f"{owner.catalog_name}/{noun}")

    def _made(self, session: Session, project_id: str, version_id: str) -> MadeVersion:
        with suppress(NotFound):
            version = self._catalog.get_version(session, project_id, version_id)
            return MadeVersion(
                version_id=version.id,
                name=version.name,
                number=version.number,
                state=version.state,
                run_id=version.created_by_run,
            )
        return MadeVersion(version_id=version_id, name=None, number=None, state=None)

    def _told(self, session: Session, project_id: str, rows: Iterable[VersionRow]) -> list[MadeVersion]:
        return [self._made(session, project_id, row.id) for row in rows]


def _has(row: VersionRow, prefix: str) -> bool:
    return any(file["path"].startswith(prefix) for file in row.files)
