"""Mail: a mailbox file, or folders on an IMAP server (RFC 9051). Each message and each attachment is a document."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import imaplib
import mailbox
import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast

from modelworks.contract.errors import (
    InvalidData,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    UpstreamFailed,
)
from modelworks.kernel.base import egress
from modelworks.kernel.dataspace.sources.folder import local_path
from modelworks.kernel.dataspace.sources.forms import ImapForm, MailboxForm
from modelworks.kernel.dataspace.sources.source import Item, Surroundings, attributes_of

_HEADERS = ("From", "To", "Cc", "Date", "Subject", "Message-ID", "In-Reply-To", "References")
_MAX_ATTACHMENTS = 200
_TIMEOUT_S = 60.0


class MailboxSource:
    """Messages of an mbox file, told apart by their Message-ID."""

    lists_all = True

    def __init__(self, form: MailboxForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings

    def scan(self) -> Iterator[Item]:
        place = self._place()
        with place.open("rb") as file:
            if file.read(5) not in (b"From ", b""):
                raise InvalidData(
                    f"{self._form.uri or 'The upload'} is not a mailbox: it does not begin with 'From '.",
                    hint="Export it as mbox.",
                )
        box = mailbox.mbox(place, factory=None, create=False)
        seen: set[str] = set()
        try:
            for number, place_of in enumerate(box.iterkeys(), 1):
                self._around.stop_if_cancelled()
                with cast(Any, box.get_file(place_of)) as file:
                    raw = file.read(self._around.limits.max_file_bytes + 1)
                if len(raw) > self._around.limits.max_file_bytes:
                    # Its own words say who it is; they come first.
                    error = _too_large(f"Message {number}", self._around)
                    yield Item(key=_key(raw[: 1 << 20]), name=f"message {number}", fingerprint="", fault=error)
                    continue
                key = _key(raw)
                if key not in seen:
                    seen.add(key)
                    yield from items_of(key, raw, attachments=self._form.attachments)
        finally:
            box.close()

    def _place(self) -> Path:
        if self._form.digest is not None:
            return self._around.upload(self._form.digest, "mbox")
        place = local_path(self._form.uri or "", self._around.policy)
        if not place.is_file():
            raise NotFound(f"The mailbox {place} does not exist on the server's machine.", hint="Check the path.", param="uri")
        return place


class ImapSource:
    """Messages of folders of an IMAP server, told apart by UID; folders are only examined, so nothing is marked as read."""

    lists_all = True

    def __init__(self, form: ImapForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings
        if surroundings.credential is None:
            raise InvalidRequest("An IMAP source needs a secret with the password.", hint="Name one.", param="secret")

    def scan(self) -> Iterator[Item]:
        with self._readable_failures():
            line = self._connect()
            try:
                self._sign_in(line)
                for name in self._form.mailboxes:
                    yield from self._mailbox(line, name)
            finally:
                line.shutdown()

    def _mailbox(self, line: imaplib.IMAP4, name: str) -> Iterator[Item]:
        status, said = line.select(_quoted(name), readonly=True)
        if status != "OK":
            raise NotFound(f"The mailbox has no folder {name!r}: {_said(said)}.", hint="Check its name.", param="mailboxes")
        validity = _said(line.response("UIDVALIDITY")[1])
        wanted = ["ALL"] if self._form.since is None else ["SINCE", _imap_date(self._form.since)]
        status, found = line.uid("SEARCH", *wanted)
        if status != "OK":
            raise UpstreamFailed(f"The server cannot search {name!r}: {_said(found)}.")
        known: dict[str, list[str]] = {}
        for key in self._around.known:
            known.setdefault(key.partition("#")[0], []).append(key)
        for uid in (found[0] or b"").decode("ascii", "replace").split():
            self._around.stop_if_cancelled()
            # A message under a UID never changes (RFC 9051, 2.3.1.1): one that is known is not asked for again.
            key = f"{name}/{validity}/{uid}"
            if key in known:
                yield from (Item(key=each, name=each, fingerprint=self._around.known[each]) for each in known[key])
            else:
                yield from self._message(line, key, uid)

    def _message(self, line: imaplib.IMAP4, key: str, uid: str) -> Iterator[Item]:
        size = re.search(rb"RFC822\.SIZE (\d+)", b" ".join(_parts(line.uid("FETCH", uid, "(RFC822.SIZE)")[1])))
        if size is not None and int(size[1]) > self._around.limits.max_file_bytes:
            yield Item(key=key, name=key, fingerprint="", fault=_too_large(f"The message {key}", self._around))
            return
        status, said = line.uid("FETCH", uid, "(BODY.PEEK[])")
        raw = next((part[1] for part in said if isinstance(part, tuple)), None)
        if status != "OK" or raw is None:
            return  # removed between the list and here
        yield from items_of(key, raw, attachments=self._form.attachments)

    def _connect(self) -> imaplib.IMAP4:
        form, allow = self._form, self._around.policy.egress_allow
        addresses = egress.check_host(form.host, form.port, allow)
        if not form.tls:
            try:
                egress.check_host(form.host, form.port)
            except PermissionDenied:
                return _Line(form.host, form.port, addresses, None)
            raise PermissionDenied(
                "Mail and its password would go unencrypted over the public network.", hint="Leave tls on.", param="tls"
            )
        return _Line(form.host, form.port, addresses, ssl.create_default_context())

    def _sign_in(self, line: imaplib.IMAP4) -> None:
        try:
            line.login(self._form.user, (self._around.credential or "").strip("\r\n"))
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error:
            raise PermissionDenied(
                f"{self._form.host} refuses the user {self._form.user!r} with that password.",
                hint="Store the password anew; many providers want one made for programs.",
                param="secret",
            ) from None  # what the server said may repeat the password

    @contextmanager
    def _readable_failures(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLError as error:
            raise UpstreamFailed(
                f"{self._form.host} offers no trusted encryption: {error.reason}.", hint="Check host and port."
            ) from error
        except (OSError, imaplib.IMAP4.error) as error:
            raise UpstreamFailed(f"The mail server {self._form.host} broke off: {error}.", hint="Try again later.") from error


class _Line(imaplib.IMAP4):
    """A connection to an address that was checked, under the server's own name in TLS."""

    def __init__(self, host: str, port: int, addresses: Iterable[str], context: ssl.SSLContext | None) -> None:
        self._addresses = tuple(addresses)
        self._context = context
        super().__init__(host, port, timeout=_TIMEOUT_S)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        failure: OSError | None = None
        for address in self._addresses:
            try:
                made = socket.create_connection((address, self.port), timeout)
            except OSError as error:
                failure = error
                continue
            return made if self._context is None else self._context.wrap_socket(made, server_hostname=self.host)
        raise failure or OSError("no address")


