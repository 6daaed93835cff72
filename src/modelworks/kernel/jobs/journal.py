"""The journal of an attempt: one JSON object per line, appended by the worker, read by the supervisor or shipped to it.

An entry counts once its line is complete. A crash may leave half a line: it is never read, and as each attempt has a
journal of its own nothing is ever written behind it.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from modelworks.contract.errors import StorageFull

#: Errors of the operating system that mean "no room".
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_MAX_LINE_BYTES = 64 << 20


class JournalEntry(BaseModel):
    """One fact. `seq` counts from 1 without gaps within an attempt.

    Types: started · used {role, kind, version_id} · metrics {step, values} · progress {done, total, what} ·
    checkpoint {files} · saved {kind, files, metadata} · environment {python, threads, libraries …} · finished {result} ·
    failed {error, retry} · cancelled.
    """

    seq: int = Field(ge=1)
    attempt: int = Field(ge=1)
    time: datetime
    type: str
    data: dict[str, Any]


#: Types after which an attempt writes nothing more.
CLOSING = frozenset({"finished", "failed", "cancelled"})


class JournalWriter:
    """Appends entries. Safe to call from several threads.

    Args:
        path: the journal; must not hold entries of another attempt.
        attempt: number of the attempt, written into each entry.
        on_append: called with each entry once it is in the file.
    """

    def __init__(self, path: Path, attempt: int, on_append: Callable[[JournalEntry], None] | None = None) -> None:
        self._path = path
        self._attempt = attempt
        self._on_append = on_append
        self._seq = 0
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @property
    def last_seq(self) -> int:
        """Number of the last entry; 0 where there is none."""
        return self._seq

    def append(self, type_: str, data: dict[str, Any], *, durable: bool = False) -> JournalEntry:
        """Write one entry; `durable` waits until the disk has it.

        Raises:
            StorageFull: no room; the journal is left as it was before.
        """
        with self._lock:
            entry = JournalEntry(seq=self._seq + 1, attempt=self._attempt, time=datetime.now(UTC), type=type_, data=data)
            line = (json.dumps(entry.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n").encode()
            self._write(line)
            self._seq = entry.seq
            if durable:
                os.fsync(self._fd)
        if self._on_append is not None:
            self._on_append(entry)
        return entry

    def close(self) -> None:
        """Close the file; appending afterwards fails."""
        os.close(self._fd)

    def _write(self, line: bytes) -> None:
        start = os.fstat(self._fd).st_size
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._undo(start)
            if error.errno in _FULL:
                raise StorageFull(
                    f"The disk that holds the work folder of the run is full ({self._path.parent}).",
                    hint="Free some space and resume the run.",
                ) from error
            raise

    def _undo(self, size: int) -> None:
        # Half a line must not stay in front of what comes next; where that fails, the reader stops there.
        try:
            os.ftruncate(self._fd, size)
        except OSError:
            return


class JournalTail:
    """Reads a journal that may still be growing, each complete entry once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._next_seq = 1
        self._broken = False

    def read(self, max_bytes: int = 4 << 20) -> list[JournalEntry]:
        """Entries completed since the last call, at most about `max_bytes` of them; call again until it returns none.

        A complete line that is no entry, or that is out of order, ends the journal: nothing behind it is trusted.
        """
        if self._broken:
            return []
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read(max_bytes)
                if b"\n" not in data and len(data) == max_bytes:
                    # A manifest of very many files; what is longer still is no journal.
                    data += stream.readline(_MAX_LINE_BYTES)
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        entries = []
        for line in data[:end].splitlines(keepends=True):
            entry = _parse(line)
            if entry is None or entry.seq != self._next_seq:
                self._broken = True
                break
            entries.append(entry)
            self._next_seq += 1
            self._offset += len(line)
        return entries


def _parse(line: bytes) -> JournalEntry | None:
    try:
        return JournalEntry.model_validate_json(line)
    except ValidationError:
        return None


def read_journal(path: Path) -> list[JournalEntry]:
    """Every complete entry of a journal."""
    tail = JournalTail(path)
    entries: list[JournalEntry] = []
    while more := tail.read():
        entries += more
    return entries
