"""From the files of a data set to records: JSON lines, JSON arrays, CSV, Parquet and plain text, each also with `.gz`.

Nothing here is trusted: a fault in one record does not hide the next, and no line, file or array is read without a bound.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from modelworks.capabilities.text.datasets.samples import Fault
from modelworks.contract.errors import MissingExtra

TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py"})
RECORD_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"})
SUFFIXES = TEXT_SUFFIXES | RECORD_SUFFIXES

#: A line of a record file; longer ones are reported and passed over without being held in memory.
MAX_LINE_BYTES = 64 << 20
#: A file that has to be read as a whole (a JSON array, a text, CSV), after unpacking.
MAX_WHOLE_BYTES = 512 << 20
#: Any file, after unpacking: a small archive can hold more than a disk.
MAX_FILE_BYTES = 64 << 30
#: What unpacking a Parquet file may take: a page of it is unpacked as a whole, and every row.
MAX_PARQUET_BYTES = 2 << 30

_ABOUT = frozenset({"readme", "license", "licence", "copying", "notice", "changelog", "citation"})
#: Empty lines give no record between which a check could look at the time.
_MAX_EMPTY_LINES = 10_000_000
_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_CHUNK_BYTES = 1 << 20
#: The last word of a process that got no more memory.
_MEMORY = "memory"
_ROWS = Path(__file__).with_name("parquet_rows.py")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a file, not yet understood. A plain text is the record {"text": …}."""

    value: Any
    source: str
    line: int


class _TooLarge(Exception):
    """More bytes than may be read."""


class _NotJSON(ValueError):
    """A word that Python's JSON takes and the standard does not."""


def list_files(folder: Path) -> list[tuple[Path, str]]:
    """Readable files of a data set with their names inside it, in the order of the names.

    Hidden files are passed over, and beside files of records also those that speak about the data (README, LICENSE).
    """
    if folder.is_file():
        return [(folder, folder.name)]
    found: list[tuple[Path, str]] = []
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        if file.is_file() and form_of(file) in SUFFIXES and not any(part.startswith(".") for part in name.parts):
            found.append((file, name.as_posix()))
    if any(form_of(file) in RECORD_SUFFIXES for file, _ in found):
        found = [(file, name) for file, name in found if not _is_about_data(file)]
    return sorted(found, key=lambda pair: pair[1])


def _is_about_data(file: Path) -> bool:
    return form_of(file) in TEXT_SUFFIXES and file.name.partition(".")[0].lower() in _ABOUT


def form_of(file: Path) -> str:
    """The suffix that says what is inside, `.gz` taken away."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_records(file: Path, name: str) -> Iterator[Record | Fault]:
    """Every record of a file and every fault, in order.

    Raises:
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    form = form_of(file)
    readers: dict[str, Callable[[Path, str], Iterator[Record | Fault]]] = {
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json_file,
        ".csv": _table,
        ".tsv": _table,
        ".parquet": _parquet,
    }
    try:
        yield from readers.get(form, _text)(file, name)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        yield Fault(name, None, None, "bad_archive", f"The file cannot be unpacked: {error}.", "Pack it again with gzip.")
    except _TooLarge as error:
        yield Fault(name, None, None, "file_too_large", str(error), "Split the file, or write it as JSON lines.")


def _open(file: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(file, "rb")) if file.suffix.lower() == ".gz" else file.open("rb")


def _whole(file: Path) -> bytes:
    with _open(file) as stream:
        raw = stream.read(MAX_WHOLE_BYTES + 1)
    if len(raw) > MAX_WHOLE_BYTES:
        raise _TooLarge(f"The file has more than {MAX_WHOLE_BYTES >> 20} MiB and would have to be read as a whole.")
    return raw


