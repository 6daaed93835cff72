"""HTTP on the wire, for callers that may mean harm: uvicorn's parser with limits of time and size that it lacks.

The parser (llhttp, strict) refuses requests whose length can be read in two ways, as smuggling does (RFC 9112, 6.3, 11.2).
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: A whole request line with its headers, however slowly it comes.
HEAD_TIMEOUT_S: Final = 30.0
#: The longest silence within a body.
BODY_TIMEOUT_S: Final = 60.0
MAX_HEAD_BYTES: Final = 64 << 10


class GuardedProtocol(HttpToolsProtocol):
    """One connection. It is closed where a request's head or body does not come in time, or the head is too large."""

    head_timeout_s = HEAD_TIMEOUT_S
    body_timeout_s = BODY_TIMEOUT_S
    _timer: asyncio.TimerHandle | None = None
    _part: str = "head"  # what is being read: head, body, or nothing
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect("head", self.head_timeout_s)

    def data_received(self, data: bytes) -> None:
        if self._part == "nothing":
            # The next request on this connection begins. Its time runs from the first byte, not from the last one.
            self._expect("head", self.head_timeout_s)
        super().data_received(data)
        if self._part == "head":
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")
        elif self._part == "body":
            self._expect("body", self.body_timeout_s)

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._expect("body", self.body_timeout_s)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect("nothing", None)
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect("nothing", None)
        super().connection_lost(exc)

    def _expect(self, part: str, timeout_s: float | None) -> None:
        self._part = part
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if timeout_s is None else self.loop.call_later(timeout_s, self._too_slow)

    def _too_slow(self) -> None:
        # While the application waits for room to write or for a reader that is slow by design, nothing is being read.
        if self._part == "body" and not self.transport.is_reading():
            self._expect("body", self.body_timeout_s)
        elif not self.transport.is_closing():
            self.transport.close()
