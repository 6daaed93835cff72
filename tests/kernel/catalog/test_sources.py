"""`file://`, `https://` and `s3://`: what may be read, resume, cancel, checksums, archives from strangers."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.catalog.hubs import FakeHub, serving
from tests.kernel.catalog.samples import safetensors, write_checkpoint

from modelworks.contract.errors import (
    Cancelled,
    IntegrityFailed,
    InvalidData,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    StorageFull,
    UnsafeArtifact,
)
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog.pulling import FetchedSource, import_source
from modelworks.kernel.catalog.sources import SourcePolicy, open_source
from modelworks.kernel.catalog.sources.archive import unpack
from modelworks.kernel.catalog.sources.source import licence_of
from modelworks.kernel.storage import BlobStore

OPEN = SourcePolicy(egress_allow=("127.0.0.1",))


def fetch(uri: str, workdir: Path, *, policy: SourcePolicy = OPEN, **known: Any) -> FetchedSource:
    options = {"on_progress": lambda *_: None, "cancelled": lambda: False, "kind": "model", **known}
    return import_source(uri, workdir=workdir, policy=policy, **options)


def describe(uri: str, policy: SourcePolicy = OPEN, kind: str = "model") -> Any:
    return open_source(uri, kind=kind, revision=None, policy=policy).describe()


def found_in(folder: Path) -> dict[str, bytes]:
    return {place.relative_to(folder).as_posix(): place.read_bytes() for place in folder.rglob("*") if place.is_file()}


class TestFolder:
    def test_a_folder_and_a_file(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "my model", licence="mit")
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
        (folder / ".git").mkdir()
        (folder / ".git" / "HEAD").write_text("x")
        info = describe(folder.as_uri())
        assert (info.licence, info.task, info.name) == ("mit", "text-generation", "my model")
        fetched = fetch(folder.as_uri(), tmp_path / "work")
        expected = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
        assert set(found_in(fetched.path)) == expected
        assert info.size_bytes == sum((folder / name).stat().st_size for name in expected)
        assert [each.path for each in fetched.skipped] == ["pytorch_model.bin"]

        single = fetch((folder / "model.safetensors").as_uri(), tmp_path / "single")
        assert set(found_in(single.path)) == {"model.safetensors"}

    def test_truncated_checkpoint(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "model")
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[:-3])
        with pytest.raises(InvalidData, match=f"expected {len(data)} bytes, found {len(data) - 3}"):
            fetch(folder.as_uri(), tmp_path / "work")

    def test_roots(self, tmp_path: Path, settings: Settings) -> None:
        allowed = write_checkpoint(tmp_path / "allowed" / "model")
        outside = write_checkpoint(tmp_path / "outside")
        (tmp_path / "allowed" / "link").symlink_to(outside)
        policy = SourcePolicy.of(settings.model_copy(update={"pull_roots": [tmp_path / "allowed"]}))
        describe(allowed.as_uri(), policy)
        for place in (outside, tmp_path / "allowed" / "link", tmp_path / "allowed" / ".." / "outside"):
            with pytest.raises(PermissionDenied, match="outside the folders"):
                describe(f"file://{place}", policy)

    def test_the_platforms_own_data_is_never_a_source(self, tmp_path: Path, settings: Settings) -> None:
        policy = SourcePolicy.of(settings)
        (settings.home / "admin.key").write_text("secret")
        for place in (settings.home / "admin.key", settings.home, settings.home / "blobs", tmp_path, Path("/")):
            with pytest.raises(PermissionDenied, match="own data"):
                describe(place.as_uri(), policy)

    @pytest.mark.parametrize(
        "uri", ["file://relative/path", "file://host/x", "ftp://host/x", "://", "s3://", "https://", "hf://"]
    )
    def test_malformed(self, uri: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            describe(uri)
        assert caught.value.error_code == "invalid_source"

    def test_unknown(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="does not exist"):
            describe((tmp_path / "nowhere").as_uri())
        with pytest.raises(NotFound) as caught:
            describe("no-such-preset")
        assert caught.value.error_code == "preset_not_found"

    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_checkpoint(tmp_path / "model")

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("modelworks.kernel.catalog.sources.folder.copy_part", full)
        with pytest.raises(StorageFull):
            fetch(folder.as_uri(), tmp_path / "work")


@pytest.fixture
def web() -> Iterator[FakeHub]:
    with serving(FakeHub({})) as served:
        served.url += "/org/tiny/resolve/main"
        yield served


WEIGHTS = safetensors({"embed": ("U8", [300_000], bytes(300_000))})


class TestWeb:
    def test_one_file_with_its_checksum(self, web: FakeHub, tmp_path: Path) -> None:
        web.files["model.safetensors"] = WEIGHTS
        uri = f"{web.url}/model.safetensors"
        info = describe(f"{uri}?token=secret")
        assert (info.size_bytes, info.name, info.uri) == (len(WEIGHTS), "model", uri)
        checksum = hashlib.sha256(WEIGHTS).hexdigest()
        fetched = fetch(f"{uri}#sha256={checksum}", tmp_path / "work")
        assert found_in(fetched.path) == {"model.safetensors": WEIGHTS}
        assert fetched.info.size_bytes == len(WEIGHTS)
        with pytest.raises(IntegrityFailed):
            fetch(f"{uri}#sha256={'0' * 64}", tmp_path / "other")
        with pytest.raises(InvalidRequest):
            describe(f"{uri}#fragment")

    def test_private_addresses_are_refused_unless_allowed(self, web: FakeHub, tmp_path: Path) -> None:
        web.files["model.safetensors"] = WEIGHTS
        for run in (describe, lambda uri, policy: fetch(uri, tmp_path / "work", policy=policy)):
            with pytest.raises(PermissionDenied):
                run(f"{web.url}/model.safetensors", SourcePolicy())
        assert web.gets == []

    def test_unencrypted_is_for_private_places_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("modelworks.kernel.base.egress.check_url", lambda _url: None)
        with pytest.raises(PermissionDenied, match="unencrypted"):
            describe("http://models.example.org/model.safetensors")

    def test_pickles_are_refused_by_name(self, web: FakeHub) -> None:
        web.files["model.pt"] = b"x"
        with pytest.raises(UnsafeArtifact):
            describe(f"{web.url}/model.pt")

    def test_cancel_and_go_on(self, web: FakeHub, tmp_path: Path) -> None:
        web.files["model.safetensors"] = WEIGHTS
        uri = f"{web.url}/model.safetensors"
        seen: list[int] = []

        def stop(done: int, _total: int | None) -> None:
            seen.append(done)

        with pytest.raises(Cancelled):
            fetch(uri, tmp_path / "work", on_progress=stop, cancelled=lambda: len(seen) > 1 and seen[-1] > 50_000)
        fetched = fetch(uri, tmp_path / "work")
        assert found_in(fetched.path) == {"model.safetensors": WEIGHTS}
        assert web.gets[-1][1] is not None
        assert web.gets[-1][1].startswith("bytes=")

    @pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
    def test_archives(self, web: FakeHub, tmp_path: Path, suffix: str) -> None:
        folder = write_checkpoint(tmp_path / "model", licence="mit")
        (folder / "old.pt").write_bytes(b"x")
        packed = io.BytesIO()
        if suffix == ".zip":
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for place in sorted(folder.iterdir()):
                    archive.write(place, f"model-1.0/{place.name}")
        else:
            with tarfile.open(fileobj=packed, mode="w:gz" if suffix == ".tar.gz" else "w") as tar:
                tar.add(folder, "model-1.0")
        web.files[f"model{suffix}"] = packed.getvalue()
        fetched = fetch(f"{web.url}/model{suffix}", tmp_path / "work")
        assert set(found_in(fetched.path)) == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
        assert (fetched.licence, fetched.task, fetched.info.name) == ("mit", "text-generation", "model")
        assert [each.path for each in fetched.skipped] == ["old.pt"]

    def test_slips_links_bombs_and_damage(self, web: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def zipped(fill: Callable[[zipfile.ZipFile], None]) -> bytes:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                fill(archive)
            return packed.getvalue()

        def tarred(info: tarfile.TarInfo, data: bytes = b"") -> bytes:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                archive.addfile(info, io.BytesIO(data))
            return packed.getvalue()

        def linked(archive: zipfile.ZipFile) -> None:
            info = zipfile.ZipInfo("link")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")

        symlink = tarfile.TarInfo("link")
        symlink.type, symlink.linkname = tarfile.SYMTYPE, "/etc/passwd"
        device = tarfile.TarInfo("device")
        device.type = tarfile.CHRTYPE
        slip = tarfile.TarInfo("../../outside")
        slip.size = 1
        monkeypatch.setattr("modelworks.kernel.catalog.sources.archive._ALWAYS_BYTES", 10_000)
        good = zipped(lambda archive: archive.writestr("a", "x" * 1000))
        cases: list[tuple[str, bytes, type[Exception]]] = [
            ("slip.zip", zipped(lambda archive: archive.writestr("../outside", "x")), UnsafeArtifact),
            ("absolute.zip", zipped(lambda archive: archive.writestr("/outside", "x")), UnsafeArtifact),
            ("link.zip", zipped(linked), UnsafeArtifact),
            ("link.tar", tarred(symlink), UnsafeArtifact),
            ("device.tar", tarred(device), UnsafeArtifact),
            ("slip.tar", tarred(slip, b"x"), UnsafeArtifact),
            ("bomb.zip", zipped(lambda archive: archive.writestr("a", bytes(5_000_000))), PayloadTooLarge),
            ("damaged.zip", good[:40] + b"\xff" * 10 + good[50:], InvalidData),
            ("text.zip", b"this is no archive", InvalidData),
            ("text.tar.gz", b"this is no archive", InvalidData),
        ]
        for number, (name, data, expected) in enumerate(cases):
            web.files[name] = data
            with pytest.raises(expected):
                fetch(f"{web.url}/{name}", tmp_path / f"work-{number}", kind="dataset")
        assert not list(tmp_path.rglob("outside"))


def unpacked(tmp_path: Path, data: bytes, max_files: int = 5000) -> list[str]:
    archive = tmp_path / "packed"
    archive.write_bytes(data)
    unpack(archive, tmp_path / "out", stop=lambda: None, max_bytes=1 << 30, max_files=max_files)
    return sorted(found_in(tmp_path / "out"))


def headed(kind: bytes, size: int, body: bytes = b"") -> bytes:
    """The header of a .tar's member, which may say anything, and what follows it."""
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, size
    return info.tobuf() + body


