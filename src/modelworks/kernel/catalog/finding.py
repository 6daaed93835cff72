"""Rows and their wire forms: what a reference means, lists, searches. Every query filters by project."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from modelworks.contract.errors import InvalidRequest, ModelNotFound, NotFound, PermissionDenied
from modelworks.kernel.catalog import references
from modelworks.kernel.catalog.schemas import Artifact, Page, Version, VersionSummary
from modelworks.kernel.catalog.store import AliasRow, ArtifactRow, VersionBlobRow, VersionRow

_MAX_LIMIT = 1000
_CHUNK = 400


def page(
    session: Session, project_id: str, kind: str | None, search: str | None, after: str | None, limit: int
) -> Page[Artifact]:
    """Names with at least one version, by name; see `CatalogService.list`."""
    limit = max(1, min(limit, _MAX_LIMIT))
    query = (
        select(ArtifactRow)
        .where(ArtifactRow.project_id == project_id, _has_version())
        .order_by(ArtifactRow.name, ArtifactRow.id)
        .limit(limit + 1)
    )
    if kind is not None:
        query = query.where(ArtifactRow.kind == kind)
    query = _searched(query, search)
    if after is not None:
        last = session.scalar(select(ArtifactRow).where(ArtifactRow.id == after, ArtifactRow.project_id == project_id))
        if last is None:
            raise InvalidRequest(f"There is no entry {after!r} to continue after.", param="after")
        query = query.where(or_(ArtifactRow.name > last.name, (ArtifactRow.name == last.name) & (ArtifactRow.id > last.id)))
    rows = session.scalars(query).all()
    data = artifacts_of(session, rows[:limit])
    return Page[Artifact](
        data=data,
        has_more=len(rows) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


def row_of(session: Session, project_id: str, ref: str, kind: str | None) -> VersionRow:
    parsed = references.parse(ref)
    query = (
        select(VersionRow)
        .join(ArtifactRow, ArtifactRow.id == VersionRow.artifact_id)
        .where(VersionRow.project_id == project_id, VersionRow.state == "ready")
    )
    if kind is not None:
        query = query.where(ArtifactRow.kind == kind)
    if parsed.version_id is not None:
        row = session.scalar(query.where(VersionRow.id == parsed.version_id))
        if row is None:
            raise _missing(kind, f"There is no {_noun(kind)} version {ref!r}.", hint="It may have been removed.")
        return row
    query = query.where(ArtifactRow.name == parsed.name).order_by(VersionRow.number.desc())
    newest = session.scalar(query.limit(1))
    if newest is None:
        hint = _near(session, project_id, kind, str(parsed.name))
        raise _missing(kind, f"There is no {_noun(kind)} {str(parsed.name)!r}.", hint=hint)
    if parsed.number is not None:
        row = session.scalar(query.where(VersionRow.number == parsed.number))
    elif parsed.alias == references.LATEST:
        row = newest
    else:
        pointer = session.get(AliasRow, (newest.artifact_id, parsed.alias or references.DEFAULT))
        row = session.get(VersionRow, pointer.version_id) if pointer is not None else None
        if row is None and parsed.alias is None:
            row = newest
    if row is None:
        numbers = [each.number for each in living(session, newest.artifact_id)]
        aliases = ", ".join(sorted(aliases_of(session, newest.artifact_id))) or "none"
        raise _missing(
            kind,
            f"The {_noun(kind)} {parsed.name!r} has no version {str(parsed).partition('@')[2]!r}.",
            hint=f"Its versions: {', '.join(f'v{number}' for number in numbers[:20])}; its aliases: {aliases}.",
        )
    return row


def living(session: Session, artifact_id: str) -> list[VersionRow]:
    query = select(VersionRow).where(VersionRow.artifact_id == artifact_id, VersionRow.state == "ready")
    return [*session.scalars(query.order_by(VersionRow.number.desc()))]


def aliases_of(session: Session, artifact_id: str) -> dict[str, int]:
    query = (
        select(AliasRow.name, VersionRow.number)
        .join(VersionRow, VersionRow.id == AliasRow.version_id)
        .where(AliasRow.artifact_id == artifact_id)
        .order_by(AliasRow.name)
    )
    return dict(session.execute(query).tuples().all())


def versions_of(session: Session, rows: Sequence[VersionRow]) -> list[Version]:
    return [
        Version.model_validate({**shown, "project_id": row.project_id, "artifact_id": row.artifact_id, **_content(row)})
        for row, shown in zip(rows, _shown(session, rows), strict=True)
    ]


def summaries_of(session: Session, rows: Sequence[VersionRow]) -> list[VersionSummary]:
    return [
        VersionSummary.model_validate({**shown, "num_files": row.num_files})
        for row, shown in zip(rows, _shown(session, rows), strict=True)
    ]


def artifacts_of(session: Session, rows: Sequence[ArtifactRow]) -> list[Artifact]:
    ids = [row.id for row in rows]
    counted = select(VersionRow.artifact_id, func.count(), func.max(VersionRow.number)).where(
        VersionRow.artifact_id.in_(ids), VersionRow.state == "ready"
    )
    counts = {each: (count, number) for each, count, number in session.execute(counted.group_by(VersionRow.artifact_id))}
    newer = aliased(VersionRow)
    newest = select(VersionRow).where(
        VersionRow.artifact_id.in_(ids),
        VersionRow.state == "ready",
        ~exists().where(newer.artifact_id == VersionRow.artifact_id, newer.number > VersionRow.number, newer.state == "ready"),
    )
    latest = {each.artifact_id: each for each in session.scalars(newest)}
    summaries = dict(zip(latest, summaries_of(session, [*latest.values()]), strict=True))
    aliases: dict[str, dict[str, int]] = {}
    pointing = (
        select(AliasRow.artifact_id, AliasRow.name, VersionRow.number)
        .join(VersionRow, VersionRow.id == AliasRow.version_id)
        .where(AliasRow.artifact_id.in_(ids))
        .order_by(AliasRow.name)
    )
    for artifact_id, alias, number in session.execute(pointing):
        aliases.setdefault(artifact_id, {})[alias] = number
    return [
        Artifact(
            id=row.id,
            kind=row.kind,
            name=row.name,
            created_at=row.created_at,
            num_versions=counts[row.id][0],
            aliases=aliases.get(row.id, {}),
            latest=summaries[row.id],
        )
        for row in rows
    ]


def _near(session: Session, project_id: str, kind: str | None, name: str) -> str:
    query = select(ArtifactRow.name).where(ArtifactRow.project_id == project_id, _has_version()).limit(_MAX_LIMIT)
    if kind is not None:
        query = query.where(ArtifactRow.kind == kind)
    names = sorted(set(session.scalars(query)))
    lowered = {each.lower(): each for each in reversed(names)}
    near = [lowered[each] for each in difflib.get_close_matches(name.lower(), list(lowered), n=3)]
    if near:
        return f"Did you mean {' or '.join(repr(each) for each in near)}?"
    if not names:
        return f"There is no {_noun(kind)} yet: pull, register or train one."
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"Known: {', '.join(names[:10])}{more}."


def _has_version() -> ColumnElement[bool]:
    return exists().where(VersionRow.artifact_id == ArtifactRow.id, VersionRow.state == "ready")


def _searched(query: Select[ArtifactRow], search: str | None) -> Select[ArtifactRow]:
    for word in (search or "").split():
        columns = (VersionRow.card, VersionRow.task, VersionRow.licence, VersionRow.source)
        in_version = exists().where(
            VersionRow.artifact_id == ArtifactRow.id,
            VersionRow.state == "ready",
            or_(*(column.icontains(word, autoescape=True) for column in columns)),
        )
        query = query.where(or_(ArtifactRow.name.icontains(word, autoescape=True), in_version))
    return query


def _shown(session: Session, rows: Sequence[VersionRow]) -> list[dict[str, Any]]:
    artifact_ids = {row.artifact_id for row in rows}
    query = select(ArtifactRow).where(ArtifactRow.id.in_(artifact_ids))
    artifacts = {row.id: row for row in session.scalars(query)}
    aliases: dict[str, list[str]] = {}
    pointing = select(AliasRow).where(AliasRow.artifact_id.in_(artifact_ids)).order_by(AliasRow.name)
    for alias in session.scalars(pointing):
        aliases.setdefault(alias.version_id, []).append(alias.name)
    return [
        {
            "id": row.id,
            "kind": artifacts[row.artifact_id].kind,
            "name": artifacts[row.artifact_id].name,
            "number": row.number,
            "digest": row.digest,
            "num_bytes": row.num_bytes,
            "task": row.task,
            "level": row.level,
            "licence": row.licence,
            "source": row.source,
            "metrics": row.metrics,
            "created_by_run": row.created_by_run,
            "created_at": row.created_at,
            "state": row.state,
            "aliases": aliases.get(row.id, []),
        }
        for row in rows
    ]


def _content(row: VersionRow) -> dict[str, Any]:
    return {"files": row.files, "card": row.card, "metadata": row.extra}


def _noun(kind: str | None) -> str:
    return {"dataset": "data set", None: "model or data set"}.get(kind, str(kind))


def _missing(kind: str | None, message: str, *, hint: str) -> NotFound:
    return ModelNotFound(message, hint=hint, param="model") if kind == "model" else NotFound(message, hint=hint)


def is_inner(session: Session, project_id: str, ref: str) -> bool:
    """Whether a reference, an id too, means what only administrators are shown; see `references.INNER`."""
    if not references.is_version_id(ref):
        return references.is_inner(ref)
    query = select(ArtifactRow.name).join(VersionRow, VersionRow.artifact_id == ArtifactRow.id)
    name = session.scalar(query.where(VersionRow.id == ref, VersionRow.project_id == project_id))
    return name is not None and references.is_inner(name)


def refuse_inner(session: Session, project_id: str, given: Mapping[str, str]) -> None:
    """Raise PermissionDenied where one of the references, with a prefix or without, means the inside of a data space.

    Args:
        given: references by the field that they were given in.
    """
    for field, ref in given.items():
        prefix, _, rest = ref.partition(":")
        if is_inner(session, project_id, rest if prefix in ("model", "dataset", "deployment") else ref):
            raise PermissionDenied(
                f"{field}: {ref!r} is the inside of a data space, which knows nothing of who may read what.",
                hint="Search the space (POST /v1/vector_stores/{id}/search), or ask an administrator of the project.",
                param=field,
            )


def unused(session: Session, digests: Collection[str]) -> set[str]:
    """Those of the manifests' digests that no living version of any project has: what need not be kept in a cache."""
    wanted = set(digests)
    living = select(VersionRow.digest).where(VersionRow.digest.in_(sorted(wanted)), VersionRow.state == "ready")
    return wanted - set(session.scalars(living))


