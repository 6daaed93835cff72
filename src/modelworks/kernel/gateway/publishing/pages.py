"""The chat as a page of this server, in a frame or by itself, and the script that puts a frame into other pages."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final, Literal

from starlette.responses import Response

#: What the pages load, by name.
ASSETS: Final = {"chat.js": "text/javascript; charset=utf-8", "chat.css": "text/css; charset=utf-8"}
_MINUTES: Final = "public, max-age=300"


@cache
def text_of(name: str) -> str:
    """A file of `pages/`."""
    return files(__package__).joinpath("pages", name).read_text("utf-8")


def asset(name: str) -> Response:
    """What a page loads; `name` is one of `ASSETS`."""
    return Response(text_of(name), headers={"content-type": ASSETS[name], "cache-control": _MINUTES})


def script() -> Response:
    """The script of other people's pages: the same for every publication, since it reads its own address."""
    headers = {
        "content-type": "text/javascript; charset=utf-8",
        "cache-control": _MINUTES,
        # Pages that isolate themselves load only what allows it.
        "cross-origin-resource-policy": "cross-origin",
    }
    return Response(text_of("embed.js"), headers=headers)


def chat(mode: Literal["frame", "share"], *, assets: str, ancestors: Sequence[str] = ()) -> Response:
    """The chat's page. It says nothing of the publication: whoever shows the token is told its title.

    Args:
        mode: frame: another page hands it the session; share: it begins one itself.
        assets: the way to them from the page's own address.
        ancestors: origins of the pages that may hold it.
    """
    nonce = secrets.token_urlsafe(16)
    policy = (
        "default-src 'none'",
        f"script-src 'nonce-{nonce}'",
        f"style-src 'nonce-{nonce}'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        # What is told is text: in browsers that know this, no script can make markup of it.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "frame-ancestors " + (" ".join(ancestors) or "'none'"),
    )
    page = text_of("chat.html")
    for name, value in (("nonce", nonce), ("mode", mode), ("assets", assets)):
        page = page.replace("{{" + name + "}}", value)
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "; ".join(policy),
        # Requests of the page itself name its origin.
        "referrer-policy": "same-origin",
        "cache-control": "no-store",
        "x-robots-tag": "noindex",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
    return Response(page, headers=headers)
