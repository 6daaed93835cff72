"""Models and data sets: immutable versions, moving aliases, lineage. Every query filters by project."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, event, or_, select, update
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidData, InvalidRequest, NotFound
from modelworks.contract.media import File
from modelworks.contract.run import Level, LocalDataset, LocalModel
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database, insert_into
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import Prefix, new_id
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import finding, lineage, manifest, references
from modelworks.kernel.catalog.checkpoint import BlobFile, Limits, check_contents, check_folder
from modelworks.kernel.catalog.evaluations import Evaluations
from modelworks.kernel.catalog.gate import QualityGate
from modelworks.kernel.catalog.schemas import (
    AliasMove,
    Artifact,
    ArtifactDetail,
    Direction,
    FamilyTree,
    LineageGraph,
    Page,
    Relation,
    Removal,
    Restrictions,
    SourceInfo,
    Version,
)
from modelworks.kernel.catalog.sources import SourcePolicy, open_source
from modelworks.kernel.catalog.store import AliasMoveRow, AliasRow, ArtifactRow, VersionBlobRow, VersionRow
from modelworks.kernel.storage import BlobStore

#: Asked before a removal: sentences that say who still needs one of these versions. Other rooms register theirs.
Guard = Callable[[Session, str, Collection[str]], Sequence[str]]

_PREFIXES: Mapping[str, Prefix] = {"model": "mdl", "dataset": "ds"}
_CHUNK = 400


class CatalogService:
    """The room's door. Methods with a `session` take part in the caller's transaction."""

    def __init__(self, db: Database, blobs: BlobStore, clock: Clock, events: Events, settings: Settings) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._events = events
        self._settings = settings
        self._guards: builtins.list[Guard] = []
        #: What runs measured, and comparisons of it.
        self.evaluations = Evaluations(self, blobs, clock)
        #: Promotions that must be earned.
        self.gate = QualityGate(self, db, clock, events)

    # -- reading ---------------------------------------------------------------------------------------------------------

    def resolve(self, session: Session, project_id: str, ref: str, kind: str | None = "model") -> Version:
        """The version that a reference means; a plain name means its alias `default` if set, else the newest version.

        Raises:
            ModelNotFound: there is none (NotFound for other kinds); the hint names near ones.
            InvalidRequest: the reference is malformed.
        """
        row = finding.row_of(session, project_id, ref, kind)
        return finding.versions_of(session, [row])[0]

    def usable(self, session: Session, project_id: str, ref: str, kind: str | None = "model") -> Version:
        """`resolve` for who is about to use it; PermissionDenied where a model's licence forbids what the project declares."""
        version = self.resolve(session, project_id, ref, kind)
        if version.kind == "model":
            lineage.refuse_other_use(session, project_id, version.id, ref)
        return version

    def get_version(self, session: Session, project_id: str, version_id: str) -> Version:
        """A version by its id, a removed one too (state `removed`).

        Raises:
            NotFound: there is none in this project.
        """
        row = session.scalar(select(VersionRow).where(VersionRow.id == version_id, VersionRow.project_id == project_id))
        if row is None:
            raise NotFound(f"There is no version {version_id!r}.", hint="List versions with: modelworks show NAME.")
        return finding.versions_of(session, [row])[0]

    def list(
        self,
        session: Session,
        project_id: str,
        kind: str | None = "model",
        search: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Artifact]:
        """Names with at least one version, by name.

        Args:
            search: words that must all occur in name, card, task, licence or source; case does not matter.
            after: id of the last artifact of the page before.
        """
        return finding.page(session, project_id, kind, search, after, limit)

    def describe(self, session: Session, project_id: str, ref: str, kind: str | None = "model") -> ArtifactDetail:
        """The version that a reference means, with the licences it inherits and its sister versions."""
        row = finding.row_of(session, project_id, ref, kind)
        living = finding.living(session, row.artifact_id)
        return ArtifactDetail(
            version=finding.versions_of(session, [row])[0],
            restrictions=lineage.restrictions(session, project_id, row.id),
            versions=finding.summaries_of(session, living),
            aliases=finding.aliases_of(session, row.artifact_id),
        )

    def restrictions(self, session: Session, project_id: str, ref: str, kind: str | None = "model") -> Restrictions:
        """The licences that bind a version: its own, its parents' and its data sets'."""
        return lineage.restrictions(session, project_id, finding.row_of(session, project_id, ref, kind).id)

    # -- registering -----------------------------------------------------------------------------------------------------

    def verify(self, files: Sequence[File], kind: str = "model") -> None:
        """Check that every blob is there with its size and that the content is safe and whole.

        Needs no transaction: call it before one is opened, then `register(..., verified=True)`.

        Raises:
            NotFound: a blob is missing. InvalidRequest: a size is wrong. UnsafeArtifact, InvalidData: see `checkpoint`.
        """
        manifest.check_paths([file.path for file in files])
        sizes: dict[str, int] = {}
        for file in files:
            if file.digest not in sizes:
                try:
                    sizes[file.digest] = self._blobs.stat(file.digest).num_bytes
                except NotFound:
                    raise NotFound(
                        f"The blob {file.digest} of {file.path!r} is not stored.",
                        hint="Upload it first with PUT /api/blobs.",
                        param="files",
                        code="blob_not_found",
                    ) from None
            if sizes[file.digest] != file.num_bytes:
                raise InvalidRequest(
                    f"The file {file.path!r} is said to have {file.num_bytes} bytes, its blob has {sizes[file.digest]}.",
                    param="files",
                )
        limits = Limits(max_bytes=max(Limits().max_bytes, self._settings.max_blob_bytes))
        check_contents([BlobFile.of(file, self._blobs) for file in files], kind=kind, limits=limits)

    def register(
        self,
        session: Session,
        project_id: str,
        *,
        kind: str,
        name: str,
        files: Sequence[File],
        task: str | None = None,
        level: Level | None = None,
        licence: str | None = None,
        source: str | None = None,
        card: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        created_by_run: str | None = None,
        parents: Sequence[str] = (),
        inputs: Sequence[tuple[str, str]] = (),
        verified: bool = False,
    ) -> Version:
        """Make a version of files that lie in the storage.

        The same manifest from the same run, or imported from the same source, is the same version: it is returned as it is.

        Args:
            parents: ids of the versions it was made from. inputs: (version id, role) of everything else that was read.
            verified: `verify` was called for these files.

        Raises:
            InvalidRequest: a bad name, kind or path. NotFound: a parent, an input or a blob is not there.
            UnsafeArtifact, InvalidData: the content is refused.
        """
        references.check_name(name)
        _check_kind(kind)
        if not verified:
            self.verify(files, kind)
        for version_id in (*parents, *(each for each, _ in inputs)):
            self.get_version(session, project_id, version_id)
        now = self._clock.now()
        lineage.one_at_a_time(session, project_id)
        artifact = self._artifact(session, project_id, kind, name)
        digest = manifest.digest_of(files)
        row = self._known(session, artifact.id, digest, created_by_run, source)
        if row is None:
            artifact.last_number += 1
            row = VersionRow(
                id=new_id(_PREFIXES.get(kind, "art")),
                artifact_id=artifact.id,
                project_id=project_id,
                number=artifact.last_number,
                digest=digest,
                files=[file.model_dump() for file in sorted(files, key=lambda file: file.path)],
                num_files=len(files),
                num_bytes=sum(file.num_bytes for file in files),
                task=task,
                level=level,
                licence=licence,
                source=source,
                card=card,
                extra=dict(metadata or {}),
                metrics=_checked_metrics(metrics or {}),
                created_by_run=created_by_run,
                created_at=now,
                state="ready",
            )
            session.add(row)
            session.flush()
            session.add_all(VersionBlobRow(version_id=row.id, digest=each) for each in sorted({file.digest for file in files}))
            session.flush()
            self._announce(
                session, "version.created", project_id=project_id, kind=kind, name=name, version_id=row.id, number=row.number
            )
        subject = created_by_run or row.id
        for parent in dict.fromkeys(parents):
            lineage.record(session, project_id, row.id, "parent", parent, role=None, now=now)
        for version_id, role in inputs:
            lineage.record(session, project_id, subject, "used", version_id, role=role, now=now)
        if created_by_run is not None:
            lineage.record(session, project_id, created_by_run, "generated", row.id, role=None, now=now)
        return finding.versions_of(session, [row])[0]

    def store_folder(self, path: Path, kind: str = "model") -> builtins.list[File]:
        """Check a folder and put its files into the storage; the manifest to register. Needs no transaction.

        Raises:
            UnsafeArtifact, InvalidData, InvalidRequest: the folder is refused, and nothing was stored.
        """
        made = []
        for file in check_folder(path, kind=kind):
            info = self._blobs.put_file(file.place)
            made.append(File(path=file.path, digest=info.digest, num_bytes=info.num_bytes))
        return made

    def register_folder(self, session: Session, project_id: str, *, kind: str, name: str, path: Path, **known: Any) -> Version:
        """`store_folder` and `register` in one; for large folders call the two, so that no transaction is open meanwhile."""
        files = self.store_folder(path, kind)
        return self.register(session, project_id, kind=kind, name=name, files=files, verified=True, **known)

    def add_metrics(self, session: Session, project_id: str, version_id: str, metrics: Mapping[str, float]) -> Version:
        """Note what an evaluation measured; a metric of the same name is replaced.

        Raises:
            NotFound: no such version. InvalidData: a value is not a finite number.
        """
        self.get_version(session, project_id, version_id)
        row = session.get_one(VersionRow, version_id, with_for_update=True)
        row.metrics = {**row.metrics, **_checked_metrics(metrics)}
        session.flush()
        return finding.versions_of(session, [row])[0]

    # -- aliases ---------------------------------------------------------------------------------------------------------

    def set_alias(
        self,
        session: Session,
        project_id: str,
        ref: str,
        alias: str,
        *,
        kind: str = "model",
        moved_by: str | None = None,
        reason: str | None = None,
    ) -> Version:
        """Let `alias` of the reference's name point to the version that the reference means.

        Args:
            reason: why it is moved against the quality gate; kept with the move.

        Raises:
            InvalidRequest: the alias is reserved or malformed. NotFound: no such version.
        """
        references.check_alias(alias)
        row = finding.row_of(session, project_id, ref, kind)
        self._move(session, row.artifact_id, project_id, alias, row.id, moved_by, reason)
        return finding.versions_of(session, [row])[0]

    def remove_alias(
        self, session: Session, project_id: str, ref: str, alias: str, *, kind: str = "model", moved_by: str | None = None
    ) -> None:
        """Take an alias away; its history stays.

        Raises:
            NotFound: the name has no such alias.
        """
        artifact_id = finding.row_of(session, project_id, ref, kind).artifact_id
        if session.get(AliasRow, (artifact_id, alias)) is None:
            raise NotFound(f"{ref!r} has no alias {alias!r}.", code="alias_not_found", param="alias")
        self._move(session, artifact_id, project_id, alias, None, moved_by)

    def roll_back_alias(
        self, session: Session, project_id: str, ref: str, alias: str, *, kind: str = "model", moved_by: str | None = None
    ) -> Version:
        """Undo the last move of an alias. Done twice, it is where it was.

        Raises:
            Conflict: it was never moved, or the version before is removed (code `nothing_to_roll_back`).
        """
        artifact_id = finding.row_of(session, project_id, ref, kind).artifact_id
        history = self._moves(session, project_id, artifact_id, alias)
        before = session.get(VersionRow, history[0].from_version_id) if history and history[0].from_version_id else None
        if before is None or before.state != "ready":
            raise Conflict(
                f"The alias {alias!r} of {ref!r} has no earlier version to go back to.",
                hint="Move it to a version by name.",
                code="nothing_to_roll_back",
            )
        self._move(session, artifact_id, project_id, alias, before.id, moved_by)
        return finding.versions_of(session, [before])[0]

    def alias_history(
        self, session: Session, project_id: str, ref: str, alias: str | None = None, *, kind: str = "model"
    ) -> builtins.list[AliasMove]:
        """Who moved an alias from where to where, newest first."""
        artifact_id = finding.row_of(session, project_id, ref, kind).artifact_id
        moves = self._moves(session, project_id, artifact_id, alias)
        numbers = dict(
            session.execute(select(VersionRow.id, VersionRow.number).where(VersionRow.artifact_id == artifact_id))
            .tuples()
            .all()
        )
        return [
            AliasMove(
                alias=move.name,
                from_number=numbers.get(move.from_version_id or ""),
                to_number=numbers.get(move.to_version_id or ""),
                from_version_id=move.from_version_id,
                to_version_id=move.to_version_id,
                moved_at=move.moved_at,
                moved_by=move.moved_by,
                reason=move.reason,
            )
            for move in moves
        ]

    # -- removing --------------------------------------------------------------------------------------------------------

    def add_guard(self, guard: Guard) -> None:
        """Let another room object to removals (serving: "deployment chat serves it")."""
        self._guards.append(guard)

    def remove(
        self,
        session: Session,
        project_id: str,
        ref: str,
        kind: str = "model",
        dry_run: bool = False,
        *,
        force: bool = False,
        moved_by: str | None = None,
    ) -> Removal:
        """Remove a version, or every version of a plain name. Blobs stay until the garbage collection finds them unused.

        Raises:
            Conflict: a deployment or a version made from it needs it, unless `force` (code `in_use`).
        """
        target = finding.row_of(session, project_id, ref, kind)
        rows = finding.living(session, target.artifact_id) if references.parse(ref).is_whole_name else [target]
        ids = [row.id for row in rows]
        blocked = [sentence for guard in self._guards for sentence in guard(session, project_id, ids)]
        blocked += self._children(session, project_id, ids)
        pointing = session.scalars(
            select(AliasRow).where(AliasRow.artifact_id == target.artifact_id, AliasRow.version_id.in_(ids))
        ).all()
        removal = Removal(
            dry_run=dry_run,
            versions=finding.summaries_of(session, rows),
            aliases=sorted(row.name for row in pointing),
            num_bytes=sum(row.num_bytes for row in rows),
            blocked_by=blocked,
        )
        if dry_run:
            return removal
        if blocked and not force:
            raise Conflict(
                f"{ref!r} is in use: {'; '.join(blocked)}.",
                hint="Remove what uses it first, or force the removal.",
                code="in_use",
            )
        for name in removal.aliases:
            self._move(session, target.artifact_id, project_id, name, None, moved_by)
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            session.execute(delete(VersionBlobRow).where(VersionBlobRow.version_id.in_(chunk)))
            session.execute(update(VersionRow).where(VersionRow.id.in_(chunk)).values(state="removed"))
        for row in rows:
            self._announce(session, "version.removed", project_id=project_id, kind=kind, version_id=row.id)
        return removal

    # -- lineage ---------------------------------------------------------------------------------------------------------

    def record_edge(
        self, session: Session, project_id: str, subject_id: str, relation: Relation, object_id: str, role: str | None = None
    ) -> None:
        """Record `subject relation object`; again is no change. Raises Conflict when it would close a cycle."""
        lineage.record(session, project_id, subject_id, relation, object_id, role=role, now=self._clock.now())

    def lineage(
        self, session: Session, project_id: str, version_or_run_id: str, direction: Direction = "both", depth: int = 8
    ) -> LineageGraph:
        """Where a version or run comes from (up) and what was made from it (down).

        Raises:
            NotFound: nothing is recorded under this id in this project.
        """
        found = lineage.graph(session, project_id, version_or_run_id, direction, max(1, depth))
        if not found.edges and found.nodes[0].name is None:
            raise NotFound(f"Nothing is recorded about {version_or_run_id!r}.", hint="Give the id of a version or of a run.")
        return found

    def tree(self, session: Session, project_id: str, ref: str, kind: str | None = "model") -> FamilyTree:
        """The family of a version: levels, licences, metrics, data sets, deployments."""
        return lineage.tree(session, project_id, finding.row_of(session, project_id, ref, kind).id)

    # -- files -----------------------------------------------------------------------------------------------------------

    def materialise(self, version: Version, cache_dir: Path) -> Path:
        """The version as a read-only, verified folder under `cache_dir`, shared by its digest."""
        return manifest.materialise(self._blobs, version.files, version.digest, cache_dir)

    def local_model(self, version: Version, path: Path) -> LocalModel:
        """What a predictor or a run gets to see of a model."""
        return LocalModel(
            ref=version.ref,
            version_id=version.id,
            path=path,
            digest=version.digest,
            task=version.task,
            level=version.level,
            licence=version.licence,
            metadata=version.metadata,
        )

    def local_dataset(self, version: Version, path: Path) -> LocalDataset:
        """What a run gets to see of a data set."""
        return LocalDataset(
            ref=version.ref,
            version_id=version.id,
            path=path,
            digest=version.digest,
            licence=version.licence,
            metadata=version.metadata,
        )

    def referenced(self, digests: Collection[str]) -> set[str]:
        """Those of the blobs that a living version of any project refers to: the garbage collection's question."""
        wanted = sorted(digests)
        found: set[str] = set()
        with self._db.reading() as session:
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                found.update(session.scalars(select(VersionBlobRow.digest).where(VersionBlobRow.digest.in_(chunk))))
        return found

    # -- sources ---------------------------------------------------------------------------------------------------------

    def describe_source(self, uri: str, *, revision: str | None = None, kind: str = "model") -> SourceInfo:
        """Licence, size and files of a source, before anything is fetched. Reaches out to the network.

        Raises:
            InvalidRequest: an unknown kind of source. NotFound: it is not there. UpstreamFailed: it does not answer.
            PermissionDenied: the settings forbid it. MissingExtra: its client library is not installed.
        """
        return open_source(uri, kind=kind, revision=revision, policy=SourcePolicy.of(self._settings)).describe()

    def check_source_rights(self, uri: str, *, is_operator: bool) -> None:
        """Refuse to read this machine's files for somebody who may not; see `SourcePolicy.check_rights`."""
        SourcePolicy.of(self._settings).check_rights(uri, is_operator=is_operator)

    def check_source(self, uri: str) -> None:
        """Refuse a source that could never be pulled, without reaching out; see `describe_source` for what is raised."""
        open_source(uri, kind="model", revision=None, policy=SourcePolicy.of(self._settings))

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _artifact(self, session: Session, project_id: str, kind: str, name: str) -> ArtifactRow:
        """The artifact's row, made where missing, locked until the transaction ends."""
        values = {
            "id": new_id("art"),
            "project_id": project_id,
            "kind": kind,
            "name": name,
            "last_number": 0,
            "created_at": self._clock.now(),
        }
        session.execute(insert_into(ArtifactRow, session.get_bind().dialect.name).values(values).on_conflict_do_nothing())
        query = select(ArtifactRow).where(
            ArtifactRow.project_id == project_id, ArtifactRow.kind == kind, ArtifactRow.name == name
        )
        return session.scalars(query.with_for_update().execution_options(populate_existing=True)).one()

    def _known(
        self, session: Session, artifact_id: str, digest: str, created_by_run: str | None, source: str | None
    ) -> VersionRow | None:
        same_origin = VersionRow.created_by_run.is_not_distinct_from(created_by_run)
        if source is not None:
            same_origin = or_(same_origin, VersionRow.source == source)
        query = select(VersionRow).where(
            VersionRow.artifact_id == artifact_id, VersionRow.digest == digest, VersionRow.state == "ready", same_origin
        )
        return session.scalar(query.order_by(VersionRow.number.desc()).limit(1))

    def _children(self, session: Session, project_id: str, ids: Sequence[str]) -> builtins.list[str]:
        edges = lineage.edges_of(session, project_id, objects=ids)
        children = {edge.subject_id for edge in edges if edge.relation == "parent"} - set(ids)
        found = lineage.nodes(session, project_id, children).values()
        return sorted(f"{node.name}@v{node.number} was made from it" for node in found if node.state == "ready")

    def _move(
        self,
        session: Session,
        artifact_id: str,
        project_id: str,
        alias: str,
        to_id: str | None,
        moved_by: str | None,
        reason: str | None = None,
    ) -> None:
        artifact = session.get_one(ArtifactRow, artifact_id, with_for_update=True)
        row = session.get(AliasRow, (artifact_id, alias))
        from_id = row.version_id if row is not None else None
        if from_id == to_id:
            return
        now = self._clock.now()
        if to_id is None:
            session.delete(row)
        elif row is None:
            session.add(AliasRow(artifact_id=artifact_id, name=alias, project_id=project_id, version_id=to_id, moved_at=now))
        else:
            row.version_id = to_id
            row.moved_at = now
        session.add(
            AliasMoveRow(
                project_id=project_id,
                artifact_id=artifact_id,
                name=alias,
                from_version_id=from_id,
                to_version_id=to_id,
                moved_by=moved_by,
                moved_at=now,
                reason=reason,
            )
        )
        session.flush()
        self._announce(
            session, "alias.moved", project_id=project_id, kind=artifact.kind, name=artifact.name, alias=alias, version_id=to_id
        )

    def _moves(self, session: Session, project_id: str, artifact_id: str, alias: str | None) -> builtins.list[AliasMoveRow]:
        query = select(AliasMoveRow).where(AliasMoveRow.project_id == project_id, AliasMoveRow.artifact_id == artifact_id)
        if alias is not None:
            query = query.where(AliasMoveRow.name == alias)
        return [*session.scalars(query.order_by(AliasMoveRow.id.desc()))]

    def _announce(self, session: Session, topic: str, **payload: Any) -> None:
        # Consumers read the database when they hear of it: they must not hear before the commit.
        event.listen(session, "after_commit", lambda _session: self._events.publish(topic, **payload), once=True)


def _checked_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value != value
            or value in (float("inf"), -float("inf"))
        ):
            raise InvalidData(f"The metric {name!r} is {value!r}, not a finite number.", param=f"metrics.{name}")
    return {name: float(value) for name, value in metrics.items()}


def _check_kind(kind: str) -> None:
    if not kind.isascii() or not kind.replace("-", "").isalnum() or not kind.islower() or len(kind) > 64:
        raise InvalidRequest(
            f"{kind[:80]!r} is not a kind.", hint="A kind is a lower-case noun: model, dataset, report …", param="kind"
        )
