"""`space tables`: what questions to a space can be computed from."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, FakeServer, page, sse

SALES: dict[str, Any] = {
    "state": "ready",
    "document_id": "doc_1",
    "filename": "sales.xlsx",
    "name": "Orders",
    "place": "Orders!A1:B3",
    "num_rows": 2,
    "columns": [{"name": "region", "kind": "text", "unit": None}, {"name": "weight", "kind": "number", "unit": "kg"}],
    "fault": None,
}
EMPTY: dict[str, Any] = {
    "state": "no_table",
    "document_id": "doc_2",
    "filename": "empty.csv",
    "name": None,
    "place": None,
    "num_rows": None,
    "columns": [],
    "fault": "the file is empty",
}


def test_tables_are_listed_with_what_is_in_them(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/spaces/manual/tables", page([SALES, EMPTY]))
    done = cli("space", "tables", "manual")
    assert done.code == 0, done.err
    heading, sales, empty = done.out.splitlines()
    assert heading.split() == ["TABLE", "DOCUMENT", "PLACE", "ROWS", "COLUMNS"]
    assert sales.split(maxsplit=4) == ["Orders", "sales.xlsx", "Orders!A1:B3", "2", "region (text), weight (number kg)"]
    assert "the file is empty" in empty
    assert cli("space", "tables", "manual", "-o", "json").json == [SALES, EMPTY]


def test_an_answer_for_programs_says_how_it_was_computed(cli: Cli, server: FakeServer) -> None:
    grounding = {"status": "computed", "table": {"sql": "SELECT sum(units) FROM t", "columns": ["units"], "rows": [[7]]}}
    server.on("GET", "/api/spaces/manual", {"name": "manual"})
    chunks = ({"content": "7 units."}, {"annotations": [{"type": "file_citation"}], "grounding": grounding}, {})
    server.on(
        "POST", "/v1/chat/completions", Answer(body=sse(*({"choices": [{"index": 0, "delta": each}]} for each in chunks)))
    )
    told = cli("space", "ask", "manual", "How many units?", "-o", "json").json
    assert told["answer"] == "7 units."
    assert told["grounding"] == grounding
