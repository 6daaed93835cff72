"""The job: what it saves, what it takes over, what one bad file may do, and how an ended run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.capabilities.document.conftest import line, parse, passages, pdf, results, write_documents

from modelworks.capabilities.document import parsing
from modelworks.capabilities.document.parsing import parse_documents
from modelworks.capabilities.document.pool import MAX_SKIPPED, Pool, Task
from modelworks.capabilities.document.schemas import ParsingRequest
from modelworks.capabilities.document.worker import ParsingJob
from modelworks.capabilities.document.worker import parse as parse_job
from modelworks.contract.errors import Cancelled, InvalidData
from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, Document, Fault, ParsedDocument
from modelworks.testing.fake_run import FakeRun, digest_of

FILES = {
    "rivers.md": "# Rivers\n\nThe river rises in the hills.\n\n## Fish\n\nTrout live here.\n",
    "locked.txt": b"\xd0\xcf\x11\xe0" + "EncryptedPackage".encode("utf-16-le"),
    "notes.txt": "河流发源于山中。\n",
}
REQUEST = ParsingRequest(num_processes=1)


def test_documents_become_a_data_set_of_passages(tmp_path: Path) -> None:
    output, saved = parse(tmp_path, FILES)
    assert (output.num_documents, output.num_parsed, output.num_failed, output.faults) == (3, 2, 1, {"encrypted": 1})
    assert saved.kind == "dataset"
    assert saved.metadata["form"] == "passages"
    assert list(results(saved)) == list(FILES)
    rivers = passages(saved, "rivers-md")
    assert [(each.text, each.place.headings, each.place.lines) for each in rivers] == [
        ("The river rises in the hills.", ("Rivers",), (3, 3)),
        ("Trout live here.", ("Rivers", "Fish"), (7, 7)),
    ]
    assert rivers[1].id == "rivers-md:1"
    assert [each.language for each in (*rivers, *passages(saved, "notes-txt"))] == ["en", "en", "zh"]
    bad = results(saved)["locked.txt"]
    assert (bad.state, bad.faults[0].hint) == ("failed", "Save it without the password.")
    assert passages(saved, "locked-txt") == []
    assert not (saved.path / "partial").exists()


def test_what_did_not_change_is_taken_over_as_it_is(tmp_path: Path) -> None:
    _, first = parse(tmp_path / "first", FILES)
    marked = first.path / PASSAGES_FOLDER / "rivers-md.jsonl"
    marked.write_text(marked.read_text().replace("Trout", "TROUT"))
    documents = write_documents(tmp_path / "documents", {**FILES, "notes.txt": "大海。\n"})

    def again(name: str, request: ParsingRequest) -> tuple[int, str]:
        run = FakeRun(tmp_path / name, datasets={"documents": documents, "previous": first.path})
        output = parse_documents(run, request)
        return output.num_unchanged, passages(run.saved[0], "rivers-md")[1].text

    # The encrypted one is taken over with its fault.
    assert again("same", REQUEST) == (2, "TROUT live here.")
    other = ParsingRequest(num_processes=1, passage_chars=300)
    assert again("other-rules", other) == (0, "Trout live here.")


def test_a_document_knows_its_licence_and_how_often_it_says_the_same(tmp_path: Path) -> None:
    twice = "# Pumps\n\n## Note\n\nIt runs at 12 bar.\n\n## Note\n\nIt runs at 12 bar.\n\n## Hint\n\nIt runs at 12 bar.\n"
    documents = write_documents(tmp_path / "mit", {"a.md": twice, "b.md": "# B\n\nOnce.\n", "c.md": ""}, licence="mit")
    run = FakeRun(tmp_path / "first", datasets={"documents": documents})
    parse_documents(run, REQUEST)
    first = results(run.saved[0])
    assert {name: (each.num_copies, each.licence) for name, each in first.items()} == {
        "a.md": (1, "mit"),
        "b.md": (0, "mit"),
        "c.md": (0, "mit"),
    }
    other = write_documents(tmp_path / "closed", {"a.md": twice}, licence="closed")
    # As it was written before copies were counted.
    listing = run.saved[0].path / "documents.jsonl"
    listing.write_text(listing.read_text().replace('"num_copies":1,', ""))
    assert results(run.saved[0])["a.md"].num_copies is None
    again = FakeRun(tmp_path / "second", datasets={"documents": other, "previous": run.saved[0].path})
    assert parse_documents(again, REQUEST).num_unchanged == 1
    assert (results(again.saved[0])["a.md"].licence, results(again.saved[0])["a.md"].num_copies) == ("closed", 1)


def test_a_run_that_ended_goes_on_with_nothing_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = {"documents": write_documents(tmp_path / "documents", {f"{n}.txt": f"Number {n}.\n" for n in range(5)})}
    whole = FakeRun(tmp_path / "whole", datasets=documents)
    parse_documents(whole, REQUEST)
    monkeypatch.setattr(parsing, "_CHECKPOINT_SHARE", 1e9)
    first = FakeRun(tmp_path / "run", datasets=documents, cancel_at=2)
    with pytest.raises(Cancelled):
        parse_documents(first, REQUEST)
    assert not first.saved
    second = FakeRun(tmp_path / "run", datasets=documents, resume_from=first.checkpoints[-1].path)
    output = parse_documents(second, REQUEST)
    assert output.num_documents == 5
    assert second.logs[0].step > 1, "documents were parsed again"
    assert digest_of(second.saved[0].path) == digest_of(whole.saved[0].path)


def test_nothing_is_checkpointed_before_a_page_was_read(tmp_path: Path) -> None:
    """A run whose first document is a slow one has nothing to keep when its first page begins."""
    run = FakeRun(tmp_path / "run")
    document = Document(id="slow", path="slow.pdf", name="slow.pdf", digest="sha256:0", num_bytes=1)
    (tmp_path / "slow.pdf").write_bytes(b"%PDF-1.7")
    work = parsing._Work(run, REQUEST, tmp_path, [document])
    work.on_page("slow", 0, 40)
    work.on_tick()
    assert not run.checkpoints
    next(work.jobs()).partial.write_text('{"page": 1, "items": []}\n')
    work.on_page("slow", 1, 40)
    work.on_tick()
    assert [path.name for path in run.checkpoints[0].path.rglob("*.jsonl")] == ["slow.jsonl"]


def test_pages_that_were_read_are_not_read_again(tmp_path: Path) -> None:
    """A checkpoint holds pages of a document that is not done: the next attempt begins behind them."""
    content = pdf([line(50, 100, "First page of it."), line(50, 100, "Second page of it.")])
    documents = write_documents(tmp_path / "documents", {"long.pdf": content})
    kept = tmp_path / "kept" / "partial"
    kept.mkdir(parents=True)
    item = {"text": "Told before.", "box": [50, 90, 200, 100], "size": 10.0, "column": [0, 50, 200]}
    record = {"page": 1, "size": [595, 842], "items": [item]}
    (kept / "long-pdf.jsonl").write_text(json.dumps(record) + '\n{"page": 2, "ite')
    run = FakeRun(tmp_path / "run", datasets={"documents": documents}, resume_from=tmp_path / "kept")
    parse_documents(run, REQUEST)
    text = " ".join(each.text for each in passages(run.saved[0], "long-pdf"))
    assert "Told before." in text
    assert "Second page" in text
    assert "First page" not in text


def test_a_document_that_takes_too_long_stops_no_other(tmp_path: Path) -> None:
    """Some thirty megabytes of sentences take far longer than the limit, a word takes far less."""
    files = {"slow.txt": "Fine. And so. " * 2_200_000, "quick.txt": "Quick.\n"}
    output, saved = parse(tmp_path, files, document_timeout_s=3, max_document_chars=100_000_000)
    assert (output.num_failed, output.num_parsed) == (1, 1)
    assert results(saved)["slow.txt"].faults[0].code == "timed_out"


def test_a_page_that_fails_is_read_simply_and_then_left_out(tmp_path: Path) -> None:
    document = Document(id="a", path="a", name="a.pdf", digest="sha256:0", num_bytes=1)
    job = ParsingJob(document, REQUEST, tmp_path / "a.pdf", tmp_path / "into", tmp_path / "partial")
    ended: list[ParsedDocument] = []
    pool = Pool(1, on_result=ended.append, on_page=lambda *_: None, on_tick=lambda: None)

    def fail(job: ParsingJob, page: int) -> ParsingJob:
        pool.again(Task(job, page=page), "timed_out", f"Page {page} was slow.", "Wait.")
        return pool.waiting.popleft().job

    plain = fail(job, 7)
    assert (plain.plain, plain.skipped) == (frozenset({7}), ())
    without = fail(plain, 7)
    assert [(fault.code, fault.page) for fault in without.skipped] == [("timed_out", 7)]
    for page in range(8, 8 + MAX_SKIPPED - 1):
        without = fail(fail(without, page), page)
    pool.again(Task(fail(without, 99), page=99), "timed_out", "Page 99 was slow.", "Wait.")
    assert not pool.waiting
    assert ended[0].state == "failed"
    assert f"{MAX_SKIPPED} pages failed" in ended[0].faults[0].message


def test_a_page_that_is_left_out_is_named(tmp_path: Path) -> None:
    """What the worker does with a page that it is told to read simply, and with one that it is told to leave out."""
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([line(50, 100, f"This is page number {n} of it.") for n in (1, 2, 3)]))
    document = Document(id="a", path="a", name="a.pdf", digest="sha256:0", num_bytes=1)
    skipped = (Fault(code="timed_out", message="Page 2 was slow.", page=2),)
    job = ParsingJob(document, REQUEST, path, tmp_path / "into", tmp_path / "partial", frozenset({2, 3}), skipped)
    told: list[dict[str, object]] = []
    found = parse_job(ParsingJob.from_line(job.to_line()), told.append)
    assert (found.state, [(fault.code, fault.page) for fault in found.faults]) == (
        "partial",
        [("timed_out", 2), ("page_simplified", 3)],
    )
    text = (tmp_path / "into").read_text()
    assert "number 1" in text
    assert "number 3" in text
    assert "number 2" not in text
    assert told == [{"page": 1, "of": 3}, {"page": 2, "of": 3}, {"page": 3, "of": 3}, {"pages": "done"}]


def test_memory_is_bounded(tmp_path: Path) -> None:
    big = "word " * (30 << 20)
    output, saved = parse(
        tmp_path, {"big.txt": big, "ok.txt": "Fine.\n"}, worker_memory_bytes=256 << 20, max_document_chars=400_000_000
    )
    assert (output.num_failed, output.num_parsed) == (1, 1)
    assert results(saved)["big.txt"].faults[0].code in ("out_of_memory", "parser_crashed")


def test_paths_that_lead_out_of_the_data_set_are_refused(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", {"a.txt": "Fine.\n"})
    (tmp_path / "secret.txt").write_text("secret")
    (documents / "files" / "link").symlink_to(tmp_path / "secret.txt")
    rows = [
        Document(id=name, path=path, name=f"{name}.txt", digest="sha256:0", num_bytes=6).model_dump_json()
        for name, path in (("up", "../secret.txt"), ("link", "files/link"), ("gone", "files/none"))
    ]
    with (documents / DOCUMENTS_FILE).open("a") as file:
        file.write("\n".join(rows))
    run = FakeRun(tmp_path / "run", datasets={"documents": documents})
    parse_documents(run, REQUEST)
    faults = {name: found.faults[0].code for name, found in results(run.saved[0]).items() if found.faults}
    assert faults == {"up.txt": "unsafe_path", "link.txt": "unsafe_path", "gone.txt": "file_missing"}


def test_a_broken_list_of_documents_is_named_with_its_line(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", {"a.txt": "Fine.\n"})
    with (documents / DOCUMENTS_FILE).open("a") as file:
        file.write('{"id": "a b"}\n')
    with pytest.raises(InvalidData, match=r"line 2: id"):
        parse_documents(FakeRun(tmp_path / "run", datasets={"documents": documents}), REQUEST)
