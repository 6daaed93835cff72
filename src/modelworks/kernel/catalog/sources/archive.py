"""Unpacks .zip and .tar archives from strangers: nothing leaves the folder, nothing but plain files, no bombs."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from modelworks.contract.errors import InvalidData, PayloadTooLarge, StorageFull, UnsafeArtifact
from modelworks.kernel.catalog.sources.source import CHUNK_BYTES
from modelworks.kernel.storage import safe_path

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: What unpacked data may be at most: so many times the archive, but always a gibibyte.
_MAX_RATIO = 200
_ALWAYS_BYTES = 1 << 30


@dataclass(slots=True)
class _Member:
    name: str
    num_bytes: int
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Whether a file's name is that of an archive that can be unpacked."""
    return name.lower().endswith(SUFFIXES)


def stem_of(name: str) -> str:
    """A file's name without the suffix, `.tar.gz` taken as one."""
    suffix = next((each for each in SUFFIXES if name.lower().endswith(each)), PurePosixPath(name).suffix)
    return name[: len(name) - len(suffix)] or name


def unpack(archive: Path, target: Path, *, max_bytes: int, max_files: int, stop: Callable[[], None]) -> None:
    """Unpack into `target`. One folder that holds everything is left away.

    Args:
        stop: called between chunks; raises to stop.

    Raises:
        UnsafeArtifact: a path leaves the folder, or a member is a link or a device.
        PayloadTooLarge: more files or bytes than allowed. InvalidData: damaged, encrypted, or two files of one name.
        StorageFull: it would not fit on the disk.
    """
    limit = min(max_bytes, max(_ALWAYS_BYTES, _MAX_RATIO * archive.stat().st_size))
    try:
        if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
            with zipfile.ZipFile(archive) as packed:
                _write(archive, [*_zip_members(packed, max_files)], target, limit, stop)
        else:
            with tarfile.open(archive) as packed:
                _write(archive, [*_tar_members(packed, max_files)], target, limit, stop)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, LZMAError, NotImplementedError) as error:
        raise InvalidData(f"The archive {archive.name!r} is damaged: {error}.", hint="Fetch it again.") from error


def _zip_members(packed: zipfile.ZipFile, max_files: int) -> Iterator[_Member]:
    for number, info in enumerate(packed.infolist()):
        _check_count(number, max_files)
        kind = info.external_attr >> 16
        if info.is_dir():
            continue
        if stat.S_IFMT(kind) not in (0, stat.S_IFREG):
            raise _refused(info.filename, "it is a link or a device")
        if info.flag_bits & 1:
            raise InvalidData(f"The archive's member {info.filename!r} is encrypted.", hint="Pack it without a password.")
        yield _Member(info.filename, info.file_size, lambda info=info: packed.open(info))  # type: ignore[misc]


def _tar_members(packed: tarfile.TarFile, max_files: int) -> Iterator[_Member]:
    for number, info in enumerate(packed):
        _check_count(number, max_files)
        if info.isdir():
            continue
        if not info.isreg():
            raise _refused(info.name, "it is a link or a device")
        yield _Member(info.name, info.size, lambda info=info: _opened(packed, info))  # type: ignore[misc]


def _opened(packed: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = packed.extractfile(info)
    if opened is None:
        raise _refused(info.name, "it is not a plain file")
    return opened


def _write(archive: Path, members: list[_Member], target: Path, limit: int, stop: Callable[[], None]) -> None:
    total = sum(member.num_bytes for member in members)
    if total > limit:
        raise _too_large(archive, limit)
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if total > free:
        raise StorageFull(f"The archive unpacks to {total} bytes, {free} are free on the disk.", hint="Free some space.")
    paths = _paths(members)
    written = 0
    for member, path in zip(members, paths, strict=True):
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with closing(member.open()) as source, place.open("xb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                stop()
                # The declared size may lie: what comes out is counted.
                written += len(chunk)
                if written > limit:
                    raise _too_large(archive, limit)
                sink.write(chunk)


def _paths(members: list[_Member]) -> list[PurePosixPath]:
    paths = [safe_path(member.name.removeprefix("./")) for member in members]
    if len(set(paths)) != len(paths) or {parent for path in paths for parent in path.parents} & set(paths):
        raise InvalidData("The archive has two members of the same name.", hint="Pack it anew.")
    tops = {path.parts[0] for path in paths}
    if len(tops) == 1 and all(len(path.parts) > 1 for path in paths):
        return [PurePosixPath(*path.parts[1:]) for path in paths]
    return paths


def _check_count(number: int, max_files: int) -> None:
    if number >= max_files:
        raise PayloadTooLarge(f"The archive has more than {max_files} members.", hint="Split it.")


def _too_large(archive: Path, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The archive {archive.name!r} unpacks to more than {limit} bytes.", hint="Unpack it yourself and import the folder."
    )


def _refused(name: str, reason: str) -> UnsafeArtifact:
    return UnsafeArtifact(f"The archive's member {name!r} is refused: {reason}.", hint="Pack plain files only.")
