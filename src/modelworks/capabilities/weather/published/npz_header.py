"""Names, types and shapes in an npz file, and its small values, without its arrays. Light: neither numpy nor pickle reads it.

Layout: numpy's format of .npy files (numpy.lib.format, versions 1 to 3), in a zip archive.
"""

from __future__ import annotations

import ast
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from modelworks.contract.errors import InvalidData, UnsafeArtifact

_MAGIC: Final = b"\x93NUMPY"
_MAX_MEMBERS: Final = 1 << 16
_MAX_HEADER: Final = 1 << 16
_MAX_VALUE: Final = 1 << 16
_NUMBERS: Final = {"<i8": "<q", "<i4": "<i", "<f8": "<d", "<f4": "<f"}


@dataclass(frozen=True, slots=True)
class Header:
    """What an npz file holds.

    Attributes:
        types: numpy's name of the type of each array, as `<f4`.
        values: single texts and numbers, and nothing that has axes.
    """

    types: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    values: dict[str, str | int | float]


def header_of(path: Path) -> Header:
    """What an npz file holds, told without its arrays.

    Raises:
        InvalidData: it is no such file.
        UnsafeArtifact: an array is one of Python objects, which only a pickle holds; says which.
    """
    found = Header({}, {}, {})
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise ValueError(f"it has {len(members)} arrays")
            for member in members:
                with archive.open(member) as file:
                    _add(found, member.filename.removesuffix(".npy"), file)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, struct.error, zipfile.BadZipFile) as error:
        raise InvalidData(
            f"{path.name} is no npz file: {error}.",
            hint="Fetch it again, whole.",
            code="unreadable_file",
            param=path.name,
        ) from error
    for name, kind in found.types.items():
        if not kind.startswith(("<f", "<i", "<u", "<U", "|b", "|i1", "|u1")):
            raise UnsafeArtifact(
                f"{name} of {path.name} is of type {kind}; only numbers and texts are read, never Python objects.",
                hint="Give the checkpoint as it was published; objects in it are pickles, whose opening runs what is in them.",
            )
    return found


def _add(found: Header, name: str, file: IO[bytes]) -> None:
    begin = file.read(8)
    if begin[:6] != _MAGIC:
        raise ValueError(f"{name} is no array")
    width = 2 if begin[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _MAX_HEADER:
        raise ValueError(f"the header of {name} is too long")
    told = ast.literal_eval(file.read(length).decode("latin-1").strip())
    # A structured type is a list; its text says so, and begins with no known letter.
    kind, shape = str(told["descr"]), tuple(int(each) for each in told["shape"])
    found.types[name], found.shapes[name] = kind, shape
    if shape:
        return
    if kind.startswith("<U"):
        found.values[name] = file.read(min(4 * int(kind[2:]), _MAX_VALUE)).decode("utf-32-le").rstrip("\0")
    elif kind in _NUMBERS:
        [found.values[name]] = struct.unpack(_NUMBERS[kind], file.read(int(kind[2:])))
