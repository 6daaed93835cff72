"""The blob store keeps its promises on a folder and on S3."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from modelworks.contract.errors import (
    Conflict,
    IntegrityFailed,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    StorageFull,
    Unavailable,
    UnsafeArtifact,
)
from modelworks.contract.media import File
from modelworks.kernel.storage import BlobStore, safe_path


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def stored_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.fixture
def folder_blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


def damage(store: BlobStore, digest: str, data: bytes) -> None:
    """Replace a blob's bytes behind the store's back."""
    hexdigest = digest.removeprefix("sha256:")
    path = store._place.local_path(hexdigest)
    if path is not None:
        path.chmod(0o644)
        path.write_bytes(data)
    else:
        store._place._fs.pipe_file(store._place._key(hexdigest), data)  # type: ignore[attr-defined]


def test_stores_under_the_digest_and_reads_back(blobs: BlobStore) -> None:
    info = blobs.put(b"hello")
    assert info.digest == digest_of(b"hello")
    assert info.num_bytes == 5
    assert blobs.exists(info.digest)
    assert blobs.stat(info.digest) == info
    assert blobs.read(info.digest, 5) == b"hello"
    with blobs.open(info.digest) as file:
        assert file.read(2) == b"he"
        assert file.read() == b"llo"
    assert [blob.digest for blob in blobs.list()] == [info.digest]


def test_takes_bytes_files_and_chunks_and_paths(blobs: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"same")
    infos = {blobs.put(b"same"), blobs.put(io.BytesIO(b"same")), blobs.put(iter([b"sa", b"", b"me"])), blobs.put_file(path)}
    assert len(infos) == 1
    assert len(list(blobs.list())) == 1


def test_large_blobs_pass_in_pieces(blobs: BlobStore) -> None:
    data = os.urandom(1 << 16) * 180  # more than S3's part size together
    info = blobs.put(data[i : i + 1_000_003] for i in range(0, len(data), 1_000_003))
    assert b"".join(blobs.iter(info.digest, 777_777)) == data
    assert b"".join(blobs.iter(info.digest, 10, 5, 47)) == data[5:47]


@given(data=st.binary(max_size=3000), chunk=st.integers(1, 400), cut=st.tuples(st.integers(0, 3000), st.integers(0, 3000)))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_of_any_bytes(folder_blobs: BlobStore, data: bytes, chunk: int, cut: tuple[int, int]) -> None:
    info = folder_blobs.put(data[i : i + chunk] for i in range(0, len(data), chunk))
    assert info.digest == digest_of(data)
    assert b"".join(folder_blobs.iter(info.digest, chunk)) == data
    start, stop = sorted(min(edge, len(data)) for edge in cut)
    assert b"".join(folder_blobs.iter(info.digest, chunk, start, stop)) == data[start:stop]
    with folder_blobs.open(info.digest) as file:
        assert file.read() == data


def test_unexpected_content_is_not_stored(blobs: BlobStore) -> None:
    with pytest.raises(IntegrityFailed, match="announced"):
        blobs.put(b"other", expected=digest_of(b"promised"))
    assert list(blobs.list()) == []
    assert blobs.put(b"promised", expected=digest_of(b"promised")).num_bytes == 8


def test_too_large_content_leaves_nothing(folder_blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(PayloadTooLarge, match="10 bytes"):
        folder_blobs.put([b"12345", b"123456"], max_bytes=10)
    assert stored_files(tmp_path) == []


def test_a_failing_source_leaves_nothing(folder_blobs: BlobStore, tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the line went dead")

    with pytest.raises(RuntimeError, match="line went dead"):
        folder_blobs.put(source())
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_nothing(folder_blobs: BlobStore, tmp_path: Path, code: int) -> None:
    class FullAfter:
        """A file on a disk that has room for three more bytes."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 3

        def write(self, data: memoryview) -> int:
            if self.left == 0:
                raise OSError(code, os.strerror(code))
            written = self.file.write(data[: self.left])
            self.left -= written
            return written

        def close(self) -> None:
            self.file.close()

    with folder_blobs.writer() as writer:
        writer._file = FullAfter(writer._file)  # type: ignore[assignment]
        with pytest.raises(StorageFull, match="no space left") as caught:
            writer.write(b"four")
    assert caught.value.hint is not None
    assert caught.value.status == 507
    assert stored_files(tmp_path) == []


