"""`hf://` and `ms://` through the hubs' own clients, against a server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.catalog.hubs import COMMIT, FakeHub, serving
from tests.kernel.catalog.samples import safetensors

from modelworks.contract.errors import (
    Cancelled,
    Conflict,
    IntegrityFailed,
    InvalidRequest,
    ModelworksError,
    NotFound,
    UnsafeArtifact,
    UpstreamFailed,
)
from modelworks.kernel.catalog.pulling import FetchedSource, import_source
from modelworks.kernel.catalog.sources import SourcePolicy, open_source
from modelworks.kernel.catalog.sources.hub import HubLocation, parse_location

WEIGHTS = safetensors({"embed": ("U8", [400_000], bytes(range(250)) * 1600)})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    files = {
        "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
        "config.json": json.dumps({"architectures": ["Qwen3ForCausalLM"]}).encode(),
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"\x80\x02 a pickle",
        "sub/extra.txt": b"extra",
        ".gitattributes": b"*",
    }
    with serving(FakeHub(files)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.url)
        for name in ("MODELSCOPE_CACHE", "MODELSCOPE_HOME", "HF_HOME"):
            monkeypatch.setenv(name, str(tmp_path / "hub-home"))
        yield served


def fetch(uri: str, workdir: Path, **known: object) -> FetchedSource:
    options = {"on_progress": lambda *_: None, "cancelled": lambda: False, **known}
    return import_source(uri, kind="model", workdir=workdir, policy=SourcePolicy(), **options)  # type: ignore[arg-type]


BOTH = pytest.mark.parametrize("scheme", ["hf", "ms"])


@BOTH
def test_licence_and_size_are_known_before(hub: FakeHub, scheme: str) -> None:
    info = open_source(f"{scheme}://org/tiny", kind="model", revision=None, policy=SourcePolicy()).describe()
    assert (info.licence, info.name, info.task) == ("apache-2.0", "org/tiny", "text-generation")
    kept = {"README.md", "config.json", "model.safetensors", "sub/extra.txt"}
    assert {file.path for file in info.files} == kept
    assert info.size_bytes == sum(len(hub.files[path]) for path in kept)
    assert [skipped.path for skipped in info.skipped] == ["pytorch_model.bin"]
    assert "pickle" in info.skipped[0].reason
    assert info.revision == (COMMIT if scheme == "hf" else "master")
    assert hub.gets == []


@BOTH
def test_fetches_what_is_safe(hub: FakeHub, tmp_path: Path, scheme: str) -> None:
    seen: list[tuple[int, int | None]] = []
    fetched = fetch(f"{scheme}://org/tiny", tmp_path / "work", on_progress=lambda *at: seen.append(at))
    found = {str(place.relative_to(fetched.path)) for place in fetched.path.rglob("*") if place.is_file()}
    assert found == {"README.md", "config.json", "model.safetensors", "sub/extra.txt"}
    assert (fetched.path / "model.safetensors").read_bytes() == WEIGHTS
    assert (fetched.licence, fetched.task, fetched.info.name) == ("apache-2.0", "text-generation", "org/tiny")
    assert fetched.card is not None
    assert "# Tiny" in fetched.card
    assert seen[-1] == (fetched.info.size_bytes, fetched.info.size_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert "pytorch_model.bin" not in {name for name, _ in hub.gets}


@BOTH
def test_a_part_of_a_repository(hub: FakeHub, tmp_path: Path, scheme: str) -> None:
    fetched = fetch(f"{scheme}://org/tiny/sub", tmp_path / "work")
    assert [file.path for file in fetched.info.files] == ["extra.txt"]
    assert (fetched.path / "extra.txt").read_bytes() == b"extra"
    with pytest.raises(NotFound):
        fetch(f"{scheme}://org/tiny/nothing", tmp_path / "other")


@BOTH
def test_cancel_and_go_on(hub: FakeHub, tmp_path: Path, scheme: str) -> None:
    def stop(done: int, _total: int | None) -> None:
        if done > 1000:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        fetch(f"{scheme}://org/tiny", tmp_path / "work", on_progress=stop)
    assert (tmp_path / "work" / "files" / "config.json").is_file()
    assert not (tmp_path / "work" / "files" / "model.safetensors").exists()
    hub.gets.clear()
    fetched = fetch(f"{scheme}://org/tiny", tmp_path / "work")
    assert (fetched.path / "model.safetensors").read_bytes() == WEIGHTS
    assert "config.json" not in {name for name, _ in hub.gets}


@BOTH
def test_another_revision_that_does_not_exist(hub: FakeHub, tmp_path: Path, scheme: str) -> None:
    with pytest.raises(NotFound) as caught:
        fetch(f"{scheme}://org/nothing", tmp_path / "work")
    assert f"{scheme}://org/nothing" in caught.value.message


@BOTH
@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_other_bytes_than_announced_are_refused(hub: FakeHub, tmp_path: Path, scheme: str, path: str) -> None:
    data = bytearray(hub.files[path])
    data[-1] ^= 1
    hub.tampered[path] = bytes(data)
    with pytest.raises((IntegrityFailed, UpstreamFailed)):
        fetch(f"{scheme}://org/tiny", tmp_path / "work")
    assert not (tmp_path / "work" / "files" / path).exists()


@BOTH
def test_only_pickles_are_refused(hub: FakeHub, tmp_path: Path, scheme: str) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(UnsafeArtifact, match="pickles only"):
        fetch(f"{scheme}://org/tiny", tmp_path / "work")
    assert hub.gets == []


@BOTH
def test_the_licence_that_was_accepted_must_be_the_one(hub: FakeHub, tmp_path: Path, scheme: str) -> None:
    fetch(f"{scheme}://org/tiny", tmp_path / "work", licence_accepted="Apache-2.0")
    hub.licence = "cc-by-nc-4.0"
    hub.gets.clear()
    with pytest.raises(Conflict) as caught:
        fetch(f"{scheme}://org/tiny", tmp_path / "other", licence_accepted="Apache-2.0")
    assert caught.value.error_code == "licence_changed"
    assert hub.gets == []


def test_a_broken_connection_is_continued_with_a_range(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    hub.break_after["model.safetensors"] = 150_000
    fetched = fetch("hf://org/tiny", tmp_path / "work")
    assert (fetched.path / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [given for name, given in hub.gets if name == "model.safetensors"]
    assert ranges == [None, "bytes=150000-"]


@BOTH
def test_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(ModelworksError) as caught:
        fetch(f"{scheme}://org/tiny", tmp_path / "work")
    assert isinstance(caught.value, UpstreamFailed)


def test_locations() -> None:
    def parsed(uri: str, kind: str = "model", revision: str | None = None) -> HubLocation:
        return parse_location(uri, kind=kind, revision=revision)

    assert parsed("hf://Qwen/Qwen3-0.6B") == HubLocation("Qwen/Qwen3-0.6B", "model", None, None)
    assert parsed("ms://a/b@v1.0/sub/x") == HubLocation("a/b", "model", "v1.0", "sub/x")
    assert parsed("hf://a/b@refs%2Fpr%2F1").revision == "refs/pr/1"
    assert parsed("hf://a/b@main", revision="dev").revision == "dev"
    assert parsed("hf://datasets/a/b") == HubLocation("a/b", "dataset", None, None)
    assert parsed("hf://a/b", kind="dataset").repo_type == "dataset"
    for uri in ("hf://", "hf://a b/c", "hf://../../x", "hf://a/b@", "hf://a/b@x@y", "hf://https://x"):
        with pytest.raises(InvalidRequest):
            parsed(uri)
