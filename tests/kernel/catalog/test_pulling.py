"""The pull job, run through a run: what it saves, and that nothing fetched is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.catalog.hubs import FakeHub, serving
from tests.kernel.catalog.samples import safetensors, write_checkpoint

from modelworks.contract.errors import Cancelled, IntegrityFailed, InvalidRequest, PermissionDenied
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog.pulling import PullParams, pull
from modelworks.testing import FakeRun

WEIGHTS = safetensors({"embed": ("U8", [400_000], bytes(400_000))})


@pytest.fixture
def web(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("MODELWORKS_EGRESS_ALLOW", '["127.0.0.1"]')
    with serving(FakeHub({"model.safetensors": WEIGHTS})) as served:
        served.url += "/org/tiny/resolve/main"
        yield served


def test_saves_a_model_with_what_is_known_of_it(settings: Settings, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", licence="mit")
    (folder / "old.pt").write_bytes(b"x")
    run = FakeRun(tmp_path / "run")
    pull(run, PullParams(source=folder.as_uri(), licence_accepted="MIT"))
    (saved,) = run.saved
    assert saved.kind == "model"
    assert {place.name for place in saved.path.iterdir()} == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    known = {key: saved.metadata[key] for key in ("task", "level", "licence", "source")}
    assert known == {"task": "text-generation", "level": "L0", "licence": "mit", "source": folder.as_uri()}
    assert "# A tiny model" in saved.metadata["card"]
    assert saved.metadata["skipped"] == ["old.pt: .pt files are pickles; loading them could run code"]
    assert run.progress_points[-1].what == "bytes"
    assert run.progress_points[-1].done == run.progress_points[-1].total


def test_saves_a_data_set(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("text")
    (tmp_path / "data" / "b.bin").write_bytes(b"raw")
    run = FakeRun(tmp_path / "run")
    pull(run, PullParams(source=(tmp_path / "data").as_uri(), kind="dataset", licence="cc-by-4.0"))
    (saved,) = run.saved
    assert (saved.kind, saved.metadata["licence"]) == ("dataset", "cc-by-4.0")
    assert "level" not in saved.metadata
    assert {place.name for place in saved.path.iterdir()} == {"a.txt", "b.bin"}


def test_a_cancelled_pull_goes_on_where_it_was(web: FakeHub, tmp_path: Path) -> None:
    uri = f"{web.url}/model.safetensors"
    first = FakeRun(tmp_path / "run")
    reported = first.progress

    def cancel_after(done: float, total: float, what: str) -> None:
        reported(done, total, what)
        if done > 100_000:
            first.cancel()

    first.progress = cancel_after  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        pull(first, PullParams(source=uri))
    assert first.saved == []
    web.gets.clear()
    second = FakeRun(tmp_path / "run2", resume_from=first.checkpoints[-1].path)
    pull(second, PullParams(source=uri))
    assert (second.saved[0].path / "model.safetensors").read_bytes() == WEIGHTS
    ((_, asked),) = web.gets
    assert asked is not None
    assert int(asked.removeprefix("bytes=").rstrip("-")) > 100_000


def test_large_fetches_are_checkpointed_on_the_way(web: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.catalog.pulling._CHECKPOINT_BYTES", 50_000)
    run = FakeRun(tmp_path / "run")
    pull(run, PullParams(source=f"{web.url}/model.safetensors"))
    # Each stores at least twice what the one before did: a long fetch is not stored again and again.
    assert 1 <= len(run.checkpoints) <= 4


def test_nothing_is_saved_of_what_is_refused(web: FakeHub, settings: Settings, tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    with pytest.raises(IntegrityFailed):
        pull(run, PullParams(source=f"{web.url}/model.safetensors#sha256={'0' * 64}"))
    with pytest.raises(PermissionDenied):
        pull(run, PullParams(source=settings.home.as_uri()))
    with pytest.raises(InvalidRequest):
        pull(run, PullParams(source=f"{web.url}/model.safetensors", kind="report"))
    assert run.saved == []
