"""Tables of databases as they are asked: types, NULLs, references, hostile names, limits, and rows that are left out."""

from __future__ import annotations

import datetime
import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from tests.kernel.dataspace.sources.surroundings import contents, listed, opened, surroundings

from modelworks.contract.errors import ModelworksError
from modelworks.contract.passages import TABLE_ROWS
from modelworks.kernel.dataspace.sources.forms import SourceLimits
from modelworks.kernel.dataspace.sources.rows import cell
from modelworks.kernel.dataspace.sources.source import forgotten_key
from modelworks.tables.answering import answer
from modelworks.tables.card import Card
from modelworks.tables.snapshot import build

_TABLES = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, zip TEXT, since DATE);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers, item TEXT, price NUMERIC, note TEXT);
INSERT INTO customers VALUES (1, '王', '00501', '2023-01-05'), (2, 'O''Hara', 'NA', '2024-02-29'), (3, 'Ada', '', NULL);
INSERT INTO orders VALUES (10, 1, 'pump', 12.5, NULL), (11, 1, 'valve', 3, ''), (12, 2, 'pump', 0.1, 'late'), (13, 2, 'pump', NULL, NULL);
"""  # noqa: E501
_SQL = {"kind": "sql", "dialect": "sqlite"}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    place = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(place)) as connection:
        connection.executescript(_TABLES)
    return place


def scanned(tmp_path: Path, database: Path, *tables: dict[str, Any], **around: Any) -> dict[str, bytes]:
    return contents(opened(surroundings(tmp_path, **around), **_SQL, uri=database.as_uri(), tables=list(tables)))


def snapshot(tmp_path: Path, *documents: bytes) -> tuple[Path, Card]:
    sources = [tmp_path / f"{at}.rows" for at, _ in enumerate(documents)]
    for source, content in zip(sources, documents, strict=True):
        source.write_bytes(content)
    target = tmp_path / "made.sqlite"
    return target, build(sources, "rows", "shop", target)


def asked(place: Path, question: str) -> list[list[Any]] | None:
    found = answer([place], question)
    return None if found is None else found.result.rows


def test_tables_are_asked_with_their_types_and_joined_by_their_keys(tmp_path: Path, database: Path) -> None:
    found = scanned(tmp_path, database, {"name": "orders"}, {"name": "customers"})
    place, card = snapshot(tmp_path, found["orders/card"], found["customers/card"])
    orders, customers = card.tables
    assert [(each.name, each.kind) for each in customers.columns] == [
        ("id", "integer"),
        ("name", "text"),
        ("zip", "text"),
        ("since", "date"),
    ]
    assert (orders.column("price").kind, orders.column("price").num_empty) == ("number", 1)  # type: ignore[union-attr]
    assert [(each.column, each.table, each.other) for each in orders.references] == [("customer", "customers", "id")]
    with closing(sqlite3.connect(place)) as connection:
        assert connection.execute("SELECT note FROM orders ORDER BY id").fetchall() == [(None,), ("",), ("late",), (None,)]
        assert connection.execute("SELECT zip FROM customers ORDER BY id").fetchall() == [("00501",), ("NA",), ("",)]
    assert asked(place, "What is the sum of price of orders by name?") == [["O'Hara", 0.1], ["王", 15.5]]
    assert asked(place, "How many orders are there of pump?") == [[3]]
    assert asked(place, "How many customers are since 2024?") == [[1]]


def test_only_what_documents_tell_is_asked(tmp_path: Path, database: Path) -> None:
    def columns(**wanted: Any) -> list[str]:
        head = scanned(tmp_path, database, {"name": "orders", **wanted})["orders/card"].partition(b"\n")[0]
        return list(json.loads(head)["columns"])

    assert columns(columns=["item", "price"]) == ["item", "price"]
    assert columns(template="{item}: {note}") == ["id", "item", "note"]
    assert columns() == ["id", "customer", "item", "price", "note"]


@pytest.mark.parametrize("wanted", [{"ask": False}, {"access": "note"}])
def test_a_table_that_is_not_asked_has_its_card_alone(tmp_path: Path, database: Path, wanted: dict[str, Any]) -> None:
    around = surroundings(tmp_path)
    items = listed(opened(around, **_SQL, uri=database.as_uri(), tables=[{"name": "orders", **wanted}]))
    assert items["orders/card"].media_type == "text/markdown"
    assert bool(around.notes) is ("access" in wanted)


def test_a_table_may_be_asked_without_documents_of_its_rows(tmp_path: Path, database: Path) -> None:
    found = scanned(tmp_path, database, {"name": "orders", "documents": False})
    assert [*found] == ["orders/card"]
    assert len(found["orders/card"].splitlines()) == 5


def test_what_was_removed_or_closed_is_not_in_the_table(tmp_path: Path, database: Path) -> None:
    hidden = frozenset({"orders/row/10", forgotten_key("orders/row/12"), "customers/row/1"})
    content = scanned(tmp_path, database, {"name": "orders"}, hidden=hidden)["orders/card"]
    assert [json.loads(line)[1][0] for line in content.splitlines()[1:]] == ["11", "13"]
    assert json.loads(content.splitlines()[0])["num_left_out"] == 2
    grouped = {"name": "orders", "group_by": ["customer"]}
    content = scanned(tmp_path, database, grouped, hidden=frozenset({"orders/row/1"}))["orders/card"]
    assert [json.loads(line)[1][0] for line in content.splitlines()[1:]] == ["12", "13"]


def test_rows_in_another_order_are_the_same_table(tmp_path: Path, database: Path) -> None:
    def fingerprint(order: str) -> str:
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(f"DROP VIEW IF EXISTS v; CREATE VIEW v AS SELECT item, price FROM orders ORDER BY {order}")
        return listed(opened(surroundings(tmp_path), **_SQL, uri=database.as_uri(), tables=[{"name": "v"}]))[
            "v/card"
        ].fingerprint

    first = fingerprint("id")
    assert fingerprint("id DESC") == first
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM orders WHERE id = 13")
    assert fingerprint("id") != first


def test_a_table_that_is_too_large_has_its_card_and_a_note(tmp_path: Path, database: Path) -> None:
    """A limit of rows or bytes stops what is written, not the sync; nothing is left in the work folder."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "WITH RECURSIVE n(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM n WHERE x < 20000) "
            "INSERT INTO orders SELECT x, 1, 'a long name of an item that is bought often', x, NULL FROM n"
        )
    around = surroundings(tmp_path, limits=SourceLimits(max_file_bytes=10_000))
    source = opened(around, **_SQL, uri=database.as_uri(), tables=[{"name": "orders", "documents": False}])
    [item] = source.scan()
    assert (item.media_type, item.fault) == ("text/markdown", None)
    assert "is not asked as a table: it has more than 10000 bytes" in around.notes[0]
    assert not (around.workdir / "table.rows").exists()


