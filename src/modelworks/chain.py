"""The chain of audit entries: each carries the digest of the one before, so that a copy can be checked without any server.

Standard library only: the server that writes the chain and the command that checks a copy share these few functions.
The form is that of a linked time stamp (Haber and Stornetta, "How to Time-Stamp a Digital Document", 1991).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

#: What the first entry follows.
GENESIS: Final = "0" * 64
#: The fields of an entry that its digest covers, in this order.
COVERED: Final = (
    "seq",
    "created_at",
    "author_kind",
    "author_id",
    "project_id",
    "action",
    "noun",
    "subject",
    "before",
    "after",
    "fields",
    "request_id",
    "previous",
)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry: its number and digest. Whoever keeps one elsewhere can prove that nothing up to it was changed."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Break:
    """Where the chain does not hold: the number of the entry, and what is wrong with it."""

    seq: int
    reason: str


def entry_hash(entry: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of the covered fields as one JSON array; `created_at` is text in UTC."""
    values = [entry[name] for name in COVERED]
    return hashlib.sha256(json.dumps(values, separators=(",", ":"), ensure_ascii=True).encode()).hexdigest()


def find_break(entries: Iterable[Mapping[str, Any]], *, known: Head | None = None) -> tuple[Head, Break | None]:
    """Follow a chain from its first entry; return the last entry that holds, and where it breaks, if it does.

    Args:
        entries: in the order of the copy, from number 1.
        known: a head noted earlier; entries that were cut off, or a chain that was made anew, do not lead through it.
    """
    head = Head(0, GENESIS)
    met = known is None or known.seq == 0
    for entry in entries:
        problem = _problem(entry, head)
        if problem is not None:
            return head, Break(head.seq + 1, problem)
        head = Head(int(entry["seq"]), str(entry["hash"]))
        if known is not None and head.seq == known.seq:
            if head.hash != known.hash:
                return head, Break(head.seq, "the entry is not the one whose digest was noted: the chain was made anew")
            met = True
    if not met and known is not None:
        return head, Break(head.seq + 1, f"the chain ends here, but entry {known.seq} was noted: entries were cut off")
    return head, None


def _problem(entry: Mapping[str, Any], head: Head) -> str | None:
    missing = [name for name in (*COVERED, "hash") if name not in entry]
    if missing:
        return f"the entry lacks {', '.join(missing)}"
    if entry["seq"] != head.seq + 1:
        return f"entry {head.seq + 1} is not here; {entry['seq']} follows {head.seq}: entries were removed or moved"
    if entry["previous"] != head.hash:
        return "the entry does not follow the one before it: an entry was replaced"
    if entry_hash(entry) != entry["hash"]:
        return "the entry was changed after it was written"
    return None
