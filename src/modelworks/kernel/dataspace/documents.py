"""The documents of a space: put in, changed, removed, listed; and which of them a search may see at this moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.contract.passages import MAX_DOCUMENTS, TABLE_ROWS, Fault
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.dataspace.filters import compiled
from modelworks.kernel.dataspace.pages import page_of, paged
from modelworks.kernel.dataspace.schemas import Change, Known, Scope, SpaceDocument, SpaceSettings
from modelworks.kernel.dataspace.sources.rows import MAX_TABLE_BYTES
from modelworks.kernel.dataspace.sources.source import GONE, forgotten_key
from modelworks.kernel.dataspace.store import DocumentRow, SourceRow, SpaceRow

if TYPE_CHECKING:
    from modelworks.kernel.dataspace.service import DataspaceService

#: Of the name of a document within its source, in UTF-8: an index of PostgreSQL takes no longer one.
MAX_KEY_BYTES: Final = 2000
#: A space with no more documents than this is searched by naming them all: nothing else can answer then.
_NAMED: Final = 500
_CHUNK: Final = 400
#: Documents that are asked as tables: how their names end, how large they may be, and how many of a space.
TABLE_ENDINGS: Final = (".csv", ".tsv", ".xlsx", ".xlsm")
MAX_TABULAR: Final = 200
#: Rules of cleaning that only take what is told elsewhere.
_COPIES: Final = frozenset({"duplicate", "near_duplicate"})
#: The name of a document that was forgotten.
FORGOTTEN: Final = "(forgotten)"


class Documents:
    """One side of the data space's room; see `DataspaceService`."""

    def __init__(self, spaces: DataspaceService, clock: Clock) -> None:
        self._spaces = spaces
        self._clock = clock

    # -- putting in and removing -----------------------------------------------------------------------------------------

    def put(
        self,
        session: Session,
        project_id: str,
        space: str,
        *,
        name: str,
        digest: str,
        num_bytes: int,
        key: str | None = None,
        source_id: str | None = None,
        media_type: str | None = None,
        fingerprint: str | None = None,
        file_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        licence: str | None = None,
        owner: str | None = None,
        access: Sequence[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[SpaceDocument, Change]:
        """Put a document in, whose bytes are stored; under a key that is there, it is that document with other content.

        What is None stays as it is. The same key with the same digest asks for no new index.

        Args:
            space: id or name. name: what a person knows it by. key: by default the name.
            source_id: the source that brings it; keys of different sources are different documents.
            fingerprint: what the source says of the content, kept for its next look.
            access: ids of users and keys that may read it; empty: everybody of the project.

        Raises:
            NotFound: no such space.
            InvalidRequest: the key is too long, or the space is full.
        """
        key = key or name
        if len(key.encode()) > MAX_KEY_BYTES:
            raise InvalidRequest(
                f"key: it has {len(key.encode())} bytes, at most {MAX_KEY_BYTES} are kept.",
                hint="Shorten the path or the key.",
                param="key",
            )
        row = self._spaces.row(session, project_id, space, lock=True)
        found = self._by_key(session, row.id, source_id or "", key)
        now = self._clock.now()
        change: Change = "unchanged"
        if found is None and source_id and (gone := self._forgotten(session, row.id, source_id, key)) is not None:
            # Its source has it still and brings it again and again; a person who puts it in anew has decided so.
            return shown(gone), change
        if found is None:
            self._require_room(session, row)
            found = DocumentRow(
                id=new_id("doc"),
                space_id=row.id,
                project_id=project_id,
                source_id=source_id or "",
                key=key,
                name=name,
                digest=digest,
                num_bytes=num_bytes,
                media_type=media_type,
                fingerprint=fingerprint,
                file_id=file_id,
                attributes=dict(attributes or {}),
                licence=licence,
                owner=owner,
                access=sorted(set(access or ())),
                is_restricted=bool(access),
                expires_at=expires_at,
                state="pending",
                version=1,
                indexed_digest=None,
                faults=[],
                num_passages=0,
                num_cleaned=None,
                dropped=None,
                num_pages=None,
                language=None,
                created_at=now,
                updated_at=now,
                removed_at=None,
            )
            session.add(found)
            change = "added"
        else:
            if found.digest != digest:
                found.digest, found.num_bytes = digest, num_bytes
                found.version += 1
                found.state, found.faults = "pending", []
                change = "updated"
            found.name = name
            found.media_type = media_type or found.media_type
            found.fingerprint = fingerprint or found.fingerprint
            found.file_id = file_id or found.file_id
            before = found.licence
            self._describe(found, attributes=attributes, licence=licence, owner=owner, access=access, expires_at=expires_at)
            if change == "updated":
                found.updated_at = now
            elif self._decides(row, before, found.licence):
                self._spaces.changed(session, row)
        if change != "unchanged":
            self._spaces.changed(session, row)
        session.flush()
        return shown(found), change

    def update(
        self,
        session: Session,
        project_id: str,
        space: str,
        document_id: str,
        *,
        name: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        licence: str | None = None,
        owner: str | None = None,
        access: Sequence[str] | None = None,
        expires_at: datetime | None = None,
    ) -> SpaceDocument:
        """Change what is known of a document, not its bytes: it holds from the next search on. Raises NotFound.

        Where a rule of cleaning goes by licences, another licence asks for another index.
        """
        of_space = self._spaces.row(session, project_id, space, lock=True)
        row = self._row(session, of_space, document_id)
        before, row.name = row.licence, name or row.name
        if access is not None and sorted(set(access)) != row.access and self._withdraw_tables(session, [row]):
            self._spaces.changed(session, of_space)
        self._describe(row, attributes=attributes, licence=licence, owner=owner, access=access, expires_at=expires_at)
        if self._decides(of_space, before, row.licence):
            self._spaces.changed(session, of_space)
        row.updated_at = self._clock.now()
        session.flush()
        return shown(row)

    def remove(self, session: Session, project_id: str, space: str, document_id: str) -> SpaceDocument:
        """Remove a document: it answers no search from now on, and its passages go with the next build. Raises NotFound."""
        owner = self._spaces.row(session, project_id, space, lock=True)
        row = self._row(session, owner, document_id)
        self._remove(row)
        self._withdraw_tables(session, [row])
        self._spaces.changed(session, owner)
        session.flush()
        return shown(row)

    def remove_keys(self, session: Session, project_id: str, space: str, source_id: str, keys: Collection[str]) -> int:
        """Remove the documents of a source that have these keys; how many there were."""
        owner = self._spaces.row(session, project_id, space, lock=True)
        wanted, removed = sorted(set(keys)), 0
        for start in range(0, len(wanted), _CHUNK):
            query = self._living(owner.id).where(
                DocumentRow.source_id == source_id, DocumentRow.key.in_(wanted[start : start + _CHUNK])
            )
            for row in session.scalars(query):
                self._remove(row)
                removed += 1
        if removed:
            self._spaces.changed(session, owner)
        session.flush()
        return removed

    def take_out(self, session: Session, owner: SpaceRow, row: DocumentRow) -> DocumentRow:
        """Remove a document, if it is there still; the space's row is locked by the caller."""
        if row.state != "removed":
            self._remove(row)
            self._withdraw_tables(session, [row])
            self._spaces.changed(session, owner)
        return row

    def forget(self, session: Session, owner: SpaceRow, document_id: str) -> None:
        """Remove a document with what its row says of it: only its id, its digest and its key's digest stay.

        The space's row is locked by the caller.
        """
        row = self.take_out(session, owner, session.get_one(DocumentRow, document_id))
        if row.name != FORGOTTEN:
            row.key = forgotten_key(row.key)
        row.name, row.attributes, row.owner, row.licence = FORGOTTEN, {}, None, None
        row.media_type = row.fingerprint = row.file_id = row.language = None
        row.num_pages, row.faults, row.num_cleaned, row.dropped = None, [], None, None

    def expire(self, session: Session, owner: SpaceRow) -> int:
        """Remove the documents of a space whose time is over; its row is locked by the caller."""
        rows = [*session.scalars(self._living(owner.id).where(DocumentRow.expires_at <= self._clock.now()))]
        for row in rows:
            self._remove(row)
        if rows:
            self._withdraw_tables(session, rows)
            self._spaces.changed(session, owner)
            self._spaces.tell(session, owner, f"{len(rows)} documents were removed: their time is over.")
        return len(rows)

    # -- reading ---------------------------------------------------------------------------------------------------------

    def get(self, session: Session, project_id: str, space: str, document_id: str) -> SpaceDocument:
        """One document that is there; raises NotFound."""
        return shown(self._row(session, self._spaces.row(session, project_id, space), document_id))

    def list(
        self,
        session: Session,
        project_id: str,
        space: str,
        *,
        state: str | Collection[str] | None = None,
        source_id: str | None = None,
        search: str | None = None,
        is_cleaned: bool = False,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page[SpaceDocument]:
        """Documents by their time of creation; removed ones only where `state` (one, or several) asks for them.

        Args:
            is_cleaned: only those of which cleaning took passages away, or changed some.
        """
        owner = self._spaces.row(session, project_id, space)
        query = select(DocumentRow).where(DocumentRow.space_id == owner.id)
        states = [state] if isinstance(state, str) else state
        query = query.where(DocumentRow.state != "removed" if states is None else DocumentRow.state.in_(states))
        if source_id is not None:
            query = query.where(DocumentRow.source_id == source_id)
        if search:
            query = query.where(DocumentRow.name.icontains(search, autoescape=True))
        if is_cleaned:
            query = query.where(DocumentRow.num_cleaned > 0)
        rows = paged(session, query, DocumentRow.id, after=after, before=before, limit=limit, order=order)
        return page_of([shown(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def find(self, session: Session, project_id: str, space: str, ref: str) -> SpaceDocument:
        """A document by its own id or by that of the file of /v1/files that it was made from; raises NotFound."""
        owner = self._spaces.row(session, project_id, space)
        named = or_(DocumentRow.id == ref, DocumentRow.file_id == ref)
        row = session.scalar(self._living(owner.id).where(named).order_by(DocumentRow.id).limit(1))
        if row is None:
            raise _missing(ref, owner)
        return shown(row)

    def of_files(self, session: Session, project_id: str, space: str, file_ids: Collection[str]) -> Sequence[SpaceDocument]:
        """The documents that are there and were made from these files of /v1/files, by their time of creation."""
        owner = self._spaces.row(session, project_id, space)
        wanted, found = sorted(set(file_ids)), []
        for start in range(0, len(wanted), _CHUNK):
            query = self._living(owner.id).where(DocumentRow.file_id.in_(wanted[start : start + _CHUNK]))
            found += [shown(row) for row in session.scalars(query)]
        return sorted(found, key=lambda document: document.id)

    def known(self, session: Session, project_id: str, space: str, source_id: str | None = None) -> dict[str, Known]:
        """Every document of a source by its key (None: those that people put in): what need not be sent again."""
        owner = self._spaces.row(session, project_id, space)
        query = self._living(owner.id).where(DocumentRow.source_id == (source_id or ""))
        columns = (DocumentRow.key, DocumentRow.id, DocumentRow.digest, DocumentRow.fingerprint)
        rows = session.execute(query.with_only_columns(*columns)).tuples()
        return {key: Known(id_, digest, fingerprint) for key, id_, digest, fingerprint in rows}

    # -- searching -------------------------------------------------------------------------------------------------------

    def scope(self, session: Session, caller: Principal, space: str, *, filters: Any = None, param: str = "filters") -> Scope:
        """What a search may see now: without what was removed, has expired, or is not for the caller.

        Args:
            filters: OpenAI's filter over attributes; see `filters`.

        Raises:
            NotFound: no such space. InvalidRequest: the filter is wrong, or leaves more documents than can be named.
        """
        test = None if filters is None else compiled(filters, param)
        owner = self._spaces.row(session, caller.project_id, space)
        held = select(
            DocumentRow.id,
            DocumentRow.state,
            DocumentRow.access,
            DocumentRow.expires_at,
            DocumentRow.attributes,
        ).where(DocumentRow.space_id == owner.id, DocumentRow.indexed_digest.is_not(None))
        now = self._clock.now()
        if test is None:
            few = [*session.execute(held.limit(_NAMED + 1))]
            if len(few) > _NAMED:
                doubtful = held.where(
                    or_(
                        DocumentRow.state == "removed",
                        DocumentRow.is_restricted.is_(True),
                        DocumentRow.expires_at <= now,
                    )
                )
                hidden = [row.id for row in session.execute(doubtful) if not _may_see(row, caller, now)]
                if len(hidden) <= MAX_DOCUMENTS:
                    return Scope(None, tuple(hidden))
            rows: Sequence[Any] = few if len(few) <= _NAMED else [*session.execute(held)]
        else:
            rows = [*session.execute(held)]
        seen = [row.id for row in rows if _may_see(row, caller, now) and (test is None or test(row.attributes))]
        if len(seen) > MAX_DOCUMENTS:
            raise InvalidRequest(
                f"{param}: {len(seen)} documents are left, at most {MAX_DOCUMENTS} can be searched by name.",
                hint="Narrow the filter.",
                param=param,
            )
        return Scope(tuple(seen))

    def records(
        self, session: Session, caller: Principal, space: str, document_ids: Collection[str]
    ) -> dict[str, SpaceDocument]:
        """Those of the documents that the caller may see now, by id: whatever else a search found must not be told."""
        owner = self._spaces.row(session, caller.project_id, space)
        wanted, now = sorted(set(document_ids)), self._clock.now()
        found: dict[str, SpaceDocument] = {}
        for start in range(0, len(wanted), _CHUNK):
            query = self._living(owner.id).where(DocumentRow.id.in_(wanted[start : start + _CHUNK]))
            found |= {row.id: shown(row) for row in session.scalars(query) if _may_see(row, caller, now)}
        return found

    def tabular(self, session: Session, owner: SpaceRow, caller: Principal | None) -> Sequence[SpaceDocument]:
        """The CSV files, workbooks and tables of databases that answer now and the caller may read (None: all), oldest first.

        One of which cleaning took or masked something is not among them: its bytes would tell what was taken. Nor are tables of
        databases where personal data is: of these cleaning sees the card alone.
        """
        named = [DocumentRow.name.iendswith(each) for each in TABLE_ENDINGS]
        if not SpaceSettings.model_validate(owner.settings).cleaning.personal_data.has_work:
            # What people put in is no table of a database, whatever they call it.
            named.append(and_(DocumentRow.media_type == TABLE_ROWS, DocumentRow.source_id != ""))
        query = select(DocumentRow).where(
            DocumentRow.space_id == owner.id,
            DocumentRow.state == "indexed",
            DocumentRow.num_bytes <= MAX_TABLE_BYTES,
            or_(*named),
        )
        now = self._clock.now()
        rows = session.scalars(query.order_by(DocumentRow.id).limit(MAX_TABULAR))
        return [
            shown(row)
            for row in rows
            if (not _is_over(row, now) if caller is None else _may_see(row, caller, now)) and not _is_altered(row)
        ]

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _row(self, session: Session, owner: SpaceRow, document_id: str) -> DocumentRow:
        row = session.scalar(self._living(owner.id).where(DocumentRow.id == document_id))
        if row is None:
            raise _missing(document_id, owner)
        return row

    def _by_key(self, session: Session, space_id: str, source_id: str, key: str) -> DocumentRow | None:
        query = self._living(space_id).where(DocumentRow.source_id == source_id, DocumentRow.key == key)
        return session.scalar(query.limit(1))

    def _forgotten(self, session: Session, space_id: str, source_id: str, key: str) -> DocumentRow | None:
        query = select(DocumentRow).where(
            DocumentRow.space_id == space_id, DocumentRow.source_id == source_id, DocumentRow.key == forgotten_key(key)
        )
        return session.scalar(query.limit(1))

    def _living(self, space_id: str) -> Select[DocumentRow]:
        return select(DocumentRow).where(DocumentRow.space_id == space_id, DocumentRow.state != "removed")

    def tables_with(self, session: Session, row: DocumentRow) -> Sequence[str]:
        """Ids of the tables of databases that hold, or held, the rows of a document, removed ones too."""
        query = select(DocumentRow.id).where(
            DocumentRow.space_id == row.space_id,
            DocumentRow.source_id == row.source_id,
            DocumentRow.key.in_(_tables_of(row)),
            DocumentRow.media_type == TABLE_ROWS,
        )
        return [*session.scalars(query.order_by(DocumentRow.id))]

    def _withdraw_tables(self, session: Session, rows: Sequence[DocumentRow]) -> int:
        """Take away the tables of databases that hold rows which are not for everybody any more; how many there were.

        They come back without these rows: their sources are looked at again.
        """
        tables: dict[tuple[str, str], set[str]] = {}
        for row in rows:
            tables.setdefault((row.space_id, row.source_id), set()).update(_tables_of(row))
        number = 0
        for (space_id, source_id), keys in tables.items():
            wanted, before = sorted(keys), number
            for start in range(0, len(wanted), _CHUNK):
                held = self._living(space_id).where(
                    DocumentRow.source_id == source_id,
                    DocumentRow.key.in_(wanted[start : start + _CHUNK]),
                    DocumentRow.media_type == TABLE_ROWS,
                )
                for table in session.scalars(held):
                    self._remove(table)
                    table.fingerprint = GONE
                    number += 1
            source = session.get(SourceRow, source_id) if number > before else None
            if source is not None and not source.is_paused and source.run_id is None:
                source.next_sync_at = self._clock.now()
        return number

    def _remove(self, row: DocumentRow) -> None:
        row.state = "removed"
        row.removed_at = self._clock.now()
        row.faults = []

    def _decides(self, owner: SpaceRow, before: str | None, after: str | None) -> bool:
        """Whether another licence may let passages come or go."""
        return before != after and SpaceSettings.model_validate(owner.settings).cleaning.licences is not None

    def _describe(
        self,
        row: DocumentRow,
        *,
        attributes: Mapping[str, Any] | None,
        licence: str | None,
        owner: str | None,
        access: Sequence[str] | None,
        expires_at: datetime | None,
    ) -> None:
        if attributes is not None:
            row.attributes = dict(attributes)
        if access is not None:
            row.access, row.is_restricted = sorted(set(access)), bool(access)
        row.licence = licence if licence is not None else row.licence
        row.owner = owner if owner is not None else row.owner
        row.expires_at = expires_at if expires_at is not None else row.expires_at

    def _require_room(self, session: Session, owner: SpaceRow) -> None:
        place = self._living(owner.id).with_only_columns(DocumentRow.id).offset(MAX_DOCUMENTS - 1).limit(1)
        if session.scalar(place) is not None:
            raise InvalidRequest(
                f"The data space {owner.name!r} has {MAX_DOCUMENTS} documents: it takes no more.",
                hint="Make another space.",
                code="space_full",
            )


def _tables_of(row: DocumentRow) -> set[str]:
    """Keys that the table of a source's row may have: its name, or a key of its rows, may hold the mark itself."""
    parts = row.key.split("/row/") if row.source_id else []
    return {f"{'/row/'.join(parts[:at])}/card" for at in range(1, len(parts))}


def shown(row: DocumentRow) -> SpaceDocument:
    """A document as its project sees it."""
    return SpaceDocument(
        id=row.id,
        space_id=row.space_id,
        source_id=row.source_id or None,
        key=row.key,
        name=row.name,
        digest=row.digest,
        num_bytes=row.num_bytes,
        media_type=row.media_type,
        file_id=row.file_id,
        attributes=row.attributes,
        licence=row.licence,
        owner=row.owner,
        access=row.access,
        expires_at=row.expires_at,
        state=cast(Any, row.state),
        version=row.version,
        answers=row.indexed_digest is not None and row.state != "removed",
        faults=[Fault.model_validate(each) for each in row.faults],
        num_passages=row.num_passages,
        dropped=row.dropped or {},
        num_pages=row.num_pages,
        language=row.language,
        created_at=row.created_at,
        updated_at=row.updated_at,
        removed_at=row.removed_at,
    )


def _may_see(row: Any, caller: Principal, now: datetime) -> bool:
    if row.state == "removed" or _is_over(row, now):
        return False
    return not row.access or caller.key_id in row.access or (caller.user_id is not None and caller.user_id in row.access)


def _is_over(row: Any, now: datetime) -> bool:
    return bool(row.expires_at is not None and row.expires_at <= now)


def _is_altered(row: DocumentRow) -> bool:
    """Whether cleaning took or masked more than copies."""
    copies = sum(int(number) for rule, number in (row.dropped or {}).items() if rule in _COPIES)
    return (row.num_cleaned or 0) > copies


def _missing(document_id: str, owner: SpaceRow) -> NotFound:
    return NotFound(
        f"The data space {owner.name!r} has no document {document_id[:80]!r}.",
        hint=f"`modelworks space documents {owner.id}` lists them.",
        code="document_not_found",
    )
