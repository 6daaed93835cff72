"""Is a checkpoint safe and whole? Pickles are refused by name and by content; safetensors are checked without loading them.

Nothing here trusts a file's name alone, and nothing here executes or unpickles anything.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickletools
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeGuard

from modelworks.contract.errors import InvalidData, InvalidRequest, PayloadTooLarge, UnsafeArtifact
from modelworks.contract.media import File
from modelworks.kernel.base.sparing import open_zip
from modelworks.kernel.catalog.manifest import check_paths
from modelworks.kernel.storage import BlobStore

#: Names under which pickles travel. `.bin` is one of them for models only: data sets use it for anything.
PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".pth.tar", ".mar", ".t7"})
_SNIFF_BYTES = 64 << 10
_MAX_HEADER_BYTES = 100_000_000
_MAX_INDEX_BYTES = 64 << 20
_PICKLE_CALLS = frozenset({"INST", "REDUCE", "BUILD", "OBJ", "NEWOBJ", "NEWOBJ_EX"})

#: Bits of one element, as the safetensors format defines them.
_DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<index>\d{5})-of-(?P<total>\d{5})\.safetensors$")
_HEADS = (
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForImageClassification", "image-classification"),
    ("ForObjectDetection", "object-detection"),
    ("ForSpeechSeq2Seq", "automatic-speech-recognition"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest artifact that is accepted."""

    max_files: int = 1_000_000
    max_bytes: int = 4 << 40


