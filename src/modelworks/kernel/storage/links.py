"""Signed links: an address that works without a key until it expires."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from modelworks.contract.errors import PermissionDenied


class LinkSigner:
    """Signs method, path and expiry with HMAC-SHA256.

    Args:
        secret: at least 16 bytes; whoever knows it can sign.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("the secret for signed links is shorter than 16 bytes")
        self._secret = secret

    @classmethod
    def from_home(cls, home: Path) -> LinkSigner:
        """The signer whose secret lies in `home/link.secret` (mode 0600), made at the first call."""
        path = home / "link.secret"
        if not path.exists():
            descriptor, draft = tempfile.mkstemp(prefix=".link-", dir=home)  # mkstemp's mode is 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
            # A link appears complete, and only the first of two processes makes it.
            with suppress(FileExistsError):
                os.link(draft, path)
            Path(draft).unlink()
        return cls(path.read_bytes())

    def sign(self, method: str, path: str, expires_at: datetime) -> str:
        """The path with `expires` and `signature` as its query."""
        expires = int(expires_at.timestamp())
        return f"{path}?expires={expires}&signature={self._signature(method, path, expires)}"

    def verify(self, method: str, path: str, expires: str | None, signature: str | None, now: datetime) -> None:
        """Raise PermissionDenied unless the link was signed here for this method and path and has not expired.

        A link for GET also serves HEAD.
        """
        signed_for = "GET" if method == "HEAD" else method
        seconds = int(expires) if expires and expires.isascii() and expires.isdigit() and len(expires) < 12 else -1
        expected = self._signature(signed_for, path, seconds)
        if not hmac.compare_digest(expected.encode(), (signature or "").encode("utf-8", "replace")):
            raise PermissionDenied(
                "The signature of this link is not valid.",
                hint="Ask for a new link, and use it unchanged.",
                code="invalid_link",
            )
        if now.timestamp() >= seconds:
            raise PermissionDenied(
                f"This link expired at {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC.",
                hint="Ask for a new link.",
                code="expired_link",
            )

    def _signature(self, method: str, path: str, expires: int) -> str:
        message = f"{method}\n{path}\n{expires}".encode()
        return base64.urlsafe_b64encode(hmac.digest(self._secret, message, hashlib.sha256)).rstrip(b"=").decode()
