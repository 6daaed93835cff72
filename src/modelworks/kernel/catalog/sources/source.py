"""What every source does, and what is the same for all of them: which files are left out, licence, card, limits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from modelworks.contract.errors import Cancelled, IntegrityFailed, PayloadTooLarge, PermissionDenied, UnsafeArtifact
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog.checkpoint import pickle_by_name
from modelworks.kernel.catalog.schemas import SkippedFile, SourceFile, SourceInfo
from modelworks.kernel.storage import safe_path

#: Called with bytes done and bytes in total (None where nobody knows).
Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20
_CARD_BYTES = 1 << 20
#: Other frameworks' copies of the same weights: not needed beside safetensors, and often larger than them.
_OTHER_WEIGHTS = re.compile(r"(^|/)(tf_model.*\.h5|flax_model.*\.msgpack|rust_model\.ot|model.*\.onnx(_data)?|.*\.mlmodel)$")
_HOUSEKEEPING = re.compile(r"(^|/)(\.git|\.gitattributes|\.gitignore|\.cache|\.huggingface|\.msc|\.mdl|\.mv|\.DS_Store)(/|$)")


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What the settings allow, and how much."""

    #: Folders from which `file://` may read; empty: any.
    pull_roots: tuple[Path, ...] = ()
    #: Places that hold the platform's own data: never readable as a source, whatever `pull_roots` says.
    forbidden_roots: tuple[Path, ...] = ()
    forbidden_urls: tuple[str, ...] = ()
    egress_allow: tuple[str, ...] = ()
    max_bytes: int = 4 << 40
    max_files: int = 1_000_000

    @classmethod
    def of(cls, settings: Settings) -> SourcePolicy:
        storage = settings.effective_storage_url
        is_folder = "://" not in storage or storage.startswith("file://")
        folders = [settings.home]
        if is_folder:
            folders.append(Path(storage.removeprefix("file://")))
        return cls(
            pull_roots=tuple(root.expanduser().resolve() for root in settings.pull_roots),
            forbidden_roots=tuple(folder.expanduser().resolve() for folder in folders),
            forbidden_urls=() if is_folder else (storage.rstrip("/"),),
            egress_allow=tuple(settings.egress_allow),
        )

    def check_rights(self, uri: str, *, is_operator: bool) -> None:
        """Refuse this machine's files to all but administrators of the platform, unless `pull_roots` says what may be read.

        Raises:
            PermissionDenied: a `file://` source, no `pull_roots`, and somebody else: a project's admin is not the machine's.
        """
        # A preset may name a local path, too, but whoever installed it vouches for it.
        if uri.strip().lower().startswith("file:") and not self.pull_roots and not is_operator:
            raise PermissionDenied(
                "Only administrators of the platform may have this server read its own files.",
                hint="Upload the folder instead (`modelworks data add`, or `modelworks pull` from another machine), "
                "or have an administrator name the folders in MODELWORKS_PULL_ROOTS.",
                param="source",
            )


class Source(Protocol):
    """A place that was named by a URI and admitted by the policy."""

    def describe(self) -> SourceInfo:
        """Licence, size and files, without fetching them."""
        ...

    def fetch(self, target: Path, progress: Progress, cancelled: Callable[[], bool]) -> SourceInfo:
        """Write the files into `target/files`; parts that are not complete lie in `target/parts`.

        Called again with the same folder after a break, it goes on where it was. What comes back says what was fetched.

        Raises:
            Cancelled: `cancelled` said so; what was fetched stays for the next time.
            IntegrityFailed: a file has another size or checksum than the source said.
        """
        ...


#: Fetches one file into the folder for parts, reporting the bytes that are there; returns where the complete file lies.
FetchOne = Callable[[SourceFile, Path, Callable[[int], None]], Path]


def transfer(
    files: Sequence[SourceFile], target: Path, fetch_one: FetchOne, progress: Progress, cancelled: Callable[[], bool]
) -> None:
    """Fetch files one after the other: each appears in `target/files` complete and checked, or not at all."""
    total = sum(file.num_bytes or 0 for file in files) if all(file.num_bytes is not None for file in files) else None
    done = 0
    parts = target / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    for file in files:
        place = target / "files" / safe_path(file.path)
        if file.num_bytes is None or not place.is_file() or place.stat().st_size != file.num_bytes:
            start = done

            def report(num_bytes: int, start: int = start) -> None:
                stop_if(cancelled)
                progress(start + num_bytes, total)

            report(0)
            complete = fetch_one(file, parts, report)
            check_file(file, complete)
            place.parent.mkdir(parents=True, exist_ok=True)
            complete.replace(place)
        done += place.stat().st_size
        progress(done, total)
    stop_if(cancelled)


