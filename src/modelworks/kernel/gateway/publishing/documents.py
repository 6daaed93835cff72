"""Documents that an answer cites, opened by a reader: shown where a browser shows them without running anything, else saved."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

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


def headers(document: SpaceDocument) -> dict[str, str]:
    """The headers under which its bytes are safe to open."""
    kind = media_type(document.name)
    name = quote(document.name.replace("\\", "/").rpartition("/")[2], safe="")
    how = "attachment" if kind is None else "inline"
    return {
        "content-type": kind or _OTHER,
        "content-length": str(document.num_bytes),
        "content-disposition": f"{how}; filename*=UTF-8''{name}",
        "content-security-policy": _FREE if kind == _PDF else _HELD,
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "private, no-store",
    }


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""
