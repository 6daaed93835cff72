"""Queries run on a snapshot: only reading, only its tables, only so much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.tables.running import QueryLimits, QueryRefused, run


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE sales",
        "DELETE FROM sales",
        "INSERT INTO sales (units) VALUES (1)",
        "UPDATE sales SET units = 0",
        "CREATE TEMP TABLE x AS SELECT 1",
        "ATTACH DATABASE '/etc/passwd' AS x",
        "PRAGMA query_only = OFF",
        "SELECT load_extension('x.so')",
        "SELECT readfile('/etc/passwd')",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM _card",
        "SELECT * FROM _values",
        "SELECT * FROM pragma_table_info('sales')",
        "SELECT randomblob(1000000000)",
        "SELECT printf('%100000000d', 1)",
        "SELECT 1; SELECT 2",
        "VACUUM",
        "BEGIN",
        "",
        "SELECT 1" + " " * 30_000,
        "nonsense",
    ],
)
def test_whatever_is_not_reading_a_table_is_refused(sales: Path, sql: str) -> None:
    before = sales.read_bytes()
    with pytest.raises(QueryRefused):
        run(sales, sql, ["sales"])
    assert sales.read_bytes() == before


def test_only_the_named_tables_are_read(shop: Path) -> None:
    assert run(shop, "SELECT count(*) FROM orders", ["orders"]).rows == [[3]]
    with pytest.raises(QueryRefused):
        run(shop, "SELECT count(*) FROM customers", ["orders"])


def test_what_takes_too_long_is_ended(sales: Path) -> None:
    joins = ", ".join(f"sales s{number}" for number in range(14))
    with pytest.raises(QueryRefused, match="takes longer"):
        run(sales, f"SELECT count(*) FROM {joins}", ["sales"], QueryLimits(time_s=0.2))


def test_no_more_rows_and_bytes_than_allowed_are_answered(sales: Path) -> None:
    many = "SELECT a.product FROM sales a, sales b, sales c"
    found = run(sales, many, ["sales"], QueryLimits(rows=10))
    assert (len(found.rows), found.is_cut) == (10, True)
    found = run(sales, many, ["sales"], QueryLimits(rows=1000, bytes=100))
    assert len(found.rows) < 20
    assert found.is_cut
    assert run(sales, "SELECT product FROM sales", ["sales"], QueryLimits(cell_chars=3)).rows[0] == ["Las…"]


def test_the_process_answers_one_wish(sales: Path) -> None:
    asked = {"op": "ask", "snapshots": [str(sales)], "question": "What is the sum of units?"}
    done = subprocess.run(
        [sys.executable, "-I", "-m", "modelworks.tables"], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)["answer"]
    assert told["rows"] == [[23]]
    assert told["sql"] == 'SELECT sum("units") AS "sum of units" FROM "sales"'
    assert told["tables"] == [{"name": "sales", "place": None, "num_rows": 6, "origin": 0}]
