"""What is taken out of passages: each rule by itself, counted, previewed, and what no rule touches byte for byte the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelworks.capabilities.document.cleaning.cleaning import clean
from modelworks.capabilities.document.cleaning.copies import num_copies
from modelworks.capabilities.document.cleaning.personal import find, masked
from modelworks.capabilities.document.cleaning.schemas import CleanPassages
from modelworks.contract.data import CleanReport
from modelworks.contract.errors import Cancelled, InvalidData
from modelworks.contract.passages import Cleaned, ParsedDocument, Passage

NOTHING: dict[str, Any] = {
    "duplicates": False,
    "similarity": None,
    "boilerplate_share": None,
    "personal_data": dict.fromkeys(("email", "phone", "id_number", "bank_card", "iban"), "keep"),
}


def write(folder: Path, **documents: list[str | dict[str, Any]]) -> Path:
    """A data set of passages: texts, or whole passages, by document."""
    (folder / "passages").mkdir(parents=True)
    listing = []
    for name, texts in documents.items():
        lines = []
        for ordinal, text in enumerate(texts):
            given = {"text": text} if isinstance(text, str) else text
            made = Passage(id=f"{name}:{ordinal}", document_id=name, ordinal=ordinal, **given)
            lines.append(made.model_dump_json(exclude_none=True))
        (folder / "passages" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        listing.append(
            ParsedDocument(id=name, name=f"{name}.md", digest="d", parser="p", state="parsed", num_passages=len(texts))
        )
    (folder / "documents.jsonl").write_text("".join(each.model_dump_json() + "\n" for each in listing))
    return folder


def cleaned(tmp_path: Path, *, into: bool = True, **params: Any) -> tuple[CleanReport, dict[str, list[str]]]:
    """The report, and the texts that are kept by document."""
    target = tmp_path / "out" if into else None
    report = clean(tmp_path / "in", CleanPassages(**(NOTHING | params)), into=target)
    kept: dict[str, list[str]] = {}
    if target is not None:
        listed = [
            ParsedDocument.model_validate_json(line) for line in (target / "train" / "documents.jsonl").read_text().splitlines()
        ]
        for document in listed:
            place = target / "train" / "passages" / f"{document.id}.jsonl"
            lines = place.read_text().splitlines() if place.exists() else []
            kept[document.id] = [Passage.model_validate_json(line).text for line in lines]
            assert document.num_passages == len(lines)
    return report, kept


ZH = "本公司承诺所有员工每年享有十五天带薪年假，具体安排由部门主管与员工协商确定，并应提前两周提出申请。"
EN = (
    "Every employee has fifteen days of paid leave a year, which the head of the department arranges with them two weeks ahead."
)


def test_copies_and_near_copies_in_both_languages(tmp_path: Path) -> None:
    near_zh, near_en = ZH.replace("两周", "三周"), EN.replace("two weeks", "three weeks")
    write(tmp_path / "in", a=[ZH, EN], b=[ZH + "！", near_zh, near_en, "Something else that nobody said before."])
    report, kept = cleaned(tmp_path, duplicates=True, similarity=0.6)
    assert kept == {"a": [ZH, EN], "b": ["Something else that nobody said before."]}
    assert report.removed == {"duplicate": 1, "near_duplicate": 2}
    assert (report.num_read, report.kept) == (6, {"train": 3})
    first = report.preview[0]
    assert (first.file, first.line, first.like) == ("passages/b.jsonl", 1, "passages/a.jsonl:1")
    assert report.preview[1].similarity is not None
    assert 0.6 <= report.preview[1].similarity < 1


def test_lines_that_stand_in_many_documents(tmp_path: Path) -> None:
    foot = "© 2024 ACME Corp. Page {}"
    documents = {name: [f"Text of {name}.\n{foot.format(number)}"] for number, name in enumerate("abcd")}
    documents["e"] = ["Text of e."]
    documents["f"] = [foot.format(9), {"kind": "code", "text": foot.format(9)}]
    write(tmp_path / "in", **documents)  # type: ignore[arg-type]
    report, kept = cleaned(tmp_path, boilerplate_share=0.5)
    assert kept["a"] == ["Text of a."]
    assert kept["f"] == [foot.format(9)], "code is left as it is"
    assert report.removed == {"boilerplate": 1}
    assert any("ACME" in note for note in report.notes)


PERSONAL = [
    ("写信到 zhang.san@example.com.cn 即可", "email", "zhang.san@example.com.cn"),
    ("手机１３８１２３４５６７８，随时", "phone", "１３８１２３４５６７８"),
    ("call +86 138-1234-5678 now", "phone", "+86 138-1234-5678"),
    ("座机 010-12345678", "phone", "010-12345678"),
    ("call +44 20 7946 0958.", "phone", "+44 20 7946 0958"),
    ("or (415) 555-2671", "phone", "(415) 555-2671"),
    ("身份证11010519491231002X。", "id_number", "11010519491231002X"),
    ("SSN 123-45-6789", "id_number", "123-45-6789"),
    ("card 4111 1111 1111 1111", "bank_card", "4111 1111 1111 1111"),
    ("银联 6222021234567890128", "bank_card", "6222021234567890128"),
    ("IBAN DE89 3704 0044 0532 0130 00", "iban", "DE89 3704 0044 0532 0130 00"),
]


@pytest.mark.parametrize(("text", "kind", "part"), PERSONAL)
def test_personal_data_is_found_by_form_and_check_digits(text: str, kind: str, part: str) -> None:
    (found,) = find(text)
    assert (found.kind, text[found.start : found.end]) == (kind, part)
    assert masked(text, [found]) == text.replace(part, f"[{kind}]")


@pytest.mark.parametrize(
    "text",
    [
        "版本 2024-01-31，共 12,345,678 元",
        "身份证 110105194912310021 校验错",
        "card 4111 1111 1111 1112",
        "part 1234567890123456",
        "IBAN DE00 3704 0044 0532 0130 00",
        "pi is 3.14159265358979",
        "user@localhost and a@b",
        "ISBN 978-3-16-148410-0",
        "2024-01-02 03:04:05 +0800",
        "192.168.100.200",
    ],
)
def test_what_only_looks_like_it(text: str) -> None:
    assert find(text) == []


def test_personal_data_by_policy(tmp_path: Path) -> None:
    texts = ["Mail to a@example.com.", "Card 4111 1111 1111 1111.", "SSN 123-45-6789.", "Nothing."]
    write(tmp_path / "in", a=texts)
    policy = NOTHING["personal_data"] | {"email": "mask", "bank_card": "drop"}
    report, kept = cleaned(tmp_path, personal_data=policy)
    assert kept == {"a": ["Mail to [email].", "SSN 123-45-6789.", "Nothing."]}
    assert report.removed == {"personal_data": 1}
    assert "4111" not in report.model_dump_json(), "the preview does not show what must not be kept"
    assert any("1 email in 1 passages: passages/a.jsonl:1" in note for note in report.notes)


def test_languages_and_quality(tmp_path: Path) -> None:
    write(
        tmp_path / "in",
        a=[
            {"text": "Ein deutscher Satz.", "language": "und"},
            {"text": "日本語の文です。", "language": "ja"},
            {"text": ZH, "language": "zh"},
            "short",
            {"text": "x|y", "kind": "table"},
            "---- ==== #### $$$$ a",
        ],
    )
    report, kept = cleaned(tmp_path, languages=["zh", "en"], min_chars=6, max_symbol_share=0.5)
    assert kept == {"a": [ZH, "x|y"]}
    assert report.removed == {"language": 2, "quality": 2}
    assert [each.detail for each in report.preview if each.reason == "language"] == [
        "Its language is another than zh, en, ja and ko.",
        "Its language is ja.",
    ]


def test_what_no_rule_touches_keeps_its_bytes_and_a_dry_run_says_the_same(tmp_path: Path) -> None:
    place = {"page": 3, "headings": ["A", "B"]}
    write(tmp_path / "in", a=[{"text": ZH, "place": place, "section": (0, 1)}, EN], b=["Mail to a@example.com."])
    params = CleanPassages()
    report = clean(tmp_path / "in", params, into=tmp_path / "out")
    assert (tmp_path / "out/train/passages/a.jsonl").read_bytes() == (tmp_path / "in/passages/a.jsonl").read_bytes()
    assert clean(tmp_path / "in", params) == report
    assert report.kept == {"train": 3}


def test_data_that_are_no_passages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no passages"):
        clean(tmp_path, CleanPassages())
    write(tmp_path / "in", a=["x"])
    (tmp_path / "in/passages/a.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(InvalidData, match=r"a\.jsonl, line 1"):
        clean(tmp_path / "in", CleanPassages())
    listing = tmp_path / "in/documents.jsonl"
    listing.write_text(listing.read_text().replace('"id":"a"', '"id":"../../etc/x"'))
    with pytest.raises(InvalidData, match="no id"):
        clean(tmp_path / "in", CleanPassages())


def test_it_can_be_cancelled(tmp_path: Path) -> None:
    write(tmp_path / "in", a=["x"], b=["y"])

    def stop(_done: float, _total: float) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        clean(tmp_path / "in", CleanPassages(), on_progress=stop)


def told(tmp_path: Path, document: str) -> list[Cleaned]:
    place = tmp_path / "out/train/cleaning" / f"{document}.jsonl"
    return [Cleaned.model_validate_json(line) for line in place.read_text().splitlines()] if place.exists() else []


def listed(tmp_path: Path) -> dict[str, ParsedDocument]:
    lines = (tmp_path / "out/train/documents.jsonl").read_text().splitlines()
    return {each.id: each for each in map(ParsedDocument.model_validate_json, lines)}


def test_copies_inside_a_document_are_those_of_the_same_place_to_the_letter(tmp_path: Path) -> None:
    under = {"text": "It lasts 24 months.", "place": {"headings": ["X200"]}}
    other = {"text": "It lasts 24 months.", "place": {"headings": ["X300"]}}
    sheets = [{"text": "1 | 2", "kind": "table", "place": {"cells": f"{year}!A1:B2"}} for year in (2023, 2024)]
    a = [under, other, {**under, "text": "It  lasts\n24 months."}, {**under, "text": "It lasts 24 Months."}, *sheets]
    write(tmp_path / "in", a=a, b=[under])
    report, kept = cleaned(tmp_path, duplicates="document")
    assert report.removed == {"duplicate": 1}
    assert kept["a"] == ["It lasts 24 months.", "It lasts 24 months.", "It lasts 24 Months.", "1 | 2", "1 | 2"]
    assert kept["b"] == ["It lasts 24 months."], "another document says it, too"
    (copy,) = told(tmp_path, "a")
    assert (copy.passage_id, copy.rule, copy.like, copy.is_kept) == ("a:2", "duplicate", "a:0", False)
    assert num_copies(Passage(id=f"a:{n}", document_id="a", ordinal=n, **each) for n, each in enumerate(a)) == 1


def test_documents_under_other_licences_go_whole(tmp_path: Path) -> None:
    write(tmp_path / "in", free=["one", "two"], closed=["three"], silent=["four"])
    listing = tmp_path / "in/documents.jsonl"
    documents = [ParsedDocument.model_validate_json(line) for line in listing.read_text().splitlines()]
    licences = {"free": "CC-BY-4.0", "closed": "proprietary", "silent": None}
    listing.write_text(
        "".join(f"{each.model_copy(update={'licence': licences[each.id]}).model_dump_json()}\n" for each in documents)
    )
    report, kept = cleaned(tmp_path, licences=["cc-by-*", "MIT"])
    assert (report.removed, kept) == ({"licence": 2}, {"free": ["one", "two"], "closed": [], "silent": []})
    assert [each.detail for each in report.preview] == [
        "Its document is under proprietary.",
        "Nothing says under which licence its document is.",
    ]
    found = listed(tmp_path)
    assert (found["closed"].dropped, found["closed"].num_passages, found["free"].dropped) == ({"licence": 1}, 0, {})
    report = clean(tmp_path / "in", CleanPassages(**NOTHING, licences=["Proprietary", "unknown"]))
    assert (report.removed, report.kept) == ({"licence": 2}, {"train": 2})


def test_each_document_says_what_was_done_in_it(tmp_path: Path) -> None:
    foot = "© 2024 ACME Corp."
    texts = {name: [f"Text of {name}.\n{foot}"] for name in "abc"}
    texts["a"] += ["Write to a@example.com or b@example.com.", "short", "Card 4111 1111 1111 1111."]
    write(tmp_path / "in", **texts)  # type: ignore[arg-type]
    policy = NOTHING["personal_data"] | {"email": "mask", "bank_card": "drop"}
    report, _ = cleaned(tmp_path, boilerplate_share=0.9, min_chars=8, personal_data=policy)
    assert (report.removed, report.changed) == ({"quality": 1, "personal_data": 1}, {"boilerplate": 3, "personal_data": 1})
    done = told(tmp_path, "a")
    assert [(each.passage_id, each.rule, each.is_kept) for each in done] == [
        ("a:0", "boilerplate", True),
        ("a:1", "personal_data", True),
        ("a:2", "quality", False),
        ("a:3", "personal_data", False),
    ]
    assert foot in done[0].detail
    assert (done[1].detail, done[1].excerpt) == ("Masked: 2 email.", "Write to [email] or [email].")
    assert "4111" not in done[3].excerpt
    assert (listed(tmp_path)["a"].dropped, listed(tmp_path)["a"].num_changed) == ({"personal_data": 1, "quality": 1}, 2)


def test_a_report_for_everybody_shows_no_text(tmp_path: Path) -> None:
    foot = "Confidential: project Nightjar."
    write(tmp_path / "in", **{name: [f"Text of {name}.\n{foot}", "tiny"] for name in "abc"})  # type: ignore[arg-type]
    params = NOTHING | {"boilerplate_share": 0.9, "min_chars": 5, "excerpts": False}
    report, _ = cleaned(tmp_path, **params)
    assert (report.removed, report.changed) == ({"quality": 3}, {"boilerplate": 3})
    assert next((each.file, each.line, each.excerpt) for each in report.preview) == ("passages/a.jsonl", 2, "")
    assert "Nightjar" not in report.model_dump_json()
    assert "Nightjar" in told(tmp_path, "a")[0].detail, "the data set knows, which is for administrators"


def test_examples_are_told_of_every_rule(tmp_path: Path) -> None:
    write(tmp_path / "in", a=[*("x" for _ in range(80)), {"text": "Ein Satz.", "language": "de"}])
    report, _ = cleaned(tmp_path, min_chars=5, languages=["en"])
    assert report.removed == {"quality": 80, "language": 1}
    assert {each.reason for each in report.preview} == {"quality", "language"}
    assert len(report.preview) < 80
