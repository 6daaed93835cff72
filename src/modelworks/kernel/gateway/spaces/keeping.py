"""What is kept of answers at their callers' wish, and holds something of a document: responses, items, repeated answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Text, cast, delete, false, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from modelworks.kernel.gateway.spaces.probing import spellings
from modelworks.kernel.gateway.store import ConversationItemRow, IdempotencyRow, ResponseItemRow, ResponseRow

_CHUNK = 400
_READ_ROWS = 50
#: What is answered to the wish to forget names the document, and says no more than the report does.
_FORGETTING = b'"object":"space.forgetting"'


@dataclass(frozen=True, slots=True)
class Kept:
    """Ids of stored responses, places of items in conversations, and keys of requests whose answers are given again."""

    responses: tuple[str, ...] = ()
    items: tuple[tuple[str, int], ...] = ()
    repeats: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.responses) + len(self.items) + len(self.repeats)


def find(session: Session, project_id: str, names: Sequence[str], sentences: Sequence[str]) -> Kept:
    """What names one of these ids, or says one of these sentences word for word.

    Args:
        names: ids of the document and of its file: citations name them.
    """
    forms = [form for text in (*names, *sentences) for form in spellings(text)]
    items = select(ResponseItemRow.response_id).where(ResponseItemRow.project_id == project_id)
    places = select(ConversationItemRow.conversation_id, ConversationItemRow.seq)
    return Kept(
        tuple(sorted(set(session.scalars(items.where(_has(ResponseItemRow.item, forms)))))),
        tuple(
            session.execute(
                places.where(ConversationItemRow.project_id == project_id, _has(ConversationItemRow.item, forms))
            ).tuples()
        ),
        _repeats(session, project_id, [form.encode() for form in forms]),
    )


def drop(session: Session, project_id: str, kept: Kept) -> None:
    """Delete it. A response goes as a whole: what goes on from it cannot go on any more."""
    for start in range(0, len(kept.responses), _CHUNK):
        chunk = kept.responses[start : start + _CHUNK]
        session.execute(delete(ResponseItemRow).where(ResponseItemRow.response_id.in_(chunk)))
        session.execute(delete(ResponseRow).where(ResponseRow.id.in_(chunk)))
    for conversation_id, seq in kept.items:
        is_it = (ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.seq == seq)
        session.execute(delete(ConversationItemRow).where(*is_it))
    for start in range(0, len(kept.repeats), _CHUNK):
        keys = kept.repeats[start : start + _CHUNK]
        session.execute(delete(IdempotencyRow).where(IdempotencyRow.project_id == project_id, IdempotencyRow.key.in_(keys)))


def _has(column: InstrumentedAttribute[dict[str, object]], forms: Sequence[str]) -> ColumnElement[bool]:
    text = cast(column, Text)
    return or_(false(), *(text.contains(form, autoescape=True) for form in forms))


def _repeats(session: Session, project_id: str, forms: Sequence[bytes]) -> tuple[str, ...]:
    """They are bytes, of a day at most: databases differ in how these are searched."""
    query = select(IdempotencyRow.key, IdempotencyRow.body).where(
        IdempotencyRow.project_id == project_id, IdempotencyRow.body.is_not(None)
    )
    rows = session.execute(query.execution_options(yield_per=_READ_ROWS)).tuples()
    return tuple(
        key for key, body in rows if body is not None and _FORGETTING not in body and any(form in body for form in forms)
    )
