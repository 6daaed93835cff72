"""Content-addressed blobs over a local folder or any fsspec file system (S3 above all).

A blob is written to a spool file while it is hashed and appears under its digest in one step, complete, or not at all. Every
full read is hashed again: bytes that changed on the disk raise IntegrityFailed and are never handed on as good.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Protocol, cast

from modelworks.contract.errors import (
    Conflict,
    IntegrityFailed,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    StorageFull,
    UnsafeArtifact,
)
from modelworks.contract.media import File
from modelworks.kernel.storage.places import FolderPlace, Place, RemotePlace
from modelworks.kernel.storage.schemas import BlobInfo

CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
#: Linux: share the blocks of another file until one of the two is written (Btrfs, XFS).
_FICLONE = 0x40049409


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob in a listing; `modified` is seconds since 1970."""

    digest: str
    num_bytes: int
    modified: float


class NeedsBlobs(Protocol):
    """Something that blobs are kept for."""

    def referenced(self, digests: Collection[str]) -> set[str]:
        """Those of the blobs that it needs."""
        ...


def referenced_by(*rooms: NeedsBlobs) -> Callable[[Collection[str]], set[str]]:
    """Those of the blobs that one of the rooms needs: what `BlobStore.collect` asks."""
    return lambda digests: {digest for room in rooms for digest in room.referenced(digests)}


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection did: numbers of blobs deleted and kept, and bytes freed."""

    deleted: int
    kept: int
    bytes_freed: int


def parse_digest(digest: str) -> str:
    """The 64 hexadecimal digits of `sha256:<hex>`.

    Raises:
        InvalidRequest: it is not a digest.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidRequest(
            f"{digest[:100]!r} is not a digest.",
            hint="A digest is 'sha256:' and 64 lower-case hexadecimal digits.",
            param="digest",
        )
    return match.group(1)


def safe_path(path: str) -> PurePosixPath:
    """A manifest's path, proven to stay inside its folder.

    Raises:
        UnsafeArtifact: it is empty, absolute, leaves the folder, or is written in a way that some system reads differently.
    """
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts) or "\\" in path or ":" in parts[0] or not path.isprintable():
        raise UnsafeArtifact(
            f"The path {path!r} is not allowed in a version.",
            hint="Paths are relative, use forward slashes, and have no empty part, '.', '..', backslash or control character.",
        )
    return PurePosixPath(path)


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"There is no space left for the file{f' {error.filename}' if error.filename else ''}; nothing was stored.",
                hint="Free some space (remove versions, then collect garbage) or give a larger disk, and try again.",
            ) from error
        raise


class BlobWriter:
    """A blob on its way in. As a context manager it leaves nothing behind unless `commit` was called."""

    def __init__(self, place: Place, *, expected: str | None, max_bytes: int | None) -> None:
        self._place = place
        self._expected = None if expected is None else f"sha256:{parse_digest(expected)}"
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        with _full_disk():
            folder = place.spool_folder()
            descriptor, name = tempfile.mkstemp(prefix="modelworks-blob-", dir=folder)
        self._path = Path(name)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            PayloadTooLarge: more than `max_bytes`.
            StorageFull: the disk is full.
        """
        self.num_bytes += len(data)
        if self._max_bytes is not None and self.num_bytes > self._max_bytes:
            raise PayloadTooLarge(
                f"The content is larger than the allowed {self._max_bytes} bytes; nothing was stored.",
                hint="Send less, or have the limit raised (MODELWORKS_MAX_BLOB_BYTES for blobs).",
            )
        self._hash.update(data)
        view = memoryview(data)
        with _full_disk():
            while view:
                view = view[self._file.write(view) :]

    def commit(self) -> BlobInfo:
        """Make the blob appear under its digest, durably.

        Raises:
            IntegrityFailed: the bytes do not have the expected digest; nothing is stored.
        """
        digest = f"sha256:{self._hash.hexdigest()}"
        if self._expected is not None and digest != self._expected:
            self.abort()
            raise IntegrityFailed(
                f"The content has the digest {digest}, but {self._expected} was announced; nothing was stored.",
                hint="The bytes changed on the way or at the source: fetch or send them again.",
            )
        try:
            with _full_disk():
                os.fsync(self._file.fileno())
                self._file.close()
                self._place.publish(self._path, self._hash.hexdigest())
        finally:
            self.abort()
        return BlobInfo(digest=digest, num_bytes=self.num_bytes)

    def abort(self) -> None:
        """Drop what was written; after `commit` this does nothing."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abort()


