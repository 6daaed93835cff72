"""Messages and boxes of them: who wrote to whom, when, about what, and the text; attachments are named."""

from __future__ import annotations

import email
import email.message
import email.policy
import re
from collections.abc import Iterator
from email.header import decode_header, make_header

from modelworks.capabilities.document.blocks import Block, Parsed, Refused, Source
from modelworks.capabilities.document.formats.html import blocks_of_html, parse_html
from modelworks.capabilities.document.formats.text import blocks_of_text
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES, decode, truncated

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_BOUNDARY = re.compile(rb"^From [^\n]*\n(?=[A-Za-z-]+:)", re.MULTILINE)
_MAX_PARTS = 200
_MAX_MESSAGES = 100_000
_QUOTED = re.compile(r"^(?:>[^\n]*\n?){3,}", re.MULTILINE)


def read(source: Source, pages: Pages) -> Parsed:
    """One message."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["eml"])
    message = _parse(_bytes(source, parsed))
    parsed.title = _header(message, "Subject") or None
    parsed.blocks = list(_blocks(message))
    return parsed


def read_box(source: Source, pages: Pages) -> Parsed:
    """All messages of a box, each under its subject."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["mbox"])
    parsed.blocks = _box(_bytes(source, parsed))
    return parsed


def _bytes(source: Source, parsed: Parsed) -> bytes:
    limit = min(source.request.max_document_bytes, source.request.max_document_chars * 8)
    data = source.path.read_bytes()
    if len(data) > limit:
        parsed.faults.append(truncated(source.request.max_document_chars))
    return data[:limit]


def _box(data: bytes) -> Iterator[Block]:
    data = data.replace(b"\r\n", b"\n")
    starts = [found.start() for found in _BOUNDARY.finditer(data)][:_MAX_MESSAGES] or [0]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        message = data[start:end].partition(b"\n")[2] if data[start:].startswith(b"From ") else data[start:end]
        yield from _blocks(_parse(message.replace(b"\n>From ", b"\nFrom ")))


def _parse(data: bytes) -> email.message.Message:
    try:
        return email.message_from_bytes(data, policy=email.policy.compat32)
    except (ValueError, LookupError, RecursionError) as error:
        raise Refused("corrupt", f"The message is damaged: {error}.", "Save it again from the mail program.") from error


def _header(message: email.message.Message, name: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    try:
        said = str(make_header(decode_header(str(value))))
    except (ValueError, LookupError, UnicodeError):
        said = str(value)
    return " ".join(said.split())


def _blocks(message: email.message.Message) -> Iterator[Block]:
    subject = _header(message, "Subject")
    yield Block("heading", subject or "(no subject)", level=1)
    shown = [f"{name}: {said}" for name in _SHOWN if (said := _header(message, name))]
    yield Block("text", "\n".join(shown))
    plain: list[str] = []
    pages: list[str] = []
    attached: list[str] = []
    for number, part in enumerate(message.walk()):
        if number >= _MAX_PARTS:
            break
        if part.is_multipart():
            continue
        name = part.get_filename()
        kind = part.get_content_type()
        if name or part.get_content_disposition() == "attachment" or kind not in ("text/plain", "text/html"):
            if name:
                attached.append(" ".join(str(make_header(decode_header(name))).split()) if "=?" in name else name)
            continue
        (plain if kind == "text/plain" else pages).append(_content(part))
    text = "\n\n".join(plain).strip()
    if text or not pages:
        for block in blocks_of_text(_QUOTED.sub("", text) or text):
            block.lines = None
            yield block
    else:
        for page in pages:
            for block in blocks_of_html(parse_html(page), whole=True):
                # Headings inside of a message stand under its subject.
                block.level += block.kind == "heading"
                yield block
    if attached:
        yield Block("text", "Attachments: " + ", ".join(attached))


def _content(part: email.message.Message) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return str(part.get_payload() or "")
    charset = part.get_content_charset()
    try:
        return data.decode({"gb2312": "gb18030", "gbk": "gb18030"}.get(charset or "", charset or "utf-8"))
    except (LookupError, UnicodeDecodeError):
        return decode(data)[0]
