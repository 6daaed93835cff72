"""How a document is forgotten: probed, removed, unlearned, its index built anew, its blobs collected, probed again, and proved.

Where each one stands is in the database: after a crash of the server the next one goes on where this one stopped; every step
may be done twice. From the wish on the document answers nothing; a model that was trained on it stops with `unlearning`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, IntegrityFailed, ModelworksError, NotFound
from modelworks.contract.media import File
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.polling import Follower
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.finding import called, holding, unused
from modelworks.kernel.catalog.manifest import discard
from modelworks.kernel.catalog.store import VersionRow
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.learning import settings_of
from modelworks.kernel.dataspace.service import TOPIC
from modelworks.kernel.dataspace.store import DocumentRow, ForgettingRow, SourceRow, SpaceBuildRow, SpaceRow
from modelworks.kernel.gateway.spaces import keeping, probing, tables
from modelworks.kernel.gateway.spaces.advancing import advance
from modelworks.kernel.gateway.spaces.learning import SpaceLearning
from modelworks.kernel.gateway.spaces.probing import AskIndex
from modelworks.kernel.gateway.spaces.sharding import SAMPLE_SETS
from modelworks.kernel.gateway.spaces.steps import NOUNS
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.jobs.schemas import ACTIVE
from modelworks.kernel.storage import BlobStore, ReportSigner
from modelworks.proof import KIND, report_digest

log = structlog.get_logger(__name__)

_BUSY_POLL_S, _IDLE_POLL_S = 0.5, 30.0
#: What a space has in the catalog, by kind; its models are kept, and marked.
_MADE: Final = (*NOUNS, *(("dataset", noun) for noun in SAMPLE_SETS), ("dataset", "incoming"))
_BUILT: Final = tuple(noun for _, noun in NOUNS)
#: Nothing of these may be found again.
_PROBES: Final = ("search", "files", "passages", "answers", "feedback", "kept", "samples")
_SAMPLES: Final = frozenset(SAMPLE_SETS)
_WHOLE: Final = frozenset({"samples", "samples-test", "corrections"})
#: What is counted for the steps themselves, or told elsewhere in the report.
_UNTOLD: Final = ("removed_unix", "names", "models", "runs")

#: Forgets a file of /v1/files: session, project, id; raises NotFound, and Conflict where a run reads it.
DropFile = Callable[[Session, str, str], None]
#: Those of the blobs that something still needs.
Referenced = Callable[[Collection[str]], set[str]]


@dataclass(frozen=True, slots=True)
class _Made:
    """A version of a space, by what it is for."""

    kind: str
    noun: str
    row: VersionRow


class SpaceForgetting(Follower):
    """One thread; `tick` is one look at everything that is being forgotten, and may be called by hand instead.

    Args:
        learning: what a space learns, where a model is withdrawn and another one begun.
        drop_file: forgets the file that a document was put in from. referenced: what blobs must stay.
        ask: an index itself; without it no search is tried, and the report says so.
        cache: this machine's folder of materialised versions.
    """

    def __init__(
        self,
        spaces: DataspaceService,
        jobs: JobsService,
        catalog: CatalogService,
        blobs: BlobStore,
        learning: SpaceLearning,
        events: Events,
        clock: Clock,
        *,
        signer: ReportSigner,
        drop_file: DropFile,
        referenced: Referenced,
        cache: Path,
        ask: AskIndex | None = None,
    ) -> None:
        super().__init__(events, name="space-forgetting", topic=TOPIC, busy_s=_BUSY_POLL_S, idle_s=_IDLE_POLL_S)
        self.spaces = spaces
        self._jobs = jobs
        self.catalog = catalog
        self.blobs = blobs
        self._learning = learning
        self._clock = clock
        self._db = spaces.db
        self._drop_file = drop_file
        self._referenced = referenced
        self._cache = cache
        self._ask = ask
        self.signer = signer

    def tick(self) -> bool:
        """Look once at everything that is being forgotten; returns whether there is anything."""
        with self._db.reading() as session:
            under_way = self.spaces.forgettings.open(session)
        for forgetting_id in under_way:
            try:
                self.advance(forgetting_id)
            except Exception:
                # One document must not hold up the others.
                log.exception("a document could not be forgotten further", forgetting_id=forgetting_id)
        return bool(under_way)

    def advance(self, forgetting_id: str) -> None:
        """Let one go on as far as it can now."""
        steps = {
            "probing": self._probe,
            "removing": self._remove,
            "unlearning": self._unlearn,
            "rebuilding": self._rebuilt,
            "collecting": self._collect,
            "proving": self._prove,
        }
        advance(self._db, ForgettingRow, forgetting_id, steps, self._fail)

    # -- the steps -------------------------------------------------------------------------------------------------------

    def _probe(self, row: ForgettingRow) -> None:
        """Note sentences that only this document has, and that they are found now."""
        with self._db.reading() as session:
            owner = session.get(SpaceRow, row.space_id)
            versions = [] if owner is None else self._living(session, owner)
        passages = [each.row for each in versions if each.noun == "passages"]
        texts = probing.texts_of(self.blobs, probing.files_of(reversed(passages)), row.document_id)
        own = f"/{row.document_id}.jsonl"
        others = [file for file in probing.files_of(passages[-1:]) if not file.path.endswith(own) and "/" in file.path]
        sentences = probing.own_sentences(self.blobs, [*dict.fromkeys(texts)], others)
        before = self._found(row, owner, versions, sentences)
        with self._db.transaction() as session:
            found = self.spaces.forgettings.at(session, row.id, "probing")
            if found is not None:
                _, row = found
                row.sentences, row.before, row.step = sentences, before, "removing"

    def _remove(self, row: ForgettingRow) -> None:
        """Take away what the rooms say of the document, and stop what is being made of it."""
        num_kept = self._drop_kept(row)
        with self._db.transaction() as session:
            found = self.spaces.forgettings.at(session, row.id, "removing")
            if found is None:
                return
            owner, row = found
            row.removed_at = self._clock.now()
            # By the storage's clock: what is stored again from here on is somebody else's.
            row.counts = {**row.counts, "removed_unix": time.time(), "kept": num_kept}
            if owner is None:
                row.step = "collecting"
                return
            document = session.get_one(DocumentRow, row.document_id)
            counts = {"versions_of_document": document.version, "passages": document.num_passages}
            if document.file_id is not None:
                try:
                    self._drop_file(session, row.project_id, document.file_id)
                    counts["files"] = 1
                except NotFound:
                    counts["files"] = 0
            row.before = {**row.before, "name_sha256": _hashed(document.name)}
            # Citations name the file where there is one. What was computed from a database's table may tell any of its rows.
            held_in = self.spaces.documents.tables_with(session, document)
            names = [row.document_id, *([document.file_id] if document.file_id else []), *held_in]
            row.counts = {**row.counts, "names": names}
            self.spaces.documents.forget(session, owner, row.document_id)
            counts["answers"] = sum(self.spaces.answers.drop_of(session, each) for each in (row.document_id, *held_in))
            counts["feedback"] = self.spaces.feedback.forget(session, owner.id, row.document_id)
            counts["events"] = self.spaces.forgettings.tidy(session, owner, row.document_id)
            row.counts = {**row.counts, **counts, "runs": self._learning.cease(session, owner)}
            row.revision = owner.revision
            row.step = "unlearning"
            self.spaces.announce(session, owner)

    def _unlearn(self, row: ForgettingRow) -> None:
        """Rewrite the sets of samples without the document, and mark the models that were trained on them."""
        with self._db.reading() as session:
            owner = session.get(SpaceRow, row.space_id)
            if any(self._is_active(session, row.project_id, run_id) for run_id in row.counts.get("runs", ())):
                return
            sets = [] if owner is None else [each for each in self._made(session, owner) if each.noun in _SAMPLES]
        # Written before the transaction: the storage may take its time.
        rewritten = [(old, *self._without(old.row, row.document_id)) for old in sets if old.row.state == "ready"]
        with self._db.transaction() as session:
            found = self.spaces.forgettings.at(session, row.id, "unlearning")
            if found is None:
                return
            owner, row = found
            if owner is None:
                row.step = "collecting"
                return
            # Sets that were removed name it still where they had a file of it: so do models that were trained on them.
            held = {each.row.id: _root(each.row) for each in sets if _has_file_of(each.row, row.document_id)}
            told, num_samples = [*row.counts.get("samples", ())], int(row.counts.get("num_samples", 0))
            for old, files, num_removed, digests in rewritten:
                if not digests:
                    continue
                made = self._replace(session, owner, old, files)
                told.append({"old": old.row.id, "new": made, "num_removed": num_removed})
                # The set of a shard holds what the set of all of them holds, too.
                num_samples += num_removed if old.noun in _WHOLE else 0
                held[old.row.id] = _root(old.row)
                row.digests = sorted({*row.digests, *digests})
            tainted = self.spaces.forgettings.taint(session, owner.id, held, row.document_id)
            row.counts = {
                **row.counts,
                "samples": told,
                "num_samples": num_samples,
                "models": [
                    {
                        "version_id": each.adapter_version_id,
                        "learning_id": each.id,
                        "training_run_id": each.runs.get("training", each.runs.get("combining")),
                        "shards": [
                            {
                                "number": shard["number"],
                                "version_id": shard["adapter_version_id"],
                                "knows_it": row.document_id in shard["tainted_by"],
                            }
                            for shard in each.results.get("shards", [])
                        ],
                        "withdrawn": each.model == owner.settings["language_model"]
                        and settings_of(owner).learning.tainted == "withdraw",
                    }
                    for each in tainted
                ],
            }
            if tainted and settings_of(owner).learning.tainted == "withdraw":
                self._learning.withdraw(session, owner)
            row.step = "rebuilding"
            self.spaces.announce(session, owner)

    def _rebuilt(self, row: ForgettingRow) -> None:
        """Wait until the space answers from an index that was built without the document."""
        with self._db.transaction() as session:
            found = self.spaces.forgettings.at(session, row.id, "rebuilding")
            if found is None:
                return
            owner, row = found
            if owner is not None and owner.deleted_at is not None:
                return  # what was made for it goes first
            if owner is None or self.spaces.is_over(owner) or owner.built_revision >= row.revision:
                row.step = "collecting"
                return
            running = self.spaces.builds.running(session, owner.id)
            if owner.failed_revision >= row.revision and running is None:
                reason = (owner.error or {}).get("message") or "It gave no reason."
                raise Conflict(
                    f"The index cannot be built without the document: {reason}",
                    hint="Repair that, build again (`modelworks space build`), and ask to forget it once more.",
                    code="build_failed",
                )

    def _collect(self, row: ForgettingRow) -> None:
        """Remove every older version that may hold something of it, then the blobs that nothing needs any more."""
        with self._db.transaction() as session:
            found = self.spaces.forgettings.at(session, row.id, "collecting")
            if found is None:
                return
            owner, row = found
            removed: list[str] = []
            digests, folders = {*row.digests}, set[str]()
            if owner is not None:
                for old in self._superseded(session, owner, row):
                    self.catalog.remove(session, row.project_id, old.row.id, old.kind, force=True)
                    removed.append(old.row.id)
                session.flush()
                session.expire_all()
                since = session.get_one(DocumentRow, row.document_id).created_at
                for each in self._made(session, owner):
                    if each.row.state != "ready" and each.row.created_at >= since:
                        digests |= {file["digest"] for file in each.row.files}
                        folders.add(each.row.digest)
            reports = self.catalog.evaluations.forget_samples(session, row.project_id, self._measured_on(row))
            digests |= reports
            folders = unused(session, folders)
            row.digests = sorted(digests)
            row.counts = {
                **row.counts,
                "versions": sorted({*row.counts.get("versions", ()), *removed}),
                "reports": row.counts.get("reports", 0) + len(reports),
            }
        num_kept = self._drop_kept(row)
        for digest in folders:
            discard(self._cache / digest.removeprefix("sha256:"))
        tables.discard(self._cache.parent / "tables", {row.digest, *row.digests})
        num_blobs = self._delete(row)
        with self._db.transaction() as session:
            found = self.spaces.forgettings.at(session, row.id, "collecting")
            if found is not None:
                _, row = found
                row.counts = {
                    **row.counts,
                    "blobs": row.counts.get("blobs", 0) + num_blobs,
                    "kept": row.counts.get("kept", 0) + num_kept,
                }
                row.step = "proving"

    def _prove(self, row: ForgettingRow) -> None:
        """Look for it again as before; where nothing is found, issue the report."""
        with self._db.reading() as session:
            owner = session.get(SpaceRow, row.space_id)
            versions = [] if owner is None else self._living(session, owner)
            elsewhere = self._elsewhere(session, owner, row)
        after = self._found(row, owner, versions, row.sentences)
        kept = sorted(self._referenced(row.digests) & {row.digest})
        again = {name: after[name] for name in _PROBES if _number(after[name])}
        if after["bytes"] and not kept:
            again["bytes"] = after["bytes"]
        if again:
            raise IntegrityFailed(
                f"Something of the document is still found: {', '.join(sorted(again))}.",
                hint="Ask to forget it once more; if that does not help, the log of the server says where it is.",
                code="still_found",
            )
        now = self._clock.now()
        report = self.signer.signed(self._report(row, after, _iso(now), kept, elsewhere))
        with self._db.transaction() as session:
            found = self.spaces.forgettings.at(session, row.id, "proving")
            if found is None:
                return
            owner, row = found
            self.spaces.forgettings.finish(session, row, report, report_digest(report))
            if owner is not None:
                self.spaces.tell(session, owner, "A document was forgotten.", data={"forgetting_id": row.id})
                if row.counts.get("models") or row.counts.get("runs"):
                    self._learning.begin_anew(session, owner)
        # The sentences stood in the database until now.
        self._db.scrub()

    # -- what steps do ---------------------------------------------------------------------------------------------------

    def _found(
        self, row: ForgettingRow, owner: SpaceRow | None, versions: Sequence[_Made], sentences: Sequence[str]
    ) -> dict[str, Any]:
        """What is there of the document: by search, word for word in files, by its digest, in answers and samples."""
        deployment = None if owner is None or owner.index_version_id is None else owner.catalog_name
        search: dict[str, Any] = {"asked": 0, "found": 0, "index": False}
        if deployment is not None:
            search = probing.tried(self._ask, row.project_id, deployment, sentences, row.document_id)
        files = probing.files_of(each.row for each in versions)
        held = probing.holding(self.blobs, files, sentences)
        of_samples = probing.files_of(each.row for each in versions if each.noun in _WHOLE)
        num_samples = sum(probing.without_document(self._read(file), row.document_id)[1] for file in of_samples)
        with self._db.reading() as session:
            answers = self.spaces.answers.num_of(session, row.document_id)
            feedback = len(self.spaces.feedback.of_document(session, row.space_id, row.document_id))
            kept = keeping.find(session, row.project_id, self._names(session, row), sentences)
        return {
            "search": search,
            "files": len({file.digest for file, _ in held}),
            "passages": sum(file.path == f"passages/{row.document_id}.jsonl" for file in files),
            "bytes": int(self.blobs.exists(row.digest)),
            "answers": answers,
            "feedback": feedback,
            "kept": len(kept),
            "samples": num_samples,
        }

    def _without(self, old: VersionRow, document_id: str) -> tuple[list[File], int, list[str]]:
        """The files of a set of samples without a document, how many samples that takes away, and the digests that go."""
        files, removed, gone = [], 0, []
        for file in probing.files_of([old]):
            kept, number = probing.without_document(self._read(file), document_id)
            if not number:
                files.append(file)
                continue
            removed += number
            gone.append(file.digest)
            if kept.strip():
                stored = self.blobs.put(kept)
                files.append(File(path=file.path, digest=stored.digest, num_bytes=stored.num_bytes))
        return files, removed, gone

    def _replace(self, session: Session, owner: SpaceRow, old: _Made, files: Sequence[File]) -> str | None:
        """A version with these files instead of the old one, which is removed; runs that still read it fail."""
        made = None
        if files:
            made = self.catalog.register(
                session,
                owner.project_id,
                kind=old.kind,
                name=f"{owner.catalog_name}/{old.noun}",
                files=files,
                licence=old.row.licence,
                source=f"space:{owner.id}",
                metadata={**old.row.extra, "rewritten_from": _root(old.row)},
                verified=True,
            ).id
        self.catalog.remove(session, owner.project_id, old.row.id, old.kind, force=True)
        return made

    def _superseded(self, session: Session, owner: SpaceRow, row: ForgettingRow) -> list[_Made]:
        """Living versions of the space that may hold the document still."""
        current = _built(owner)
        running = self.spaces.builds.running(session, owner.id)
        if running is not None:
            # Begun after the document went.
            current |= _built(running)
        held = {version.id for version in holding(session, owner.project_id, row.digests)}
        return [
            each
            for each in self._living(session, owner)
            if each.row.id not in current and (each.noun in _BUILT or each.row.id in held)
        ]

    def _elsewhere(self, session: Session, owner: SpaceRow | None, row: ForgettingRow) -> dict[str, Any]:
        """What is not touched: versions, not the space's, that hold its very bytes, and the source that brought it."""
        mine = set() if owner is None else {each.row.id for each in self._living(session, owner)}
        document = session.get(DocumentRow, row.document_id)
        source = None if document is None or document.source_id is None else session.get(SourceRow, document.source_id)
        return {
            "kept_in_versions": [
                version.id for version in holding(session, row.project_id, [row.digest]) if version.id not in mine
            ],
            "kept_by_source": None if source is None else {"id": source.id, "kind": source.kind},
        }

    def _report(
        self, row: ForgettingRow, after: dict[str, Any], finished_at: str, kept: Sequence[str], elsewhere: dict[str, Any]
    ) -> dict[str, Any]:
        """What is signed. Sentences and the name are told by their digests alone."""
        counts = {name: value for name, value in row.counts.items() if name not in _UNTOLD}
        return {
            "object": KIND,
            "form": 1,
            "id": row.id,
            "project_id": row.project_id,
            "space_id": row.space_id,
            "document": {"id": row.document_id, "digest": row.digest, "name_sha256": row.before.get("name_sha256")},
            "asked_by": row.key_id,
            "asked_at": _iso(row.created_at),
            "removed_at": None if row.removed_at is None else _iso(row.removed_at),
            "finished_at": finished_at,
            "removed": counts,
            "models": row.counts.get("models", []),
            "stopped_runs": row.counts.get("runs", []),
            "sentences": [_hashed(each) for each in row.sentences],
            "before": {name: value for name, value in row.before.items() if name != "name_sha256"},
            "after": after,
            # The same bytes, put in by others or elsewhere: they stay theirs.
            "bytes_kept_for_others": bool(kept),
            **elsewhere,
            "holds": True,
        }

    def _delete(self, row: ForgettingRow) -> int:
        number = 0
        needed = self._referenced(row.digests)
        age = max(0.0, time.time() - float(row.counts["removed_unix"]))
        for digest in row.digests:
            if digest in needed:
                continue
            # The document's own bytes may have been stored again by somebody who is about to use them.
            number += self.blobs.delete(digest, unless_younger_than_s=age if digest == row.digest else None)
        return number

    def _drop_kept(self, row: ForgettingRow) -> int:
        """Delete what is kept of answers and holds something of it; how much that was."""
        # Looked for before the transaction: others write meanwhile.
        with self._db.reading() as session:
            kept = keeping.find(session, row.project_id, self._names(session, row), row.sentences)
        if kept:
            with self._db.transaction() as session:
                keeping.drop(session, row.project_id, kept)
        return len(kept)

    def _names(self, session: Session, row: ForgettingRow) -> Sequence[str]:
        if "names" in row.counts:
            return [str(each) for each in row.counts["names"]]
        document = session.get(DocumentRow, row.document_id)
        return [row.document_id, *([document.file_id] if document is not None and document.file_id else [])]

    def _measured_on(self, row: ForgettingRow) -> list[str]:
        return [each["old"] for each in row.counts.get("samples", ())]

    def _made(self, session: Session, owner: SpaceRow) -> list[_Made]:
        """Everything that the space has, or had, in the catalog but its models, oldest first within a name."""
        found = []
        prefix = f"{owner.catalog_name}/"
        for kind in dict.fromkeys(kind for kind, _ in _MADE):
            names = [prefix + noun for each, noun in _MADE if each == kind]
            for name, row in called(session, owner.project_id, kind, names):
                found.append(_Made(kind, name.removeprefix(prefix), row))
        return found

    def _living(self, session: Session, owner: SpaceRow) -> list[_Made]:
        return [each for each in self._made(session, owner) if each.row.state == "ready"]

    def _read(self, file: File) -> bytes:
        return b"".join(self.blobs.iter(file.digest))

    def _is_active(self, session: Session, project_id: str, run_id: str) -> bool:
        return self._jobs.get(session, project_id, run_id).state in ACTIVE

    def _fail(self, row: ForgettingRow, error: ModelworksError) -> None:
        with self._db.transaction() as session:
            found = self.spaces.forgettings.at(session, row.id, row.step)
            if found is not None:
                self.spaces.forgettings.fail(session, *found, error.to_wire())


def _built(row: SpaceRow | SpaceBuildRow) -> set[str | None]:
    """The versions that a space answers from, or that a build has made so far."""
    return {row.documents_version_id, row.passages_version_id, row.clean_version_id, row.index_version_id}


def _root(version: VersionRow) -> str:
    """The set of samples that one was rewritten from at first, or itself."""
    return str(version.extra.get("rewritten_from", version.id))


def _has_file_of(version: VersionRow, document_id: str) -> bool:
    return any(file["path"] == f"{document_id}.jsonl" for file in version.files)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _number(found: Any) -> int:
    """What a probe found, as a number."""
    return int(found["found"] if isinstance(found, dict) else found)
