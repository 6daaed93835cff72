"""Repeat a finished run with the same inputs, parameters, seed and threads, and say whether the same bytes came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.jobs.environment import EVENT, EnvironmentDifference, RunEnvironment, differences
from modelworks.kernel.jobs.schemas import RunRecord
from modelworks.kernel.jobs.store import RunEventRow, RunRow

#: The event by which a run is known to repeat another one.
REPEATS = "repeats"
#: What these make depends on more than their inputs: a source elsewhere, a deployment.
_DEPENDS_ON_OTHERS = ("pull", "ingest", "label")


class FileComparison(BaseModel):
    """One file that either run made; a digest is None where that run did not make it."""

    #: The kind of result, counted from 1 where there are several, and the path in it: `model 1/config.json`.
    path: str
    then: str | None
    now: str | None
    equal: bool


class Reproduction(BaseModel):
    """What came out of a repeated run, beside what came out the first time."""

    run_id: str
    equal: bool
    files: list[FileComparison]
    #: The runs' results (metrics), where they differ.
    result_differs: list[str]
    #: What the two computed with, where it differs.
    environment: list[EnvironmentDifference]


class RepeatedRun(BaseModel):
    """A run that repeats another one, and what is known to differ before it starts."""

    run: RunRecord
    repeats: str
    differences: list[EnvironmentDifference]


def check(session: Session, catalog: CatalogService, row: RunRow) -> None:
    """Refuse what cannot be repeated.

    Raises:
        Conflict: the run did not succeed, or repeats another one itself.
        InvalidRequest: what it makes depends on more than its inputs.
        NotFound: an input was removed; the message names it.
    """
    if row.state != "succeeded":
        raise Conflict(
            f"The run {row.id} is {row.state}, so there is nothing to compare with.",
            hint="Only a run that has succeeded can be reproduced.",
            code="not_reproducible",
        )
    if (original := repeated_run(session, row.id)) is not None:
        raise Conflict(
            f"The run {row.id} repeats {original} itself.",
            hint=f"Reproduce that one: modelworks reproduce {original}.",
            code="not_reproducible",
        )
    asks = [role for role, given in row.inputs.items() if given["kind"] == "deployment"]
    if row.verb in _DEPENDS_ON_OTHERS or asks:
        raise InvalidRequest(
            f"A run of the verb {row.verb!r} depends on what others answer, so it cannot be reproduced.",
            hint="Runs that read models and data sets of the catalog can be.",
            code="not_reproducible",
        )
    for role, given in row.inputs.items():
        version = catalog.get_version(session, row.project_id, given["version_id"])
        if version.state == "removed":
            raise NotFound(
                f"The input {role!r} of the run {row.id}, {version.name}@v{version.number}, was removed.",
                hint="Without it the run cannot be repeated; its record and its results stay.",
                param=f"inputs.{role}",
                code="input_not_found",
            )


def repeated_run(session: Session, run_id: str) -> str | None:
    """The run that this one repeats; None where it repeats none."""
    found = _event(session, run_id, REPEATS)
    return None if found is None else str(found["run_id"])


def thread_settings(session: Session, run_id: str) -> dict[str, str]:
    """Variables of a repeating run's process; none for other runs."""
    found = _event(session, run_id, REPEATS)
    return {} if found is None else {str(name): str(value) for name, value in found["threads"].items()}


def environment_of(session: Session, run_id: str) -> RunEnvironment | None:
    """What the last attempt of a run that came to an end computed with."""
    found = _event(session, run_id, EVENT)
    return None if found is None else RunEnvironment.model_validate(found)


def compare(session: Session, original: RunRow, row: RunRow, result: Mapping[str, Any] | None) -> Reproduction:
    """What both made, file by file.

    Args:
        result: what the repeating run returned.
    """
    then, now = _files(original.saves), _files(row.saves)
    files = [
        FileComparison(path=path, then=then.get(path), now=now.get(path), equal=then.get(path) == now.get(path))
        for path in sorted(then.keys() | now.keys())
    ]
    before, after = environment_of(session, original.id), environment_of(session, row.id)
    first, second = dict(original.result or {}), dict(result or {})
    return Reproduction(
        run_id=original.id,
        equal=bool(files or first) and all(file.equal for file in files) and (bool(files) or first == second),
        files=files,
        result_differs=sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key)),
        environment=[] if before is None or after is None else differences(before, after),
    )


def _files(saves: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for saved in saves:
        kind = str(saved["kind"])
        counts[kind] = counts.get(kind, 0) + 1
        found |= {f"{kind} {counts[kind]}/{file['path']}": str(file["digest"]) for file in saved["files"]}
    return found


def _event(session: Session, run_id: str, type_: str) -> dict[str, Any] | None:
    query = select(RunEventRow.data).where(RunEventRow.run_id == run_id, RunEventRow.type == type_)
    return session.scalar(query.order_by(RunEventRow.seq.desc()).limit(1))
