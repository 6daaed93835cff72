"""The graph of what was made from what: recorded by runs, walked in both directions, without cycles."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, PermissionDenied
from modelworks.kernel.access.roles import use_of
from modelworks.kernel.catalog.licences import most_restrictive
from modelworks.kernel.catalog.schemas import (
    Direction,
    Edge,
    FamilyTree,
    LicenceOf,
    LineageGraph,
    Measured,
    Node,
    Relation,
    Restrictions,
)
from modelworks.kernel.catalog.store import ArtifactRow, EvaluationRow, LineageEdgeRow, VersionRow

#: What flows from the edge's object to its subject; `generated` flows the other way.
_INWARD = ("used", "parent", "deployed")
_MAX_NODES = 10_000
_CHUNK = 400
_TREE_DEPTH = 16


def record(
    session: Session,
    project_id: str,
    subject_id: str,
    relation: Relation,
    object_id: str,
    *,
    role: str | None,
    now: datetime,
) -> None:
    """Add an edge; the same edge again changes nothing.

    Raises:
        Conflict: it would close a cycle (code `lineage_cycle`): a thing cannot come from what was made from it.
    """
    one_at_a_time(session, project_id)
    row = LineageEdgeRow(
        project_id=project_id, subject_id=subject_id, relation=relation, object_id=object_id, role=role or "", created_at=now
    )
    known = select(LineageEdgeRow.id).where(
        LineageEdgeRow.project_id == project_id,
        LineageEdgeRow.subject_id == subject_id,
        LineageEdgeRow.relation == relation,
        LineageEdgeRow.object_id == object_id,
        LineageEdgeRow.role == row.role,
    )
    if session.scalar(known) is not None:
        return
    source, target = (subject_id, object_id) if relation == "generated" else (object_id, subject_id)
    if source == target or source in _reach(session, project_id, target, "down", depth=None).ids:
        raise Conflict(
            f"{subject_id} cannot be recorded as {relation} {object_id}: {source} comes from {target}.",
            hint="Lineage has no cycles; check the ids.",
            code="lineage_cycle",
        )
    session.add(row)
    session.flush()


def one_at_a_time(session: Session, project_id: str) -> None:
    """Let one transaction at a time record edges in a project; taken before any other lock, or two could wait for each other.

    Two transactions that each add half of a cycle would not see each other. SQLite has one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext("lineage:" + project_id))))


def edges_of(
    session: Session, project_id: str, *, subjects: Collection[str] = (), objects: Collection[str] = ()
) -> list[LineageEdgeRow]:
    """Edges that start at one of `subjects` or end at one of `objects`, oldest first."""
    found: dict[int, LineageEdgeRow] = {}
    for column, ids in ((LineageEdgeRow.subject_id, subjects), (LineageEdgeRow.object_id, objects)):
        for chunk in _chunked(ids):
            query = select(LineageEdgeRow).where(LineageEdgeRow.project_id == project_id, column.in_(chunk))
            found.update((row.id, row) for row in session.scalars(query))
    return [found[key] for key in sorted(found)]


def graph(session: Session, project_id: str, root: str, direction: Direction, depth: int) -> LineageGraph:
    """What lies up (where it comes from) and down (what was made from it) of an id, `depth` edges far."""
    ids = {root}
    edges: dict[int, LineageEdgeRow] = {}
    truncated = False
    for way in ("up", "down"):
        if direction in (way, "both"):
            reached = _reach(session, project_id, root, way, depth=depth)
            ids |= reached.ids
            edges.update(reached.edges)
            truncated = truncated or reached.truncated
    return LineageGraph(
        root=root,
        nodes=sorted(nodes(session, project_id, ids).values(), key=lambda node: (node.created_at is None, node.id)),
        edges=[_edge(edges[key]) for key in sorted(edges)],
        truncated=truncated,
    )