def items_of(key: str, raw: bytes, *, attachments: bool) -> Iterator[Item]:
    """A message without its attachments, and each attachment that has a name or is a message.

    A message that is not well formed is read as far as it goes: that is what mail is like.
    """
    message = email.message_from_bytes(raw, policy=email.policy.default)
    subject = _header(message, "Subject") or "(no subject)"
    told = attributes_of(
        {
            "from": _header(message, "From"),
            "to": _header(message, "To"),
            "subject": subject,
            "date": _day(message),
            "message_id": _header(message, "Message-ID"),
        }
    )
    bodies, attached = _divided(message)
    yield _content_item(key, subject, _rebuilt(message, bodies), "message/rfc822", told)
    if not attachments:
        return
    for number, part in enumerate(attached[:_MAX_ATTACHMENTS], 1):
        content = _payload(part)
        if content:
            name = (part.get_filename() or f"attachment-{number}").replace("/", "_").replace("\\", "_")
            yield _content_item(f"{key}#{number}", f"{subject} / {name}", content, part.get_content_type(), told)


def _divided(message: EmailMessage) -> tuple[list[EmailMessage], list[EmailMessage]]:
    bodies: list[EmailMessage] = []
    attached: list[EmailMessage] = []
    waiting = [message]
    while waiting:
        part = waiting.pop(0)
        if part.get_content_maintype() == "multipart":
            waiting[:0] = [each for each in part.get_payload() if isinstance(each, EmailMessage)] if part.is_multipart() else []
        elif part.get_content_type() == "message/rfc822":
            attached.append(part)
        elif (
            part.get_content_maintype() == "text" and part.get_content_disposition() != "attachment" and not part.get_filename()
        ):
            bodies.append(part)
        elif part.get_content_disposition() == "attachment" or part.get_filename():
            attached.append(part)
    return bodies, attached


