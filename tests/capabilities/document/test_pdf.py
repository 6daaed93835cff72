"""PDF by geometry: columns, paragraphs, tables, running heads, and pages that cannot be read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.capabilities.document.conftest import line, lines, pdf, read

from modelworks.capabilities.document import ocr
from modelworks.capabilities.document.blocks import Refused

LEFT = [f"The left column has running text in its line {n}" for n in range(12)]
RIGHT = [f"and the right column goes on with it in line {n}" for n in range(12)]


def test_columns_are_read_one_after_the_other_and_a_title_before_them(tmp_path: Path) -> None:
    content = line(50, 60, "A title that is set across both of the columns here", size=18)
    content += lines(50, 100, LEFT) + lines(320, 100, RIGHT)
    _, blocks = read(tmp_path, "a.pdf", pdf([content]))
    assert (blocks[0].kind, blocks[0].page) == ("heading", 1)
    text = " ".join(block.text for block in blocks)
    assert text.index("left column has running text in its line 11") < text.index("right column goes on with it in line 0")


def test_lines_become_paragraphs_items_and_headings(tmp_path: Path) -> None:
    content = (
        line(50, 50, "1.2 Pumps", font="F2", size=12)
        + lines(
            50,
            80,
            ["The pump stands in the hall beside the boiler, where it is inspec-", "ted every day by two people who note it."],
        )
        + lines(50, 120, ["A second paragraph begins after some white space and says little.", "It ends."])
        + line(60, 160, "\x95 first item")
        + line(60, 172, "\x95 second item")
    )
    _, blocks = read(tmp_path, "a.pdf", pdf([content]))
    assert [block.kind for block in blocks] == ["heading", "text", "text", "list", "list"]
    assert (
        blocks[1].text
        == "The pump stands in the hall beside the boiler, where it is inspected every day by two people who note it."
    )
    left, top, right, bottom = blocks[1].box or (0, 0, 0, 0)
    assert 0.05 < left < 0.1 < right < 0.7
    assert 0.07 < top < 0.1 < bottom < 0.12


def test_aligned_cells_are_a_table_and_signs_join_their_numbers(tmp_path: Path) -> None:
    content = line(50, 60, "Sales of the year are in the table below, as every year before it.")
    rows = [("", "2022", "2023"), ("Pumps", "1,200", "1,300"), ("Valves", "80", "95"), ("Total", "1,280", "1,395")]
    for number, (name, *values) in enumerate(rows):
        y = 100 + 14 * number
        content += line(50, y, name) if name else ""
        for column, value in enumerate(values):
            content += line(300 + 100 * column, y, value) + (line(270 + 100 * column, y, "$") if number == 1 else "")
    content += line(50, 200, "What follows is text again, and it is long enough to be a paragraph.")
    _, blocks = read(tmp_path, "a.pdf", pdf([content]))
    assert [block.kind for block in blocks] == ["text", "table", "text"]
    assert blocks[1].table is not None
    assert blocks[1].table.rows[1:] == [["Pumps", "$1,200", "$1,300"], ["Valves", "80", "95"], ["Total", "1,280", "1,395"]]


def test_arabic_is_read_from_the_right_with_names_in_latin_letters_between(tmp_path: Path) -> None:
    signs = {"a": "0628", "b": "062A", "c": "062C", "d": "062F", "e": "0627", "l": "06440625", "R": "0052", "x": "0078"}
    table = "\n".join(f"<{ord(sign):02X}> <{code}>" for sign, code in signs.items())
    names = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /A def /CMapType 2 def\n"
        "1 begincodespacerange <00> <FF> endcodespacerange\n"
        f"{len(signs)} beginbfchar\n{table}\nendbfchar endcmap end end"
    )
    # As such a file writes a line: every sign where it stands, the leftmost first; l is lam and alef in one sign.
    content = line(300, 100, "dcba", font="F3") + line(260, 100, "Rx", font="F3") + line(200, 100, "cdle", font="F3")
    font = "/F3 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 5 0 R >>"
    _, blocks = read(tmp_path, "a.pdf", pdf([content, names], fonts=font))
    assert blocks[0].text.split() == ["\u0628\u062a\u062c\u062f", "Rx", "\u0627\u0644\u0625\u062f\u062c"]


def test_running_heads_and_page_numbers_are_left_out(tmp_path: Path) -> None:
    pages = [
        line(50, 30, "Annual report of the works")
        + lines(50, 300, [f"Page {n} tells of the year {2000 + n}."])
        + line(290, 820, str(n))
        for n in range(1, 5)
    ]
    _, blocks = read(tmp_path, "a.pdf", pdf(pages))
    assert [block.text for block in blocks] == [f"Page {n} tells of the year {2000 + n}." for n in range(1, 5)]
    assert [block.page for block in blocks] == [1, 2, 3, 4]


def test_a_foot_that_ends_pages_at_no_fixed_height_is_left_out_of_short_ones_too(tmp_path: Path) -> None:
    pages = []
    for n in range(1, 31):
        # Every third page is long, as in a report with appendices; a few of the others have the foot below two lines.
        count = 10 if n % 3 == 0 else 2
        body = [
            f"Pump {at} {'abcdef'[at % 6]}{'uvwxyz'[n % 6]}{chr(97 + n % 26)} is told of on page {n}." for at in range(count)
        ]
        foot = [f"Works Ltd. | Form 7 | {n}"] if n % 3 < 2 else []
        pages.append(
            lines(50, 100 + 7 * n, body) + "".join(line(250, 100 + 7 * n + 20 * len(body) + 40, each) for each in foot)
        )
    _, blocks = read(tmp_path, "a.pdf", pdf(pages))
    said = " ".join(block.text for block in blocks)
    assert "Form 7" not in said
    assert all(f"is told of on page {n}." in said for n in range(1, 31))


def test_a_turned_page_is_read_as_it_is_shown(tmp_path: Path) -> None:
    # A page that is shown turned by 90 degrees; its text is written so that it then runs level.
    content = (
        "BT /F1 10 Tf 0 1 -1 0 100 50 Tm (Upper line of the page.) Tj ET\n"
        "BT /F1 10 Tf 0 1 -1 0 140 50 Tm (Lower line of it.) Tj ET\n"
    )
    _, blocks = read(tmp_path, "a.pdf", pdf([content], extra="/Rotate 90"))
    assert [block.text for block in blocks] == ["Upper line of the page.", "Lower line of it."]
    assert (blocks[0].box or (0, 1, 0, 0))[1] < 0.2


def test_a_scan_without_ocr_and_a_limit_of_pages_are_told(tmp_path: Path) -> None:
    scan = "q 595 0 0 842 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID \x80 EI Q"
    content = pdf([line(50, 100, "A page with text."), scan, scan, line(50, 100, "More.")], info="/Title (Plan)")
    parsed, _ = read(tmp_path, "a.pdf", content, max_pages=3, ocr="never")
    assert (parsed.title, parsed.num_pages) == ("Plan", 4)
    assert [(fault.code, fault.page) for fault in parsed.faults] == [("ocr_missing", 2), ("truncated", 4)]
    assert "Pages 2–3" in parsed.faults[0].message


def test_a_password_is_told(tmp_path: Path) -> None:
    content = pdf([line(50, 100, "Secret.")]).replace(
        b"/Root 1 0 R",
        b"/Root 1 0 R /ID [<00><00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 "
        b"/O <" + b"11" * 32 + b"> /U <" + b"22" * 32 + b"> >>",
    )
    with pytest.raises(Refused) as caught:
        read(tmp_path, "a.pdf", content)
    assert caught.value.fault.code == "encrypted"


def test_drawn_lines_say_where_cells_are(tmp_path: Path) -> None:
    """A cell of two lines, and two cells too near to each other to be told apart by white."""
    grid = "".join(f"{x} {842 - 170} m {x} {842 - 100} l S\n" for x in (50, 150, 300))
    grid += "".join(f"50 {842 - y} m 300 {842 - y} l S\n" for y in (100, 120, 150, 170))
    content = grid + line(55, 114, "Part") + line(155, 114, "Note")
    content += line(55, 132, "Pump of the northern") + line(152, 132, "stands in the hall") + line(55, 144, "boiler")
    content += line(55, 164, "Valve") + line(155, 164, "is closed")
    content += line(50, 90, "What stands above the table.") + line(50, 190, "What stands below it.")
    _, blocks = read(tmp_path, "a.pdf", pdf([content]))
    assert [block.text for block in blocks] == ["What stands above the table.", "", "What stands below it."]
    assert blocks[1].table is not None
    assert blocks[1].table.rows == [
        ["Part", "Note"],
        ["Pump of the northern boiler", "stands in the hall"],
        ["Valve", "is closed"],
    ]


def test_labels_and_cells_that_wrap_are_mended(tmp_path: Path) -> None:
    rows = [
        ("", "2022", "2023"),
        ("Sales:", "", ""),
        ("Pumps that were sold abroad", "", ""),
        ("and at home", "1,200", "1,300"),
        ("Valves", "80", "(95)"),
    ]
    content = "".join(
        line(x, 100 + 14 * number, cell)
        for number, row in enumerate(rows)
        for x, cell in zip((50, 300, 400), row, strict=True)
        if cell
    )
    _, blocks = read(tmp_path, "a.pdf", pdf([content]))
    assert blocks[0].table is not None
    assert blocks[0].table.rows[1:] == [
        ["Sales:", "", ""],
        ["Pumps that were sold abroad and at home", "1,200", "1,300"],
        ["Valves", "80", "(95)"],
    ]


def test_feet_that_stand_at_no_fixed_height_are_left_out(tmp_path: Path) -> None:
    pages = [
        lines(50, 100, [f"Year {n} had month {m} in it." for m in range(7 + n)])
        + line(50, 220 + 12 * n, f"Works | Report | {n}")
        for n in range(1, 6)
    ]
    _, blocks = read(tmp_path, "a.pdf", pdf(pages))
    assert not [block.text for block in blocks if "Works" in block.text]


def test_a_scan_is_read_by_what_reads_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is a stand-in that has found three lines, one of them upright: the page lies on its side."""

    def found(image: Any) -> SimpleNamespace:
        high, wide = image.shape[:2]
        if high > wide:
            boxes = [[(x, 10), (x + 20, 10), (x + 20, 300), (x, 300)] for x in (100, 200, 300)]
            return SimpleNamespace(boxes=boxes, txts=["a", "b", "c"], scores=[0.6] * 3)
        boxes = [[(100, y), (900, y), (900, y + 40), (100, y + 40)] for y in (300, 200, 900)]
        return SimpleNamespace(boxes=boxes, txts=["of the page.", "The upper part", "Too faint."], scores=[0.9, 0.9, 0.2])

    monkeypatch.setattr(ocr, "engine_name", lambda: "stand-in 1")
    monkeypatch.setattr(ocr, "_engine", lambda: found)
    scan = "q 595 0 0 842 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID \x80 EI Q"
    parsed, blocks = read(tmp_path, "a.pdf", pdf([scan]))
    assert not parsed.faults
    assert " ".join(block.text for block in blocks) == "The upper part of the page."
    left, top, right, bottom = blocks[0].box or (0, 0, 0, 0)
    assert 0 < left < right < 0.5
    assert 0.1 < top < bottom < 0.3


def test_a_picture_without_ocr_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        read(tmp_path, "a.pdf", b"\x89PNG\r\n\x1a\n" + b"x" * 50, ocr="never")
    assert caught.value.fault.code == "ocr_missing"
    assert "modelworks[ocr]" in (caught.value.fault.hint or "")
