"""Data sets of pairs: read, checked, divided."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tests.capabilities.embedding.conftest import pairs, write_pairs

from modelworks.capabilities.embedding.data import Pair, read_collection, read_pairs, split, validate
from modelworks.capabilities.embedding.schemas import ValidateParams
from modelworks.contract.errors import InvalidData

GOOD = '{"query": "q", "positive": "p"}'


def write(folder: Path, *lines: str, name: str = "data.jsonl") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def test_both_forms_are_pairs_packed_or_not(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", '{"query": "q", "positive": "p", "negatives": ["n"]}', "", '{"title": "t", "text": "x"}')
    with gzip.open(folder / "more.jsonl.gz", "wt", encoding="utf-8-sig") as file:
        file.write(GOOD)
    assert read_pairs(folder) == [
        Pair("q", "p", ("n",), "data.jsonl", 1),
        Pair("t", "x", (), "data.jsonl", 3),
        Pair("q", "p", (), "more.jsonl.gz", 1),
    ]


@pytest.mark.parametrize(
    ("line", "field", "code"),
    [
        ("{", None, "not_json"),
        ("[]", None, "not_an_object"),
        ('{"query": "q"}', "positive", "missing_field"),
        ('{"positive": "q"}', "query", "missing_field"),
        ('{"title": "t"}', "text", "missing_field"),
        ("{}", "title", "missing_field"),
        ('{"query": 1, "positive": "p"}', "query", "wrong_type"),
        ('{"query": " ", "positive": "p"}', "query", "empty"),
        ('{"query": "q", "positive": "p", "negatives": "n"}', "negatives", "wrong_type"),
        ('{"query": "q", "positive": "p", "negatives": ["n", 1]}', "negatives.1", "wrong_type"),
        ('{"query": "q", "positive": "p", "negatives": ["p"]}', "negatives.0", "contradiction"),
        ('{"query": "\\ud800", "positive": "p"}', "query", "not_utf8"),
    ],
)
def test_a_fault_is_told_with_file_line_and_field(tmp_path: Path, line: str, field: str | None, code: str) -> None:
    folder = write(tmp_path / "data", GOOD, line)
    report = validate(folder, ValidateParams())
    [fault] = report.faults
    assert (fault.file, fault.line, fault.field, fault.code, fault.severity) == ("data.jsonl", 2, field, code, "error")
    assert (report.num_errors, report.samples) == (1, {"pair": 1})
    with pytest.raises(InvalidData, match=r"data\.jsonl, line 2"):
        read_pairs(folder)


def test_the_same_pair_twice_is_a_warning_and_bytes_that_are_no_text_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", GOOD, GOOD)
    (folder / "z.jsonl").write_bytes(b'{"query": "\xff"}\n')
    report = validate(folder, ValidateParams(epochs=3))
    assert report.faults_by_code == {"duplicate": 1, "not_utf8": 1}
    assert (report.num_errors, report.num_warnings) == (1, 1)
    assert report.cost == 3 * report.size.total
    assert not validate(folder, ValidateParams(max_samples=1)).is_complete


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", GOOD)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    assert validate(folder, ValidateParams()).faults_by_code == {"unreadable": 1}


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    tmp_path.joinpath("a.txt").write_text("x")
    with pytest.raises(InvalidData, match="no pairs"):
        read_pairs(tmp_path)


def test_no_passage_is_on_both_sides(tmp_path: Path) -> None:
    known = read_pairs(write_pairs(tmp_path / "data"))
    known += [Pair(f"again {number}", pair.positive, (), "b", number) for number, pair in enumerate(known)]
    learnt, held_out = split(known, 0.2)
    assert len(learnt) + len(held_out) == 2 * len(pairs())
    assert not {pair.positive for pair in learnt} & {pair.positive for pair in held_out}
    assert 0.05 < len(held_out) / len(known) < 0.4
    assert all(split(known[:2], fraction)[1] for fraction in (0.0001, 0.5))
    with pytest.raises(InvalidData, match="same passage"):
        split(known[:1] * 3, 0.2)


def test_pairs_make_a_collection_in_which_a_query_may_have_two_answers(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "data", GOOD, '{"query": "q", "positive": "r", "negatives": ["s"]}', '{"query": "other", "positive": "p"}'
    )
    found = read_collection(folder)
    assert list(found.passages.values()) == ["p", "r", "s"]
    assert found.relevant == {"data.jsonl:1": {"p1": 1.0, "p2": 1.0}, "data.jsonl:3": {"p1": 1.0}}
    assert found.wrong["data.jsonl:1"] == ["p3"]