def nodes(session: Session, project_id: str, ids: Collection[str]) -> dict[str, Node]:
    """A node per id, with what the catalog knows of it."""
    made = {each: Node(id=each, kind=_kind(each)) for each in ids}
    for chunk in _chunked(ids):
        query = (
            select(VersionRow, ArtifactRow)
            .join(ArtifactRow, ArtifactRow.id == VersionRow.artifact_id)
            .where(VersionRow.project_id == project_id, VersionRow.id.in_(chunk))
        )
        for version, artifact in session.execute(query):
            made[version.id] = Node.model_validate(
                {
                    "id": version.id,
                    "kind": artifact.kind if artifact.kind in ("model", "dataset") else "artifact",
                    "name": artifact.name,
                    "number": version.number,
                    "task": version.task,
                    "level": version.level,
                    "licence": version.licence,
                    "metrics": version.metrics,
                    "state": version.state,
                    "created_at": version.created_at,
                }
            )
    return made


def restrictions(session: Session, project_id: str, version_id: str) -> Restrictions:
    """The licences of a version, its ancestors and every data set on the way, and the most restrictive of them."""
    reached = _reach(session, project_id, version_id, "up", depth=None)
    relations: dict[str, Literal["self", "parent", "used"]] = {
        row.object_id: "parent" for row in reached.edges.values() if row.relation == "parent"
    }
    relations[version_id] = "self"
    found = [
        LicenceOf(
            version_id=node.id,
            name=node.name,
            number=node.number,
            kind=node.kind,
            licence=node.licence,
            relation=relations.get(node.id, "used"),
        )
        for node in nodes(session, project_id, reached.ids | {version_id}).values()
        if node.name is not None and node.number is not None
    ]
    found.sort(key=lambda each: (("self", "parent", "used").index(each.relation), each.name, each.number))
    effective, kind = most_restrictive([each.licence for each in found if each.licence])
    return Restrictions(
        effective=effective,
        restriction=kind,
        licences=found,
        unstated=[each.version_id for each in found if not each.licence],
    )


def refuse_other_use(session: Session, project_id: str, version_id: str, ref: str) -> None:
    """Raise PermissionDenied where a licence of a model's family forbids commercial use and the project declares no other."""
    bound = restrictions(session, project_id, version_id)
    use = use_of(session, project_id)
    if bound.restriction != "non-commercial" or use == "non-commercial":
        return
    of = next((each for each in bound.licences if each.licence == bound.effective), None)
    origin = "" if of is None or of.relation == "self" else f", by way of {of.name}"
    said = "is declared commercial" if use else "has not declared what it does with models"
    raise PermissionDenied(
        f"The model {ref!r} has the licence {bound.effective}{origin}, which forbids commercial use, and this project {said}.",
        hint="Where its use is not commercial, declare it: `modelworks projects use non-commercial`. Otherwise choose another "
        "model, or ask the holder of the rights for a licence and register the model with that.",
        code="licence_refused",
    )


def tree(session: Session, project_id: str, version_id: str) -> FamilyTree:
    """The family of a version: parents upwards, children downwards, with data sets and deployments."""
    root = _tree(session, project_id, version_id, "both", _TREE_DEPTH, set())
    if root is None:
        raise InvalidRequest(f"{version_id} is not a version of this project.")
    return root


def _tree(
    session: Session, project_id: str, version_id: str, way: Direction, depth: int, visited: set[str]
) -> FamilyTree | None:
    row = session.scalar(select(VersionRow).where(VersionRow.project_id == project_id, VersionRow.id == version_id))
    if row is None or depth == 0 or len(visited) > _MAX_NODES:
        return None
    visited.add(version_id)
    makers = [version_id, *([row.created_by_run] if row.created_by_run else [])]
    around = edges_of(session, project_id, subjects=makers, objects=[version_id])
    used = [edge.object_id for edge in around if edge.relation == "used" and edge.subject_id in makers]
    known = nodes(session, project_id, {version_id, *used})
    demanded = restrictions(session, project_id, version_id)
    made = FamilyTree(
        node=known[version_id],
        effective_licence=demanded.effective,
        licences_complete=not demanded.unstated,
        evaluations=_measured(session, project_id, row.digest),
        created_by_run=row.created_by_run,
        datasets=[known[each] for each in dict.fromkeys(used) if known[each].kind == "dataset"],
        deployments=[edge.subject_id for edge in around if edge.relation == "deployed" and edge.object_id == version_id],
    )

    def branches(ids: Iterable[str], onward: Direction) -> Iterator[FamilyTree]:
        for each in ids:
            if each not in visited and (branch := _tree(session, project_id, each, onward, depth - 1, visited)) is not None:
                yield branch

    parents = [edge.object_id for edge in around if edge.relation == "parent" and edge.subject_id == version_id]
    children = [edge.subject_id for edge in around if edge.relation == "parent" and edge.object_id == version_id]
    if way in ("up", "both"):
        made.parents.extend(branches(parents, "up"))
    if way in ("down", "both"):
        made.children.extend(branches(children, "down"))
    return made


