"""A query run on a snapshot: nothing but reading, of nothing but its tables, and no longer and no more than is allowed.

SQLite's own means (https://www.sqlite.org/security.html): the file is opened read-only, an authorizer refuses every action but
reading the named tables with named functions, a progress handler ends what takes too long, limits of the connection bound
texts, expressions and memory. The memory limit is the whole process's: it is meant to be one that does nothing else.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

#: What a query may call: nothing that reads a file, makes large values or depends on the moment.
_CALLED: Final = """
count sum avg min max total abs round coalesce ifnull nullif upper lower length trim substr instr like strftime date cast
"""
FUNCTIONS: Final = frozenset(_CALLED.split())
_STEPS: Final = 1000
_HEAP_BYTES: Final = 256 << 20
_MAX_SQL_CHARS: Final = 20_000


class QueryRefused(Exception):
    """A query does what it may not, is wrong, or takes too much; the text says which."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """How long a query may run, and how much it may answer."""

    time_s: float = 5.0
    rows: int = 200
    cell_chars: int = 500
    bytes: int = 200_000


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of an answer; `is_cut` says that there are more."""

    columns: list[str]
    rows: list[list[Any]]
    is_cut: bool


def run(snapshot: Path, sql: str, tables: Collection[str], limits: QueryLimits | None = None) -> Result:
    """Run one query.

    Args:
        tables: those that it may read.

    Raises:
        QueryRefused: see there.
    """
    limits = limits or QueryLimits()
    if len(sql) > _MAX_SQL_CHARS or "\0" in sql:
        raise QueryRefused("the query is too long, or no text")
    allowed = {each.casefold() for each in tables}
    ends = time.monotonic() + limits.time_s
    with closing(sqlite3.connect(f"file:{quote(str(snapshot))}?mode=ro&immutable=1", uri=True)) as connection:
        _confine(connection, allowed, ends)
        try:
            cursor = connection.execute(sql)
            if cursor.description is None:
                raise QueryRefused("it is no query")
            columns = [str(each[0]) for each in cursor.description]
            rows: list[list[Any]] = []
            num_bytes, is_cut = 0, False
            for row in cursor:
                cells = [_cell(value, limits.cell_chars) for value in row]
                num_bytes += sum(len(str(cell)) for cell in cells)
                if len(rows) >= limits.rows or num_bytes > limits.bytes:
                    is_cut = True
                    break
                rows.append(cells)
        except sqlite3.Error as error:
            if "interrupted" in str(error):
                raise QueryRefused(f"it takes longer than {limits.time_s:g} s") from error
            raise QueryRefused(f"SQLite refuses it: {error}") from error
        except (MemoryError, OverflowError, sqlite3.Warning) as error:
            raise QueryRefused(f"it needs too much: {type(error).__name__}") from error
    return Result(columns, rows, is_cut)


def _confine(connection: sqlite3.Connection, allowed: Collection[str], ends: float) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES}")
    for category, limit in (
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_LENGTH, 10 << 20),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, _MAX_SQL_CHARS * 4),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100),
        (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 4),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        connection.setlimit(category, limit)

    def decide(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
        if action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and (first or "").casefold() in allowed:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").casefold() in FUNCTIONS:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    connection.set_authorizer(decide)
    connection.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)


def _cell(value: Any, max_chars: int) -> Any:
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, str) and len(value) > max_chars:
        return value[:max_chars] + "…"
    return value
