"""Sheets, slides, books, messages and records: what their readers give, and where they say that it stands."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from tests.capabilities.document.conftest import as_json, passages_of, pptx, read, xlsx, zipped

from modelworks.capabilities.document.blocks import Refused


def test_sheets_give_tables_with_their_ranges(tmp_path: Path) -> None:
    sales = [
        ["Part", "Sold", None, "Note"],
        ["Pump", 1.5, None, "on 3 | 4"],
        [],
        [None, "Since", datetime.datetime(2024, 5, 1)],
        [None, "Open", True],
    ]
    parsed, blocks = read(tmp_path, "a.csv", xlsx(tmp_path / "book", {"Q 1": sales, "Empty": [], "More": [["x", "y"], [1, 2]]}))
    assert parsed.media_type.endswith("spreadsheetml.sheet")
    found = passages_of(blocks)
    assert [(each.place.cells, each.place.headings) for each in found] == [
        ("'Q 1'!A1:B2", ("Q 1",)),
        ("'Q 1'!D1:D2", ("Q 1",)),
        ("'Q 1'!B4:C5", ("Q 1",)),
        ("More!A1:B2", ("More",)),
    ]
    assert found[2].text == "| Since | 2024-05-01 |\n| - | - |\n| Open | TRUE |"


def test_a_workbook_with_a_bomb_in_it_is_refused(tmp_path: Path) -> None:
    parts = {"[Content_Types].xml": "<Types/>", "xl/workbook.xml": "<w/>", "xl/sharedStrings.xml": b"<a>" + b" " * (30 << 20)}
    with pytest.raises(Refused) as caught:
        read(tmp_path, "a.xlsx", zipped(tmp_path / "bomb", parts))
    assert caught.value.fault.code == "archive_bomb"
    broken = {"[Content_Types].xml": "<Types/>", "xl/workbook.xml": "<w/>"}
    with pytest.raises(Refused) as caught:
        read(tmp_path, "a.xlsx", zipped(tmp_path / "broken", broken))
    assert caught.value.fault.code == "corrupt"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimited_files_keep_their_lines(tmp_path: Path, delimiter: str) -> None:
    rows = [["Part", "Note"], ["Pump", '"two\nlines"'], ["Valve", "1"]]
    parsed, blocks = read(tmp_path, "a.csv", "\n".join(delimiter.join(row) for row in rows) + "\n")
    assert blocks[0].table is not None
    assert blocks[0].table.rows == [["Part", "Note"], ["Pump", "two\nlines"], ["Valve", "1"]]
    assert blocks[0].table.marks == [(1, 1), (2, 3), (4, 4)]
    assert not parsed.faults


def test_quotation_marks_that_are_never_closed_cost_no_rows(tmp_path: Path) -> None:
    text = 'a,b\n1,"open\n' + "".join(f"{n},x\n" for n in range(200))
    parsed, blocks = read(tmp_path, "a.csv", text)
    assert [fault.code for fault in parsed.faults] == ["broken_quoting"]
    assert blocks[0].table is not None
    assert len(blocks[0].table.rows) == 202


def test_slides_give_titles_items_tables_and_places(tmp_path: Path) -> None:
    def text(value: str, level: int = 0) -> str:
        return f'<a:p><a:pPr lvl="{level}"/><a:r><a:t>{value}</a:t></a:r></a:p>'

    place = '<p:spPr><a:xfrm><a:off x="100" y="50"/><a:ext cx="800" cy="400"/></a:xfrm></p:spPr>'
    cells = "".join(f"<a:tc><a:txBody>{text(value)}</a:txBody></a:tc>" for value in "AB")
    slides = [
        f'<p:sp><p:nvPr><p:ph type="body"/></p:nvPr>{place}<p:txBody>{text("one")}{text("two", 1)}</p:txBody></p:sp>'
        f'<p:sp><p:nvPr><p:ph type="title"/></p:nvPr><p:txBody>{text("Pumps")}</p:txBody></p:sp>'
        f'<p:sp><p:nvPr><p:ph type="sldNum"/></p:nvPr><p:txBody>{text("7")}</p:txBody></p:sp>',
        f"<p:grpSp><p:sp><p:txBody>{text('Loose.')}</p:txBody></p:sp></p:grpSp>"
        f"<p:graphicFrame><a:tbl><a:tr>{cells}</a:tr><a:tr>{cells}</a:tr></a:tbl></p:graphicFrame>",
    ]
    parsed, blocks = read(tmp_path, "a.pptx", pptx(tmp_path / "made", slides))
    assert (parsed.title, parsed.num_pages) == ("Pumps", 2)
    found = passages_of(blocks)
    assert [(each.text, each.place.page, each.place.headings) for each in found] == [
        ("- one\n  - two", 1, ("Pumps",)),
        ("Loose.", 2, ()),
        ("| A | B |\n| - | - |\n| A | B |", 2, ()),
    ]
    assert found[0].place.box == (0.1, 0.1, 0.9, 0.9)


def test_open_documents_are_read(tmp_path: Path) -> None:
    body = (
        '<o:document xmlns:o="o" xmlns:t="t"><o:body><o:text><t:h t:outline-level="2">Pumps</t:h>'
        "<t:p>A<t:s t:c='2'/>b<t:line-break/>c</t:p><t:list><t:list-item><t:p>one</t:p></t:list-item></t:list>"
        "<t:table><t:table-row><t:table-cell t:number-columns-repeated='2'><t:p>x</t:p></t:table-cell></t:table-row></t:table>"
        "</o:text></o:body></o:document>"
    )
    parts = {"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": body}
    parsed, blocks = read(tmp_path, "a", zipped(tmp_path / "made", parts))
    assert parsed.media_type == "application/vnd.oasis.opendocument.text"
    assert [(block.kind, block.level, block.text) for block in blocks[:3]] == [
        ("heading", 2, "Pumps"),
        ("text", 1, "A  b\nc"),
        ("list", 0, "- one"),
    ]
    assert blocks[3].table is not None
    assert blocks[3].table.rows == [["x", "x"]]
    locked = {**parts, "META-INF/manifest.xml": "<m><encryption-data/></m>"}
    with pytest.raises(Refused) as caught:
        read(tmp_path, "a", zipped(tmp_path / "locked", locked))
    assert caught.value.fault.code == "encrypted"


def test_books_are_read_in_the_order_of_their_spine(tmp_path: Path) -> None:
    files = {"a": "a%20.xhtml", "b": "b.xhtml", "c": "gone.xhtml"}
    items = "".join(f'<item id="{name}" href="{href}"/>' for name, href in files.items())
    spine = "".join(f'<itemref idref="{name}"/>' for name in "bac")
    package = f"<p><metadata><title>Book</title></metadata><manifest>{items}</manifest><spine>{spine}</spine></p>"
    parts = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<c><rootfile full-path="in/p.opf"/></c>',
        "in/p.opf": package,
        "in/a .xhtml": "<html><body><h1>Second</h1><p>b</p></body></html>",
        "in/b.xhtml": "<html><body><h1>First</h1><p>a</p></body></html>",
    }
    parsed, blocks = read(tmp_path, "a.zip", zipped(tmp_path / "made", parts))
    assert (parsed.title, [fault.code for fault in parsed.faults]) == ("Book", ["part_missing"])
    assert [block.text for block in blocks] == ["First", "a", "Second", "b"]


MESSAGE = """From: =?utf-8?B?5byg5LiJ?= <zhang@example.org>
To: b@example.org
Subject: =?gb2312?B?y67Cww==?= pump
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=XX