def check_file(file: SourceFile, place: Path) -> None:
    """Raise IntegrityFailed, and remove the file, unless it has the size and the checksum that the source said."""
    found = place.stat().st_size
    problem = None
    if file.num_bytes is not None and found != file.num_bytes:
        problem = f"expected {file.num_bytes} bytes, found {found}"
    elif file.sha256 is not None:
        with place.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != file.sha256:
            problem = f"expected sha256 {file.sha256}, found {digest}"
    if problem is not None:
        place.unlink()
        raise IntegrityFailed(
            f"The fetched file {file.path!r} is not what the source announced: {problem}.",
            hint="It changed at the source or on the way: pull again.",
        )


def copy_part(read: Callable[[int], bytes], part: Path, *, offset: int, report: Callable[[int], None]) -> None:
    """Append what `read(num_bytes)` gives to a part that has `offset` bytes already."""
    with part.open("ab") as sink:
        sink.truncate(offset)
        while chunk := read(CHUNK_BYTES):
            sink.write(chunk)
            offset += len(chunk)
            report(offset)


def select(files: Sequence[SourceFile], *, kind: str, uri: str) -> tuple[list[SourceFile], list[SkippedFile]]:
    """Which files to fetch, and which to leave out and why.

    Raises:
        UnsafeArtifact: every weight file is a pickle, so nothing useful would be left.
    """
    paths = {file.path for file in files}
    has_safe_weights = any(path.endswith((".safetensors", ".gguf")) for path in paths)
    kept: list[SourceFile] = []
    skipped: list[SkippedFile] = []
    pickles = 0
    for file in files:
        reason = pickle_by_name(file.path, kind=kind, siblings=paths)
        if reason is not None:
            pickles += 1
            skipped.append(SkippedFile(path=file.path, reason=f"{reason}; loading them could run code"))
        elif _HOUSEKEEPING.search(file.path):
            continue
        elif kind == "model" and file.path.endswith((".bin.index.json", ".pt.index.json")):
            skipped.append(SkippedFile(path=file.path, reason="it is the index of pickles"))
        elif kind == "model" and has_safe_weights and _OTHER_WEIGHTS.search(file.path):
            skipped.append(SkippedFile(path=file.path, reason="another framework's copy of the weights"))
        else:
            kept.append(file)
    if pickles and kind == "model" and not any(_is_weights(file.path) for file in kept):
        names = ", ".join(each.path for each in skipped[:3])
        raise UnsafeArtifact(
            f"{uri} offers its weights as pickles only ({names}).",
            hint="Loading a pickle could run code. Look for a revision with safetensors, or convert it and import the result.",
        )
    return kept, skipped


def check_size(files: Sequence[SourceFile], policy: SourcePolicy, uri: str) -> None:
    """Raise PayloadTooLarge when a source has more than the policy admits."""
    total = sum(file.num_bytes or 0 for file in files)
    if len(files) > policy.max_files or total > policy.max_bytes:
        raise PayloadTooLarge(
            f"{uri} has {len(files)} files with {total} bytes; at most {policy.max_files} files and "
            f"{policy.max_bytes} bytes are fetched.",
            hint="Name a part of it.",
        )


def stop_if(cancelled: Callable[[], bool]) -> None:
    """Raise Cancelled when the user has asked to stop."""
    if cancelled():
        raise Cancelled("The pull was cancelled.", hint="Resume the run to go on from what was fetched.")


def read_card(folder: Path) -> str | None:
    """The text of README.md, at most a mebibyte of it."""
    for name in ("README.md", "readme.md", "README"):
        card = folder / name
        if card.is_file():
            return card.read_bytes()[:_CARD_BYTES].decode("utf-8", errors="replace")
    return None


def licence_of(card: str | None) -> str | None:
    """The licence that a card's front matter states (`license: apache-2.0`), or None.

    A hub writes `other` where the licence has no common id; then `license_name` says more.
    """
    if card is None or not card.startswith("---"):
        return None
    end = card.find("\n---", 3)
    stated: dict[str, str] = {}
    key = None
    for line in card[3 : end if end > 0 else 0].splitlines():
        if match := re.match(r"^(license|licence|license_name)\s*:\s*(.*)$", line):
            key = match[1].replace("licence", "license")
            stated[key] = match[2].split(" #")[0].strip().strip("\"'[]")
        elif key is not None and not stated[key] and (item := re.match(r"^\s*-\s+(.+)$", line)):
            stated[key] = item[1].strip().strip("\"'")
        else:
            key = None
    licence = stated.get("license") or None
    if licence == "other":
        return stated.get("license_name") or licence
    return licence


def _is_weights(path: str) -> bool:
    return PurePosixPath(path).suffix in (
        ".safetensors",
        ".gguf",
        ".h5",
        ".msgpack",
        ".onnx",
        ".npz",
        ".npy",
        ".tflite",
        ".xml",
    )