def test_a_disk_that_fills_while_materialising_leaves_nothing(
    folder_blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = folder_blobs.put(b"weights")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "chmod", full)
    with pytest.raises(StorageFull):
        folder_blobs.materialise([File(path="a", digest=info.digest, num_bytes=7)], tmp_path / "out" / "here")
    assert stored_files(tmp_path / "out") == []


@pytest.mark.parametrize("bytes_now", [b"hellO", b"hell", b"hello!", b""])
def test_damage_is_found_by_every_way_of_reading(blobs: BlobStore, tmp_path: Path, bytes_now: bytes) -> None:
    info = blobs.put(b"hello")
    damage(blobs, info.digest, bytes_now)
    with pytest.raises(IntegrityFailed, match="damaged"):
        blobs.read(info.digest, 100)
    if bytes_now:
        with pytest.raises(IntegrityFailed):
            list(blobs.iter(info.digest, 2))
    for link in (False, True):
        with pytest.raises(IntegrityFailed):
            blobs.materialise([File(path="f", digest=info.digest, num_bytes=5)], tmp_path / "out", link=link)
    assert not (tmp_path / "out").exists()
    assert stored_files(tmp_path / "out") == []


def test_the_last_chunk_of_a_damaged_blob_is_never_handed_out(blobs: BlobStore) -> None:
    info = blobs.put(b"0123456789")
    damage(blobs, info.digest, b"0123456780")
    got: list[bytes] = []
    with pytest.raises(IntegrityFailed):
        got.extend(blobs.iter(info.digest, 4))
    assert b"".join(got) in (b"", b"0123", b"01234567")


def test_storing_again_repairs_a_damaged_folder_blob(folder_blobs: BlobStore) -> None:
    info = folder_blobs.put(b"hello")
    damage(folder_blobs, info.digest, b"hellO")
    folder_blobs.put(b"hello")
    assert folder_blobs.read(info.digest, 5) == b"hello"


def test_missing_blobs_and_bad_digests(blobs: BlobStore, tmp_path: Path) -> None:
    absent = digest_of(b"absent")
    assert not blobs.exists(absent)
    for read in (blobs.stat, blobs.open, lambda digest: blobs.read(digest, 1), blobs.iter):
        with pytest.raises(NotFound, match="no blob"):
            read(absent)
    with pytest.raises(NotFound):
        blobs.materialise([File(path="a", digest=absent, num_bytes=1)], tmp_path / "out")
    blobs.delete(absent)
    for bad in ("", "sha256:", "../../etc/passwd", "md5:" + "0" * 64, "sha256:" + "G" * 64, absent + "\n"):
        with pytest.raises(InvalidRequest, match="not a digest"):
            blobs.exists(bad)


def test_ranges_outside_and_too_long_reads_are_refused(blobs: BlobStore) -> None:
    info = blobs.put(b"hello")
    for start, stop in ((-1, 2), (3, 2), (0, 6), (6, None)):
        with pytest.raises(InvalidRequest, match="outside"):
            blobs.iter(info.digest, 10, start, stop)
    with pytest.raises(PayloadTooLarge):
        blobs.read(info.digest, 4)


def test_materialises_a_tree_of_read_only_files(blobs: BlobStore, tmp_path: Path) -> None:
    contents = {"config.json": b"{}", "deep/er/model.safetensors": b"\x00" * 5000, "deep/empty": b""}
    files = [File(path=path, digest=blobs.put(data).digest, num_bytes=len(data)) for path, data in contents.items()]
    for link in (False, True):
        target = tmp_path / f"out-{link}" / "version"
        blobs.materialise(files, target, link=link)
        assert {str(path.relative_to(target)): path.read_bytes() for path in stored_files(target)} == contents
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in stored_files(target))
        assert list(target.parent.iterdir()) == [target]
        with pytest.raises(Conflict, match="exists already"):
            blobs.materialise(files, target)
        assert list(target.parent.iterdir()) == [target]


