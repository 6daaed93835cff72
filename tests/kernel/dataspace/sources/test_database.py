"""Rows of real databases: SQLite files, and PostgreSQL where a server is given."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from tests.kernel.dataspace.sources.surroundings import contents, listed, opened, surroundings

from modelworks.contract.errors import (
    InvalidData,
    InvalidRequest,
    MissingExtra,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    TimedOut,
)
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources.forms import SOURCE_FORM, SourceLimits

_TABLES = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (
  id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers (id), item TEXT, price NUMERIC, note TEXT, readers TEXT
);
INSERT INTO customers VALUES (1, '王'), (2, 'O''Hara');
INSERT INTO orders VALUES (10, 1, 'pump', 12.5, NULL, 'usr_1, usr_2');
INSERT INTO orders VALUES (11, 1, 'valve', 3, '{item}', 'usr_2'), (12, 2, 'pump', 12.5, 'late', '');
CREATE VIEW sales AS SELECT c.name, o.item, o.price FROM orders o JOIN customers c ON c.id = o.customer;
"""
_SQL = {"kind": "sql", "dialect": "sqlite"}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    place = tmp_path / "shop & more.sqlite"
    with closing(sqlite3.connect(place)) as connection:
        connection.executescript(_TABLES)
    return place


def _scan(tmp_path: Path, database: Path, *tables: dict[str, Any], **more: Any) -> dict[str, str]:
    source = opened(surroundings(tmp_path), **_SQL, uri=database.as_uri(), tables=list(tables), **more)
    return {key: content.decode() for key, content in contents(source).items()}


def test_rows_are_documents_and_a_card_says_what_the_table_holds(tmp_path: Path, database: Path) -> None:
    found = _scan(tmp_path, database, {"name": "orders"})
    assert set(found) == {"orders/card", "orders/row/10", "orders/row/11", "orders/row/12"}
    assert found["orders/row/10"] == "id: 10\ncustomer: 1\nitem: pump\nprice: 12.5\nreaders: usr_1, usr_2"
    assert "3 rows." in found["orders/card"]
    assert "| price | NUMERIC | yes |" in found["orders/card"]
    assert "customer refers to customers (id)." in found["orders/card"]


def test_a_template_says_what_a_row_means(tmp_path: Path, database: Path) -> None:
    wanted = {"name": "orders", "template": "{{{id}}}: {item} for {price}. {note}", "title": "Order {id}", "card": False}
    found = _scan(tmp_path, database, wanted)
    assert found["orders/row/11"] == "{11}: valve for 3. {item}", "a value is not a template"
    items = listed(opened(surroundings(tmp_path), **_SQL, uri=database.as_uri(), tables=[wanted]))
    assert items["orders/row/10"].name == "Order 10"
    with pytest.raises(InvalidRequest, match="'colour'"):
        _scan(tmp_path, database, {"name": "orders", "template": "{colour}"})


def test_rows_in_groups_and_of_views(tmp_path: Path, database: Path) -> None:
    found = _scan(tmp_path, database, {"name": "sales", "group_by": ["name"], "template": "{item}", "card": False})
    assert found == {"sales/row/王": "pump\n\nvalve", "sales/row/O'Hara": "pump"}
    rows = _scan(tmp_path, database, {"name": "sales", "columns": ["item"], "card": False})
    assert sorted(rows.values()) == ["item: pump", "item: valve"], "a view without a key: equal rows are one"


def test_who_may_read_a_row(tmp_path: Path, database: Path) -> None:
    items = listed(
        opened(surroundings(tmp_path), **_SQL, uri=database.as_uri(), tables=[{"name": "orders", "access": "readers"}])
    )
    assert items["orders/row/10"].access == ["usr_1", "usr_2"]
    assert items["orders/row/12"].access == ["nobody"], "an empty list is not everybody"
    assert items["orders/card"].access is None
    grouped = {"name": "orders", "access": "readers", "group_by": ["customer"]}
    items = listed(opened(surroundings(tmp_path), **_SQL, uri=database.as_uri(), tables=[grouped]))
    assert items["orders/row/1"].access == ["usr_2"], "whoever reads a group may read all its rows"


def test_only_what_changed_has_another_fingerprint(tmp_path: Path, database: Path) -> None:
    def prints() -> dict[str, str]:
        source = opened(surroundings(tmp_path), **_SQL, uri=database.as_uri(), tables=[{"name": "orders"}])
        return {key: item.fingerprint for key, item in listed(source).items()}

    before = prints()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE orders SET price = 99 WHERE id = 11")
    after = prints()
    assert {key for key in after if after[key] != before[key]} == {"orders/row/11", "orders/card"}


def test_nothing_is_written_and_nobody_has_to_wait(tmp_path: Path, database: Path) -> None:
    before = database.read_bytes()
    scan = opened(surroundings(tmp_path), **_SQL, uri=database.as_uri(), tables=[{"name": "orders"}]).scan()
    next(scan)
    with closing(sqlite3.connect(database, timeout=0.1)) as connection, connection:
        connection.execute("INSERT INTO customers VALUES (3, 'new')")
    assert len(list(scan)) == 3
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM customers WHERE id = 3")
    assert len(before) == len(database.read_bytes())


