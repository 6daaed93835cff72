"""The key by which this server signs reports: Ed25519 (RFC 8032), so that others verify what they cannot sign."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.contract.errors import InvalidRequest
from modelworks.proof import ALGORITHM, covered

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_KEY_BYTES = 32


class ReportSigner:
    """Signs reports with the key in a file, which is made (mode 0600) at the first signature.

    Args:
        path: of the private key, 32 bytes. Whoever can read it can sign; a copy belongs into the backup.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: Ed25519PrivateKey | None = None

    @property
    def public_key(self) -> str:
        """The public key, 32 bytes in hexadecimal."""
        return self._private().public_key().public_bytes_raw().hex()

    def signed(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """The report with its signature; it says the public key, too, which must be compared with the one that is known.

        Raises:
            InvalidRequest: the file does not hold a key (`invalid_report_key`).
        """
        value = self._private().sign(covered(report)).hex()
        return {**report, "signature": {"algorithm": ALGORITHM, "public_key": self.public_key, "value": value}}

    def _private(self) -> Ed25519PrivateKey:
        if self._key is None:
            # Brought in at the first use: most servers never sign.
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            if not self._path.exists():
                self._make(Ed25519PrivateKey.generate().private_bytes_raw())
            raw = self._path.read_bytes()
            if len(raw) != _KEY_BYTES:
                raise InvalidRequest(
                    f"{self._path} does not hold the key that reports are signed with.",
                    hint="It holds 32 bytes. Restore it from a backup.",
                    code="invalid_report_key",
                )
            self._key = Ed25519PrivateKey.from_private_bytes(raw)
        return self._key

    def _make(self, raw: bytes) -> None:
        descriptor, draft = tempfile.mkstemp(prefix=".report-", dir=self._path.parent)  # mkstemp's mode is 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        # A link appears complete, and only the first of two processes makes it.
        with suppress(FileExistsError):
            os.link(draft, self._path)
        Path(draft).unlink()
