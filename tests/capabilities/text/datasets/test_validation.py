import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from modelworks.capabilities.text.datasets import files
from modelworks.capabilities.text.datasets.params import ValidateParams
from modelworks.capabilities.text.datasets.validation import estimate_tokens, validate
from modelworks.contract.data import DataReport
from modelworks.contract.errors import Cancelled, InvalidData, MissingExtra


def talk(question: str = "What is 2+2?", answer: str = "4") -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


def check(folder: Path, **params: Any) -> DataReport:
    return validate(folder, ValidateParams(**params))


def places(report: DataReport) -> list[tuple[str, str, int | None, str]]:
    return [(fault.code, fault.file, fault.line, fault.severity) for fault in report.faults]


def test_a_bad_file_gives_every_fault_with_its_line(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbf" + talk("1").encode(),
        talk("2").encode()[:-4],
        talk("3").encode(),
        "你好".encode("gb18030"),
        b"",
        b"\xef\xbb\xbf" + talk("6").encode(),
        b'{"messages": NaN}',
        talk("1").encode(),
        b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        talk("last").encode(),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join(lines))
    report = check(tmp_path)
    assert places(report) == [
        ("byte_order_mark", "a.jsonl", 1, "warning"),
        ("not_json", "a.jsonl", 2, "error"),
        ("not_utf8", "a.jsonl", 4, "error"),
        ("byte_order_mark", "a.jsonl", 6, "error"),
        ("not_json", "a.jsonl", 7, "error"),
        ("duplicate", "a.jsonl", 8, "warning"),
        ("empty_assistant", "a.jsonl", 9, "error"),
        ("not_json", "a.jsonl", 10, "error"),
        ("not_json", "a.jsonl", 11, "error"),
    ]
    assert "GB18030" in report.faults[2].message
    assert report.faults[5].message == "The same sample is at a.jsonl, line 1."
    assert report.faults[6].field == "messages.1.content"
    assert (report.num_errors, report.num_warnings, report.samples) == (7, 2, {"chat": 4})
    assert all(fault.hint for fault in report.faults)


def test_a_whole_file_in_another_encoding_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(talk().encode("utf-16"))
    (tmp_path / "b.txt").write_bytes("a\nb\n你好".encode("gb18030"))
    assert places(check(tmp_path)) == [("not_utf8", "a.jsonl", 1, "error"), ("not_utf8", "b.txt", 3, "error")]


def test_an_array_goes_on_after_a_broken_element(tmp_path: Path) -> None:
    records = [{"instruction": f"q{number}", "output": "a"} for number in range(4)]
    text = json.dumps(records, indent=2).replace('"q1",', '"q1"').replace('"q3",\n    "output": "a"', '"q3",\n    "output": ""')
    (tmp_path / "a.json").write_text(text)
    report = check(tmp_path)
    assert places(report) == [("not_json", "a.json", 8, "error"), ("empty_assistant", "a.json", 14, "error")]
    assert report.samples == {"chat": 2}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('[{"text": "a"}', "not_json"),
        ('[{"text": "a"} {"text": "b"}]', "not_json"),
        ('[{"text": "a"}] x', "not_json"),
        ("[1]", "wrong_type"),
        ('{"text": ', "not_json"),
    ],
)
def test_a_broken_array_is_a_fault(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert code in check(tmp_path).faults_by_code


def test_tables_are_read_as_records(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('instruction,output\n"Say, ""hi"".",hi\nbroken\nx,y\n')
    (tmp_path / "b.tsv").write_text("text\nOnce\n")
    messages = json.dumps(json.loads(talk("from a cell"))["messages"])
    (tmp_path / "c.csv").write_text('messages\n"' + messages.replace('"', '""') + '"\n')
    report = check(tmp_path)
    assert places(report) == [("wrong_columns", "a.csv", 3, "error")]
    assert report.samples == {"chat": 3, "text": 1}
    assert len(report.notes) == 2, "one says that there are several kinds"


def test_parquet_is_read_and_a_broken_one_is_a_fault(tmp_path: Path) -> None:
    record = json.loads(talk())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record, {"messages": []}]), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    report = check(tmp_path)
    assert [(fault.code, fault.file, fault.line) for fault in report.faults] == [
        ("missing_field", "a.parquet", 2),
        ("not_parquet", "b.parquet", None),
    ]
    assert report.samples == {"chat": 1}


def test_parquet_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra) as missing:
        check(tmp_path)
    assert missing.value.hint is not None
    assert "modelworks[parquet]" in missing.value.hint


def test_long_lines_and_files_are_passed_over_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    (tmp_path / "a.jsonl").write_text(f"{talk('1')}\n{talk('x' * 5000)}\n{talk('3')}\n")
    report = check(tmp_path)
    assert places(report) == [("line_too_long", "a.jsonl", 2, "error")]
    assert report.samples == {"chat": 2}
    monkeypatch.setattr(files, "MAX_WHOLE_BYTES", 1000)
    (tmp_path / "b.json").write_text("[" + " " * 1000 + "]")
    assert "file_too_large" in check(tmp_path).faults_by_code


