"""Tables and views of a database through SQLAlchemy, in a read-only transaction: rows become texts by a template.

No SQL comes from outside: a person names tables and columns, which are looked up in the database and quoted by the library.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, column, create_engine, event, func, inspect, select, table
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from modelworks.contract.errors import (
    InvalidData,
    MissingExtra,
    ModelworksError,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    TimedOut,
    UpstreamFailed,
)
from modelworks.contract.passages import TABLE_ROWS
from modelworks.kernel.base import egress
from modelworks.kernel.dataspace.sources.folder import local_path
from modelworks.kernel.dataspace.sources.forms import DatabaseForm, TableForm
from modelworks.kernel.dataspace.sources.rows import MAX_TABLE_BYTES, TableRows
from modelworks.kernel.dataspace.sources.source import (
    MAX_KEY_CHARS,
    NOBODY,
    Item,
    Surroundings,
    attributes_of,
    digest_of,
    filled,
    forgotten_key,
    hidden_rows,
    text_item,
)

_DRIVERS = {
    "postgresql": ("postgresql+psycopg", "psycopg", "postgres"),
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
    "mariadb": ("mariadb+pymysql", "pymysql", "mysql"),
}
_CONNECT_S, _LOCK_S, _BATCH = 15, 5.0, 500
_MAX_VALUE_CHARS, _MAX_GROUP_CHARS = 1_000_000, 20_000_000
#: Columns that a template names.
_NAMED = re.compile(r"\{([^{}]+)\}")
#: Between looks at the clock: instructions of SQLite's machine.
_STEPS = 20_000
#: Pages of an SQLite file that are copied at a time.
_PAGES = 5000


class DatabaseSource:
    """Rows of tables and views, or groups of rows, and a card for each table that says what it holds."""

    lists_all = True

    def __init__(self, form: DatabaseForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings
        self._ends = math.inf

    def scan(self) -> Iterator[Item]:
        engine = self._engine()
        try:
            with self._readable_failures(), engine.connect() as connection, connection.begin():
                for wanted in self._form.tables:
                    yield from self._table(connection, wanted)
        finally:
            engine.dispose()

    # -- tables -------------------------------------------------------------------------------------------------------

    def _table(self, connection: Connection, wanted: TableForm) -> Iterator[Item]:
        self._around.stop_if_cancelled()
        schema, _, name = wanted.name.rpartition(".")
        facts = _Facts.of(connection, name, schema or None, wanted)
        source = table(name, *(column(each) for each in facts.columns), schema=schema or None)
        num_rows = int(connection.execute(select(func.count()).select_from(source)).scalar_one())
        if num_rows > self._form.max_rows:
            raise PayloadTooLarge(
                f"{wanted.name} has {num_rows} rows; at most {self._form.max_rows} are read.",
                hint="Raise max_rows, or name a view that holds what is wanted.",
                param="max_rows",
            )
        order = [source.c[each] for each in (*(wanted.group_by or ()), *facts.key)]
        query = select(*(source.c[each] for each in facts.columns)).order_by(*order)
        rows = connection.execution_options(stream_results=True, yield_per=_BATCH).execute(query)
        kept = self._askable(wanted, facts)
        try:
            values = self._read(rows, wanted, facts, kept)
            documents = self._grouped(values, wanted, facts) if wanted.group_by else self._rows(values, wanted, facts)
            if wanted.documents:
                yield from documents
            else:
                deque(values, maxlen=0)
            # After its rows: it is made of them.
            if wanted.card:
                yield self._card(wanted, facts, num_rows, kept)
        finally:
            rows.close()
            if kept is not None:
                kept.close()

    def _askable(self, wanted: TableForm, facts: _Facts) -> TableRows | None:
        """Where the rows go that questions are computed from; None: they are not."""
        if not wanted.card or not wanted.ask:
            return None
        if wanted.access is not None:
            self._around.note(f"{wanted.name} is not asked as a table: its rows have readers of their own.")
            return None
        limit = min(self._around.limits.max_file_bytes, MAX_TABLE_BYTES)
        return TableRows(self._around.workdir / "table.rows", facts.told(wanted), max_bytes=limit)

    def _read(self, rows: Iterable[Any], wanted: TableForm, facts: _Facts, kept: TableRows | None) -> Iterator[dict[str, str]]:
        hidden = hidden_rows(self._around.hidden, wanted.name)
        for row in rows:
            values = self._values(row._mapping)
            if kept is not None:
                kept.add(row._mapping, is_hidden=bool(hidden) and _is_hidden(values, wanted, facts, hidden))
            yield values

    def _card(self, wanted: TableForm, facts: _Facts, num_rows: int, kept: TableRows | None) -> Item:
        key, name, card = f"{wanted.name}/card", f"{wanted.name} (table)", facts.card(num_rows)
        if kept is None:
            return text_item(key, name, card, media_type="text/markdown")
        head, fingerprint = kept.finish(facts.described_rows(wanted, [each.name for each in self._form.tables], card))
        if kept.fault is not None:
            self._around.note(f"{wanted.name} is not asked as a table: {kept.fault}.")
            return text_item(key, name, card, media_type="text/markdown")
        return Item(
            key=key,
            name=name,
            fingerprint=fingerprint,
            read=lambda: kept.read(head),
            num_bytes=len(head) + kept.num_bytes,
            media_type=TABLE_ROWS,
            left_out=digest_of(hidden_rows(self._around.hidden, wanted.name)),
        )

    def _values(self, row: Mapping[Any, Any]) -> dict[str, str]:
        self._around.stop_if_cancelled()
        self._tick()
        return {str(name): _written(value) for name, value in row.items()}

    def _rows(self, rows: Iterator[dict[str, str]], wanted: TableForm, facts: _Facts) -> Iterator[Item]:
        seen: set[str] = set()
        for values in rows:
            content = _row_text(values, wanted, facts)
            key = _key(values, facts.key, content)
            if key in seen:
                if wanted.key is not None:
                    raise InvalidData(
                        f"Two rows of {wanted.name} have the same {', '.join(facts.key)}: {key[:100]}.",
                        hint="Name columns that tell its rows apart in key.",
                        param="key",
                    )
                continue  # a view may hold the same row twice: it says nothing new
            seen.add(key)
            title = filled(wanted.title, values, where=wanted.name) if wanted.title else f"{wanted.name} {key}"
            yield self._item(wanted, key, title[:500], content, values)

    def _grouped(self, rows: Iterator[dict[str, str]], wanted: TableForm, facts: _Facts) -> Iterator[Item]:
        """Rows come in the order of their groups, so that one group at a time is held."""
        names = wanted.group_by or []
        current: list[str] | None = None
        parts: list[str] = []
        first: dict[str, str] = {}
        num_chars = 0
        for values in rows:
            group = [values[name] for name in names]
            if group != current:
                if current is not None:
                    yield self._group(wanted, current, parts, first)
                current, parts, first, num_chars = group, [], values, 0
            elif wanted.access is not None:
                # Whoever reads the group reads all its rows.
                both = set(_names(first[wanted.access])) & set(_names(values[wanted.access]))
                first = {**first, wanted.access: ",".join(sorted(both))}
            parts.append(_row_text(values, wanted, facts))
            num_chars += len(parts[-1])
            if num_chars > _MAX_GROUP_CHARS:
                raise PayloadTooLarge(
                    f"The group {', '.join(group)} of {wanted.name} has more than {_MAX_GROUP_CHARS} characters.",
                    hint="Group by more columns.",
                    param="group_by",
                )
        if current is not None:
            yield self._group(wanted, current, parts, first)

    def _group(self, wanted: TableForm, group: Sequence[str], parts: Sequence[str], first: dict[str, str]) -> Item:
        title = filled(wanted.title, first, where=wanted.name) if wanted.title else f"{wanted.name} {', '.join(group)}"
        return self._item(wanted, _joined(group), title[:500], "\n\n".join(parts), first)

    def _item(self, wanted: TableForm, key: str, title: str, content: str, values: Mapping[str, str]) -> Item:
        # An empty cell names nobody, which must not come to mean everybody.
        access = None if wanted.access is None else _names(values[wanted.access]) or [NOBODY]
        told = attributes_of({"table": wanted.name, "row": key})
        place = _full_key(wanted, key)
        return text_item(place, title, content, media_type="text/plain", attributes=told, access=access)

    # -- connections --------------------------------------------------------------------------------------------------

    def _engine(self) -> Engine:
        if self._form.dialect == "sqlite":
            return self._sqlite()
        driver, library, extra = _DRIVERS[self._form.dialect]
        host, port = self._form.host or "", self._form.port or (5432 if self._form.dialect == "postgresql" else 3306)
        addresses = egress.check_host(host, port, self._around.policy.egress_allow)
        limit_ms = math.ceil(self._form.timeout_s * 1000)
        told: dict[str, Any] = {"connect_timeout": _CONNECT_S}
        if self._form.dialect == "postgresql":
            # The name stays for TLS, the address is the checked one. Nothing of the server's own environment is used.
            told |= {"hostaddr": addresses[0], "passfile": "/dev/null", "application_name": "modelworks"}
            told["options"] = f"-c default_transaction_read_only=on -c statement_timeout={limit_ms} -c lock_timeout={limit_ms}"
        else:
            told |= {"read_timeout": math.ceil(self._form.timeout_s) + 5, "local_infile": False}
            host = addresses[0]
        url = URL.create(
            driver,
            username=self._form.user,
            password=None if self._around.credential is None else self._around.credential.strip("\r\n"),
            host=host,
            port=port,
            database=self._form.database,
        )
        try:
            engine = create_engine(url, poolclass=NullPool, connect_args=told, hide_parameters=True)
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise MissingExtra.of(library, extra) from error
        if self._form.dialect != "postgresql":
            event.listen(
                engine, "connect", partial(_restrict_mysql, dialect=self._form.dialect, timeout_s=self._form.timeout_s)
            )
        # Every table as it was at one moment.
        return engine.execution_options(
            isolation_level="REPEATABLE READ", **({"postgresql_readonly": True} if self._form.dialect == "postgresql" else {})
        )

    def _sqlite(self) -> Engine:
        if self._form.digest is not None:
            place = self._around.upload(self._form.digest, "database")
        else:
            place = self._copied(local_path(self._form.uri or "", self._around.policy))
        engine = create_engine(f"sqlite:///file:{quote(str(place))}?mode=ro&uri=true", poolclass=NullPool)
        event.listen(engine, "connect", self._restrict_sqlite)
        return engine

    def _copied(self, place: Path) -> Path:
        """A copy as of one moment: whoever writes to the database does not wait until everything is read."""
        if not place.is_file():
            raise NotFound(f"The database {place} does not exist on the server's machine.", hint="Check the path.", param="uri")
        if place.stat().st_size > self._around.limits.max_bytes:
            raise PayloadTooLarge(
                f"The database {place} is larger than the allowed {self._around.limits.max_bytes} bytes.",
                hint="Raise limits.max_bytes, if it is wanted.",
            )
        copy = self._around.workdir / "database.sqlite"
        copy.unlink(missing_ok=True)
        ends = time.monotonic() + self._form.timeout_s

        def look(_status: int, _left: int, _total: int) -> None:
            self._around.stop_if_cancelled()
            if time.monotonic() > ends:
                raise TimedOut(f"The database {place} is locked or changes all the time.", hint="Sync again later.")

        try:
            with (
                closing(sqlite3.connect(f"file:{quote(str(place))}?mode=ro", uri=True, timeout=_LOCK_S)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target, pages=_PAGES, progress=look, sleep=0.1)
        except sqlite3.DatabaseError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise TimedOut(f"The database {place} is locked by somebody else.", hint="Sync again later.") from error
            raise InvalidData(
                f"{place} is no SQLite database, or damaged.", hint="Copy it anew.", code="invalid_database"
            ) from error
        return copy

    def _restrict_sqlite(self, connection: sqlite3.Connection, _record: object) -> None:
        """Nothing is written, nothing else is opened, and no statement runs for ever without a row."""
        self._tick()
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_progress_handler(lambda: time.monotonic() > self._ends, _STEPS)

    def _tick(self) -> None:
        self._ends = time.monotonic() + self._form.timeout_s

    @contextmanager
    def _readable_failures(self) -> Iterator[None]:
        where = self._form.database or self._form.uri or "the uploaded database"
        try:
            yield
        except ModelworksError:
            raise
        except DBAPIError as error:
            raise _readable(error, where, self._form) from None  # its own text may hold values
        except SQLAlchemyError as error:
            raise UpstreamFailed(
                f"{where} cannot be read: {type(error).__name__}.", hint="Check dialect and address."
            ) from None


class _Facts:
    """What a database says of a table."""

    def __init__(self, name: str, described: Sequence[Mapping[str, Any]], key: Sequence[str]) -> None:
        self.name = name
        self.described = described
        self.columns = [str(each["name"]) for each in described]
        self.key = list(key)
        self.primary: list[str] = []
        self.foreign: list[Mapping[str, Any]] = []
        self.comment: str | None = None

    @classmethod
    def of(cls, connection: Connection, name: str, schema: str | None, wanted: TableForm) -> _Facts:
        """Raises NotFound: no such table or column."""
        inspector = inspect(connection)
        try:
            described = list(inspector.get_columns(name, schema=schema))
        except NoSuchTableError:
            known = sorted([*inspector.get_table_names(schema=schema), *inspector.get_view_names(schema=schema)])
            raise NotFound(
                f"The database has no table or view {wanted.name!r}.", hint=f"It has: {', '.join(known[:30])}.", param="tables"
            ) from None
        names = [str(each["name"]) for each in described]
        asked = [
            *(wanted.columns or ()),
            *(wanted.key or ()),
            *(wanted.group_by or ()),
            *([wanted.access] if wanted.access else ()),
        ]
        for each in asked:
            if each not in names:
                raise NotFound(
                    f"{wanted.name} has no column {each!r}.", hint=f"It has: {', '.join(names[:50])}.", param="tables"
                )
        primary = list(inspector.get_pk_constraint(name, schema=schema).get("constrained_columns") or ())
        kept = names if wanted.columns is None else [each for each in names if each in asked or each in primary]
        facts = cls(wanted.name, [each for each in described if each["name"] in kept], wanted.key or primary)
        facts.primary = primary
        facts.foreign = [dict(each) for each in inspector.get_foreign_keys(name, schema=schema)]
        try:
            facts.comment = inspector.get_table_comment(name, schema=schema).get("text")
        except NotImplementedError:
            facts.comment = None  # SQLite has none
        return facts

    def told(self, wanted: TableForm) -> list[str]:
        """The columns whose values its documents tell: no others are asked."""
        if wanted.columns is not None:
            return [each for each in self.columns if each in wanted.columns]
        if wanted.template is None or not wanted.documents:
            return self.columns
        named = {*_NAMED.findall(f"{wanted.template} {wanted.title or ''}"), *(wanted.group_by or ()), *self.key}
        return [each for each in self.columns if each in named]

    def described_rows(self, wanted: TableForm, tables: Sequence[str], card: str) -> dict[str, Any]:
        """What its rows are, for whoever asks them; `tables` are those that it may refer to."""
        comments = {str(each["name"]): str(each["comment"]) for each in self.described if each.get("comment")}
        references = []
        for each in self.foreign:
            here, there = each["constrained_columns"], each["referred_columns"]
            other = _named_so(tables, each.get("referred_schema"), each["referred_table"])
            if len(here) == len(there) == 1 and other is not None:
                references.append([here[0], other, there[0]])
        return {
            "table": wanted.name.rpartition(".")[2],
            "id": wanted.name,
            "comment": self.comment,
            "comments": comments,
            "key": self.primary,
            "references": references,
            "card": card,
        }

    def card(self, num_rows: int) -> str:
        """The table in words: for questions about what there is, and for whoever writes a query."""
        lines = [f"# {self.name}", ""]
        if self.comment:
            lines += [self.comment, ""]
        lines += [f"{num_rows} rows.", "", "| column | type | may be empty | meaning |", "|---|---|---|---|"]
        for each in self.described:
            meaning = str(each.get("comment") or "").replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {each['name']} | {each['type']} | {'yes' if each.get('nullable', True) else 'no'} | {meaning} |")
        if self.primary:
            lines += ["", f"Primary key: {', '.join(self.primary)}."]
        for each in self.foreign:
            here, there = ", ".join(each["constrained_columns"]), ", ".join(each["referred_columns"])
            lines.append(f"{here} refers to {each['referred_table']} ({there}).")
        return "\n".join(lines) + "\n"


def _named_so(tables: Sequence[str], schema: str | None, name: str) -> str | None:
    """The one of the tables that a foreign key refers to; where the key names no schema, the only one of that name."""
    full = f"{schema}.{name}" if schema else name
    if full in tables:
        return full
    alike = [each for each in tables if each.rpartition(".")[2] == name and (not schema or "." not in each)]
    return alike[0] if len(alike) == 1 else None


def _is_hidden(values: Mapping[str, str], wanted: TableForm, facts: _Facts, hidden: frozenset[str]) -> bool:
    """Whether the document that a row stands in is hidden."""
    if wanted.group_by:
        key = _joined([values[name] for name in wanted.group_by])
    else:
        key = _key(values, facts.key, "" if facts.key else _row_text(values, wanted, facts))
    full = _full_key(wanted, key)
    return full in hidden or forgotten_key(full) in hidden


def _full_key(wanted: TableForm, key: str) -> str:
    return f"{wanted.name}/row/{key}"[:MAX_KEY_CHARS]


def _row_text(values: Mapping[str, str], wanted: TableForm, facts: _Facts) -> str:
    if wanted.template is not None:
        return filled(wanted.template, values, where=wanted.name)
    shown = facts.columns if wanted.columns is None else wanted.columns
    return "\n".join(f"{name}: {values[name]}" for name in shown if values[name])


def _key(values: Mapping[str, str], names: Sequence[str], content: str) -> str:
    return _joined([values[name] for name in names]) if names else hashlib.sha256(content.encode()).hexdigest()[:32]


def _names(cell: str) -> list[str]:
    return [each.strip() for each in cell.split(",") if each.strip()]


def _joined(values: Sequence[str]) -> str:
    """Values as one key: no two lists give the same."""
    plain = values[0] if len(values) == 1 else json.dumps(list(values), ensure_ascii=False)
    return plain if len(plain) <= 300 else f"sha256:{hashlib.sha256(plain.encode()).hexdigest()}"


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(bytes(value))} bytes)"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)[:_MAX_VALUE_CHARS]
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value)[:_MAX_VALUE_CHARS].replace("\0", "")


def _restrict_mysql(connection: Any, _record: object, *, dialect: str, timeout_s: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        if dialect == "mysql":
            cursor.execute(f"SET SESSION max_execution_time = {math.ceil(timeout_s * 1000)}")
        else:
            cursor.execute(f"SET SESSION max_statement_time = {timeout_s:g}")


def _readable(error: DBAPIError, where: str, form: DatabaseForm) -> ModelworksError:
    said = str(error.orig).lower()
    name = type(error.orig).__name__
    if (
        name == "QueryCanceled"
        or "interrupted" in said
        or "maximum statement execution time" in said
        or "max_statement_time" in said
    ):
        return TimedOut(
            f"A statement on {where} took longer than {form.timeout_s:g} s.", hint="Raise timeout_s, or name a smaller view."
        )
    if name == "LockNotAvailable" or "database is locked" in said:
        return TimedOut(f"{where} is locked by somebody else.", hint="Sync again later.")
    if "password" in said or "authentication" in said or "access denied" in said:
        return PermissionDenied(
            f"{where} refuses the user {form.user!r} with that password.", hint="Store it anew.", param="secret"
        )
    if "permission denied" in said or name == "InsufficientPrivilege":
        return PermissionDenied(f"{form.user!r} may not read a table of {where}.", hint="Grant SELECT on it.", param="tables")
    if "not a database" in said or "malformed" in said:
        return InvalidData(f"{where} is no SQLite database, or damaged.", hint="Copy it anew.", code="invalid_database")
    return UpstreamFailed(f"{where} cannot be read: {name}.", hint="Check its address, and try again later.")
