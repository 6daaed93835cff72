"""What a training will need, asked of its task before it is queued, and whether the machine has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import structlog
from sqlalchemy.orm import Session

from modelworks.contract.capability import Resources, Task
from modelworks.contract.errors import InvalidData, InvalidRequest, MissingExtra, ModelworksError, StorageFull
from modelworks.contract.estimate import Estimate
from modelworks.kernel.catalog import CatalogService, resolve_import
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.jobs.memory import size_text
from modelworks.kernel.jobs.slots import Capacity
from modelworks.kernel.storage import BlobStore

log = structlog.get_logger(__name__)

_MAX_READ_BYTES = 16 << 20
#: A data set of more bytes is not looked at while somebody waits for the answer.
_MAX_FOLDER_BYTES = 64 << 20
#: What may be wrong with the data: the run says so itself, with file and line.
_LEFT_TO_THE_RUN = (InvalidData, MissingExtra, StorageFull)


class VersionInputs:
    """Implements `contract.estimate.TrainingInputs` over resolved versions."""

    def __init__(self, versions: Mapping[str, Version], catalog: CatalogService, blobs: BlobStore, cache_dir: Path) -> None:
        self._versions = versions
        self._catalog = catalog
        self._blobs = blobs
        self._cache_dir = cache_dir

    def has(self, role: str) -> bool:
        return role in self._versions

    def sizes(self, role: str) -> Mapping[str, int]:
        return {file.path: file.num_bytes for file in self._versions[role].files}

    def read(self, role: str, path: str) -> bytes | None:
        found = next((file for file in self._versions[role].files if file.path == path), None)
        if found is None or found.num_bytes > _MAX_READ_BYTES:
            return None
        return self._blobs.read(found.digest, _MAX_READ_BYTES)

    def folder(self, role: str) -> Path | None:
        version = self._versions.get(role)
        if version is None or version.num_bytes > _MAX_FOLDER_BYTES:
            return None
        return self._catalog.materialise(version, self._cache_dir)


def estimated(
    session: Session,
    project_id: str,
    task: Task,
    params: Mapping[str, Any],
    version_ids: Mapping[str, str],
    cpu: float,
    *,
    catalog: CatalogService,
    blobs: BlobStore,
    cache_dir: Path,
) -> Estimate | None:
    """What the task says about a training; None where it says nothing, or where its data have to be read first.

    Raises:
        InvalidRequest: an input is missing that these parameters need.
        NotFound, IntegrityFailed: a file of an input is gone or damaged.
    """
    if task.estimator is None or task.train_params is None:
        return None
    versions = {role: catalog.get_version(session, project_id, version_id) for role, version_id in version_ids.items()}
    ask = cast(Callable[..., Estimate | None], resolve_import(task.estimator))
    checked = task.train_params.model_validate(params)
    try:
        return ask(checked, VersionInputs(versions, catalog, blobs, cache_dir), cpu)
    except _LEFT_TO_THE_RUN:
        return None
    except ModelworksError:
        raise
    except Exception:
        # A guess that cannot be made is no reason to refuse the work.
        log.exception("a training could not be estimated", task=task.name)
        return None


def fitted(
    estimate: Estimate, declared: Resources, asked_bytes: int | None, capacity: Capacity | None, *, force: bool
) -> Resources:
    """The resources with as much memory as the training will need, where nobody said how much.

    Raises:
        InvalidRequest: it needs more than was asked for, or than runs may occupy here.
    """
    need = estimate.memory_bytes
    if force or declared.workers > 1:
        # Several workers may share weights or batches between them; the estimate is of one process that does it all.
        return declared
    if asked_bytes is not None and need > asked_bytes:
        raise _too_much(estimate, f"it may occupy {size_text(asked_bytes)}, as `resources` says")
    if capacity is not None and need > capacity.memory_bytes:
        raise _too_much(estimate, f"runs may occupy {size_text(capacity.memory_bytes)} on this machine")
    return declared if asked_bytes is not None else replace(declared, memory_bytes=max(declared.memory_bytes, need))


def _too_much(estimate: Estimate, limit: str) -> InvalidRequest:
    largest = sorted(estimate.parts.items(), key=lambda part: -part[1])[:4]
    of_it = ", ".join(f"{name} {size_text(size)}" for name, size in largest)
    changes = "; ".join(estimate.hints)
    return InvalidRequest(
        f"The training needs about {size_text(estimate.memory_bytes)} of memory ({of_it}), and {limit}.",
        hint=f"Change what helps most: {changes}. Where you know better, submit it with force (--force).",
        param="resources.memory_bytes",
        code="exceeds_memory",
    )
