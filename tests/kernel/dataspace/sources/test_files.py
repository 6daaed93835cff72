"""Documents that lie in folders, archives and buckets."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.kernel.dataspace.sources.surroundings import contents, listed, opened, surroundings

from modelworks.contract.errors import InvalidData, InvalidRequest, NotFound, PayloadTooLarge, PermissionDenied, UnsafeArtifact
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources import SOURCE_FORM, check_rights
from modelworks.kernel.dataspace.sources.forms import SourceLimits
from modelworks.kernel.storage import BlobStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "documents"
    (place / "plans" / "old").mkdir(parents=True)
    (place / "readme.md").write_text("Read me.")
    (place / "plans" / "plan.txt").write_text("The plan.")
    (place / "plans" / "old" / "a.txt").write_text("Old.")
    (place / ".hidden").write_text("no")
    (place / "~$draft.docx").write_text("no")
    return place


def test_files_of_a_folder_come_with_their_paths(tmp_path: Path, folder: Path) -> None:
    source = opened(surroundings(tmp_path), kind="folder", uri=folder.as_uri())
    assert contents(source) == {"readme.md": b"Read me.", "plans/plan.txt": b"The plan.", "plans/old/a.txt": b"Old."}


def test_a_fingerprint_changes_with_the_file_alone(tmp_path: Path, folder: Path) -> None:
    source = opened(surroundings(tmp_path), kind="folder", uri=folder.as_uri())
    before = listed(source)
    (folder / "plans" / "plan.txt").write_text("The new plan.")
    after = listed(source)
    assert {key for key in after if after[key].fingerprint != before[key].fingerprint} == {"plans/plan.txt"}


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.txt"], [], {"plans/plan.txt", "plans/old/a.txt"}),
        ([], ["old"], {"readme.md", "plans/plan.txt"}),
        (["plans/**"], ["plans/old/**"], {"plans/plan.txt"}),
    ],
)
def test_patterns_choose_files(
    tmp_path: Path, folder: Path, include: list[str], exclude: list[str], expected: set[str]
) -> None:
    source = opened(surroundings(tmp_path), kind="folder", uri=folder.as_uri(), include=include, exclude=exclude)
    assert set(listed(source)) == expected


def test_links_and_pipes_are_left_out_and_told(tmp_path: Path, folder: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("SECRET")
    (folder / "link.txt").symlink_to(secret / "key.txt")
    (folder / "linked").symlink_to(secret)
    os.mkfifo(folder / "pipe.txt")
    around = surroundings(tmp_path)
    found = contents(opened(around, kind="folder", uri=folder.as_uri()))
    assert set(found) == {"readme.md", "plans/plan.txt", "plans/old/a.txt"}
    assert len(around.notes) == 2


def test_a_folder_exchanged_for_a_link_in_between_leads_nowhere(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "plan.txt").write_text("SECRET")
    found = {}
    for item in opened(surroundings(tmp_path), kind="folder", uri=folder.as_uri()).scan():
        if item.key == "plans/plan.txt":
            (folder / "plans").rename(folder / "moved")
            (folder / "plans").symlink_to(tmp_path / "secret")
        assert item.read is not None
        found[item.key] = b"".join(item.read())
    assert found["plans/plan.txt"] == b"The plan."
    assert b"SECRET" not in found.values()


def test_a_folder_that_vanishes_meanwhile_leaves_the_listing_incomplete(tmp_path: Path, folder: Path) -> None:
    around = surroundings(tmp_path)
    found = []
    for item in opened(around, kind="folder", uri=folder.as_uri()).scan():
        shutil.rmtree(folder / "plans")
        found.append(item.key)
    assert found == ["readme.md"]
    assert not around.is_complete


@pytest.mark.parametrize("place", ["/etc", "home/blobs", "elsewhere/../../../etc"])
def test_a_folder_outside_of_what_the_settings_name_is_refused(tmp_path: Path, place: str) -> None:
    uri = f"file://{tmp_path / place}"
    with pytest.raises(PermissionDenied):
        opened(surroundings(tmp_path), kind="folder", uri=uri)


def test_a_link_out_of_the_allowed_folders_is_refused_as_the_source(tmp_path: Path) -> None:
    (tmp_path / "door").symlink_to("/etc")
    with pytest.raises(PermissionDenied, match="outside"):
        opened(surroundings(tmp_path), kind="folder", uri=(tmp_path / "door").as_uri())


def test_without_named_folders_only_administrators_of_the_platform_read_the_machine(tmp_path: Path) -> None:
    form = SOURCE_FORM.validate_python({"kind": "folder", "uri": tmp_path.as_uri()})
    check_rights(form, SourcePolicy(), is_operator=True)
    with pytest.raises(PermissionDenied):
        check_rights(form, SourcePolicy(), is_operator=False)
    bucket = SOURCE_FORM.validate_python({"kind": "s3", "uri": "s3://bucket/x"})
    with pytest.raises(PermissionDenied, match="own credentials"):
        check_rights(bucket, SourcePolicy(), is_operator=False)


def test_a_folder_that_is_gone_is_an_error_and_not_empty(tmp_path: Path) -> None:
    source = opened(surroundings(tmp_path), kind="folder", uri=(tmp_path / "gone").as_uri())
    with pytest.raises(NotFound) as caught:
        listed(source)
    assert "mounted" in str(caught.value.hint)


def _zip(files: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return sink.getvalue()


def test_members_of_an_archive_are_documents(tmp_path: Path) -> None:
    around = surroundings(tmp_path)
    digest = around.blobs.put(_zip({"a.txt": "A", "b/c.txt": "C", "__MACOSX/a.txt": "no"})).digest
    source = opened(around, kind="archive", digest=digest)
    before = listed(source)
    assert contents(source) == {"a.txt": b"A", "b/c.txt": b"C"}
    other = surroundings(tmp_path, workdir=tmp_path / "other")
    changed = listed(opened(other, kind="archive", digest=around.blobs.put(_zip({"a.txt": "A", "b/c.txt": "D"})).digest))
    assert changed["a.txt"].fingerprint == before["a.txt"].fingerprint
    assert changed["b/c.txt"].fingerprint != before["b/c.txt"].fingerprint


def _tar(member: tarfile.TarInfo) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as packed:
        packed.addfile(member, io.BytesIO(b"\0" * member.size))
    return sink.getvalue()


def _member(name: str, type_: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = type_, size, "/etc/passwd" if type_ == tarfile.SYMTYPE else ""
    return info


@pytest.mark.parametrize(
    ("archive", "error"),
    [
        (_zip({"../../evil.txt": "x"}), (UnsafeArtifact, InvalidRequest)),
        (_tar(_member("link", tarfile.SYMTYPE)), UnsafeArtifact),
        (_tar(_member("/etc/evil", size=1)), (UnsafeArtifact, InvalidRequest)),
        (b"no archive at all", InvalidData),
    ],
    # The bytes of an archive hold the time: as names they would differ from worker to worker.
    ids=["above", "link", "absolute", "none"],
)
def test_hostile_archives_are_refused(tmp_path: Path, archive: bytes, error: type[Exception]) -> None:
    around = surroundings(tmp_path)
    with pytest.raises(error):
        listed(opened(around, kind="archive", digest=around.blobs.put(archive).digest))
    assert not (tmp_path / "evil.txt").exists()


def test_a_bomb_is_refused_by_what_comes_out_of_it(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros.txt", b"\0" * 3_000_000)
    around = surroundings(tmp_path, limits=SourceLimits(max_bytes=1_000_000))
    with pytest.raises(PayloadTooLarge, match="unpacks to more"):
        listed(opened(around, kind="archive", digest=around.blobs.put(sink.getvalue()).digest))


def test_objects_below_a_prefix(tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    options = {"endpoint_url": s3_server, "key": "testing", "secret": "testing", "client_kwargs": {"region_name": "us-east-1"}}
    system = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, **options)
    bucket = f"documents-{secrets.token_hex(6)}"
    system.call_s3("create_bucket", Bucket=bucket)
    for name, content in (("plans/a.txt", b"A"), ("plans/b/c.txt", b"C"), ("other/x.txt", b"X")):
        system.pipe_file(f"{bucket}/{name}", content)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    around = surroundings(tmp_path, credential="testing:testing")
    source = opened(around, kind="s3", uri=f"s3://{bucket}/plans/", secret="keys")
    before = listed(source)
    assert contents(source) == {"plans/a.txt": b"A", "plans/b/c.txt": b"C"}
    system.pipe_file(f"{bucket}/plans/a.txt", b"new")
    after = listed(source)
    assert after["plans/a.txt"].fingerprint != before["plans/a.txt"].fingerprint
    assert after["plans/b/c.txt"].fingerprint == before["plans/b/c.txt"].fingerprint
    with pytest.raises(NotFound):
        listed(opened(around, kind="s3", uri="s3://no-such-bucket-of-anybody/x", secret="keys"))
    with pytest.raises(InvalidRequest, match="ACCESS_KEY_ID"):
        listed(opened(surroundings(tmp_path, credential="nonsense"), kind="s3", uri=f"s3://{bucket}/plans/", secret="keys"))


def test_the_platforms_own_bucket_is_no_source(tmp_path: Path) -> None:
    policy = SourcePolicy(forbidden_urls=("s3://own/blobs",))
    around = surroundings(tmp_path, policy=policy, blobs=BlobStore(str(tmp_path / "b")))
    for uri in ("s3://own/blobs/sha256", "s3://own/"):
        with pytest.raises(PermissionDenied, match="own data"):
            opened(around, kind="s3", uri=uri)