def test_hostile_names_and_values(tmp_path: Path) -> None:
    database = tmp_path / "hostile.sqlite"
    table, column = 'a"; DROP TABLE x; --/row/1', "_card\u202e]`'"
    with closing(sqlite3.connect(database)) as connection:
        quoted, name = table.replace('"', '""'), column.replace('"', '""')
        connection.execute(f'CREATE TABLE "{quoted}" (id INTEGER PRIMARY KEY, "{name}" TEXT, "sqlite_x" INT)')
        connection.execute("CREATE TABLE _values (id INTEGER PRIMARY KEY, ref INTEGER REFERENCES _card)")
        connection.execute("CREATE TABLE _card (id INTEGER PRIMARY KEY, json TEXT)")
        connection.execute(
            f'INSERT INTO "{quoted}" VALUES (1, ?, 2)', ("\ud800x\0[1]\n[0,[]]".encode("utf-8", "replace").decode(),)
        )
        connection.execute("INSERT INTO _card VALUES (7, '{\"format\": 1}')")
        connection.execute("INSERT INTO _values VALUES (1, 7)")
        connection.commit()
    found = scanned(tmp_path, database, {"name": table}, {"name": "_values"}, {"name": "_card"})
    assert len(found) == 6
    place, card = snapshot(tmp_path, found[f"{table}/card"], found["_values/card"], found["_card/card"])
    assert [each.num_rows for each in card.tables] == [1, 1, 1]
    [reference] = card.tables[1].references
    assert reference.table == card.tables[2].name == "t_card", "our own tables keep their names"
    with closing(sqlite3.connect(place)) as connection:
        assert Card.of(connection).tables == card.tables