def _lines(file: Path) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers; None for one that is longer than `MAX_LINE_BYTES`."""
    number, total = 0, 0
    with _open(file) as stream:
        while line := stream.readline(MAX_LINE_BYTES):
            number += 1
            total += len(line)
            is_whole = line.endswith(b"\n") or len(line) < MAX_LINE_BYTES
            yield number, line if is_whole else None
            while not is_whole and (rest := stream.readline(_CHUNK_BYTES)):
                total += len(rest)
                is_whole = rest.endswith(b"\n")
                if total > MAX_FILE_BYTES:
                    break
            if total > MAX_FILE_BYTES:
                raise _TooLarge(f"The file has more than {MAX_FILE_BYTES >> 30} GiB when unpacked.")


def _json_lines(file: Path, name: str) -> Iterator[Record | Fault]:
    num_empty = 0
    for number, raw in _lines(file):
        if raw is None:
            yield Fault(
                name,
                number,
                None,
                "line_too_long",
                f"The line has more than {MAX_LINE_BYTES >> 20} MiB.",
                "Write one record per line, and split long texts.",
            )
            continue
        if number == 1:
            wide = _wide_encoding(raw, name)
            if wide is not None:
                yield wide
                return
            if raw.startswith(codecs.BOM_UTF8):
                raw = raw[3:]
                yield _mark(name)
        text = _decoded(raw, name, number)
        if isinstance(text, Fault):
            yield text
        elif text.strip():
            yield _parsed(text, name, number)
        else:
            num_empty += 1
            if num_empty > _MAX_EMPTY_LINES:
                raise _TooLarge(f"The file has more than {_MAX_EMPTY_LINES:,} empty lines.")


def _parsed(text: str, name: str, line: int) -> Record | Fault:
    if text.lstrip().startswith("\ufeff"):
        return Fault(
            name,
            line,
            None,
            "byte_order_mark",
            "There is a byte order mark in the middle of the file.",
            "Remove it; it is left behind when files that begin with one are joined.",
        )
    try:
        return Record(_loads(text), name, line)
    except json.JSONDecodeError as error:
        return _bad_json(name, line, f"{error.msg} at column {error.colno}")
    except _NotJSON as error:
        return _bad_json(name, line, str(error))
    except RecursionError:
        return _bad_json(name, line, "it is nested too deeply")
    except ValueError:
        return _bad_json(name, line, "a number has too many digits")


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(word: str) -> NoReturn:
    raise _NotJSON(f"{word} is no JSON number")


def _bad_json(name: str, line: int, reason: str) -> Fault:
    return Fault(name, line, None, "not_json", f"Not JSON: {reason}.", "Write one complete JSON object per line, or remove it.")


def _mark(name: str) -> Fault:
    return Fault(
        name,
        1,
        None,
        "byte_order_mark",
        "The file begins with a byte order mark.",
        "Save it as UTF-8 without one; it is passed over here.",
        "warning",
    )


def _wide_encoding(raw: bytes, name: str) -> Fault | None:
    kind = next((kind for mark, kind in _MARKS.items() if raw.startswith(mark)), None)
    if kind is None:
        return None
    return Fault(name, 1, None, "not_utf8", f"The file is {kind}, not UTF-8.", "Convert the file to UTF-8.")


def _decoded(raw: bytes, name: str, line: int) -> str | Fault:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        guess = ""
        try:
            raw.decode("gb18030")
            guess = "; it could be GB18030"
        except UnicodeDecodeError:
            pass
        line += raw.count(b"\n", 0, error.start) if line == 1 else 0
        return Fault(
            name,
            line,
            None,
            "not_utf8",
            f"Not UTF-8 at byte {error.start} (0x{raw[error.start]:02x}){guess}.",
            "Convert these bytes to UTF-8; parts of the data set have different encodings if other lines are readable.",
        )


def _whole_text(file: Path, name: str) -> Iterator[Fault | str]:
    """Faults, and the text where there is one (as the last item)."""
    raw = _whole(file)
    wide = _wide_encoding(raw, name)
    if wide is not None:
        yield wide
        return
    if raw.startswith(codecs.BOM_UTF8):
        raw = raw[3:]
        yield _mark(name)
    yield _decoded(raw, name, 1)


def _text(file: Path, name: str) -> Iterator[Record | Fault]:
    for item in _whole_text(file, name):
        if isinstance(item, Fault):
            yield item
        elif item.strip():
            yield Record({"text": item.replace("\r\n", "\n")}, name, 1)


def _json_file(file: Path, name: str) -> Iterator[Record | Fault]:
    """A JSON array of records; one object is one record, and a file that begins with two of them is JSON lines in truth."""
    for item in _whole_text(file, name):
        if isinstance(item, Fault):
            yield item
        elif item.lstrip().startswith("["):
            yield from _array(item, name)
        elif item.strip():
            try:
                yield Record(_loads(item), name, 1)
            except (ValueError, RecursionError):
                yield from _json_lines(file, name)


def _array(text: str, name: str) -> Iterator[Record | Fault]:
    """The elements of an array. After a broken one it goes on at the next that begins like it: no fault hides others."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    space = re.compile(r"[ \t\r\n]*")
    position = text.index("[") + 1
    line, counted = 1 + text.count("\n", 0, position), position
    is_first = True
    # Where all elements share a line, their numbers tell them apart: data.json[17].
    file, index, is_one_line = name, -1, "\n" not in text.strip()
    while True:
        position = space.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty string
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            rest = text[position + 1 :].strip()
            if rest:
                yield _bad_json(name, line, "there is more after the end of the array")
            return
        if not is_first:
            if text[position : position + 1] == ",":
                position = space.match(text, position + 1).end()  # type: ignore[union-attr]
                line, counted = line + text.count("\n", counted, position), position
            elif position < len(text):
                yield _bad_json(name, line, "a comma is missing between two elements")
        if position >= len(text):
            yield _bad_json(name, line, "the array does not end")
            return
        is_first = False
        start = position
        index += 1
        name = f"{file}[{index}]" if is_one_line else file
        try:
            value, position = decoder.raw_decode(text, position)
            yield Record(value, name, line)
            continue
        except json.JSONDecodeError as error:
            yield _bad_json(name, error.lineno, f"{error.msg} at column {error.colno}")
            failed_at = max(error.pos, start + 1)
        except (ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, _NotJSON) else "a number has too many digits, or it is nested too deeply"
            yield _bad_json(name, line, reason)
            failed_at = start + 1
        following = _next_element(text, start, failed_at)
        if following is None:
            yield Fault(
                name,
                line,
                None,
                "not_read",
                "What follows this element could not be read.",
                "Repair it and validate again, or write the data as JSON lines.",
            )
            return
        is_first, position = True, following


