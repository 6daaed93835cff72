"""How blocks become passages, and what counts as a sentence."""

from __future__ import annotations

from dataclasses import replace

from tests.capabilities.document.conftest import passages_of

from modelworks.capabilities.document.blocks import Block, BlockKind, Table
from modelworks.capabilities.document.language import joined, language, sentences


def test_paragraphs_are_joined_up_to_a_size_and_sections_never() -> None:
    blocks = [
        Block("heading", "One"),
        *(Block("text", f"Paragraph {n} says a little.", page=1, box=(0.1, n / 10, 0.9, n / 10 + 0.05)) for n in range(5)),
        Block("heading", "Two"),
        Block("text", "Short."),
    ]
    found = passages_of(blocks, passage_chars=100)
    assert [each.place.headings for each in found] == [("One",), ("One",), ("Two",)]
    assert found[0].text.count("\n") == 2
    assert found[0].place.box == (0.1, 0.0, 0.9, 0.25)
    assert [each.section for each in found] == [(0, 1), (0, 1), (2, 2)]


def test_long_paragraphs_break_between_sentences_in_both_languages() -> None:
    english = "The pump of unit 3 has 2.5 kW. Mr. Smith checks it in the U.S. every day! " * 4
    parts = [each.text for each in passages_of([Block("text", english)], passage_chars=120)]
    assert len(parts) > 2
    assert all(part.endswith((".", "!")) and not part.endswith(("Mr.", "2.")) for part in parts)
    chinese = "水泵的功率为二点五千瓦，每天检查一次。" * 6
    parts = [each.text for each in passages_of([Block("text", chinese)], passage_chars=100, passage_chars_chinese=40)]
    assert all(part.endswith("。") and len(part) <= 40 for part in parts)
    assert "".join(parts) == chinese


def test_a_sentence_without_an_end_still_becomes_passages() -> None:
    parts = [each.text for each in passages_of([Block("text", "x" * 1000)], passage_chars=100)]
    assert [len(part) for part in parts] == [100] * 10


def test_small_tables_stay_whole_and_long_ones_repeat_their_header() -> None:
    rows = [["Part", "Price"], *([f"Pump {n}", f"{n} |"] for n in range(40))]
    (whole,) = passages_of([Block("caption", "Table 1"), Block("table", table=Table(rows[:4]))])
    assert whole.text.splitlines()[:3] == ["Table 1", "| Part | Price |", "| - | - |"]
    assert whole.text.endswith("| Pump 2 | 2 \\| |")
    marks = [(n, n) for n in range(3, 44)]
    parts = passages_of([Block("table", table=Table(rows, marks=marks, sheet="Sales", first_column=2))], passage_chars=200)
    assert all(part.text.startswith("| Part | Price |\n| - | - |\n") for part in parts)
    assert parts[0].place.cells is not None
    assert parts[0].place.cells.startswith("Sales!B4:C")
    body = [line for part in parts for line in part.text.splitlines()[2:]]
    assert len(body) == 40


def test_code_is_kept_as_it_is_and_knows_its_lines() -> None:
    code = "\n".join(f"    line_{n} = {n}" for n in range(60))
    parts = passages_of([Block("code", code, lines=(10, 69))], passage_chars=300)
    assert "\n".join(part.text for part in parts) == code
    assert (parts[0].place.lines or (0, 0))[0] == 10
    assert (parts[-1].place.lines or (0, 0))[1] == 69
    assert {part.kind for part in parts} == {"code"}


def test_a_heading_under_which_nothing_stands_is_still_said() -> None:
    found = passages_of(
        [Block("heading", "Part", level=1), Block("heading", "Empty", level=2), Block("heading", "End", level=1)]
    )
    assert [each.text for each in found] == ["Empty", "End"]


def test_languages_and_joints() -> None:
    assert language("The pump of the plant is in the hall.") == "en"
    assert language("水泵 pump 在大厅里") == "zh"
    assert language("ポンプはホールにあります") == "ja"
    assert language("Насос стоит в зале") == "und"
    assert language("123") is None
    assert joined("水泵", "在大厅") == "水泵在大厅"
    assert joined("the pump", "stands") == "the pump stands"
    assert list(sentences("One. Two? 三。四！")) == ["One.", " Two?", " 三。", "四！"]


def _on_page(kind: BlockKind, text: str, place: int, *, level: int = 1, table: Table | None = None) -> Block:
    return Block(kind, text, level=level, table=table, page=1, box=(0.1, place / 20, 0.9, place / 20 + 0.02))


def test_small_sections_of_a_page_share_a_passage_with_their_headings_as_lines() -> None:
    blocks = [
        _on_page("heading", "Report", 0),
        _on_page("heading", "Note 3", 1, level=2),
        _on_page("heading", "Europe", 2, level=2),
        _on_page("text", "Sales rose by a tenth.", 3),
        _on_page("heading", "Japan", 4, level=2),
        _on_page("text", "Sales fell.", 5),
        _on_page("heading", "Outlook", 6, level=2),
        _on_page("text", "The year ahead is hard to tell. " * 12, 7),
    ]
    small, *long = passages_of(blocks, passage_chars=200)
    assert small.text == "Note 3\nEurope\nSales rose by a tenth.\nJapan\nSales fell."
    assert small.place.headings == ("Report",)
    assert small.place.box == (0.1, 0.05, 0.9, 0.27)
    assert {each.place.headings for each in long} == {("Report", "Outlook")}
    assert len({each.section for each in long}) == 1
    assert [each.ordinal for each in (small, *long)] == list(range(1 + len(long)))


def test_a_heading_alone_on_a_page_waits_for_what_it_stands_above() -> None:
    long = "The lease runs for ten years. " * 20
    blocks = [_on_page("heading", "Note 9", 0), _on_page("heading", "Leases", 1), _on_page("text", long, 2)]
    first, *rest = passages_of(blocks, passage_chars=300)
    assert first.text.startswith("Note 9\nThe lease runs")
    assert all(each.place.headings == ("Leases",) for each in (first, *rest))
    # In formats that say what is a heading it is a passage of its own.
    alone, *_ = passages_of([replace(block, box=None, page=None) for block in blocks], passage_chars=300)
    assert (alone.text, alone.place.headings) == ("Note 9", ("Note 9",))


def test_what_introduces_a_table_on_a_page_stands_with_it() -> None:
    rows = [["", "2023", "2022"], *([f"Item {n}", f"{n},000", f"{n},500"] for n in range(12))]
    table = Table(rows)
    blocks = [
        _on_page("heading", "Sales", 0),
        _on_page("text", "The following table shows net sales by category:", 1),
        _on_page("table", "", 2, table=table),
        _on_page("text", "Costs are told elsewhere. " * 12, 3),
    ]
    first, *rest = passages_of(blocks, passage_chars=300)
    assert first.kind == "table"
    assert first.text.startswith("The following table shows net sales by category:\n|  | 2023 | 2022 |\n")
    assert all(each.kind == "text" for each in rest)
    # The passage is a table where most of it is one.
    (both,) = passages_of([*blocks[:2], _on_page("table", "", 2, table=Table(rows[:2]))], passage_chars=400)
    assert both.kind == "table"
    (mixed,) = passages_of(
        [
            *blocks[:1],
            _on_page("text", "All of it was sold. " * 8, 1),
            _on_page("heading", "Parts", 2),
            _on_page("table", "", 3, table=Table(rows[:2])),
        ],
        passage_chars=400,
    )
    assert mixed.kind == "text"