class _VerifyingReader(io.RawIOBase):
    """Hashes what passes; the last bytes are handed out only when the digest of the whole is right."""

    def __init__(self, raw: BinaryIO, hexdigest: str, num_bytes: int) -> None:
        self._raw = raw
        self._hexdigest = hexdigest
        self._left = num_bytes
        self._hash = hashlib.sha256()
        self._checked = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self._hash.update(data)
        self._left -= len(data)
        if (not data or self._left <= 0) and not self._checked:
            if self._left != 0 or self._hash.hexdigest() != self._hexdigest or self._raw.read(1):
                raise IntegrityFailed(
                    f"The stored blob sha256:{self._hexdigest} is damaged: its bytes have another digest.",
                    hint="Restore the file from a backup or import it again; other blobs are not affected.",
                )
            self._checked = True
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._raw.close()
        super().close()


class BlobStore:
    """Blobs by digest. Safe for concurrent use by threads and processes.

    Args:
        url: a folder, or an fsspec URL such as `s3://bucket/prefix`.
        options: options of the fsspec file system (`endpoint_url`, `key`, `secret` …).

    Raises:
        MissingExtra: the file system's library is not installed.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.url = url
        scheme, separator, rest = url.partition("://")
        self._place: Place = (
            FolderPlace(Path(rest if separator else url))
            if not separator or scheme == "file"
            else RemotePlace(url, options or {})
        )

    def writer(self, *, expected: str | None = None, max_bytes: int | None = None) -> BlobWriter:
        """Begin a blob whose bytes arrive piece by piece."""
        return BlobWriter(self._place, expected=expected, max_bytes=max_bytes)

    def put(
        self, data: bytes | BinaryIO | Iterable[bytes], *, expected: str | None = None, max_bytes: int | None = None
    ) -> BlobInfo:
        """Store bytes, an open file (from its position), or chunks.

        Raises:
            IntegrityFailed: the digest is not `expected`.
            PayloadTooLarge: more than `max_bytes`.
            StorageFull: the disk is full. In every case nothing is left behind.
        """
        with self.writer(expected=expected, max_bytes=max_bytes) as writer:
            for chunk in _chunks(data):
                writer.write(chunk)
            return writer.commit()

    def put_file(self, path: Path, *, expected: str | None = None) -> BlobInfo:
        """Store a copy of a file; see `put`."""
        with path.open("rb") as file:
            return self.put(file, expected=expected)

    def exists(self, digest: str) -> bool:
        return self._place.find(parse_digest(digest)) is not None

    def stat(self, digest: str) -> BlobInfo:
        """Size of a blob.

        Raises:
            NotFound: there is no such blob.
        """
        return BlobInfo(digest=digest, num_bytes=self._size(parse_digest(digest)))

    def open(self, digest: str) -> BinaryIO:
        """A sequential reader that verifies.

        Reading the end raises IntegrityFailed when the bytes are not those of the digest: use nothing before the end.

        Raises:
            NotFound: there is no such blob.
        """
        hexdigest = parse_digest(digest)
        num_bytes = self._size(hexdigest)
        reader = _VerifyingReader(self._place.open(hexdigest, 0), hexdigest, num_bytes)
        return cast(BinaryIO, io.BufferedReader(reader, CHUNK_BYTES))

    def read(self, digest: str, max_bytes: int) -> bytes:
        """The whole blob, verified.

        Raises:
            NotFound, IntegrityFailed; PayloadTooLarge: it has more than `max_bytes`.
        """
        num_bytes = self.stat(digest).num_bytes
        if num_bytes > max_bytes:
            raise PayloadTooLarge(f"The blob {digest} has {num_bytes} bytes; at most {max_bytes} are read here.")
        with self.open(digest) as file:
            return file.read()

    def iter(self, digest: str, chunk_bytes: int = CHUNK_BYTES, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes `start` to `stop` (exclusive) in chunks. Only the whole blob can be verified: a part is handed out as it is.

        Raises:
            NotFound, IntegrityFailed (before the last chunk is handed out); InvalidRequest: the range is outside the blob.
        """
        hexdigest = parse_digest(digest)
        num_bytes = self._size(hexdigest)
        stop = num_bytes if stop is None else stop
        if not 0 <= start <= stop <= num_bytes:
            raise InvalidRequest(f"The range {start}-{stop} is outside the blob of {num_bytes} bytes.", param="range")
        if (start, stop) == (0, num_bytes):
            return _read_in_chunks(self.open(digest), chunk_bytes, num_bytes)
        return _read_in_chunks(self._place.open(hexdigest, start), chunk_bytes, stop - start)

    def delete(self, digest: str, *, unless_younger_than_s: float | None = None) -> bool:
        """Remove a blob, referenced or not; a missing one is no error. `collect` is the safe way.

        Args:
            unless_younger_than_s: one that was stored, or stored again, less long ago than that stays.

        Returns:
            Whether it was removed now.
        """
        return self._place.delete(parse_digest(digest), unless_younger_than_s=unless_younger_than_s)

    def list(self) -> Iterator[StoredBlob]:
        """Every blob, in no particular order."""
        for found in self._place.list():
            yield StoredBlob(f"sha256:{found.hexdigest}", found.num_bytes, found.modified)

    def materialise(self, files: Sequence[File], target: Path, *, link: bool = False) -> None:
        """Write a manifest's files under `target`, verified and read-only; the folder appears complete or not at all.

        Args:
            files: the manifest.
            target: a folder that does not exist or is empty.
            link: share the store's own files by hard links where possible: no copy, but a program that breaks the read-only
                mode and writes into them damages the store. Without it blocks are shared only copy-on-write.

        Raises:
            UnsafeArtifact: a path leaves the folder, or two paths collide.
            NotFound, IntegrityFailed: a blob is missing or damaged.
            Conflict: the target exists and is not empty.
        """
        _check_paths(files)
        with _full_disk():
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                draft.chmod(0o755)
                for file in files:
                    path = draft / safe_path(file.path)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._write_verified(file, path, link=link)
                    path.chmod(0o444)
                try:
                    draft.rename(target)
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise Conflict(
                            f"The folder {target} exists already.", hint="Remove it, or give another.", code="target_exists"
                        ) from error
                    raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def collect(self, referenced: Callable[[Collection[str]], set[str]], grace_s: float, *, dry_run: bool = False) -> GcReport:
        """Delete blobs that nothing references.

        Args:
            referenced: given digests, returns those in use.
            grace_s: younger blobs stay, as their reference may be about to be written; storing a blob again renews its age.
            dry_run: only count what would go.
        """
        deleted = kept = bytes_freed = 0
        blobs = self.list()
        while batch := list(islice(blobs, 500)):
            old = [blob for blob in batch if time.time() - blob.modified >= grace_s]
            used = referenced([blob.digest for blob in old]) if old else set()
            for blob in old:
                if blob.digest in used:
                    continue
                if dry_run or self._place.delete(parse_digest(blob.digest), unless_younger_than_s=grace_s):
                    deleted += 1
                    bytes_freed += blob.num_bytes
            kept += len(batch)
        if not dry_run:
            self._place.sweep(grace_s)
        return GcReport(deleted=deleted, kept=kept - deleted, bytes_freed=bytes_freed)

    def _size(self, hexdigest: str) -> int:
        found = self._place.find(hexdigest)
        if found is None:
            raise NotFound(
                f"There is no blob sha256:{hexdigest}.", hint="It was never stored here, or it was removed as nothing used it."
            )
        return found.num_bytes

    def _write_verified(self, file: File, path: Path, *, link: bool) -> None:
        hexdigest = parse_digest(file.digest)
        own = self._place.local_path(hexdigest)
        if own is not None and (_link(own, path) if link else _clone(own, path)):
            with path.open("rb") as raw:
                actual = hashlib.file_digest(raw, "sha256").hexdigest()
            if actual != hexdigest:
                raise IntegrityFailed(
                    f"The stored blob {file.digest} ({file.path}) is damaged: its bytes have another digest.",
                    hint="Restore the file from a backup or import it again; other blobs are not affected.",
                )
            return
        with self.open(file.digest) as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)