def _next_element(text: str, start: int, failed_at: int) -> int | None:
    """Where the next element begins: the next line with the same indentation and opening bracket."""
    margin = text[text.rfind("\n", 0, start) + 1 : start]
    if margin.strip():
        return None
    found = text.find(f"\n{margin}{text[start]}", failed_at)
    return None if found < 0 else found + 1 + len(margin)


def _table(file: Path, name: str) -> Iterator[Record | Fault]:
    for item in _whole_text(file, name):
        if isinstance(item, Fault):
            yield item
            continue
        separator = "\t" if form_of(file) == ".tsv" else ","
        csv.field_size_limit(MAX_LINE_BYTES)
        rows = csv.reader(io.StringIO(item, newline=""), delimiter=separator, strict=True)
        header: list[str] | None = None
        line = 1
        try:
            for row in rows:
                if header is None:
                    header = [column.strip() for column in row]
                elif any(row):
                    if len(row) == len(header):
                        yield Record({key: value for key, value in zip(header, row, strict=True) if value}, name, line)
                    else:
                        yield Fault(
                            name,
                            line,
                            None,
                            "wrong_columns",
                            f"The row has {len(row)} columns, the header {len(header)}.",
                            'Put a field that contains the separator between double quotes ("…").',
                        )
                line = rows.line_num + 1
        except csv.Error as error:
            yield Fault(name, line, None, "not_csv", f"Not CSV: {error}.", "Quote fields with quotes or line ends in them.")


def _parquet(file: Path, name: str) -> Iterator[Record | Fault]:
    """The rows, unpacked by a process of its own within `MAX_PARQUET_BYTES`; see `parquet_rows.py`."""
    if find_spec("pyarrow") is None:
        raise MissingExtra.of("pyarrow", "parquet")
    if file.suffix.lower() == ".gz":
        yield Fault(
            name, None, None, "bad_archive", "A packed Parquet file cannot be read.", "Unpack it: Parquet packs itself."
        )
        return
    row, total, num_empty, problem = 0, 0, 0, None
    with _rows_of(file) as process:
        stream = cast(IO[bytes], process.stdout)
        while line := stream.readline(MAX_LINE_BYTES):
            total += len(line)
            if total > MAX_FILE_BYTES:
                raise _TooLarge(f"The file has more than {MAX_FILE_BYTES >> 30} GiB when unpacked.")
            if line[:1] != b"{":
                problem = line[1:].decode("utf-8", "replace").strip()
                break
            row += 1
            if not line.endswith(b"\n"):
                while (rest := stream.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                    total += len(rest)
                yield Fault(
                    name,
                    row,
                    None,
                    "line_too_long",
                    f"The row has more than {MAX_LINE_BYTES >> 20} MiB.",
                    "Split long texts into several rows.",
                )
                continue
            try:
                value = json.loads(line)
            except RecursionError:
                problem = "it is nested too deeply"
                break
            num_empty += not value
            if num_empty > _MAX_EMPTY_LINES:
                raise _TooLarge(f"The file has more than {_MAX_EMPTY_LINES:,} empty rows.")
            yield Record(value, name, row)
        if problem is None:
            # It ended without a last word: the kernel ended it, or the library did where it got no memory.
            problem = _MEMORY if process.wait() < 0 else f"its reader ended with status {process.returncode}"
    if problem == _MEMORY:
        yield Fault(
            name,
            row or None,
            None,
            "file_too_large",
            f"The file cannot be unpacked within {MAX_PARQUET_BYTES >> 20} MiB of memory.",
            "Write it with smaller pages and row groups, or as JSON lines.",
        )
    elif problem:
        yield Fault(name, row or None, None, "not_parquet", f"Not readable as Parquet: {problem}.", "Write the file again.")


@contextmanager
def _rows_of(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-P", str(_ROWS), str(file.resolve()), str(MAX_PARQUET_BYTES)]
    # The system's allocator, as others take address space in advance.
    env = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, bufsize=_CHUNK_BYTES
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
