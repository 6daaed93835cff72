"""What every source of documents does, and what all of them are given."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modelworks.contract.errors import Cancelled, InvalidRequest, ModelworksError
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources.forms import SourceLimits
from modelworks.kernel.storage import BlobStore

CHUNK_BYTES = 1 << 20
#: Of OpenAI's attributes of a file.
MAX_ATTRIBUTES, MAX_VALUE_CHARS, MAX_KEY_CHARS = 16, 512, 1000
#: In an access list that is there and empty: no id of anybody is written so.
NOBODY = "nobody"
#: Marks a document that left with its source's word; one that a person removed keeps what it had, and does not come back.
GONE = "gone"
#: What systems leave in folders and archives, and nobody wrote.
_HOUSEKEEPING = re.compile(r"(^|/)(__MACOSX|Thumbs\.db|desktop\.ini|~\$[^/]*)(/|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One document as its source shows it. Its bytes are asked for only where the fingerprint is not the known one.

    Attributes:
        key: tells it apart within the source, and stays when its content changes.
        name: what a person knows it by.
        fingerprint: changes with the content; "" where only the content itself can tell.
        read: its bytes; called at most once, before the next item is asked for.
        access: who may read it; None: whoever may read the source.
        fault: why it cannot be read this time; what was known of it stays.
        left_out: of a table's rows, which documents are not among them, by `digest_of`.
    """

    key: str
    name: str
    fingerprint: str
    read: Callable[[], Iterator[bytes]] | None = None
    num_bytes: int | None = None
    media_type: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    access: Sequence[str] | None = None
    fault: ModelworksError | None = None
    left_out: str | None = None


@dataclass(kw_only=True)
class Surroundings:
    """What a source is given: rules, credentials, a folder of its own, and what was known after the last sync.

    Attributes:
        known: fingerprint by key.
        hidden: keys of documents that not everybody may read who may read the source, or that a person has removed.
        cursor: what the source itself noted the last time; what it notes now is stored when the sync has succeeded.
        notes: what a person should know of this sync (pages that robots.txt closes, links that were not followed).
        is_complete: False once something could not be listed: then nothing is taken for gone.
    """

    policy: SourcePolicy
    limits: SourceLimits
    workdir: Path
    blobs: BlobStore
    is_cancelled: Callable[[], bool]
    credential: str | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    cursor: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_complete: bool = True

    def stop_if_cancelled(self) -> None:
        """Raises Cancelled."""
        if self.is_cancelled():
            raise Cancelled("The sync was cancelled.", hint="Resume the run to go on from what was read.")

    def note(self, text: str) -> None:
        """Tell something, once, and not without end."""
        if len(self.notes) < 100 and text not in self.notes:
            self.notes.append(text[:500])

    def incomplete(self, why: str) -> None:
        """Tell that not everything was listed, and why."""
        self.is_complete = False
        self.note(why)

    def upload(self, digest: str, name: str) -> Path:
        """A blob that was uploaded, verified, as a file in the work folder."""
        place = self.workdir / "upload" / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f"{place.name}.part")
            with part.open("wb") as sink:
                for chunk in self.blobs.iter(digest):
                    self.stop_if_cancelled()
                    sink.write(chunk)
            part.replace(place)
        return place


class Source(Protocol):
    """A place with documents."""

    #: Whether a document that is no longer listed is gone. False: the source only ever shows its newest.
    lists_all: bool

    def scan(self) -> Iterator[Item]:
        """Every document, each with a key of its own.

        Raises:
            ModelworksError: the source cannot be read, or breaks off; then nothing is taken for gone.
        """
        ...


def forgotten_key(key: str) -> str:
    """What is left of a forgotten document's key: enough to know it again."""
    return f"forgotten:{hashlib.sha256(key.encode()).hexdigest()}"


def hidden_rows(hidden: Iterable[str], table: str) -> frozenset[str]:
    """Those of the hidden keys that may be of a table's rows; of forgotten ones nobody knows."""
    return frozenset(key for key in hidden if key.startswith((f"{table}/row/", "forgotten:")))


def digest_of(keys: Iterable[str]) -> str:
    """Equal for equal sets of keys."""
    return hashlib.sha256("\0".join(sorted(keys)).encode()).hexdigest()


def text_item(key: str, name: str, text: str, *, media_type: str, **more: Any) -> Item:
    """A document whose content is known already."""
    content = text.encode("utf-8", errors="replace")
    # Another list of readers is a change, too.
    readers = "" if more.get("access") is None else "\0" + "\0".join(more["access"])
    fingerprint = hashlib.sha256(content + readers.encode()).hexdigest()
    return Item(
        key=key,
        name=name,
        fingerprint=fingerprint,
        read=lambda: iter((content,)),
        num_bytes=len(content),
        media_type=media_type,
        **more,
    )


def is_wanted(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a path (with forward slashes) is asked for: `*.pdf` means any depth, `docs/**` all below."""
    if _HOUSEKEEPING.search(path) or any(part.startswith(".") for part in path.split("/")):
        return False
    if any(_matches(path, pattern) for pattern in exclude):
        return False
    return not include or any(_matches(path, pattern) for pattern in include)


def attributes_of(values: Mapping[str, Any]) -> dict[str, str | float | bool]:
    """Values as attributes may be: few, short and flat."""
    found: dict[str, str | float | bool] = {}
    for name, value in values.items():
        if value is None or value == "" or len(found) == MAX_ATTRIBUTES:
            continue
        kept = value if isinstance(value, bool | int | float) else str(value)[:MAX_VALUE_CHARS]
        found[name[:64]] = kept
    return found


def filled(template: str, values: Mapping[str, str], *, where: str) -> str:
    """A template with `{name}` replaced; `{{` and `}}` are braces. Nothing else is looked at, values least of all.

    Raises:
        InvalidRequest: a name that is not there.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] not in values:
            known = ", ".join(list(values)[:30])
            raise InvalidRequest(
                f"The template of {where} names {match[1]!r}, which is not there.", hint=f"Known: {known}.", param="template"
            )
        return values[match[1]]

    return re.sub(r"\{\{|\}\}|\{([^{}]+)\}", value, template)


def file_chunks(place: Path) -> Iterator[bytes]:
    """The bytes of a file of ours."""
    with place.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _matches(path: str, pattern: str) -> bool:
    if "/" not in pattern:
        return any(fnmatch.fnmatchcase(part, pattern) for part in path.split("/"))
    return fnmatch.fnmatchcase(path, pattern.removeprefix("/").replace("**/", "*").replace("**", "*"))
