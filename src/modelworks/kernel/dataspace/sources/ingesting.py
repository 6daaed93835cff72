"""The job of verb `ingest`: look at a source, fetch what is new, say what is gone. Runs in a worker, without the database.

What was known comes with the attempt, what was found goes back as a data set: `items.jsonl`, one `IngestedItem` a line,
`cursor.json`, and the fetched bytes under `files/`, named by their digest. The server takes it in as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelworks.contract.errors import (
    Cancelled,
    Conflict,
    InvalidRequest,
    MissingExtra,
    ModelworksError,
    PayloadTooLarge,
    StorageFull,
    UnsafeArtifact,
)
from modelworks.contract.passages import Fault
from modelworks.contract.run import Run
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog.checkpoint import FolderFile, pickle_reason
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources.forms import SourceForm
from modelworks.kernel.dataspace.sources.opening import open_source
from modelworks.kernel.dataspace.sources.source import MAX_KEY_CHARS, Item, Surroundings, forgotten_key
from modelworks.kernel.storage import BlobStore

ITEMS_FILE: Final = "items.jsonl"
CURSOR_FILE: Final = "cursor.json"
FILES_FOLDER: Final = "files"
#: Of what a run fetched, so that its next attempt does not fetch it again.
_FETCHED_FILE = "fetched.jsonl"
#: A checkpoint stores everything fetched so far: not more often than this, and so rarely that it takes a twentieth of the time.
_CHECKPOINT_S, _CHECKPOINT_SHARE = 10.0, 20.0
_PROGRESS_S = 0.5
_MAX_SHOWN = 50
#: What ends a sync, wherever it comes up; other errors are of one document.
_FATAL = (Cancelled, StorageFull, MissingExtra)

ItemState = Literal["new", "changed", "touched", "unchanged", "failed", "gone"]


class IngestParams(BaseModel):
    """Which source to look at."""

    model_config = ConfigDict(extra="forbid")

    space_id: str
    source_id: str
    source: SourceForm
    #: Let every document be gone where the source has none any more.
    allow_empty: bool = False


class KnownItem(BaseModel):
    """What the space knows of a document of the source."""

    fingerprint: str | None
    digest: str


class IngestTold(BaseModel):
    """What only the attempt is told; nothing of it is stored with the run."""

    credential: str | None = Field(default=None, repr=False)
    known: dict[str, KnownItem] = Field(default_factory=dict)
    #: Keys that a person has removed from the space: they do not come back by themselves.
    removed: list[str] = Field(default_factory=list)
    #: Keys of documents that a person has closed to readers of the source.
    closed: list[str] = Field(default_factory=list)
    cursor: dict[str, Any] = Field(default_factory=dict)


class IngestedItem(BaseModel):
    """One document of the source, or one that is gone; `digest` names its bytes where they were read."""

    key: str
    name: str
    state: ItemState
    fingerprint: str | None = None
    digest: str | None = None
    num_bytes: int = 0
    media_type: str | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)
    access: list[str] | None = None
    #: Of a table's rows: which of its documents were left out, by `digest_of`.
    left_out: str | None = None
    fault: Fault | None = None


class SyncReport(BaseModel):
    """What a look at a source found, and does to the space."""

    num_new: int = 0
    num_changed: int = 0
    num_unchanged: int = 0
    num_failed: int = 0
    num_gone: int = 0
    num_bytes: int = 0
    #: False: not everything could be listed, and nothing was taken for gone.
    is_complete: bool = True
    #: The first keys of each state.
    new: list[str] = Field(default_factory=list)
    changed: list[str] = Field(default_factory=list)
    gone: list[str] = Field(default_factory=list)
    failed: list[dict[str, str]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def count(self, item: IngestedItem) -> None:
        """Add a document."""
        match item.state:
            case "new":
                self.num_new += 1
                _add(self.new, item.key)
            case "changed":
                self.num_changed += 1
                _add(self.changed, item.key)
            case "gone":
                self.num_gone += 1
                _add(self.gone, item.key)
            case "failed":
                self.num_failed += 1
                _add(self.failed, {"key": item.key, "message": item.fault.message if item.fault is not None else ""})
            case _:
                self.num_unchanged += 1


def ingest(run: Run, params: Mapping[str, Any], told: Mapping[str, Any], blobs: BlobStore, *, dry_run: bool) -> dict[str, Any]:
    """Look at a source and save what is new in it; with `dry_run` only say what would change.

    Raises:
        Conflict: the source has nothing any more, and that was not allowed (`source_empty`).
        PayloadTooLarge: more documents or bytes than its limits. Others: as the source raises.
    """
    asked, given = IngestParams.model_validate(params), IngestTold.model_validate(told)
    work = run.workdir / "source"
    work.mkdir(parents=True, exist_ok=True)
    around = Surroundings(
        policy=SourcePolicy.of(Settings()),
        limits=asked.source.limits,
        workdir=work,
        blobs=blobs,
        is_cancelled=_asker(run),
        credential=given.credential,
        known={key: each.fingerprint for key, each in given.known.items() if each.fingerprint},
        hidden=frozenset((*given.removed, *given.closed)),
        cursor=dict(given.cursor),
    )
    return _Sync(run, asked, given, around, dry_run=dry_run).perform().model_dump(mode="json")


class _Sync:
    def __init__(self, run: Run, asked: IngestParams, told: IngestTold, around: Surroundings, *, dry_run: bool) -> None:
        self._run = run
        self._asked = asked
        self._told = told
        self._around = around
        self._dry_run = dry_run
        self._report = SyncReport()
        self._seen: set[str] = set()
        self._out = run.workdir / "sync"
        self._files = self._out / FILES_FOLDER
        self._files.mkdir(parents=True, exist_ok=True)
        #: By key: fingerprint, digest and size of what this attempt or an earlier one fetched.
        self._fetched: dict[str, tuple[str, str, int]] = {}
        now = time.monotonic()
        self._told_at, self._kept_at, self._keeping_s, self._num_kept = now, now, 0.0, 0

    def perform(self) -> SyncReport:
        before = dict(self._around.cursor)
        self._take_up()
        source = open_source(self._asked.source, self._around)
        removed = set(self._told.removed)
        with (self._out / ITEMS_FILE).open("w", encoding="utf-8") as listing:
            for item in source.scan():
                self._check_key(item)
                # Nor are the bytes of what was forgotten stored again, however shortly.
                if item.key not in removed and forgotten_key(item.key) not in removed:
                    self._note(self._taken(item), listing)
            if source.lists_all and self._around.is_complete:
                for key in self._gone():
                    self._note(IngestedItem(key=key, name=key, state="gone"), listing)
        self._report.is_complete = self._around.is_complete
        self._report.notes = self._around.notes
        # What failed must be asked for again, whatever the source thinks it has told already.
        cursor = before if self._report.num_failed else self._around.cursor
        (self._out / CURSOR_FILE).write_text(json.dumps(cursor, ensure_ascii=False), "utf-8")
        self._tell(always=True)
        if not self._dry_run:
            (self._out / _FETCHED_FILE).unlink(missing_ok=True)
            self._run.save(self._out, kind="dataset", metadata={"sync": self._report.model_dump(mode="json")})
        return self._report

    def _check_key(self, item: Item) -> None:
        if not item.key or len(item.key) > MAX_KEY_CHARS:
            raise InvalidRequest(
                f"A document's key has {len(item.key)} characters; 1 to {MAX_KEY_CHARS} are kept.", param="key"
            )
        if item.key in self._seen:
            raise InvalidRequest(f"The source names {item.key[:200]!r} twice.", hint="Check what tells its documents apart.")
        self._seen.add(item.key)
        if len(self._seen) > self._around.limits.max_documents:
            raise PayloadTooLarge(
                f"The source has more than {self._around.limits.max_documents} documents.",
                hint="Raise limits.max_documents, or name a part of it. Nothing was changed.",
                param="limits.max_documents",
            )

    def _taken(self, item: Item) -> IngestedItem:
        known = self._told.known.get(item.key)
        made = IngestedItem(
            key=item.key,
            name=item.name[:1024],
            state="new" if known is None else "changed",
            fingerprint=item.fingerprint[:200],
            num_bytes=item.num_bytes or 0,
            media_type=item.media_type,
            attributes=dict(item.attributes),
            access=None if item.access is None else list(item.access),
            left_out=item.left_out,
        )
        if item.fault is not None:
            return _failed(made, item.fault)
        if known is not None and item.fingerprint and known.fingerprint == made.fingerprint:
            return made.model_copy(update={"state": "unchanged"})
        if self._dry_run or item.read is None:
            return made if item.read is not None else made.model_copy(update={"state": "unchanged"})
        try:
            digest, num_bytes = self._read(item)
        except _FATAL:
            raise
        except ModelworksError as error:
            if error.error_code == "sync_too_large":
                raise
            return _failed(made, error)
        # Another date, the same bytes.
        state = "touched" if known is not None and known.digest == digest else made.state
        if state == "touched":
            self._place(digest).unlink(missing_ok=True)
        return made.model_copy(update={"state": state, "digest": digest, "num_bytes": num_bytes})

    def _read(self, item: Item) -> tuple[str, int]:
        """The bytes of a document, as a file that bears their digest."""
        before = self._fetched.get(item.key)
        if before is not None and item.fingerprint and before[0] == item.fingerprint and self._place(before[1]).exists():
            self._report.num_bytes += before[2]
            return before[1], before[2]
        limits, part = self._around.limits, self._out.parent / "part"
        if item.num_bytes is not None and item.num_bytes > limits.max_file_bytes:
            raise _too_large(item, limits.max_file_bytes)
        digest, num_bytes = hashlib.sha256(), 0
        assert item.read is not None  # noqa: S101
        with part.open("wb") as sink:
            for chunk in item.read():
                self._around.stop_if_cancelled()
                num_bytes += len(chunk)
                self._report.num_bytes += len(chunk)
                if num_bytes > limits.max_file_bytes:
                    raise _too_large(item, limits.max_file_bytes)
                if self._report.num_bytes > limits.max_bytes:
                    raise PayloadTooLarge(
                        f"The source has more than {limits.max_bytes} bytes that are new.",
                        hint="Raise limits.max_bytes, or name a part of it. Nothing was changed.",
                        param="limits.max_bytes",
                        code="sync_too_large",
                    )
                digest.update(chunk)
                sink.write(chunk)
        if (reason := pickle_reason(FolderFile("document", num_bytes, part), kind="dataset")) is not None:
            raise UnsafeArtifact(f"{item.name} is refused: {reason}.", hint="Loading it could run code; leave it out.")
        found = f"sha256:{digest.hexdigest()}"
        part.replace(self._place(found))
        if item.fingerprint:
            self._fetched[item.key] = item.fingerprint, found, num_bytes
        self._keep()
        return found, num_bytes

    def _gone(self) -> list[str]:
        gone = [key for key in self._told.known if key not in self._seen]
        if gone and not self._seen and not self._asked.allow_empty:
            raise Conflict(
                f"The source has nothing any more; {len(gone)} documents would be gone.",
                hint="If that is right, sync once with allow_empty. Nothing was changed.",
                code="source_empty",
            )
        return gone

    def _note(self, item: IngestedItem, listing: Any) -> None:
        self._report.count(item)
        # What has not changed need not be told again: there may be a hundred thousand of it.
        if item.state != "unchanged":
            listing.write(item.model_dump_json(exclude_defaults=True) + "\n")
        self._tell()

    def _place(self, digest: str) -> Path:
        return self._files / digest.removeprefix("sha256:")

    def _tell(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._told_at >= _PROGRESS_S:
            self._told_at = now
            done = len(self._seen)
            self._run.progress(done, max(done, len(self._told.known)), "documents")

    # -- attempts -----------------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """What an earlier attempt fetched."""
        kept = self._run.resume_from
        if kept is None or not (kept / _FETCHED_FILE).is_file():
            return
        for line in (kept / _FETCHED_FILE).read_text("utf-8").splitlines():
            key, fingerprint, digest, num_bytes = json.loads(line)
            place = kept / FILES_FOLDER / digest.removeprefix("sha256:")
            if place.is_file():
                shutil.copyfile(place, self._place(digest))
                self._fetched[key] = fingerprint, digest, num_bytes
        self._num_kept = len(self._fetched)

    def _keep(self) -> None:
        now = time.monotonic()
        if (
            now - self._kept_at < max(_CHECKPOINT_S, _CHECKPOINT_SHARE * self._keeping_s)
            or len(self._fetched) == self._num_kept
        ):
            return
        lines = [json.dumps([key, *each], ensure_ascii=False) for key, each in self._fetched.items()]
        (self._out / _FETCHED_FILE).write_text("\n".join(lines) + "\n", "utf-8")
        self._run.checkpoint(self._out)
        self._num_kept, self._kept_at = len(self._fetched), time.monotonic()
        self._keeping_s = self._kept_at - now


def _failed(item: IngestedItem, error: ModelworksError) -> IngestedItem:
    fault = Fault(code=error.error_code, message=error.message, hint=error.hint)
    return item.model_copy(update={"state": "failed", "fault": fault, "fingerprint": None})


def _too_large(item: Item, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"{item.name} has more than {limit} bytes.", hint="Raise limits.max_file_bytes, if it is wanted.")


def _asker(run: Run) -> Any:
    """Whether the run was cancelled, asked a few times a second: it looks at the disk."""
    last = [0.0]

    def is_cancelled() -> bool:
        now = time.monotonic()
        if now - last[0] >= 0.1:
            last[0] = now
            run.raise_if_cancelled()
        return False

    return is_cancelled


def _add(listed: list[Any], each: Any) -> None:
    if len(listed) < _MAX_SHOWN:
        listed.append(each)
