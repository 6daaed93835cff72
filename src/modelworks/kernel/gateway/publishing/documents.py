"""Documents that an answer cites, opened by a reader: shown where a browser shows them without running anything, else saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import orjson

from modelworks.kernel.dataspace import SpaceDocument

_PDF: Final = "application/pdf"
_IMAGES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}
#: Shown as their letters, whatever they mean: a page of HTML is never shown as one.
_TEXT_ENDINGS: Final = (
    "txt md markdown rst csv tsv json jsonl ndjson yaml yml toml ini cfg log html htm xml sql py js ts c h sh"
)
_TEXTS: Final = frozenset(_TEXT_ENDINGS.split())
_OTHER: Final = "application/octet-stream"
#: As what documents are sent.
MEDIA_TYPES: Final = (_OTHER, _PDF, "text/plain", *sorted(set(_IMAGES.values())))
#: Nothing of a stranger's document runs with this server's rights. A viewer of PDF does not start where a sandbox holds it.
_HELD: Final = "sandbox; default-src 'none'; frame-ancestors 'none'"
_MAX_HEAD_BYTES: Final = 4 << 20
_FREE: Final = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def is_text(name: str) -> bool:
    """Whether a document of that name is shown as its letters."""
    return _ending(name) in _TEXTS


def media_type(name: str) -> str | None:
    """As what a document of that name is shown; None: it is saved. What its source called it is not believed."""
    ending = _ending(name)
    if ending == "pdf":
        return _PDF
    return "text/plain; charset=utf-8" if ending in _TEXTS else _IMAGES.get(ending)


def card(chunks: Iterable[bytes]) -> bytes:
    """What a reader is shown of a table of a database: what it holds, not its rows."""
    head = b""
    for chunk in chunks:
        head += chunk
        if b"\n" in chunk or len(head) > _MAX_HEAD_BYTES:
            break
    try:
        return str(orjson.loads(head.partition(b"\n")[0])["card"]).encode("utf-8", errors="replace")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return b""


def headers(document: SpaceDocument, num_bytes: int | None = None) -> dict[str, str]:
    """The headers under which its bytes are safe to open; `num_bytes` where what is sent is the card of a table."""
    kind = media_type(document.name) if num_bytes is None else "text/plain; charset=utf-8"
    name = quote(document.name.replace("\\", "/").rpartition("/")[2], safe="")
    how = "attachment" if kind is None else "inline"
    return {
        "content-type": kind or _OTHER,
        "content-length": str(document.num_bytes if num_bytes is None else num_bytes),
        "content-disposition": f"{how}; filename*=UTF-8''{name}",
        "content-security-policy": _FREE if kind == _PDF else _HELD,
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "private, no-store",
    }


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""
