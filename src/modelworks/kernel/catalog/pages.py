"""`/pages`: the files that capabilities bring for browsers, under one policy."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from modelworks.contract.errors import NotFound
from modelworks.kernel.catalog import discovery
from modelworks.kernel.catalog.schemas import Page

#: What is given out, by the end of its name.
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
#: Of every page: nothing inline, nothing of other origins, no markup made of text.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    # Asked again each time, by its digest: what is installed shows at once.
    "cache-control": "no-cache",
}
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file.",
        "content": {kind.partition(";")[0]: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()},
    },
    304: {"description": "`If-None-Match` names what is there."},
}


class CapabilityPage(BaseModel):
    """A page that a capability brings."""

    object: str = "capability.page"
    capability: str
    summary: str
    url: str = Field(description="Where it begins, on this server.")


def router() -> APIRouter:
    """Routes under `/pages`. They take no key: the files hold no data, which pages fetch as their reader."""
    routes = APIRouter(prefix="/pages", tags=["pages"])

    @routes.get("")
    def list_pages() -> Page[CapabilityPage]:
        """Pages that the installed capabilities bring."""
        known = discovery.capabilities()
        return Page[CapabilityPage](
            data=[
                CapabilityPage(capability=name, summary=known[name].summary, url=f"/pages/{name}/")
                for name in sorted(known)
                if known[name].page is not None
            ]
        )

    @routes.get("/{capability}", status_code=307, response_class=RedirectResponse)
    def enter_page(capability: str) -> Response:
        """To where a capability's page begins."""
        find(capability, "index.html")
        # Relative, so that it holds behind a proxy that serves this server below a path.
        return RedirectResponse(f"{capability}/", status_code=307)

    @routes.get("/{capability}/{path:path}", response_class=Response, responses=_FILE)
    def page_file(capability: str, path: str, request: Request) -> Response:
        """A file of a capability's page; without a path, the page."""
        return given(request, *find(capability, path or "index.html"))

    return routes


def given(request: Request, data: bytes, media_type: str) -> Response:
    """A file of a page under the policy of all; 304 where the browser has it."""
    headers = {**_HEADERS, "etag": f'"{hashlib.sha256(data).hexdigest()}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


def find(capability: str, path: str) -> tuple[bytes, str]:
    """The bytes of a page's file, and its media type.

    Raises:
        NotFound: no capability of that name brings a page (code `page_not_found`), or the page has no such file
            (`page_file_not_found`): names that lead out of the folder, and kinds that are not given out, are none.
    """
    declared = discovery.capabilities().get(capability)
    if declared is None or declared.page is None:
        raise NotFound(
            f"There is no page of a capability {capability[:80]!r}.", hint="GET /pages lists them.", code="page_not_found"
        )
    parts = path.split("/")
    media_type = MEDIA_TYPES.get(Path(parts[-1]).suffix)
    folder = resources.files(declared.package).joinpath(declared.page)
    file = folder.joinpath(*parts) if all(map(_SEGMENT.fullmatch, parts)) else None
    is_inside = not isinstance(file, Path) or not isinstance(folder, Path) or file.resolve().is_relative_to(folder.resolve())
    if media_type is None or file is None or not is_inside or not file.is_file():
        raise NotFound(
            f"The page of {capability!r} has no file {path[:200]!r}.",
            hint=f"It begins at /pages/{capability}/.",
            code="page_file_not_found",
        )
    return file.read_bytes(), media_type