def test_statistics_and_cost(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(talk("q" * 40 * n, "a" * 40) for n in range(1, 5)))
    report = check(tmp_path, epochs=3, context_length=50)
    assert (report.size.shortest, report.size.longest, report.size.median) == (28, 58, 48)
    assert (report.size.total, report.size.learnt, report.cost) == (172, 56, 516)
    assert report.size.is_estimate
    assert [(fault.code, fault.line) for fault in report.faults] == [("too_long", 4)]


def test_tokens_are_counted_with_the_models_tokenizer(tmp_path: Path) -> None:
    from modelworks.capabilities.text.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["What is 2+2? 4 " * 20], 320, "", 64)
    model = tmp_path / "model"
    model.mkdir()
    tokenizer.backend_tokenizer.save(str(model / "tokenizer.json"))
    data = tmp_path / "data.jsonl"
    data.write_text(talk())
    report = validate(data, ValidateParams(), model=model)
    wanted = sum(len(tokenizer.encode(text, add_special_tokens=False)) + 4 for text in ("What is 2+2?", "4"))
    assert (report.size.total, report.size.is_estimate, report.notes) == (wanted, False, [])
    (model / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidData, match=r"tokenizer\.json"):
        validate(data, ValidateParams(), model=model)


def test_estimates_know_chinese() -> None:
    assert estimate_tokens("a" * 400) == 100
    assert 60 <= estimate_tokens("中" * 100) <= 70


def test_limits_end_the_check_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(talk(str(n)) for n in range(2500)))
    report = check(tmp_path, max_samples=10)
    assert (report.is_complete, report.samples) == (False, {"chat": 10})
    report = check(tmp_path, max_seconds=1e-9)
    assert (report.is_complete, report.samples) == (False, {"chat": 1000})
    assert any("was not read" in note for note in report.notes)
    (tmp_path / "a.jsonl").write_text("x\n" * 500)
    report = check(tmp_path, max_faults=7)
    assert (len(report.faults), report.num_errors) == (7, 500)


def test_progress_is_told_and_can_stop_the_check(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(talk())
    told: list[tuple[float, float]] = []
    validate(tmp_path, ValidateParams(), on_progress=lambda done, total: told.append((done, total)))
    size = (tmp_path / "a.jsonl").stat().st_size
    assert told == [(0, size), (size, size)]

    def stop(done: float, total: float) -> None:
        raise Cancelled("Stop.")

    with pytest.raises(Cancelled):
        validate(tmp_path, ValidateParams(), on_progress=stop)


def test_an_empty_data_set_is_a_fault_and_a_missing_one_an_error(tmp_path: Path) -> None:
    (tmp_path / ".hidden.jsonl").write_text("x")
    assert check(tmp_path).faults_by_code == {"no_samples": 1}
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf")
    assert check(tmp_path).faults_by_code == {"byte_order_mark": 1, "no_samples": 1}
    with pytest.raises(InvalidData):
        check(tmp_path / "missing")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"max_faults": 0}, {"max_seconds": 0}, {"unknown": 1}])
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ValidateParams(**wrong)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from([*sorted(files.SUFFIXES - {".parquet"}), ".jsonl.gz"]))
def test_no_bytes_break_the_check(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    report = validate(file, ValidateParams())
    assert report.num_errors + sum(report.samples.values()) > 0
    file.unlink()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.booleans(), max_size=12))
def test_every_bad_line_is_found_and_no_good_one_is_lost(tmp_path: Path, good: list[bool]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(f"{talk(str(n)) if is_good else '{'}\n" for n, is_good in enumerate([*good, True])))
    report = validate(file, ValidateParams())
    assert [fault.line for fault in report.faults] == [n + 1 for n, is_good in enumerate(good) if not is_good]
    assert report.samples == {"chat": sum(good) + 1}


def test_files_about_the_data_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Talks")
    assert check(tmp_path).samples == {"text": 1}, "alone it is a text"
    (tmp_path / "a.jsonl").write_text(talk())
    assert check(tmp_path).samples == {"chat": 1}


def test_a_file_of_empty_lines_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MAX_EMPTY_LINES", 10)
    (tmp_path / "a.jsonl").write_text("\n" * 10 + talk())
    assert check(tmp_path).samples == {"chat": 1}
    (tmp_path / "a.jsonl").write_text("\n" * 11 + talk())
    assert check(tmp_path).faults_by_code == {"file_too_large": 1}


def test_elements_of_a_one_line_array_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}, {"text": 3}, {"text": "a"}]))
    report = check(tmp_path)
    assert places(report) == [("wrong_type", "a.json[1]", 1, "error"), ("duplicate", "a.json[2]", 1, "warning")]
    assert "a.json[0], line 1" in report.faults[1].message


def test_the_prompt_of_a_pair_is_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "q" * 400, "chosen": "a" * 40, "rejected": "b" * 80}))
    report = check(tmp_path)
    assert report.samples == {"preference": 1}
    assert (report.size.total, report.size.learnt) == (2 * 104 + 14 + 24, 14 + 24)
