"""What the readers of text formats give, and how bytes are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.capabilities.document.conftest import docx, paragraph, read, zipped

from modelworks.capabilities.document.blocks import Refused

PAGE = """<!doctype html><html><head><title>Pumps</title><script>steal()</script></head><body>
<nav><a href="/">Home</a></nav><div class="cookie-banner">We use <a href="#">cookies</a></div>
<main><h1>Pumps</h1><p>One<br>two <b>bold</b>.<p hidden>secret<p>Loose
<ol><li>First<ul><li>Inner</li></ul></li></ol><pre>a = 1
  b</pre><table><caption>Prices</caption><tr><th>Part</th><th>Price</th></tr>
<tr><td rowspan=2>A</td><td>1</td></tr><tr><td>2</td></tr></table></main><footer>(c) Us</footer></body></html>"""


def test_html_gives_what_a_reader_reads(tmp_path: Path) -> None:
    parsed, blocks = read(tmp_path, "a.txt", PAGE)
    assert (parsed.media_type, parsed.title) == ("text/html", "Pumps")
    said = [(block.kind, block.text) for block in blocks if block.table is None]
    assert said == [
        ("heading", "Pumps"),
        ("text", "One\ntwo bold."),
        ("text", "Loose"),
        ("list", "1. First"),
        ("list", "- Inner"),
        ("code", "a = 1\n  b"),
        ("caption", "Prices"),
    ]
    (table,) = [block.table for block in blocks if block.table is not None]
    assert table.rows == [["Part", "Price"], ["A", "1"], ["A", "2"]]


def test_broken_html_is_read_as_browsers_do(tmp_path: Path) -> None:
    _, blocks = read(
        tmp_path, "a.html", b"<html><p>\xd6\xd0\xce\xc4\xcd\xf8\xd2\xb3\xb5\xc4\xc4\xda\xc8\xdd<table><td>x<div></p></b>y"
    )
    assert blocks[0].text == "中文网页的内容"


def test_markdown_keeps_headings_items_code_tables_and_lines(tmp_path: Path) -> None:
    text = (
        "---\ntitle: Pumps\n---\n# One\n\nA *b*\n[c](d).\n\n1. x\n   - y\n\n"
        "```py\nz = 1\n```\n\n| a | b |\n| - | - |\n| 1 | 2 |\n"
    )
    parsed, blocks = read(tmp_path, "a.md", text)
    assert parsed.title == "Pumps"
    assert [(block.kind, block.text, block.lines) for block in blocks] == [
        ("heading", "One", (4, 4)),
        ("text", "A b c.", (6, 7)),
        ("list", "1. x", (9, 9)),
        ("list", "- y", (10, 10)),
        ("code", "z = 1\n", (12, 14)),
        ("table", "", (16, 18)),
    ]
    assert blocks[-1].table is not None
    assert blocks[-1].table.marks == [(16, 16), (18, 18)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_text_is_read_in_its_encoding(tmp_path: Path, encoding: str) -> None:
    text = "第一章 水泵\n\n水泵的功率为二点五千瓦，\n每天检查一次 (daily check of the pump)。\n"
    parsed, blocks = read(tmp_path, "a.txt", text.encode(encoding))
    assert [block.kind for block in blocks] == ["heading", "text", "text"]
    assert blocks[1].text == "水泵的功率为二点五千瓦，"
    assert [fault.code for fault in parsed.faults] == (["decoded_by_guess"] if encoding == "gb18030" else [])


def test_wrapped_lines_are_mended(tmp_path: Path) -> None:
    text = (
        "The pump stands in the hall beside the old boiler and is\nchecked every day by two people who note what they find\n"
        "in a book.\n\n- one\n- two\n"
    )
    _, blocks = read(tmp_path, "a.txt", text)
    assert [(block.kind, block.lines) for block in blocks] == [("text", (1, 3)), ("list", (5, 5)), ("list", (6, 6))]
    assert "is checked" in blocks[0].text


def test_code_is_parted_at_definitions(tmp_path: Path) -> None:
    code = "import os\n\n\n# What it does.\n@cached\ndef first():\n    def inner(): ...\n\n\nclass Second:\n    pass\n"
    _, blocks = read(tmp_path, "a.py", code)
    assert [(block.kind, block.lines) for block in blocks] == [
        ("code", (1, 3)),
        ("heading", (4, 4)),
        ("code", (4, 9)),
        ("heading", (10, 10)),
        ("code", (10, 12)),
    ]
    assert [block.text for block in blocks if block.kind == "heading"] == ["first", "Second"]


def test_word_documents_are_read_by_styles(tmp_path: Path) -> None:
    bullet, number = (f'<w:numPr><w:ilvl w:val="0"/><w:numId w:val="{n}"/></w:numPr>' for n in (1, 2))
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("A", "1"))
    body = (
        paragraph("Pumps", '<w:pStyle w:val="heading1"/>')
        + paragraph("Own heading", '<w:pStyle w:val="own"/>')
        + f"<w:sdt><w:sdtContent>{paragraph('In a control.')}</w:sdtContent></w:sdt>"
        + paragraph("b", bullet)
        + paragraph("x", number)
        + paragraph("y", number)
        + paragraph("a = 1", '<w:pStyle w:val="code"/>')
        + paragraph("  b = 2", '<w:pStyle w:val="code"/>')
        + "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
        + "<w:r><w:pict><w:txbxContent>"
        + paragraph("Boxed.")
        + "</w:txbxContent></w:pict></w:r></w:p>"
        + f'<w:tbl><w:tr>{cells}</w:tr><w:tr><w:tc><w:tcPr><w:gridSpan w:val="2"/></w:tcPr>'
        + f"{paragraph('wide')}</w:tc></w:tr></w:tbl>"
    )
    parsed, blocks = read(tmp_path, "a.doc", docx(tmp_path / "d", body, **{"word__vbaProject.bin": b"x"}))
    assert parsed.media_type.endswith("wordprocessingml.document")
    assert [fault.code for fault in parsed.faults] == ["macros_ignored"]
    assert [(block.kind, block.level, block.text) for block in blocks if block.table is None] == [
        ("heading", 1, "Pumps"),
        ("heading", 2, "Own heading"),
        ("text", 1, "In a control."),
        ("list", 0, "- b"),
        ("list", 0, "1. x"),
        ("list", 0, "2. y"),
        ("code", 1, "a = 1\n  b = 2"),
        ("text", 1, "new"),
        ("text", 1, "Boxed."),
    ]
    assert [block.table.rows for block in blocks if block.table is not None] == [[["A", "1"], ["wide", "wide"]]]


def bomb(path: Path) -> bytes:
    return zipped(path, {"[Content_Types].xml": "<Types/>", "word/document.xml": b"<a>" + b" " * (40 << 20) + b"</a>"})


def entities(path: Path) -> bytes:
    lol = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><a>&b;</a>'
    return zipped(path, {"[Content_Types].xml": "<Types/>", "word/document.xml": lol})


def climbing(path: Path) -> bytes:
    return zipped(path, {"[Content_Types].xml": "<Types/>", "word/document.xml": "<a/>", "../../evil": "x"})


def half(path: Path) -> bytes:
    return docx(path, paragraph("x" * 10_000))[:900]


def plain_zip(path: Path) -> bytes:
    return zipped(path, {"a.txt": "x"})


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"%PDF-1.4 nothing else", "corrupt"),
        (b"\x7fELF\x00\x01", "unsupported_format"),
        (b"\x00\x01\x02\x03" * 99, "unsupported_format"),
        (bomb, "archive_bomb"),
        (entities, "unsafe_archive"),
        (climbing, "unsafe_archive"),
        (half, "corrupt"),
        (plain_zip, "unsupported_format"),
    ],
    # An address in a name would differ from worker to worker.
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_cannot_be_read_says_why(tmp_path: Path, content: object, code: str) -> None:
    data = content(tmp_path / "made") if callable(content) else content
    with pytest.raises(Refused) as caught:
        read(tmp_path / "read", "a.docx", data)
    assert caught.value.fault.code == code
    assert caught.value.fault.hint
