"""What a transaction changes in the rows that people answer for, and who changes it: handed on before the commit.

Rooms say with `@watched(…)` which of their tables hold decisions of people, and which columns; observed state is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import structlog
from sqlalchemy import event, inspect, select, tuple_
from sqlalchemy.orm import DeclarativeBase, Mapper, ORMExecuteState, Session, SessionTransaction, sessionmaker

Action = Literal["created", "updated", "deleted"]
Row = TypeVar("Row", bound=type[DeclarativeBase])


@dataclass(frozen=True, slots=True)
class Author:
    """Who acts: an API key, a person who signed in, or the platform itself."""

    kind: Literal["key", "user", "system"]
    id: str = ""


SYSTEM = Author("system")
#: Who the current request acts for; set by the check of keys and sessions. Threads that a request starts inherit it.
AUTHOR: ContextVar[Author] = ContextVar("modelworks_author", default=SYSTEM)


@dataclass(frozen=True, slots=True)
class Change:
    """One row before and after: SHA-256 digests (hexadecimal) of its watched columns, never their values."""

    action: Action
    noun: str
    subject: str
    project_id: str | None
    before: str | None
    after: str | None
    #: The columns that changed; empty where the row was created or deleted.
    fields: tuple[str, ...] = ()


Sink = Callable[[Session, Sequence[Change]], None]


@dataclass(frozen=True, slots=True)
class _Watch:
    noun: str
    columns: tuple[str, ...]  # names of the mapped attributes
    keys: tuple[str, ...]


_WATCHES: dict[type[Any], _Watch] = {}


def watched(noun: str, *, only: Sequence[str] | None = None, without: Sequence[str] = ()) -> Callable[[Row], Row]:
    """Have the changes of a table recorded under `noun`.

    Args:
        noun: what a row is called.
        only: attributes that count; by default all.
        without: attributes that do not count: what the platform observes, or a counter.
    """

    def mark(row: Row) -> Row:
        mapper: Mapper[Any] = inspect(row)
        names = [attribute.key for attribute in mapper.column_attrs]
        unknown = {*(only or ()), *without} - set(names)
        if unknown:
            raise ValueError(f"{row.__name__} has no {sorted(unknown)}")
        columns = tuple(sorted(name for name in (only or names) if name not in without))
        keys = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
        _WATCHES[row] = _Watch(noun, columns, keys)
        return row

    return mark


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of the values as JSON with sorted keys; times in UTC."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":"), default=_plain).encode()).hexdigest()


def request_id() -> str | None:
    """The id of the request in progress, where there is one."""
    found = structlog.contextvars.get_contextvars().get("request_id")
    return None if found is None else str(found)


def observe(sessions: sessionmaker[Session], sink: Sink) -> None:
    """Call `sink(session, changes)` in every transaction that changes watched rows, right before it commits.

    What the sink writes is part of the transaction; what it raises ends it. Rolled back savepoints leave nothing behind.
    """
    key = f"modelworks_changes_{id(sink)}"

    def pending(session: Session) -> list[Change]:
        found: list[Change] = session.info.setdefault(key, [])
        return found

    def flushed(session: Session, _context: Any) -> None:
        actions: tuple[tuple[Action, Iterable[Any]], ...] = (
            ("created", session.new),
            ("updated", session.dirty),
            ("deleted", session.deleted),
        )
        for action, rows in actions:
            for row in rows:
                watch = _WATCHES.get(type(row))
                if watch is not None:
                    pending(session).extend(_of_row(action, row, watch))

    def executed(state: ORMExecuteState) -> Any:
        if not (state.is_update or state.is_delete):
            return None
        mapper = state.bind_mapper
        watch = None if mapper is None else _WATCHES.get(mapper.class_)
        if mapper is None or watch is None:
            return None
        return _in_bulk(state, mapper, watch, pending(state.session))

    def begun(session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            session.info.setdefault(f"{key}_marks", {})[transaction] = len(pending(session))

    def undone(session: Session, transaction: SessionTransaction) -> None:
        mark = session.info.get(f"{key}_marks", {}).pop(transaction, 0 if transaction.parent is None else None)
        if mark is not None:
            del pending(session)[mark:]

    def committing(session: Session) -> None:
        if session.in_nested_transaction():
            return
        session.flush()
        changes = _joined(pending(session))
        session.info.pop(key, None)
        session.info.pop(f"{key}_marks", None)
        if changes:
            sink(session, changes)

    event.listen(sessions, "after_flush", flushed)
    event.listen(sessions, "do_orm_execute", executed)
    event.listen(sessions, "after_transaction_create", begun)
    event.listen(sessions, "after_soft_rollback", undone)
    event.listen(sessions, "before_commit", committing)


def _of_row(action: Action, row: Any, watch: _Watch) -> list[Change]:
    state = inspect(row)
    now = {name: getattr(row, name) for name in watch.columns}
    then, fields = dict(now), []
    for name in watch.columns:
        history = state.attrs[name].history
        if history.added or history.deleted:
            then[name] = history.deleted[0] if history.deleted else None
            if not history.added or history.added[0] != then[name]:
                fields.append(name)
    if action == "updated" and not fields:
        return []
    subject = "/".join(str(getattr(row, name)) for name in watch.keys)
    return [_change(action, watch, subject, getattr(row, "project_id", None), then, now, fields)]


def _change(
    action: Action,
    watch: _Watch,
    subject: str,
    project_id: str | None,
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    fields: Sequence[str],
) -> Change:
    return Change(
        action,
        watch.noun,
        subject,
        project_id,
        before=None if action == "created" else digest(then),
        after=None if action == "deleted" else digest(now),
        fields=tuple(fields) if action == "updated" else (),
    )


def _in_bulk(state: ORMExecuteState, mapper: Mapper[Any], watch: _Watch, found: list[Change]) -> Any:
    """Run an UPDATE or DELETE of many rows between two looks at them."""
    session, statement = state.session, state.statement
    session.flush()
    columns = {name: mapper.columns[name] for name in {*watch.columns, *watch.keys}}
    if "project_id" in mapper.columns:
        columns["project_id"] = mapper.columns["project_id"]
    look = select(*(column.label(name) for name, column in columns.items()))
    keys = [mapper.columns[name] for name in watch.keys]
    before = {
        tuple(row[name] for name in watch.keys): dict(row)
        for row in session.execute(look.where(*getattr(statement, "_where_criteria", ())), state.parameters).mappings()
    }
    result = state.invoke_statement()
    after: dict[tuple[Any, ...], dict[str, Any]] = {}
    if state.is_update and before:
        rows = session.execute(look.where(tuple_(*keys).in_(list(before)))).mappings()
        after = {tuple(row[name] for name in watch.keys): dict(row) for row in rows}
    for key, then in before.items():
        now = after.get(key, then)
        fields = [name for name in watch.columns if now[name] != then[name]]
        if state.is_update and not fields:
            continue
        old, new = ({name: values[name] for name in watch.columns} for values in (then, now))
        subject = "/".join(str(part) for part in key)
        action: Action = "updated" if state.is_update else "deleted"
        found.append(_change(action, watch, subject, then.get("project_id"), old, new, fields))
    return result


def _joined(changes: Sequence[Change]) -> list[Change]:
    """One change per row: what it was before the transaction and what it is after."""
    rows: dict[tuple[str, str], Change | None] = {}
    for change in changes:
        key = (change.noun, change.subject)
        earlier = rows.get(key)
        if earlier is None:
            rows.pop(key, None)
            rows[key] = change
            continue
        before, after = earlier.before, change.after
        if before == after:
            rows[key] = None
            continue
        action: Action = "created" if before is None else "deleted" if after is None else "updated"
        fields = tuple(sorted({*earlier.fields, *change.fields})) if action == "updated" else ()
        rows[key] = Change(action, change.noun, change.subject, change.project_id, before, after, fields)
    return [change for change in rows.values() if change is not None]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return str(value)
