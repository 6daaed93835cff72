"""Files made tables: types, units, headings, and what is found in the wild."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from modelworks.tables.card import Card
from modelworks.tables.snapshot import Limits, NoTable, build


def held(snapshot: Path, table: str = "table") -> list[Any]:
    with closing(sqlite3.connect(snapshot)) as connection:
        return connection.execute(f'SELECT * FROM "{table}"').fetchall()


def kinds(card: Card) -> list[str]:
    return [each.kind for each in card.tables[0].columns]


def test_columns_have_types_and_units(made: Any) -> None:
    text = 'id,zip,price,share,when,temp (°C),note\n1,02134,"$1,200.50",12%,2024-01-31,3.5,x\n2,10001,$7,3%,2024/2/1,-,NA\n'
    snapshot, card = made(text)
    assert kinds(card) == ["integer", "text", "number", "integer", "date", "number", "text"]
    assert [each.unit for each in card.tables[0].columns] == [None, None, "$", "%", None, "°C", None]
    assert held(snapshot) == [
        (1, "02134", 1200.5, 12, "2024-01-31", 3.5, "x"),
        (2, "10001", 7.0, 3, "2024-02-01", None, "NA"),
    ]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", "three"], "text"),  # mixed
        (["1", "", "NA"], "integer"),
        (["1.5", "2"], "number"),
        (["$1", "€2"], "text"),  # two currencies
        (["2024-01-01", "5"], "text"),
        (["2024-13-01", "2024-01-01"], "text"),
        (["01/02/2024", "03/04/2024"], "text"),  # day or month first?
        (["", ""], "text"),
        (["99999999999999999999", "1"], "text"),
        (["inf", "1"], "text"),
        (["2024年3月5日", "2024年3月6日"], "date"),
    ],
)
def test_one_cell_that_is_something_else_makes_a_column_of_texts(made: Any, cells: list[str], kind: str) -> None:
    lines = "".join(f'{number},"{cell}"\n' for number, cell in enumerate(cells))
    assert kinds(made(f"no,what\n{lines}")[1])[1] == kind


def test_separators_and_encodings_are_found(made: Any) -> None:
    assert held(made("名称;数量\n甲;1\n乙;2\n".encode("gb18030"))[0]) == [("甲", 1), ("乙", 2)]
    assert held(made("\ufeffa\tb\n1\t2\n")[0]) == [(1, 2)]
    assert held(made("a|b\r\n1|2\r\n")[0]) == [(1, 2)]


def test_headings_that_are_the_same_or_empty_get_names(made: Any) -> None:
    _, card = made("a,a,,A\n1,2,3,4\n")
    assert [each.name for each in card.tables[0].columns] == ["a", "a (2)", "column 3", "A (3)"]


def test_a_file_without_headings_keeps_its_first_row(made: Any) -> None:
    snapshot, card = made("A14,36\nA11,6\n")
    assert [each.name for each in card.tables[0].columns] == ["column 1", "column 2"]
    assert len(held(snapshot)) == 2


def test_a_quote_that_is_never_closed_swallows_nothing(made: Any) -> None:
    lines = "".join(f"{number},x\n" for number in range(100))
    _, card = made(f'no,text\n0,"broken\n{lines}')
    assert card.tables[0].num_rows == 101


@pytest.mark.parametrize("content", ["", "\n\n", "only prose without anything\nthat, might, be, a table, here, or there\n" * 3])
def test_what_is_no_table_is_said_to_be_none(made: Any, content: str) -> None:
    with pytest.raises(NoTable):
        made(content)


def test_rows_that_do_not_fit_make_no_table(made: Any) -> None:
    """Figures from the rest would be wrong."""
    with pytest.raises(NoTable, match="do not fit"):
        made("a,b\n" + "1,2\n" * 20 + "1,2,3\n" * 5)


def test_more_than_is_allowed_is_refused_as_a_whole(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_text("a,b\n" + "1,2\n" * 11)
    with pytest.raises(NoTable, match="more than 10 rows"):
        build(source, "csv", "x.csv", tmp_path / "x.sqlite", Limits(rows=10))
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_header_alone_is_an_empty_table(made: Any) -> None:
    snapshot, card = made("a,b\n")
    assert card.tables[0].num_rows == 0
    assert held(snapshot) == []


def test_a_workbook_has_a_table_for_each_visible_sheet(made: Any) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Q1 Sales"
    for row in (["Sales of the first quarter"], ["month", "amount"], ["Jan", 10], ["Feb", 2.5]):
        sheet.append(row)
    hidden = book.create_sheet("secret")
    hidden.append(["a", "b"])
    hidden.append([1, 2])
    hidden.sheet_state = "hidden"
    stock = book.create_sheet("stock")
    stock["C5"], stock["D5"], stock["C6"], stock["D6"] = "item", "count", "bolt", 7
    content = io.BytesIO()
    book.save(content)
    snapshot, card = made(content.getvalue(), "book.xlsx", "xlsx")
    assert [(each.name, each.place, each.num_rows) for each in card.tables] == [
        ("Q1 Sales", "'Q1 Sales'!A1:B4", 2),
        ("stock", "stock!C5:D6", 1),
    ]
    assert held(snapshot, "Q1 Sales") == [("Jan", 10.0), ("Feb", 2.5)]


def test_what_only_claims_to_be_a_workbook_is_no_table(made: Any) -> None:
    with pytest.raises(NoTable):
        made(b"PK\x03\x04 no workbook", "book.xlsx", "xlsx")


def test_tables_of_a_database_keep_their_keys_and_references(shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as connection:
        card = Card.of(connection)
    orders = card.tables[1]
    assert orders.key == ["id"]
    assert [(each.column, each.table, each.other) for each in orders.references] == [("customer_id", "customers", "id")]
    assert json.loads(card.dumps())["tables"][0]["name"] == "customers"
