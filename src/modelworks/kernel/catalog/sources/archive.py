"""Unpacks .zip and .tar archives from strangers: nothing leaves the folder, nothing but plain files, no bombs.

Bombs go off in two places: in the contents, which are counted as they come out, and in the headers, whose sizes the readers of
the standard library take at their word: they are given a file that hands out no large piece.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
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
from typing import IO, cast

from modelworks.contract.errors import InvalidData, PayloadTooLarge, StorageFull, UnsafeArtifact
from modelworks.kernel.base.sparing import Sparing, open_zip
from modelworks.kernel.catalog.sources.source import CHUNK_BYTES
from modelworks.kernel.storage import safe_path

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: What unpacked data may be at most: so many times the archive, but always a gibibyte.
_MAX_RATIO = 200
_ALWAYS_BYTES = 1 << 30
#: Each member takes about a kilobyte of memory while it is listed.
_MAX_MEMBERS = 300_000
#: A member's own headers; long names and extended attributes lie in them.
_MAX_HEADER_BYTES = 1 << 20
#: All headers of a .tar together.
_MAX_HEADERS_BYTES = 512 << 20
_MAX_ATTRIBUTES = 32


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
    max_files = min(max_files, _MAX_MEMBERS)
    try:
        with _tar_stream(archive) as stream:
            sparing = Sparing(stream, archive.name, max_piece=_MAX_HEADER_BYTES)
            sparing.budget = _MAX_HEADER_BYTES
            try:
                packed = tarfile.TarFile(fileobj=cast(IO[bytes], sparing))
            except (tarfile.ReadError, EOFError, zlib.error, LZMAError, OSError) as error:
                if not zipfile.is_zipfile(archive):
                    raise _damaged(archive, error) from error
            else:
                with packed:
                    members = [*_tar_members(archive, packed, sparing, max_files, limit)]
                    sparing.budget = None
                    _write(archive, members, target, limit, stop)
                return
        with archive.open("rb") as file, open_zip(file, archive.name) as zipped:
            _write(archive, [*_zip_members(zipped, max_files)], target, limit, stop)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        zlib.error,
        LZMAError,
        NotImplementedError,
        RecursionError,
    ) as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # What comes from a packer has no number.
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> InvalidData:
    return InvalidData(f"The archive {archive.name!r} is damaged: {error}.", hint="Fetch it again.")


def _tar_stream(archive: Path) -> IO[bytes]:
    """The bytes of a .tar, unpacked where it is packed; tarfile would unpack it itself, and read it without a limit."""
    with archive.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(archive, "rb"))
    if head.startswith(b"BZh"):
        return cast(IO[bytes], bz2.open(archive, "rb"))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast(IO[bytes], lzma.open(archive, "rb"))
    return archive.open("rb")


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


def _tar_members(archive: Path, packed: tarfile.TarFile, sparing: Sparing, max_files: int, limit: int) -> Iterator[_Member]:
    total, headers = 0, 0
    members = iter(packed)
    for number in itertools.count():
        headers += sparing.num_read
        sparing.num_read = 0
        sparing.budget = min(_MAX_HEADER_BYTES, _MAX_HEADERS_BYTES - headers)
        info = next(members, None)
        if info is None:
            return
        _check_count(number, max_files)
        if len(info.pax_headers) > _MAX_ATTRIBUTES:
            raise _refused(info.name, "it has too many attributes")
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise _refused(info.name, "it is a link, a device or sparse")
        # Before the reader goes on to the next one, for which it unpacks all of this one.
        total += info.size
        if total > limit:
            raise _too_large(archive, limit)
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