def _rebuilt(message: EmailMessage, bodies: list[EmailMessage]) -> bytes:
    """The message with its words alone; the same message always gives the same bytes."""
    plain = [part for part in bodies if part.get_content_type() == "text/plain"]
    chosen = plain or bodies
    subtype = "plain" if plain or not bodies else chosen[0].get_content_subtype()
    text = "\n\n".join(_text(part) for part in chosen if part.get_content_subtype() == subtype)
    made = EmailMessage(policy=email.policy.SMTP)
    for name in _HEADERS:
        value = _header(message, name)
        if value:
            made[name] = value
    made.set_content(text, subtype=subtype, charset="utf-8", cte="base64" if _is_long(text) else None)
    return made.as_bytes()


def _is_long(text: str) -> bool:
    return any(len(line) > 900 for line in text.splitlines())


def _text(part: EmailMessage) -> str:
    content = _payload(part)
    try:
        return content.decode(part.get_content_charset() or "utf-8", errors="replace").replace("\r\n", "\n")
    except LookupError:
        return content.decode("utf-8", errors="replace").replace("\r\n", "\n")


def _payload(part: EmailMessage) -> bytes:
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload()
        first = inner[0] if isinstance(inner, list) and inner else None
        return first.as_bytes(policy=email.policy.SMTP) if isinstance(first, EmailMessage) else b""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _header(message: EmailMessage, name: str) -> str | None:
    try:
        value = message.get(name)
    except (ValueError, IndexError, AttributeError, TypeError):
        return None  # the parser of headers stumbles over what nobody should have sent
    text = "".join(char if char.isprintable() else " " for char in str(value or ""))
    return " ".join(text.split())[:2000] or None


def _day(message: EmailMessage) -> str | None:
    try:
        return parsedate_to_datetime(_header(message, "Date") or "").date().isoformat()
    except (ValueError, TypeError):
        return None


def _key(raw: bytes) -> str:
    head = raw.partition(b"\n\n")[0].partition(b"\r\n\r\n")[0]
    named = re.search(rb"(?im)^message-id:\s*(<[^>\s]{1,300}>)", head)
    return named[1].decode("ascii", "replace") if named else f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _content_item(key: str, name: str, content: bytes, media_type: str, attributes: dict[str, Any]) -> Item:
    return Item(
        key=key,
        name=name,
        fingerprint=hashlib.sha256(content).hexdigest(),
        read=lambda: iter((content,)),
        num_bytes=len(content),
        media_type=media_type,
        attributes=attributes,
    )


def _too_large(what: str, around: Surroundings) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"{what} has more than {around.limits.max_file_bytes} bytes.", hint="Raise limits.max_file_bytes, if it is wanted."
    )


def _parts(said: Iterable[Any]) -> Iterator[bytes]:
    for part in said:
        if isinstance(part, tuple):
            yield from (each for each in part if isinstance(each, bytes))
        elif isinstance(part, bytes):
            yield part


def _said(said: Any) -> str:
    return b" ".join(_parts(said or ())).decode("utf-8", "replace")[:200]


def _quoted(name: str) -> str:
    """A folder's name as it goes over the line: modified UTF-7 (RFC 3501, 5.1.3), in quotes."""
    if any(char in name for char in '\r\n\0"\\'):
        raise InvalidRequest(f"{name!r} is no folder's name.", param="mailboxes")

    def encoded(match: re.Match[str]) -> str:
        text = base64.b64encode(match[0].encode("utf-16-be")).decode().rstrip("=")
        return f"&{text.replace('/', ',')}-"

    return '"' + re.sub(r"[^\x20-\x7e]+", encoded, name.replace("&", "&-")) + '"'


def _imap_date(day: str) -> str:
    try:
        found = date.fromisoformat(day)
    except ValueError as error:
        raise InvalidRequest(f"{day!r} is no day.", hint="Write YYYY-MM-DD.", param="since") from error
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[found.month - 1]
    return f"{found.day}-{month}-{found.year}"