def _measured(session: Session, project_id: str, digest: str) -> list[Measured]:
    """The newest evaluation of this content on each data set, by name and version."""
    rows = session.scalars(
        select(EvaluationRow)
        .where(EvaluationRow.project_id == project_id, EvaluationRow.model_digest == digest)
        .order_by(EvaluationRow.id)
    )
    newest = {row.dataset_digest: row for row in rows}
    known = nodes(session, project_id, {row.dataset_version_id for row in newest.values()})
    found = [(known[row.dataset_version_id], row) for row in newest.values()]
    found.sort(key=lambda each: (each[0].name or "", each[0].number or 0))
    return [Measured(evaluation_id=row.id, data=f"{node.name}@v{node.number}", metrics=row.metrics) for node, row in found]


@dataclass(slots=True)
class _Reached:
    ids: set[str]
    edges: dict[int, LineageEdgeRow]
    truncated: bool


def _reach(session: Session, project_id: str, root: str, way: str, *, depth: int | None) -> _Reached:
    """Everything up or down of `root` (itself left out), level by level."""
    ids: set[str] = set()
    edges: dict[int, LineageEdgeRow] = {}
    frontier = {root}
    level = 0
    while frontier:
        following: set[str] = set()
        for chunk in _chunked(frontier):
            query = select(LineageEdgeRow).where(LineageEdgeRow.project_id == project_id, _leading(way, chunk))
            for row in session.scalars(query):
                follows_object = (row.relation == "generated") == (way == "down")
                neighbour = row.object_id if follows_object else row.subject_id
                if depth is None or level < depth:
                    edges[row.id] = row
                following.add(neighbour)
        following -= ids | {root}
        if following and ((depth is not None and level >= depth) or len(ids) > _MAX_NODES):
            return _Reached(ids, edges, truncated=True)
        ids |= following
        frontier = following
        level += 1
    return _Reached(ids, edges, truncated=False)


def _leading(way: str, ids: Sequence[str]) -> ColumnElement[bool]:
    inward = LineageEdgeRow.relation.in_(_INWARD)
    generated = LineageEdgeRow.relation == "generated"
    if way == "up":
        return or_(and_(LineageEdgeRow.subject_id.in_(ids), inward), and_(LineageEdgeRow.object_id.in_(ids), generated))
    return or_(and_(LineageEdgeRow.object_id.in_(ids), inward), and_(LineageEdgeRow.subject_id.in_(ids), generated))


def _edge(row: LineageEdgeRow) -> Edge:
    return Edge.model_validate(
        {
            "subject_id": row.subject_id,
            "relation": row.relation,
            "object_id": row.object_id,
            "role": row.role or None,
            "created_at": row.created_at,
        }
    )


def _kind(each: str) -> Literal["model", "dataset", "run", "deployment", "artifact", "other"]:
    prefixes: dict[str, Literal["model", "dataset", "run", "deployment", "artifact"]] = {
        "mdl": "model",
        "ds": "dataset",
        "run": "run",
        "dep": "deployment",
        "art": "artifact",
    }
    return prefixes.get(each.partition("_")[0], "other")


def _chunked(ids: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(sorted(ids))
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk
