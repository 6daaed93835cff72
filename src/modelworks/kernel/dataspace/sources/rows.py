"""The rows of one table of a database as one document: lines of JSON, of which the first describes the table.

It is written while the rows are read. Questions over the table are computed from it (`modelworks.tables`, kind `rows`); what
is searched of it is its card. Types are the database's: nothing is guessed from how a text looks, NULL is nothing else.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from modelworks.tables.cells import moment
from modelworks.tables.snapshot import Limits

#: Of a table that can be asked; a larger one has only its card.
MAX_TABLE_BYTES: Final = 256 << 20
MAX_TABLE_ROWS: Final = Limits().rows
_MAX_COLUMNS, _MAX_CELL_CHARS = Limits().columns, Limits().cell_chars
#: Figures that SQLite's numbers keep.
_DIGITS: Final = 15
_ROW_BYTES: Final = 16


class TableRows:
    """Rows as they come in; `fault` says why the table cannot be asked, once that is so.

    Args:
        place: where they are written; removed by `close`.
        columns: those that may be told, in order.
    """

    def __init__(self, place: Path, columns: Sequence[str], *, max_bytes: int) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        self._place = place
        self._columns = list(columns)
        self._max_bytes = max_bytes
        self._sink = place.open("wb")
        self._texts: set[str] = set()
        self._sum = 0
        self.num_rows = self.num_left_out = self.num_bytes = 0
        self.fault: str | None = None
        if len(self._columns) > _MAX_COLUMNS:
            self.fault = f"it has {len(self._columns)} columns, at most {_MAX_COLUMNS} are asked"

    def add(self, row: Mapping[Any, Any], *, is_hidden: bool = False) -> None:
        """Take a row; a hidden one is only counted."""
        if self.fault is not None:
            return
        if is_hidden:
            self.num_left_out += 1
            return
        cells: list[str | None] = []
        for name in self._columns:
            text, is_text = cell(row[name])
            if is_text:
                self._texts.add(name)
            cells.append(text)
        line = json.dumps([0, cells], ensure_ascii=False).encode("utf-8", errors="replace") + b"\n"
        self.num_rows += 1
        self.num_bytes += len(line)
        if self.num_rows > MAX_TABLE_ROWS:
            self.fault = f"it has more than {MAX_TABLE_ROWS} rows"
        elif self.num_bytes > self._max_bytes:
            self.fault = self._too_large()
        else:
            self._sink.write(line)
            # A sum: a view without a key gives its rows in any order, and is the same.
            digest = hashlib.blake2b(line, digest_size=_ROW_BYTES).digest()
            self._sum = (self._sum + int.from_bytes(digest)) % (1 << 8 * _ROW_BYTES)

    def finish(self, described: Mapping[str, Any]) -> tuple[bytes, str]:
        """The line that describes the table, and the fingerprint of the whole; look at `fault` then."""
        self._sink.close()
        told = {
            **described,
            "columns": self._columns,
            "texts": sorted(self._texts),
            "num_left_out": self.num_left_out,
        }
        head = json.dumps(told, ensure_ascii=False).encode("utf-8", errors="replace") + b"\n"
        if self.fault is None and self.num_bytes + len(head) > self._max_bytes:
            self.fault = self._too_large()
        fingerprint = hashlib.sha256(head + f"{self.num_rows} {self._sum}".encode()).hexdigest()
        return head, fingerprint

    def _too_large(self) -> str:
        return f"it has more than {self._max_bytes} bytes"

    def read(self, head: bytes) -> Iterator[bytes]:
        """The document."""
        yield head
        with self._place.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk

    def close(self) -> None:
        """Remove what was written."""
        self._sink.close()
        self._place.unlink(missing_ok=True)


def cell(value: Any) -> tuple[str | None, bool]:
    """A value as text, and whether it is one that must stay a text; None where nothing is known. Times are told in UTC."""
    match value:
        case None:
            return None, False
        case bool():
            return ("TRUE" if value else "FALSE"), True
        case int():
            return str(value), False
        case float():
            if math.isnan(value):
                return None, False
            return repr(value), math.isinf(value)
        case Decimal():
            if value.is_nan():
                return None, False
            exponent = value.as_tuple().exponent
            if not isinstance(exponent, int) or len(value.as_tuple().digits) > _DIGITS or abs(exponent) > 2 * _DIGITS:
                return str(value)[:_MAX_CELL_CHARS], True
            return format(value, "f"), False
        case datetime.datetime():
            told = value if value.tzinfo is None else value.astimezone(datetime.UTC).replace(tzinfo=None)
            return told.isoformat(sep=" "), False
        case datetime.date():
            return value.isoformat(), False
        case bytes() | bytearray() | memoryview():
            return f"({len(bytes(value))} bytes)", True
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)[:_MAX_CELL_CHARS], True
        case str():
            # SQLite has no dates but texts.
            text = value.replace("\0", "")[:_MAX_CELL_CHARS]
            return text, moment(text) is None
        case _:
            return str(value).replace("\0", "")[:_MAX_CELL_CHARS], True