class Content(Protocol):
    """A file whose ranges can be read: in a folder or in the storage."""

    @property
    def path(self) -> str: ...

    @property
    def num_bytes(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A file of a folder."""

    path: str
    num_bytes: int
    place: Path

    def read(self, start: int, stop: int) -> bytes:
        with self.place.open("rb") as file:
            file.seek(start)
            return file.read(max(0, stop - start))


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A file of a manifest whose bytes lie in the storage."""

    path: str
    num_bytes: int
    digest: str
    blobs: BlobStore

    @classmethod
    def of(cls, file: File, blobs: BlobStore) -> BlobFile:
        return cls(file.path, file.num_bytes, file.digest, blobs)

    def read(self, start: int, stop: int) -> bytes:
        stop = min(stop, self.num_bytes)
        return b"".join(self.blobs.iter(self.digest, 1 << 20, start, stop)) if stop > start else b""


def check_folder(folder: Path, *, kind: str = "model", limits: Limits | None = None) -> list[FolderFile]:
    """Check a folder (or a single file) and list its files by relative path.

    Raises:
        UnsafeArtifact: a pickle, a link that leaves the folder, or something that is not a plain file.
        InvalidData: a truncated or inconsistent checkpoint; names the file with expected and found bytes.
        InvalidRequest: the folder is missing or empty. PayloadTooLarge: more than `limits`.
    """
    files = list_folder(folder)
    check_contents(files, kind=kind, limits=limits)
    return files


def list_folder(folder: Path) -> list[FolderFile]:
    """The plain files of a folder by relative path; links are followed only where they stay inside."""
    if not folder.exists():
        raise InvalidRequest(f"{folder} does not exist.", hint="Check the path; it is read on the server's machine.")
    if folder.is_file():
        return [FolderFile(folder.name, folder.stat().st_size, folder)]
    root = folder.resolve()
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders.sort()
        for name in folders:
            if Path(parent, name).is_symlink():
                raise _leaves(Path(parent, name).relative_to(folder), "it is a link to a folder")
        for name in sorted(names):
            place = Path(parent, name)
            relative = place.relative_to(folder)
            if place.is_symlink() and not place.resolve().is_relative_to(root):
                raise _leaves(relative, "it is a link that leaves the folder")
            try:
                info = place.stat()
            except FileNotFoundError:
                raise _leaves(relative, "it is a link to nothing") from None
            if not stat.S_ISREG(info.st_mode):
                raise _leaves(relative, "it is not a plain file")
            found.append(FolderFile(relative.as_posix(), info.st_size, place))
    if not found:
        raise InvalidRequest(f"The folder {folder} has no files.", hint="Give a folder with at least one file.")
    return found


def check_contents(files: Sequence[Content], *, kind: str = "model", limits: Limits | None = None) -> None:
    """Check files wherever they lie; see `check_folder` for what is raised."""
    limits = limits or Limits()
    check_paths([file.path for file in files])
    total = sum(file.num_bytes for file in files)
    if len(files) > limits.max_files or total > limits.max_bytes:
        raise PayloadTooLarge(
            f"The artifact has {len(files)} files with {total} bytes; "
            f"at most {limits.max_files} files and {limits.max_bytes} bytes are accepted.",
            hint="Split it.",
        )
    paths = {file.path for file in files}
    for file in files:
        if (reason := pickle_reason(file, kind=kind, siblings=paths)) is not None:
            raise UnsafeArtifact(
                f"The file {file.path!r} is refused: {reason}.",
                hint="Loading it could run code. Only weights matter: convert it to safetensors and leave this file out.",
            )
    headers = {file.path: safetensors_header(file) for file in files if file.path.endswith(".safetensors")}
    if kind == "model":
        _check_shards(paths)
        for file in files:
            if file.path.endswith(".safetensors.index.json"):
                _check_index(file, headers)
            elif file.path == "config.json":
                read_json(file)


def pickle_by_name(path: str, *, kind: str = "model", siblings: Iterable[str] = ()) -> str | None:
    """Why a name alone gives a pickle away, or None. For what is known before anything is fetched."""
    name = PurePosixPath(path).name.lower()
    suffix = next((each for each in sorted(PICKLE_SUFFIXES) if name.endswith(each)), None)
    if suffix is not None:
        return f"{suffix} files are pickles"
    # OpenVINO keeps weights as name.xml + name.bin, which is plain memory.
    if kind == "model" and name.endswith(".bin") and str(PurePosixPath(path).with_suffix(".xml")) not in siblings:
        return ".bin weights are pickles"
    return None


def pickle_reason(file: Content, *, kind: str = "model", siblings: Iterable[str] = ()) -> str | None:
    """Why a file counts as a pickle, by name and by content, or None."""
    if (reason := pickle_by_name(file.path, kind=kind, siblings=siblings)) is not None:
        return reason
    head = file.read(0, min(file.num_bytes, _SNIFF_BYTES))
    if head.startswith(b"PK\x03\x04"):
        return _zip_reason(_Ranges(file))
    if head.startswith(b"\x93NUMPY"):
        return "it is a NumPy file of Python objects, which is a pickle" if _npy_has_objects(head) else None
    return "its content is a pickle" if _is_pickle(head, complete=len(head) == file.num_bytes) else None


def safetensors_header(file: Content) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> dtype and shape, after checking that header and size agree to the byte.

    Raises:
        InvalidData: the file is truncated (code `truncated_checkpoint`) or inconsistent (`invalid_checkpoint`).
    """
    found = file.num_bytes
    if found < 8:
        raise _truncated(file, 8, found)
    header_bytes = int.from_bytes(file.read(0, 8), "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise _inconsistent(file, f"its header claims {header_bytes} bytes, which no checkpoint has")
    if 8 + header_bytes > found:
        raise _truncated(file, 8 + header_bytes, found)
    try:
        header = json.loads(file.read(8, 8 + header_bytes), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _inconsistent(file, f"its header is not valid JSON ({error})") from None
    if not isinstance(header, dict):
        raise _inconsistent(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    spans = []
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, entry in header.items():
        begin, end, dtype, shape = _tensor(file, name, entry)
        spans.append((begin, end, name))
        tensors[name] = (dtype, shape)
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise _inconsistent(file, f"tensor {name!r} starts at byte {begin} of the data where {position} was expected")
        position = end
    expected = 8 + header_bytes + position
    if found < expected:
        raise _truncated(file, expected, found)
    if found > expected:
        raise _inconsistent(file, f"it has {found} bytes where its header accounts for {expected}")
    return tensors


def read_json(file: Content) -> dict[str, Any]:
    """A small JSON object, such as `config.json`. Raises InvalidData naming the file."""
    if file.num_bytes > _MAX_INDEX_BYTES:
        raise _inconsistent(file, f"it has {file.num_bytes} bytes, too many for such a file")
    try:
        value = json.loads(file.read(0, file.num_bytes))
    except (ValueError, RecursionError) as error:
        raise _inconsistent(file, f"it is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise _inconsistent(file, "it is not a JSON object")
    return value


def detect_task(config: Mapping[str, Any]) -> str | None:
    """The task that a Hugging Face `config.json` announces by its architecture's head, or None."""
    architectures = config.get("architectures")
    for architecture in architectures if isinstance(architectures, list) else ():
        for head, task in _HEADS:
            if isinstance(architecture, str) and architecture.endswith(head):
                return task
    return None


def _tensor(file: Content, name: str, entry: object) -> tuple[int, int, str, tuple[int, ...]]:
    if not isinstance(entry, dict):
        raise _inconsistent(file, f"tensor {name!r} is not described by an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise _inconsistent(file, f"tensor {name!r} has the unknown type {dtype!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _inconsistent(file, f"tensor {name!r} has no valid shape or offsets")
    bits = _DTYPE_BITS[dtype]
    for size in shape:
        bits *= size
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise _inconsistent(
            file, f"tensor {name!r} of type {dtype} and shape {shape} does not fill its {offsets[1] - offsets[0]} bytes"
        )
    return offsets[0], offsets[1], dtype, tuple(shape)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def _check_shards(paths: Iterable[str]) -> None:
    groups: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if match := _SHARD.match(path):
            groups.setdefault((match["stem"], int(match["total"])), set()).add(int(match["index"]))
    for (stem, total), present in groups.items():
        missing = sorted(set(range(1, total + 1)) - present)
        if missing:
            raise _incomplete(f"{stem}-{missing[0]:05d}-of-{total:05d}.safetensors", len(missing), "its numbering")


def _check_index(file: Content, headers: Mapping[str, Mapping[str, Any]]) -> None:
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise _inconsistent(file, "it has no weight_map")
    folder = PurePosixPath(file.path).parent
    missing = sorted({str(folder / shard) for shard in weight_map.values()} - set(headers))
    if missing:
        raise _incomplete(missing[0], len(missing), file.path)
    for tensor, shard in weight_map.items():
        if tensor not in headers[str(folder / shard)]:
            raise _inconsistent(file, f"it says that {shard!r} holds tensor {tensor!r}, which it does not")


def _zip_reason(ranges: io.RawIOBase) -> str | None:
    try:
        with open_zip(io.BufferedReader(ranges), "the uploaded file") as archive:
            members = [(member, PurePosixPath(member.filename).name) for member in archive.infolist()]
            # Names first: they can always be read, whatever the contents are.
            for member, name in members:
                if name == "data.pkl" or Path(name).suffix in (".pkl", ".pickle"):
                    return f"it is an archive with the pickle {member.filename!r}"
            for member, name in members:
                if name.endswith(".npy") and (reason := _array_reason(archive, member, name)) is not None:
                    return reason
    except (zipfile.BadZipFile, OSError):
        # Not a readable archive: no loader of ours opens it as one.
        return None
    return None


def _array_reason(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> str | None:
    try:
        with archive.open(member) as inner:
            head = inner.read(_SNIFF_BYTES)
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, LZMAError, RuntimeError):
        # RuntimeError: encrypted, or packed in a way that is not known here. Another reader may know it.
        return f"its array {name!r} cannot be read, so nobody knows whether it is a pickle"
    return f"its array {name!r} holds Python objects, which is a pickle" if _npy_has_objects(head) else None


def _npy_has_objects(head: bytes) -> bool:
    if not head.startswith(b"\x93NUMPY") or len(head) < 12:
        return False
    width = 2 if head[6] == 1 else 4
    size = int.from_bytes(head[8 : 8 + width], "little")
    try:
        header = ast.literal_eval(head[8 + width : 8 + width + size].decode("latin-1").strip())
        return "O" in str(header.get("descr"))
    except (ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):
        # A header that cannot be read is loaded by nobody without allow_pickle either.
        return True


def _is_pickle(head: bytes, *, complete: bool) -> bool:
    """Whether the bytes start as a pickle does: protocol 2 and up by its mark, older ones by an opcode that calls."""
    has_mark = len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5
    steps = 0
    names = calls = False
    try:
        for opcode, argument, position in pickletools.genops(io.BytesIO(head)):
            steps += 1
            if opcode.name in ("GLOBAL", "INST"):
                names = names or _is_qualified_name(str(argument))
            calls = calls or opcode.name in _PICKLE_CALLS
            if opcode.name == "STOP":
                # A word list can be read as opcodes for a while; one that names a function, calls it and stops cannot.
                at_end = complete and position == len(head) - 1
                return has_mark or (names and calls) or (at_end and steps > 2 and _is_container(head))
    except Exception:  # noqa: S110 - genops raises many kinds on bytes that are no pickle; what it saw before decides
        pass
    return has_mark and steps >= 3


def _is_qualified_name(argument: str) -> bool:
    module, _, name = argument.partition(" ")
    return bool(name) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def _is_container(head: bytes) -> bool:
    return head[:2] in (b"(d", b"(l", b"(i", b"(t") or head[:1] in (b"]", b"}")


class _Ranges(io.RawIOBase):
    """A seekable view of a `Content`, for the zip reader."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._content.num_bytes}[whence]
        if start + offset < 0:
            raise OSError("seek before the start of the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._content.read(self._position, min(self._position + len(buffer), self._content.num_bytes))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _refuse_unreadable(error: OSError) -> None:
    raise InvalidRequest(
        f"{error.filename} cannot be read: {error.strerror}.", hint="Make it readable for the server."
    ) from error


def _leaves(path: Path, reason: str) -> UnsafeArtifact:
    return UnsafeArtifact(f"{path.as_posix()!r} is refused: {reason}.", hint="Replace links by copies of the files they mean.")


def _truncated(file: Content, expected: int, found: int) -> InvalidData:
    return InvalidData(
        f"The checkpoint file {file.path!r} is truncated: expected {expected} bytes, found {found}.",
        hint="Fetch or copy it again.",
        code="truncated_checkpoint",
    )


def _inconsistent(file: Content, reason: str) -> InvalidData:
    return InvalidData(
        f"The file {file.path!r} is damaged: {reason}.", hint="Fetch or write it again.", code="invalid_checkpoint"
    )


def _incomplete(first: str, num_missing: int, source: str) -> InvalidData:
    others = f" and {num_missing - 1} more" if num_missing > 1 else ""
    return InvalidData(
        f"The checkpoint is incomplete: by {source} the file {first!r}{others} should be there.",
        hint="Fetch or copy all its files.",
        code="incomplete_checkpoint",
    )
