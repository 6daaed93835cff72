"""The journal under crashes and full disks."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.contract.errors import StorageFull
from modelworks.kernel.jobs.journal import JournalTail, JournalWriter, read_journal

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def written(path: Path, notes: list[str]) -> list[int]:
    """Write entries; returns where each of them ends."""
    writer = JournalWriter(path, attempt=1)
    ends = []
    for note in notes:
        writer.append("note", {"text": note})
        ends.append(path.stat().st_size)
    writer.close()
    return ends


@given(st.lists(texts, max_size=6), st.data())
def test_a_crash_at_any_byte_loses_the_half_line_and_nothing_else(notes: list[str], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        ends = written(path, notes)
        cut = data.draw(st.integers(0, path.stat().st_size))
        os.truncate(path, cut)
        entries = read_journal(path)
        assert [entry.data["text"] for entry in entries] == notes[: sum(end <= cut for end in ends)]
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


@given(st.lists(texts, min_size=1, max_size=6), st.lists(st.integers(1, 40), max_size=40))
def test_a_reader_that_follows_sees_each_entry_once(notes: list[str], sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, growing = Path(folder) / "whole", Path(folder) / "growing"
        written(whole, notes)
        content = whole.read_bytes()
        growing.write_bytes(b"")
        tail, seen = JournalTail(growing), []
        for size in [*sizes, len(content)]:
            with growing.open("ab") as file:
                file.write(content[growing.stat().st_size :][:size])
            seen += tail.read()
        assert [entry.data["text"] for entry in seen] == notes
        assert tail.read() == []


@given(st.lists(texts, min_size=1, max_size=5), st.binary(max_size=60), st.data())
def test_nothing_behind_damage_is_trusted(notes: list[str], damage: bytes, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        ends = [0, *written(path, notes)]
        good = data.draw(st.integers(0, len(notes)))
        content = path.read_bytes()
        # Lines that were good before stand behind the damage again, as on a disk that lost a sector.
        path.write_bytes(content[: ends[good]] + b"{" + damage + b"\n" + content[ends[good] :])
        assert [entry.data["text"] for entry in read_journal(path)] == notes[:good]


def test_a_small_window_reads_everything(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    notes = [f"{'x' * size}" for size in (5, 3000, 1, 0, 5000)]
    written(path, notes)
    tail, seen = JournalTail(path), []
    while entries := tail.read(max_bytes=256):
        seen += [entry.data["text"] for entry in entries]
    assert seen == notes


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    writer = JournalWriter(path, attempt=1)
    writer.append("note", {"text": "before"})
    write, is_full = os.write, [True]

    def write_a_little(fd: int, data: bytes) -> int:
        if not is_full[0]:
            return write(fd, data)
        if len(data) > 30:
            return write(fd, bytes(data)[:30])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write_a_little)
    with pytest.raises(StorageFull, match="full"):
        writer.append("note", {"text": "x" * 40})
    is_full[0] = False
    writer.append("note", {"text": "after"})
    assert [(entry.seq, entry.data["text"]) for entry in read_journal(path)] == [(1, "before"), (2, "after")]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    writer = JournalWriter(path, attempt=1)
    threads = [
        threading.Thread(target=lambda name=name: [writer.append("note", {"text": name}) for _ in range(50)])
        for name in ("a", "b", "c")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = read_journal(path)
    assert [entry.seq for entry in entries] == list(range(1, 151))
    assert sorted(entry.data["text"] for entry in entries) == ["a"] * 50 + ["b"] * 50 + ["c"] * 50


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none") == []
