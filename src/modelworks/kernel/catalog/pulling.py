"""The job of verb `pull`: fetch a source, check it, save it. Runs in a worker, without the database."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from modelworks.contract.errors import Conflict, InvalidRequest, ModelworksError, StorageFull
from modelworks.contract.run import Level, Run
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog.checkpoint import Limits, check_folder, detect_task, list_folder, read_json
from modelworks.kernel.catalog.importing import imported
from modelworks.kernel.catalog.schemas import SkippedFile, SourceInfo
from modelworks.kernel.catalog.sources import SourcePolicy, open_source
from modelworks.kernel.catalog.sources.source import licence_of, read_card

#: A checkpoint stores everything fetched so far: after so many new bytes, and at least as many as it stored before.
_CHECKPOINT_BYTES = 256 << 20


class PullParams(BaseModel):
    """What to pull, and as what."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        description="hf://org/name, ms://org/name, https://…, s3://bucket/prefix, file:///folder, package://name, or a preset."
    )
    kind: str = Field(default="model", description="model or dataset.")
    revision: str | None = Field(default=None, description="Branch, tag or commit at a hub.")
    task: str | None = Field(default=None, description="Task of the model; by default told by its config.json.")
    level: Level | None = Field(default=None, description="Level of the model; a pulled model is a base model, L0.")
    licence: str | None = Field(default=None, description="Licence, where the source does not state it.")
    licence_accepted: str | None = Field(
        default=None, description="The licence that you were shown and accept; another one at the source stops the pull."
    )


@dataclass(slots=True)
class FetchedSource:
    """A source's files, checked, in a folder."""

    path: Path
    info: SourceInfo
    licence: str | None
    card: str | None
    task: str | None
    skipped: list[SkippedFile] = field(default_factory=list)


def import_source(
    uri: str,
    *,
    kind: str,
    workdir: Path,
    policy: SourcePolicy,
    on_progress: Callable[[int, int | None], None],
    cancelled: Callable[[], bool],
    revision: str | None = None,
    licence_accepted: str | None = None,
) -> FetchedSource:
    """Fetch a source into `workdir` and check it. Called again with the same `workdir`, it goes on where it was.

    Args:
        workdir: holds `files` (complete and checked) and `parts`; it is the caller's to keep or remove.
        licence_accepted: what the user agreed to.

    Raises:
        Conflict: the source states another licence than was accepted (code `licence_changed`).
        UnsafeArtifact, InvalidData, IntegrityFailed: what came is refused. UpstreamFailed: the source broke off.
        StorageFull: the disk is full. Cancelled: `cancelled` said so.
    """
    source = open_source(uri, kind=kind, revision=revision, policy=policy)
    try:
        if licence_accepted is not None:
            _check_licence(uri, source.describe().licence, licence_accepted)
        info = source.fetch(workdir, on_progress, cancelled)
        folder = workdir / "files"
        check_folder(folder, kind=kind, limits=Limits(max_files=policy.max_files, max_bytes=policy.max_bytes))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"The disk is full while fetching {uri}.", hint="Free some space and resume the run: what came is kept."
            ) from error
        raise
    card = read_card(folder)
    licence = info.licence or licence_of(card)
    if licence_accepted is not None:
        _check_licence(uri, licence, licence_accepted)
    return FetchedSource(
        path=folder, info=info, licence=licence, card=card, task=info.task or _task_of(folder, kind), skipped=info.skipped
    )


def pull(run: Run, params: PullParams) -> None:
    """Fetch, check and save a model or data set; what was fetched survives a crash, a cancel and a broken connection.

    Raises:
        see `import_source`.
    """
    if params.kind not in ("model", "dataset"):
        raise InvalidRequest(f"A {params.kind!r} cannot be pulled.", hint="Pull a model or a dataset.", param="kind")
    fetch = run.workdir / "fetch"
    if run.resume_from is not None:
        shutil.copytree(run.resume_from, fetch, dirs_exist_ok=True, copy_function=_copy_writable)
    fetch.mkdir(parents=True, exist_ok=True)
    stored = [_num_bytes(fetch)]

    def on_progress(done: int, total: int | None) -> None:
        run.raise_if_cancelled()
        run.progress(done, done if total is None else total, "bytes")
        if done - stored[0] >= max(_CHECKPOINT_BYTES, stored[0]):
            stored[0] = done
            run.checkpoint(fetch)

    try:
        fetched = import_source(
            params.source,
            kind=params.kind,
            workdir=fetch,
            policy=SourcePolicy.of(Settings()),
            on_progress=on_progress,
            cancelled=lambda: False,  # on_progress raises what the run raises
            revision=params.revision,
            licence_accepted=params.licence_accepted,
        )
    except (ModelworksError, OSError):
        if _num_bytes(fetch) > 0:
            run.checkpoint(fetch)
        raise
    path, found = fetched.path, dict[str, Any]()
    if params.kind == "model":
        path, found = imported(fetched.path, run.workdir / "imported")
    run.save(path, kind=params.kind, metadata=_metadata(params, fetched, found))


def _metadata(params: PullParams, fetched: FetchedSource, found: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = found | {
        "source": fetched.info.uri,
        "licence": params.licence or fetched.licence or found.get("licence"),
        "revision": fetched.info.revision,
        "card": fetched.card,
        "skipped": [f"{each.path}: {each.reason}" for each in fetched.skipped],
    }
    if params.kind == "model":
        # What the files say goes before a tag of elsewhere ("sentence-similarity").
        known["task"] = params.task or found.get("task") or fetched.task
        known["level"] = params.level or "L0"
    return {key: value for key, value in known.items() if value}


def _check_licence(uri: str, found: str | None, accepted: str) -> None:
    if found is not None and found.lower() != accepted.lower():
        raise Conflict(
            f"{uri} is under the licence {found!r}; {accepted!r} was accepted.",
            hint="Read its licence, and pull again with that one accepted.",
            code="licence_changed",
        )


def _task_of(folder: Path, kind: str) -> str | None:
    if kind != "model":
        return None
    config = next((file for file in list_folder(folder) if file.path == "config.json"), None)
    return detect_task(read_json(config)) if config is not None else None


def _num_bytes(folder: Path) -> int:
    return sum(place.stat().st_size for place in folder.rglob("*") if place.is_file())


def _copy_writable(source: str, target: str) -> str:
    # A checkpoint is read-only; the parts in it are appended to.
    shutil.copyfile(source, target)
    return target
