"""Lists between two ids, in the order of their creation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from modelworks.kernel.catalog.schemas import Page


def paged(
    session: Session, query: Any, column: Any, *, after: str | None, before: str | None, limit: int, order: str
) -> list[Any]:
    """At most one row more than `limit`, between two ids in an order of ids: OpenAI's cursors."""
    rising = order == "asc"
    if after is not None:
        query = query.where(column > after if rising else column < after)
    if before is not None:
        query = query.where(column < before if rising else column > before)
    # The page before an id is the one that ends there.
    backwards = before is not None and after is None
    query = query.order_by(column.asc() if rising != backwards else column.desc()).limit(limit + 1)
    rows = [*session.scalars(query)]
    return [*reversed(rows[:limit]), *rows[limit:]] if backwards else rows


def page_of(data: Sequence[Any], *, has_more: bool) -> Page[Any]:
    """A page of objects with ids."""
    return Page(
        data=list(data), has_more=has_more, first_id=data[0].id if data else None, last_id=data[-1].id if data else None
    )
