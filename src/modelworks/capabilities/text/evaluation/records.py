"""Test data as JSON lines: objects with the file and line they came from."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from modelworks.contract.errors import InvalidData

#: Endings of files that hold one JSON object per line; the leaderboard for calls of functions writes them as .json.
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
        InvalidData: a packed file is damaged.
    """
    try:
        with _open(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile) as error:
        raise InvalidData(f"{file.name} cannot be unpacked: {error}.") from None


def _open(file: Path) -> IO[str]:
    if file.name.lower().endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig", errors="replace")
    return file.open(encoding="utf-8-sig", errors="replace")


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
