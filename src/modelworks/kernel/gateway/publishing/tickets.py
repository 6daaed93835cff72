"""What a page is handed and hands back: signed by this server, for one purpose, until a moment. Nothing is kept for it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal

from modelworks.contract.errors import AuthenticationFailed, PermissionDenied
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.storage import LinkSigner

#: What a ticket is for; one for another purpose has another signature.
Purpose = Literal["EMBED-SESSION", "EMBED-ANSWER"]
SESSION_LIFE: Final = timedelta(minutes=15)
#: How long an answer can be commented on, and its documents opened.
ANSWER_LIFE: Final = timedelta(hours=12)
_PREFIX: Final = "mwe_"


class Tickets:
    """Issues and reads them."""

    def __init__(self, signer: LinkSigner, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock

    def issue(self, purpose: Purpose, parts: Sequence[str], life: timedelta) -> str:
        """`mwe_<parts>.<expires>.<signature>`; the parts can be read by whoever has it."""
        path = "~".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)
        link = self._signer.sign(purpose, path, self._clock.now() + life)
        expires, _, signature = link[len(path) + len("?expires=") :].partition("&signature=")
        return f"{_PREFIX}{path}.{expires}.{signature}"

    def read(self, purpose: Purpose, ticket: str) -> list[str]:
        """The parts of a ticket that was issued here for this purpose and has not expired.

        Raises:
            AuthenticationFailed: it is another one, or over (`session_ended`): the page asks for a new one.
        """
        path, _, rest = ticket.removeprefix(_PREFIX).partition(".")
        expires, _, signature = rest.partition(".")
        if not ticket.startswith(_PREFIX):
            raise _ended()
        try:
            self._signer.verify(purpose, path, expires, signature, self._clock.now())
            return [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode() for part in path.split("~")]
        except (PermissionDenied, ValueError) as error:
            raise _ended() from error

    def link(self, path: str, life: timedelta) -> str:
        """A path that may be opened without a key until its time is over."""
        return self._signer.sign("GET", path, self._clock.now() + life)

    def check_link(self, path: str, expires: str | None, signature: str | None) -> None:
        """Raise PermissionDenied (`invalid_link`, `expired_link`) unless `link` gave it."""
        self._signer.verify("GET", path, expires, signature, self._clock.now())


def _ended() -> AuthenticationFailed:
    return AuthenticationFailed(
        "The session of this page has ended.", hint="Begin a new one: POST /embed/{publication}/session.", code="session_ended"
    )
