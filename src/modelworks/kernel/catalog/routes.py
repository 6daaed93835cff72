"""HTTP: models, data sets, versions, aliases, lineage, capabilities, presets and sources."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel
from sqlalchemy.orm import Session

from modelworks.contract.capability import Capability, Task
from modelworks.contract.errors import InvalidRequest, NotFound, PermissionDenied
from modelworks.kernel.access.routes import PrincipalDependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog import discovery, finding
from modelworks.kernel.catalog.references import INNER, is_inner
from modelworks.kernel.catalog.schemas import (
    AliasMove,
    AliasUpdate,
    Artifact,
    ArtifactDetail,
    CapabilityInfo,
    CompareCreate,
    Comparison,
    Direction,
    Evaluation,
    FamilyTree,
    Gate,
    GateTerms,
    LineageGraph,
    Page,
    Preset,
    Promotion,
    PromotionCreate,
    Removal,
    SourceDescribe,
    SourceInfo,
    TaskInfo,
    Version,
    VersionCreate,
)
from modelworks.kernel.catalog.service import CatalogService

Kind = Annotated[str, Query(description="model, dataset, or another kind of artifact.")]


def router(catalog: CatalogService, db: Database, principal: PrincipalDependency) -> APIRouter:
    """Routes under `/api`."""
    routes = APIRouter(prefix="/api", tags=["catalog"])
    reader = require(principal, "read")
    writer = require(principal, "write")
    _add_artifacts(routes, catalog, db, reader, writer, path="models", kind="model")
    _add_artifacts(routes, catalog, db, reader, writer, path="datasets", kind="dataset")

    @routes.get("/versions/{version_id}")
    def version(version_id: str, caller: Principal = Depends(reader)) -> Version:
        """A version of any kind by its id, a removed one too."""
        with db.reading() as session:
            found = catalog.get_version(session, caller.project_id, version_id)
            _require_shown(session, caller, version_id)
            return found

    @routes.put("/aliases")
    def set_alias(body: AliasUpdate, caller: Principal = Depends(writer)) -> Version:
        """Let an alias point to the version that a reference means: promotion and roll-back are this."""
        with db.transaction() as session:
            _require_shown(session, caller, body.ref)
            return catalog.set_alias(session, caller.project_id, body.ref, body.alias, kind=body.kind, moved_by=caller.key_id)

    @routes.delete("/aliases", status_code=204)
    def remove_alias(ref: str, alias: str, kind: Kind = "model", caller: Principal = Depends(writer)) -> None:
        """Take an alias away; the version and the alias's history stay."""
        with db.transaction() as session:
            _require_shown(session, caller, ref)
            catalog.remove_alias(session, caller.project_id, ref, alias, kind=kind, moved_by=caller.key_id)

    @routes.get("/aliases")
    def alias_history(
        ref: str, alias: str | None = None, kind: Kind = "model", caller: Principal = Depends(reader)
    ) -> Page[AliasMove]:
        """Who moved the aliases of a name from where to where, newest first."""
        with db.reading() as session:
            return Page[AliasMove](data=catalog.alias_history(session, caller.project_id, ref, alias, kind=kind))

    @routes.post("/aliases/rollback")
    def roll_back_alias(body: AliasUpdate, caller: Principal = Depends(writer)) -> Version:
        """Undo the last move of an alias."""
        with db.transaction() as session:
            _require_shown(session, caller, body.ref)
            return catalog.roll_back_alias(
                session, caller.project_id, body.ref, body.alias, kind=body.kind, moved_by=caller.key_id
            )

    _add_evaluations(routes, catalog, db, reader, writer)

    @routes.get("/lineage/{subject_id}")
    def lineage(
        subject_id: str,
        direction: Direction = "both",
        depth: Annotated[int, Query(ge=1, le=100)] = 8,
        caller: Principal = Depends(reader),
    ) -> LineageGraph:
        """Where a version or run comes from, and what was made from it."""
        with db.reading() as session:
            return catalog.lineage(session, caller.project_id, subject_id, direction, depth)

    @routes.get("/tree/{ref:path}")
    def tree(ref: str, kind: Kind = "model", caller: Principal = Depends(reader)) -> FamilyTree:
        """The family of a version: levels, licences, metrics, data sets, deployments."""
        with db.reading() as session:
            return catalog.tree(session, caller.project_id, ref, kind)

    @routes.get("/capabilities")
    def capabilities(caller: Principal = Depends(reader)) -> Page[CapabilityInfo]:
        """The installed capabilities with their tasks and the JSON schemas of what these take and give."""
        return Page[CapabilityInfo](data=[_capability(each) for _, each in sorted(discovery.capabilities().items())])

    @routes.get("/presets")
    def presets(capability: str | None = None, caller: Principal = Depends(reader)) -> Page[Preset]:
        """Curated checkpoints and training sizes."""
        return Page[Preset](data=discovery.every_preset() if capability is None else discovery.presets(capability))

    @routes.post("/sources/describe")
    def describe_source(body: SourceDescribe, caller: Principal = Depends(writer)) -> SourceInfo:
        """Licence, size and files of a source before anything is fetched. Reaches out to it."""
        catalog.check_source_rights(body.source, is_operator=caller.is_operator)
        return catalog.describe_source(body.source, revision=body.revision, kind=body.kind)

    return routes


