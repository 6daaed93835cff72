"""Test data as JSON lines: objects with the file and line they came from."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from modelworks.contract.errors import InvalidData

#: Endings of files that hold one JSON object per line; the leaderboard for calls of functions writes them as .json.
#: The longest line that is read into memory.
MAX_LINE_BYTES = 64 << 20
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".ndjson")


def files_of(folder: Path) -> list[tuple[str, Path]]:
    """The files of a data set with their names inside it, in the order of these."""
    if folder.is_file():
        return [(folder.name, folder)]
    found = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
    return sorted((name, path) for name, path in found if name.lower().endswith(SUFFIXES))


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers.

    Raises:
        InvalidData: a packed file is damaged, or a line is longer than `MAX_LINE_BYTES`.
    """
    try:
        with _open(file) as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if len(raw) > MAX_LINE_BYTES:
                    # A packed file of megabytes may hold a line of gigabytes.
                    raise InvalidData(f"{file.name}:{number}: the line has more than {MAX_LINE_BYTES >> 20} MiB.")
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidData(f"{file.name} cannot be unpacked: {error}.") from None


def _open(file: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(file, "rb")) if file.name.lower().endswith(".gz") else file.open("rb")


def read_json_lines(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a data set, and `file:line`.

    Raises:
        InvalidData: a line is no JSON object.
    """
    for name, file in files_of(folder):
        for number, line in read_lines(file):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidData(f"{name}:{number}: not JSON ({error}).") from None
            if not isinstance(record, dict):
                raise InvalidData(f"{name}:{number}: not an object.")
            yield f"{name}:{number}", record
