"""What is small and becomes large when it is unpacked, in every place that unpacks; archives have their tests with sources."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from modelworks.capabilities.embedding import data as pairs
from modelworks.capabilities.embedding.schemas import ValidateParams
from modelworks.capabilities.text.datasets import files
from modelworks.capabilities.text.evaluation import records
from modelworks.contract.errors import InvalidData
from modelworks.recipe import extraction

#: One line of 4 MB in 4 KB; the limits are taken down to that for these tests.
BOMB = gzip.compress(b" " * (4 << 20))
LIMIT = 1 << 20


def test_a_line_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MAX_LINE_BYTES", LIMIT)
    (tmp_path / "a.jsonl.gz").write_bytes(BOMB)
    assert pairs.validate(tmp_path, ValidateParams()).faults_by_code == {"line_too_long": 1}
    (tmp_path / "a.jsonl.gz").write_bytes(BOMB[:10] + b"\xff" * 40)
    assert pairs.validate(tmp_path, ValidateParams()).faults_by_code == {"unreadable": 1}


def test_a_line_of_test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE_BYTES", LIMIT)
    (tmp_path / "a.jsonl.gz").write_bytes(BOMB)
    with pytest.raises(InvalidData, match=r"a\.jsonl\.gz:1: the line has more than 1 MiB"):
        list(records.read_json_lines(tmp_path))
    (tmp_path / "a.jsonl.gz").write_bytes(BOMB[:10] + b"\xff" * 40)
    with pytest.raises(InvalidData, match="cannot be unpacked"):
        list(records.read_json_lines(tmp_path))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress('\ufeff{"a": "中"}\r\n\n{"a": 2}'.encode()))
    assert list(records.read_json_lines(tmp_path)) == [("a.jsonl.gz:1", {"a": "中"}), ("a.jsonl.gz:3", {"a": 2})]


def test_a_file_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", LIMIT)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2 * LIMIT)
    monkeypatch.setattr(files, "MAX_WHOLE_BYTES", LIMIT)
    for name in ("a.jsonl.gz", "a.json.gz"):
        (tmp_path / name).write_bytes(BOMB)
        found = [each for each in files.read_records(tmp_path / name, name) if isinstance(each, files.Fault)]
        assert found[-1].code == "file_too_large"


def test_pages_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "MAX_PAGE_BYTES", LIMIT)
    (tmp_path / "a.txt.gz").write_bytes(BOMB)
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b" " * (4 << 20)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.md", b" " * (4 << 20))
    for name, form in (("a.txt.gz", "text"), ("a.txt.xz", "text"), ("a.zip", "zip")):
        with pytest.raises(InvalidData, match="more than 1 MiB"):
            list(extraction.pages(tmp_path / name, name, form))  # type: ignore[arg-type]


class TestParquet:
    """Small files whose columns, rows or headers come to much; unpacking may take 32 MiB."""

    @pytest.fixture(autouse=True)
    def little_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "MAX_PARQUET_BYTES", 32 << 20)

    @staticmethod
    def read(file: Path) -> list[tuple[int | None, str]]:
        """Row and code of every fault; rows that are read come before."""
        return [(each.line, each.code) for each in files.read_records(file, file.name) if isinstance(each, files.Fault)]

    def test_a_page_that_is_packed_small(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * (50 << 20)]}), file, compression="zstd", use_dictionary=False)
        assert file.stat().st_size < 1 << 16
        assert self.read(file) == [(None, "file_too_large")]

    def test_one_text_in_many_rows(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        same = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 5000, pyarrow.int32()), ["x" * (4 << 20)])
        pyarrow.parquet.write_table(pyarrow.table({"text": same}), file, compression="zstd")
        assert file.stat().st_size < 1 << 16
        assert self.read(file) == [(None, "file_too_large")]

    def test_one_row_of_many_elements(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        same = pyarrow.DictionaryArray.from_arrays(pyarrow.array(bytes(1 << 20), pyarrow.int8()), ["x" * 60])
        row = pyarrow.ListArray.from_arrays([0, 1 << 20], same)
        pyarrow.parquet.write_table(pyarrow.table({"text": row}), file, compression="zstd")
        assert file.stat().st_size < 1 << 16
        assert self.read(file) == [(None, "file_too_large")]

    def test_a_row_that_is_too_long_hides_no_other(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "MAX_LINE_BYTES", LIMIT)
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "x" * 2 * LIMIT, "b"]}), tmp_path / "a.parquet")
        found = [*files.read_records(tmp_path / "a.parquet", "a.parquet")]
        assert [each.line for each in found] == [1, 2, 3]
        assert [each.code for each in found if isinstance(each, files.Fault)] == ["line_too_long"]

    def test_rows_of_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "_MAX_EMPTY_LINES", 1000)
        pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.nulls(100_000, pyarrow.string())}), tmp_path / "a.parquet")
        assert self.read(tmp_path / "a.parquet") == [(None, "file_too_large")]

    def test_a_header_that_says_more_than_there_is(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(
            pyarrow.table({"text": ["y" * 300_000]}), file, compression="zstd", use_dictionary=False, write_statistics=False
        )
        whole = file.read_bytes()
        # The page's header: its kind (0), and as its second field the size when unpacked, a zigzag varint of three bytes.
        assert whole[4:7] == b"\x15\x00\x15"
        assert whole[9] < 0x80 <= whole[8]
        assert whole[10] == 0x15
        file.write_bytes(whole[:7] + b"\xfe\xff\xff\xff\x0f" + whole[10:])
        assert self.read(file) in ([(None, "file_too_large")], [(None, "not_parquet")])
