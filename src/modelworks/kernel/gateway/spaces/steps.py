"""How spaces follow their documents: a data set of them, a run that parses, one that cleans where a rule may find something,
one that indexes, a deployment that answers.

Where each build stands is in the database: after a crash of the server the next one goes on where this one stopped. Documents
that change meanwhile are the next build's, and what answered before goes on answering until the new index does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, ModelworksError, NotFound
from modelworks.contract.media import File
from modelworks.contract.passages import DOCUMENTS_FILE, ParsedDocument
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.polling import Follower
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.finding import unused
from modelworks.kernel.catalog.manifest import discard
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.learning import settings_of
from modelworks.kernel.dataspace.service import TOPIC
from modelworks.kernel.dataspace.store import SpaceBuildRow, SpaceRow
from modelworks.kernel.gateway.spaces.advancing import AWAY
from modelworks.kernel.gateway.spaces.cleaning import PARSING, SpaceCleaning
from modelworks.kernel.gateway.spaces.learning import LIVE, SpaceLearning
from modelworks.kernel.gateway.spaces.tables import SpaceTables
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.jobs.schemas import ACTIVE, JobSpec, RunRecord
from modelworks.kernel.serving.schemas import Deployment, DeploymentSpec
from modelworks.kernel.serving.service import ServingService
from modelworks.kernel.storage import BlobStore

log = structlog.get_logger(__name__)

RETRIEVAL: Final = "passage-retrieval"
#: What builds make of a space in the catalog, by kind.
NOUNS: Final = (("dataset", "documents"), ("dataset", "passages"), ("dataset", "clean"), ("model", "index"))

_BUSY_POLL_S, _IDLE_POLL_S = 0.5, 5.0
#: Where runs and deployments that a build waits for are announced.
_AWAITED: Final = {"run.changed": "run_id", "deployment.changed": "name"}


class SpaceSteps(Follower):
    """One thread; `tick` is one look at every space that has something to do, and may be called by hand instead.

    What a space learns is followed beside it, by `learning` in a thread of its own, and so are its `tables`.

    Args:
        cache: this machine's folder of materialised versions.
    """

    def __init__(
        self,
        spaces: DataspaceService,
        jobs: JobsService,
        catalog: CatalogService,
        serving: ServingService,
        blobs: BlobStore,
        events: Events,
        cache: Path,
    ) -> None:
        super().__init__(events, name="data-spaces", topic=TOPIC, busy_s=_BUSY_POLL_S, idle_s=_IDLE_POLL_S, awaited=_AWAITED)
        self._spaces = spaces
        self._jobs = jobs
        self._catalog = catalog
        self._serving = serving
        self._blobs = blobs
        self._db = spaces.db
        self._cache = cache
        #: Digests of versions that were removed, whose folders in the cache are to go, too.
        self._removed: set[str] = set()
        self.cleaning = SpaceCleaning(spaces, jobs, catalog, blobs)
        self.learning = SpaceLearning(spaces, jobs, catalog, serving, events)
        self.tables = SpaceTables(spaces, blobs, cache.parent / "tables")

    def start(self) -> None:
        """Begin in threads of their own."""
        super().start()
        self.learning.start()
        self.tables.start(self._events)

    def stop(self) -> None:
        """End the threads after their current step."""
        self.learning.stop()
        super().stop()
        self.tables.close()

    def tick(self) -> bool:
        """Look at every space that has something to do once; returns whether there is one."""
        with self._db.reading() as session:
            due = self._spaces.builds.due(session)
        awaited: set[str] = set()
        for space_id in due:
            try:
                awaited |= self.advance(space_id)
            except Exception:
                # One space must not hold up the others.
                log.exception("a data space could not go on", space_id=space_id)
        self._awaited = frozenset(awaited)
        self._discard()
        return bool(due)

    def advance(self, space_id: str) -> set[str]:
        """Let one space go on as far as it can now; returns the run or the deployment that it waits for."""
        with self._db.transaction() as session:
            row = self._spaces.builds.locked(session, space_id)
            if row is None:
                return set()
            if row.deleted_at is not None:
                self._clear(session, row)
                return set()
            if self._spaces.is_over(row):
                self._rest(session, row)
                return set()
            self._spaces.documents.expire(session, row)
            build = self._spaces.builds.running(session, space_id)
            if build is None:
                if not self._spaces.builds.is_time(row) or self._spaces.forgettings.is_probing(session, space_id):
                    return set()
                build = self._spaces.builds.begin(session, row)
        return self._go_on(row, build)

    def _go_on(self, row: SpaceRow, build: SpaceBuildRow) -> set[str]:
        try:
            if build.step == "documents":
                self._hand_over(row, build)
            elif build.step == "parsing":
                self._follow_parsing(row, build)
            elif build.step == "cleaning":
                self._follow_cleaning(row, build)
            elif build.step == "indexing":
                self._follow_indexing(row, build)
            else:
                self._follow_deployment(row, build)
        except ModelworksError as error:
            if error.status >= AWAY:
                raise  # later
            self._fail(build, error.to_wire())
        with self._db.reading() as session:
            current = self._spaces.builds.running(session, row.id)
        if current is None:
            return set()
        if current.step != build.step:
            return self._go_on(row, current)
        awaited = (current.parsing_run_id, current.cleaning_run_id, current.indexing_run_id, row.catalog_name)
        return {name for name in awaited if name is not None}

    # -- documents -------------------------------------------------------------------------------------------------------

    def _hand_over(self, row: SpaceRow, build: SpaceBuildRow) -> None:
        with self._db.reading() as session:
            handed = [*self._spaces.builds.handed_over(session, row.id)]
        if not handed:
            self._finish(row, build, [])
            return
        # Written before the transaction: the storage may take its time.
        lines = b"".join(document.model_dump_json(exclude_none=True).encode() + b"\n" for document in handed)
        listing = self._blobs.put(lines)
        files = [File(path=DOCUMENTS_FILE, digest=listing.digest, num_bytes=listing.num_bytes)]
        files += [File(path=each.path, digest=each.digest, num_bytes=each.num_bytes) for each in handed]
        licences = {each.licence for each in handed}
        with self._db.transaction() as session:
            found = self._at(session, build, "documents")
            if found is None:
                return
            row, build = found
            # The bytes are anybody's and stay so: what parses them trusts none. They were stored when they came.
            made = self._catalog.register(
                session,
                row.project_id,
                kind="dataset",
                name=f"{row.catalog_name}/documents",
                files=files,
                licence=licences.pop() if len(licences) == 1 else None,
                source=f"space:{row.id}",
                metadata={"space_id": row.id, "num_documents": len(handed)},
                verified=True,
            )
            build.documents_version_id = made.id
            build.counts = {"num_documents": len(handed)}
            inputs = {"documents": f"dataset:{made.id}"}
            if (previous := self._living(session, row, row.passages_version_id)) is not None:
                inputs["previous"] = f"dataset:{previous.id}"
            spec = JobSpec(
                verb="batch",
                task=PARSING,
                inputs=inputs,
                params=row.settings["parsing"],
                output_name=f"{row.catalog_name}/passages",
            )
            build.parsing_run_id = self._jobs.submit(session, row.project_id, row.key_id, spec).id
            build.step = "parsing"
            self._spaces.builds.mark_parsing(session, row, {each.id for each in handed})
            self._spaces.tell(
                session, row, f"{len(handed)} documents are read.", data={"build_id": build.id, "run_id": build.parsing_run_id}
            )

    # -- passages --------------------------------------------------------------------------------------------------------

    def _follow_parsing(self, row: SpaceRow, build: SpaceBuildRow) -> None:
        run = self._ended(build, build.parsing_run_id)
        if run is None:
            return
        with self._db.reading() as session:
            passages = self._output(session, run, "dataset")
        parsed = self._parsed(passages)
        num_passages = sum(each.num_passages for each in parsed)
        states = [each.state for each in parsed]
        with self._db.transaction() as session:
            found = self._at(session, build, "parsing")
            if found is None:
                return
            row, build = found
            build.passages_version_id = passages.id
            build.counts = {
                **build.counts,
                "num_passages": num_passages,
                "num_partial": states.count("partial"),
                "num_failed": states.count("failed"),
            }
            self._spaces.builds.mark_parsed(session, row, parsed)
            for each in parsed:
                if each.state == "failed":
                    why = each.faults[0].message if each.faults else "It gave no reason."
                    data = {"document_id": each.id, "code": each.faults[0].code if each.faults else None}
                    self._spaces.tell(session, row, f"{each.name} could not be read: {why}", level="warn", data=data)
            if num_passages and settings_of(row).cleaning.has_work(copies=any(each.num_copies for each in parsed)):
                self._clean(session, row, build)
            elif num_passages:
                self._index(session, row, build)
        if not num_passages:
            self._finish(row, build, parsed)

    # -- cleaning --------------------------------------------------------------------------------------------------------

    def _clean(self, session: Session, row: SpaceRow, build: SpaceBuildRow) -> None:
        # Always from what was parsed: a rule that was switched off brings back what it took.
        spec = self.cleaning.spec(str(build.passages_version_id), settings_of(row).cleaning)
        spec = spec.model_copy(update={"output_name": f"{row.catalog_name}/clean"})
        build.cleaning_run_id = self._jobs.submit(session, row.project_id, row.key_id, spec).id
        build.step = "cleaning"
        told = {"build_id": build.id, "run_id": build.cleaning_run_id}
        self._spaces.tell(session, row, f"{build.counts['num_passages']} passages are cleaned.", data=told)

    def _follow_cleaning(self, row: SpaceRow, build: SpaceBuildRow) -> None:
        run = self._ended(build, build.cleaning_run_id)
        if run is None:
            return
        with self._db.reading() as session:
            clean = self._output(session, run, "dataset")
        left = self._parsed(clean)
        num_passages = sum(each.num_passages for each in left)
        with self._db.transaction() as session:
            found = self._at(session, build, "cleaning")
            if found is None:
                return
            row, build = found
            build.clean_version_id = clean.id
            report = run.result or {}
            effects = {"dropped": report.get("removed") or {}, "changed": report.get("changed") or {}}
            build.counts = {**build.counts, "num_passages": num_passages, **effects}
            told = [f"{count} by the rule {rule}" for rule, count in effects["dropped"].items()]
            said = f"Cleaning took away {', '.join(told)}." if told else "Cleaning took no passage away."
            self._spaces.tell(session, row, said, data={"build_id": build.id, "run_id": run.id, **effects})
            if num_passages:
                self._index(session, row, build)
        if not num_passages:
            self._finish(row, build, left)

    def _index(self, session: Session, row: SpaceRow, build: SpaceBuildRow) -> None:
        inputs = {"passages": f"dataset:{build.clean_version_id or build.passages_version_id}"}
        if (previous := self._living(session, row, row.index_version_id)) is not None:
            inputs["previous"] = f"model:{previous.id}"
        if (encoder := row.settings["encoder"]) is not None:
            inputs["encoder"] = f"deployment:{encoder}"
        spec = JobSpec(
            verb="train",
            task=RETRIEVAL,
            inputs=inputs,
            params=row.settings["index"],
            output_name=f"{row.catalog_name}/index",
        )
        build.indexing_run_id = self._jobs.submit(session, row.project_id, row.key_id, spec).id
        build.step = "indexing"
        told = {"build_id": build.id, "run_id": build.indexing_run_id}
        self._spaces.tell(session, row, f"{build.counts['num_passages']} passages are indexed.", data=told)

    # -- the index -------------------------------------------------------------------------------------------------------

    def _follow_indexing(self, row: SpaceRow, build: SpaceBuildRow) -> None:
        run = self._ended(build, build.indexing_run_id)
        if run is None:
            return
        with self._db.transaction() as session:
            found = self._at(session, build, "indexing")
            if found is None:
                return
            row, build = found
            index = self._output(session, run, "model")
            build.index_version_id = index.id
            build.step = "deploying"
            self._deploy(session, row, index)

    def _deploy(self, session: Session, row: SpaceRow, index: Version) -> None:
        """Let an index answer: the deployment follows the alias, and goes on with the old one until the new one is ready."""
        self._catalog.set_alias(session, row.project_id, index.id, LIVE)
        spec = DeploymentSpec(name=row.catalog_name, model=f"{index.name}@{LIVE}", task=RETRIEVAL)
        with suppress(NotFound):
            # Replicas, options and resources that somebody chose stay.
            known = self._serving.get(session, row.project_id, row.catalog_name)
            chosen = {"options": known.options, "num_replicas": known.num_replicas, "resources": known.resources}
            spec = spec.model_copy(update=chosen)
        self._serving.apply(session, row.project_id, spec)

    def _follow_deployment(self, row: SpaceRow, build: SpaceBuildRow) -> None:
        with self._db.reading() as session:
            try:
                deployed = self._serving.get(session, row.project_id, row.catalog_name)
            except NotFound:
                deployed = None
            indexed = str(build.clean_version_id or build.passages_version_id)
            passages = self._catalog.get_version(session, row.project_id, indexed)
        if deployed is not None and deployed.version_id == build.index_version_id and deployed.desired == "running":
            self._finish(row, build, self._parsed(passages))
            return
        reason = _why_not(deployed, build)
        if reason is not None:
            self._fail(build, reason)

    # -- ends ------------------------------------------------------------------------------------------------------------

    def _finish(self, row: SpaceRow, build: SpaceBuildRow, parsed: Sequence[ParsedDocument]) -> None:
        with self._db.transaction() as session:
            found = self._at(session, build, build.step)
            if found is None:
                return
            row, build = found
            if build.index_version_id is None:
                # Nothing is left to be searched.
                self._undeploy(session, row)
            kept = {
                build.documents_version_id,
                build.passages_version_id,
                build.clean_version_id,
                build.index_version_id,
            }
            self._spaces.builds.finish(session, row, build, parsed)
            # What was deleted must not lie in old versions, and each build would leave three of them.
            self._tidy(session, row, kept)

    def _fail(self, build: SpaceBuildRow, error: Mapping[str, Any]) -> None:
        with self._db.transaction() as session:
            found = self._at(session, build, build.step)
            if found is None:
                return
            row, build = found
            if build.step == "deploying" and (old := self._living(session, row, row.index_version_id)) is not None:
                self._deploy(session, row, old)
            self._spaces.builds.fail(session, row, build, error)

    def _clear(self, session: Session, row: SpaceRow) -> None:
        """Take away what was made for a space that was deleted, then its row; comes back while a run is still ending."""
        self._undeploy(session, row)
        build = self._spaces.builds.running(session, row.id)
        if build is not None and self._is_stopping(session, build):
            return
        if not self.learning.clear(session, row, self._removed):
            return
        self._tidy(session, row, set())
        # What its sources brought and nobody took in.
        self._tidy(session, row, set(), nouns=(("dataset", "incoming"),))
        session.delete(row)

    def _rest(self, session: Session, row: SpaceRow) -> None:
        """A space whose time is over answers no more; its documents stay until it is deleted."""
        build = self._spaces.builds.running(session, row.id)
        if build is not None and self._is_stopping(session, build):
            return
        self._undeploy(session, row)
        self._spaces.builds.rest(session, row, build)
        self._tidy(session, row, set())

    def _is_stopping(self, session: Session, build: SpaceBuildRow) -> bool:
        active = False
        for run_id in (build.parsing_run_id, build.cleaning_run_id, build.indexing_run_id):
            if run_id is not None and self._jobs.get(session, build.project_id, run_id).state in ACTIVE:
                self._jobs.cancel(session, build.project_id, run_id)
                # One that waited is over now.
                active |= self._jobs.get(session, build.project_id, run_id).state in ACTIVE
        return active

    def _undeploy(self, session: Session, row: SpaceRow) -> None:
        with suppress(NotFound):
            self._serving.remove(session, row.project_id, row.catalog_name)

    def _tidy(
        self,
        session: Session,
        row: SpaceRow,
        kept: set[str | None],
        nouns: Sequence[tuple[str, str]] = NOUNS,
    ) -> None:
        """Remove the versions of a space but those; what a run still reads stays for the next time."""
        for kind, noun in nouns:
            name = f"{row.catalog_name}/{noun}"
            with suppress(NotFound):
                versions = self._catalog.describe(session, row.project_id, name, kind).versions
                for version in versions:
                    if version.id not in kept:
                        self._remove(session, row, version.id, kind)

    def _remove(self, session: Session, row: SpaceRow, version_id: str, kind: str) -> None:
        # That an index was made with the help of an older one does not need the older one.
        with suppress(Conflict, NotFound):
            version = self._catalog.get_version(session, row.project_id, version_id)
            is_read = self._jobs.is_read(session, row.project_id, version_id)
            self._catalog.remove(session, row.project_id, version_id, kind, force=kind == "model" and not is_read)
            self._removed.add(version.digest)

    def _discard(self) -> None:
        """Remove what machines keep of removed versions: deleted documents must not lie there."""
        if self._removed:
            with self._db.reading() as session:
                gone = unused(session, self._removed)
            for digest in gone:
                discard(self._cache / digest.removeprefix("sha256:"))
            self._removed.clear()

    # -- what steps look at ----------------------------------------------------------------------------------------------

    def _at(self, session: Session, build: SpaceBuildRow, step: str) -> tuple[SpaceRow, SpaceBuildRow] | None:
        """The space and the build, locked for a change; None where somebody else moved on meanwhile."""
        row = self._spaces.builds.locked(session, build.space_id)
        if row is None or row.deleted_at is not None:
            return None
        current = self._spaces.builds.running(session, row.id)
        return None if current is None or current.id != build.id or current.step != step else (row, current)

    def _ended(self, build: SpaceBuildRow, run_id: str | None) -> RunRecord | None:
        """The run of a step once it has succeeded; a build whose run has not ends with it."""
        with self._db.reading() as session:
            run = self._jobs.get(session, build.project_id, str(run_id))
        if run.state in ACTIVE:
            return None
        if run.state == "succeeded":
            return run
        reason = {"code": "run_cancelled", "message": f"The run {run.id} was cancelled."}
        self._fail(build, {**(run.error or reason), "run_id": run.id})
        return None

    def _output(self, session: Session, run: RunRecord, kind: str) -> Version:
        for output in reversed(run.outputs):
            if output.kind == kind:
                return self._catalog.get_version(session, run.project_id, output.version_id)
        raise NotFound(f"The run {run.id} has saved no {kind}.", hint="Its log says why.", code="no_output")

    def _living(self, session: Session, row: SpaceRow, version_id: str | None) -> Version | None:
        """A version of an earlier build, unless somebody removed it."""
        if version_id is None:
            return None
        with suppress(NotFound):
            version = self._catalog.get_version(session, row.project_id, version_id)
            return None if version.state == "removed" else version
        return None

    def _parsed(self, passages: Version) -> list[ParsedDocument]:
        listing = next((file for file in passages.files if file.path == DOCUMENTS_FILE), None)
        if listing is None:
            raise NotFound(f"{passages.ref} has no file {DOCUMENTS_FILE}.", hint="The parser must write it.", code="no_output")
        lines = b"".join(self._blobs.iter(listing.digest)).splitlines()
        return [ParsedDocument.model_validate_json(line) for line in lines if line.strip()]


def _why_not(deployed: Deployment | None, build: SpaceBuildRow) -> dict[str, Any] | None:
    """Why the index of a build will not answer; None while it may."""
    if deployed is None:
        return {"code": "not_deployed", "message": "The deployment of the index was removed.", "hint": "Build again."}
    if deployed.desired == "stopped":
        return {
            "code": "not_deployed",
            "message": "The deployment of the index is stopped.",
            "hint": "Deploy it, and build again.",
        }
    broken = [each for each in deployed.replicas if each.version_id == build.index_version_id and each.state == "failed"]
    if deployed.state == "failed" or broken:
        reason = next((each.last_error for each in broken if each.last_error), deployed.last_error)
        return {"code": "index_does_not_start", "message": f"The new index does not start: {reason or 'it gave no reason.'}"}
    return None
