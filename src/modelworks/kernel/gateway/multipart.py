"""`multipart/form-data` (RFC 7578) read as it arrives: nothing is collected that could be large."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from urllib.parse import unquote

from modelworks.contract.errors import InvalidRequest

#: Headers of one part together.
_MAX_HEADER_BYTES = 16 << 10
_MAX_PADDING_BYTES = 1 << 10
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,200}")


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A field begins; a file has a `filename`."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    """More bytes of the field that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The field that began last is complete."""


Piece = PartBegin | PartData | PartEnd


def is_form(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request with these headers brings a form."""
    return any(name == b"content-type" and value.lower().startswith(b"multipart/form-data") for name, value in headers)


def boundary_of(content_type: str | None) -> bytes:
    """The boundary that a Content-Type header names.

    Raises:
        InvalidRequest: it is another type, or it has no boundary.
    """
    message = Message()
    message["content-type"] = content_type or ""
    boundary = message.get_param("boundary")
    if (
        message.get_content_type() != "multipart/form-data"
        or not isinstance(boundary, str)
        or not _BOUNDARY.fullmatch(boundary)
    ):
        raise InvalidRequest(
            "The request body is not multipart/form-data with a boundary.",
            hint="Send a form: curl -F purpose=fine-tune -F file=@data.jsonl.",
            code="invalid_form",
        )
    return boundary.encode("ascii")


class MultipartReader:
    """`feed` it the body in pieces of any size; it hands out what they complete. `close` when there are no more."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # The first delimiter has no line break before it.
        self._waiting = b"\r\n"
        self._step = self._preamble
        self._is_over = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """What these bytes complete.

        Raises:
            InvalidRequest: this is no multipart form (code `invalid_form`).
        """
        self._waiting += data
        while True:
            pieces, is_stuck = self._step()
            yield from pieces
            if is_stuck:
                return

    def close(self) -> None:
        """Raise InvalidRequest unless the form is complete."""
        if not self._is_over:
            raise _malformed("it ends in the middle of a field")

    # Each step returns what it found and whether it needs more bytes before the next one.

    def _preamble(self) -> tuple[list[Piece], bool]:
        at = self._waiting.find(self._delimiter)
        if at < 0:
            self._waiting = self._waiting[-len(self._delimiter) :]
            return [], True
        self._waiting = self._waiting[at + len(self._delimiter) :]
        self._step = self._after_delimiter
        return [], False

    def _after_delimiter(self) -> tuple[list[Piece], bool]:
        if len(self._waiting) < 2:
            return [], True
        if self._waiting.startswith(b"--"):
            self._is_over = True
            self._step = self._epilogue
            return [], False
        end = self._waiting.find(b"\r\n")
        if end < 0 and len(self._waiting) <= _MAX_PADDING_BYTES:
            return [], True
        if end < 0 or self._waiting[:end].strip(b" \t"):
            raise _malformed("the boundary is followed by other text")
        # The line break stays: a part without headers is then found like any other.
        self._waiting = self._waiting[end:]
        self._step = self._headers
        return [], False

    def _headers(self) -> tuple[list[Piece], bool]:
        end = self._waiting.find(b"\r\n\r\n")
        if end < 0 and len(self._waiting) <= _MAX_HEADER_BYTES:
            return [], True
        if end < 0 or end > _MAX_HEADER_BYTES:
            raise _malformed("the headers of a field are too long")
        lines = self._waiting[2:end]
        # The body's own line break may be the one that begins the next delimiter.
        self._waiting = self._waiting[end + 4 :]
        self._step = self._body
        return [_begin(lines)], False

    def _body(self) -> tuple[list[Piece], bool]:
        at = self._waiting.find(self._delimiter)
        if at < 0:
            keep = len(self._delimiter) - 1
            done, self._waiting = self._waiting[:-keep], self._waiting[-keep:]
            return [PartData(done)] if done else [], True
        done, self._waiting = self._waiting[:at], self._waiting[at + len(self._delimiter) :]
        self._step = self._after_delimiter
        return [*([PartData(done)] if done else []), PartEnd()], False

    def _epilogue(self) -> tuple[list[Piece], bool]:
        self._waiting = b""
        return [], True


def _begin(lines: bytes) -> PartBegin:
    message = Message()
    for line in lines.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            message[name.strip()] = value.strip()
    given = message.get_param("name", header="content-disposition")
    if not isinstance(given, str):
        raise _malformed("a field has no name")
    extended = message.get_param("filename*", header="content-disposition")
    filename = message.get_param("filename", header="content-disposition")
    if isinstance(extended, str):
        filename = unquote(extended.rpartition("'")[2])
    elif isinstance(filename, tuple):
        filename = unquote(filename[2])
    return PartBegin(given, filename)


def _malformed(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The form cannot be read: {what}.", hint="Send multipart/form-data as RFC 7578 says.", code="invalid_form"
    )
