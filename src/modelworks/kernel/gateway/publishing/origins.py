"""From which page a request comes, as far as its browser says it: `Origin`, else `Referer` (RFC 6454; RFC 9110, 10.1.3).

A page cannot write either; a program can. So this keeps foreign pages out, and rates and budgets keep programs within bounds.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from modelworks.contract.errors import PermissionDenied
from modelworks.kernel.dataspace.publications import origin_of


def page_origin(request: Request) -> str | None:
    """The origin of the page that asks; None where the request does not say it, or says one that is opaque (`null`)."""
    given = request.headers.get("origin")
    if given is None and (referer := request.headers.get("referer")):
        parts = urlsplit(referer)
        given = f"{parts.scheme}://{parts.netloc}"
    try:
        return None if given is None else origin_of(given)
    except ValueError:
        return None


def is_own(origin: str, request: Request, public_url: str | None) -> bool:
    """Whether this server's own pages have that origin: by the name that it was asked under, or by its public URL."""
    if public_url is not None and origin == _of_url(public_url):
        return True
    host = request.headers.get("host", "")
    # Which scheme the caller used is not known behind a proxy that ends TLS.
    return any(origin == _of_url(f"{scheme}://{host}") for scheme in ("http", "https"))


def refused(origin: str | None) -> PermissionDenied:
    """The refusal of a page that may not ask."""
    return PermissionDenied(
        "A page that does not say where it stands may not ask." if origin is None else f"Pages of {origin} may not ask here.",
        hint="The publication names the origins of the pages that may: `modelworks space publications`.",
        code="origin_not_allowed",
    )


def _of_url(url: str) -> str | None:
    parts = urlsplit(url)
    try:
        return origin_of(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        return None