def _check_paths(files: Sequence[File]) -> None:
    paths = {safe_path(file.path) for file in files}
    parents = {parent for path in paths for parent in path.parents}
    if len(paths) != len(files) or paths & parents:
        raise UnsafeArtifact("Two files of the version have the same path.", hint="Each path may occur once, as a file only.")


def _chunks(data: bytes | BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    if isinstance(data, bytes | bytearray | memoryview):
        yield bytes(data)
        return
    read = getattr(data, "read", None)
    if read is None:
        yield from data
        return
    while chunk := read(CHUNK_BYTES):
        yield chunk


def _read_in_chunks(file: BinaryIO, chunk_bytes: int, num_bytes: int) -> Iterator[bytes]:
    with file:
        while num_bytes > 0:
            chunk = file.read(min(chunk_bytes, num_bytes))
            if not chunk:
                raise IntegrityFailed("The stored blob is shorter than it was.", hint="Import it again.")
            num_bytes -= len(chunk)
            yield chunk


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False  # another file system, or links are not allowed: copy instead
    return True


def _clone(source: Path, target: Path) -> bool:
    import fcntl

    try:
        with source.open("rb") as own, target.open("wb") as copy:
            fcntl.ioctl(copy.fileno(), _FICLONE, own.fileno())
    except OSError:
        return False  # the file system cannot share blocks: copy instead
    return True