def test_a_database_that_goes_in_mid_sync_changes_nothing(tmp_path: Path, database: Path) -> None:
    class Gone(Exception):
        pass

    around = surroundings(tmp_path)
    source: Any = opened(around, **_SQL, uri=database.as_uri(), tables=[{"name": "orders"}, {"name": "customers"}])
    scan = source.scan()
    items = [next(scan)]
    # The copy is made at once: the file may go. What then fails is the copy itself.
    database.unlink()
    items += scan
    assert len(items) == 9
    broken = around.workdir / "upload" / "database"
    broken.parent.mkdir()
    broken.write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    with pytest.raises(ModelworksError):
        listed(opened(around, **_SQL, digest="sha256:" + "0" * 64, tables=[{"name": "orders"}]))
    assert not (around.workdir / "table.rows").exists()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, (None, False)),
        (True, ("TRUE", True)),
        (Decimal("12.50"), ("12.50", False)),
        (Decimal("1E+3"), ("1000", False)),
        (Decimal("12345678901234567.25"), ("12345678901234567.25", True)),
        (Decimal("NaN"), (None, False)),
        (float("nan"), (None, False)),
        (float("inf"), ("inf", True)),
        (1e-07, ("1e-07", False)),
        ("007", ("007", True)),
        ("2024-03-01", ("2024-03-01", False)),
        (datetime.date(2024, 3, 1), ("2024-03-01", False)),
        (datetime.datetime.fromisoformat("2024-03-01T00:30:00+02:00"), ("2024-02-29 22:30:00", False)),
        (datetime.timedelta(hours=30), ("1 day, 6:00:00", True)),
        (b"abc", ("(3 bytes)", True)),
        ({"a": [1]}, ('{"a": [1]}', True)),
    ],
)
def test_values_are_what_the_database_says(value: Any, told: tuple[str | None, bool]) -> None:
    assert cell(value) == told


@pytest.mark.postgres
def test_tables_of_postgresql(tmp_path: Path, postgres_schema: str) -> None:
    url = make_url(postgres_schema)
    schema = str(url.query["options"]).rpartition("=")[2]
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE region (code text PRIMARY KEY, name text)",
            "CREATE TABLE sale (id int PRIMARY KEY, region text REFERENCES region, amount numeric(14,2), at timestamptz, "
            "day date, ok boolean, tag uuid)",
            "COMMENT ON COLUMN sale.amount IS 'turnover'",
            "INSERT INTO region VALUES ('NA', 'North'), ('S', 'South')",
            "INSERT INTO sale VALUES (1, 'NA', 10.10, '2024-03-01T00:30:00+02', '2024-03-01', true, NULL), "
            "(2, 'NA', 20.20, NULL, '2024-04-01', false, NULL), (3, 'S', NULL, NULL, NULL, NULL, gen_random_uuid()), "
            "(4, 'S', 12345678901.25, NULL, NULL, NULL, NULL)",
            "CREATE VIEW sold AS SELECT region, amount FROM sale",
        ):
            connection.execute(text(statement))
    engine.dispose()
    server = {"host": url.host, "port": url.port, "database": url.database, "user": url.username, "secret": "db"}
    names = [f"{schema}.{each}" for each in ("sale", "region", "sold")]
    given = {"kind": "sql", "dialect": "postgresql", **server, "tables": [{"name": each} for each in names]}
    found = contents(opened(surroundings(tmp_path, credential=url.password), **given))
    place, card = snapshot(tmp_path, *(found[f"{each}/card"] for each in names[:2]))
    sale = card.tables[0]
    assert [each.kind for each in sale.columns] == ["integer", "text", "number", "date", "date", "text", "text"]
    assert (sale.columns[2].comment, sale.columns[3].least, sale.num_rows) == ("turnover", "2024-02-29 22:30:00", 4)
    sums = asked(place, "What is the sum of turnover by name?")
    assert sums == [["North", pytest.approx(30.3)], ["South", 12345678901.25]]
    view, card = snapshot(tmp_path, found[f"{names[2]}/card"])
    assert (card.tables[0].name, card.tables[0].references) == ("sold", [])
    assert asked(view, "How many sold are there?") == [[4]]
    assert listed(opened(surroundings(tmp_path, credential=url.password), **given))[f"{names[0]}/card"].media_type == TABLE_ROWS
