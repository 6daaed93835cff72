"""Pages that were read already, kept on the disk: a document of thousands goes on where its process ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelworks.contract.passages import Fault

#: What a page gave, as JSON holds it; `page` is its number from 1.
PageRecord = dict[str, Any]


class Pages:
    """The pages of one document: those that are read, how the others are to be read, and who is told.

    Args:
        path: where records are kept, one a line; None: nowhere.
        plain: pages to be read in the simplest way, since the full one failed.
        skipped: pages that are not to be touched again, and why.
        tell: is told the number of each page before it is read, and how many there are.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        plain: frozenset[int] = frozenset(),
        skipped: Mapping[int, Fault] | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        self._path = path
        self._tell = tell
        self.plain = plain
        self.skipped = dict(skipped or {})
        self.done: dict[int, PageRecord] = {} if path is None else _read(path)

    def begin(self, number: int, total: int) -> None:
        """Say that this page is next; its time runs from here."""
        if self._tell is not None:
            self._tell(number, total)

    def finish(self, record: PageRecord) -> None:
        """Keep what a page gave."""
        self.done[int(record["page"])] = record
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def _read(path: Path) -> dict[int, PageRecord]:
    found: dict[int, PageRecord] = {}
    if not path.is_file():
        return found
    whole = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                found[int(record["page"])] = record
            except (ValueError, KeyError, TypeError):
                break  # the process ended in the middle of this line
            if not line.endswith(b"\n"):
                break
            whole += len(line)
    with path.open("r+b") as file:
        file.truncate(whole)
    return found
