"""The job that looks at a source: what is new, changed, the same, faulty and gone, and what a second attempt takes up."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelworks.contract.errors import Cancelled, Conflict, InvalidRequest, PayloadTooLarge, UpstreamFailed
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.dataspace.sources import Item, ingesting
from modelworks.kernel.dataspace.sources.ingesting import IngestedItem, ingest
from modelworks.kernel.storage import BlobStore
from modelworks.testing import FakeRun


class Told:
    """A source that shows the items it is given."""

    lists_all = True

    def __init__(self, *items: Item, ends: Exception | None = None) -> None:
        self.items, self.ends = items, ends
        self.read: list[str] = []

    def scan(self) -> Iterator[Item]:
        yield from self.items
        if self.ends is not None:
            raise self.ends

    def item(self, key: str, content: bytes = b"x", fingerprint: str | None = None, **more: Any) -> Item:
        def read() -> Iterator[bytes]:
            self.read.append(key)
            yield content

        made = Item(key=key, name=key, fingerprint=fingerprint or f"print of {content!r}", read=read, **more)
        self.items = (*self.items, made)
        return made


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Told:
    told = Told()
    monkeypatch.setattr(ingesting, "open_source", lambda _form, _around: told)
    return told


def look(
    tmp_path: Path,
    run: FakeRun | None = None,
    *,
    dry_run: bool = False,
    told: dict[str, Any] | None = None,
    limits: dict[str, int] | None = None,
    **more: Any,
) -> tuple[dict[str, Any], dict[str, IngestedItem], FakeRun]:
    """Report, listed items by key, and the run."""
    run = run or FakeRun(tmp_path / "run")
    form = {"kind": "folder", "uri": "file:///nowhere", "limits": limits or {}}
    params = {"space_id": "vs_1", "source_id": "src_1", "source": form, **more}
    report = ingest(run, params, told or {}, BlobStore(str(tmp_path / "blobs")), dry_run=dry_run)
    listing = run.saved[-1].path / "items.jsonl" if run.saved else run.workdir / "sync" / "items.jsonl"
    items = [IngestedItem.model_validate_json(line) for line in listing.read_text("utf-8").splitlines()]
    return report, {item.key: item for item in items}, run


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_what_is_new_changed_touched_the_same_and_gone(tmp_path: Path, source: Told) -> None:
    source.item("new", b"N")
    source.item("changed", b"C2")
    source.item("touched", b"T", fingerprint="later")
    source.item("same", b"S")
    known = {
        "changed": {"fingerprint": "old", "digest": _digest(b"C1")},
        "touched": {"fingerprint": "earlier", "digest": _digest(b"T")},
        "same": {"fingerprint": "print of b'S'", "digest": _digest(b"S")},
        "gone": {"fingerprint": "g", "digest": _digest(b"G")},
    }
    report, items, run = look(tmp_path, told={"known": known, "cursor": {"at": 1}})
    assert {key: item.state for key, item in items.items()} == {
        "new": "new",
        "changed": "changed",
        "touched": "touched",
        "gone": "gone",
    }
    assert [report[f"num_{name}"] for name in ("new", "changed", "unchanged", "gone", "failed")] == [1, 1, 2, 1, 0]
    assert source.read == ["new", "changed", "touched"]
    saved = run.saved[-1].path
    assert {place.name for place in (saved / "files").iterdir()} == {_digest(b"N")[7:], _digest(b"C2")[7:]}
    assert json.loads((saved / "cursor.json").read_text()) == {"at": 1}


def test_a_dry_run_reads_and_saves_nothing(tmp_path: Path, source: Told) -> None:
    source.item("new", b"N")
    known = {"gone": {"fingerprint": "g", "digest": _digest(b"G")}}
    report, _, run = look(tmp_path, told={"known": known}, dry_run=True)
    assert (report["new"], report["gone"]) == (["new"], ["gone"])
    assert (source.read, run.saved) == ([], [])


def test_a_source_that_breaks_off_changes_nothing(tmp_path: Path, source: Told) -> None:
    source.item("a")
    source.ends = UpstreamFailed("It broke off.")
    run = FakeRun(tmp_path / "run")
    with pytest.raises(UpstreamFailed):
        look(tmp_path, run)
    assert run.saved == []


def test_nothing_is_gone_where_not_everything_could_be_listed(
    tmp_path: Path, source: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(_form: Any, around: Any) -> Told:
        around.incomplete("A folder cannot be read.")
        return source

    monkeypatch.setattr(ingesting, "open_source", opened)
    source.item("a")
    report, items, _ = look(tmp_path, told={"known": {"b": {"fingerprint": "b", "digest": _digest(b"b")}}})
    assert set(items) == {"a"}
    assert (report["is_complete"], report["notes"]) == (False, ["A folder cannot be read."])


def test_a_source_that_is_suddenly_empty_is_not_believed(tmp_path: Path, source: Told) -> None:
    told = {"known": {"b": {"fingerprint": "b", "digest": _digest(b"b")}}}
    with pytest.raises(Conflict) as caught:
        look(tmp_path, told=told)
    assert caught.value.error_code == "source_empty"
    report, _, _ = look(tmp_path, told=told, allow_empty=True)
    assert report["gone"] == ["b"]


def test_one_bad_document_never_stops_the_rest(tmp_path: Path, source: Told) -> None:
    source.items = (Item(key="away", name="away", fingerprint="", fault=UpstreamFailed("HTTP 500", hint="Try later.")),)
    source.item("evil", pickle.dumps({"a": [1, 2, 3]}))
    source.item("large", b"x" * 11)
    source.item("said large", b"", num_bytes=11)
    source.item("good", b"fine")
    known = {key: {"fingerprint": "old", "digest": _digest(b"old")} for key in ("away", "evil")}
    report, items, run = look(tmp_path, told={"known": known, "cursor": {"v": 1}}, limits={"max_file_bytes": 10})
    assert {key: item.state for key, item in items.items()} == {
        "away": "failed",
        "evil": "failed",
        "large": "failed",
        "said large": "failed",
        "good": "new",
    }
    fault = items["away"].fault
    assert fault is not None
    assert (fault.code, fault.hint) == ("upstream_failed", "Try later.")
    assert report["num_gone"] == 0
    assert [place.name for place in (run.saved[-1].path / "files").iterdir()] == [_digest(b"fine")[7:]]


@pytest.mark.parametrize("limits", [{"max_documents": 2}, {"max_bytes": 25}])
def test_a_source_that_is_too_large_is_cut_off(tmp_path: Path, source: Told, limits: dict[str, int]) -> None:
    for number in range(3):
        source.item(str(number), b"%010d" % number)
    run = FakeRun(tmp_path / "run")
    with pytest.raises(PayloadTooLarge) as caught:
        look(tmp_path, run, limits=limits)
    assert caught.value.param in ("limits.max_documents", "limits.max_bytes")
    assert "Nothing was changed" in str(caught.value.hint)
    assert run.saved == []


def test_two_documents_under_one_key_are_refused(tmp_path: Path, source: Told) -> None:
    source.item("a")
    source.item("a")
    with pytest.raises(InvalidRequest, match="twice"):
        look(tmp_path)


def test_what_a_person_removed_does_not_come_back(tmp_path: Path, source: Told) -> None:
    source.item("removed")
    source.item("kept")
    assert set(look(tmp_path, told={"removed": ["removed"]})[1]) == {"kept"}


def test_a_second_attempt_takes_up_what_the_first_one_fetched(
    tmp_path: Path, source: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "_CHECKPOINT_S", 0.0)
    monkeypatch.setattr(ingesting, "_CHECKPOINT_SHARE", 0.0)
    for key in ("a", "b", "c"):
        source.item(key, key.encode())
    source.ends = UpstreamFailed("It broke off.")
    first = FakeRun(tmp_path / "run")
    with pytest.raises(UpstreamFailed):
        look(tmp_path, first)
    source.ends = None
    source.read.clear()
    source.items = tuple(source.items[:1])
    source.item("b", b"B, changed meanwhile")
    source.item("c", b"c")
    source.item("d", b"d")
    second = FakeRun(tmp_path / "run2", resume_from=first.checkpoints[-1].path)
    report, items, _ = look(tmp_path, second)
    assert source.read == ["b", "d"]
    assert {key: item.digest for key, item in items.items()} == {
        "a": _digest(b"a"),
        "b": _digest(b"B, changed meanwhile"),
        "c": _digest(b"c"),
        "d": _digest(b"d"),
    }
    assert report["num_new"] == 4
    assert not (second.saved[-1].path / "fetched.jsonl").exists()


def test_it_stops_when_it_is_told_to(tmp_path: Path, source: Told) -> None:
    source.item("a")
    with pytest.raises(Cancelled):
        look(tmp_path, FakeRun(tmp_path / "run", cancel_at=0))
