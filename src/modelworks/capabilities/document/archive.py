"""Zipped documents of strangers: their directory, their sizes and their names are not believed."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import IO, Any, cast

from lxml import etree

from modelworks.capabilities.document.blocks import Refused, Source

_MAX_FILES = 20_000
#: The directory of so many files, read in one piece.
_MAX_PIECE = 16 << 20
#: The most that one file may hold unpacked, and the most that it may grow by.
_MAX_PART_BYTES = 256 << 20
_MAX_RATIO, _RATIO_FROM = 200, 4 << 20


class _Sparing:
    """A file that hands out no large piece: a directory that claims gigabytes is not read into memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_MAX_PIECE + 1 if size < 0 else min(size, _MAX_PIECE + 1))
        if len(data) > _MAX_PIECE:
            raise _bomb("Its directory is too large")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class SafeArchive:
    """A zipped document, opened to read single parts of it; nothing is ever unpacked to the disk.

    Raises:
        Refused: it is corrupt or encrypted, has too many parts or a name that leads out of it.
    """

    def __init__(self, source: Source) -> None:
        self._file = source.path.open("rb")
        self._left = source.request.max_document_bytes
        try:
            self._zip = zipfile.ZipFile(cast(IO[bytes], _Sparing(self._file)))
        except (zipfile.BadZipFile, struct.error, ValueError, OSError, NotImplementedError) as error:
            self._file.close()
            raise corrupt(f"the archive cannot be opened ({error})") from error
        except Refused:
            self._file.close()
            raise
        entries = self._zip.infolist()
        if len(entries) > _MAX_FILES:
            raise _bomb(f"It has {len(entries)} parts")
        for entry in entries:
            name = entry.filename
            if (
                name.startswith(("/", "\\"))
                or ":" in name.split("/")[0]
                or ".." in PurePosixPath(name.replace("\\", "/")).parts
            ):
                raise Refused(
                    "unsafe_archive",
                    f"The archive holds a part {name[:100]!r}, whose path leads out of it.",
                    "Do not trust its sender.",
                )
        self.names = {entry.filename for entry in entries}
        self._lower = {name.lower(): name for name in self.names}

    def __enter__(self) -> SafeArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def has(self, name: str) -> bool:
        """Whether there is a part of that name, in letters of any size."""
        return name.lower() in self._lower

    def read(self, name: str, limit: int = _MAX_PART_BYTES) -> bytes:
        """The bytes of one part, up to a limit.

        Raises:
            Refused: there is none, it is encrypted or corrupt, or unpacks to far more than it may.
        """
        name = self._lower.get(name.lower(), name)
        try:
            entry = self._zip.getinfo(name)
        except KeyError as error:
            raise corrupt(f"its part {name[:100]!r} is missing") from error
        if entry.flag_bits & 1:
            raise Refused("encrypted", f"The part {name[:100]!r} is encrypted.", "Save the document without a password.")
        allowed = min(self._left, _MAX_PART_BYTES)
        chunks, size = [], 0
        try:
            with self._zip.open(entry) as part:
                while size < limit and (chunk := part.read(min(1 << 16, limit - size))):
                    size += len(chunk)
                    if size > allowed or (size > _RATIO_FROM and size > _MAX_RATIO * max(1, entry.compress_size)):
                        raise _bomb(f"Its part {name[:100]!r} unpacks to more than {size - len(chunk)} bytes")
                    chunks.append(chunk)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise corrupt(f"its part {name[:100]!r} cannot be unpacked ({error})") from error
        self._left -= size
        return b"".join(chunks)

    def check(self, name: str) -> None:
        """Unpack a part of XML within its limits and throw it away, for libraries that read the archive by themselves.

        Raises:
            Refused: as `read`; or it declares entities.
        """
        if b"<!ENTITY" in self.read(name)[:100_000]:
            raise _entities(name)

    def xml(self, name: str) -> Any:
        """The root element of a part.

        Raises:
            Refused: as `read`; or it is no well-formed XML.
        """
        return parse_xml(self.read(name), name)


def parse_xml(data: bytes, name: str) -> Any:
    """The root of a piece of XML, without entities, DTDs and the network.

    Raises:
        Refused: it is not well-formed, or declares entities.
    """
    if b"<!ENTITY" in data[:100_000]:
        raise _entities(name)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise corrupt(f"its part {name[:100]!r} is not well-formed ({error})") from error
    return root


def corrupt(why: str) -> Refused:
    """A document whose bytes are broken."""
    return Refused("corrupt", f"The document is damaged: {why}.", "Open it with the program that made it, and save it again.")


def _entities(name: str) -> Refused:
    return Refused("unsafe_archive", f"The part {name[:100]!r} declares XML entities.", "Do not trust its sender.")


def _bomb(why: str) -> Refused:
    return Refused("archive_bomb", f"{why}: the document unpacks to far more than it says.", "Do not trust its sender.")