def test_a_materialised_copy_is_apart_from_the_store(folder_blobs: BlobStore, tmp_path: Path) -> None:
    info = folder_blobs.put(b"hello")
    folder_blobs.materialise([File(path="a", digest=info.digest, num_bytes=5)], tmp_path / "out")
    copy = tmp_path / "out" / "a"
    copy.chmod(0o644)
    copy.write_bytes(b"other")
    assert folder_blobs.read(info.digest, 5) == b"hello"


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a/.", "a\\b", "C:/x", "a\x00b", "a\nb", "a/"]
)
def test_paths_that_could_leave_the_folder_are_refused(folder_blobs: BlobStore, tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsafeArtifact):
        safe_path(path)
    info = folder_blobs.put(b"x")
    with pytest.raises(UnsafeArtifact):
        folder_blobs.materialise([File(path=path, digest=info.digest, num_bytes=1)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_colliding_paths_are_refused(folder_blobs: BlobStore, tmp_path: Path) -> None:
    info = folder_blobs.put(b"x")
    for paths in (("a", "a"), ("a", "a/b")):
        with pytest.raises(UnsafeArtifact, match="same path"):
            folder_blobs.materialise([File(path=path, digest=info.digest, num_bytes=1) for path in paths], tmp_path / "out")


def test_collects_only_what_is_old_and_unreferenced(blobs: BlobStore) -> None:
    used, unused = blobs.put(b"used"), blobs.put(b"unused")

    def referenced(digests: Any) -> set[str]:
        return {used.digest} & set(digests)

    report = blobs.collect(referenced, grace_s=3600)
    assert (report.deleted, report.kept, report.bytes_freed) == (0, 2, 0)
    time.sleep(1.1)  # S3 tells ages in whole seconds
    report = blobs.collect(referenced, grace_s=1)
    assert (report.deleted, report.kept, report.bytes_freed) == (1, 1, 6)
    assert blobs.exists(used.digest)
    assert not blobs.exists(unused.digest)


def test_a_blob_stored_again_while_collecting_stays(folder_blobs: BlobStore) -> None:
    info = folder_blobs.put(b"x")
    path = folder_blobs._place.local_path(info.digest.removeprefix("sha256:"))
    assert path is not None
    os.utime(path, (0, 0))

    def stored_meanwhile(digests: Any) -> set[str]:
        folder_blobs.put(b"x")
        return set()

    assert folder_blobs.collect(stored_meanwhile, grace_s=600).deleted == 0
    assert folder_blobs.exists(info.digest)


def test_collecting_an_empty_store(blobs: BlobStore) -> None:
    assert blobs.collect(lambda digests: set(), grace_s=0).kept == 0


def test_collection_sweeps_what_killed_writers_left(folder_blobs: BlobStore, tmp_path: Path) -> None:
    spool = folder_blobs._place.spool_folder()
    (spool / "modelworks-blob-old").write_bytes(b"half")
    os.utime(spool / "modelworks-blob-old", (0, 0))
    (spool / "modelworks-blob-new").write_bytes(b"half")
    folder_blobs.collect(lambda digests: set(), grace_s=0)
    assert [path.name for path in spool.iterdir()] == ["modelworks-blob-new"]


def test_a_wrong_bucket_or_address_is_said(s3_server: str) -> None:
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "key": "k",
        "secret": "s",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(Unavailable, match="does not answer"):
        BlobStore("s3://bucket/blobs", options).exists(digest_of(b"x"))


def test_large_blobs_go_up_in_parts(s3_server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.kernel.storage.places._PART_BYTES", 5 << 20)
    store: BlobStore = request.getfixturevalue("s3_blobs")
    data = os.urandom(1 << 16) * 180
    info = store.put(data)
    entry = store._place._fs.info(store._place._key(info.digest.removeprefix("sha256:")))  # type: ignore[attr-defined]
    assert entry["ETag"].strip('"').endswith("-3")  # S3's mark of an upload in three parts
    assert store.read(info.digest, len(data)) == data


def test_kill_9_in_the_middle_of_a_write_shows_nothing(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys, time
        from modelworks.kernel.storage import BlobStore

        def chunks():
            yield b"x" * 100_000
            print("half", flush=True)
            time.sleep(60)

        BlobStore(sys.argv[1]).put(chunks())
        """
    )
    folder = tmp_path / "blobs"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reached = process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert reached == "half\n"
    store = BlobStore(str(folder))
    assert list(store.list()) == []
    assert store.read(store.put(b"after").digest, 5) == b"after"


def test_the_same_blob_written_by_many_at_once(blobs: BlobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        infos = set(pool.map(lambda _: blobs.put(b"same" * 1000), range(16)))
    assert len(infos) == 1
    assert blobs.read(infos.pop().digest, 4000) == b"same" * 1000
    assert len(list(blobs.list())) == 1