def test_an_uploaded_database_that_wants_to_do_things(tmp_path: Path, database: Path) -> None:
    """Views of a stranger's file: one that runs for ever, one that asks for a function that touches files."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "CREATE VIEW endless AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) AS x FROM n"
        )
        connection.commit()
    around = surroundings(tmp_path)
    digest = around.blobs.put_file(database).digest
    with pytest.raises(TimedOut, match="longer than"):
        listed(opened(around, **_SQL, digest=digest, tables=[{"name": "endless"}], timeout_s=0.2))
    (tmp_path / "no.sqlite").write_bytes(b"SQLite format 3\0 and then nothing that makes sense" * 50)
    with pytest.raises(InvalidData) as caught:
        _scan(tmp_path, tmp_path / "no.sqlite", {"name": "orders"})
    assert caught.value.error_code == "invalid_database"


def test_limits_and_refusals(tmp_path: Path, database: Path) -> None:
    with pytest.raises(PayloadTooLarge, match="has 3 rows"):
        _scan(tmp_path, database, {"name": "orders"}, max_rows=2)
    around = surroundings(tmp_path, limits=SourceLimits(max_bytes=10))
    with pytest.raises(PayloadTooLarge, match="larger than the allowed"):
        listed(opened(around, **_SQL, uri=database.as_uri(), tables=[{"name": "orders"}]))
    for name in ("nothing", "orders; DROP TABLE orders", 'orders" UNION SELECT 1 --'):
        with pytest.raises(NotFound, match="no table or view"):
            _scan(tmp_path, database, {"name": name})
    with pytest.raises(NotFound, match="no column"):
        _scan(tmp_path, database, {"name": "orders", "columns": ["id, (SELECT 1)"]})
    with pytest.raises(InvalidData, match="the same item"):
        _scan(tmp_path, database, {"name": "orders", "key": ["item"]})
    with pytest.raises(NotFound, match="does not exist"):
        _scan(tmp_path, tmp_path / "gone.sqlite", {"name": "orders"})
    with pytest.raises(PermissionDenied):
        opened(surroundings(tmp_path), **_SQL, uri="file:///etc/x.sqlite", tables=[{"name": "x"}]).scan().__next__()


def test_a_locked_database_is_told_and_not_waited_for(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.dataspace.sources.database._LOCK_S", 0.05)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TimedOut, match="locked"):
            _scan(tmp_path, database, {"name": "orders"}, timeout_s=0.2)


def test_servers_are_guarded_as_every_other_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    given = {"kind": "sql", "host": "127.0.0.1", "database": "x", "user": "u", "tables": [{"name": "t"}]}
    with pytest.raises(PermissionDenied) as caught:
        listed(opened(surroundings(tmp_path, policy=SourcePolicy()), **given, dialect="postgresql"))
    assert caught.value.error_code == "egress_denied"
    with pytest.raises(MissingExtra, match="pymysql"):
        listed(opened(surroundings(tmp_path), **given, dialect="mysql"))
    with pytest.raises(ValueError, match="needs host"):
        SOURCE_FORM.validate_python({"kind": "sql", "dialect": "postgresql", "tables": [{"name": "t"}]})


@pytest.mark.postgres
def test_postgresql_is_read_and_only_read(tmp_path: Path, postgres_schema: str) -> None:
    url = make_url(postgres_schema)
    schema = str(url.query["options"]).rpartition("=")[2]
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE parts (id int PRIMARY KEY, name text, made timestamptz, data jsonb, raw bytea)"))
        connection.execute(text("COMMENT ON TABLE parts IS 'What is in stock'"))
        connection.execute(text("INSERT INTO parts VALUES (1, '阀', '2026-03-02T10:00:00Z', '{\"a\": [1]}', '\\x0102')"))
        connection.execute(
            text(f"CREATE FUNCTION grow() RETURNS int LANGUAGE sql AS 'INSERT INTO {schema}.parts VALUES (2) RETURNING id'")
        )
        connection.execute(text("CREATE VIEW writing AS SELECT grow() AS id"))
        connection.execute(text("CREATE VIEW slow AS SELECT 1 AS id FROM pg_sleep(20)"))
    given = {
        "kind": "sql",
        "dialect": "postgresql",
        "host": url.host,
        "port": url.port,
        "database": url.database,
        "user": url.username,
    }
    around = surroundings(tmp_path, credential=url.password)
    found = contents(opened(around, **given, secret="db", tables=[{"name": f"{schema}.parts"}]))
    assert found[f"{schema}.parts/row/1"].decode().splitlines()[1] == "name: 阀"
    assert b'data: {"a": [1]}\nraw: (2 bytes)' in found[f"{schema}.parts/row/1"]
    assert b"What is in stock" in found[f"{schema}.parts/card"]
    with pytest.raises(Exception, match="cannot be read: ReadOnlySqlTransaction"):
        listed(opened(around, **given, secret="db", tables=[{"name": f"{schema}.writing"}]))
    with pytest.raises(TimedOut, match="longer than"):
        listed(opened(around, **given, secret="db", tables=[{"name": f"{schema}.slow"}], timeout_s=0.1))
    with pytest.raises(PermissionDenied, match="refuses the user") as caught:
        listed(opened(surroundings(tmp_path, credential="wrong-1"), **given, secret="db", tables=[{"name": f"{schema}.parts"}]))
    assert "wrong-1" not in f"{caught.value.message}{caught.value.__cause__}"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM parts")).scalar_one() == 1
    engine.dispose()
