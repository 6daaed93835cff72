"""Where blobs lie: a local folder, or a remote file system through fsspec. Knows hexadecimal names, nothing of verification."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from modelworks.contract.errors import MissingExtra, NotFound, Unavailable

#: A remote blob stored again within this time is not uploaded again; an older one is, so that it counts as young.
_RENEW_AFTER_S = 600.0
#: Size of the parts in which large blobs go up; s3fs takes larger ones when S3's limit of 10,000 parts asks for it.
_PART_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A blob of a place."""

    hexdigest: str
    num_bytes: int
    modified: float


class Place(Protocol):
    """A room for blobs by hexadecimal digest."""

    def spool_folder(self) -> Path:
        """A local folder for files on their way in."""
        ...

    def publish(self, spooled: Path, hexdigest: str) -> None:
        """Make a spooled file appear under its name in one step, or renew the age of one that is there."""
        ...

    def find(self, hexdigest: str) -> Found | None: ...

    def open(self, hexdigest: str, start: int) -> BinaryIO:
        """A reader from byte `start`; NotFound when there is no such blob."""
        ...

    def delete(self, hexdigest: str, *, unless_younger_than_s: float | None) -> bool:
        """Whether it was deleted."""
        ...

    def list(self) -> Iterator[Found]: ...

    def local_path(self, hexdigest: str) -> Path | None:
        """The file itself where it is on this machine."""
        ...

    def sweep(self, older_than_s: float) -> None:
        """Remove spooled files that a killed process left."""
        ...


def _missing(hexdigest: str) -> NotFound:
    return NotFound(f"There is no blob sha256:{hexdigest}.", hint="It was removed as nothing used it.")