def _add_evaluations(
    routes: APIRouter, catalog: CatalogService, db: Database, reader: PrincipalDependency, writer: PrincipalDependency
) -> None:
    """What was measured, which model is better, and promotions that follow from it."""

    @routes.get("/evaluations")
    def evaluations(
        model: str | None = None,
        data: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        caller: Principal = Depends(reader),
    ) -> Page[Evaluation]:
        """What runs measured, newest first; of one model, on one data set."""
        with db.reading() as session:
            return catalog.evaluations.list(session, caller.project_id, model=model, data=data, after=after, limit=limit)

    @routes.post("/compare")
    def compare(body: CompareCreate, caller: Principal = Depends(reader)) -> Comparison:
        """Whether one model is better than another on a data set, by the samples that both answered."""
        with db.reading() as session:
            return catalog.evaluations.compare(
                session, caller.project_id, body.baseline, body.candidate, body.data, body.metric
            )

    @routes.get("/gate")
    def get_gate(caller: Principal = Depends(reader)) -> Gate:
        """What the project's quality gate asks for, where a promotion does not say."""
        with db.reading() as session:
            return catalog.gate.terms(session, caller.project_id)

    @routes.put("/gate")
    def set_gate(body: GateTerms, dry_run: bool = False, caller: Principal = Depends(writer)) -> Gate:
        """Replace what the project's quality gate asks for."""
        with db.transaction() as session:
            return catalog.gate.set_terms(session, caller.project_id, body, set_by=caller.key_id, dry_run=dry_run)

    @routes.post("/promote")
    def promote(body: PromotionCreate, dry_run: bool = False, caller: Principal = Depends(writer)) -> Promotion:
        """Move an alias to a version that is proven better; `dry_run` only says what the gate says."""
        if dry_run:
            with db.reading() as session:
                return catalog.gate.judge(session, caller.project_id, body)
        return catalog.gate.promote(caller.project_id, body, moved_by=caller.key_id)


