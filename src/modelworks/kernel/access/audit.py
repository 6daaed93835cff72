"""The audit log: one chain of every change of what people answer for, appended in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from modelworks.chain import GENESIS, Break, Head, entry_hash, find_break
from modelworks.kernel.access.schemas import AuditEntry
from modelworks.kernel.access.store import AuditHeadRow, AuditRow
from modelworks.kernel.base.changes import AUTHOR, Change, request_id
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database, insert_into

#: There is one chain, and so one row that names its end.
_THE_HEAD = 1
_PAGE = 1000


class AuditLog:
    """Appends to the chain and reads it.

    Made once per server: from then on every transaction of `db` that changes a watched row (`base/changes.py`) also writes
    its entries, or fails. Appending takes the lock of the chain's end as the last thing before the commit, so writers wait
    for one another only for that moment and cannot deadlock.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self.db = db
        self._clock = clock
        db.observe(self.append)

    def append(self, session: Session, changes: Sequence[Change]) -> None:
        """Write an entry for each change at the end of the chain."""
        head = self._locked_head(session)
        author, asked = AUTHOR.get(), request_id()
        now = _text(self._clock.now())
        rows = []
        for change in changes:
            row = {
                "seq": head.seq + 1,
                "created_at": now,
                "author_kind": author.kind,
                "author_id": author.id,
                "project_id": change.project_id,
                "action": change.action,
                "noun": change.noun,
                "subject": change.subject,
                "before": change.before,
                "after": change.after,
                "fields": list(change.fields),
                "request_id": asked,
                "previous": head.hash,
            }
            row["hash"] = entry_hash(row)
            head = Head(head.seq + 1, str(row["hash"]))
            rows.append(row)
        session.execute(insert(AuditRow), rows)
        session.execute(update(AuditHeadRow).where(AuditHeadRow.id == _THE_HEAD).values(seq=head.seq, hash=head.hash))

    def head(self, session: Session) -> Head:
        """The newest entry; number 0 while there is none."""
        row = session.get(AuditHeadRow, _THE_HEAD)
        return Head(0, GENESIS) if row is None else Head(row.seq, row.hash)

    def list_entries(
        self, session: Session, *, after: int = 0, limit: int = 100, project_id: str | None = None
    ) -> tuple[list[AuditEntry], bool]:
        """Entries after a number, oldest first, and whether there are more; of one project, or of all."""
        query = select(AuditRow).where(AuditRow.seq > after).order_by(AuditRow.seq).limit(limit + 1)
        if project_id is not None:
            query = query.where(AuditRow.project_id == project_id)
        rows = list(session.scalars(query))
        return [AuditEntry.model_validate(row) for row in rows[:limit]], len(rows) > limit

    def newest(self, session: Session, *, limit: int, project_id: str | None = None) -> list[AuditEntry]:
        """The last entries, newest first."""
        query = select(AuditRow).order_by(AuditRow.seq.desc()).limit(limit)
        if project_id is not None:
            query = query.where(AuditRow.project_id == project_id)
        return [AuditEntry.model_validate(row) for row in session.scalars(query)]

    def verify(self, session: Session, *, known: Head | None = None) -> tuple[Head, Break | None]:
        """Follow the whole stored chain to the head that is stored beside it; see `find_break`."""
        head, broken = find_break((entry.model_dump() for entry in self._all(session)), known=known)
        end = self.head(session)
        if broken is None and head != end:
            number = session.scalar(select(func.count()).select_from(AuditRow)) or 0
            return head, Break(head.seq + 1, f"the chain should end at entry {end.seq}, and {number} entries are here")
        return head, broken

    def _all(self, session: Session) -> Iterator[AuditEntry]:
        after, more = 0, True
        while more:
            entries, more = self.list_entries(session, after=after, limit=_PAGE)
            yield from entries
            if entries:
                after = entries[-1].seq
            session.expunge_all()

    def _locked_head(self, session: Session) -> Head:
        query = select(AuditHeadRow.seq, AuditHeadRow.hash).where(AuditHeadRow.id == _THE_HEAD).with_for_update()
        found = session.execute(query).first()
        if found is None:
            begin = insert_into(AuditHeadRow, session.get_bind().dialect.name)
            session.execute(begin.values(id=_THE_HEAD, seq=0, hash=GENESIS).on_conflict_do_nothing())
            found = session.execute(query).one()
        return Head(found.seq, found.hash)


def _text(moment: datetime) -> str:
    # Kept as the text that the digest covers: no database may round or shift it.
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
