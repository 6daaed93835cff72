"""A question over several snapshots: read against each, answered from the one where it has one meaning."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from modelworks.tables.card import Card, Table
from modelworks.tables.parsing import Parsed, parse
from modelworks.tables.running import QueryLimits, QueryRefused, Result, run

#: Readings that are so near to each other are two meanings.
_NEAR: Final = 0.75


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked of which snapshot, and its rows. `place` is that of the snapshot among those given."""

    place: int
    sql: str
    parsed: Parsed
    tables: list[Table]
    result: Result


def described(snapshot: Path) -> Card | None:
    """What a snapshot holds; None where it is gone, or of another format."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(snapshot))}?mode=ro&immutable=1", uri=True)) as connection:
            return Card.of(connection)
    except (sqlite3.Error, ValueError):
        return None


def answer(snapshots: Sequence[Path], question: str, limits: QueryLimits | None = None) -> Answer | None:
    """The answer, where the question is about a table and has one meaning; None leaves it to the documents."""
    found: list[tuple[float, int, Parsed, Card]] = []
    for place, snapshot in enumerate(snapshots):
        try:
            with closing(sqlite3.connect(f"file:{quote(str(snapshot))}?mode=ro&immutable=1", uri=True)) as connection:
                card = Card.of(connection)
                found += [(each.score, place, each, card) for each in parse(connection, card, question)]
        except (sqlite3.Error, ValueError):
            continue
    if not found:
        return None
    found.sort(key=lambda each: -each[0])
    best = found[0]
    if any(best[0] - other[0] < _NEAR and (other[1], other[2].sql) != (best[1], best[2].sql) for other in found[1:]):
        return None
    _, place, parsed, card = best
    try:
        result = run(snapshots[place], parsed.sql, parsed.tables, limits)
    except QueryRefused:
        return None
    if not result.rows or all(cell is None for row in result.rows for cell in row):
        return None
    tables = [each for each in card.tables if each.name in parsed.tables]
    return Answer(place, parsed.sql, parsed, tables, result)
