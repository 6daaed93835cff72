"""Data sets of plain text."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.capabilities.text.data import Document, read_documents, split
from modelworks.contract.errors import InvalidData


def test_reads_every_kind_in_the_order_of_paths_and_passes_hidden_and_other_files_over(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "two.md").write_text("# Two\r\nlines", "utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n\n{"text": "third", "id": 3}\n', "utf-8")
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    found = [(document.name, document.text) for document in read_documents(tmp_path)]
    assert found == [("a.jsonl:1", "first"), ("a.jsonl:3", "third"), ("b/two.md", "# Two\nlines"), ("c.txt", "with a mark")]


def test_text_that_is_not_utf8_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(InvalidData, match=r"old\.txt.*byte 2 \(0xfc\)"):
        list(read_documents(tmp_path))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": ', "not JSON"),
        ('{"texts": "x"}', '"text" is missing'),
        ('["x"]', '"text" is missing'),
        ('{"text": 5}', '"text" is missing'),
        (r'{"text": "\ud800"}', "surrogate"),
    ],
)
def test_bad_lines_are_named_by_number(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "fine"}\n' + line + "\n", "utf-8")
    with pytest.raises(InvalidData, match=rf"data\.jsonl, line 2.*{said}"):
        list(read_documents(tmp_path))


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InvalidData, match="The data set holds no text") as caught:
        list(read_documents(tmp_path))
    assert ".md" in (caught.value.hint or "")


@given(st.lists(st.text(min_size=1, alphabet="abcdef "), min_size=2, max_size=30), st.floats(0.01, 0.5))
def test_a_split_is_whole_disjoint_and_never_empty(texts: list[str], fraction: float) -> None:
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    if len(set(texts)) < 2:
        return
    training, validation = split(documents, fraction)
    assert training
    assert validation
    assert not {document.text for document in training} & {document.text for document in validation}
    assert sorted([*training, *validation], key=lambda document: int(document.name)) == documents
    again, _ = split(list(reversed(documents)), fraction)
    assert {document.name for document in again} == {document.name for document in training}


def test_about_the_asked_part_is_held_out_and_stays_when_data_is_added() -> None:
    documents = [Document(str(number), f"text {number}") for number in range(2000)]
    _, validation = split(documents, 0.1)
    assert 140 < len(validation) < 260
    _, of_half = split(documents[:1000], 0.1)
    assert {document.name for document in of_half} == {document.name for document in validation if int(document.name) < 1000}


def test_the_end_of_a_single_document_is_held_out() -> None:
    training, validation = split([Document("one", "line\n" * 100)], 0.1)
    assert training[0].text + validation[0].text == "line\n" * 100
    assert len(validation[0].text) == 50
    with pytest.raises(InvalidData, match="too short"):
        split([Document("one", "x")], 0.1)


def test_a_single_file_is_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps({"text": "世界"}), "utf-8")
    assert [document.name for document in read_documents(file)] == ["lines.jsonl:1"]


def test_tables_and_packed_files_hold_documents(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,source\n"One, two.",x\nThree.,y\n')
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"Four."))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "Five."}\n'))
    found = [(document.name, document.text) for document in read_documents(tmp_path)]
    assert found == [("a.csv:2", "One, two."), ("a.csv:3", "Three."), ("b.txt.gz", "Four."), ("c.jsonl.gz:1", "Five.")]


@pytest.mark.parametrize(
    ("content", "said"),
    [("text\n\ud83d", "Not UTF-8"), ("text,b\nx\n", "1 columns"), ("instruction,output\na,b\n", '"text" is missing')],
)
def test_a_broken_table_names_its_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidData, match=r"a\.csv, line 2") as refused:
        list(read_documents(tmp_path))
    assert said in refused.value.message