def holding(session: Session, project_id: str, digests: Collection[str]) -> list[VersionRow]:
    """The living versions of a project that hold one of these blobs, oldest first."""
    wanted = sorted(set(digests))
    found: dict[str, VersionRow] = {}
    for start in range(0, len(wanted), _CHUNK):
        query = (
            select(VersionRow)
            .join(VersionBlobRow, VersionBlobRow.version_id == VersionRow.id)
            .where(VersionRow.project_id == project_id, VersionRow.state == "ready")
            .where(VersionBlobRow.digest.in_(wanted[start : start + _CHUNK]))
        )
        found.update((row.id, row) for row in session.scalars(query))
    return [found[key] for key in sorted(found)]


def called(session: Session, project_id: str, kind: str, names: Collection[str]) -> list[tuple[str, VersionRow]]:
    """As `named` for several names, each version with its own; by name in their order, then oldest first."""
    order = {name: at for at, name in enumerate(names)}
    query = (
        select(ArtifactRow.name, VersionRow)
        .join(ArtifactRow, ArtifactRow.id == VersionRow.artifact_id)
        .where(ArtifactRow.project_id == project_id, ArtifactRow.kind == kind, ArtifactRow.name.in_(sorted(order)))
    )
    found = [(name, row) for name, row in session.execute(query.order_by(VersionRow.number)).tuples()]
    return sorted(found, key=lambda each: order[each[0]])


def named(session: Session, project_id: str, kind: str, name: str) -> list[VersionRow]:
    """Every version of a name, those that were removed too, oldest first."""
    query = (
        select(VersionRow)
        .join(ArtifactRow, ArtifactRow.id == VersionRow.artifact_id)
        .where(ArtifactRow.project_id == project_id, ArtifactRow.kind == kind, ArtifactRow.name == name)
    )
    return [*session.scalars(query.order_by(VersionRow.number))]
