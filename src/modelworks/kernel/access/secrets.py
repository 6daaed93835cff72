"""Secrets of projects, such as keys of servers elsewhere: sealed in the database with a key that is not in it.

AES-256-GCM (NIST SP 800-38D) with a random nonce; the project and the name are authenticated with it, so that a row
that is copied to another project or name does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import IntegrityFailed, InvalidRequest, NotFound
from modelworks.kernel.access.schemas import Secret
from modelworks.kernel.access.store import SecretRow
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES = 32
_NONCE_BYTES = 12


class Sealer:
    """Seals short texts.

    Args:
        keys: of 32 bytes each; the first one seals, every one opens, so that a new one can be put before the old.
    """

    def __init__(self, keys: list[bytes]) -> None:
        if not keys or any(len(key) != _KEY_BYTES for key in keys):
            raise ValueError("a sealing key has 32 bytes")
        self._keys = {_key_id(key): key for key in keys}
        self._first = _key_id(keys[0])

    @classmethod
    def from_file(cls, path: Path) -> Sealer:
        """The keys of a file, one in base64 per line, made with a fresh key (mode 0600) where there is none.

        Raises:
            InvalidRequest: the file holds something else (`invalid_secret_key`).
        """
        if not path.exists():
            descriptor, draft = tempfile.mkstemp(prefix=".secret-", dir=path.parent)  # mkstemp's mode is 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            # A link appears complete, and only the first of two processes makes it.
            with suppress(FileExistsError):
                os.link(draft, path)
            Path(draft).unlink()
        try:
            return cls([base64.b64decode(line, validate=True) for line in path.read_bytes().split()])
        except (ValueError, binascii.Error) as error:
            raise InvalidRequest(
                f"{path} does not hold sealing keys: {error}.",
                hint="It holds one key per line: 32 random bytes in base64. Restore it from a backup.",
                code="invalid_secret_key",
            ) from error

    def seal(self, text: str, context: str) -> str:
        """The sealed text: `v1:` key id `:` base64 of nonce and ciphertext. It opens with the same `context` only."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + _cipher(self._keys[self._first]).encrypt(nonce, text.encode(), context.encode())
        return f"v1:{self._first}:{base64.b64encode(sealed).decode()}"

    def open(self, sealed: str, context: str) -> str:
        """What was sealed.

        Raises:
            IntegrityFailed: it was changed, belongs elsewhere, or was sealed with a key that is not here.
        """
        version, _, rest = sealed.partition(":")
        key_id, _, data = rest.partition(":")
        if version != "v1" or key_id not in self._keys:
            raise IntegrityFailed(
                "A secret was sealed with a key that is not here.",
                hint="Put the key that it was sealed with back into the file of keys, or store the secret anew.",
                code="secret_unreadable",
            )
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.b64decode(data, validate=True)
            return _cipher(self._keys[key_id]).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode()).decode()
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise IntegrityFailed(
                "A stored secret was changed, or moved here from elsewhere.",
                hint="Store the secret anew, and find out who can write to the database.",
                code="secret_unreadable",
            ) from error


class SecretService:
    """The secrets of projects. Their values are given to the platform's own rooms, never to a client."""

    def __init__(self, db: Database, clock: Clock, sealer: Sealer) -> None:
        self.db = db
        self._clock = clock
        self._sealer = sealer

    def put(self, session: Session, project_id: str, name: str, value: str) -> Secret:
        """Store a secret, instead of the one that had the name."""
        now = self._clock.now()
        row = session.get(SecretRow, (project_id, name), with_for_update=True)
        if row is None:
            row = SecretRow(project_id=project_id, name=name, created_at=now)
            session.add(row)
        row.sealed = self._sealer.seal(value, _context(project_id, name))
        row.updated_at = now
        session.flush()
        return Secret.model_validate(row)

    def list_secrets(self, session: Session, project_id: str) -> list[Secret]:
        """Names and times, never values."""
        query = select(SecretRow).where(SecretRow.project_id == project_id).order_by(SecretRow.name)
        return [Secret.model_validate(row) for row in session.scalars(query)]

    def remove(self, session: Session, project_id: str, name: str) -> Secret:
        """Forget a secret; raises NotFound."""
        row = self._row(session, project_id, name)
        gone = Secret.model_validate(row)
        session.delete(row)
        session.flush()
        return gone

    def value(self, project_id: str, name: str) -> str:
        """The secret itself.

        Raises:
            NotFound: the project has none of this name (`secret_not_found`). IntegrityFailed: see `Sealer.open`.
        """
        with self.db.reading() as session:
            sealed = self._row(session, project_id, name).sealed
        return self._sealer.open(sealed, _context(project_id, name))

    def _row(self, session: Session, project_id: str, name: str) -> SecretRow:
        row = session.get(SecretRow, (project_id, name))
        if row is None:
            raise NotFound(
                f"The project has no secret {name!r}.", hint="Store it: modelworks secrets set.", code="secret_not_found"
            )
        return row


def _context(project_id: str, name: str) -> str:
    return f"{project_id}/{name}"


def _cipher(key: bytes) -> AESGCM:
    # Imported where something is sealed or opened: a server without secrets does not keep the library in memory.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:8]