class TestArchivesThatLie:
    """What stops them is the limit, long before the memory is full."""

    def test_a_name_or_attributes_of_gigabytes(self, tmp_path: Path) -> None:
        for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
            zeros = gzip.compress(headed(kind, (1 << 33) - 1, bytes(8 << 20)))
            with pytest.raises(PayloadTooLarge, match="directory"):
                unpacked(tmp_path, zeros)

    def test_a_member_that_would_be_unpacked_to_be_passed_over(self, tmp_path: Path) -> None:
        with pytest.raises(PayloadTooLarge, match="unpacks to more"):
            unpacked(tmp_path, gzip.compress(headed(tarfile.REGTYPE, 1 << 40)))
        assert not (tmp_path / "out").exists()

    def test_holes(self, tmp_path: Path) -> None:
        info = tarfile.TarInfo("a")
        info.size = 1 << 20
        block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        block[156:157] = tarfile.GNUTYPE_SPARSE
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        with pytest.raises(UnsafeArtifact, match="sparse"):
            unpacked(tmp_path, bytes(block) + bytes(2 << 20))

    def test_a_chain_of_headers_and_one_with_very_many_attributes(self, tmp_path: Path) -> None:
        with pytest.raises((InvalidData, PayloadTooLarge)):
            unpacked(tmp_path, headed(tarfile.GNUTYPE_LONGNAME, 1, b"x" + bytes(511)) * 3000)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo("a")
            info.pax_headers = {f"key{number}": "x" for number in range(100)}
            tar.addfile(info)
        with pytest.raises(UnsafeArtifact, match="attributes"):
            unpacked(tmp_path, packed.getvalue())

    def test_too_many_members(self, tmp_path: Path) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:xz") as tar:
            for number in range(20):
                tar.addfile(tarfile.TarInfo(str(number)))
        with pytest.raises(PayloadTooLarge, match="10 members"):
            unpacked(tmp_path, packed.getvalue(), max_files=10)

    def test_a_directory_of_a_zip_that_fills_the_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for number in range(2000):
                archive.writestr(f"{number:04}", b"")
        assert len(unpacked(tmp_path, packed.getvalue())) == 2000
        monkeypatch.setattr("modelworks.kernel.base.sparing.MAX_PIECE_BYTES", 70_000)
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(PayloadTooLarge, match="directory"):
            unpacked(tmp_path, packed.getvalue())

    @pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
    def test_honest_ones_and_torn_ones(self, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, size in (("x/" + "long" * 60, 3_000_000), ("y/small", 3)):
                info = tarfile.TarInfo(name)
                info.size = size
                tar.addfile(info, io.BytesIO(bytes(size)))
        data = pack(packed.getvalue())
        assert sorted(unpacked(tmp_path, data)) == ["x/" + "long" * 60, "y/small"]
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(InvalidData, match="damaged"):
            unpacked(tmp_path, data[: len(data) // 2])


class TestS3:
    @pytest.fixture
    def bucket(self, s3_blobs: BlobStore, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
        import s3fs

        for name, value in {
            "AWS_ENDPOINT_URL": s3_server,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        return s3fs.S3FileSystem(skip_instance_cache=True), s3_blobs.url.removeprefix("s3://").partition("/")[0]

    def test_a_prefix_and_an_object(self, bucket: tuple[Any, str], tmp_path: Path) -> None:
        system, name = bucket
        for place in write_checkpoint(tmp_path / "model", licence="mit").iterdir():
            system.pipe_file(f"{name}/models/tiny/{place.name}", place.read_bytes())
        system.pipe_file(f"{name}/models/tiny/sub/pickle.pt", b"x")
        system.pipe_file(f"{name}/models/tiny-other/secret.txt", b"x")
        uri = f"s3://{name}/models/tiny"
        info = describe(uri)
        assert (info.licence, info.name) == ("mit", "tiny")
        assert [each.path for each in info.skipped] == ["sub/pickle.pt"]
        fetched = fetch(uri, tmp_path / "work")
        assert found_in(fetched.path) == found_in(tmp_path / "model")
        assert fetched.task == "text-generation"
        single = fetch(f"{uri}/model.safetensors", tmp_path / "single")
        assert set(found_in(single.path)) == {"model.safetensors"}

    def test_missing_and_own_storage(self, bucket: tuple[Any, str], settings: Settings) -> None:
        _, name = bucket
        for uri in (f"s3://{name}/nothing", "s3://no-such-bucket-of-ours/x"):
            with pytest.raises(NotFound):
                describe(uri)
        policy = SourcePolicy.of(settings.model_copy(update={"storage_url": f"s3://{name}/blobs"}))
        for uri in (f"s3://{name}/blobs", f"s3://{name}/blobs/sha256/00", f"s3://{name}"):
            with pytest.raises(PermissionDenied, match="own data"):
                describe(uri, policy)
        with pytest.raises(NotFound):
            describe(f"s3://{name}/blobs-of-others", policy)

    def test_cancel_and_go_on(self, bucket: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        system, name = bucket
        data = bytes(range(256)) * 4000
        system.pipe_file(f"{name}/data/numbers.raw", data)
        monkeypatch.setattr("modelworks.kernel.catalog.sources.source.CHUNK_BYTES", 100_000)

        def stop(done: int, _total: int | None) -> None:
            if done > 250_000:
                raise Cancelled("stop")

        with pytest.raises(Cancelled):
            fetch(f"s3://{name}/data", tmp_path / "work", kind="dataset", on_progress=stop)
        seen: list[int] = []
        fetched = fetch(
            f"s3://{name}/data", tmp_path / "work", kind="dataset", on_progress=lambda done, _total: seen.append(done)
        )
        assert found_in(fetched.path) == {"numbers.raw": data}
        assert min(each for each in seen if each) > 250_000


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\ntags:\n- a\nlicense:\n- mit\n- apache-2.0\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: qwen\n---\n", "qwen"),
        ('---\nlicense: "cc-by-4.0" # free\n---\n', "cc-by-4.0"),
        ("---\nlicense:\n---\n", None),
        ("license: mit\n", None),
        ("---\nno end, license: mit", None),
        ("", None),
        (None, None),
    ],
)
def test_licence_of_a_card(card: str | None, licence: str | None) -> None:
    assert licence_of(card) == licence


def test_config_that_is_damaged_is_said_with_its_name(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps([]))
    with pytest.raises(InvalidData, match=r"config\.json"):
        fetch(folder.as_uri(), tmp_path / "work")