class FolderPlace:
    """`<root>/sha256/ab/<hex>`, read-only files; renames make them appear, a lock keeps collection and renewal apart."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self._spool = self._root / "spool"
        self._blobs = self._root / "sha256"

    def spool_folder(self) -> Path:
        self._spool.mkdir(parents=True, exist_ok=True)
        return self._spool

    def publish(self, spooled: Path, hexdigest: str) -> None:
        target = self._path(hexdigest)
        target.parent.mkdir(parents=True, exist_ok=True)
        spooled.chmod(0o444)
        # Replacing an equal file also repairs a damaged one, and renews its age.
        with self._lock(fcntl.LOCK_SH):
            spooled.replace(target)
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def find(self, hexdigest: str) -> Found | None:
        try:
            status = self._path(hexdigest).stat()
        except FileNotFoundError:
            return None
        return Found(hexdigest, status.st_size, status.st_mtime)

    def open(self, hexdigest: str, start: int) -> BinaryIO:
        try:
            file = self._path(hexdigest).open("rb")
        except FileNotFoundError as error:
            raise _missing(hexdigest) from error
        file.seek(start)
        return file

    def delete(self, hexdigest: str, *, unless_younger_than_s: float | None) -> bool:
        with self._lock(fcntl.LOCK_EX):
            found = self.find(hexdigest)
            if found is None or (unless_younger_than_s is not None and time.time() - found.modified < unless_younger_than_s):
                return False
            self._path(hexdigest).unlink()
            return True

    def list(self) -> Iterator[Found]:
        if not self._blobs.is_dir():
            return
        for folder in sorted(self._blobs.iterdir()):
            for path in sorted(folder.iterdir()):
                found = self.find(path.name)
                if found is not None and len(path.name) == 64:
                    yield found

    def local_path(self, hexdigest: str) -> Path | None:
        path = self._path(hexdigest)
        return path if path.is_file() else None

    def sweep(self, older_than_s: float) -> None:
        if not self._spool.is_dir():
            return
        for path in self._spool.glob("modelworks-blob-*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime >= max(older_than_s, 3600.0):
                    path.unlink()

    def _path(self, hexdigest: str) -> Path:
        return self._blobs / hexdigest[:2] / hexdigest

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / ".lock").open("ab") as file:
            fcntl.flock(file.fileno(), kind)
            yield


class RemotePlace:
    """`<url>/sha256/ab/<hex>` on an fsspec file system whose uploads appear when they are complete, as S3's do.

    Collection looks at a blob's age just before it deletes, but S3 has no lock: a blob that is stored anew within the few
    milliseconds between the two can be lost. The writer's own check (`exists` when the version is registered) finds that.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        import fsspec

        try:
            # Without a listing cache: other processes write here too.
            self._fs, root = fsspec.url_to_fs(url, **{"use_listings_cache": False, **options})
        except ImportError as error:
            scheme = url.partition("://")[0]
            raise MissingExtra.of("s3fs" if scheme == "s3" else f"an fsspec file system for {scheme}://", "s3") from error
        self._root = str(root).rstrip("/")
        self._url = url
        # Parts of 50 MiB, ten at once, are s3fs' own choice: too much memory for a small server.
        self._upload = {"chunksize": _PART_BYTES, "max_concurrency": 4} if url.startswith("s3") else {}

    def spool_folder(self) -> Path:
        return Path(tempfile.gettempdir())

    def publish(self, spooled: Path, hexdigest: str) -> None:
        found = self.find(hexdigest)
        if found is not None and found.num_bytes == spooled.stat().st_size and time.time() - found.modified < _RENEW_AFTER_S:
            return
        with self._reachable():
            self._fs.put_file(str(spooled), self._key(hexdigest), **self._upload)

    def find(self, hexdigest: str) -> Found | None:
        with self._reachable():
            try:
                return _found(hexdigest, self._fs.info(self._key(hexdigest)))
            except FileNotFoundError:
                return None

    def open(self, hexdigest: str, start: int) -> BinaryIO:
        with self._reachable():
            try:
                file: BinaryIO = self._fs.open(self._key(hexdigest), "rb", block_size=8 << 20, cache_type="readahead")
            except FileNotFoundError as error:
                raise _missing(hexdigest) from error
            file.seek(start)
            return file

    def delete(self, hexdigest: str, *, unless_younger_than_s: float | None) -> bool:
        found = self.find(hexdigest)
        if found is None or (unless_younger_than_s is not None and time.time() - found.modified < unless_younger_than_s):
            return False
        with self._reachable():
            self._fs.rm_file(self._key(hexdigest))
        return True

    def list(self) -> Iterator[Found]:
        with self._reachable():
            entries: dict[str, dict[str, Any]] = self._fs.find(f"{self._root}/sha256", detail=True)
        for key, entry in entries.items():
            name = key.rpartition("/")[2]
            if len(name) == 64:
                yield _found(name, entry)

    def local_path(self, hexdigest: str) -> Path | None:
        return None

    def sweep(self, older_than_s: float) -> None:
        for path in self.spool_folder().glob("modelworks-blob-*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime >= max(older_than_s, 24 * 3600.0):
                    path.unlink()

    def _key(self, hexdigest: str) -> str:
        return f"{self._root}/sha256/{hexdigest[:2]}/{hexdigest}"

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise Unavailable(
                f"The blob storage {self._url} refuses access: {error}.",
                hint="Check the key and secret in MODELWORKS_STORAGE_OPTIONS and the bucket's policy.",
            ) from error
        except Exception as error:
            # botocore and aiohttp have their own trees; neither may be imported here, as they are an extra.
            if type(error).__module__.partition(".")[0] in ("botocore", "aiobotocore", "aiohttp") or isinstance(
                error, ConnectionError | TimeoutError
            ):
                raise Unavailable(
                    f"The blob storage {self._url} does not answer: {error}.", hint="Try again shortly.", retry_after_s=5
                ) from error
            raise


def _found(hexdigest: str, entry: dict[str, Any]) -> Found:
    modified = entry.get("LastModified", entry.get("mtime", entry.get("created", 0.0)))
    return Found(hexdigest, int(entry["size"]), modified.timestamp() if isinstance(modified, datetime) else float(modified))