def _add_artifacts(
    routes: APIRouter,
    catalog: CatalogService,
    db: Database,
    reader: PrincipalDependency,
    writer: PrincipalDependency,
    *,
    path: str,
    kind: str,
) -> None:
    """The same four routes for models and for data sets."""
    noun = {"model": "model", "dataset": "data set"}[kind]

    def named(verb: str) -> str:
        return f"{verb}_{path}"

    @routes.get(f"/{path}", name=named("list"), summary=f"List the {noun}s")
    def list_artifacts(
        search: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        caller: Principal = Depends(reader),
    ) -> Page[Artifact]:
        """Names with their newest version, by name; `search` are words in name, card, task, licence or source."""
        with db.reading() as session:
            found = catalog.list(session, caller.project_id, kind, search, after, limit)
        if caller.has("admin"):
            return found
        return found.model_copy(update={"data": [each for each in found.data if not is_inner(each.name)]})

    @routes.post(f"/{path}", name=named("register"), status_code=201, summary=f"Register a {noun} version")
    def register(body: VersionCreate, caller: Principal = Depends(writer)) -> Version:
        """Make a version of files that lie in the storage already."""
        if body.kind not in (None, kind):
            raise InvalidRequest(f"This route registers a {noun}, not a {body.kind!r}.", param="kind")
        if is_inner(body.name):
            raise PermissionDenied(
                f"Names that begin with {INNER} are the platform's own.", hint="Choose another name.", param="name"
            )
        # Reading the files can take long: not within the transaction.
        catalog.verify(body.files, kind)
        with db.transaction() as session:
            parents = [catalog.resolve(session, caller.project_id, parent, kind=None).id for parent in body.parents]
            known = body.model_dump(exclude={"files", "kind", "parents", "name"})
            return catalog.register(
                session,
                caller.project_id,
                kind=kind,
                name=body.name,
                files=body.files,
                parents=parents,
                verified=True,
                **known,
            )

    @routes.get(f"/{path}/{{ref:path}}", name=named("show"), summary=f"Show a {noun}")
    def show(ref: str, caller: Principal = Depends(reader)) -> ArtifactDetail:
        """The version that a reference means, its licences and its sister versions."""
        with db.reading() as session:
            _require_shown(session, caller, ref)
            return catalog.describe(session, caller.project_id, ref, kind)

    @routes.delete(f"/{path}/{{ref:path}}", name=named("remove"), summary=f"Remove a {noun}")
    def remove(ref: str, dry_run: bool = False, force: bool = False, caller: Principal = Depends(writer)) -> Removal:
        """Remove one version, or every version of a plain name."""
        with db.transaction() as session:
            _require_shown(session, caller, ref)
            return catalog.remove(session, caller.project_id, ref, kind, dry_run, force=force, moved_by=caller.key_id)


def _require_shown(session: Session, caller: Principal, ref: str) -> None:
    """Raise NotFound where a reference names what only administrators are shown; what is malformed is said by others."""
    if not caller.has("admin") and finding.is_inner(session, caller.project_id, ref):
        raise NotFound(f"There is nothing called {ref!r}.", hint="It may be the inside of a data space: ask the space itself.")


def _capability(capability: Capability) -> CapabilityInfo:
    return CapabilityInfo(
        name=capability.name,
        summary=capability.summary,
        extra=capability.extra,
        tasks=[_task(task) for task in capability.tasks],
    )


def _task(task: Task) -> TaskInfo:
    return TaskInfo(
        name=task.name,
        mode=task.mode,
        engines=[*(["predictor"] if task.predictor else []), *task.predictors, *task.servers],
        metrics=[*task.metrics],
        optional_metrics=[*task.optional_metrics],
        lower_is_better=[*task.lower_is_better],
        trainable=task.trainer is not None,
        validates_data=task.validator is not None,
        cleans_data=task.cleaner is not None,
        labels_data=task.labeler is not None,
        evaluable=task.evaluator is not None,
        quantisable=task.quantiser is not None,
        exportable=task.exporter is not None,
        input=task.input.model_json_schema(),
        output=task.output.model_json_schema(),
        options=_schema(task.options),
        train_params=_schema(task.train_params),
        evaluate_params=_schema(task.evaluate_params),
        quantise_params=_schema(task.quantise_params),
        export_params=_schema(task.export_params),
        resources=asdict(task.resources),
    )


def _schema(kind: type[BaseModel] | None) -> dict[str, object] | None:
    return None if kind is None else kind.model_json_schema()
