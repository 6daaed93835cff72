"""What is small and becomes large when it is unpacked, in every place that unpacks; archives have their tests with sources."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from pathlib import Path

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
