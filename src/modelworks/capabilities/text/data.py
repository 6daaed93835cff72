"""Data sets of plain text: read a folder, check it, split it into training and validation documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelworks.capabilities.text.datasets.files import form_of, read_records
from modelworks.capabilities.text.datasets.forms import understand
from modelworks.capabilities.text.datasets.samples import Fault, TextSample
from modelworks.contract.errors import InvalidData

#: One document per file.
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py"})
#: One document per line, in the field "text".
LINE_SUFFIXES = frozenset({".jsonl"})
#: One document per row, in the column "text".
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it came from: `name` is the path inside the data set, with `:line` for JSON lines."""

    name: str
    text: str

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest()


def read_documents(folder: Path) -> Iterator[Document]:
    """The documents of a data set in the order of their paths; empty ones are passed over.

    Args:
        folder: a folder (searched in depth; hidden files are passed over) or one file. Each may be packed as `.gz`.

    Raises:
        InvalidData: a file is not UTF-8, a JSON line or a table is malformed, or nothing is there to read.
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    found = False
    for file in _files(folder):
        name = file.relative_to(folder).as_posix() if folder.is_dir() else file.name
        for document in _documents(file, name):
            if document.text.strip():
                found = True
                yield document
    if not found:
        accepted = " ".join(sorted(TEXT_SUFFIXES | LINE_SUFFIXES | TABLE_SUFFIXES))
        raise InvalidData("The data set holds no text.", hint=f"Give it files of these kinds: {accepted}.")


def split(documents: Iterable[Document], validation_fraction: float) -> tuple[list[Document], list[Document]]:
    """Split into training and validation documents by a hash of each text.

    The same text always lands on the same side, whatever else is in the data set, and copies of it never on both. At least
    one document is held out; where there is only one, its end is.

    Returns:
        (training, validation), each in the given order and neither empty.

    Raises:
        InvalidData: there is one document, too short to be divided.
    """
    everything = list(documents)
    held_out = {document.digest for document in everything if _position(document.digest) < validation_fraction}
    digests = {document.digest for document in everything}
    if not held_out and len(digests) > 1:
        held_out = {min(digests)}
    if held_out == digests and len(digests) > 1:
        held_out.discard(max(digests))
    if len(digests) == 1:
        return _divide(everything[0], validation_fraction)
    training = [document for document in everything if document.digest not in held_out]
    return training, [document for document in everything if document.digest in held_out]


def _position(digest: bytes) -> float:
    return int.from_bytes(digest[:8], "big") / 2**64


def _divide(document: Document, validation_fraction: float) -> tuple[list[Document], list[Document]]:
    cut = int(len(document.text) * (1 - validation_fraction))
    line_end = document.text.rfind("\n", 0, cut) + 1
    cut = line_end or cut
    first, last = document.text[:cut], document.text[cut:]
    if not first.strip() or not last.strip():
        raise InvalidData(
            f"The data set has one document, {document.name!r}, which is too short to hold a part of it out.",
            hint="Add more text.",
        )
    return [Document(document.name, first)], [Document(document.name, last)]


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    wanted = TEXT_SUFFIXES | LINE_SUFFIXES | TABLE_SUFFIXES
    files = (file for file in folder.rglob("*") if file.is_file() and form_of(file) in wanted)
    return sorted(
        (file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)),
        key=lambda file: file.relative_to(folder).as_posix(),
    )


def _documents(file: Path, name: str) -> Iterator[Document]:
    suffix = file.suffix.lower()
    if suffix in LINE_SUFFIXES:
        return _lines(file, name)
    if suffix == ".gz" or suffix in TABLE_SUFFIXES:
        return _records(file, name)
    return iter((Document(name, _decode(file, name)),))


def _records(file: Path, name: str) -> Iterator[Document]:
    """The texts of a table or a packed file; the first error stops."""
    is_one = form_of(file) in TEXT_SUFFIXES
    for record in read_records(file, name):
        sample, faults = (None, [record]) if isinstance(record, Fault) else understand(record)
        for fault in faults:
            if fault.severity == "error":
                raise InvalidData(f"{fault.place}: {fault.message}", hint=fault.hint)
        if isinstance(sample, TextSample):
            yield Document(name if is_one else f"{name}:{sample.line}", sample.text)
        elif sample is not None:
            raise InvalidData(f'{name}, line {sample.line}: field "text" is missing.', hint='Give the table a column "text".')


def _decode(file: Path, name: str) -> str:
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InvalidData(
            f"{name}: not UTF-8 text at byte {error.start} (0x{raw[error.start]:02x}).",
            hint="Convert the file to UTF-8, or remove it from the data set.",
        ) from None


def _lines(file: Path, name: str) -> Iterator[Document]:
    for number, line in enumerate(_decode(file, name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidData(f"{name}, line {number}: not JSON ({error.msg} at column {error.colno}).") from None
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise InvalidData(
                f'{name}, line {number}: field "text" is missing or not a string.',
                hint='Write one object per line: {"text": "…"}.',
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidData(
                f'{name}, line {number}, field "text": half a surrogate pair at character {error.start}.',
                hint="Remove the \\ud8xx escape that has no partner.",
            ) from None
        yield Document(f"{name}:{number}", text)
