"""The manifest of a version: its canonical form, its digest, and its files as a folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from modelworks.contract.errors import Conflict, InvalidRequest, UnsafeArtifact
from modelworks.contract.media import File
from modelworks.kernel.storage import BlobStore, safe_path

MAX_PATH_BYTES = 1024
MAX_FILES = 1_000_000


def digest_of(files: Sequence[File]) -> str:
    """`sha256:…` over the canonical JSON of the manifest: the same files in any order give the same digest."""
    rows = [
        {"digest": file.digest, "num_bytes": file.num_bytes, "path": file.path}
        for file in sorted(files, key=lambda file: file.path)
    ]
    canonical = json.dumps(rows, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def check_paths(paths: Sequence[str]) -> None:
    """Check that the paths can be laid out as one folder and that none leaves it.

    Raises:
        InvalidRequest: no file, too many, one twice, or one file where another needs a folder.
        UnsafeArtifact: a path that is absolute, climbs out, or has characters that mean something to a file system.
    """
    if not paths:
        raise InvalidRequest("A version needs at least one file.", hint="Give the files to register.", param="files")
    if len(paths) > MAX_FILES:
        raise InvalidRequest(
            f"{len(paths)} files are more than a version may have ({MAX_FILES}).",
            hint="Pack small files into archives or tables.",
            param="files",
        )
    seen: set[str] = set()
    for path in paths:
        safe_path(path)
        if len(path.encode()) > MAX_PATH_BYTES:
            raise UnsafeArtifact(f"The path {path[:200]!r} … is longer than {MAX_PATH_BYTES} bytes.", hint="Shorten it.")
        if path in seen:
            raise InvalidRequest(f"The file {path!r} is given twice.", hint="Give every path once.", param="files")
        seen.add(path)
    for path in paths:
        for parent in PurePosixPath(path).parents:
            if str(parent) in seen:
                raise InvalidRequest(f"{str(parent)!r} is a file and the folder of {path!r}.", param="files")


def materialise(blobs: BlobStore, files: Sequence[File], digest: str, cache_dir: Path) -> Path:
    """The manifest as a read-only folder, verified when it is made and shared by everyone who asks for the same digest.

    Args:
        cache_dir: folder of all materialised versions; safe for concurrent processes.

    Raises:
        NotFound: a blob is gone. IntegrityFailed: a blob has other bytes. StorageFull: the disk is full.
    """
    check_paths([file.path for file in files])
    target = cache_dir / digest.removeprefix("sha256:")
    if target.is_dir():
        if _is_whole(target, files):
            return target
        discard(target)
    cache_dir.mkdir(parents=True, exist_ok=True)
    try:
        blobs.materialise(files, target)
    except Conflict:
        # Another process made the same folder meanwhile: it appears complete or not at all.
        if not _is_whole(target, files):
            raise
    return target


def discard(folder: Path) -> None:
    """Remove a materialised folder although it is read-only. Renamed first: nobody sees half of it."""
    doomed = folder.with_name(f".{folder.name}.discarded-{os.getpid()}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    for parent, folders, _ in os.walk(doomed):
        for name in (".", *folders):
            place = Path(parent, name)
            if not place.is_symlink():
                place.chmod(place.stat().st_mode | stat.S_IRWXU)
    shutil.rmtree(doomed)


def _is_whole(folder: Path, files: Sequence[File]) -> bool:
    # Sizes only: bytes were verified when the folder was made and are read-only since.
    try:
        return all((folder / file.path).stat().st_size == file.num_bytes for file in files)
    except OSError:
        return False