--XX
Content-Type: text/html; charset=utf-8

<p>Dear <b>all</b>,<script>x()</script></p>
--XX
Content-Type: application/pdf; name=plan.pdf
Content-Disposition: attachment; filename=plan.pdf

JVBERi0=
--XX--
"""


def test_messages_say_who_wrote_what(tmp_path: Path) -> None:
    parsed, blocks = read(tmp_path, "a.txt", MESSAGE)
    assert parsed.media_type == "message/rfc822"
    assert blocks[0].kind == "heading"
    assert blocks[0].text.endswith("pump")
    assert blocks[1].text.startswith("From: 张三 <zhang@example.org>\nTo: b@example.org")
    assert [block.text for block in blocks[2:]] == ["Dear all,", "Attachments: plan.pdf"]


def test_a_box_holds_all_of_its_messages(tmp_path: Path) -> None:
    box = "".join(
        f"From a@example.org Mon Jan  1 00:00:00 2024\nSubject: Number {n}\nTo: b@example.org\n\nText {n}.\n>From here.\n\n"
        for n in range(3)
    )
    _, blocks = read(tmp_path, "a", box)
    assert [block.text for block in blocks if block.kind == "heading"] == ["Number 0", "Number 1", "Number 2"]
    assert "From here." in blocks[-1].text


def test_records_become_sections_and_tables(tmp_path: Path) -> None:
    value = {
        "name": "Works",
        "since": 1990,
        "parts": [{"id": 1, "kind": "pump"}, {"id": 2, "kind": "valve"}],
        "tags": ["a", "b"],
    }
    _, blocks = read(tmp_path, "a.json", json.dumps(value))
    assert [(block.kind, block.text) for block in blocks] == [
        ("heading", "Works"),
        ("text", "name: Works\nsince: 1990"),
        ("heading", "parts"),
        ("table", ""),
        ("text", "tags: a, b"),
    ]
    parsed, blocks = read(tmp_path, "a.jsonl", as_json([{"title": "One", "n": 1}, {"title": "二", "n": 2}]) + "not json\n")
    assert parsed.media_type == "application/jsonl"
    assert [(block.text, block.lines) for block in blocks if block.kind == "text"] == [
        ("title: One\nn: 1", (1, 1)),
        ("title: 二\nn: 2", (2, 2)),
        ("not json", (3, 3)),
    ]
    with pytest.raises(Refused) as caught:
        read(tmp_path, "a.json", "[" * 60 + "{}" + "]" * 60)
    assert caught.value.fault.code == "too_deep"


def test_notebooks_give_text_and_code(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {"cell_type": "code", "source": "a = 1", "outputs": []},
    ]
    _, blocks = read(tmp_path, "a.ipynb", json.dumps({"nbformat": 4, "cells": cells}))
    assert [(block.kind, block.text) for block in blocks] == [("heading", "Title"), ("text", "Text."), ("code", "a = 1")]
