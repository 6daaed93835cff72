"""Conversations in OpenAI's form: items that clients and responses put one after the other."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import NotFound
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.evals.service import Order
from modelworks.kernel.gateway.files.service import Listing, seconds
from modelworks.kernel.gateway.responses.items import PREFIXES, Item
from modelworks.kernel.gateway.store import ConversationItemRow, ConversationRow


class ConversationService:
    """Conversations of a project; those of others do not exist for it. Methods take part in the caller's transaction."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self.db = db
        self._clock = clock

    def create(
        self, session: Session, project_id: str, labels: Mapping[str, str] | None, items: Sequence[Item]
    ) -> dict[str, Any]:
        """A new conversation with its first items, which are `checked` ones."""
        row = ConversationRow(
            id=new_id("conv"), project_id=project_id, labels=dict(labels or {}), item_seq=0, created_at=self._clock.now()
        )
        session.add(row)
        session.flush()
        self._append(session, row, items)
        return _object(row)

    def get(self, session: Session, project_id: str, conversation_id: str) -> dict[str, Any]:
        """One conversation; raises NotFound."""
        return _object(self._row(session, project_id, conversation_id))

    def update(
        self, session: Session, project_id: str, conversation_id: str, labels: Mapping[str, str] | None
    ) -> dict[str, Any]:
        """Change the metadata; raises NotFound."""
        row = self._row(session, project_id, conversation_id)
        row.labels = dict(labels or {})
        return _object(row)

    def delete(self, session: Session, project_id: str, conversation_id: str) -> dict[str, Any]:
        """Forget a conversation with its items; responses stay. Raises NotFound."""
        row = self._row(session, project_id, conversation_id)
        session.execute(delete(ConversationItemRow).where(ConversationItemRow.conversation_id == row.id))
        session.execute(delete(ConversationRow).where(ConversationRow.id == row.id))
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    # -- items -----------------------------------------------------------------------------------------------------------

    def history(self, session: Session, project_id: str, conversation_id: str) -> list[Item]:
        """Every item, the oldest first; raises NotFound."""
        row = self._row(session, project_id, conversation_id)
        query = select(ConversationItemRow.item).where(ConversationItemRow.conversation_id == row.id)
        return [*session.scalars(query.order_by(ConversationItemRow.seq))]

    def add(self, session: Session, project_id: str, conversation_id: str, items: Sequence[Item]) -> builtins.list[Item]:
        """Put items at the end; returns them with the ids that they have here. Raises NotFound."""
        return self._append(session, self._row(session, project_id, conversation_id, lock=True), items)

    def _append(self, session: Session, row: ConversationRow, items: Sequence[Item]) -> builtins.list[Item]:
        """An id is that of one item of a conversation: one that is there already gets a fresh one."""
        query = select(ConversationItemRow.id).where(
            ConversationItemRow.conversation_id == row.id, ConversationItemRow.id.in_([item["id"] for item in items])
        )
        taken = {*session.scalars(query)} if items else set()
        kept: list[Item] = []
        for item in items:
            found = item if item["id"] not in taken else {**item, "id": new_id(PREFIXES[item["type"]])}
            taken.add(found["id"])
            kept.append(found)
        if kept:
            first, row.item_seq = row.item_seq + 1, row.item_seq + len(kept)
            session.execute(
                insert(ConversationItemRow),
                [
                    {
                        "conversation_id": row.id,
                        "seq": seq,
                        "project_id": row.project_id,
                        "id": item["id"],
                        "item": item,
                    }
                    for seq, item in enumerate(kept, first)
                ],
            )
        return kept

    def list(
        self, session: Session, project_id: str, conversation_id: str, *, after: str | None, limit: int, order: Order
    ) -> Listing:
        """Items by their place; raises NotFound where `after` is none of them."""
        row = self._row(session, project_id, conversation_id)
        query = select(ConversationItemRow).where(ConversationItemRow.conversation_id == row.id)
        seq = ConversationItemRow.seq
        if after is not None:
            last = self._item(session, row, after, param="after").seq
            query = query.where(seq > last if order == "asc" else seq < last)
        rows = [*session.scalars(query.order_by(seq if order == "asc" else seq.desc()).limit(limit + 1))]
        return Listing([each.item for each in rows[:limit]], len(rows) > limit)

    def item(self, session: Session, project_id: str, conversation_id: str, item_id: str) -> Item:
        """One item; raises NotFound."""
        return self._item(session, self._row(session, project_id, conversation_id), item_id).item

    def remove(self, session: Session, project_id: str, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Take one item out; returns the conversation. Raises NotFound."""
        row = self._row(session, project_id, conversation_id)
        session.delete(self._item(session, row, item_id))
        return _object(row)

    def _row(self, session: Session, project_id: str, conversation_id: str, *, lock: bool = False) -> ConversationRow:
        query = select(ConversationRow).where(ConversationRow.id == conversation_id, ConversationRow.project_id == project_id)
        row = session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(
                f"There is no conversation {conversation_id[:80]!r}.",
                hint="POST /v1/conversations makes one.",
                param="conversation",
                code="conversation_not_found",
            )
        return row

    def _item(self, session: Session, row: ConversationRow, item_id: str, *, param: str = "item_id") -> ConversationItemRow:
        query = select(ConversationItemRow).where(
            ConversationItemRow.conversation_id == row.id, ConversationItemRow.id == item_id
        )
        found = session.scalar(query)
        if found is None:
            raise NotFound(
                f"There is no item {item_id[:80]!r} in the conversation {row.id}.",
                hint="GET /v1/conversations/{conversation_id}/items lists its items.",
                param=param,
                code="item_not_found",
            )
        return found


def _object(row: ConversationRow) -> dict[str, Any]:
    return {"id": row.id, "object": "conversation", "created_at": seconds(row.created_at), "metadata": row.labels}
